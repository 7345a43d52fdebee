"""Clip points from histograms, against brute force on the values themselves."""

import numpy as np
import pytest

from vad_calibration.histograms import METHODS, MagnitudeHistogram, Method, limit_of
from vad_calibration.limits import SMALLEST_LIMIT

COUNT = 200_000
SAMPLES = ["gaussian", "laplacian", "relu", "heavy", "uniform", "shifted"]


def sample(name: str, count: int = COUNT) -> np.ndarray:
    rng = np.random.default_rng(5)
    drawn = {
        "gaussian": lambda: rng.standard_normal(count),
        "laplacian": lambda: rng.laplace(size=count) * 0.01,
        "relu": lambda: np.maximum(rng.standard_normal(count), 0) * 30,
        "heavy": lambda: rng.standard_t(2.5, count),
        "uniform": lambda: rng.uniform(-1, 1, count),
        "shifted": lambda: rng.normal(3, 0.2, count),
    }
    return drawn[name]().astype(np.float32)


def limit(values: np.ndarray, method: Method, **options: float) -> float:
    histogram = MagnitudeHistogram()
    histogram.add(np.asarray(values, np.float32))
    return limit_of(histogram, method, **options)


def squared_error(values: np.ndarray, clip: float) -> float:
    step = clip / 127
    levels = np.clip(np.rint(values.astype(np.float64) / step), -127, 127)
    return float(np.mean((levels * step - values) ** 2))


@pytest.mark.parametrize("name", SAMPLES)
def test_minmax_is_the_largest_value_exactly(name: str) -> None:
    values = sample(name)
    assert limit(values, "minmax") == np.abs(values).max()


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("percentile", [60.0, 99.0, 99.9, 99.99])
def test_a_percentile_is_that_of_the_values_within_a_bin(name: str, percentile: float) -> None:
    values = sample(name)
    found = limit(values, "percentile", percentile=percentile)
    # Half of the relu's values are zeros; they count. Rounding decides which neighbour it is.
    rank = round(COUNT * percentile / 100)
    lowest, highest = np.sort(np.abs(values))[[rank - 1, rank]]
    assert lowest * (1 - 1 / 512) <= found <= highest * (1 + 1 / 512)


def test_the_hundredth_percentile_is_the_largest_value() -> None:
    values = sample("heavy")
    assert limit(values, "percentile", percentile=100) == np.abs(values).max()


def test_a_percentile_among_the_zeros_gives_the_largest_value() -> None:
    values = np.zeros(100_000, np.float32)
    values[:3] = [1, 2, 3]
    assert limit(values, "percentile") == 3


@pytest.mark.parametrize("name", SAMPLES)
def test_mse_is_about_as_good_as_the_best_of_a_thousand_clip_points(name: str) -> None:
    values = sample(name, 50_000)
    top = float(np.abs(values).max())
    best = min(squared_error(values, clip) for clip in np.geomspace(top / 1000, top, 1000))
    assert squared_error(values, limit(values, "mse")) <= 1.03 * best


def test_mse_clips_the_tail_where_minmax_keeps_it() -> None:
    values = sample("heavy")
    clip = limit(values, "mse")
    assert clip < 0.8 * limit(values, "minmax")
    assert squared_error(values, clip) < 0.8 * squared_error(values, limit(values, "minmax"))


def test_mse_is_exact_about_values_that_fall_on_few_levels() -> None:
    # Steps coarser than the bins: a limit that holds all three values exactly has no error.
    values = np.tile(np.float32([1.0, 64.0, 127.0]), 1000)
    assert squared_error(values, limit(values, "mse")) < 1e-3


def direct_entropy_limit(values: np.ndarray) -> float:
    """The KL method on a linear histogram of the raw values, written out with plain loops."""
    magnitudes = np.abs(values[values != 0]).astype(np.float64)
    top = magnitudes.max()
    counts, _ = np.histogram(magnitudes, bins=2048, range=(0, top))
    counts[:8] = 0
    best, least = 2048, np.inf
    for bins in range(128, 2049, 16):
        p = counts[:bins].astype(np.float64)
        p[-1] += counts[bins:].sum()
        q = np.zeros(bins)
        for level in range(128):
            low, high = level * bins // 128, (level + 1) * bins // 128
            nonempty = np.flatnonzero(p[low:high]) + low
            if len(nonempty):
                q[nonempty] = counts[low:high].sum() / len(nonempty)
        share = q.sum() / p.sum()
        p, q = p / p.sum(), q / q.sum()
        divergence = -np.log(share) - (1 - share)
        divergence += sum(a * np.log(a / max(b, 1e-12)) for a, b in zip(p, q, strict=True) if a > 0)
        if divergence < least:
            best, least = bins, divergence
    return float(top * best / 2048)


@pytest.mark.parametrize("name", ["gaussian", "laplacian", "relu", "heavy"])
def test_entropy_is_near_the_same_method_on_the_raw_values(name: str) -> None:
    values = sample(name)
    assert limit(values, "entropy") == pytest.approx(direct_entropy_limit(values), rel=0.1)


def test_entropy_keeps_values_that_lie_far_from_zero() -> None:
    # A grey picture: nothing near zero. Clipping all but one bin would leave P = Q.
    assert limit(sample("shifted"), "entropy") > 3.2


def test_entropy_behind_a_leaky_relu_looks_at_the_signal() -> None:
    values = sample("gaussian")
    leaky = np.where(values > 0, values, 0.01 * values)
    assert np.mean(values[values > 0] > limit(leaky, "entropy")) < 1e-3


def test_entropy_does_not_see_the_zeros() -> None:
    values = sample("relu")
    more = np.concatenate([values, np.zeros(COUNT, np.float32)])
    assert (
        limit(more, "entropy") == limit(values, "entropy") == limit(values[values > 0], "entropy")
    )


@pytest.mark.parametrize("outlier", [100, 1e4, 1e8])
def test_entropy_clips_a_single_far_outlier(outlier: float) -> None:
    values = np.append(sample("gaussian"), np.float32(outlier))
    assert 2.5 < limit(values, "entropy") < 10


def test_entropy_keeps_all_of_a_distribution_without_a_tail() -> None:
    assert limit(sample("uniform"), "entropy") > 0.95


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SAMPLES)
def test_a_limit_lies_within_the_values_and_scales_with_them(name: str, method: Method) -> None:
    values = sample(name, 20_000)
    found = limit(values, method)
    assert 0 < found <= np.abs(values).max()
    # Bins repeat in every octave, so powers of two change nothing else.
    assert limit(values * np.float32(2**-6), method) == pytest.approx(found * 2**-6, rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_without_anything_in_it_gets_the_smallest_limit(method: Method) -> None:
    assert limit(np.zeros(100), method) == SMALLEST_LIMIT > 0
    assert limit_of(MagnitudeHistogram(), method) == SMALLEST_LIMIT
    assert limit(np.full(10, 1e-30), method) == SMALLEST_LIMIT


def test_the_smallest_scale_is_still_a_number_in_half_precision() -> None:
    assert np.float16(SMALLEST_LIMIT / 127) > 0
    assert np.float16(SMALLEST_LIMIT / 127 / 2.1) == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [1.0, 0.7, 255.0, 3e20])
def test_a_single_value_is_its_own_limit(method: Method, value: float) -> None:
    values = np.full(1000, value, np.float32)
    assert limit(values, method) == pytest.approx(value, rel=1 / 256)
