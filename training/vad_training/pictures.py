"""What an STAE sees, remakes and expects: rows of pictures."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from vad_runtime.contracts import ClipSpec, SourceError
from vad_runtime.files import whole_file
from vad_training.data.clips import clips_of
from vad_training.models.stae import STAE

Pictures = npt.NDArray[np.float32]
SHOWN = 8
"""Frames of a clip that are drawn, spread evenly."""


@dataclass(frozen=True, kw_only=True)
class ClipPictures:
    """One clip and what the model makes of it; each array of shape (T, H, W), grey in 0..1."""

    indices: list[int]
    """Source frames of `clip`."""
    clip: Pictures
    reconstruction: Pictures
    future: Pictures
    """The T frames that followed."""
    prediction: Pictures

    @property
    def errors(self) -> tuple[float, float]:
        """Squared error of reconstruction and of prediction, summed over pixels, mean a frame."""
        return _error(self.clip, self.reconstruction), _error(self.future, self.prediction)


def clip_pictures(
    model: STAE, spec: ClipSpec, offset: int, video: Path, *, count: int = 3
) -> list[ClipPictures]:
    """Run the model on a video and keep its best and its worst moments.

    Args:
        model: On the CPU, in eval mode.
        spec: The model's own clip.
        offset: Clip frames from a clip's start to the start of what the model predicts.
        video: A video or folder of frames.
        count: How many clips: the one with the largest error, the one with the smallest, and
            others evenly between them by rank.

    Returns:
        Sorted by error, the largest first.

    Raises:
        SourceError: The video cannot be read or holds no clip with its future.
    """
    frames = spec.frames
    # One long window holds the clip and what follows it, and spans no hole.
    window = msgspec.structs.replace(spec, frames=frames + offset)
    errors, places = [], []
    for place, (_, pixels) in enumerate(clips_of(video, window)):
        made = _pictures(model, pixels, frames, offset, [])
        errors.append(sum(made.errors))
        places.append(place)
    if not errors:
        raise SourceError(
            f"{video} holds no {window.span} good frames in a row, which a clip and its future "
            "need. Give a longer video."
        )
    ranked = np.argsort(errors)[::-1]
    rank = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
    wanted = {int(ranked[i]) for i in rank}
    # Read again instead of keeping every picture: a long video would fill the memory.
    kept = [
        _pictures(model, pixels, frames, offset, indices[:frames])
        for place, (indices, pixels) in enumerate(clips_of(video, window))
        if place in wanted
    ]
    return sorted(kept, key=lambda made: -sum(made.errors))


def save_picture_rows(path: Path, made: ClipPictures, *, title: str) -> None:
    """Draw input, reconstruction, true future, predicted future and their differences.

    Args:
        path: The PNG; appears whole or not at all.
        made: One clip.
        title: Above the picture.

    Raises:
        InputError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = np.linspace(0, len(made.clip) - 1, min(SHOWN, len(made.clip))).round().astype(int)
    differences = (
        np.abs(made.clip - made.reconstruction),
        np.abs(made.future - made.prediction),
    )
    rows = (
        ("input", made.clip),
        ("reconstruction", made.reconstruction),
        ("difference", differences[0]),
        ("true future", made.future),
        ("predicted future", made.prediction),
        ("difference", differences[1]),
    )
    # One scale for both differences, so that they can be compared.
    most = max(float(differences[0].max()), float(differences[1].max()), 1e-6)
    aspect = made.clip.shape[1] / made.clip.shape[2]
    figure = Figure(
        figsize=(1.3 * len(steps) + 1.6, 1.3 * aspect * len(rows) + 0.9),
        dpi=110,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(steps), squeeze=False)
    for (name, pictures), line in zip(rows, axes, strict=True):
        error = name == "difference"
        for step, cell in zip(steps.tolist(), line, strict=True):
            cell.imshow(
                pictures[step],
                cmap="magma" if error else "gray",
                vmin=0,
                vmax=most if error else 1,
            )
            cell.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    for step, cell in zip(steps.tolist(), axes[0], strict=True):
        cell.set_title(f"+{step}", fontsize=9)
    reconstruction, prediction = made.errors
    figure.suptitle(
        f"{title}\nsquared error a frame: reconstruction {reconstruction:.1f}, "
        f"prediction {prediction:.1f}; differences up to {most:.2f} of white",
        fontsize=11,
        parse_math=False,
    )
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _pictures(
    model: STAE, pixels: npt.NDArray[np.uint8], frames: int, offset: int, indices: list[int]
) -> ClipPictures:
    grey = pixels[..., 0].astype(np.float32) / np.float32(255)
    clip, future = grey[:frames], grey[offset : offset + frames]
    with torch.inference_mode():
        reconstruction, prediction = model(torch.from_numpy(clip)[None, None])
    return ClipPictures(
        indices=indices,
        clip=clip,
        reconstruction=reconstruction[0, 0].numpy(),
        future=future,
        prediction=prediction[0, 0].numpy(),
    )


def _error(truth: Pictures, guess: Pictures) -> float:
    return float(np.square(truth - guess).sum(axis=(1, 2)).mean())
