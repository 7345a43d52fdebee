"""Pictures of decisions: thresholds against splits, and ROC curves."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from vad_training.analysis.criteria import Criterion, Threshold
from vad_training.analysis.figures import SPLIT_COLOURS, draw_marks, new_figure, side_legend
from vad_training.analysis.table import SPLITS, Names, Values

_LINES = {"train": "-", "val": "--", "test": "-", "anomaly": "-."}


def draw_shares(criterion: Criterion, splits: Names, marks: Sequence[Threshold]) -> Figure:
    """Draw for every possible threshold how many clips of each split it decides right.

    Args:
        criterion: n scores.
        splits: Shape (n,).
        marks: Thresholds to mark with vertical lines.
    """
    scores = criterion.scores
    low = min([float(scores.min()), *(mark.value for mark in marks)])
    high = max([float(scores.max()), *(mark.value for mark in marks)])
    margin = 0.03 * (high - low) or 0.03 * abs(high) or 1.0
    figure = new_figure(10.5, 4.4)
    axes = figure.add_subplot()
    for split in SPLITS:
        here = np.sort(scores[splits == split])
        if not len(here):
            continue
        below = np.arange(len(here) + 1) / len(here)
        share = 1 - below if split == "anomaly" else below
        what = "at or above" if split == "anomaly" else "below"
        # Between two scores a threshold decides alike, so these steps are exact.
        axes.step(
            np.r_[low - margin, here, high + margin],
            100 * np.r_[share, share[-1]],
            where="post",
            color=SPLIT_COLOURS[split],
            linestyle=_LINES[split],
            linewidth=1.8,
            label=f"{split} {what} (n={len(here)})",
        )
    draw_marks(axes, marks)
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(-3, 103)
    axes.set_xlabel(f"threshold on the {criterion.label}")
    axes.set_ylabel("decided right (%)")
    axes.grid(color="0.9", linewidth=0.8)
    side_legend(axes)
    return figure


def draw_roc(curves: Mapping[str, tuple[Values, Values, float]]) -> Figure:
    """Draw ROC curves of test clips against anomalies.

    Args:
        curves: For each criterion its scores of normal clips, of anomalies, and its AUC.
    """
    from sklearn.metrics import roc_curve

    figure = new_figure(8.6, 4.6)
    axes = figure.add_subplot()
    for (name, (normal, anomalous, auc)), style in zip(
        curves.items(), ("-", "--", "-."), strict=False
    ):
        truth = np.r_[np.zeros(len(normal)), np.ones(len(anomalous))]
        false, true, _ = roc_curve(truth, np.r_[normal, anomalous], drop_intermediate=False)
        axes.plot(
            100 * false, 100 * true, linestyle=style, linewidth=1.8, label=f"{name}: AUC {auc:.4f}"
        )
    axes.plot([0, 100], [0, 100], color="0.6", linewidth=1, linestyle=":", label="by chance: 0.5")
    axes.set_xlabel("false alarms: test clips at or above the threshold (%)")
    axes.set_ylabel("found: anomalies at or above (%)")
    axes.set_xlim(-2, 102)
    axes.set_ylim(-2, 102)
    axes.set_aspect("equal")
    axes.grid(color="0.9", linewidth=0.8)
    side_legend(axes)
    return figure
