"""What every source gives: frames at model size, each with the time it belongs to."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Protocol

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


LIVE = "live stream"
"""`SourceInfo.kind` of cameras and streams: no end, and a pace of their own."""

FASTER = "faster than the model"
"""Cause, in `SourceStats.dropped`, of frames that are left out on purpose."""

BEHIND = "decoder behind"
"""Cause, there and in `Frame.hole`, of frames that are dropped to catch up with the camera."""

FROZEN = "frozen picture"
"""`Frame.hole` of the frames, damaged all of them, of a camera that repeats one picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One source frame."""

    index: int
    """Number of the frame in its source, from 0; lost frames are counted too."""

    pts_s: float
    """Presentation time, seconds from the source's first frame; strictly rising."""

    pixels: Pixels
    """Shape (height, width, channels), uint8, at model size; may be a strided view, read-only."""

    picture: Callable[[], Pixels]
    """Returns the frame at full size, shape (rows, columns, 3), uint8 RGB; converted on demand."""

    hole: str | None = None
    """Why something is missing between the frame before and this one; None = nothing is."""

    damaged: bool = False
    """The decoder could not restore this frame; its pixels are not to be scored."""

    arrived_s: float | None = None
    """`time.monotonic()` at which a live source had decoded it; None = from a recording."""


@dataclass(kw_only=True)
class SourceStats:
    """What happened while a source was read."""

    frames: int = 0
    damaged: int = 0
    undecodable_packets: int = 0
    timestamps_repaired: int = 0
    connections: int = 0
    """How often a live source was connected."""
    frozen: int = 0
    """Frames of a live source that repeat a picture for too long; not scored."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Frames of a live source that were not given, by cause."""
    holes: dict[str, int] = field(default_factory=dict)
    """How often something was missing, by cause."""
    notes: list[str] = field(default_factory=list)
    """Lines for the report, for example that a file ends early."""


def sum_of_stats(one: SourceStats, two: SourceStats) -> SourceStats:
    """Return what happened in both; another thread may go on counting in either."""
    total = SourceStats()
    for item in fields(SourceStats):
        a, b = getattr(one, item.name), getattr(two, item.name)
        if isinstance(a, dict):
            a, b = a.copy(), b.copy()
            both = {key: a.get(key, 0) + b.get(key, 0) for key in [*a, *b]}
            setattr(total, item.name, both)
        else:
            setattr(total, item.name, a + b)
    return total


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """What a source says about itself before it is read."""

    name: str
    """The path or address as the user gave it."""
    kind: str
    """`video file`, `frame folder` or `live stream`."""
    codec: str
    width: int
    """Columns at full size, pixels."""
    height: int
    """Rows at full size, pixels."""
    fps: float
    """Nominal frame rate, frames a second."""
    frames: int | None
    """How many frames the source promises; None = unknown."""


def no_picture() -> Pixels:
    """Stand in for `Frame.picture` where nobody asked for pictures at full size.

    Raises:
        RuntimeError: Always.
    """
    raise RuntimeError("the source was opened without pictures")


class FrameSource(Protocol):
    """Something to read frames from, once."""

    @property
    def info(self) -> SourceInfo:
        """What the source says about itself."""

    @property
    def stats(self) -> SourceStats:
        """Counters, up to date while frames are read."""

    def frames(self) -> Iterator[Frame]:
        """Yield the frames in order of presentation; close the source at the end.

        Raises:
            SourceError: Reading failed for a reason that reading on cannot mend.
        """
