"""Several recordings one after the other, as one source: what a pattern finds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from vad_runtime.contracts.errors import SourceError
from vad_runtime.sources.base import Frame, FrameSource, SourceInfo, SourceStats, sum_of_stats

NEXT_RECORDING = "next recording"
"""Cause of the hole between two recordings."""


class SourceSequence:
    """Recordings in order; one is open at a time. One thread reads; `stop` is for any.

    Indices and times go on rising; no clip spans two recordings. A recording that cannot be read
    is noted and passed over.

    Args:
        name: What the user named: the pattern.
        paths: At least one.
        opened: Opens one of them.

    Raises:
        SourceError: None of them can be opened.
    """

    def __init__(
        self, name: str, paths: Sequence[Path], opened: Callable[[Path], FrameSource]
    ) -> None:
        self._rest = list(paths)
        self._opened = opened
        self._name = name
        self._before = SourceStats()
        self._stopped = False
        first = self._next()
        if first is None:
            raise SourceError(f"{name}: none of {len(paths)} recordings can be read. Check them.")
        self._source = first
        self.info: SourceInfo = replace(first.info, name=name, frames=None)

    @property
    def stats(self) -> SourceStats:
        """Counters over all recordings so far. From any thread."""
        return sum_of_stats(self._before, self._source.stats)

    def stop(self) -> None:
        """End behind the frame that is being read. From any thread."""
        self._stopped = True

    def frames(self) -> Iterator[Frame]:
        """See `FrameSource.frames`.

        Raises:
            SourceError: None of the recordings has a frame.
        """
        source: FrameSource | None = self._source
        index, pts_s = 0, 0.0
        while source is not None and not self._stopped:
            self._source = source
            last: Frame | None = None
            try:
                for frame in source.frames():
                    hole = frame.hole
                    if last is None and index > 0:
                        hole = NEXT_RECORDING
                        holes = self._before.holes
                        self._before.holes = holes | {hole: holes.get(hole, 0) + 1}
                    last = replace(
                        frame, index=index + frame.index, pts_s=pts_s + frame.pts_s, hole=hole
                    )
                    yield last
                    if self._stopped:
                        return
            except SourceError as error:
                self._before.notes.append(str(error))
            if last is not None:
                index, pts_s = last.index + 1, last.pts_s + 1 / source.info.fps
            before = sum_of_stats(self._before, source.stats)
            source = self._next(before)
        if index == 0 and not self._stopped:
            raise SourceError(f"{self._name} holds no frame that decodes. Give other recordings.")

    def _next(self, before: SourceStats | None = None) -> FrameSource | None:
        """Open the next one that can be; `before` is what was counted up to here."""
        stats = before or self._before
        while self._rest:
            path = self._rest.pop(0)
            try:
                source = self._opened(path)
            except SourceError as error:
                stats.notes.append(str(error))
                continue
            self._before = stats
            return source
        return None
