"""What an evaluation leaves behind: lines to read, tables, curves."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from vad_runtime.contracts import InputError
from vad_runtime.files import made_folder, whole_file
from vad_training.evaluation import ScoreSet, video_alarms
from vad_training.metrics.frames import column_of
from vad_training.metrics.roc import Curve, pr_curve, roc_auc, roc_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 2000
"""A drawn curve has no more points: there is one for each distinct score."""


def lines_of(scores: ScoreSet, figures: dict[str, Any]) -> list[str]:
    """Return what `measured` found, for people.

    Args:
        scores: The score set.
        figures: What `measured` returned for it, with or without `regions`.
    """
    out = [f"{scores.name}:"] if scores.name else []
    for column in scores.columns:
        f = figures[column]
        macro = _figure(f["macro_auc"])  # NaN: no video has both classes
        out.append(f"{column:8}  micro AUC {f['micro_auc']:.4f}  macro AUC {macro}")
        out.append(
            f"          AP {f['average_precision_step']:.4f} "
            f"(trapezoid {f['average_precision_trapezoid']:.4f})  "
            f"EER {f['equal_error_rate']:.4f}  FAR@0.5 {_figure(f['far_at_0.5'])}  "
            f"pairwise AUC {_figure(f['pairwise_auc'])}"
        )
    alarms = figures.get("alarms")
    if alarms is not None:
        out.append(_alarm_line(alarms))
    regions = figures.get("regions")
    if regions is not None:
        out.append(
            f"regions   RBDC {regions['rbdc']:.4f}  TBDC {regions['tbdc']:.4f}  "
            f"({regions['regions']} regions, {regions['tracks']} tracks)"
        )
    return out


def _figure(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.4f}"


def _alarm_line(alarms: dict[str, Any]) -> str:
    found = alarms["events"] - alarms["missed"]
    line = f"alarms    at {alarms['threshold']:.4g}: {found} of {alarms['events']} events found"
    if found:
        line += (
            f", {alarms['delay_s_median']:.2f} s after they begin (median; "
            f"mean {alarms['delay_s_mean']:.2f}, longest {alarms['delay_s_max']:.2f})"
        )
    line += f"; {alarms['false_alarms']} false alarms"
    if alarms["false_alarms_per_hour"] is not None:
        line += (
            f", {alarms['false_alarms_per_hour']:.3g} an hour "
            f"({alarms['normal_share_alarmed']:.1%} of {alarms['normal_hours']:.3g} h of normal "
            "frames)"
        )
    return line


def delta_lines(name: str, reference: str, figures: dict[str, Any]) -> list[str]:
    """Return what `compared` found, for people."""
    out = []
    for column in ("causal", "offline"):
        if column in figures:
            f = figures[column]
            flips = "" if f["flips"] is None else f", {f['flips']} of {f['frames']} decisions flip"
            out.append(
                f"{name} against {reference}, {column}: AUC {f['auc_delta']:+.5f}, "
                f"Spearman {f['spearman']:.5f}{flips}"
            )
    return out


def write_evaluation(
    folder: Path, sets: Sequence[ScoreSet], figures: dict[str, Any], about: dict[str, Any]
) -> None:
    """Write `evaluation.json`, `videos.csv` and `curves.png`.

    Args:
        folder: Made if missing; files of an earlier evaluation are replaced.
        sets: The score sets.
        figures: By name of the set, what `measured` returned.
        about: More for `evaluation.json`: labels, deltas, what was left out.

    Raises:
        InputError: The folder cannot be written, or matplotlib is missing.
    """
    made_folder(folder)
    content = {"schema": 1, **about, "figures": figures}
    with whole_file(folder / "evaluation.json") as temporary:
        # NaN (a macro AUC of no video) becomes null.
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
    _write_videos(folder / "videos.csv", sets)
    draw_curves(folder / "curves.png", sets, title=str(about.get("label_set", "")))


def _write_videos(file: Path, sets: Sequence[ScoreSet]) -> None:
    columns = ["scores", "video", "frames", "anomalous_frames", "auc_causal", "auc_offline"]
    columns += ["highest_causal", "events", "missed", "delay_s_median", "false_alarms"]
    with whole_file(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        for scores in sets:
            for video in scores.videos:
                both = video.truth.any() and not video.truth.all()
                areas = [
                    f"{roc_auc(column, video.truth):.6f}" if both and column is not None else ""
                    for column in (video.causal, video.offline)
                ]
                alarms = video_alarms(video) if scores.threshold is not None else None
                cells: list[object] = ["", "", "", ""]
                if alarms is not None:
                    delay = f"{np.median(alarms.delays_s):.3f}" if alarms.delays_s else ""
                    cells = [alarms.events, alarms.missed, delay, alarms.false_alarms]
                first = [scores.name, video.name, len(video.truth), int(video.truth.sum())]
                writer.writerow([*first, *areas, f"{video.causal.max():.6g}", *cells])


def draw_curves(file: Path, sets: Sequence[ScoreSet], *, title: str) -> None:
    """Draw ROC and precision-recall curves of every set and column, 1320 x 660 pixels.

    Raises:
        InputError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        raise InputError(
            "curves need matplotlib. Install it with: pip install 'vad-edge[plot]'"
        ) from None
    figure = Figure(figsize=(12, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    roc, pr = figure.subplots(1, 2)
    truth = np.concatenate([video.truth for video in sets[0].videos])
    roc.plot([0, 1], [0, 1], color="0.75", linewidth=1)
    pr.axhline(float(truth.mean()), color="0.75", linewidth=1)
    for number, scores in enumerate(sets):
        marks = np.concatenate([video.truth for video in scores.videos])
        for column in scores.columns:
            values = np.concatenate(column_of(scores.videos, column))
            line = "-" if column == "causal" else "--"
            style: dict[str, Any] = {"color": f"C{number}", "linestyle": line}
            name = f"{scores.name} {column}".strip()
            _draw(roc, roc_curve(values, marks), f"{name}, AUC {roc_auc(values, marks):.4f}", style)
            _draw(pr, pr_curve(values, marks), name, style)
    roc.set(xlabel="false-positive rate", ylabel="true-positive rate", title="ROC over all frames")
    pr.set(xlabel="recall", ylabel="precision", title="Precision and recall (grey: chance)")
    for axes in (roc, pr):
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
    roc.legend(loc="lower right")
    figure.suptitle(title, fontsize="medium", parse_math=False)
    with whole_file(file) as temporary:
        figure.savefig(temporary, format="png")


def _draw(axes: "Axes", curve: Curve, label: str, style: dict[str, Any]) -> None:
    step = max(1, len(curve.x) // _POINTS)
    kept = np.append(np.arange(0, len(curve.x) - 1, step), len(curve.x) - 1)
    axes.plot(curve.x[kept], curve.y[kept], label=label, linewidth=1.6, **style)
