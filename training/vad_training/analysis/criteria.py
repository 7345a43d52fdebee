"""Scores that a threshold can be put on, and thresholds that know no test data."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vad_training.analysis.table import SPLITS, ClipTable, Names, Values

DEFAULT_QUANTILE = 0.99
GRID = (0.0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)
"""Quantiles of normal scores that are tried as thresholds."""


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A clip is anomalous when its score is at or above the threshold."""

    key: str
    """`error`, `embedding` or `latent`."""
    label: str
    scores: Values
    """Shape (n,), finite."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A threshold and where it comes from."""

    value: float
    source: str
    asked: bool = False
    """A user's own, not one that was chosen on data."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many clips of a split are decided right: normal ones below, anomalies at or above."""

    right: int
    total: int

    @property
    def fraction(self) -> float:
        """Between 0 and 1; NaN where the split is empty."""
        return self.right / self.total if self.total else float("nan")


def criteria_of(table: ClipTable) -> list[Criterion]:
    """Return the criteria that a table allows.

    Beside the error: *every* centroid is at least t away, which is the same as the nearest one
    being so. That needs the distances to all centroids, not only to the own one, which an
    anomaly does not have.
    """
    found = [Criterion(key="error", label="reconstruction error", scores=table.errors)]
    for name, space in table.spaces.items():
        if space.to_centroids is not None and len(space.centroids):
            nearest = space.to_centroids.min(axis=1)
            found.append(
                Criterion(key=name, label=f"{name} distance, nearest centroid", scores=nearest)
            )
    return found


def default_threshold(scores: Values, splits: Names) -> Threshold | None:
    """Return the .99 quantile of the validation scores, or else of the training scores.

    Test clips and anomalies have no say in it: with them a threshold would fit the very data it
    is judged by.

    Args:
        scores: Shape (n,).
        splits: Shape (n,).

    Returns:
        None where there are neither validation nor training clips.
    """
    for split, name in (("val", "validation"), ("train", "training")):
        rows = splits == split
        if rows.any():
            return Threshold(
                value=float(np.quantile(scores[rows], DEFAULT_QUANTILE)),
                source=f"quantile {DEFAULT_QUANTILE:g} of {int(rows.sum())} {name} scores",
            )
    return None


def threshold_grid(
    scores: Values, splits: Names, more: Sequence[Threshold] = ()
) -> list[Threshold]:
    """Return the thresholds to try, rising: quantiles of training and validation, and `more`."""
    normal = scores[np.isin(splits, ("train", "val"))]
    grid = list(more)
    if len(normal):
        grid += [
            Threshold(
                value=float(np.quantile(normal, q)),
                source=f"quantile {q:g} of training and validation",
            )
            for q in GRID
        ]
    return sorted(grid, key=lambda threshold: threshold.value)


def shares_at(scores: Values, splits: Names, threshold: float) -> dict[str, Share]:
    """Return for each split how many clips a threshold decides right.

    Right is `score < threshold` for train, val and test, `score >= threshold` for anomaly.
    """
    shares = {}
    for split in SPLITS:
        here = scores[splits == split]
        right = here >= threshold if split == "anomaly" else here < threshold
        shares[split] = Share(right=int(right.sum()), total=len(here))
    return shares


def auc_of(normal: Values, anomalous: Values) -> float:
    """Return the area under the ROC curve: the chance that an anomaly outscores a normal clip.

    Ties count one half. Both need at least one score.
    """
    from sklearn.metrics import roc_auc_score

    truth = np.r_[np.zeros(len(normal)), np.ones(len(anomalous))]
    return float(roc_auc_score(truth, np.r_[normal, anomalous]))
