"""Metrics of frames, each against a case worked out by hand."""

import numpy as np
import pytest

from vad_runtime.contracts import ConfigError, InputError
from vad_training.metrics import Scores, Truth
from vad_training.metrics.agreement import agreement, decision_flips, spearman
from vad_training.metrics.frames import VideoScores, frame_metrics, pairwise_auc
from vad_training.metrics.offline import gaussian, inverse, median, minmax, offline_variant
from vad_training.metrics.roc import (
    area_under,
    average_precision,
    average_precision_trapezoid,
    equal_error_rate,
    pr_curve,
    roc_auc,
    roc_curve,
    share_at_or_above,
)


def scores(*values: float) -> Scores:
    return np.array(values, np.float64)


def truth(text: str) -> Truth:
    return np.array([c == "x" for c in text], bool)


# Falling: x(5) .(4) x(3) and a tie of x and . at 2, .(1): three anomalous, three normal.
VALUES, MARKS = scores(2, 5, 1, 3, 4, 2), truth("xx.x..")


# -- curves ------------------------------------------------------------------------------------


def test_the_roc_curve_has_a_point_for_each_distinct_score() -> None:
    curve = roc_curve(VALUES, MARKS)
    assert curve.thresholds.tolist() == [np.inf, 5, 4, 3, 2, 1]
    assert curve.x * 3 == pytest.approx([0, 0, 1, 1, 2, 3])
    assert curve.y * 3 == pytest.approx([0, 1, 1, 2, 3, 3])


def test_the_area_under_the_roc_curve_is_the_rank_statistic() -> None:
    curve = roc_curve(VALUES, MARKS)
    # Of nine pairs 5 beats three, 3 beats two (2, 1), 2 beats 1 and ties one: 6.5.
    assert area_under(curve.x, curve.y) == pytest.approx(6.5 / 9)
    assert roc_auc(VALUES, MARKS) == pytest.approx(6.5 / 9)
    rng = np.random.default_rng(0)
    values, marks = rng.integers(0, 9, 300).astype(float), rng.random(300) < 0.2
    curve = roc_curve(values, marks)
    assert area_under(curve.x, curve.y) == pytest.approx(roc_auc(values, marks), abs=1e-12)


def test_the_pr_curve_gives_precision_at_each_recall() -> None:
    curve = pr_curve(VALUES, MARKS)
    assert curve.thresholds.tolist() == [5, 4, 3, 2, 1]
    assert curve.x == pytest.approx([1 / 3, 1 / 3, 2 / 3, 1, 1])
    assert curve.y == pytest.approx([1, 1 / 2, 2 / 3, 3 / 5, 1 / 2])


def test_average_precision_by_both_rules() -> None:
    # Steps: a third of recall at 1, a third at 2/3, a third at 3/5.
    assert average_precision(VALUES, MARKS) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    # Lines: 1 to 1, then from 1/2 to 2/3, then from 2/3 to 3/5, each over a third.
    by_lines = (1 + (1 / 2 + 2 / 3) / 2 + (2 / 3 + 3 / 5) / 2) / 3
    assert average_precision_trapezoid(VALUES, MARKS) == pytest.approx(by_lines)
    # All tied: one step of 1/2 against a line from 1 to 1/2.
    assert average_precision(scores(1, 1), truth(".x")) == 0.5
    assert average_precision_trapezoid(scores(1, 1), truth(".x")) == 0.75


def test_areas_agree_with_scikit_learn() -> None:
    from sklearn import metrics

    rng = np.random.default_rng(3)
    marks = rng.random(500) < 0.3
    values = np.round(rng.normal(size=500) + marks, 1)
    assert average_precision(values, marks) == pytest.approx(
        metrics.average_precision_score(marks, values), abs=1e-12
    )
    precision, recall, _ = metrics.precision_recall_curve(marks, values)
    assert average_precision_trapezoid(values, marks) == pytest.approx(
        metrics.auc(recall, precision), abs=1e-12
    )
    assert roc_auc(values, marks) == pytest.approx(metrics.roc_auc_score(marks, values), abs=1e-12)


@pytest.mark.parametrize(
    ("values", "marks", "rate"),
    [
        ((1, 2, 3, 4), "..xx", 0.0),
        ((4, 3, 2, 1), "..xx", 1.0),
        ((1, 3, 2, 4), "..xx", 0.5),  # at 3: one of two normal above, one of two anomalous below
        ((1, 1), ".x", 0.5),  # on the diagonal
        # Between (0, 1/2) and (1/3, 1): x = 1/2 - 3x/2, so x = 1/5.
        ((1, 2, 3, 3, 5), "...xx", 0.2),
    ],
)
def test_the_equal_error_rate_is_where_the_two_rates_meet(
    values: tuple[float, ...], marks: str, rate: float
) -> None:
    assert equal_error_rate(scores(*values), truth(marks)) == pytest.approx(rate)


def test_the_false_alarm_rate_counts_frames_at_the_level_too() -> None:
    assert share_at_or_above(scores(0.1, 0.5, 0.9, 0.49)) == 0.5
    with pytest.raises(ValueError, match="at least one"):
        share_at_or_above(scores())


@pytest.mark.parametrize("measure", [roc_curve, pr_curve, average_precision, equal_error_rate])
def test_every_curve_needs_both_classes_and_no_nan(measure: object) -> None:
    assert callable(measure)
    for values, marks in ((scores(1, 2), truth("..")), (scores(1, np.nan), truth(".x"))):
        with pytest.raises(ValueError, match=r"anomalous and normal|NaN"):
            measure(values, marks)


# -- videos ------------------------------------------------------------------------------------


def test_pairwise_auc_is_the_mean_over_all_pairs() -> None:
    first, second = (scores(1, 3), truth(".x")), (scores(2, 0), truth("x."))
    low, high = scores(0, 2), scores(4)
    # (first, low): 3 beats 1, 0, 2: 1. (first, high): beats 1, not 4: 1/2.
    # (second, low): 2 beats 0 and 0 and ties 2: 2.5/3. (second, high): beats 0, not 4: 1/2.
    assert pairwise_auc([first, second], [low, high]) == pytest.approx(
        (1 + 1 / 2 + 2.5 / 3 + 1 / 2) / 4
    )


def test_pairwise_auc_equals_the_area_of_each_joined_pair() -> None:
    rng = np.random.default_rng(5)
    anomalous = [(rng.integers(0, 9, 20).astype(float), rng.random(20) < 0.4) for _ in range(4)]
    normal = [rng.integers(0, 9, 15).astype(float) for _ in range(3)]
    areas = [
        roc_auc(np.concatenate([s, n]), np.concatenate([t, np.zeros(15, bool)]))
        for s, t in anomalous
        for n in normal
    ]
    assert pairwise_auc(anomalous, normal) == pytest.approx(np.mean(areas), abs=1e-12)


def test_pairwise_auc_needs_videos_of_both_kinds() -> None:
    for anomalous, normal in (
        ([], [scores(1)]),
        ([(scores(1, 2), truth(".x"))], []),
        ([(scores(1, 2), truth(".."))], [scores(1)]),
    ):
        with pytest.raises(ValueError, match="anomalous"):
            pairwise_auc(anomalous, normal)


def test_far_is_taken_over_the_frames_of_normal_videos_alone() -> None:
    videos = [
        VideoScores(name="a", causal=scores(0.9, 0.9), offline=None, truth=truth(".x")),
        VideoScores(name="n", causal=scores(0.1, 0.6), offline=None, truth=truth("..")),
        VideoScores(name="m", causal=scores(0.2, 0.3), offline=None, truth=truth("..")),
    ]
    measured = frame_metrics(videos, "causal")
    assert measured.far_at_half == 0.25
    # .9 beats .1, .6 and ties one frame of its own video: 2.5/3; the same with the other.
    assert measured.pairwise_auc == pytest.approx(2.5 / 3)
    alone = frame_metrics(videos[:1], "causal")
    assert (alone.far_at_half, alone.pairwise_auc) == (None, None)
    with pytest.raises(InputError, match="no offline column"):
        frame_metrics(videos, "offline")


# -- offline -----------------------------------------------------------------------------------


def test_offline_steps_worked_out_by_hand() -> None:
    assert minmax(scores(2, 4, 3)).tolist() == [0, 1, 0.5]
    assert minmax(scores(7, 7)).tolist() == [0, 0]
    assert inverse(scores(0.25, 1)).tolist() == [0.75, 0]
    assert median(scores(1, 9, 2, 3, 0), 3).tolist() == [5, 2, 3, 2, 1.5]
    with pytest.raises(ValueError, match="odd"):
        median(scores(1, 2), 2)


def test_the_gaussian_keeps_a_constant_and_does_not_dip_at_the_ends() -> None:
    assert gaussian(np.full(30, 4.0), 3.0) == pytest.approx(np.full(30, 4.0))
    assert gaussian(np.full(3, 4.0), 10.0) == pytest.approx(np.full(3, 4.0))
    peak = np.zeros(41)
    peak[20] = 1
    weights = np.exp(-0.5 * (np.arange(-8, 9) / 2) ** 2)
    assert gaussian(peak, 2.0)[12:29] == pytest.approx(weights / weights.sum())
    assert gaussian(peak, 2.0)[11] == 0
    for sigma in (0, np.inf):
        with pytest.raises(ValueError, match="sigma"):
            gaussian(peak, sigma)


def test_a_filter_far_wider_than_the_video_costs_no_more_than_the_video() -> None:
    # So wide that the weights of all of them would need 60 GB.
    assert gaussian(scores(1, 2, 6), 1e9) == pytest.approx([3, 3, 3])
    assert median(scores(1, 2, 6), 10**10 + 1).tolist() == [2, 2, 2]


def test_offline_variants_are_named_steps_in_order() -> None:
    raw = scores(1, 9, 2, 3, 0)
    assert offline_variant(raw, []).tolist() == raw.tolist()
    both = offline_variant(raw, ["minmax", " median=3", "inverse"])
    assert both == pytest.approx(1 - median(minmax(raw), 3))
    assert offline_variant(raw, ["gaussian=1.5"]) == pytest.approx(gaussian(raw, 1.5))


@pytest.mark.parametrize(
    "step", ["mean", "minmax=3", "median", "median=4", "gaussian=-1", "gaussian=inf", ""]
)
def test_an_unknown_step_or_width_is_one_line(step: str) -> None:
    with pytest.raises(ConfigError, match="offline step"):
        offline_variant(scores(1, 2), [step])


# -- agreement ---------------------------------------------------------------------------------


def test_spearman_is_the_correlation_of_ranks() -> None:
    # Ranks 1 2 3 4 against 2 1 4 3: 1 - 6 * 4 / (4 * 15) = 0.6.
    assert spearman(scores(1, 20, 300, 4000), scores(2, 1, 9, 8)) == pytest.approx(0.6)
    assert spearman(scores(1, 2, 3), scores(-1, -2, -9)) == pytest.approx(-1)
    # Ranks 1.5 1.5 3 against 1 2 3: covariance 1.5 over sqrt(1.5 * 2).
    assert spearman(scores(5, 5, 6), scores(1, 2, 3)) == pytest.approx(1.5 / np.sqrt(3))
    assert np.isnan(spearman(scores(1, 1), scores(1, 2)))


def test_flips_are_frames_on_another_side_of_the_threshold() -> None:
    reference, other = scores(0.1, 0.5, 0.7, 0.4), scores(0.6, 0.5, 0.4, 0.3)
    assert decision_flips(reference, other, 0.5) == 2
    found = agreement(reference, other, truth(".xx."), 0.5)
    # The reference ranks both anomalous frames first; the other has two of four pairs in order.
    assert found.auc_delta == pytest.approx(-0.5)
    assert (found.flips, found.frames) == (2, 4)
    assert agreement(reference, other, truth(".xx."), None).flips is None
