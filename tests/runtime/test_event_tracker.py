"""Scores of one stream to starts and ends of events: pure logic, times passed in."""

import itertools
import math
import threading
import uuid

import numpy as np
import pytest
from helpers import frame

from vad_runtime.contracts import Scoring
from vad_runtime.contracts.site import EventSettings
from vad_runtime.detector import ScoredFrame
from vad_runtime.live.base import EventChange, EventRecord
from vad_runtime.live.events import BLIND_S, EventTracker, _Ids, new_event_id, site_scoring

FPS = 10.0
UNIX = 1_700_000_000.0
PIXELS = np.zeros((2, 2, 1), np.uint8)


class Camera:
    """A stream at 10 fps in front of a tracker; remembers what was told, and at which frame."""

    def __init__(self, **settings: float) -> None:
        self.now_s = 100.0
        self.tracker = EventTracker(
            "depot",
            "gate",
            Scoring(threshold=1.0, release=0.5),
            EventSettings(**settings),
            "score of site.vad",
            clock=lambda: self.now_s,
        )
        self.index = 0
        self.told: list[tuple[int, EventChange]] = []
        self.unix_offset_s = 0.0

    def scores(self, *scores: float | None) -> "Camera":
        for score in scores:
            self.now_s += 1 / FPS
            scored = ScoredFrame(
                frame=frame(self.index, PIXELS, fps=FPS),
                raw=score,
                score=score,
                alarm=False,
                status="scored",
            )
            unix_s = UNIX + self.index / FPS + self.unix_offset_s
            self.add(self.tracker.update(scored, unix_s))
            self.index += 1
        return self

    def add(self, changes: list[EventChange]) -> None:
        self.told += [(self.index, change) for change in changes]

    def pairs(self) -> list[tuple[int, str]]:
        return [(index, change.kind) for index, change in self.told]

    def ended(self) -> list[EventRecord]:
        return [change.event for _, change in self.told if change.kind == "ended"]


def at(index: int) -> float:
    return UNIX + index / FPS


def test_an_event_lasts_from_the_first_frame_over_the_threshold_to_the_last_over_release() -> None:
    camera = Camera().scores(0.9, 1.0, 3.0, 0.6, 0.4, 2.0)
    assert camera.pairs() == [(1, "started"), (4, "ended"), (5, "started")]
    started, ended = camera.told[0][1].event, camera.ended()[0]
    assert (started.start_s, started.end_s, started.end_frame) == (at(1), None, None)
    assert started.id == ended.id != camera.told[2][1].event.id
    assert (ended.start_s, ended.end_s, ended.peak_s) == pytest.approx((at(1), at(3), at(2)))
    assert (ended.start_frame, ended.end_frame, ended.peak_score) == (1, 3, 3.0)
    assert (ended.site, ended.stream, ended.reason) == ("depot", "gate", "score of site.vad")
    assert (ended.threshold, ended.ended_by, ended.alarms) == (1.0, "score", 1)


def test_a_start_is_told_when_the_minimum_duration_is_reached_and_dated_to_its_first_frame() -> (
    None
):
    camera = Camera(min_duration_s=0.3).scores(0, 2, 2, 0, 2, 5, 3, 3, 3, 0)
    assert camera.pairs() == [(7, "started"), (9, "ended")]
    started = camera.told[0][1].event
    assert started.start_s == at(4)
    assert started.start_frame == 4
    assert (started.peak_s, started.peak_score) == (pytest.approx(at(5)), 5.0)


def test_the_sites_settings_replace_the_manifests() -> None:
    scoring = Scoring(threshold=1.0, release=0.9, min_duration_s=2.0, offset=3.0)
    mixed = site_scoring(scoring, EventSettings(threshold=2.5, min_duration_s=0.0))
    assert (mixed.threshold, mixed.release, mixed.min_duration_s) == (2.5, 0.9, 0.0)
    assert mixed.offset == 3.0
    assert Camera(threshold=5.0).scores(4, 4, 4).told == []


def test_without_a_threshold_nothing_is_told() -> None:
    tracker = EventTracker("s", "c", Scoring(), EventSettings(), "r")
    scored = ScoredFrame(frame=frame(0, PIXELS), raw=9.0, score=9.0, alarm=False, status="scored")
    assert tracker.update(scored, UNIX) == []
    assert tracker.stop(UNIX) == []


def test_alarms_within_the_merge_time_are_one_event_whose_end_is_told_when_it_is_sure() -> None:
    camera = Camera(merge_s=0.3).scores(2, 0, 0, 5, 0, 0, 0)
    assert camera.pairs() == [(0, "started")]
    open_event = camera.tracker.open_event
    assert open_event is not None
    assert (open_event.alarms, open_event.peak_score) == (2, 5.0)
    camera.scores(0)
    assert camera.pairs() == [(0, "started"), (7, "ended")]
    ended = camera.ended()[0]
    assert (ended.end_s, ended.end_frame, ended.alarms) == (pytest.approx(at(3)), 3, 2)
    assert camera.tracker.open_event is None


def test_an_alarm_behind_the_merge_time_is_an_event_of_its_own() -> None:
    camera = Camera(merge_s=0.3).scores(2, 0, 0, 0, 2, 0)
    assert camera.pairs() == [(0, "started"), (4, "ended"), (4, "started")]


def test_an_alarm_that_starts_within_the_merge_time_is_waited_for_until_it_is_one() -> None:
    camera = Camera(merge_s=0.2, min_duration_s=0.3).scores(2, 2, 2, 2, 0, 2, 2, 2)
    assert camera.pairs() == [(3, "started")]
    camera.scores(2, 0, 0, 0)
    assert [event.alarms for event in camera.ended()] == [2]
    # ... and given up when it is none.
    camera = Camera(merge_s=0.2, min_duration_s=0.3).scores(2, 2, 2, 2, 0, 2, 2, 0)
    assert [event.alarms for event in camera.ended()] == [1]
    assert camera.ended()[0].end_frame == 3


def test_alarms_within_the_cooldown_are_counted_and_told_with_the_next_event() -> None:
    camera = Camera(cooldown_s=1.0).scores(2, 0, 2, 0, 2, 2, 0, *[0] * 5, 2, 0)
    assert camera.pairs() == [(0, "started"), (1, "ended"), (12, "started"), (13, "ended")]
    assert [event.suppressed for event in camera.ended()] == [0, 2]
    assert camera.tracker.suppressed == 2
    assert camera.tracker.events == 2


def test_an_alarm_that_outlasts_the_cooldown_starts_its_event_there() -> None:
    camera = Camera(cooldown_s=1.0).scores(2, 0, 0, *[2] * 12, 0)
    assert camera.pairs() == [(0, "started"), (1, "ended"), (10, "started"), (15, "ended")]
    last = camera.ended()[1]
    assert (last.start_s, last.start_frame, last.suppressed) == (at(10), 10, 0)
    tail = Camera(cooldown_s=1.0).scores(2, 0, 0, *[2] * 5, *[0.7] * 4, 2, 0)
    assert tail.ended()[1].start_frame == 12
    tail = Camera(cooldown_s=1.0).scores(2, 0, 0, *[2] * 5, *[0.7] * 4, 0)
    assert len(tail.ended()) == tail.tracker.suppressed == 1


def test_an_endless_alarm_is_cut_into_events_whatever_the_cooldown() -> None:
    camera = Camera(longest_s=0.5, cooldown_s=60.0).scores(*[2] * 12, 0)
    assert camera.pairs() == [
        (0, "started"),
        (5, "ended"),
        (5, "started"),
        (10, "ended"),
        (10, "started"),
        (12, "ended"),
    ]
    assert [e.ended_by for e in camera.ended()] == ["longest", "longest", "score"]
    assert [(e.start_frame, e.end_frame) for e in camera.ended()] == [(0, 4), (5, 9), (10, 11)]


def test_merging_does_not_make_an_event_endless() -> None:
    camera = Camera(longest_s=1.0, merge_s=0.2).scores(*[2, 0] * 40)
    camera.add(camera.tracker.stop(UNIX))
    assert len(camera.ended()) == 8
    assert all(e.end_s - e.start_s <= 1.0 for e in camera.ended() if e.end_s is not None)


def test_a_hole_ends_an_alarm_at_its_last_frame() -> None:
    camera = Camera().scores(2, 2)
    camera.add(camera.tracker.hole(UNIX + 500))
    camera.add(camera.tracker.hole(UNIX + 500))
    assert camera.pairs() == [(0, "started"), (2, "ended")]
    ended = camera.ended()[0]
    assert (ended.ended_by, ended.end_s) == ("hole", pytest.approx(at(1)))
    assert not camera.tracker.alarm


def test_a_short_hole_is_merged_over() -> None:
    camera = Camera(merge_s=0.3).scores(2, 2)
    camera.add(camera.tracker.hole(UNIX))
    camera.scores(None, 2, 0, 0, 0, 0)
    assert [(e.alarms, e.ended_by) for e in camera.ended()] == [(2, "score")]


def test_an_event_that_waits_for_a_merge_ends_though_no_frame_comes() -> None:
    camera = Camera(merge_s=5.0).scores(2, 0)
    camera.now_s += 5.9
    assert camera.tracker.tick() == []
    camera.now_s += 0.2
    camera.add(camera.tracker.tick())
    assert camera.pairs() == [(0, "started"), (2, "ended")]
    assert camera.ended()[0].end_s == at(0)


def test_an_alarm_ends_when_scores_stay_away() -> None:
    camera = Camera().scores(2)
    camera.now_s += BLIND_S - 1
    assert camera.tracker.tick() == []
    camera.now_s += 2
    camera.add(camera.tracker.tick())
    # Frames without a score, as of a camera that shows the same picture for ever.
    camera.scores(2, *[None] * (int(BLIND_S * FPS) + 2))
    assert [e.ended_by for e in camera.ended()] == ["hole", "hole"]
    assert camera.ended()[1].start_frame == camera.ended()[1].end_frame == 1


def test_a_stop_ends_everything_with_its_reason() -> None:
    camera = Camera().scores(2)
    camera.add(camera.tracker.stop(UNIX))
    assert [e.ended_by for e in camera.ended()] == ["stop"]
    held = Camera(merge_s=9.0).scores(2, 0)
    held.add(held.tracker.stop(UNIX))
    assert [e.ended_by for e in held.ended()] == ["score"]
    assert held.tracker.stop(UNIX) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_no_alarm(value: float) -> None:
    assert Camera().scores(value, value).told == []


def test_a_clock_that_is_set_does_not_stretch_an_event() -> None:
    camera = Camera().scores(2, 2)
    camera.unix_offset_s = -3600.0
    camera.scores(2, 0)
    ended = camera.ended()[0]
    assert ended.end_s is not None
    assert ended.end_s - ended.start_s == pytest.approx(0.2)


def test_the_names_of_its_media_are_part_of_an_event_from_its_start() -> None:
    tracker = EventTracker(
        "s",
        "c",
        Scoring(threshold=1.0),
        EventSettings(),
        "r",
        media_names=lambda event: (f"{event.id}.jpg", None),
    )
    scored = ScoredFrame(frame=frame(0, PIXELS), raw=2.0, score=2.0, alarm=True, status="scored")
    started = tracker.update(scored, UNIX)[0].event
    assert (started.snapshot, started.clip) == (f"{started.id}.jpg", None)
    assert tracker.stop(UNIX)[0].event.snapshot == started.snapshot


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_scores_starts_and_ends_alternate_and_nothing_overlaps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    camera = Camera(
        min_duration_s=float(rng.choice([0, 0.2])),
        merge_s=float(rng.choice([0, 0.3, 1.0])),
        cooldown_s=float(rng.choice([0, 0.7, 3.0])),
        longest_s=float(rng.choice([0.4, 2.0, 100.0])),
    )
    for _ in range(300):
        kind = rng.random()
        if kind < 0.02:
            camera.add(camera.tracker.hole(UNIX))
        elif kind < 0.1:
            camera.scores(None)
        else:
            camera.scores(float(rng.choice([0.0, 0.7, 1.5, 4.0])))
    camera.add(camera.tracker.stop(UNIX))
    kinds = [change.kind for _, change in camera.told]
    assert kinds == ["started", "ended"] * (len(kinds) // 2)
    assert len(kinds) >= 4
    for (_, start), (_, end) in zip(camera.told[::2], camera.told[1::2], strict=True):
        assert start.event.id == end.event.id
    events = camera.ended()
    for event in events:
        assert event.end_s is not None
        assert event.start_s <= event.peak_s <= event.end_s + 1e-6
    for before, after in itertools.pairwise(events):
        # Only what follows a cut may be the tail of an alarm.
        assert after.peak_score >= 1.0 or before.ended_by == "longest"
        assert before.end_s is not None
        assert before.end_s < after.start_s
        assert before.id < after.id
    waiting = camera.tracker.suppressed - sum(event.suppressed for event in events)
    assert waiting >= 0


def test_identifiers_are_uuids_of_version_7_that_hold_the_time() -> None:
    parsed = uuid.UUID(_Ids(lambda: 1645557742.0).new())  # the example of RFC 9562, A.6
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert str(parsed).startswith("017f22e2-79b0-7")


def test_identifiers_rise_also_when_the_clock_is_set_back_and_the_counter_runs_full() -> None:
    times = iter([1000.0] * 5000 + [5.0] * 5000)
    ids = _Ids(lambda: next(times))
    made = [ids.new() for _ in range(10000)]
    assert made == sorted(set(made))
    assert {uuid.UUID(one).version for one in made} == {7}


def test_threads_never_get_the_same_identifier() -> None:
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda: made.extend(new_event_id() for _ in range(500)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 2000
