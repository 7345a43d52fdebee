"""Scores to alarms: a threshold with hysteresis and a minimum duration."""

from dataclasses import dataclass

from vad_runtime.contracts.manifest import Scoring

_ROUNDING_S = 1e-6  # 0.3 - 0.1 is a little less than 0.2, and no clock is this fine


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One alarm, from the first frame above the threshold to the last above its release level."""

    start_frame: int
    end_frame: int
    start_s: float
    end_s: float
    peak_s: float
    peak_score: float


class AlarmState:
    r"""Follows one stream.

    ::

        score     /‾‾\__/‾\          threshold ───────
               __/          \____     release   - - - -
        alarm    [==========]          ends only below the release level

    Args:
        scoring: Threshold, release and minimum duration of the manifest.
    """

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring
        self._run: Event | None = None
        self.active = False
        """Whether an alarm is on."""

    @property
    def run(self) -> Event | None:
        """What may become an alarm or is one: also before it has lasted long enough."""
        return self._run

    def update(self, frame: int, time_s: float, score: float) -> Event | None:
        """Take the next score; return the event that it ended, if any."""
        threshold = self._scoring.threshold
        if threshold is None:
            return None
        level = threshold if self._run is None else threshold * self._scoring.release
        # A negative threshold times a release below 1 would lie above it.
        if score < min(level, threshold):
            return self.end()
        run = self._run
        if run is None or score > run.peak_score:
            peak_s, peak_score = time_s, score
        else:
            peak_s, peak_score = run.peak_s, run.peak_score
        self._run = Event(
            start_frame=frame if run is None else run.start_frame,
            start_s=time_s if run is None else run.start_s,
            end_frame=frame,
            end_s=time_s,
            peak_s=peak_s,
            peak_score=peak_score,
        )
        lasted_s = time_s - self._run.start_s
        self.active = lasted_s >= self._scoring.min_duration_s - _ROUNDING_S
        return None

    def end(self) -> Event | None:
        """End the alarm at a hole or at the end of the stream; return its event, if one was on."""
        event = self._run if self.active else None
        self._run = None
        self.active = False
        return event
