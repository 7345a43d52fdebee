"""Streaming histograms of the magnitudes of a tensor.

A bin is read straight off the bits of a float32: without the sign, its exponent and the upper nine
bits of its mantissa. So every octave has 512 bins of equal width, a bin is at most 1/512 = 0.2 % of
its values wide, and the edges are the same for every tensor of every model. One pass is enough,
nothing is ever binned again, and since counts are whole numbers the sum does not depend on the
order: two halves merge to the same histogram, bit for bit, and work that was cut off goes on from
its counts.

Memory: `BYTES` (256 KiB) for each tensor, however many values went in, and 4 MB while adding.
"""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from vad_calibration import limits
from vad_runtime.contracts.errors import ExportError

Method = Literal["minmax", "entropy", "percentile", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)

_MANTISSA_BITS = 9
_PER_OCTAVE = 1 << _MANTISSA_BITS
_SHIFT = 23 - _MANTISSA_BITS
_LOWEST, _HIGHEST = -24, 40
_FIRST = (127 + _LOWEST) << _MANTISSA_BITS
BINS = (_HIGHEST - _LOWEST) * _PER_OCTAVE
"""Bins of a histogram: 64 octaves, from 2^-24 to 2^40. What is smaller or larger falls into the
first or last bin."""

BYTES = BINS * 8
"""Bytes of the counts of one tensor."""

_INFINITY = 0x7F800000
_BLOCK = 1 << 18


class MagnitudeHistogram:
    """How often which |x| occurs in a tensor."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS, np.int64)
        self._zeros = 0
        self._largest = 0.0

    @classmethod
    def from_counts(
        cls, counts: npt.NDArray[np.int64], zeros: int, largest: float
    ) -> "MagnitudeHistogram":
        """Return the histogram with these counts, as a file holds them.

        Args:
            counts: Shape (BINS,), int64; copied.
            zeros: How many values were zero.
            largest: The largest |x|.

        Raises:
            ValueError: They cannot be the counts of any tensor.
        """
        fits = counts.shape == (BINS,) and counts.dtype == np.int64 and zeros >= 0
        if not fits or counts.min() < 0 or not _is_largest(largest, counts):
            raise ValueError("these are not the counts of a histogram of magnitudes")
        new = cls()
        new._counts[:] = counts
        new._zeros = int(zeros)
        new._largest = float(largest)
        return new

    def add(self, values: npt.NDArray[np.float32], *, tensor: str = "a tensor") -> None:
        """Count values.

        Args:
            values: Any shape, float32; read only.
            tensor: Its name, for the message.

        Raises:
            ExportError: A value is not finite. Nothing of `values` is counted then.
            TypeError: Another dtype.
        """
        if values.dtype != np.float32:
            raise TypeError(f"{tensor} is {values.dtype}, not float32")
        bits = np.ascontiguousarray(values).reshape(-1).view(np.int32)
        counts = np.zeros(BINS, np.int64)
        block = np.empty(min(_BLOCK, bits.size), np.int32)
        top = filled = 0
        for start in range(0, bits.size, _BLOCK):
            part = bits[start : start + _BLOCK]
            magnitudes = np.bitwise_and(part, 0x7FFFFFFF, out=block[: part.size])
            # As whole numbers, the bits of positive floats are in the order of the floats.
            top = max(top, int(magnitudes.max()))
            if top >= _INFINITY:
                raise ExportError(
                    f"{tensor} holds a value that is not finite, so it has no range. "
                    "Check the model's weights and the clips it is calibrated with."
                )
            filled += int(np.count_nonzero(magnitudes))
            counts += np.bincount(_to_bins(magnitudes), minlength=BINS)
        zeros = bits.size - filled
        counts[0] -= zeros
        self._counts += counts
        self._zeros += zeros
        self._largest = max(self._largest, float(np.array(top, np.int32).view(np.float32)))

    def merge(self, other: "MagnitudeHistogram") -> None:
        """Count what `other` has counted, as if it had been added here."""
        self._counts += other._counts
        self._zeros += other._zeros
        self._largest = max(self._largest, other._largest)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Count of each bin without the zeros, shape (BINS,), int64; a view for reading only."""
        view: npt.NDArray[np.int64] = self._counts.view()
        view.flags.writeable = False
        return view

    @property
    def count(self) -> int:
        """How many values, zeros among them."""
        return int(self._counts.sum()) + self._zeros

    @property
    def zeros(self) -> int:
        """How many of them were zero."""
        return self._zeros

    @property
    def largest(self) -> float:
        """The largest |x|, exactly; 0 where there was none."""
        return self._largest

    @property
    def bytes(self) -> int:
        """Bytes of memory that the counts take; the same for every tensor."""
        return self._counts.nbytes

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MagnitudeHistogram):
            return NotImplemented
        same = self._zeros == other._zeros and self._largest == other._largest
        return same and np.array_equal(self._counts, other._counts)

    __hash__ = None  # type: ignore[assignment]  # it changes


def bin_edges() -> npt.NDArray[np.float64]:
    """Return where the bins begin and end, shape (BINS + 1,), float64.

    The first is 0 and not 2^-24, since smaller values fall into the first bin.
    """
    octaves = np.exp2(np.arange(_LOWEST, _HIGHEST, dtype=np.float64))
    steps = 1 + np.arange(_PER_OCTAVE) / _PER_OCTAVE
    edges = np.append(np.outer(octaves, steps).reshape(-1), 2.0**_HIGHEST)
    edges[0] = 0
    return edges


def limit_of(histogram: MagnitudeHistogram, method: Method, *, percentile: float = 99.99) -> float:
    """Return the |x| that becomes 127, the largest level of symmetric INT8.

    Args:
        histogram: Of the tensor.
        method: `minmax` = the largest |x|; `percentile`, `entropy`, `mse`: see the functions of
            `vad_calibration.limits`.
        percentile: Of all values, zeros among them, in (0, 100]; for `percentile` only.

    Returns:
        At least `limits.SMALLEST_LIMIT`, also for a tensor that is all zero.

    Raises:
        ValueError: There is no such method, or the percentile is out of range.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r} for a limit, only {', '.join(METHODS)}")
    if not 0 < percentile <= 100:
        raise ValueError(f"a percentile lies in (0, 100], not at {percentile}")
    masses = limits.masses_from_counts(
        histogram.counts, bin_edges(), histogram.zeros, histogram.largest
    )
    if not len(masses.counts):
        return limits.SMALLEST_LIMIT
    if method == "minmax":
        limit = masses.largest
    elif method == "percentile":
        limit = limits.percentile_limit(masses, percentile)
    elif method == "entropy":
        limit = limits.entropy_limit(masses)
    else:
        limit = limits.mse_limit(masses)
    return max(limit, limits.SMALLEST_LIMIT)


def _is_largest(value: float, counts: npt.NDArray[np.int64]) -> bool:
    """Say whether a float32 of this value would be in the last filled bin."""
    filled = np.flatnonzero(counts)
    if not len(filled):
        return value == 0
    if not 0 < value <= float(np.finfo(np.float32).max):
        return False
    exact = np.array([value], np.float32)
    return float(exact[0]) == value and int(_to_bins(exact.view(np.int32))[0]) == int(filled[-1])


def _to_bins(magnitudes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Turn the bits of magnitudes into numbers of bins, in place."""
    magnitudes >>= _SHIFT
    magnitudes -= _FIRST
    np.clip(magnitudes, 0, BINS - 1, out=magnitudes)
    return magnitudes
