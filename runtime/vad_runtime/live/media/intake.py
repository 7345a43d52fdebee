"""What the scorer's thread leaves for the media thread of one stream: frames, rows, the peak."""

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from vad_runtime.detector import ScoredFrame
from vad_runtime.sinks.rows import Row, row_from_scored
from vad_runtime.sources.base import SourceInfo

_WAITING_BYTES = 32 << 20  # frames that wait, as YUV 4:2:0
_WAITING_ROWS = 10_000
_PICTURES_A_S = 15.0  # at most, in the mean, go into a clip that is encoded


@dataclass(frozen=True, slots=True)
class Shot:
    """A scored frame and when it came."""

    scored: ScoredFrame
    arrived_s: float
    """By `time.monotonic()`."""
    unix_s: float


@dataclass(slots=True)
class _Peak:
    event_id: str
    first: Shot | None
    best: Shot | None


class Intake:
    """Takes frames without waiting for a disk; holds a bounded number and counts the rest.

    Args:
        film: Whether every frame goes into a film.
        table: Whether every row is kept.
        pictures: Says whether clips are made of pictures, since the stream has no packets.
        info: Says how large a frame is.
    """

    def __init__(
        self,
        *,
        film: bool,
        table: bool,
        pictures: Callable[[], bool],
        info: Callable[[], SourceInfo],
    ) -> None:
        self._film = film
        self._table = table
        self._pictures = pictures
        self._info = info
        self._lock = threading.Lock()
        self._peak: _Peak | None = None
        self._rows: list[tuple[Row, float]] = []
        self._shots: deque[tuple[Shot, bool]] = deque()
        self._due_s = -math.inf
        self.lost = 0
        """Frames that were left out of film or scores, since the media thread was too slow."""

    @property
    def waiting(self) -> int:
        """Frames that wait."""
        return len(self._shots)

    def watch(self, event_id: str, shot: Shot | None) -> None:
        """Begin to remember the frame of an event's highest score; from any thread."""
        with self._lock:
            self._peak = _Peak(event_id, shot, shot)

    def forget(self, event_id: str) -> Shot | None:
        """Return that frame, None where it is the one that began; from any thread."""
        with self._lock:
            peak = self._peak
            if peak is None or peak.event_id != event_id:
                return None
            self._peak = None
        return None if peak.best is peak.first else peak.best

    def take(self, shot: Shot) -> None:
        """Take a settled frame; from any thread."""
        with self._lock:
            self._compare(shot)
            if self._table:
                if len(self._rows) < _WAITING_ROWS:
                    self._rows.append((row_from_scored(shot.scored), shot.unix_s))
                else:
                    self.lost += 1
            picture = self._wants_picture(shot.arrived_s)
            if not (self._film or picture):
                return
            if len(self._shots) < self._most():
                self._shots.append((shot, picture))
            else:
                self.lost += 1

    def _compare(self, shot: Shot) -> None:
        peak, score = self._peak, shot.scored.score
        if peak is None or score is None:
            return
        best = None if peak.best is None else peak.best.scored.score
        if best is None or score > best:
            peak.best = shot

    def _wants_picture(self, arrived_s: float) -> bool:
        step_s = 1 / _PICTURES_A_S
        # Frames come a little early or late: a rule that only looked back to the last one would
        # take every second frame of a camera of 15 a second.
        if arrived_s < self._due_s - step_s / 4:
            return False
        if not self._pictures():
            return False
        self._due_s = max(self._due_s, arrived_s - step_s) + step_s
        return True

    def _most(self) -> int:
        info = self._info()
        size = info.width * info.height or 1920 * 1080
        return max(2, min(256, _WAITING_BYTES // (size * 3 // 2)))

    def rows(self) -> list[tuple[Row, float]]:
        """Return the rows that have come since the last call, each with its Unix time."""
        with self._lock:
            rows, self._rows = self._rows, []
        return rows

    def shot(self) -> tuple[Shot, bool] | None:
        """Return the next frame for the film, and whether it also serves for clips."""
        with self._lock:
            return self._shots.popleft() if self._shots else None
