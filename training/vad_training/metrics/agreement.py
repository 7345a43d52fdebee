"""How far two score sets of the same frames agree, for example fp32 and int8."""

from dataclasses import dataclass

import numpy as np

from vad_training.metrics import Scores, Truth
from vad_training.metrics.roc import mean_ranks, roc_auc


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A score set against its reference."""

    auc_delta: float
    """Micro AUC minus the reference's."""
    spearman: float
    """Rank correlation over all frames; NaN where one of the two is constant."""
    flips: int | None
    """Frames on another side of the operating threshold; None without a threshold."""
    frames: int


def spearman(first: Scores, second: Scores) -> float:
    """Return Spearman's rank correlation, ties sharing their mean rank; NaN for a constant.

    Raises:
        ValueError: Shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"scores {first.shape} and {second.shape} must be equally many")
    a, b = mean_ranks(first), mean_ranks(second)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm else float("nan")


def decision_flips(first: Scores, second: Scores, threshold: float) -> int:
    """Return how many frames are at or above the threshold in one set and below in the other."""
    return int(np.sum((first >= threshold) != (second >= threshold)))


def agreement(
    reference: Scores, scores: Scores, truth: Truth, threshold: float | None
) -> Agreement:
    """Compare a score set with its reference.

    Args:
        reference: Shape (n,).
        scores: Shape (n,), of the same frames.
        truth: Shape (n,), True where anomalous; both classes.
        threshold: The operating threshold, if there is one.
    """
    return Agreement(
        auc_delta=roc_auc(scores, truth) - roc_auc(reference, truth),
        spearman=spearman(reference, scores),
        flips=None if threshold is None else decision_flips(reference, scores, threshold),
        frames=len(scores),
    )
