"""Causal scores use nothing but the past; offline scores are the papers'."""

import numpy as np
import pytest

from vad_runtime import scoring
from vad_runtime.contracts import Scoring
from vad_runtime.scoring import CausalScorer, ClipMean, causal_scores, offline_scores

NAN = float("nan")


def array(*values: float) -> np.ndarray:
    """Return a double precision array."""
    return np.array(values, np.float64)


# -- causal ------------------------------------------------------------------------------------


def test_a_score_is_shifted_and_scaled() -> None:
    np.testing.assert_array_equal(
        causal_scores(array(1, 3, 7), Scoring(offset=1, scale=2)), [0, 1, 3]
    )


def test_a_mean_filter_runs_over_the_frames_so_far() -> None:
    scoring = Scoring(smoothing="mean", window=3)
    np.testing.assert_allclose(
        causal_scores(array(3, 6, 9, 0, 0, 0), scoring), [3, 4.5, 6, 5, 3, 0]
    )


def test_a_median_filter_runs_over_the_frames_so_far() -> None:
    scoring = Scoring(smoothing="median", window=3)
    np.testing.assert_allclose(causal_scores(array(1, 9, 2, 8, 3, 3), scoring), [1, 5, 2, 8, 3, 3])


def test_without_smoothing_the_window_does_not_matter() -> None:
    raw = array(1, 9, 2)
    np.testing.assert_array_equal(causal_scores(raw, Scoring(window=5)), raw)


@pytest.mark.parametrize("smoothing", ["none", "mean", "median"])
def test_a_change_of_the_future_changes_nothing(smoothing: str) -> None:
    rng = np.random.default_rng(0)
    scoring = Scoring(smoothing=smoothing, window=7, offset=0.3, scale=0.7)
    raw = rng.normal(size=60)
    scores = causal_scores(raw, scoring)
    for cut in (1, 6, 7, 30, 59):
        other = np.concatenate([raw[:cut], rng.normal(size=60 - cut) * 100])
        np.testing.assert_array_equal(causal_scores(other, scoring)[:cut], scores[:cut])


@pytest.mark.parametrize("smoothing", ["mean", "median"])
def test_a_filter_forgets_what_is_older_than_its_window(smoothing: str) -> None:
    scoring = Scoring(smoothing=smoothing, window=4)
    old, new = np.full(5, 1e9), array(1, 2, 3, 4, 5)
    np.testing.assert_array_equal(
        causal_scores(np.concatenate([old, new]), scoring)[-2:], causal_scores(new, scoring)[-2:]
    )


def test_a_frame_without_score_is_passed_over_by_the_filter() -> None:
    scoring = Scoring(smoothing="mean", window=10)
    np.testing.assert_array_equal(
        causal_scores(array(2, 4, NAN, 9, 21, NAN), scoring), [2, 3, NAN, 5, 9, NAN]
    )


def test_a_whole_sequence_gives_what_a_stream_gives() -> None:
    scoring = Scoring(smoothing="median", window=5, scale=0.5)
    raw = np.random.default_rng(1).normal(size=40)
    scorer = CausalScorer(scoring)
    np.testing.assert_array_equal(causal_scores(raw, scoring), [scorer.update(r) for r in raw])


# -- offline -----------------------------------------------------------------------------------


def test_offline_scores_are_stretched_to_zero_and_one() -> None:
    np.testing.assert_allclose(offline_scores(array(2, 4, 6), median=1), [0, 0.5, 1])


def test_the_centred_median_worked_out_by_hand() -> None:
    # scaled: 0 1 .5 .25 .75
    #   i=0: {0 1} -> .5      i=1: {0 1 .5} -> .5     i=2: {1 .5 .25} -> .5
    #   i=3: {.5 .25 .75} -> .5                       i=4: {.25 .75} -> .5
    np.testing.assert_allclose(offline_scores(array(0, 4, 2, 1, 3), median=3), [0.5] * 5)
    # scaled: 0 .2 .4 .6 .8 1: only the ends move, by half a step
    np.testing.assert_allclose(
        offline_scores(array(0, 1, 2, 3, 4, 5), median=3), [0.1, 0.2, 0.4, 0.6, 0.8, 0.9]
    )


def test_there_is_no_dip_at_the_borders() -> None:
    raw = np.full(60, 5.0)
    raw[30] = 0.0
    scores = offline_scores(raw)
    np.testing.assert_array_equal(scores, 1.0)  # zero padding would give 0 at both ends


def test_a_constant_video_gives_zero() -> None:
    np.testing.assert_array_equal(offline_scores(np.full(5, 7.0)), 0)
    np.testing.assert_array_equal(offline_scores(array(7, NAN)), [0, NAN])


def test_frames_without_a_score_stay_without_and_do_not_spoil_their_neighbours() -> None:
    np.testing.assert_allclose(
        offline_scores(array(NAN, 0, NAN, 10, 10), median=3), [NAN, 0, NAN, 1, 1]
    )
    np.testing.assert_array_equal(offline_scores(array(NAN, NAN)), [NAN, NAN])
    assert len(offline_scores(array())) == 0


@pytest.mark.parametrize("missing", [0.0, 0.3, 0.97])
def test_every_window_has_the_median_that_numpy_gives_it_alone(
    missing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_AT_ONCE", 64)  # the tables meet inside the film
    rng = np.random.default_rng(3)
    raw = rng.uniform(size=300)
    raw[rng.uniform(size=300) < missing] = NAN
    raw[[7, 251]] = 0, 1  # stretched to 0..1 it stays as it is
    want = [
        NAN if np.isnan(raw[i]) else np.nanmedian(raw[max(0, i - 8) : i + 9])
        for i in range(len(raw))
    ]
    np.testing.assert_array_equal(offline_scores(raw), want)


def test_the_input_is_not_changed() -> None:
    raw = array(3, 1, NAN)
    for scores in (offline_scores(raw), offline_scores(raw * NAN)):
        scores[:] = -1
    np.testing.assert_array_equal(raw, [3, 1, NAN])


@pytest.mark.parametrize("median", [0, -3, 2, 18])
def test_an_even_or_non_positive_width_is_refused(median: int) -> None:
    with pytest.raises(ValueError, match=f"odd and positive, got {median}"):
        offline_scores(array(1, 2), median=median)


# -- the mean over clips -----------------------------------------------------------------------


def test_a_frame_has_the_mean_of_all_clips_that_cover_it() -> None:
    means = ClipMean()
    means.add([0, 1, 2], np.array([1, 2, 3], np.float32))
    means.add([1, 2, 3], np.array([4, 5, 6], np.float32))
    means.add([2, 3, 4], np.array([1, 0, 8], np.float32))
    np.testing.assert_allclose(means.values(6), [1, 3, 3, 3, 8, NAN])


def test_frames_beyond_the_asked_length_are_left_out() -> None:
    means = ClipMean()
    means.add([0, 7], np.array([1, 2], np.float32))
    np.testing.assert_array_equal(means.values(2), [1, NAN])
    np.testing.assert_array_equal(ClipMean().values(2), [NAN, NAN])
