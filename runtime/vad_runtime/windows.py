"""Frames to clips: a ring, a hop, and no clip across a hole."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts.clip import ClipSpec
from vad_runtime.ring import FrameRing
from vad_runtime.sources.base import Frame, Pixels


class HoleRule:
    """Says in front of which frames something is missing: one rule for training and device.

    Args:
        fps: Nominal frame rate. A step in time of more than four such frames and more than half a
            second is a hole; less is the jitter of cameras and muxers. None = the source says
            itself where it has holes, as a live one does, whose rate may change.
    """

    def __init__(self, fps: float | None) -> None:
        self._longest_s = math.inf if fps is None else max(4 / fps, 0.5)
        self._before_s: float | None = None

    def cause(self, frame: Frame) -> str | None:
        """Return why no clip may hold both this frame and the one before, or None."""
        before_s, self._before_s = self._before_s, frame.pts_s
        if frame.damaged:
            return frame.hole or "damaged frame"
        if frame.hole is None and before_s is not None:
            return "jump in time" if frame.pts_s - before_s > self._longest_s else None
        return frame.hole


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One window, ready for a back end."""

    pixels: npt.NDArray[np.uint8]
    """Shape (1, T, H, W, C), uint8, C-contiguous, read-only; a view of the ring, valid until the
    next frame is pushed."""

    indices: list[int]
    """Source index of each of the T frames."""


class ClipWindow:
    """Turns a stream of frames into clips.

    ::

        frames=4 stride=1 hop=2

        f0 f1 f2 f3 f4 f5 f6 | end or hole
        [---------]                          clip when f3 has come
              [---------]                    two frames later
                 [---------]                 the tail: f6 would be lost otherwise

    A hole empties the window: a clip never spans one and is never filled up with stale or black
    frames. Nothing comes out before T frames have come in.

    Args:
        spec: The clips' form.
        hop: Source frames from one clip to the next; None = the spec's.
        ring: Where frames are kept, empty, of the spec's length and shape; None = host memory.

    Raises:
        ValueError: The hop is no positive multiple of the stride.
    """

    def __init__(
        self, spec: ClipSpec, *, hop: int | None = None, ring: FrameRing | None = None
    ) -> None:
        self._spec = spec
        self.hop = spec.hop if hop is None else hop
        self._ring = FrameRing(spec.frames, spec.frame_shape) if ring is None else ring
        self._indices: list[int] = []
        self._seen = 0
        self._kept = 0
        self._in_clips = 0

    @property
    def hop(self) -> int:
        """Source frames from one clip to the next; may be changed between two frames.

        Raises:
            ValueError: The hop is no positive multiple of the stride.
        """
        return self._hop * self._spec.stride

    @hop.setter
    def hop(self, hop: int) -> None:
        if hop < 1 or hop % self._spec.stride:
            stride = self._spec.stride
            raise ValueError(f"hop must be a positive multiple of stride {stride}, got {hop}")
        self._hop = hop // self._spec.stride

    @property
    def empty(self) -> bool:
        """Whether no frame has come since the last flush."""
        return self._seen == 0

    def push(self, index: int, pixels: Pixels) -> Clip | None:
        """Take the next frame; return a clip when one is due.

        Args:
            index: The frame's number in its source.
            pixels: Shape (H, W, C), uint8; copied once, into the ring.
        """
        position = self._seen
        self._seen += 1
        if position % self._spec.stride:
            return None
        self._ring.push(pixels)
        self._indices.append(index)
        del self._indices[: -self._spec.frames]
        self._kept += 1
        if self._kept < self._spec.frames:
            return None
        if self._in_clips and self._kept - self._in_clips < self._hop:
            return None
        return self._clip()

    def flush(self) -> Clip | None:
        """Empty the window at a hole or at the end.

        Returns:
            A last clip if frames have come that no clip has held yet. It must be used before the
            next `push`.
        """
        due = self._kept >= self._spec.frames and self._kept > self._in_clips
        clip = self._clip() if due else None
        self._ring.clear()
        self._indices = []
        self._seen = self._kept = self._in_clips = 0
        return clip

    def _clip(self) -> Clip:
        self._in_clips = self._kept
        return Clip(pixels=self._ring.latest()[None], indices=list(self._indices))
