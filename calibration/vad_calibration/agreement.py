"""How far the scores of one graph agree with those of another: in decisions, not in tensors.

A quantised graph is judged by what leaves it. Errors are given in units of the *spread* of the
reference scores, because a score has no unit of its own: a reconstruction error runs to thousands,
a probability to one.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts import InputError

Scores = npt.NDArray[np.float64]
"""Shape (N,), one score a clip, or (N, count), `count` scores a clip."""

SPREAD_PERCENTILES = (5.0, 95.0)
"""The spread is the distance between these percentiles of the reference scores."""

CONSTANT = 4 * float(np.finfo(np.float32).eps)
"""Scores that differ by less than this share of the largest are one value: graphs give float32."""


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A score on one side of the threshold whose reference is on the other."""

    place: tuple[int, ...]
    """Its index in the array: (clip,) or (clip, score of the clip)."""

    distance: float
    """|reference - threshold| / spread: small = the reference itself could hardly decide."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Scores against their reference.

    A candidate score that is not finite makes `max_error` and `mean_error` infinite, `cosine` and
    `spearman` 0, and counts as a flip: nothing was decided.
    """

    count: int
    """How many scores were compared."""

    not_finite: int
    """How many of the candidate's are NaN or infinite."""

    spread: float
    """Of the reference, see `spread_of`; 0 where it is constant."""

    max_error: float
    """Largest |difference|, in the scores' own unit."""

    mean_error: float
    """Mean |difference|, in the scores' own unit."""

    worst: tuple[int, ...]
    """Index of the largest difference; of the first score that is not finite, if there is one."""

    cosine: float
    """Of the two arrays as vectors; 1 where both are zero, 0 where one is."""

    spearman: float
    """Rank correlation, see `spearman`."""

    threshold: float | None
    """A score at or above it is an alarm; None = no decisions were compared."""

    flips: tuple[Flip, ...]
    """Decisions that differ, the furthest from the threshold first."""

    @property
    def max_of_spread(self) -> float:
        """Largest |difference| / spread; infinite where a constant reference was not met."""
        return share_of(self.max_error, self.spread)

    @property
    def mean_of_spread(self) -> float:
        """Mean |difference| / spread; infinite where a constant reference was not met."""
        return share_of(self.mean_error, self.spread)

    @property
    def flip_share(self) -> float | None:
        """Share of decisions that differ; None without a threshold."""
        return None if self.threshold is None else len(self.flips) / self.count

    def as_dict(self) -> dict[str, Any]:
        """Return it for a manifest: JSON values only, None for what is infinite or not measured.

        Of the flips it holds the number, the share, and the median and largest distance.
        """
        distances = [flip.distance for flip in self.flips]
        return {
            "count": self.count,
            "not_finite": self.not_finite,
            "spread": self.spread,
            "max_error": _finite(self.max_error),
            "mean_error": _finite(self.mean_error),
            "max_of_spread": _finite(self.max_of_spread),
            "mean_of_spread": _finite(self.mean_of_spread),
            "worst": list(self.worst),
            "cosine": self.cosine,
            "spearman": self.spearman,
            "threshold": self.threshold,
            "flips": None if self.threshold is None else len(self.flips),
            "flip_share": self.flip_share,
            "flip_distance_median": _finite(float(np.median(distances))) if distances else None,
            "flip_distance_max": _finite(max(distances)) if distances else None,
        }


def agreement_of(
    reference: npt.ArrayLike, scores: npt.ArrayLike, threshold: float | None = None
) -> Agreement:
    """Compare scores with their reference.

    Args:
        reference: Shape (N,) or (N, count), any float type; computed in float64.
        scores: Of the same shape, of the same clips in the same order.
        threshold: The operating threshold; None compares no decisions.

    Raises:
        InputError: A reference score is not finite.
        ValueError: Shapes differ, or there are no scores.
    """
    expected, found = checked_pair(reference, scores)
    good = np.isfinite(found)
    broken = int(found.size - good.sum())
    gaps = np.full(expected.shape, np.inf)
    gaps[good] = np.abs(found[good] - expected[good])
    spread = spread_of(expected)
    return Agreement(
        count=found.size,
        not_finite=broken,
        spread=spread,
        max_error=float(gaps.max()),
        mean_error=float(gaps.mean()),
        worst=_index(int(gaps.argmax()), gaps.shape),
        cosine=0.0 if broken else cosine(expected, found),
        spearman=spearman(expected, found),
        threshold=threshold,
        flips=() if threshold is None else _flips(expected, found, threshold, spread),
    )


def spread_of(reference: npt.ArrayLike) -> float:
    """Return how far apart the reference scores are: from the 5th to the 95th percentile.

    Not from the smallest to the largest: these grow with the number of clips, so that a budget
    would mean something else for 8 clips than for 512, and a single cut or flash in one clip would
    stretch the unit until every error looks small. The distance between percentiles is the
    stricter of the two. Where nine tenths of the scores are one value it is the distance from the
    smallest to the largest after all, and 0 where all are.

    Args:
        reference: Any shape, finite.

    Raises:
        InputError: A score is not finite.
        ValueError: There are no scores.
    """
    values = _checked(reference)
    low, high = np.percentile(values, SPREAD_PERCENTILES)
    least = CONSTANT * float(np.abs(values).max())
    for spread in (float(high - low), float(values.max() - values.min())):
        if spread > least:
            return spread
    return 0.0


def share_of(value: float, spread: float) -> float:
    """Return `value / spread`; for a spread of 0 it is 0 where the value is 0, else infinite."""
    if spread > 0:
        return value / spread
    return 0.0 if value == 0 else math.inf


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Return Spearman's rank correlation of two arrays: Pearson's of their mean ranks.

    Where it has no definition: 1 if both are constant (there was no order to lose), 0 if only one
    is (an order was lost, or made up), 0 if a score is not finite.

    Args:
        first: Any shape; all its scores are ranked together.
        second: Of the same shape.

    Raises:
        ValueError: Shapes differ, or there are no scores.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    _check_shapes(a, b)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 0.0
    a, b = mean_ranks(a), mean_ranks(b)
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    if norm == 0:
        return float(not a.any() and not b.any())
    return min(1.0, max(-1.0, float(a @ b) / norm))


def mean_ranks(values: npt.ArrayLike) -> Scores:
    """Return the rank of each value, from 1, flat; equal values share the mean of their ranks."""
    _, place, count = np.unique(np.ravel(values), return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks: Scores = (last - (count - 1) / 2)[place.ravel()]
    return ranks


def cosine(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Return the cosine between two finite arrays as vectors; 1 if both are zero, 0 if one is."""
    a, b = np.ravel(first).astype(np.float64), np.ravel(second).astype(np.float64)
    # Divided by the largest first: squares of large reconstruction errors must not overflow.
    largest = float(np.abs(a).max()), float(np.abs(b).max())
    if 0.0 in largest:
        return float(largest == (0.0, 0.0))
    a, b = a / largest[0], b / largest[1]
    return min(1.0, max(-1.0, float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))))


def checked_pair(reference: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Scores, Scores]:
    """Return both as float64 of one shape.

    Raises:
        InputError: A reference score is not finite.
        ValueError: Shapes differ, or there are no scores.
    """
    expected, found = _checked(reference), np.asarray(scores, np.float64)
    _check_shapes(expected, found)
    return expected, found


def _checked(reference: npt.ArrayLike) -> Scores:
    values = np.asarray(reference, np.float64)
    if not values.size:
        raise ValueError("there are no reference scores")
    broken = int(values.size - np.isfinite(values).sum())
    if broken:
        raise InputError(
            f"{broken} of the {values.size} reference scores are not finite, so nothing can be "
            "compared with them. Check the fp32 model on these clips first."
        )
    return values


def _check_shapes(first: Scores, second: Scores) -> None:
    if first.shape != second.shape:
        raise ValueError(f"scores {second.shape} and their reference {first.shape} differ in shape")
    if not first.size:
        raise ValueError("there are no scores")


def _flips(reference: Scores, scores: Scores, threshold: float, spread: float) -> tuple[Flip, ...]:
    differ = ((reference >= threshold) != (scores >= threshold)) | ~np.isfinite(scores)
    found = []
    for at in np.flatnonzero(differ).tolist():
        place = _index(at, reference.shape)
        gap = abs(float(reference[place]) - threshold)
        found.append(Flip(place=place, distance=share_of(gap, spread)))
    return tuple(sorted(found, key=lambda flip: (-flip.distance, flip.place)))


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, shape))


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
