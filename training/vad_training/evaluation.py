"""How well scores find anomalous frames: results of `vad-run` against the truth."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vad_runtime.contracts import InputError, Scoring
from vad_runtime.labels import Labels, VideoLabels
from vad_runtime.sinks.rows import Row, read_rows
from vad_training.metrics import Scores
from vad_training.metrics.agreement import agreement
from vad_training.metrics.alarms import AlarmMetrics, alarm_metrics, joined
from vad_training.metrics.frames import VideoScores, column_of, frame_metrics
from vad_training.metrics.offline import offline_variant

STORED_OFFLINE = "as vad-run wrote it: mean over clips, minmax, median=17"

_FEATURE_SLACK = 16
"""So many frames a video may be longer or shorter than its features say: one clip."""


@dataclass(frozen=True, kw_only=True)
class ScoreSet:
    """The scores of one artefact, in one arithmetic, of all videos."""

    name: str
    """For example `fp32`; empty for a folder of results."""
    videos: list[VideoScores]
    scoring: Scoring | None
    """The operating point; None where the reports do not name one and the same."""
    offline: str = STORED_OFFLINE
    """How the offline column was made."""
    device: str = ""
    """What computed the scores."""

    @property
    def columns(self) -> list[str]:
        """The columns that every video has."""
        offline = all(video.offline is not None for video in self.videos)
        return ["causal", "offline"] if offline else ["causal"]

    @property
    def threshold(self) -> float | None:
        """The operating threshold of the causal score, if there is one."""
        return None if self.scoring is None else self.scoring.threshold


def read_scores(
    folder: Path, labels: Labels, steps: Sequence[str] | None = None
) -> list[VideoScores]:
    """Read the results of `vad-run` below a folder and join them with the truth.

    Args:
        folder: Is searched for `report.json`.
        labels: The truth.
        steps: How the offline column is made from the raw scores (`offline_variant`); None = take
            it as `vad-run` wrote it.

    Raises:
        InputError: No results, two of one video, or one that `read_video` refuses.
    """
    reports = sorted(folder.rglob("report.json"))
    if not reports:
        raise InputError(f"{folder} holds no report.json. Run vad-run score with -o {folder}.")
    videos = [read_video(report, labels, steps) for report in reports]
    names = [video.name for video in videos]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{folder} holds two results of {twice[0]}. Give the folder of one run.")
    return videos


def read_video(report: Path, labels: Labels, steps: Sequence[str] | None = None) -> VideoScores:
    """Join the results of one video with its truth.

    A frame without a score (warm-up, damaged, skipped by the stride) takes that of the last frame
    before it, or of the first after it: an evaluation covers every frame of the true count.

    Args:
        report: A `report.json` that stands beside its `scores.csv`.
        labels: The truth.
        steps: See `read_scores`.

    Raises:
        InputError: No report, a video without truth, another number of frames than labelled, or no
            score at all.
    """
    source, features = source_of(report), _field(report, "source").get("kind") == "features"
    truth = _truth_of_features(labels, source) if features else labels.of(source)
    if truth is None:
        raise InputError(f"{labels.label_set} has no truth for {source}. Give its labels.")
    table = report.parent / "scores.csv"
    rows = read_rows(table)
    if features and rows and abs(rows[-1].frame + 1 - truth.frames) <= _FEATURE_SLACK:
        # Features know the length to a clip: the tail keeps the last score, or is cut.
        rows = [row for row in rows if row.frame < truth.frames]
    elif rows and rows[-1].frame >= truth.frames:
        raise InputError(
            f"{source} has a frame {rows[-1].frame}, but {labels.label_set} knows "
            f"{truth.frames} frames. Give the labels of this file."
        )
    elif rows and rows[-1].frame + 1 != truth.frames:
        raise InputError(
            f"{table} ends with frame {rows[-1].frame}, but {labels.label_set} knows "
            f"{truth.frames} frames of {source}. Score all of it, or give the labels of this file."
        )
    if all(row.score is None for row in rows):
        raise InputError(f"{table} holds no score. Score it again.")
    raw = held(rows, [row.raw for row in rows], truth.frames)
    if steps is not None:
        offline: Scores | None = offline_variant(raw, steps)
    elif any(row.offline is not None for row in rows):
        offline = held(rows, [row.offline for row in rows], truth.frames)
    else:
        offline = None
    known = [row.frame for row in rows]
    return VideoScores(
        name=source,
        causal=held(rows, [row.score for row in rows], truth.frames),
        offline=offline,
        truth=truth.mask(),
        raw=raw,
        alarm=held(rows, [float(row.alarm) for row in rows], truth.frames) > 0,
        times_s=np.interp(np.arange(truth.frames), known, [row.time_s for row in rows]),
    )


def _truth_of_features(labels: Labels, source: str) -> VideoLabels | None:
    """Return the truth of the video that features were made of: it has another suffix.

    The file of one modality of a pair ends with `_rgb` or `_flow`.
    """
    path = Path(source)
    plain = path.stem.removesuffix("_rgb").removesuffix("_flow")
    for suffix in sorted({Path(name).suffix for name in labels.videos}):
        for stem in (path.stem, plain):
            # Features lie in folders of their own, so the name alone must do.
            named = [t for name, t in labels.videos.items() if Path(name).name == stem + suffix]
            truth = labels.of(path.with_name(stem + suffix))
            if truth is not None or len(named) == 1:
                return truth or named[0]
    return None


def source_of(report: Path) -> str:
    """Return the name of the source that a `report.json` is about.

    Raises:
        InputError: It is no report.
    """
    return str(_field(report, "source", "name"))


def common_scoring(reports: Sequence[Path]) -> Scoring | None:
    """Return the scoring that all reports name, or None where they differ or name none."""
    found: set[bytes] = set()
    for report in reports:
        try:
            found.add(msgspec.json.encode(_field(report, "scoring")))
        except InputError:
            return None
    try:
        return msgspec.json.decode(found.pop(), type=Scoring) if len(found) == 1 else None
    except msgspec.MsgspecError:
        return None


def _field(report: Path, *keys: str) -> Any:
    try:
        value = msgspec.json.decode(report.read_bytes())
        for key in keys:
            value = value[key]
    except (OSError, msgspec.MsgspecError, KeyError, TypeError):
        raise InputError(
            f"{report} is no report of vad-run. Remove it or score that video again."
        ) from None
    return value


def held(rows: Sequence[Row], values: Sequence[float | None], frames: int) -> Scores:
    """Return one value a frame, shape (frames,): a frame without one takes the last before it.

    Args:
        rows: Of one video, in order of frames.
        values: One for each row; None = none. At least one is there.
        frames: True number of frames; those before the first value take it.
    """
    scores = np.full(frames, np.nan)
    for row, value in zip(rows, values, strict=True):
        scores[row.frame] = np.nan if value is None else value
    known = np.flatnonzero(~np.isnan(scores))
    before = np.searchsorted(known, np.arange(frames), side="right") - 1
    filled: Scores = scores[known[np.maximum(before, 0)]]
    return filled


def measured(scores: ScoreSet) -> dict[str, Any]:
    """Measure a score set; the keys are those of `evaluation.json`.

    Raises:
        InputError: The labels hold one class only.
    """
    out: dict[str, Any] = {"device": scores.device, "offline_column": scores.offline}
    for column in scores.columns:
        metrics = frame_metrics(scores.videos, column)
        out[column] = {
            "micro_auc": metrics.auc.micro,
            "macro_auc": metrics.auc.macro,
            "not_in_macro": metrics.auc.left_out,
            "average_precision_step": metrics.average_precision,
            "average_precision_trapezoid": metrics.average_precision_trapezoid,
            "equal_error_rate": metrics.equal_error_rate,
            "far_at_0.5": metrics.far_at_half,
            "pairwise_auc": metrics.pairwise_auc,
        }
    alarms = alarms_of(scores)
    if alarms is not None:
        delays = alarms.delays_s
        out["alarms"] = {
            "threshold": scores.threshold,
            "events": alarms.events,
            "missed": alarms.missed,
            "delay_s_median": float(np.median(delays)) if delays else None,
            "delay_s_mean": float(np.mean(delays)) if delays else None,
            "delay_s_max": max(delays) if delays else None,
            "false_alarms": alarms.false_alarms,
            "normal_hours": alarms.normal_s / 3600,
            "normal_share_alarmed": alarms.alarmed_s / alarms.normal_s if alarms.normal_s else None,
            "false_alarms_per_hour": alarms.false_alarms_per_hour if alarms.normal_s else None,
        }
    return out


def alarms_of(scores: ScoreSet) -> AlarmMetrics | None:
    """Return the alarms of all videos against the truth; None without an operating threshold."""
    parts = [video_alarms(video) for video in scores.videos]
    known = [part for part in parts if part is not None]
    return joined(known) if scores.threshold is not None and len(known) == len(parts) else None


def video_alarms(video: VideoScores) -> AlarmMetrics | None:
    """Return the alarms of one video against its truth, where alarms and times are known."""
    if video.alarm is None or video.times_s is None:
        return None
    return alarm_metrics(video.truth, video.alarm, video.times_s)


def compared(reference: ScoreSet, other: ScoreSet) -> dict[str, Any]:
    """Compare two score sets of the same videos: AUC delta, Spearman, flips at the threshold.

    Videos that only one of them could score are left out and named.

    Raises:
        InputError: The videos that both have hold one class only.
    """
    mine = {video.name: video for video in reference.videos}
    theirs = {video.name: video for video in other.videos}
    names = [name for name in mine if name in theirs]
    truth = np.concatenate([mine[name].truth for name in names]) if names else np.zeros(0, bool)
    if truth.all() or not truth.any():
        raise InputError("the videos that both precisions scored hold one class only. Add videos.")
    out: dict[str, Any] = {"not_in_both": sorted(mine.keys() ^ theirs.keys())}
    for column in [c for c in reference.columns if c in other.columns]:
        first = np.concatenate(column_of([mine[name] for name in names], column))
        second = np.concatenate(column_of([theirs[name] for name in names], column))
        # The operating threshold belongs to the causal score alone.
        threshold = reference.threshold if column == "causal" else None
        out[column] = asdict(agreement(first, second, truth, threshold))
    return out
