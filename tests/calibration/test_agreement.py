"""How far scores agree with their reference."""

import json
import math

import numpy as np
import pytest
import scipy.stats
from helpers import assert_one_line

from vad_calibration.agreement import agreement_of, cosine, mean_ranks, spearman, spread_of
from vad_runtime.contracts import InputError


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("levels", [2, 5, 1000])
@pytest.mark.parametrize("count", [3, 40, 501])
def test_spearman_equals_scipys_with_ties(levels: int, count: int) -> None:
    rng = np.random.default_rng([levels, count])
    first, second = rng.integers(0, levels, (2, count)).astype(float)
    first[0], second[:2] = levels, [levels, -1]  # neither is constant
    assert spearman(first, second) == pytest.approx(
        scipy.stats.spearmanr(first, second).statistic, abs=1e-12
    )
    np.testing.assert_array_equal(mean_ranks(first), scipy.stats.rankdata(first))


def test_spearman_of_a_rising_function_is_one_and_of_a_falling_one_minus_one() -> None:
    values = drawn(50)
    assert spearman(values, np.exp(values)) == 1.0
    assert spearman(values, -values) == -1.0


def test_spearman_is_one_for_two_constants_and_zero_where_one_order_is_lost_or_made_up() -> None:
    flat, rising = np.full(6, 3.0), np.arange(6.0)
    assert spearman(flat, flat + 1) == 1.0
    assert spearman(rising, flat) == 0.0
    assert spearman(flat, rising) == 0.0
    assert spearman(np.array([1.0]), np.array([2.0])) == 1.0


def test_spearman_of_scores_that_are_not_finite_is_zero() -> None:
    assert spearman(np.arange(4.0), np.array([0, 1, np.nan, 3])) == 0.0


def test_spearman_ranks_several_scores_a_clip_together() -> None:
    first, second = drawn(20, 3), drawn(20, 3, seed=1)
    assert spearman(first, second) == spearman(first.ravel(), second.ravel())


def test_equal_scores_agree_in_everything() -> None:
    scores = drawn(30)
    found = agreement_of(scores, scores, threshold=0.1)
    assert found.max_error == found.mean_error == found.max_of_spread == found.flip_share == 0
    assert found.cosine == pytest.approx(1)
    assert found.spearman == 1
    assert found.flips == ()


def test_errors_are_given_in_the_scores_unit_and_in_units_of_the_spread() -> None:
    reference = np.linspace(0, 100, 101)
    scores = reference.copy()
    scores[7] += 9
    found = agreement_of(reference, scores)
    assert found.spread == pytest.approx(90)  # from the 5th to the 95th percentile
    assert found.max_error == 9
    assert found.mean_error == pytest.approx(9 / 101)
    assert found.max_of_spread == pytest.approx(0.1)
    assert found.worst == (7,)


def test_shares_of_the_spread_do_not_depend_on_the_unit_of_the_score() -> None:
    reference, scores = drawn(64), drawn(64) + 0.01 * drawn(64, seed=1)
    small = agreement_of(reference, scores, threshold=0.5)
    large = agreement_of(reference * 4096, scores * 4096, threshold=0.5 * 4096)
    assert small.mean_of_spread == large.mean_of_spread
    assert small.flips == large.flips


def test_one_flash_in_one_clip_does_not_stretch_the_spread() -> None:
    reference = drawn(200)
    flash = reference.copy()
    flash[50] = 1e6
    assert spread_of(flash) == pytest.approx(spread_of(reference), rel=0.05)


def test_the_spread_is_the_whole_range_where_nearly_all_scores_are_one_value() -> None:
    reference = np.zeros(100)
    reference[3] = 0.8
    assert spread_of(reference) == pytest.approx(0.8)


def test_a_constant_reference_has_no_spread_and_any_change_is_infinite_in_its_units() -> None:
    reference = np.full(8, 5.0)
    same = agreement_of(reference, reference, threshold=4.0)
    assert (same.spread, same.max_of_spread, same.spearman) == (0, 0, 1)
    other = agreement_of(reference, reference + np.arange(8) * 0.1, threshold=5.05)
    assert other.mean_of_spread == math.inf
    assert other.spearman == 0
    assert other.as_dict()["mean_of_spread"] is None


def test_a_reference_that_differs_by_rounding_alone_is_constant() -> None:
    reference = 1000 + np.array([0, 1, 0, -1, 0]) * 1e-5
    assert spread_of(reference) == 0


def test_a_flip_next_to_the_threshold_has_a_small_distance() -> None:
    reference = np.linspace(0, 1, 101)
    scores = reference.copy()
    scores[51] = 0.49  # was 0.51: any rounding may do that
    scores[99] = 0.10  # was 0.99: a lost alarm
    found = agreement_of(reference, scores, threshold=0.5)
    assert [flip.place for flip in found.flips] == [(99,), (51,)]
    assert found.flips[0].distance == pytest.approx(0.49 / 0.9)
    assert found.flips[1].distance == pytest.approx(0.01 / 0.9)
    assert found.flip_share == pytest.approx(2 / 101)


def test_a_score_at_the_threshold_is_an_alarm() -> None:
    reference = np.array([0.2, 0.5, 0.9])
    assert agreement_of(reference, np.array([0.2, 0.5, 0.9]), threshold=0.5).flips == ()
    below = agreement_of(reference, np.array([0.2, np.nextafter(0.5, 0), 0.9]), threshold=0.5)
    assert [(flip.place, flip.distance) for flip in below.flips] == [((1,), 0.0)]


def test_flips_of_clips_with_many_scores_name_clip_and_score() -> None:
    reference = np.zeros((4, 16))
    reference[:, 8:] = 1
    scores = reference.copy()
    scores[2, 5] = 3
    found = agreement_of(reference, scores, threshold=0.5)
    assert found.count == 64
    assert [flip.place for flip in found.flips] == [(2, 5)]
    assert found.worst == (2, 5)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_an_infinite_error_and_a_flip(broken: float) -> None:
    reference = np.arange(6.0)
    scores = reference.copy()
    scores[4] = broken
    found = agreement_of(reference, scores, threshold=2.5)
    assert found.not_finite == 1
    assert found.max_error == found.mean_of_spread == math.inf
    assert found.worst == (4,)
    assert [flip.place for flip in found.flips] == [(4,)]
    assert found.cosine == found.spearman == 0


def test_a_reference_that_is_not_finite_is_a_one_line_error() -> None:
    with pytest.raises(InputError) as error:
        agreement_of(np.array([1, np.nan, np.inf]), np.zeros(3))
    assert_one_line(error.value, "2 of the 3", "fp32")


def test_different_shapes_and_no_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        agreement_of(np.zeros((4, 2)), np.zeros((8,)))
    with pytest.raises(ValueError, match="no reference scores"):
        agreement_of(np.zeros(0), np.zeros(0))


def test_the_cosine_is_of_the_directions_alone() -> None:
    values = drawn(40)
    assert cosine(values, 3 * values) == pytest.approx(1)
    assert cosine(values, -values) == pytest.approx(-1)
    assert cosine([1, 0], [0, 1]) == 0
    assert cosine([1e200, 0], [1e200, 1e200]) == pytest.approx(math.sqrt(0.5))
    assert cosine([0, 0], [0, 0]) == 1
    assert cosine([0, 0], [0, 1]) == 0


def test_everything_in_a_manifest_is_json() -> None:
    reference = drawn(12, 4).astype(np.float32)
    scores = reference + np.float32(0.3) * drawn(12, 4, seed=2).astype(np.float32)
    found = agreement_of(reference, scores, threshold=0.0)
    entry = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert entry["flips"] == len(found.flips) > 0
    assert entry["flip_distance_max"] == found.flips[0].distance
    assert entry["flip_distance_median"] <= entry["flip_distance_max"]
    scores[0, 0] = np.inf
    broken = json.loads(json.dumps(agreement_of(reference, scores).as_dict(), allow_nan=False))
    assert broken["max_error"] is None
    assert broken["flips"] is None
    assert broken["not_finite"] == 1
