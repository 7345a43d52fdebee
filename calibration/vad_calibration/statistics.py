"""Cheap statistics of one clip, and a small picture of it for people."""

from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

MOVING = 12
"""A pixel moves when it changes by so many grey levels from one clip frame to the next. Below lie
the noise of sensors and of video compression."""

THUMBNAIL = 64
"""Longest side of a thumbnail, pixels."""

MOTION_SCALE = 8
"""Steps of a thumbnail's motion picture for one grey level, so that faint motion is not lost."""


class ClipStatistics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What makes one clip unlike another, as far as it can be had for nothing.

    Grey levels are ITU-R BT.601 luma, 0 to 255.
    """

    brightness: float
    """Mean of all pixels, grey levels."""

    contrast: float
    """Standard deviation of the pixels of a frame, grey levels; mean of the frames."""

    motion: float
    """Mean |difference| of a pixel from one clip frame to the next, grey levels."""

    moving: float
    """Share of pixels, 0 to 1, that differ by `MOVING` grey levels or more from one clip frame to
    the next. Tells a small fast thing from a slow change of the whole picture."""

    texture: float
    """Mean |difference| of neighbouring pixels of a frame, grey levels."""

    colour: float
    """Mean distance of the largest to the smallest channel, levels; 0 for grey footage, for
    example infrared at night."""


STATISTICS: dict[str, str] = {
    "brightness": "grey levels",
    "contrast": "grey levels",
    "motion": "grey levels per clip frame",
    "moving": "share of pixels",
    "texture": "grey levels per pixel",
    "colour": "levels",
}
"""The statistics in their order, each with its unit."""


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small picture of a clip; the longer side has at most `THUMBNAIL` pixels."""

    middle: Image
    """The middle frame, shape (rows, columns, channels), uint8."""

    motion: Image
    """Mean |difference| of neighbouring clip frames times `MOTION_SCALE`, shape (rows, columns),
    uint8."""


def described(clip: Image) -> tuple[ClipStatistics, Thumbnail]:
    """Return a clip's statistics and thumbnail.

    Memory: a few frames, however long the clip.

    Args:
        clip: Shape (T, H, W, C), uint8; only read.
    """
    sums = dict.fromkeys(STATISTICS, 0.0)
    changed = np.zeros(clip.shape[1:3], np.uint32)
    before: npt.NDArray[np.int16] | None = None
    for frame in clip:
        grey = _luma(frame)
        sums["brightness"] += float(grey.mean())
        sums["contrast"] += float(grey.std())
        sums["texture"] += _texture(grey)
        sums["colour"] += float(np.ptp(frame, axis=2).mean())
        if before is not None:
            step = np.abs(grey - before)
            sums["motion"] += float(step.mean())
            sums["moving"] += float((step >= MOVING).mean())
            changed += step.astype(np.uint32)
        before = grey
    steps = max(1, len(clip) - 1)
    over = {"motion": steps, "moving": steps}
    # Six digits tell any two clips apart, and a file of them stays readable.
    means = {name: round(total / over.get(name, len(clip)), 6) for name, total in sums.items()}
    return ClipStatistics(**means), _thumbnail(clip[len(clip) // 2], changed / steps)


def _luma(frame: Image) -> npt.NDArray[np.int16]:
    if frame.shape[2] == 1:
        return frame[:, :, 0].astype(np.int16)
    # BT.601 weights in 256ths; the sum fits into 16 bits.
    red, green, blue = (frame[:, :, i].astype(np.uint16) for i in range(3))
    return ((77 * red + 150 * green + 29 * blue) >> 8).astype(np.int16)


def _texture(grey: npt.NDArray[np.int16]) -> float:
    steps = [np.abs(np.diff(grey, axis=axis)) for axis in (0, 1) if grey.shape[axis] > 1]
    return float(np.mean([step.mean() for step in steps])) if steps else 0.0


def _thumbnail(middle: Image, changed: npt.NDArray[np.float64]) -> Thumbnail:
    import cv2

    rows, columns = changed.shape
    scale = min(1.0, THUMBNAIL / max(rows, columns))
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))

    def small(image: npt.NDArray[np.float32]) -> Image:
        shrunk = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return np.clip(np.rint(shrunk), 0, 255).astype(np.uint8)

    picture = small(middle.astype(np.float32)).reshape(size[1], size[0], middle.shape[2])
    return Thumbnail(middle=picture, motion=small((changed * MOTION_SCALE).astype(np.float32)))
