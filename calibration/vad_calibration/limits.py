"""The clip point of a tensor from its histogram: which |x| becomes 127.

All methods work on a few thousand bins and never on the values themselves.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SMALLEST_LIMIT = 127 * 2.0**-24
"""The limit of a tensor that is all zero, and of one whose values are smaller still: its scale is
then 2^-24, the smallest positive number of FP16. Zero itself would be no scale."""

LEVELS = 127
"""Steps from 0 to the limit: symmetric INT8 uses -127 .. 127."""

_LINEAR_BINS = 2048
_KL_LEVELS = 128
_KL_FAR = 1e-4
_KL_ZEROS = 8
"""Bins within half a step of zero where the clip point is the largest value (2048 / 254)."""
_KL_FLOOR = 1e-12
_MSE_LOWEST = 2.0**-14
_MSE_CANDIDATES = 256
_MSE_FINE = 33


@dataclass(frozen=True, kw_only=True)
class Masses:
    """The filled part of a histogram of magnitudes."""

    counts: Floats
    """Count of each bin up to that of the largest value, shape (B,); zeros are not in it."""

    edges: Floats
    """Where the bins begin and end, shape (B + 1,); the last is the largest value."""

    zeros: int
    """How many values were zero."""

    @property
    def largest(self) -> float:
        """The largest |x|."""
        return float(self.edges[-1])


def masses_from_counts(
    counts: npt.NDArray[np.int64], edges: Floats, zeros: int, largest: float
) -> Masses:
    """Cut a histogram after its last filled bin, which then ends at the largest value.

    Args:
        counts: Shape (BINS,), without zeros.
        edges: Shape (BINS + 1,).
        zeros: How many values were zero.
        largest: The largest |x|.

    Returns:
        New arrays; without any bin where all values are zero.
    """
    filled = np.flatnonzero(counts)
    end = int(filled[-1]) + 1 if len(filled) else 0
    cut = edges[: end + 1].copy()
    cut[-1] = largest
    return Masses(counts=counts[:end].astype(np.float64), edges=cut, zeros=zeros)


def percentile_limit(masses: Masses, percentile: float) -> float:
    """Return the smallest |x| that `percentile` per cent of all values, zeros too, do not exceed.

    Inside a bin the values are taken as spread evenly. A tensor with so many zeros that the
    percentile is one of them gets its largest value: what little it carries lies in the rest.

    Args:
        masses: At least one bin.
        percentile: In (0, 100].
    """
    below = masses.zeros + np.cumsum(masses.counts)  # as many lie in a bin or below it
    rank = np.ceil(below[-1] * percentile / 100)
    if rank <= masses.zeros:
        return masses.largest
    index = int(np.searchsorted(below, rank))
    low, high = masses.edges[index : index + 2]
    share = 1 - (below[index] - rank) / masses.counts[index]
    return float(low + share * (high - low))


def entropy_limit(masses: Masses) -> float:
    """Return the clip point with the least Kullback-Leibler divergence.

    The method of TensorRT's calibration (S. Migacz, "8-bit Inference with TensorRT", GTC 2017): on
    a linear histogram of 2048 bins, every clip point after 128 bins or more is tried. P is the
    histogram up to there with everything beyond put into its last bin; Q is the same without what
    is beyond, merged into 128 levels and spread again over the bins that are filled.

    Decisions where the source leaves room, or fails on tensors of video autoencoders:

    * Zeros are left out. Every scale holds them exactly, and after a ReLU they would be half of
      all values and drown the rest.
    * The bins are shared among the levels as evenly as whole bins can be (level i begins at bin
      `i * bins // 128`); no last level takes the remainder.
    * Where all but one in 10^4 of the values lie below 1/16 of the largest, the smallest clip point
      that can be tried, one far outlier has made the bins too coarse to see the rest. The histogram
      then ends at that point, what is beyond counts as clipped, and so on until it fits.
    * Values within half a step of zero are left out like zeros: behind a LeakyReLU (slope 0.01)
      they are up to three quarters, and levels spent on them are taken from the signal.
    * What both histograms being scaled to 1 hides is added to the divergence, -log k - (1 - k) for
      the share k that is not clipped: where no value is near zero, a clip point with one filled
      bin below it would be perfect otherwise.

    Args:
        masses: At least one bin.
    """
    below = np.concatenate([[0.0], np.cumsum(masses.counts)])
    top = masses.largest
    while True:
        lower = top * _KL_LEVELS / _LINEAR_BINS
        if np.interp(lower, masses.edges, below) < (1 - _KL_FAR) * below[-1]:
            break
        top = lower
    return top * _kl_bins(*_linear_histogram(masses, below, top)) / _LINEAR_BINS


def mse_limit(masses: Masses) -> float:
    """Return the clip point with the least expected squared error of symmetric INT8.

    The error of a bin is, above the limit, the squared distance to it; below it, step²/12 where the
    step is finer than the bin, else the squared distance of the bin's centre to its level plus
    width²/12 for the values around the centre. Limits from the largest value down to 2^-14 of it
    are tried in steps of 4 %, and then finely around the best.

    Args:
        masses: At least one bin.
    """
    tried = masses.largest * np.geomspace(_MSE_LOWEST, 1, _MSE_CANDIDATES)
    best = int(np.argmin(_squared_errors(masses, tried)))
    low, high = tried[max(best - 1, 0)], tried[min(best + 1, len(tried) - 1)]
    fine = np.geomspace(low, high, _MSE_FINE)
    return min(float(fine[np.argmin(_squared_errors(masses, fine))]), masses.largest)


def _linear_histogram(masses: Masses, below: Floats, top: float) -> tuple[Floats, float]:
    """Spread the masses by overlap over 2048 equal bins from 0 to `top`; and the mass beyond."""
    places = np.linspace(0, top, _LINEAR_BINS + 1)
    cumulated = np.interp(places, masses.edges, below)
    if top >= masses.largest:
        cumulated[-1] = below[-1]  # a single value is a bin without width
    return np.diff(cumulated), float(below[-1] - cumulated[-1])


def _kl_bins(linear: Floats, beyond: float) -> int:
    """Return how many of the bins give the least divergence, 128 or more."""
    # A mass below a millionth of one value is what rounding leaves of an empty bin.
    linear = np.where(linear > 1e-6, linear, 0.0)
    linear[:_KL_ZEROS] = 0
    if not linear.any():
        return len(linear)
    total = linear.sum() + beyond
    best, least = len(linear), np.inf
    for bins in range(_KL_LEVELS, len(linear) + 1):
        kept = linear[:bins]
        outliers = total - kept.sum()
        found = _divergence(kept, max(outliers, 0.0))
        if found < least:
            best, least = bins, found
    return best


def _divergence(kept: Floats, outliers: float) -> float:
    """Return KL(P || Q) in nats for one clip point; infinite where nothing is kept."""
    bins = len(kept)
    mass = kept.sum()
    if mass <= 0:
        return np.inf
    starts = np.arange(_KL_LEVELS) * bins // _KL_LEVELS
    widths = np.diff(np.append(starts, bins))
    p = kept.copy()
    p[-1] += outliers
    filled = p > 0
    levels = np.add.reduceat(kept, starts) / np.maximum(
        np.add.reduceat(filled.astype(np.float64), starts), 1
    )
    share = mass / (mass + outliers)
    q = np.repeat(levels, widths)[filled] / mass
    p = p[filled] / (mass + outliers)
    # A bin that only outliers fill has no counterpart in Q; the floor keeps its price finite.
    divergence = float(np.sum(p * np.log(p / np.maximum(q, _KL_FLOOR))))
    # What both being scaled to 1 hides: half the square of the clipped share where that is small,
    # and more than any gain where nearly everything is clipped. Without it, a clip point with one
    # filled bin below it is perfect: P and Q are then the same single bin.
    return float(divergence - np.log(share) - (1 - share))


def _squared_errors(masses: Masses, limits: Floats) -> Floats:
    """Return the sum of squared errors for each limit, shape (L,)."""
    filled = masses.counts > 0
    counts = masses.counts[filled]
    low, high = masses.edges[:-1][filled], masses.edges[1:][filled]
    centres, spread = (low + high) / 2, (high - low) ** 2 / 12
    errors = np.empty(len(limits))
    for i, limit in enumerate(limits):
        step = limit / LEVELS
        nearest = np.minimum(np.rint(centres / step), LEVELS) * step
        error = (centres - nearest) ** 2 + spread
        error[(high - low > step) & (high <= limit)] = step**2 / 12
        errors[i] = counts @ error
    return errors
