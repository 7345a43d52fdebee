"""Frame-level metrics over many videos."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vad_runtime.contracts import InputError
from vad_training.metrics import Scores, Truth
from vad_training.metrics.roc import (
    average_precision,
    average_precision_trapezoid,
    equal_error_rate,
    roc_auc,
    share_at_or_above,
)


@dataclass(frozen=True, kw_only=True)
class VideoScores:
    """Scores and truth of one video."""

    name: str
    causal: Scores
    """Shape (frames,): what `vad-run` emits live. No NaN."""
    offline: Scores | None
    """Shape (frames,): the papers' score; None where it was not computed."""
    truth: Truth
    """Shape (frames,), True where anomalous."""
    raw: Scores | None = None
    """Shape (frames,): the graph's own score, before normaliser and filter."""
    alarm: Truth | None = None
    """Shape (frames,): whether an alarm was on."""
    times_s: Scores | None = None
    """Shape (frames,): seconds from the first frame."""


@dataclass(frozen=True, kw_only=True)
class Auc:
    """Frame-level areas under the ROC curve."""

    micro: float
    """Over the frames of all videos together: the headline."""
    macro: float
    """Mean over the videos that have both classes."""
    left_out: list[str]
    """Videos with one class only, which `macro` cannot use."""


@dataclass(frozen=True, kw_only=True)
class FrameMetrics:
    """Everything that is measured on the frames of one column."""

    auc: Auc
    average_precision: float
    """Step rule, as scikit-learn."""
    average_precision_trapezoid: float
    equal_error_rate: float
    far_at_half: float | None
    """Share of the frames of normal videos that score >= 0.5; None without normal videos."""
    pairwise_auc: float | None
    """See `pairwise_auc`; None without normal videos."""


def column_of(videos: Sequence[VideoScores], column: str) -> list[Scores]:
    """Return the scores of the column `causal` or `offline`.

    Raises:
        InputError: A video without that column.
    """
    chosen: list[Scores] = []
    for video in videos:
        scores = video.causal if column == "causal" else video.offline
        if scores is None:
            raise InputError(f"{video.name} has no offline column. Score it without --no-offline.")
        chosen.append(scores)
    return chosen


def auc_of(videos: Sequence[VideoScores], column: str) -> Auc:
    """Return micro and macro AUC of the column `causal` or `offline`.

    Raises:
        InputError: No frame of one of the classes, or a video without that column.
    """
    chosen = column_of(videos, column)
    truth = [video.truth for video in videos]
    both = [t.any() and not t.all() for t in truth]
    everything = np.concatenate(truth)
    if everything.all() or not everything.any():
        raise InputError("the labels hold one class only, and an AUC needs both. Add videos.")
    per_video = [roc_auc(s, t) for s, t, use in zip(chosen, truth, both, strict=True) if use]
    return Auc(
        micro=roc_auc(np.concatenate(chosen), everything),
        macro=float(np.mean(per_video)) if per_video else float("nan"),
        left_out=[video.name for video, use in zip(videos, both, strict=True) if not use],
    )


def frame_metrics(videos: Sequence[VideoScores], column: str) -> FrameMetrics:
    """Measure the column `causal` or `offline`.

    Raises:
        InputError: No frame of one of the classes, or a video without that column.
    """
    auc = auc_of(videos, column)
    chosen = column_of(videos, column)
    truth = [video.truth for video in videos]
    scores, marks = np.concatenate(chosen), np.concatenate(truth)
    normal = [s for s, t in zip(chosen, truth, strict=True) if not t.any()]
    anomalous = [(s, t) for s, t in zip(chosen, truth, strict=True) if t.any()]
    return FrameMetrics(
        auc=auc,
        average_precision=average_precision(scores, marks),
        average_precision_trapezoid=average_precision_trapezoid(scores, marks),
        equal_error_rate=equal_error_rate(scores, marks),
        far_at_half=share_at_or_above(np.concatenate(normal), 0.5) if normal else None,
        pairwise_auc=pairwise_auc(anomalous, normal) if normal else None,
    )


def pairwise_auc(anomalous: Sequence[tuple[Scores, Truth]], normal: Sequence[Scores]) -> float:
    """Return the mean AUC over all pairs of one anomalous and one normal video.

    A widely copied UCF-Crime script pairs the videos at random and averages the AUCs of the joined
    frames; this is the expectation of that number over the pairings. It is no standard metric: it
    weighs videos instead of frames and never compares two anomalous videos. It is here so that
    figures published with it can be compared.

    Args:
        anomalous: Scores and truth of each anomalous video, shape (frames,) each.
        normal: Scores of each normal video, shape (frames,).

    Raises:
        ValueError: No videos of one kind, or an anomalous one without an anomalous frame.
    """
    if not anomalous or not normal:
        raise ValueError("pairs need anomalous and normal videos")
    areas = []
    ordered = [np.sort(scores) for scores in normal]
    for scores, truth in anomalous:
        if not truth.any():
            raise ValueError("an anomalous video has no anomalous frame")
        found, rest = np.sort(scores[truth]), np.sort(scores[~truth])
        inside = _wins(found, rest)
        for other in ordered:
            wins = inside + _wins(found, other)
            areas.append(wins / (len(found) * (len(rest) + len(other))))
    return float(np.mean(areas))


def _wins(found: Scores, others: Scores) -> float:
    """Return how many pairs have the higher score in `found`; ties count half, both are sorted."""
    below = np.searchsorted(others, found, side="left")
    not_above = np.searchsorted(others, found, side="right")
    return float((below + not_above).sum() / 2)
