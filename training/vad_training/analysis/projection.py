"""Points of many dimensions on a plane: t-SNE and UMAP."""

import importlib
import warnings
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vad_training.analysis.figures import (
    SPLIT_COLOURS,
    SPLIT_MARKERS,
    class_colours,
    new_figure,
    shown,
    side_legend,
)
from vad_training.analysis.table import SPLITS, Names, Values

FEWEST = 4
"""Fewer points than this have no neighbourhoods to keep."""
_PERPLEXITY = 30.0
_NEIGHBOURS = 15


def chosen_rows(count: int, most: int, seed: int) -> npt.NDArray[np.int64]:
    """Return which of `count` points are drawn: all, or `most` by lot; rising."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def cannot_project(points: Values) -> str | None:
    """Return why points, shape (n, D), cannot be laid on a plane; None = they can."""
    if len(points) < FEWEST:
        return f"there are only {len(points)} clips, and it takes {FEWEST}"
    if not np.ptp(points, axis=0).any():
        return "all clips lie at the same point"
    return None


def tsne_of(points: Values, seed: int) -> Values:
    """Return t-SNE of the points (van der Maaten and Hinton, 2008).

    The perplexity is 30, or a third of the neighbours where there are fewer than 90.

    Args:
        points: Shape (n, D), n >= `FEWEST`, not all the same.
        seed: The same seed gives the same picture on the same machine.

    Returns:
        Shape (n, 2); its axes have no unit.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # has no types

    perplexity = min(_PERPLEXITY, (len(points) - 1) / 3)
    start = "pca" if points.shape[1] >= 2 else "random"  # two components need two dimensions
    tsne = TSNE(2, perplexity=perplexity, init=start, random_state=seed)
    # One thread: its many short parallel loops take ten times as long on cores that are busy.
    with threadpool_limits(1):
        return np.asarray(tsne.fit_transform(points.astype(np.float32)), np.float64)


def umap_available() -> bool:
    """Return whether umap-learn is installed, without importing it."""
    return find_spec("umap") is not None


def umap_of(points: Values, seed: int) -> Values:
    """Return UMAP of the points (McInnes et al., 2018); as `tsne_of`. Needs umap-learn."""
    umap = importlib.import_module("umap")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that a seed means one thread
        mapper = umap.UMAP(
            n_neighbors=min(_NEIGHBOURS, len(points) - 1), random_state=seed, init="random"
        )
        return np.asarray(mapper.fit_transform(points), np.float64)


def draw_projection(plane: Values, classes: Names, splits: Names, names: list[str]) -> Figure:
    """Draw points twice: coloured by split, and coloured by class.

    Args:
        plane: Shape (n, 2).
        classes: Shape (n,).
        splits: Shape (n,).
        names: All classes in the order of the legend.
    """
    columns = 1 + (len(names) - 1) // 22
    figure = new_figure(13.2 + 1.6 * (columns - 1), 5.2)
    left, right = figure.subplots(1, 2)
    colours = class_colours(names)
    size = 26 if len(plane) < 300 else 12
    for split in SPLITS:
        rows = splits == split
        if not rows.any():
            continue
        style = {"marker": SPLIT_MARKERS[split], "s": size, "alpha": 0.75, "linewidths": 0}
        left.scatter(*plane[rows].T, color=SPLIT_COLOURS[split], **style)
        right.scatter(*plane[rows].T, color=[colours[c] for c in classes[rows]], **style)
    for axes, title in ((left, "by split"), (right, "by class (marker = split)")):
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    side_legend(
        left,
        [
            Line2D(
                *([], []),
                linestyle="",
                marker=SPLIT_MARKERS[split],
                color=SPLIT_COLOURS[split],
                label=split,
            )
            for split in SPLITS
            if (splits == split).any()
        ],
    )
    dots = [
        Line2D([], [], linestyle="", marker="o", color=colours[name], label=shown(name, 24))
        for name in names
    ]
    side_legend(right, dots, columns)
    return figure
