"""Cameras that are faster or slower than the footage that the model was trained on."""

import numpy as np
import pytest

from vad_runtime.sources.pace import Even, Pace, RateMeter


def kept(nominal_fps: float, times: "np.ndarray") -> list[float]:
    """Return the times of the frames that are kept."""
    pace = Pace(nominal_fps)
    return [float(t) for t in times if pace.keep(float(t))]


def test_every_second_frame_of_a_camera_that_is_twice_as_fast_is_kept() -> None:
    assert kept(25, np.arange(9) / 50) == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])


@pytest.mark.parametrize("camera_fps", [29.97, 30, 37.5, 48, 50, 60, 120])
def test_the_mean_rate_is_exact_over_an_hour(camera_fps: float) -> None:
    found = kept(25, np.arange(int(600 * camera_fps)) / camera_fps)
    assert len(found) == pytest.approx(600 * 25, abs=2)


def test_jitter_of_the_clock_changes_neither_the_rate_nor_the_order() -> None:
    rng = np.random.default_rng(1)
    times = np.arange(3000) / 50 + rng.uniform(-0.004, 0.004, 3000)
    found = np.array(kept(25, times))
    assert len(found) == pytest.approx(1500, abs=3)
    assert np.diff(found).min() > 0.02
    assert np.diff(found).max() < 0.065


def test_no_frame_of_a_slower_camera_is_lost_and_none_is_repeated() -> None:
    times = np.arange(200) / 12
    assert kept(25, times) == times.tolist()


def test_a_gap_does_not_make_the_frames_behind_it_come_in_a_burst() -> None:
    times = np.concatenate([np.arange(50) / 50, 100 + np.arange(50) / 50])
    assert len(kept(25, times)) == 50


def test_the_grid_starts_anew_at_a_hole() -> None:
    pace = Pace(25)
    assert pace.keep(10.0)
    assert not pace.keep(10.02)
    pace.restart()
    assert pace.keep(10.03)


def test_without_a_nominal_rate_every_frame_is_kept() -> None:
    pace = Pace(None)
    assert all(pace.keep(i / 240) for i in range(100))
    assert not pace.faster(240)
    assert pace.slower(1) is None


def test_a_camera_within_a_tenth_of_the_rate_is_neither_faster_nor_slower() -> None:
    pace = Pace(25)
    assert not pace.faster(27.4)
    assert pace.faster(28)
    assert pace.slower(23) is None
    assert pace.slower(12.5) == pytest.approx(2.0)
    assert pace.slower(0.0) is None


def fed(meter: RateMeter, fps: float, seconds: float, start_s: float) -> list[float]:
    """Feed frames of one rate; return the times at which the meter saw a change."""
    times = start_s + np.arange(int(seconds * fps)) / fps
    return [float(t) for t in times if meter.add(float(t))]


def test_the_rate_is_known_after_two_seconds() -> None:
    meter = RateMeter()
    fed(meter, 25, 1.9, 0.0)
    assert meter.fps is None
    fed(meter, 25, 0.4, 1.9)
    assert meter.fps == pytest.approx(25, rel=0.03)


def test_a_change_of_rate_is_seen_once_and_within_a_few_seconds() -> None:
    meter = RateMeter()
    assert fed(meter, 25, 10, 0.0) == []
    changes = fed(meter, 12.5, 20, 10.0)
    assert len(changes) == 1
    assert 12 < changes[0] < 17
    assert meter.fps == pytest.approx(12.5, rel=0.1)


def test_a_hiccup_of_a_second_is_no_change_of_rate() -> None:
    meter = RateMeter()
    fed(meter, 25, 6.0, 0.0)
    assert fed(meter, 5, 1.0, 6.0) == []
    assert fed(meter, 25, 10.0, 7.0) == []
    assert meter.fps == pytest.approx(25, rel=0.15)


def test_frames_that_are_missing_do_not_count_as_a_lower_rate() -> None:
    meter = RateMeter()
    fed(meter, 25, 3.0, 0.0)
    for start_s in range(100, 2000, 10):
        meter.restart()
        assert fed(meter, 25, 3.0, float(start_s)) == []
    assert meter.fps == pytest.approx(25, rel=0.03)


def test_what_lies_between_two_connections_is_no_part_of_the_rate() -> None:
    meter = RateMeter()
    meter.expect(None)
    fed(meter, 25, 1.0, 0.0)
    meter.expect(None)
    fed(meter, 25, 3.0, 60.0)
    assert meter.fps == pytest.approx(25, rel=0.03)


def test_a_promise_that_the_camera_does_not_keep_is_a_change_of_rate() -> None:
    meter = RateMeter()
    meter.expect(25)
    assert meter.fps == 25
    assert not meter.measured
    assert len(fed(meter, 10, 10.0, 0.0)) == 1
    assert meter.measured
    assert meter.fps == pytest.approx(10, rel=0.1)


def test_what_was_measured_is_worth_more_than_what_a_new_connection_promises() -> None:
    meter = RateMeter()
    meter.expect(25)
    fed(meter, 10, 10.0, 0.0)
    meter.expect(25)
    assert meter.fps == pytest.approx(10, rel=0.1)
    assert fed(meter, 10, 10.0, 50.0) == []


def test_bursts_are_spread_out_and_a_late_one_moves_the_rest() -> None:
    even, now_s, given = Even(), 100.0, []
    for i in range(300):  # segments of 4 s at 25 a second; the third comes a second late
        now_s = max(now_s, 100.0 + i // 100 * 4 + (i >= 200))
        given.append(now_s)
        now_s += even.wait_s(7.0 + i / 25, now_s)
    steps = np.diff(given)
    assert max(np.delete(steps, 199)) < 0.081  # the burst itself would be 100 at once, then 4 s
    assert np.count_nonzero(steps < 0.039) < 4
    assert steps[199] == pytest.approx(1.08)


def test_a_jump_of_the_streams_clock_is_not_waited_for() -> None:
    even = Even()
    assert [even.wait_s(pts_s, 5.0) for pts_s in (0.0, 900.0, 900.04, 3.0)] == pytest.approx(
        [0.0, 0.0, 0.04, 0.0]
    )
