"""Deadlines, late clips, batches: what is decided, without any engine or clock."""

import math
from itertools import pairwise

import msgspec
import pytest
from helpers import assert_one_line
from helpers_live import live_manifest

from vad_runtime.contracts import ScoreSpec
from vad_runtime.live.batching import RunTimes, Waiting, order, pick
from vad_runtime.live.deadlines import LatePolicy, longest_hop, target_s
from vad_runtime.live.meters import BusyGauge, RateGauge, Sparkline


def policy(kind: str, said: list[str], *, hop: int = 4, longest: int = 16) -> LatePolicy:
    return LatePolicy("gate", kind, hop=hop, longest=longest, say=said.append)  # type: ignore[arg-type]


def waiting(
    name: str, deadline_s: float, *, since_s: float = 0.0, more: float = 0.0
) -> Waiting[str]:
    return Waiting(item=name, deadline_s=deadline_s, urgency_s=deadline_s - more, since_s=since_s)


def times(**runs_s: float) -> RunTimes:
    """Return measured times: `times(n1=0.01, n4=0.02)`."""
    measured = RunTimes()
    for name, seconds in runs_s.items():
        measured.add(int(name[1:]), seconds)
    return measured


# -- deadlines -----------------------------------------------------------------------------------


def test_the_budget_is_the_time_to_the_next_clip_unless_the_operator_names_one() -> None:
    assert target_s(None, hop=16, fps=25) == pytest.approx(0.64)
    assert target_s(100.0, hop=16, fps=25) == pytest.approx(0.1)


def test_a_hop_widens_only_as_far_as_every_frame_is_still_scored() -> None:
    assert longest_hop(live_manifest(frames=16, hop=4), 4) == 16
    assert longest_hop(live_manifest(frames=8, hop=2, stride=2), 2) == 16
    assert longest_hop(live_manifest(frames=4, hop=40), 40) == 40
    ahead = msgspec.structs.replace(
        live_manifest(frames=20, hop=4), score=ScoreSpec(per="frame", form="ahead", count=16)
    )
    assert longest_hop(ahead, 4) == 16


# -- policies ------------------------------------------------------------------------------------


def test_drop_oldest_skips_counts_and_says_so_once() -> None:
    said: list[str] = []
    late = policy("drop-oldest", said)
    assert [late.judge(i * 0.2, target_s=0.1) for i in range(3)] == ["skip"] * 3
    assert (late.skipped, len(said)) == (3, 1)
    assert late.head_start > 3
    assert "gate" in said[0]
    assert "100 ms" in said[0]
    late.scored(1.0)
    assert (late.skipped, late.behind) == (3, True)
    assert late.head_start < 3
    late.scored(10.5)
    assert not late.behind
    assert "3 clips were left out" in said[1]


def test_widen_hop_doubles_up_to_its_end_and_then_drops() -> None:
    said: list[str] = []
    late = policy("widen-hop", said, hop=4, longest=12)
    verdicts = [late.judge(float(i), target_s=0.1) for i in range(3)]
    assert verdicts == ["run", "run", "skip"]
    assert late.hop == 12
    assert [line.split(": ")[-1] for line in said[:2]] == [
        "hop 4 -> 8 (policy widen-hop)",
        "hop 8 -> 12 (policy widen-hop)",
    ]
    late.scored(11.9)
    assert late.hop == 12
    for now_s in (12.1, 22.2, 32.3):
        late.scored(now_s)
    assert late.hop == 4
    assert not late.behind
    assert len(said) == 6


def test_error_is_the_verdict_on_the_first_clip_that_would_be_skipped() -> None:
    late = policy("error", [])
    assert late.judge(1.0, target_s=0.1) == "error"
    assert_one_line(late.error(0.1), "gate", "100 ms", "target_ms")


def test_a_stream_at_the_edge_is_tried_ever_more_rarely() -> None:
    said: list[str] = []
    late = policy("widen-hop", said, hop=4, longest=8)
    now_s, changes = 0.0, []
    while now_s < 3600:  # too slow at hop 4, in time at hop 8
        if late.hop == 4:
            late.judge(now_s, target_s=0.1)
            changes.append(now_s)
        late.scored(now_s + 0.1)
        now_s += 0.5
    gaps = [b - a for a, b in pairwise(changes)]
    assert len(changes) < 15
    assert gaps[0] == pytest.approx(10, abs=1)
    assert gaps[-1] == pytest.approx(600, abs=1)


def test_after_a_long_good_time_it_is_tried_soon_again() -> None:
    late = policy("drop-oldest", [])
    for start_s in (0.0, 11.0, 40.0):
        late.judge(start_s, target_s=0.1)
        late.scored(start_s + 10.5)
    assert late.behind  # the third lateness came soon after the second: 10 s are not enough
    late.scored(90.0)
    late.judge(5000.0, target_s=0.1)
    late.scored(5010.5)
    assert not late.behind


# -- who runs next -------------------------------------------------------------------------------


def test_one_at_a_time_the_earliest_deadline_is_first_and_recordings_are_last() -> None:
    ready = [waiting("file", math.inf), waiting("b", 2.0), waiting("a", 1.0)]
    assert [one.item for one in order(ready)] == ["a", "b", "file"]
    picked = pick(ready, 0.0, largest=1, more=5, times=RunTimes())
    assert picked.run == ["a"]


def test_a_stream_whose_clips_were_skipped_overtakes() -> None:
    ready = [waiting("a", 1.0), waiting("b", 1.2, more=0.64)]
    assert pick(ready, 0.0, largest=1, more=0, times=RunTimes()).run == ["b"]


def test_recordings_take_turns() -> None:
    ready = [waiting("late", math.inf, since_s=5.0), waiting("early", math.inf, since_s=4.0)]
    assert pick(ready, 9.0, largest=1, more=0, times=RunTimes()).run == ["early"]


def test_a_full_batch_runs_at_once_with_the_most_urgent() -> None:
    ready = [waiting(name, 1.0 + i) for i, name in enumerate("abc")]
    assert pick(ready, 0.0, largest=2, more=9, times=times(n1=0.01)).run == ["a", "b"]


def test_a_batch_waits_for_more_only_as_long_as_a_run_takes() -> None:
    ready = [waiting("a", 10.0, since_s=5.0)]
    held = pick(ready, 5.0, largest=4, more=3, times=times(n1=0.02))
    assert held.run == []
    assert held.until_s == pytest.approx(5.02)
    assert pick(ready, held.until_s, largest=4, more=3, times=times(n1=0.02)).run == ["a"]


def test_a_batch_waits_for_nobody_when_nobody_can_come() -> None:
    ready = [waiting("a", 10.0, since_s=5.0), waiting("b", 10.0, since_s=5.0)]
    assert pick(ready, 5.0, largest=4, more=0, times=times(n1=0.02)).run == ["a", "b"]


def test_a_clip_is_never_held_beyond_the_last_moment_that_keeps_its_deadline() -> None:
    measured = times(n1=0.1, n2=0.12)
    ready = [waiting("a", 5.2, since_s=5.0)]
    held = pick(ready, 5.0, largest=4, more=3, times=measured)
    assert held.until_s == pytest.approx(5.2 - 0.12 - 0.005)
    assert pick(ready, 5.08, largest=4, more=3, times=measured).run == ["a"]


def test_a_recording_does_not_make_a_cameras_batch_larger() -> None:
    ready = [waiting("file", math.inf), waiting("a", 1.0)]
    assert pick(ready, 0.9999, largest=2, more=0, times=RunTimes()).run == ["a"]


def test_unknown_batches_are_guessed_from_the_nearest() -> None:
    assert RunTimes().expected_s(4) == 0.0
    measured = times(n2=0.1)
    assert measured.expected_s(4) == pytest.approx(0.2)
    assert measured.expected_s(1) == pytest.approx(0.1)
    for _ in range(100):
        measured.add(2, 0.2)
    assert measured.expected_s(2) == pytest.approx(0.2, rel=0.01)


# -- gauges --------------------------------------------------------------------------------------


def test_a_rate_is_the_same_whether_frames_come_evenly_or_in_bursts() -> None:
    rate = RateGauge()
    assert rate.value(0.0) == 0.0
    for i in range(1000):
        rate.add(i * 0.04)
    assert rate.value(40.0) == pytest.approx(25.0)
    assert rate.value(46.0) == 0.0


def test_a_sparkline_keeps_the_largest_of_each_second_and_shows_gaps() -> None:
    line = Sparkline(length=5)
    assert line.values(100.0) == []
    for at, value in ((100.1, 1.0), (100.9, 3.0), (101.2, 2.0), (103.0, 4.0)):
        line.add(at, value)
    assert line.values(104.5) == [3.0, 2.0, None, 4.0, None]
    assert line.values(106.0) == [None, 4.0, None, None, None]
    assert line.values(500.0) == [None] * 5


def test_busy_is_the_share_of_the_last_ten_seconds() -> None:
    busy = BusyGauge(0.0)
    assert busy.value(0.0) == 0.0
    busy.add(0.5, 1.0)
    assert busy.value(1.0) == pytest.approx(0.5)
    busy.add(10.0, 15.0)
    assert busy.value(20.0) == pytest.approx(0.5)
    assert busy.value(40.0) == 0.0
