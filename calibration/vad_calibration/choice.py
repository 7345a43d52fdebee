"""Which candidates stand for all: strata of motion and brightness, and far apart inside them."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from vad_calibration.statistics import STATISTICS, ClipStatistics

Table = npt.NDArray[np.float64]

_FEW = (0.15, 0.85)
_MANY = (0.1, 0.35, 0.65, 0.9)
"""Quantiles between the bins of motion, and of brightness. The ends are narrow: bins take turns, so
that the darkest tenth of the candidates gets twice its share, and the most moving tenth too."""
_MANY_FROM = 50
"""Chosen clips from which the finer grid is used: two for each of its 25 cells."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The candidates that were chosen."""

    chosen: list[int]
    """Their numbers, rising."""

    strata: list[str]
    """The stratum of each of the chosen, in the same order."""


def table_of(statistics: Sequence[ClipStatistics]) -> Table:
    """Return statistics as an array of shape (N, 6), float64, columns as in `STATISTICS`."""
    rows = [msgspec.structs.astuple(each) for each in statistics]
    return np.array(rows, np.float64).reshape(len(rows), len(STATISTICS))


def chosen_from_candidates(table: Table, count: int, *, seed: int) -> Choice:
    """Choose candidates that cover dark and bright, still and moving footage alike.

    A grid of quantiles of motion and brightness gives the strata; the ends of both are narrow. The
    strata take turns, in an order that the seed draws, and each time give the candidate that is
    farthest from all chosen so far (farthest-point sampling, Gonzalez 1985) in standardised
    statistics. So rare footage gets more than its share, and no two clips say the same.

    Args:
        table: Shape (N, 6), as from `table_of`; N at least 1.
        count: How many to choose; all if there are not so many.
        seed: For the order of the strata.
    """
    quantiles = _MANY if count >= _MANY_FROM else _FEW
    bins = len(quantiles) + 1
    names = list(STATISTICS)
    motion = _quantile_bins(table[:, names.index("motion")], quantiles)
    brightness = _quantile_bins(table[:, names.index("brightness")], quantiles)
    cells = motion * bins + brightness
    order = np.random.default_rng([seed, 6]).permutation(np.unique(cells))
    spread = table.std(axis=0)
    points = (table - table.mean(axis=0)) / np.where(spread > 0, spread, 1)
    chosen = _round_robin(points, [np.flatnonzero(cells == cell) for cell in order], count)
    strata = [
        f"motion {motion[i] + 1}/{bins}, brightness {brightness[i] + 1}/{bins}" for i in chosen
    ]
    return Choice(chosen=chosen, strata=strata)


def _round_robin(points: Table, cells: list[npt.NDArray[np.intp]], count: int) -> list[int]:
    distance = np.full(len(points), np.inf)  # to the nearest of the chosen; -1 = chosen
    chosen: list[int] = []
    while len(chosen) < min(count, len(points)):
        for cell in cells:
            if len(chosen) == count or distance[cell].max() < 0:
                continue
            if chosen:
                best = int(cell[distance[cell].argmax()])
            else:  # the first: what is most typical of its cell
                off = np.linalg.norm(points[cell] - np.median(points[cell], axis=0), axis=1)
                best = int(cell[off.argmin()])
            chosen.append(best)
            distance = np.minimum(distance, np.linalg.norm(points - points[best], axis=1))
            distance[chosen] = -1
    return sorted(chosen)


def _quantile_bins(values: Table, quantiles: tuple[float, ...]) -> npt.NDArray[np.intp]:
    """Return the number of each value's bin, from 0; equal values share one."""
    return np.searchsorted(np.quantile(values, quantiles), values, side="left")
