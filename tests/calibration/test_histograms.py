"""Streaming histograms of magnitudes."""

import itertools

import numpy as np
import pytest
from helpers import assert_one_line

from vad_calibration.histograms import (
    BINS,
    BYTES,
    METHODS,
    MagnitudeHistogram,
    bin_edges,
    limit_of,
)
from vad_runtime.contracts import ExportError


def histogram_of(*arrays: np.ndarray) -> MagnitudeHistogram:
    histogram = MagnitudeHistogram()
    for array in arrays:
        histogram.add(array)
    return histogram


def sample(count: int = 100_000, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(count).astype(np.float32)


def test_every_value_lies_in_the_bin_that_counts_it() -> None:
    edges = bin_edges()
    assert edges.shape == (BINS + 1,)
    assert (np.diff(edges) > 0).all()
    values = np.float32(2.0) ** np.linspace(-23.9, 39.9, 500, dtype=np.float32)
    for value in values:
        (index,) = np.flatnonzero(histogram_of(np.array([value])).counts)
        assert edges[index] <= value < edges[index + 1]


def test_the_counts_are_those_of_a_plain_histogram_over_the_same_edges() -> None:
    values = sample(600_000)  # more than two blocks
    values[::7] = 0
    histogram = histogram_of(values)
    expected, _ = np.histogram(np.abs(values[values != 0]).astype(np.float64), bin_edges())
    np.testing.assert_array_equal(histogram.counts, expected)
    assert histogram.zeros == np.count_nonzero(values == 0)
    assert histogram.count == values.size
    assert histogram.largest == np.abs(values).max()


def test_a_bin_is_at_most_a_512th_of_its_values_wide() -> None:
    edges = bin_edges()[1:]
    assert (np.diff(edges) / edges[:-1]).max() <= 1 / 512


def test_both_signs_of_zero_are_zeros_and_both_signs_of_a_value_are_one() -> None:
    histogram = histogram_of(np.array([0.0, -0.0, 1.5, -1.5], np.float32))
    assert (histogram.zeros, histogram.counts.max(), histogram.count) == (2, 2, 4)


def test_values_beyond_the_octaves_fall_into_the_outer_bins_and_the_largest_stays_true() -> None:
    histogram = histogram_of(np.array([1e-42, 1e-30, 2.0**-25, 1e13, -3e38], np.float32))
    assert (histogram.counts[0], histogram.counts[-1]) == (3, 2)
    assert histogram.largest == np.float32(3e38)
    assert limit_of(histogram, "minmax") == np.float32(3e38)


def test_the_order_and_the_pieces_do_not_matter() -> None:
    parts = [sample(1000 * (i + 1), seed=i) * np.float32(4**i) for i in range(4)]
    whole = histogram_of(np.concatenate(parts))
    for order in itertools.permutations(parts):
        merged = MagnitudeHistogram()
        for part in order:
            merged.merge(histogram_of(part))
        assert merged == whole
        assert histogram_of(*order) == whole
    assert histogram_of(*parts[:3]) != whole


def test_strided_and_scalar_and_empty_arrays_count_like_flat_ones() -> None:
    values = sample(24).reshape(2, 3, 4)
    assert histogram_of(values.transpose(2, 0, 1)) == histogram_of(values.reshape(-1))
    assert histogram_of(np.array(2.0, np.float32)).count == 1
    assert histogram_of(np.zeros((0, 4), np.float32)) == MagnitudeHistogram()


def test_the_values_are_not_changed() -> None:
    values = -np.abs(sample(1000))
    before = values.copy()
    histogram_of(values)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_by_the_tensors_name(bad: float) -> None:
    histogram = histogram_of(sample(10))
    before = histogram_of(sample(10))
    values = sample(300_000)
    values[299_999] = bad
    with pytest.raises(ExportError) as error:
        histogram.add(values, tensor="the tensor conv1_out")
    assert_one_line(error.value, "conv1_out", "not finite")
    assert histogram == before


def test_another_dtype_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="float64"):
        MagnitudeHistogram().add(np.zeros(3))  # type: ignore[arg-type]


def test_the_memory_is_the_same_for_one_value_and_for_many() -> None:
    assert histogram_of(sample(1)).bytes == histogram_of(sample(500_000)).bytes == BYTES
    assert BYTES == 256 * 1024


def test_the_counts_are_for_reading_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        histogram_of(sample(10)).counts[0] = 1


def test_a_histogram_comes_back_from_its_counts() -> None:
    for histogram in (histogram_of(sample()), MagnitudeHistogram(), histogram_of(np.float32([0]))):
        again = MagnitudeHistogram.from_counts(histogram.counts, histogram.zeros, histogram.largest)
        assert again == histogram
        again.add(sample(5))
        assert again != histogram  # it has its own counts


@pytest.mark.parametrize(
    ("zeros", "largest"),
    [
        (-1, 1.5),
        (0, 0.0),
        (0, 3.0),
        (0, -1.5),
        (0, np.nan),
        (0, np.inf),
        (0, 1e300),
        (0, 1.5 + 1e-9),
    ],
)
def test_counts_that_no_tensor_can_have_are_refused(zeros: int, largest: float) -> None:
    counts = histogram_of(np.float32([1.5, 0.5])).counts
    assert MagnitudeHistogram.from_counts(counts, 0, 1.5).count == 2
    with pytest.raises(ValueError, match="not the counts"):
        MagnitudeHistogram.from_counts(counts, zeros, largest)


def test_counts_of_another_form_are_refused() -> None:
    negative = np.zeros(BINS, np.int64)
    negative[5] = -1
    for counts in (np.zeros(7, np.int64), np.zeros(BINS, np.int32), negative):
        with pytest.raises(ValueError, match="not the counts"):
            MagnitudeHistogram.from_counts(counts, 0, 0.0)


def test_a_wrong_method_or_percentile_is_a_mistake_of_the_program() -> None:
    histogram = histogram_of(sample(10))
    with pytest.raises(ValueError, match="best"):
        limit_of(histogram, "best")  # type: ignore[arg-type]
    for percentile in (0, -1, 100.1, np.nan):
        with pytest.raises(ValueError, match="percentile"):
            limit_of(histogram, "percentile", percentile=percentile)


@pytest.mark.parametrize("method", METHODS)
def test_the_limit_does_not_depend_on_the_order(method: str) -> None:
    parts = [sample(1000, seed=i) for i in range(3)]
    one, other = histogram_of(*parts), histogram_of(*reversed(parts))
    assert limit_of(one, method) == limit_of(other, method)  # type: ignore[arg-type]
