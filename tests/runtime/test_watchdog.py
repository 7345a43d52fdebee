"""Streams that raise no error and are not well, and how long to wait for lost ones."""

from itertools import count

import numpy as np
import pytest

from vad_runtime.contracts.site import ReconnectSettings
from vad_runtime.sources.backoff import WELL_S, Backoff
from vad_runtime.sources.watchdog import FreezeWatch, LagWatch, StallWatch

STEP_S = 0.04


def ceilings(backoff: Backoff, tries: int, *, refused: bool = False) -> list[float]:
    """Return the longest waits of the next tries, seconds."""
    return [round(backoff.wait_s(refused=refused), 6) for _ in range(tries)]


# -- backoff -------------------------------------------------------------------------------------


def test_the_longest_wait_doubles_up_to_the_cap() -> None:
    backoff = Backoff(ReconnectSettings(), uniform=lambda _low, high: high)
    assert ceilings(backoff, 6) == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]


def test_a_wait_may_be_as_short_as_nothing() -> None:
    backoff = Backoff(ReconnectSettings(), uniform=lambda low, _high: low)
    assert ceilings(backoff, 3) == [0.0, 0.0, 0.0]


def test_waits_are_spread_over_the_whole_range() -> None:
    backoff = Backoff(ReconnectSettings(first_s=2.0, longest_s=2.0))
    waits = ceilings(backoff, 400)
    assert min(waits) < 0.2
    assert max(waits) > 1.8
    assert 0.8 < float(np.mean(waits)) < 1.2


def test_a_camera_that_refuses_us_is_never_asked_quickly() -> None:
    low = Backoff(ReconnectSettings(), uniform=lambda low, _high: low)
    high = Backoff(ReconnectSettings(), uniform=lambda _low, high: high)
    assert ceilings(low, 3, refused=True) == [15.0, 15.0, 15.0]
    assert ceilings(high, 3, refused=True) == [30.0, 30.0, 30.0]


def test_only_a_stream_that_was_well_for_a_while_starts_the_waits_anew() -> None:
    backoff = Backoff(ReconnectSettings(), uniform=lambda _low, high: high)
    ceilings(backoff, 5)
    backoff.ended(WELL_S - 1)
    assert ceilings(backoff, 1) == [2.0]
    backoff.ended(WELL_S)
    assert ceilings(backoff, 2) == [0.25, 0.5]


def test_a_month_of_tries_does_not_overflow() -> None:
    backoff = Backoff(ReconnectSettings(), uniform=lambda _low, high: high)
    backoff.tries = 10**7
    assert backoff.wait_s() == 2.0


# -- stall ---------------------------------------------------------------------------------------


def test_a_stream_is_stalled_when_no_frame_has_come_for_so_long() -> None:
    watch = StallWatch(3.0)
    assert watch.left_s(100.0) is None
    watch.started(100.0)
    assert watch.left_s(101.0) == 2.0
    watch.frame(102.0)
    assert watch.left_s(104.5) == 0.5
    assert watch.left_s(106.0) == -1.0
    watch.ended()
    assert watch.left_s(200.0) is None


# -- frozen picture ------------------------------------------------------------------------------


def pictures(level: int) -> np.ndarray:
    """Return a grey frame of one level."""
    return np.full((8, 8, 1), level, np.uint8)


def test_the_same_picture_for_long_enough_is_frozen_until_another_comes() -> None:
    watch = FreezeWatch(10.0)
    assert [watch.frame(pictures(7), t) for t in (0.0, 5.0, 9.9)] == [False, False, False]
    assert watch.frame(pictures(7), 10.0)
    assert watch.frame(pictures(7), 500.0)
    assert not watch.frame(pictures(8), 500.04)
    assert not watch.frame(pictures(8), 510.0)
    assert watch.frame(pictures(8), 510.04)


def test_one_pixel_of_noise_is_a_living_camera() -> None:
    watch = FreezeWatch(1.0)
    for i in range(200):
        picture = pictures(100)
        picture[i % 8, 0, 0] += i % 2
        assert not watch.frame(picture, i * STEP_S)


def test_the_watch_for_frozen_pictures_can_be_switched_off() -> None:
    watch = FreezeWatch(1e9)
    assert not any(watch.frame(pictures(1), i * 3600.0) for i in range(1000))


# -- lag -----------------------------------------------------------------------------------------


def test_a_decoder_that_keeps_up_is_never_behind() -> None:
    watch = LagWatch(3.0)
    for i in range(1000):
        assert not watch.frame(i * STEP_S, 50 + i * STEP_S, waited_s=0.03)
    assert watch.behind_s < 0.01


def test_a_decoder_that_takes_twice_as_long_is_behind_within_seconds() -> None:
    watch = LagWatch(3.0)
    for i in count():
        now_s = 2 * i * STEP_S
        if watch.frame(i * STEP_S, now_s, waited_s=0.0001):
            break
    assert 6.0 < now_s < 9.0
    assert watch.behind_s > 3.0


@pytest.mark.parametrize("speed", [0.2, 0.9])
def test_a_slow_network_or_clock_is_not_the_decoders_fault(speed: float) -> None:
    watch = LagWatch(3.0)
    for i in range(1000):
        now_s = i * STEP_S / speed
        assert not watch.frame(i * STEP_S, now_s, waited_s=0.5 * STEP_S / speed)
    assert watch.behind_s < 0.1


def test_a_burst_after_a_hiccup_of_the_network_is_no_lag() -> None:
    watch = LagWatch(3.0)
    for i in range(50):
        watch.frame(i * STEP_S, i * STEP_S, waited_s=0.03)
    for i in range(50, 150):  # four seconds of frames, all at once, after four seconds of nothing
        waited_s = 4.0 if i == 50 else 0.0
        assert not watch.frame(i * STEP_S, 6.0 + (i - 50) * 0.001, waited_s)
    assert watch.behind_s < 0.1


def test_a_decoder_that_was_behind_drops_until_half_of_it_is_made_up() -> None:
    watch = LagWatch(3.0)
    for i in count():
        now_s = 2 * i * STEP_S
        if watch.frame(i * STEP_S, now_s, waited_s=0.0):
            break
    in_step_s = i * STEP_S + watch.behind_s
    assert watch.frame(in_step_s - 2.0, now_s, waited_s=0.0), "a key frame that is two seconds old"
    assert not watch.frame(in_step_s - 1.0, now_s, waited_s=0.0)
    assert not watch.frame(in_step_s - 2.0, now_s, waited_s=0.0)


def test_a_jump_of_the_cameras_clock_is_forgotten_by_a_restart() -> None:
    watch = LagWatch(3.0)
    watch.frame(3600.0, 10.0, waited_s=0.0)
    watch.restart()
    assert not watch.frame(0.0, 10.04, waited_s=0.0)
    assert watch.behind_s == 0.0
