"""Scores to alarms."""

import pytest

from vad_runtime.contracts import Scoring
from vad_runtime.events import AlarmState, Event


def events(scores: list[float], *, end: bool = True, **scoring: float) -> list[Event]:
    """Return the events of a stream with one frame each 0.1 s, first frame 0."""
    state = AlarmState(Scoring(threshold=scoring.pop("threshold", 1.0), **scoring))
    found = [state.update(i, i / 10, score) for i, score in enumerate(scores)]
    if end:
        found.append(state.end())
    return [event for event in found if event is not None]


def flags(scores: list[float], **scoring: float) -> str:
    """Return the alarm after each frame as a picture: `#` on, `.` off."""
    state = AlarmState(Scoring(threshold=scoring.pop("threshold", 1.0), **scoring))
    picture = ""
    for i, score in enumerate(scores):
        state.update(i, i / 10, score)
        picture += "#" if state.active else "."
    return picture


def test_an_alarm_begins_at_the_threshold_and_ends_below_release() -> None:
    scores = [0.99, 1.0, 0.95, 0.9, 0.89, 0.95]
    assert flags(scores, release=0.9) == ".###.."
    assert events(scores, release=0.9) == [
        Event(start_frame=1, end_frame=3, start_s=0.1, end_s=0.3, peak_s=0.1, peak_score=1.0)
    ]


def test_a_score_between_release_and_threshold_does_not_begin_an_alarm() -> None:
    assert flags([0.95, 0.99, 0.95]) == "..."
    assert events([0.95, 0.99, 0.95]) == []


def test_without_hysteresis_the_threshold_is_also_the_end() -> None:
    assert flags([1.0, 0.99, 1.0, 1.0], release=1.0) == "#.##"
    assert len(events([1.0, 0.99, 1.0, 1.0], release=1.0)) == 2


def test_the_peak_is_the_first_of_the_highest_scores() -> None:
    (event,) = events([1.0, 3.0, 2.0, 3.0, 1.0])
    assert (event.peak_s, event.peak_score) == (0.1, 3.0)
    assert (event.start_frame, event.end_frame) == (0, 4)


def test_an_alarm_is_raised_only_after_its_minimum_duration_but_counts_from_its_start() -> None:
    scores = [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    assert flags(scores, min_duration_s=0.2) == "...##."
    (event,) = events(scores, min_duration_s=0.2)
    assert (event.start_frame, event.end_frame) == (1, 4)


def test_a_run_shorter_than_the_minimum_duration_is_no_event() -> None:
    assert events([0, 1, 1, 0, 1, 1, 0], min_duration_s=0.2) == []
    assert events([0, 1, 1], min_duration_s=0.2) == []


def test_the_minimum_duration_is_time_and_not_frames() -> None:
    state = AlarmState(Scoring(threshold=1.0, min_duration_s=1.0))
    state.update(0, 0.0, 2.0)
    assert not state.active
    state.update(1, 1.5, 2.0)  # one frame later, but a second and a half
    assert state.active


def test_an_alarm_that_is_on_at_the_end_becomes_an_event() -> None:
    state = AlarmState(Scoring(threshold=1.0))
    state.update(7, 0.7, 2.0)
    event = state.end()
    assert event is not None
    assert (event.start_frame, event.end_frame) == (7, 7)
    assert not state.active
    assert state.end() is None


def test_an_alarm_after_a_hole_is_a_new_event_with_its_own_peak() -> None:
    state = AlarmState(Scoring(threshold=1.0, min_duration_s=0.1))
    state.update(0, 0.0, 9.0)
    state.update(1, 0.1, 5.0)
    assert state.end() is not None
    state.update(5, 0.5, 2.0)
    assert not state.active  # the time before the hole does not count
    state.update(6, 0.6, 2.0)
    event = state.end()
    assert event is not None
    assert (event.start_frame, event.peak_score) == (5, 2.0)


@pytest.mark.parametrize("threshold", [-1.0, 0.0])
def test_a_threshold_at_or_below_zero_never_releases_above_itself(threshold: float) -> None:
    scores = [threshold - 0.01, threshold, threshold, threshold - 0.01, threshold]
    assert flags(scores, threshold=threshold, release=0.5) == ".##.#"


def test_without_a_threshold_nothing_is_ever_an_alarm() -> None:
    state = AlarmState(Scoring())
    assert [state.update(i, i / 10, 1e9) for i in range(5)] == [None] * 5
    assert not state.active
    assert state.end() is None


def test_every_frame_at_or_above_the_threshold_is_in_an_event_when_no_duration_is_asked() -> None:
    scores = [float(s) for s in (0, 1, 2, 0, 0, 3, 0.95, 0.5, 1)]
    covered = {i for e in events(scores) for i in range(e.start_frame, e.end_frame + 1)}
    assert {i for i, s in enumerate(scores) if s >= 1} <= covered
    assert covered == {1, 2, 5, 6, 8}
