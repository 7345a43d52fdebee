"""Percentiles from constant memory."""

import math
import time

import numpy as np
import pytest

from vad_runtime.latency import Stage


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("scale_s", [20e-6, 5e-3, 2.0])
def test_percentiles_agree_with_numpy_to_one_and_a_half_percent(seed: int, scale_s: float) -> None:
    durations = np.random.default_rng(seed).lognormal(math.log(scale_s), 0.8, 5000)
    stage = Stage()
    for seconds in durations:
        stage.add(float(seconds))
    for q in (1, 25, 50, 90, 95, 99, 99.9):
        exact_ms = float(np.percentile(durations, q, method="inverted_cdf")) * 1e3
        assert stage.percentile_ms(q) == pytest.approx(exact_ms, rel=0.015)
    assert stage.percentile_ms(100) == pytest.approx(durations.max() * 1e3, rel=1e-12)


def test_the_largest_duration_is_exact_and_never_clipped() -> None:
    stage = Stage()
    for seconds in (0.001, 0.123456789, 123456.789):  # the last lies beyond the scale
        stage.add(seconds)
    assert stage.summary()["max_ms"] == pytest.approx(123456789.0, rel=1e-12)
    assert stage.percentile_ms(100) <= 123456789.0


def test_a_percentile_is_never_above_the_largest_duration() -> None:
    stage = Stage()
    stage.add(0.01)
    assert [stage.percentile_ms(q) for q in (0, 50, 100)] == [10.0, 10.0, 10.0]


@pytest.mark.parametrize("seconds", [0.0, 1e-12, -1e-9])
def test_a_duration_below_the_clock_is_counted(seconds: float) -> None:
    stage = Stage()
    stage.add(seconds)
    assert stage.count == 1
    assert stage.percentile_ms(50) <= 1e-4


def test_the_mean_is_exact() -> None:
    stage = Stage()
    for ms in (1, 2, 6):
        stage.add(ms / 1e3)
    summary = stage.summary()
    assert summary["mean_ms"] == 3.0
    assert summary["count"] == 3
    assert list(summary) == ["count", "mean_ms", "p50_ms", "p95_ms", "p99_ms", "max_ms"]


def test_nothing_measured_gives_no_figures() -> None:
    stage = Stage()
    assert stage.summary() == {"count": 0}
    assert math.isnan(stage.percentile_ms(50))


def test_a_with_block_is_timed() -> None:
    stage = Stage()
    with stage.timed():
        time.sleep(0.02)
    assert stage.count == 1
    assert 20 <= stage.percentile_ms(50) < 2000


def test_memory_does_not_grow_with_the_number_of_durations() -> None:
    stage = Stage()
    before = stage._counts.nbytes
    for i in range(20_000):
        stage.add(i * 1e-5)
    assert stage._counts.nbytes == before < 50_000
    assert stage.count == 20_000
