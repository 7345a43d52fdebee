"""`vad-train data unflip`: turns frames that stand on their head back again.

Some benchmarks flip a part of their test frames. A fixed camera's background tells which: a frame
that looks more like the background upside down than like the background was flipped.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts import ClipSpec, SourceError
from vad_runtime.sources import Pixels, open_source
from vad_runtime.sources.prefetch import Prefetch
from vad_training.data.tools.rewrite import rewrite

SIDE = 32
"""Rows and columns of the small grey pictures that are compared."""
BACKGROUND_FRAMES = 301
"""The background is the median of at most so many frames, spread evenly: no chance in it."""
LIKE_ITSELF = 0.95
"""A background that correlates this much with itself upside down tells nothing."""


@dataclass(frozen=True, kw_only=True)
class Unflipped:
    """What was found in one video."""

    flipped: npt.NDArray[np.bool_]
    """Shape (frames,), True where the frame stands on its head."""
    notes: list[str]
    """Lines about what is not in the film that was written; empty if none was."""


def flipped_frames(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Say which frames of a fixed camera are flipped vertically.

    The background is the median over frames; each frame is compared with it and with its mirror
    image by Pearson's correlation. Fewer than half of the frames may be flipped.

    Args:
        pictures: Shape (frames, rows, columns), uint8, grey.

    Returns:
        Shape (frames,), owned by the caller.

    Raises:
        ValueError: The background looks the same upside down, or is one flat colour.
    """
    places = np.linspace(0, len(pictures) - 1, min(len(pictures), BACKGROUND_FRAMES))
    background = np.median(pictures[places.round().astype(int)], axis=0)
    upright, turned = _standardised(background), _standardised(background[::-1])
    if not upright.any():
        raise ValueError("its background is one flat colour")
    alike = float((upright * turned).sum())
    if alike > LIKE_ITSELF:
        raise ValueError(f"its background looks the same upside down (correlation {alike:.2f})")
    # The picture's own mean and spread do not change which correlation is the larger.
    flat = pictures.reshape(len(pictures), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    result: npt.NDArray[np.bool_] = flat @ turned.ravel() > flat @ upright.ravel()
    return result


def unflip(source: Path, target: Path | None, *, fps: float | None = None) -> Unflipped:
    """Find the flipped frames of a video or folder of frames, and write it with them turned back.

    Args:
        source: Video file or folder of images, from a fixed camera.
        target: The mp4 to write, also if no frame was flipped; None = only look.
        fps: Frame rate of a folder of frames, frames a second; None = 25.

    Raises:
        SourceError: The source cannot be read, or its background does not tell up from down.
        InputError: The target cannot be written.
    """
    small = ClipSpec(frames=1, height=SIDE, width=SIDE, colour="gray")
    opened = open_source(source, small, fps=fps, pictures=False)
    pictures = np.stack([frame.pixels[:, :, 0].copy() for frame in Prefetch(opened)])
    try:
        flipped = flipped_frames(pictures)
    except ValueError as error:
        raise SourceError(
            f"{source}: {error}, so flipped frames cannot be told. Leave it as it is."
        ) from None
    if target is None:
        return Unflipped(flipped=flipped, notes=[])
    order = iter(flipped.tolist())

    def turn_back(picture: Pixels) -> Pixels:
        return np.ascontiguousarray(picture[::-1]) if next(order) else picture

    return Unflipped(flipped=flipped, notes=rewrite(source, target, turn_back, fps=fps).notes)


def _standardised(picture: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the picture with mean 0 and length 1; all zeros if it is flat."""
    centred = picture - picture.mean()
    length = float(np.sqrt((centred * centred).sum()))
    scaled: npt.NDArray[np.float64] = centred / length if length else centred
    return scaled
