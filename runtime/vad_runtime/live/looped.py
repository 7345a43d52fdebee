"""A recording in the place of a camera that never stops."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from vad_runtime.contracts.errors import SourceError
from vad_runtime.sources.base import Frame, FrameSource, SourceInfo, SourceStats, sum_of_stats

STARTS_OVER = "recording starts over"
"""Cause of the hole between its end and its start."""


class Looped:
    """A recording that starts over at its end.

    Indices and times go on rising; no clip spans the seam. One thread reads; `stop` may be called
    from any.

    Args:
        open_again: Opens the recording at its start; called at once, and at each end.
    """

    def __init__(self, open_again: Callable[[], FrameSource]) -> None:
        self._open = open_again
        self._source = open_again()
        self._stopped = threading.Event()
        self._before = SourceStats()
        self.turns = 0
        """How often it was read to its end."""

    @property
    def info(self) -> SourceInfo:
        """What the recording says about itself; its length is unknown, since it has no end."""
        return replace(self._source.info, frames=None)

    @property
    def stats(self) -> SourceStats:
        """Counters over all turns; notes are those of the present one."""
        now = self._source.stats
        return replace(sum_of_stats(self._before, now), notes=list(now.notes))

    def stop(self) -> None:
        """End behind the frame that is being read."""
        self._stopped.set()

    def frames(self) -> Iterator[Frame]:
        """See `FrameSource.frames`.

        Raises:
            SourceError: The recording cannot be opened again, or has no frames.
        """
        index, pts_s = 0, 0.0
        while not self._stopped.is_set():
            last: Frame | None = None
            for frame in self._source.frames():
                hole = frame.hole
                if last is None and self.turns:
                    hole = STARTS_OVER
                last = replace(
                    frame, index=index + frame.index, pts_s=pts_s + frame.pts_s, hole=hole
                )
                yield last
                if self._stopped.is_set():
                    return
            if last is None:
                raise SourceError(f"{self.info.name} has no frames. Give another recording.")
            index, pts_s = last.index + 1, last.pts_s + 1 / self._source.info.fps
            self.turns += 1
            opened = self._open()
            self._before, self._source = self.stats, opened
