"""What an operator feels: how late an alarm comes, and how often it comes for nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts import Scoring
from vad_training.metrics import Scores, Truth

Runs = npt.NDArray[np.int64]
_ROUNDING_S = 1e-6  # as vad_runtime.events


@dataclass(frozen=True, kw_only=True)
class AlarmMetrics:
    """Alarms of one or many videos against the truth."""

    delays_s: list[float]
    """For each event that was found: seconds from its first frame to the first alarm in it."""
    missed: int
    """Events in which no alarm was on."""
    false_alarms: int
    """Alarms that touch no anomalous frame."""
    normal_s: float
    """Seconds of normal frames."""
    alarmed_s: float
    """Seconds of normal frames while an alarm was on: an alarm that is always on finds everything
    at once and is false only once."""

    @property
    def events(self) -> int:
        """All events: found and missed."""
        return len(self.delays_s) + self.missed

    @property
    def false_alarms_per_hour(self) -> float:
        """False alarms in an hour of normal frames; NaN without any."""
        return 3600 * self.false_alarms / self.normal_s if self.normal_s else float("nan")


def runs_of(mask: Truth) -> Runs:
    """Return shape (runs, 2): first and last index of each run of True."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return np.column_stack([edges[::2], edges[1::2] - 1]).astype(np.int64)


def alarm_runs(times_s: Scores, scores: Scores, scoring: Scoring) -> Runs:
    """Return the alarms in a stretch without holes: what `vad_runtime.events.AlarmState` gives.

    All at once, because a threshold is found by trying many.

    Args:
        times_s: Shape (n,), rising.
        scores: Shape (n,), smoothed and normalised, without NaN.
        scoring: Its threshold, release and minimum duration count.

    Returns:
        Shape (alarms, 2): first and last index of each alarm, from the crossing on.
    """
    if scoring.threshold is None or not len(scores):
        return np.zeros((0, 2), np.int64)
    low = min(scoring.threshold * scoring.release, scoring.threshold)
    # Between the two levels a frame keeps the state of the frame before.
    state = np.where(scores >= scoring.threshold, 1, np.where(scores < low, 0, -1))
    decided = np.maximum.accumulate(np.where(state >= 0, np.arange(len(state)), -1))
    on = (decided >= 0) & (state[decided] == 1)
    runs = runs_of(on)
    lasted_s = times_s[runs[:, 1]] - times_s[runs[:, 0]]
    return runs[lasted_s >= scoring.min_duration_s - _ROUNDING_S]


def alarm_metrics(truth: Truth, alarm: Truth, times_s: Scores) -> AlarmMetrics:
    """Compare the alarms of one video with its events (runs of anomalous frames).

    An event whose first frame meets an alarm that is on already has delay 0. An alarm after the
    event's last frame does not count for it.

    Args:
        truth: Shape (n,), True where anomalous.
        alarm: Shape (n,), True where an alarm is on, after hysteresis and minimum duration.
        times_s: Shape (n,), seconds.
    """
    delays = []
    events = runs_of(truth)
    for first, last in events.tolist():
        on = np.flatnonzero(alarm[first : last + 1])
        if len(on):
            delays.append(float(times_s[first + on[0]] - times_s[first]))
    false = sum(1 for first, last in runs_of(alarm).tolist() if not truth[first : last + 1].any())
    # The last frame lasts as long as a usual one.
    step_s = np.diff(times_s, append=times_s[-1] + usual_step_s(times_s))
    return AlarmMetrics(
        delays_s=delays,
        missed=len(events) - len(delays),
        false_alarms=false,
        normal_s=float(step_s[~truth].sum()),
        alarmed_s=float(step_s[~truth & alarm].sum()),
    )


def usual_step_s(times_s: Scores) -> float:
    """Return the median time from one frame to the next; 0 for a single frame."""
    return float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0


def joined(parts: Sequence[AlarmMetrics]) -> AlarmMetrics:
    """Return the metrics of several videos together."""
    return AlarmMetrics(
        delays_s=[delay for part in parts for delay in part.delays_s],
        missed=sum(part.missed for part in parts),
        false_alarms=sum(part.false_alarms for part in parts),
        normal_s=sum(part.normal_s for part in parts),
        alarmed_s=sum(part.alarmed_s for part in parts),
    )
