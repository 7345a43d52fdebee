"""Tables and targets of one test, for the terminal and for the JSON of pytest-benchmark."""

from collections.abc import Mapping, Sequence
from typing import Any

from perf_targets import Target

Cell = str | float | None


class Board:
    """What a test has found besides its own time.

    Args:
        benchmark: The test's; its `extra_info` ends up in the JSON.
    """

    def __init__(self, benchmark: Any) -> None:
        self._info: dict[str, Any] = benchmark.extra_info
        self._tables: list[tuple[str, list[str], list[list[str]]]] = []
        self._targets: list[Target] = []
        self._notes: list[str] = []

    def table(self, title: str, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Add a table; floats get three significant digits or so."""
        texts = [[_text(cell) for cell in row] for row in rows]
        self._tables.append((title, list(head), texts))
        self._info.setdefault("tables", []).append(
            {"title": title, "head": list(head), "rows": texts}
        )

    def target(self, target: Target) -> None:
        """Add a target."""
        self._targets.append(target)
        self._info.setdefault("targets", []).append(target.as_dict())

    def note(self, line: str) -> None:
        """Add a line below the tables: what is missing, and why."""
        self._notes.append(line)
        self._info.setdefault("notes", []).append(line)

    def data(self, **values: Any) -> None:
        """Add raw values for plots; JSON only."""
        self._info.update(values)

    def lines(self) -> list[str]:
        """Return everything for a terminal."""
        out: list[str] = []
        for title, head, rows in self._tables:
            out += ["", title, *aligned([head, *rows])]
        return [*out, *self._notes, *(target.line() for target in self._targets)]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(_padded(cell, width, i) for i, (cell, width) in enumerate(_zip(row, widths)))
        for row in rows
    ]


def _zip(row: Sequence[str], widths: Sequence[int]) -> list[tuple[str, int]]:
    return list(zip(row, widths, strict=True))


def _padded(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column else cell.ljust(width)


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    if abs(cell) >= 100:
        return f"{cell:.0f}"
    return f"{cell:.1f}" if abs(cell) >= 10 else f"{cell:.2f}"


def markdown(table: Mapping[str, Any]) -> str:
    """Return a table of the JSON as Markdown."""
    head = table["head"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in table["rows"])])
