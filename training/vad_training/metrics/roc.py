"""Curves over all thresholds, and the areas under them."""

from dataclasses import dataclass

import numpy as np

from vad_training.metrics import Scores, Truth


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points of a curve, one for each distinct score, from the strictest threshold on.

    Equally long float64 arrays.
    """

    x: Scores
    y: Scores
    thresholds: Scores
    """A frame counts as anomalous at or above it; the first of a ROC is infinite."""


def roc_auc(scores: Scores, truth: Truth) -> float:
    """Return the area under the ROC curve.

    The probability that an anomalous frame scores higher than a normal one, ties counting half
    (the Mann-Whitney statistic; Hanley & McNeil, Radiology 143, 1982).

    Args:
        scores: Shape (n,), without NaN.
        truth: Shape (n,), True where anomalous.

    Raises:
        ValueError: Shapes differ, a NaN, or only one class.
    """
    _check(scores, truth)
    positive = int(truth.sum())
    negative = len(truth) - positive
    rank_sum = float(mean_ranks(scores)[truth].sum())
    return (rank_sum - positive * (positive + 1) / 2) / (positive * negative)


def mean_ranks(values: Scores) -> Scores:
    """Return the rank of each value, from 1; equal values share the mean of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks: Scores = (last - (count - 1) / 2)[place]
    return ranks


def roc_curve(scores: Scores, truth: Truth) -> Curve:
    """Return the false-positive rate (x) and true-positive rate (y), both rising from 0 to 1.

    Args:
        scores: Shape (n,), without NaN.
        truth: Shape (n,), True where anomalous.

    Raises:
        ValueError: Shapes differ, a NaN, or only one class.
    """
    levels, hits, alarms = _counts(scores, truth)
    positive, negative = hits[-1], alarms[-1] - hits[-1]
    return Curve(
        x=np.concatenate([[0.0], (alarms - hits) / negative]),
        y=np.concatenate([[0.0], hits / positive]),
        thresholds=np.concatenate([[np.inf], levels]),
    )


def pr_curve(scores: Scores, truth: Truth) -> Curve:
    """Return recall (x, rising) and precision (y).

    There is no point at recall 0: the first one is that of the highest score.

    Raises:
        ValueError: Shapes differ, a NaN, or only one class.
    """
    levels, hits, alarms = _counts(scores, truth)
    return Curve(x=hits / hits[-1], y=hits / alarms, thresholds=levels)


def area_under(x: Scores, y: Scores) -> float:
    """Return the area under straight lines between the points (trapezoid rule)."""
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))


def average_precision(scores: Scores, truth: Truth) -> float:
    """Return AP by the step rule ``sum (recall_k - recall_k-1) precision_k``, as scikit-learn's.

    Raises:
        ValueError: Shapes differ, a NaN, or only one class.
    """
    curve = pr_curve(scores, truth)
    return float(np.sum(np.diff(curve.x, prepend=0.0) * curve.y))


def average_precision_trapezoid(scores: Scores, truth: Truth) -> float:
    """Return the area under the PR curve by the trapezoid rule, from the point (0, 1) on.

    Papers on XD-Violence print this one as AP. It lies above the step rule where many scores are
    tied, because it draws straight lines where precision in truth falls faster (Davis & Goadrich,
    ICML 2006), and never above it where none are.

    Raises:
        ValueError: Shapes differ, a NaN, or only one class.
    """
    curve = pr_curve(scores, truth)
    return area_under(np.concatenate([[0.0], curve.x]), np.concatenate([[1.0], curve.y]))


def equal_error_rate(scores: Scores, truth: Truth) -> float:
    """Return the rate at which false positives and false negatives meet.

    It is read off the straight line between the two points of the ROC curve around the meeting.

    Raises:
        ValueError: Shapes differ, a NaN, or only one class.
    """
    curve = roc_curve(scores, truth)
    gap = curve.x - (1 - curve.y)  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(curve.x[after - 1] + share * (curve.x[after] - curve.x[after - 1]))


def share_at_or_above(scores: Scores, level: float = 0.5) -> float:
    """Return the share of scores >= `level`; over the frames of normal videos it is FAR@level.

    Raises:
        ValueError: No scores.
    """
    if not len(scores):
        raise ValueError("a share needs at least one score")
    return float(np.mean(scores >= level))


def _counts(scores: Scores, truth: Truth) -> tuple[Scores, Scores, Scores]:
    """Return the distinct scores, falling, and how many anomalous and all frames reach each."""
    _check(scores, truth)
    order = np.argsort(-scores, kind="stable")
    ranked, hit = scores[order], truth[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    return ranked[last], np.cumsum(hit)[last].astype(np.float64), last + 1.0


def _check(scores: Scores, truth: Truth) -> None:
    if scores.shape != truth.shape or scores.ndim != 1:
        raise ValueError(f"scores {scores.shape} and truth {truth.shape} must be equal vectors")
    if truth.dtype != bool:
        raise ValueError(f"truth must be bool, not {truth.dtype}: other numbers would be places")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN")
    if truth.all() or not truth.any():
        raise ValueError("AUC needs anomalous and normal frames")
