"""Thresholds: from a false-alarm budget on scores whose tail is known, and from labels."""

import math

import numpy as np
import pytest
from helpers import assert_one_line
from scipy.stats import genpareto

from vad_runtime.contracts import InputError, Scoring
from vad_training.metrics import Scores
from vad_training.metrics.frames import VideoScores
from vad_training.tail import fit_tail, level_interval, level_of
from vad_training.thresholds import (
    Stretch,
    alarm_levels,
    alarms_in,
    threshold_from_budget,
    threshold_from_labels,
)

PLAIN = Scoring(release=1.0)


def stretch(scores: Scores, step_s: float = 1.0) -> Stretch:
    return Stretch(times_s=np.arange(len(scores)) * step_s, scores=scores)


# -- the tail ----------------------------------------------------------------------------------


def test_the_level_of_an_exponential_tail_is_the_formula_by_hand() -> None:
    peaks = np.array([1.0, 2.0, 3.0])
    tail = fit_tail(peaks, 0.5)
    # Whatever shape fits three peaks, a level as rare as u is u.
    assert level_of(tail, 1.0) == 0.5
    exact = type(tail)(xi=0.0, sigma=2.0, u=1.0, peaks=9)
    assert level_of(exact, math.e**3) == pytest.approx(1 + 2 * 3)
    heavy = type(tail)(xi=0.5, sigma=2.0, u=1.0, peaks=9)
    assert level_of(heavy, 16.0) == pytest.approx(1 + 2 / 0.5 * (4 - 1))


@pytest.mark.parametrize("xi", [-0.3, 0.0, 0.4])
def test_the_fit_finds_shape_and_scale_and_agrees_with_scipy(xi: float) -> None:
    peaks = 5 + genpareto.rvs(c=xi, scale=2.0, size=1500, random_state=1)
    tail = fit_tail(peaks, 5.0)
    assert tail.xi == pytest.approx(xi, abs=0.08)
    assert tail.sigma == pytest.approx(2.0, rel=0.1)
    c, _, scale = genpareto.fit(peaks - 5, floc=0)
    assert tail.xi == pytest.approx(c, abs=0.004)  # the grid's step is 0.005
    assert tail.sigma == pytest.approx(scale, rel=0.01)


@pytest.mark.parametrize("xi", [-0.2, 0.0, 0.2])
def test_the_interval_holds_the_true_level_for_most_seeds(xi: float) -> None:
    true = genpareto.isf(1 / 500, c=xi)
    held = 0
    for seed in range(25):
        peaks = genpareto.rvs(c=xi, size=60, random_state=seed)
        low, high = level_interval(peaks, fit_tail(peaks, 0.0), 500.0)
        held += low <= true <= high
    assert held >= 21  # 23.75 are expected


def test_the_tail_needs_peaks_above_its_level() -> None:
    for peaks in (np.zeros(0), np.array([1.0, 1.0]), np.array([0.5, 2.0])):
        with pytest.raises(ValueError, match="peaks above"):
            fit_tail(peaks, 1.0)


# -- clusters ----------------------------------------------------------------------------------


def test_an_alarm_is_one_cluster_however_long_it_lasts() -> None:
    scores = np.array([0, 5, 4, 6, 0, 0, 3, 0, 2.6, 2.6, 0])
    three = [stretch(scores)]
    scoring = Scoring(threshold=2.5, release=1.0)
    assert alarms_in(three, scoring) == 3
    assert alarm_levels(three, scoring).tolist() == [6, 3, 2.6]


def test_with_a_minimum_duration_the_level_is_what_lasts_long_enough() -> None:
    scores = np.array([0, 5, 4, 9, 4.5, 0.0])
    scoring = Scoring(threshold=1.0, release=1.0, min_duration_s=2.0)
    # 5, 4, 9, 4.5 stand at or above 4 for three seconds; above that only for one.
    assert alarm_levels([stretch(scores)], scoring).tolist() == [4]
    # With a release of 0.5 the alarm that starts at 5 lasts, and so does one at 5 exactly.
    released = Scoring(threshold=1.0, release=0.5, min_duration_s=2.0)
    assert alarm_levels([stretch(scores)], released).tolist() == [5]


# -- budget ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("xi", "budget", "rule"),
    [
        (0.0, 1.0, "generalised Pareto"),
        (0.2, 1.0, "generalised Pareto"),
        (-0.2, 2.0, "generalised Pareto"),
        (0.0, 100.0, "empirical"),
    ],
)
def test_the_true_threshold_lies_in_the_interval_for_most_seeds(
    xi: float, budget: float, rule: str
) -> None:
    # One independent score a second: alarms a day = 86400 P(score >= threshold).
    true = genpareto.isf(budget / 86400, c=xi)
    held = 0
    for seed in range(15):
        footage = genpareto.rvs(c=xi, size=4 * 3600, random_state=seed)
        chosen = threshold_from_budget([stretch(footage)], PLAIN, budget)
        assert rule in chosen.evidence["rule"]
        low, high = chosen.evidence["threshold_95"]
        assert low <= chosen.value <= high
        held += low <= true <= high
    assert held >= 12


def test_smoothed_scores_with_hysteresis_keep_their_budget_on_unseen_footage() -> None:
    def footage(seed: int, hours: float) -> Scores:
        steps = np.random.default_rng(seed).exponential(1.0, int(hours * 3600 * 5))
        return np.convolve(steps, np.full(20, 1 / 20), mode="valid")

    scoring = Scoring(release=0.8, min_duration_s=0.6)
    chosen = threshold_from_budget([stretch(footage(0, 2), 0.2)], scoring, 6.0)
    assert "generalised Pareto" in chosen.evidence["rule"]
    unseen = [stretch(footage(1, 96), 0.2)]
    low, high = chosen.evidence["threshold_95"]
    assert alarms_in(unseen, Scoring(threshold=high, release=0.8, min_duration_s=0.6)) <= 24
    assert alarms_in(unseen, Scoring(threshold=low, release=0.8, min_duration_s=0.6)) >= 24
    # Four days at the threshold itself: 24 are asked for.
    raised = alarms_in(unseen, chosen.applied_to(scoring))
    assert 4 <= raised <= 120


def test_a_smaller_budget_never_gives_a_lower_threshold() -> None:
    for seed in range(3):
        steps = np.random.default_rng(seed).exponential(1.0, 6 * 3600)
        footage = [stretch(np.convolve(steps, np.full(4, 0.25), mode="valid"))]
        budgets = [4000, 300, 60, 41, 40.1, 40, 39.9, 38, 10, 1, 0.01]
        values = [threshold_from_budget(footage, PLAIN, b).value for b in budgets]
        assert values == sorted(values)


def test_where_the_footage_reaches_it_decides_by_counting() -> None:
    # An hour holds 60 peaks of 1, 2, … 60 and a day's budget of 288 allows 12 of them.
    scores = np.zeros(3600)
    scores[30::60] = np.random.default_rng(0).permutation(60) + 1.0
    chosen = threshold_from_budget([stretch(scores)], PLAIN, 288)
    assert chosen.value == 48.5  # 49 to 60 raise alarms
    assert alarms_in([stretch(scores)], chosen.applied_to(PLAIN)) == 12
    assert chosen.warning is None
    # Poisson with mean 12: from 6 to 19 alarms.
    assert chosen.evidence["threshold_95"] == [41.5, 54.5]
    assert chosen.evidence["alarms_allowed_in_footage"] == 12
    assert chosen.evidence["hours_of_footage"] == 1


def test_the_evidence_names_what_the_threshold_rests_on() -> None:
    footage = genpareto.rvs(c=0.0, size=1800, random_state=0)
    chosen = threshold_from_budget([stretch(footage[:900]), stretch(footage[900:])], PLAIN, 0.1)
    evidence = chosen.evidence
    assert (evidence["stretches"], evidence["frames"]) == (2, 1800)
    assert evidence["hours_of_footage"] == 0.5
    assert evidence["clusters"] >= 50
    assert evidence.keys() >= {"u", "xi", "sigma", "threshold_95", "false_alarms_per_day"}
    assert evidence["extrapolation"] == 480
    assert chosen.warning is not None
    assert "480 times as long as the footage (30 min)" in chosen.warning
    applied = chosen.applied_to(Scoring(smoothing="mean", window=4, release=0.7))
    assert (applied.window, applied.release, applied.threshold) == (4, 0.7, chosen.value)
    assert applied.method == chosen.method


def test_footage_too_short_to_say_anything_is_refused_with_how_much_is_needed() -> None:
    scores = np.zeros(60)
    scores[[10, 30, 50]] = (1.0, 2.0, 3.0)
    with pytest.raises(InputError) as caught:
        threshold_from_budget([stretch(scores)], PLAIN, 1.0)
    assert_one_line(caught.value, "1 min", "3 separate peaks", "needs 20", "about 6.67 min")
    for nothing in ([], [stretch(np.ones(500))]):
        with pytest.raises(InputError) as caught:
            threshold_from_budget(nothing, PLAIN, 1.0)
        assert_one_line(caught.value, "the same in every frame")


def test_a_budget_beyond_all_peaks_of_the_footage_is_refused() -> None:
    scores = np.zeros(3600)
    scores[30::120] = np.arange(30) + 1.0
    with pytest.raises(InputError) as caught:
        threshold_from_budget([stretch(scores)], PLAIN, 2400)
    assert_one_line(
        caught.value,
        "separate alarms at any",
        "the 100 that 2400 a day",
        "smaller --false-alarms-per-day",
    )


def test_footage_whose_highest_peaks_are_all_equal_is_refused() -> None:
    scores = np.zeros(3600)
    scores[::30] = 1.0
    for budget in (1.0, 1440.0):  # beyond the footage, and 60 of its 120 peaks
        with pytest.raises(InputError) as caught:
            threshold_from_budget([stretch(scores)], PLAIN, budget)
        assert_one_line(caught.value, "120 peaks", "all score 1", "saturate")


def test_scores_in_coarse_steps_still_have_a_tail() -> None:
    # P(score > 9.21) = 1e-4 of the exponential distribution, rounded to whole numbers: 9 or 10.
    scores = np.round(np.random.default_rng(0).exponential(1.0, 3600))
    chosen = threshold_from_budget([stretch(scores)], PLAIN, 8.64)
    low, high = chosen.evidence["threshold_95"]
    assert low <= chosen.value <= high
    assert 8 < chosen.value < 11
    assert chosen.evidence["sigma"] == pytest.approx(1.0, abs=0.5)


def test_footage_of_single_frames_is_refused() -> None:
    values = np.random.default_rng(0).exponential(1.0, 200)
    with pytest.raises(InputError) as caught:
        threshold_from_budget([stretch(values[i : i + 1]) for i in range(200)], PLAIN, 1.0)
    assert_one_line(caught.value, "two frames in a row")


# -- labels ------------------------------------------------------------------------------------


def video(scores: list[float], marks: str) -> VideoScores:
    return VideoScores(
        name="v",
        causal=np.array(scores),
        offline=None,
        truth=np.array([c == "x" for c in marks], bool),
    )


def test_the_best_f1_by_hand() -> None:
    # Falling: 9 x, 8 x, 7 ., 6 x, 5 ., 4 . F1: 1/2, 4/5, 2/3, 6/7, 3/4, 2/3.
    chosen = threshold_from_labels([video([9, 7, 5], "x.."), video([8, 6, 4], "xx.")], "site")
    assert chosen.value == 5.5
    assert chosen.evidence["f1"] == pytest.approx(6 / 7, abs=1e-6)
    assert (chosen.evidence["precision"], chosen.evidence["recall"]) == (0.75, 1.0)
    assert (chosen.evidence["label_set"], chosen.evidence["videos"]) == ("site", 2)
    assert chosen.warning is not None
    assert "site" in chosen.warning
    assert "optimistic" in chosen.method


def test_a_recall_floor_takes_the_highest_threshold_that_keeps_it() -> None:
    videos = [video([9, 7, 5, 8, 6, 4], "x..xx.")]
    assert threshold_from_labels(videos, "site", recall=0.6).value == 7.5
    assert threshold_from_labels(videos, "site", recall=0.67).value == 5.5
    assert threshold_from_labels(videos, "site", recall=0.3).value == 8.5


def test_labels_of_one_class_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        threshold_from_labels([video([1, 2], "..")], "site")
    assert_one_line(caught.value, "one class only")
