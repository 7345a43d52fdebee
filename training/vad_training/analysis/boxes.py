"""Box plots: how the values of groups of clips are spread."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vad_training.analysis.criteria import Threshold
from vad_training.analysis.figures import SPLIT_COLOURS, draw_marks, log_axis, new_figure, shown
from vad_training.analysis.section import Cell, Sheet
from vad_training.analysis.table import SPLITS, ClipTable, Values

_FEW = 10
"""Groups of up to so many clips show every clip: a box of three is no box."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The values of one box."""

    name: str
    """Class, or empty for a whole split."""
    split: str
    values: Values
    """Shape (n,), n >= 1, finite."""

    def statistics(self) -> tuple[float, ...]:
        """Return minimum, lower quartile, median, upper quartile, maximum and mean."""
        five = np.quantile(self.values, (0, 0.25, 0.5, 0.75, 1))
        return (*map(float, five), float(self.values.mean()))


STATISTICS = ("min", "q1", "median", "q3", "max", "mean")


def groups_by_split(table: ClipTable, values: Values) -> list[Group]:
    """Return a group for each split that has values; NaN values are left out.

    Args:
        table: n clips.
        values: Shape (n,).
    """
    return _groups(table, values, [""])


def groups_by_class(table: ClipTable, values: Values) -> list[Group]:
    """Return a group for each class and split that has values; NaN values are left out."""
    return _groups(table, values, table.class_names)


def _groups(table: ClipTable, values: Values, names: Sequence[str]) -> list[Group]:
    groups = []
    for name in names:
        for split in SPLITS:
            rows = table.rows(split) & ~np.isnan(values)
            if name:
                rows &= table.classes == name
            if rows.any():
                groups.append(Group(name=name, split=split, values=values[rows]))
    return groups


def draw_boxes(groups: Sequence[Group], label: str, marks: Sequence[Threshold] = ()) -> Figure:
    """Draw the groups below each other, on a linear and on a logarithmic axis.

    A box spans the quartiles, its line is the median, the whiskers end at the last value within
    1.5 box lengths. The logarithmic panel is left out where a value is not positive.

    Args:
        groups: At least one.
        label: What the values are, with their unit.
        marks: Thresholds to draw.
    """
    positive = all((group.values > 0).all() for group in groups)
    panels = 2 if positive else 1
    figure = new_figure(3.2 + 4.4 * panels, 1.9 + 0.27 * len(groups))
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    names = [_label(group) for group in groups]
    places = range(len(groups))
    for panel, scale in zip(axes, ("linear", "log"), strict=False):
        for place, group in zip(places, groups, strict=True):
            _draw_box(panel, place, group)
        draw_marks(panel, [mark for mark in marks if scale == "linear" or mark.value > 0])
        panel.use_sticky_edges = False  # they would put a box of one clip on the frame
        panel.margins(x=0.04)
        if scale == "log":
            log_axis(panel)
        panel.set_xlabel(label + (", logarithmic axis" if scale == "log" else ""))
        panel.grid(axis="x", color="0.9", linewidth=0.8)
        panel.set_axisbelow(True)
    axes[0].set_yticks(places, names, parse_math=False, fontsize=9)
    axes[0].set_ylim(len(groups) - 0.4, -0.6)
    handles = [
        Patch(facecolor=SPLIT_COLOURS[s], alpha=0.75, label=s)
        for s in SPLITS
        if any(group.split == s for group in groups)
    ]
    handles += axes[0].get_legend_handles_labels()[0]
    figure.legend(handles=handles, loc="outside upper center", ncols=6, frameon=False, fontsize=9)
    return figure


def box_sheet(name: str, groups: Sequence[Group]) -> Sheet:
    """Return the statistics of the groups, one a row."""
    rows: list[tuple[Cell, ...]] = [
        (g.name, g.split, len(g.values), *g.statistics()) for g in groups
    ]
    if all(not group.name for group in groups):
        columns = ("split", "clips", *STATISTICS)
        return Sheet(name=name, columns=columns, rows=[row[1:] for row in rows])
    return Sheet(name=name, columns=("class", "split", "clips", *STATISTICS), rows=rows)


def _draw_box(axes: Axes, place: int, group: Group) -> None:
    """Draw one lying box (Tukey's: the whiskers end at the last value within 1.5 box lengths)."""
    values, colour = group.values, SPLIT_COLOURS[group.split]
    q1, median, q3 = np.quantile(values, (0.25, 0.5, 0.75))
    reach = 1.5 * (q3 - q1)
    inside = (values >= q1 - reach) & (values <= q3 + reach)
    axes.hlines(
        place, values[inside].min(), values[inside].max(), color="0.3", linewidth=0.9, zorder=1
    )
    axes.barh(
        place,
        q3 - q1,
        left=q1,
        height=0.62,
        facecolor=colour,
        alpha=0.85,
        edgecolor="0.3",
        linewidth=0.8,
        zorder=2,
    )
    axes.vlines(median, place - 0.31, place + 0.31, color="black", linewidth=1.5, zorder=3)
    few = len(values) <= _FEW
    points = values if few else values[~inside]
    axes.plot(
        points,
        np.full(len(points), place),
        "o",
        color=colour if few else "0.25",
        markeredgecolor="0.2",
        markeredgewidth=0.6,
        markersize=4.5 if few else 1.8,
        zorder=4,
    )


def _label(group: Group) -> str:
    which = f"{shown(group.name)}, {group.split}" if group.name else group.split
    return f"{which} (n={len(group.values)})"
