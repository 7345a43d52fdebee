"""A folder with all pictures and tables of an analysis, and one page that shows them."""

import csv
import html
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from vad_runtime.contracts import InputError
from vad_runtime.files import flush_to_disk, put_in_place
from vad_training.analysis.figures import save_figure
from vad_training.analysis.section import Cell, Section, Sheet
from vad_training.analysis.table import ClipTable, write_clip_table

PAGE, SUMMARY, CLIPS = "index.html", "summary.json", "clips.csv"

_ROWS_ON_PAGE = 40
"""Longer tables are only linked."""

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
       color: #222; background: #fff; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 3rem; border-bottom: 1px solid #ccc; }
p { max-width: 50rem; } img { max-width: 100%; height: auto; }
figure { margin: 1.5rem 0; } figcaption { color: #555; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .6rem; text-align: left; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.left-out { border-left: 4px solid #c90; padding-left: .8rem; }
"""


def require_free_folder(folder: Path, *, overwrite: bool = False) -> None:
    """Refuse a folder where no analysis may be written, before any long work is done.

    Raises:
        InputError: Something stands there and may not, or must not, be replaced.
    """
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise InputError(f"{folder} exists already. Name another folder or add --overwrite.")
    if not (folder / SUMMARY).is_file() or not (folder / PAGE).is_file():
        raise InputError(f"{folder} is no analysis, so it is left alone. Name another folder.")


def write_report(
    folder: Path,
    title: str,
    table: ClipTable,
    sections: Sequence[Section],
    *,
    overwrite: bool = False,
    after_picture: Callable[[], None] = lambda: None,
) -> Path:
    """Write an analysis; the folder appears whole or not at all.

    Args:
        folder: To make: `index.html`, `summary.json`, `clips.csv`, and every picture and sheet.
        title: What was analysed, for the page.
        table: The clips, written as `clips.csv`.
        sections: In the order of the page.
        overwrite: Replace an analysis that stands there; it stays until the new one is whole.
        after_picture: Called when another picture is drawn.

    Returns:
        The page.

    Raises:
        InputError: The folder is taken, or cannot be written.
    """
    require_free_folder(folder, overwrite=overwrite)
    target = folder.absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}). Choose another folder."
        ) from None
    try:
        work.chmod(0o755)
        write_clip_table(work / CLIPS, table)
        for section in sections:
            for sheet in section.sheets:
                _write_sheet(work / f"{sheet.name}.csv", sheet)
            for picture in section.pictures:
                save_figure(picture.figure, work / f"{picture.name}.png")
                after_picture()
        (work / SUMMARY).write_text(
            json.dumps(_summary(title, table, sections), indent=2, allow_nan=False) + "\n",
            encoding="utf-8",
        )
        (work / PAGE).write_text(_page(title, table, sections), encoding="utf-8")
        for file in work.iterdir():
            flush_to_disk(file)
        put_in_place(work, target)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}). Choose another folder."
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder / PAGE


def _write_sheet(file: Path, sheet: Sheet) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(sheet.columns)
        writer.writerows([_cell(cell, 9) for cell in row] for row in sheet.rows)


def _cell(cell: Cell, digits: int) -> str:
    if isinstance(cell, float):
        return "" if math.isnan(cell) else f"{cell:.{digits}g}"
    return "" if cell is None else str(cell)


def _summary(title: str, table: ClipTable, sections: Iterable[Section]) -> dict[str, Any]:
    left_out = [reason for section in sections for reason in section.left_out]
    facts = {key: value for section in sections for key, value in section.facts.items()}
    return {"source": title, "clips": counts_by_split(table), **facts, "left_out": left_out}


def counts_by_split(table: ClipTable) -> dict[str, int]:
    """Return how many clips each split has that occurs."""
    names = ("train", "val", "test", "anomaly")
    return {s: int(table.rows(s).sum()) for s in names if table.rows(s).any()}


def _page(title: str, table: ClipTable, sections: Sequence[Section]) -> str:
    counts = ", ".join(f"{number} {split}" for split, number in counts_by_split(table).items())
    contents = "".join(
        f'<li><a href="#part{i}">{html.escape(section.title)}</a></li>\n'
        for i, section in enumerate(sections, 1)
    )
    parts = "".join(_part(i, section) for i, section in enumerate(sections, 1))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Analysis of {html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Analysis of {html.escape(title)}</h1>
<p>{len(table)} clips in {len(table.class_names)} classes: {counts}. The splits train, val and test
hold classes that the model has learnt; anomaly holds classes that it has never seen. A clip counts
as an anomaly when its score is at or above the threshold. All clips with their scores:
<a href="{CLIPS}">{CLIPS}</a>; the main numbers: <a href="{SUMMARY}">{SUMMARY}</a>.</p>
<ol>
{contents}</ol>
{parts}</body>
</html>
"""


def _part(number: int, section: Section) -> str:
    lines = [f'<h2 id="part{number}">{html.escape(section.title)}</h2>']
    lines.append(f"<p>{html.escape(section.text)}</p>")
    lines += [f'<p class="left-out">{html.escape(reason)}</p>' for reason in section.left_out]
    for picture in section.pictures:
        caption = html.escape(picture.caption)
        lines.append(
            f'<figure><img src="{picture.name}.png" alt="{caption}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    for sheet in section.sheets:
        lines.append(f'<p>Table: <a href="{sheet.name}.csv">{sheet.name}.csv</a></p>')
        if len(sheet.rows) <= _ROWS_ON_PAGE:
            lines.append(_html_table(sheet))
    return "\n".join(lines) + "\n"


def _html_table(sheet: Sheet) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in sheet.columns)
    rows = []
    for row in sheet.rows:
        cells = []
        for cell in row:
            kind = ' class="number"' if isinstance(cell, int | float) else ""
            cells.append(f"<td{kind}>{html.escape(_cell(cell, 6))}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n' + "\n".join(rows) + "\n</table></div>"
