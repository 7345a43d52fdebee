"""Training windows: a clip, the frames after it, and which of those exist."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from vad_training.config import AugmentConfig
from vad_training.data.store import Frames, FrameStore, Segment


@dataclass(frozen=True, slots=True)
class Window:
    """Rows of the store that make one training example."""

    start: int
    """First row of the clip."""
    end: int
    """One past the last row of its segment: no frame from there on belongs to the video."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Examples as arrays, owned by the caller."""

    clips: Frames
    """Shape (B, T, H, W, C), uint8."""
    future: Frames
    """The same shape: the T frames from `offset` on; where the mask is False, the last that is."""
    mask: npt.NDArray[np.bool_]
    """Shape (B, T), True where the future frame exists."""


def split_segments(
    store: FrameStore, fraction: float, seed: int
) -> tuple[list[Segment], list[Segment]]:
    """Split by video into training and validation, so that no video is in both.

    With one video its last `fraction` of rows becomes the validation part.
    """
    if len(store.videos) == 1:
        cut = round(len(store.frames) * (1 - fraction))
        head = [_before(s, cut) for s in store.segments if s.start < cut]
        tail = [_from(s, cut) for s in store.segments if s.start + s.frames > cut]
        return head, tail
    count = min(max(1, round(len(store.videos) * fraction)), len(store.videos) - 1)
    order = np.random.default_rng([seed, 1]).permutation(len(store.videos))
    held = set(order[:count].tolist())
    train = [s for s in store.segments if s.video not in held]
    return train, [s for s in store.segments if s.video in held]


def _before(segment: Segment, row: int) -> Segment:
    frames = min(segment.frames, row - segment.start)
    return Segment(video=segment.video, start=segment.start, frames=frames)


def _from(segment: Segment, row: int) -> Segment:
    start = max(segment.start, row)
    frames = segment.start + segment.frames - start
    return Segment(video=segment.video, start=start, frames=frames)


def windows_of(segments: Sequence[Segment], frames: int, step: int) -> list[Window]:
    """Return every window of `frames` rows, `step` rows apart, that fits into a segment."""
    return [
        Window(start, segment.start + segment.frames)
        for segment in segments
        for start in range(segment.start, segment.start + segment.frames - frames + 1, step)
    ]


def batch_of(
    store: FrameStore,
    windows: Sequence[Window],
    frames: int,
    offset: int,
    augment: AugmentConfig | None = None,
    rng: np.random.Generator | None = None,
) -> Batch:
    """Gather windows into arrays.

    Args:
        store: The footage.
        windows: B windows.
        frames: T.
        offset: Rows from a window's start to its future's start.
        augment: Random changes; None = none.
        rng: Where they come from; needed with `augment`.
    """
    clips, futures, masks = [], [], []
    for window in windows:
        rows = window.start + offset + np.arange(frames)
        mask = rows < window.end
        clip = np.asarray(store.frames[window.start : window.start + frames])
        future = np.asarray(store.frames[np.minimum(rows, window.end - 1)])
        if augment is not None and rng is not None:
            clip, future = _augmented(clip, future, augment, rng)
        clips.append(clip)
        futures.append(future)
        masks.append(mask)
    return Batch(clips=np.stack(clips), future=np.stack(futures), mask=np.stack(masks))


def _augmented(
    clip: Frames, future: Frames, augment: AugmentConfig, rng: np.random.Generator
) -> tuple[Frames, Frames]:
    """Change a clip and its future with the same parameters: other ones would be motion."""
    angle = rng.uniform(-augment.rotation_deg, augment.rotation_deg)
    sigma = rng.uniform(0, augment.blur_sigma) if rng.random() < 0.5 else 0.0
    height, width = clip.shape[1:3]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)

    def change(frame: Frames) -> Frames:
        out = cv2.warpAffine(frame, turn, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        if sigma > 0.2:  # below, the kernel is a single pixel
            out = cv2.GaussianBlur(out, (0, 0), sigma)
        return np.asarray(out, np.uint8).reshape(frame.shape)

    both = [change(frame) for frame in (*clip, *future)]
    return np.stack(both[: len(clip)]), np.stack(both[len(clip) :])
