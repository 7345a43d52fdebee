"""How well scores find anomalous frames."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from vad_runtime.contracts import InputError
from vad_runtime.labels import Labels
from vad_runtime.sinks.rows import read_rows

Scores = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]


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


@dataclass(frozen=True, kw_only=True)
class Auc:
    """Frame-level areas under the ROC curve."""

    micro: float
    """Over the frames of all videos together: the headline."""
    macro: float
    """Mean over the videos that have both classes."""
    left_out: list[str]
    """Videos with one class only, which `macro` cannot use."""


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
    if scores.shape != truth.shape or scores.ndim != 1:
        raise ValueError(f"scores {scores.shape} and truth {truth.shape} must be equal vectors")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN")
    positive = int(truth.sum())
    negative = len(truth) - positive
    if not positive or not negative:
        raise ValueError("AUC needs anomalous and normal frames")
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    mean_rank = last - (count - 1) / 2
    rank_sum = float(mean_rank[place][truth].sum())
    return (rank_sum - positive * (positive + 1) / 2) / (positive * negative)


def auc_of(videos: list[VideoScores], column: str) -> Auc:
    """Return micro and macro AUC of the column `causal` or `offline`.

    Raises:
        InputError: No frame of one of the classes, or a video without that column.
    """
    chosen: list[Scores] = []
    for video in videos:
        scores = video.causal if column == "causal" else video.offline
        if scores is None:
            raise InputError(f"{video.name} has no offline column. Score it without --no-offline.")
        chosen.append(scores)
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


def read_scores(folder: Path, labels: Labels) -> list[VideoScores]:
    """Read the results of `vad-run` below a folder and join them with the truth.

    A frame without a score (warm-up, damaged, skipped by the stride) takes that of the last frame
    before it, or of the first after it: an evaluation covers every frame of the true count.

    Raises:
        InputError: No results, a video without truth, or another number of frames than labelled.
    """
    reports = sorted(folder.rglob("report.json"))
    if not reports:
        raise InputError(f"{folder} holds no report.json. Run vad-run score with -o {folder}.")
    videos = []
    for report in reports:
        source = _source_of(report)
        truth = labels.of(source)
        if truth is None:
            raise InputError(f"{labels.label_set} has no truth for {source}. Give its labels.")
        rows = read_rows(report.parent / "scores.csv")
        causal = np.full(truth.frames, np.nan)
        offline = np.full(truth.frames, np.nan)
        for row in rows:
            if row.frame >= truth.frames:
                raise InputError(
                    f"{source} has a frame {row.frame}, but {labels.label_set} knows "
                    f"{truth.frames} frames. Give the labels of this file."
                )
            causal[row.frame] = np.nan if row.score is None else row.score
            offline[row.frame] = np.nan if row.offline is None else row.offline
        if rows and rows[-1].frame + 1 != truth.frames:
            raise InputError(
                f"{report.parent / 'scores.csv'} ends with frame {rows[-1].frame}, but "
                f"{labels.label_set} knows {truth.frames} frames of {source}. Score all of it, or "
                "give the labels of this file."
            )
        if np.isnan(causal).all():
            raise InputError(f"{report.parent / 'scores.csv'} holds no score. Score it again.")
        has_offline = not np.isnan(offline).all()
        videos.append(
            VideoScores(
                name=source,
                causal=_held(causal),
                offline=_held(offline) if has_offline else None,
                truth=truth.mask(),
            )
        )
    return videos


def _source_of(report: Path) -> str:
    try:
        return str(msgspec.json.decode(report.read_bytes())["source"]["name"])
    except (OSError, msgspec.MsgspecError, KeyError, TypeError):
        raise InputError(
            f"{report} is no report of vad-run. Remove it or score that video again."
        ) from None


def _held(scores: Scores) -> Scores:
    known = np.flatnonzero(~np.isnan(scores))
    before = np.searchsorted(known, np.arange(len(scores)), side="right") - 1
    filled: Scores = scores[known[np.maximum(before, 0)]]
    return filled
