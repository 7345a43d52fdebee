"""How classes lie around their centroids."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vad_training.analysis.figures import new_figure, shown
from vad_training.analysis.table import ClipTable, Space, Values

_CELLS_WITH_NUMBERS = 16
"""Beyond so many columns the numbers in the cells would overlap."""


@dataclass(frozen=True, kw_only=True)
class Hyperspheres:
    """The two hyperspheres around the centroid of one class."""

    name: str
    farthest_own: float
    """Radius: distance of the farthest *training* clip of the class."""
    own_inside_farthest: int
    """Clips of the class, of all splits, not farther than that."""
    foreign_inside_farthest: int
    """Clips of other classes, not farther than that."""
    nearest_foreign: float
    """Radius: distance of the nearest clip of another class."""
    own_inside_nearest: int
    """Clips of the class nearer than that."""
    own: int
    foreign: int


def median_distances(table: ClipTable, space: Space) -> Values:
    """Return the median distance of each class to each centroid.

    Returns:
        Shape (classes, centroids), in the order of `class_names` and `centroids`.
    """
    assert space.to_centroids is not None
    to = space.to_centroids
    return np.stack([np.median(to[table.classes == name], axis=0) for name in table.class_names])


def hyperspheres_of(table: ClipTable, space: Space) -> list[Hyperspheres]:
    """Count the clips in the hyperspheres around each centroid that has own and foreign clips.

    A class that can be told from all others has no foreign clip in the sphere of its farthest own
    one. The radius comes from training clips alone, so how many of its validation and test clips
    are inside tells something too.
    """
    assert space.to_centroids is not None
    found = []
    for name, distances in zip(space.centroids, space.to_centroids.T, strict=True):
        own = table.classes == name
        trained = own & table.rows("train")
        if not trained.any() or own.all():
            continue
        farthest, nearest = distances[trained].max(), distances[~own].min()
        found.append(
            Hyperspheres(
                name=name,
                farthest_own=float(farthest),
                own_inside_farthest=int((distances[own] <= farthest).sum()),
                foreign_inside_farthest=int((distances[~own] <= farthest).sum()),
                nearest_foreign=float(nearest),
                own_inside_nearest=int((distances[own] < nearest).sum()),
                own=int(own.sum()),
                foreign=int((~own).sum()),
            )
        )
    return found


def draw_median_distances(
    classes: Sequence[str], centroids: Sequence[str], values: Values
) -> Figure:
    """Draw classes against centroids; dark = near, and the own centroid has a frame.

    Args:
        classes: Rows.
        centroids: Columns.
        values: Shape (rows, columns), distances.
    """
    numbers = len(centroids) <= _CELLS_WITH_NUMBERS
    figure = new_figure(3.8 + 0.62 * len(centroids), 2.6 + 0.36 * len(classes))
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    axes.set_xticks(
        range(len(centroids)),
        [shown(name, 24) for name in centroids],
        parse_math=False,
        rotation=45,
        ha="right",
        rotation_mode="anchor",
        fontsize=9,
    )
    axes.set_yticks(
        range(len(classes)), [shown(name, 24) for name in classes], parse_math=False, fontsize=9
    )
    axes.set_xlabel("centroid of class")
    axes.set_ylabel("clips of class")
    middle = (values.min() + values.max()) / 2
    for row, name in enumerate(classes):
        for column, centroid in enumerate(centroids):
            if numbers:
                axes.text(
                    column,
                    row,
                    f"{values[row, column]:.3g}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="black" if values[row, column] > middle else "white",
                )
            if name == centroid:
                axes.add_patch(_frame(column, row))
    figure.colorbar(image, ax=axes, label="median distance (Euclidean)", pad=0.02)
    return figure


def draw_hyperspheres(spheres: Sequence[Hyperspheres]) -> Figure:
    """Draw, for each class, how much of it lies alone and how many foreign clips lie in it."""
    figure = new_figure(11.5, 1.9 + 0.34 * len(spheres))
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(spheres))
    for axes, inside, totals, title, colour in (
        (
            left,
            [s.own_inside_nearest for s in spheres],
            [s.own for s in spheres],
            "own clips nearer than the nearest foreign one",
            "#228833",
        ),
        (
            right,
            [s.foreign_inside_farthest for s in spheres],
            [s.foreign for s in spheres],
            "foreign clips not farther than the farthest own one",
            "#ee6677",
        ),
    ):
        shares = [100 * i / t for i, t in zip(inside, totals, strict=True)]
        axes.barh(places, shares, height=0.6, color=colour, alpha=0.85)
        for place, share, i, t in zip(places, shares, inside, totals, strict=True):
            axes.text(share + 1.5, place, f"{i} of {t}", va="center", fontsize=9)
        axes.set_xlim(0, 125)  # room for the counts beside a full bar
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel("share of clips (%)")
        axes.set_title(title, fontsize=10)
        axes.grid(axis="x", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
    left.set_yticks(places, [shown(s.name) for s in spheres], parse_math=False, fontsize=9)
    left.set_ylim(len(spheres) - 0.4, -0.6)
    return figure


def _frame(column: int, row: int) -> Rectangle:
    return Rectangle(
        (column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=1.6, clip_on=False
    )
