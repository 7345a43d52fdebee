"""What a verification found, for people and programs: a table, files, pictures of worst clips."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vad_export.gate import GateReport, Result
from vad_export.gate_figures import WorstClip
from vad_runtime.files import made_folder, whole_file

SHOWN = 16
"""Most frames of a clip in a picture, spread evenly."""
PER_ROW = 8

_HEAD = ("candidate", "max", "mean", "cosine", "Spearman", "flips", "at most", "AUC", "verdict")
LEGEND = (
    "max, mean: |difference| of raw scores / spread of the reference's; at most: distance of a "
    "flip's\nreference to the threshold, normalised units; AUC: minus the reference's"
)


def table(report: GateReport) -> str:
    """Return the report as plain text, at most 100 columns but for long reasons and paths."""
    rows = [_HEAD, *(_cells(result) for result in report.results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = [*_about(report), ""]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)]
        lines.append("  ".join([*cells, row[-1]]))
    lines += ["", LEGEND] if report.results else []
    lines += [f"not run: {name}: {why}" for name, why in report.not_run.items()]
    lines += [line for result in report.failed for line in _failure(result)]
    return "\n".join([*lines, *(f"note: {note}" for note in report.notes)])


def markdown(report: GateReport, pictures: dict[str, Path]) -> str:
    """Return the report as Markdown.

    Args:
        report: From `verify`.
        pictures: By candidate; linked by their names, so they lie beside the file.
    """
    rows = [_HEAD, ("---", *["---:"] * (len(_HEAD) - 2), "---")]
    rows += [_cells(result) for result in report.results]
    lines = [f"# Parity of {report.bundle}: {'passed' if report.passed else 'failed'}", ""]
    lines += [f"* {line}" for line in _about(report)]
    lines += ["", *("| " + " | ".join(row) + " |" for row in rows), "", LEGEND, ""]
    lines += [f"* not run: {name}: {why}" for name, why in report.not_run.items()]
    lines += [f"* {line}" for result in report.failed for line in _failure(result)]
    lines += [f"* note: {note}" for note in report.notes]
    lines += [f"\n![worst clip of {name}]({file.name})" for name, file in pictures.items()]
    return "\n".join(lines) + "\n"


def write_report(folder: Path, report: GateReport) -> dict[str, Path]:
    """Write `verify.json`, `verify.md` and a picture of each failing candidate's worst clip.

    Returns:
        The pictures by candidate.

    Raises:
        InputError: The folder cannot be written.
    """
    pictures = save_pictures(folder, report)
    with whole_file(folder / "verify.json") as temporary:
        text = msgspec.json.format(msgspec.json.encode(outcome(report)), indent=2)
        temporary.write_bytes(text + b"\n")
    with whole_file(folder / "verify.md") as temporary:
        temporary.write_text(markdown(report, pictures), encoding="utf-8")
    return pictures


def save_pictures(folder: Path, report: GateReport) -> dict[str, Path]:
    """Draw the worst clip of each failing candidate as a film strip.

    Args:
        folder: Made if there is something to draw.
        report: From `verify`.

    Returns:
        The pictures by candidate; none where the graph takes features.

    Raises:
        InputError: The folder cannot be written.
    """
    out = {}
    for result in report.failed:
        if result.worst is None or result.worst.place.pixels is None:
            continue
        made_folder(folder)
        name = result.candidate.name
        out[name] = folder / f"worst_{name.replace(' ', '_')}.png"
        save_strip(out[name], result.worst, name, report)
    return out


def save_strip(path: Path, worst: WorstClip, name: str, report: GateReport) -> None:
    """Draw the frames of one clip in order, with file, frames and both scores above.

    Args:
        path: The PNG; appears whole or not at all.
        worst: What to draw; its place has pixels.
        name: Of the candidate.
        report: It belongs to.

    Raises:
        InputError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    place, pixels = worst.place, worst.place.pixels
    assert pixels is not None
    steps = np.linspace(0, len(pixels) - 1, min(SHOWN, len(pixels))).round().astype(int).tolist()
    columns = min(PER_ROW, len(steps))
    rows = -(-len(steps) // columns)
    cell = 11.5 / columns if columns >= PER_ROW // 2 else 2.0
    high = cell * pixels.shape[1] / pixels.shape[2] + 0.25
    figure = Figure(figsize=(max(columns * cell, 8.0), rows * high + 1.0), dpi=110)
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, step in zip(axes, steps, strict=False):
        grey = pixels.shape[3] == 1
        image = pixels[step, :, :, 0] if grey else pixels[step]
        axis.imshow(image, cmap="gray" if grey else None, vmin=0, vmax=255)
        axis.set_title(f"+{step}", fontsize=8, pad=2)
    figure.suptitle(
        f"{_short(place.file)}, clip from frame {place.first}; frame {place.frame} differs most\n"
        f"{name}: raw score {worst.score:.5g}, reference {worst.reference:.5g} "
        f"(difference {worst.score - worst.reference:+.3g}; bundle {report.bundle})",
        fontsize=10,
        parse_math=False,
    )
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def outcome(report: GateReport) -> dict[str, Any]:
    """Return a report as JSON values: everything but the pixels of the worst clips."""
    results = []
    for result in report.results:
        worst = result.worst
        results.append(
            {
                "candidate": result.candidate.name,
                "artefact": result.candidate.artefact,
                "device": result.device,
                "passed": result.passed,
                "broken": list(result.broken),
                "figures": None if result.figures is None else msgspec.to_builtins(result.figures),
                "auc_delta": None if result.figures is None else result.figures.auc_delta,
                "worst": worst
                and {
                    "file": worst.place.file,
                    "first_frame": worst.place.first,
                    "frame": worst.place.frame,
                    "reference": worst.reference,
                    "score": worst.score,
                },
            }
        )
    return {
        "schema": 1,
        "bundle": report.bundle,
        "passed": report.passed,
        "reference": report.reference,
        "files": list(report.files),
        "clips": report.clips,
        "clips_key": report.clips_key,
        "threshold": msgspec.to_builtins(report.threshold),
        "label_set": report.label_set,
        "budget": msgspec.to_builtins(report.budget),
        "results": results,
        "not_run": report.not_run,
        "unproven": list(report.unproven),
        "notes": list(report.notes),
    }


def _about(report: GateReport) -> list[str]:
    budget, threshold = report.budget, report.threshold
    auc = f", AUC within {budget.auc_delta:g}" if report.label_set else ""
    truth = f", labels {report.label_set}" if report.label_set else ""
    return [
        f"reference: {report.reference}",
        f"footage: {report.clips} clips of {len(report.files)} files{truth}",
        f"threshold: {threshold.value:.4g} ({threshold.source})",
        f"budget: mean error {budget.mean_error:g}, Spearman {budget.spearman:g}, flips "
        f"{budget.flips:g}{auc}",
    ]


def _cells(result: Result) -> tuple[str, ...]:
    verdict = "passed" if result.passed else "FAILED"
    figures = result.figures
    if figures is None:
        return (result.candidate.name, *["-"] * (len(_HEAD) - 2), verdict)
    delta, distance = figures.auc_delta, figures.flip_distance
    return (
        result.candidate.name,
        _number(figures.max_of_spread),
        _number(figures.mean_of_spread),
        f"{figures.cosine:.6f}",
        f"{figures.spearman:.5f}",
        f"{figures.flips} of {figures.frames}",
        "-" if distance is None else f"{distance:.3g}",
        "-" if delta is None else f"{delta:+.5f}",
        verdict,
    )


def _number(value: float | None) -> str:
    if value is None:
        return "infinite"
    return f"{value:.4f}" if value >= 0.001 or value == 0 else f"{value:.1e}"


def _failure(result: Result) -> list[str]:
    name = result.candidate.name
    lines = [f"{name}: {'; '.join(result.broken)}"]
    if result.worst is not None:
        worst = result.worst
        lines.append(
            f"{name}: worst clip {worst.place.file} from frame {worst.place.first}: score "
            f"{worst.score:.5g}, reference {worst.reference:.5g}"
        )
    return lines


def _short(path: str, most: int = 70) -> str:
    return path if len(path) <= most else "…" + path[1 - most :]
