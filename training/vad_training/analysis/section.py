"""What an analysis hands to the report: an explanation, tables and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = str | int | float | None
"""None and NaN become an empty cell."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One CSV."""

    name: str
    """File name without its ending."""
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One PNG."""

    name: str
    """File name without its ending."""
    caption: str
    figure: "Figure"


@dataclass(frozen=True, kw_only=True)
class Section:
    """One analysis."""

    title: str
    text: str
    """What it shows and how to read it, for somebody who sees it for the first time."""
    pictures: Sequence[Picture] = ()
    sheets: Sequence[Sheet] = ()
    left_out: Sequence[str] = ()
    """What could not be done, and why: one sentence each."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For summary.json."""
