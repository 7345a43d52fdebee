"""Delay, false alarms, and alarms computed all at once."""

from itertools import product

import numpy as np
import pytest

from vad_runtime.contracts import Scoring
from vad_runtime.events import AlarmState
from vad_training.metrics.alarms import alarm_metrics, alarm_runs, joined, runs_of


def marks(text: str) -> "np.typing.NDArray[np.bool_]":
    return np.array([c == "x" for c in text], bool)


def test_runs_are_first_and_last() -> None:
    assert runs_of(marks("xx..x.x")).tolist() == [[0, 1], [4, 4], [6, 6]]
    assert runs_of(marks("..")).tolist() == []
    assert runs_of(marks("xx")).tolist() == [[0, 1]]


def test_delay_missed_events_and_false_alarms_by_hand() -> None:
    #             0         1
    #             0123456789012345
    truth = marks("..xxxx..xx...xxx")
    alarm = marks("x...xxx...x.xx..")
    found = alarm_metrics(truth, alarm, np.arange(16) * 0.5)
    # First event from frame 2, alarm at 4. The second is missed: the alarm at 10 comes after it,
    # and like the one at 0 is false. At 13 an alarm is on already.
    assert found.delays_s == [1.0, 0.0]
    assert (found.missed, found.events, found.false_alarms) == (1, 3, 2)
    assert found.normal_s == pytest.approx(7 * 0.5)
    assert found.false_alarms_per_hour == pytest.approx(2 / 3.5 * 3600)
    assert found.alarmed_s == pytest.approx(4 * 0.5)  # frames 0, 6, 10 and 12


def test_videos_are_joined_before_rates_are_taken() -> None:
    times = np.arange(4) / 2
    first = alarm_metrics(marks("..xx"), marks("x..x"), times)
    second = alarm_metrics(marks("...."), marks("...."), times)
    both = joined([first, second])
    assert both.delays_s == [0.5]
    assert both.false_alarms_per_hour == pytest.approx(3600 / 3)
    assert np.isnan(joined([]).false_alarms_per_hour)


def test_a_variable_frame_rate_counts_seconds_and_not_frames() -> None:
    found = alarm_metrics(marks(".x.x"), marks("...."), np.array([0.0, 3.0, 4.0, 5.0]))
    assert found.normal_s == 4.0  # 0 to 3 and 4 to 5
    assert found.missed == 2


@pytest.mark.parametrize(
    ("threshold", "release", "duration"),
    list(product((0.3, 1.0, -0.5), (1.0, 0.6), (0.0, 0.2, 0.45))),
)
def test_alarms_at_once_are_those_of_the_device(
    threshold: float, release: float, duration: float
) -> None:
    scoring = Scoring(threshold=threshold, release=release, min_duration_s=duration)
    rng = np.random.default_rng(2)
    for _ in range(20):
        n = int(rng.integers(1, 60))
        times = np.cumsum(rng.uniform(0.05, 0.15, n))
        values = np.round(rng.normal(0, 1, n), 1)
        state = AlarmState(scoring)
        ended = [state.update(i, float(times[i]), float(values[i])) for i in range(n)]
        events = [event for event in [*ended, state.end()] if event is not None]
        expected = [[event.start_frame, event.end_frame] for event in events]
        assert alarm_runs(times, values, scoring).tolist() == expected


def test_without_a_threshold_or_frames_there_are_no_alarms() -> None:
    assert alarm_runs(np.arange(3.0), np.ones(3), Scoring()).shape == (0, 2)
    assert alarm_runs(np.zeros(0), np.zeros(0), Scoring(threshold=1)).shape == (0, 2)
