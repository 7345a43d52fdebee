"""A submission file for a benchmark: one line per frame of every video."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vad_runtime.contracts import InputError
from vad_runtime.files import whole_file
from vad_runtime.progress import progress
from vad_runtime.sinks.rows import read_rows
from vad_training.evaluation import held, source_of

COLUMNS = ("Id", "Predicted")


def write_submission(
    results: Path,
    target: Path,
    *,
    column: Literal["offline", "causal"] = "offline",
    first_frame: int = 0,
    columns: Sequence[str] = COLUMNS,
) -> int:
    """Write ``Id = {video}_{frame}`` and a score for every frame that `vad-run score` has scored.

    A frame without a score of its own (warm-up, context) takes that of the last frame before it,
    or of the first after it: a benchmark wants a line for each.

    Args:
        results: Folder of `vad-run score`, with one or many videos below it.
        target: The CSV; appears whole or not at all.
        column: `offline`, the papers' score, or `causal`, what a live run emits.
        first_frame: Number of a video's first frame in the Ids.
        columns: Names of the two columns.

    Returns:
        How many lines were written, without the header.

    Raises:
        InputError: No results, two videos of one name, a video without that column, or the target
            cannot be written.
    """
    reports = sorted(results.rglob("report.json"))
    if not reports:
        raise InputError(f"{results} holds no report.json. Run vad-run score with -o {results}.")
    names: dict[str, Path] = {}
    lines = 0
    with (
        whole_file(target) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
        progress("writing, videos", len(reports)) as bar,
    ):
        writer = csv.writer(stream)
        writer.writerow(columns)
        for report in reports:
            source = Path(source_of(report))
            name = source.name if source.is_dir() else source.stem
            if name in names:
                raise InputError(
                    f"{names[name]} and {report.parent} are both results of a video {name!r}. "
                    "Remove one of them, or rename a video."
                )
            names[name] = report.parent
            rows = read_rows(report.parent / "scores.csv")
            values = [row.offline if column == "offline" else row.score for row in rows]
            if all(value is None for value in values):
                raise InputError(
                    f"{report.parent / 'scores.csv'} has no {column} score. "
                    "Score the video again, without --no-offline."
                )
            scores = held(rows, values, rows[-1].frame + 1)
            for frame, score in enumerate(scores.tolist(), start=first_frame):
                writer.writerow([f"{name}_{frame}", f"{score:.6g}"])
                lines += 1
            bar.advance()
    return lines
