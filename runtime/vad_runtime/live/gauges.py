"""What is measured of one stream, in constant memory."""

import threading
import time
from collections.abc import Callable
from typing import Any

from vad_runtime.latency import Stage
from vad_runtime.live.base import StreamState
from vad_runtime.live.meters import RateGauge, Sparkline
from vad_runtime.live.status import StageStatus

_PERCENTILES = ("p50_ms", "p95_ms", "p99_ms", "max_ms")


class StreamGauges:
    """Counters, timers and the state of a stream.

    The scorer's thread counts; `set_state` and `fields` may be called from any thread.

    Args:
        decode: The timer that the reader fills.
        clock: Monotonic seconds.
        wall: Unix seconds.
    """

    def __init__(
        self,
        decode: Stage,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._clock, self._wall = clock, wall
        self._lock = threading.Lock()
        self._stages = {"decode": decode, "queue": Stage(), "inference": Stage()}
        self._latency = Stage()
        self._arrivals, self._scored = RateGauge(), RateGauge()
        self._recent = Sparkline()
        self._score: float | None = None
        self._dropped: dict[str, int] = {}
        self._misses = 0
        self._last_event_s: float | None = None
        self.state: StreamState = "connecting"
        self._state_since_s, self._state_reason = wall(), ""
        self.arrived_s = clock()
        """When the last frame arrived, monotonic seconds; before it: when the stream was made."""

    def arrived(self, arrived_s: float) -> None:
        """Count a frame that is taken from the queue now."""
        self._stages["queue"].add(max(0.0, self._clock() - arrived_s))
        self._arrivals.add(arrived_s)
        self.arrived_s = arrived_s

    def scored(self, arrived_s: float, score: float) -> None:
        """Take a frame's score, and when the frame arrived, monotonic seconds."""
        self._scored.add(arrived_s)
        with self._lock:
            self._score = score
            self._recent.add(arrived_s, score)

    def ran(self, took_s: float, latency_s: float, *, missed: bool) -> None:
        """Count a clip that was scored."""
        self._stages["inference"].add(took_s)
        self._latency.add(max(0.0, latency_s))
        self._misses += missed

    def dropped(self, cause: str) -> None:
        """Count a clip that was left out."""
        with self._lock:
            self._dropped[cause] = self._dropped.get(cause, 0) + 1

    def event_started(self, start_s: float) -> None:
        """Take an event's start, Unix seconds."""
        self._last_event_s = start_s

    def set_state(self, state: StreamState, reason: str) -> None:
        """Take the stream's new state."""
        with self._lock:
            self.state, self._state_reason = state, reason
            self._state_since_s = self._wall()

    def fields(self) -> dict[str, Any]:
        """Return the fields of `StreamStatus` that are measured here."""
        now = self._clock()
        with self._lock:
            fields: dict[str, Any] = {
                "state": self.state,
                "state_since_s": self._state_since_s,
                "state_reason": self._state_reason,
                "score": self._score,
                "recent": self._recent.values(now),
                "dropped": dict(self._dropped),
            }
        return {
            **fields,
            "camera_fps": round(self._arrivals.value(now), 2),
            "scored_fps": round(self._scored.value(now), 2),
            "misses": self._misses,
            "latency": _status(self._latency),
            "stages": {name: _status(stage) for name, stage in self._stages.items()},
            "last_event_s": self._last_event_s,
        }


def _status(stage: Stage) -> StageStatus:
    summary = stage.summary()
    if not summary["count"]:
        return StageStatus()
    values = {key: float(summary[key]) for key in _PERCENTILES}
    return StageStatus(count=int(summary["count"]), **values)
