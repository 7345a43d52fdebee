"""Timing of several callables side by side."""

import threading
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

import vad_export.timing as timing
from vad_export.timing import LEAST_ROUNDS, Times, interleaved


class Clock:
    """A clock that moves only when somebody works."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def work(self, seconds: float) -> Callable[[int], None]:
        """Return a callable that takes so long."""

        def call(_turn: int) -> None:
            self.now_s += seconds

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "perf_counter", clock)
    return clock


def recorded(seed: int, rounds: int = 20) -> list[tuple[str, int]]:
    """Return who was called in which round, warm-up included."""
    order: list[tuple[str, int]] = []
    calls: dict[str, Callable[[int], object]] = {
        name: lambda turn, name=name: order.append((name, turn))  # type: ignore[misc]
        for name in "ABC"
    }
    interleaved(calls, rounds=rounds, seed=seed)
    return order


def test_every_round_calls_each_once_in_an_order_drawn_anew() -> None:
    order = recorded(seed=0)
    rounds = [order[i : i + 3] for i in range(0, len(order), 3)]
    assert len(rounds) == 2 + 20
    assert all(sorted(name for name, _ in turn) == ["A", "B", "C"] for turn in rounds)
    assert [{turn for _, turn in group} for group in rounds[2:]] == [{i} for i in range(20)]
    assert len({tuple(name for name, _ in turn) for turn in rounds}) > 3
    # Nobody is always after the same one.
    after_a = {later[0] for first, later in pairwise(order) if first[0] == "A"}
    assert after_a >= {"B", "C"}


def test_the_order_follows_from_the_seed() -> None:
    assert recorded(seed=1) == recorded(seed=1)
    assert recorded(seed=1) != recorded(seed=2)


def test_the_rounds_that_warm_up_are_not_counted(clock: Clock) -> None:
    calls = 0

    def slow_at_first(_turn: int) -> None:
        nonlocal calls
        calls += 1
        clock.now_s += 5.0 if calls <= 2 else 0.010

    times = interleaved({"A": slow_at_first}, rounds=8)["A"]
    assert (calls, times.rounds) == (10, 8)
    np.testing.assert_allclose(times.wall_ms, 10.0)


def test_percentiles_are_those_of_the_wall_time() -> None:
    times = Times(wall_ms=np.arange(101.0), cpu_ms=np.full(101, 7.0))
    assert (times.median_ms, times.p95_ms, times.percentile_ms(10)) == (50.0, 95.0, 10.0)
    assert (times.cpu_median_ms, times.rounds) == (7.0, 101)


def test_it_stops_before_the_time_is_over(clock: Clock) -> None:
    # A round takes 3 s. The warm-up and eight rounds end at 30 s; a ninth would end at 33 s.
    calls = {"A": clock.work(1.0), "B": clock.work(2.0)}
    times = interleaved(calls, rounds=1000, max_s=32.0)
    assert times["A"].rounds == times["B"].rounds == 8
    assert clock.now_s == 30.0
    assert times["B"].median_ms == pytest.approx(2000)


def test_it_makes_the_least_number_of_rounds_however_long_they_take(clock: Clock) -> None:
    times = interleaved({"A": clock.work(100.0)}, rounds=30, max_s=1.0)["A"]
    assert times.rounds == LEAST_ROUNDS


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 5"):
        interleaved({"A": lambda turn: None}, rounds=4)


def test_cpu_time_counts_all_threads() -> None:
    spent_s: list[float] = []

    def busy() -> None:
        start = time.thread_time()
        while time.thread_time() - start < 0.010:
            pass
        spent_s.append(time.thread_time() - start)

    def two_threads(_turn: int) -> None:
        workers = [threading.Thread(target=busy) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    times = interleaved({"two": two_threads, "idle": lambda turn: time.sleep(0.005)}, rounds=5)
    assert len(spent_s) == 14
    # Each round's two threads; this thread only waits for them.
    assert times["two"].cpu_ms.min() >= 19.5
    # Sleeping takes time on the clock and none of the processor's.
    assert times["idle"].median_ms >= 5.0
    assert times["idle"].cpu_median_ms < 2.5
