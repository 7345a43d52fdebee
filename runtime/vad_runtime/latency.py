"""Where the time goes: one histogram per stage, in constant memory."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import numpy as np

_PER_DECADE = 200  # neighbouring buckets lie 1.2 % apart
_LOWEST_S = 1e-7
_DECADES = 11  # up to 10,000 s


class Stage:
    """Durations of one stage of the pipeline, in seconds.

    Durations fall into buckets of a logarithmic scale from 0.1 µs to 10,000 s, so percentiles are
    right to 1.2 % and memory does not grow; the largest duration is kept exactly, never clipped.

    It is our own and not the package hdrhistogram, since that has no wheel for aarch64, and the
    device is not to need a compiler.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_PER_DECADE * _DECADES + 1, np.int64)
        self._sum_s = 0.0
        self._max_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        place = math.log10(max(seconds, _LOWEST_S) / _LOWEST_S) * _PER_DECADE
        self._counts[min(math.ceil(place), len(self._counts) - 1)] += 1
        self._sum_s += seconds
        self._max_s = max(self._max_s, seconds)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the duration of a `with` block."""
        start = perf_counter()
        yield
        self.add(perf_counter() - start)

    @property
    def count(self) -> int:
        """How many durations were counted."""
        return int(self._counts.sum())

    def percentile_ms(self, q: float) -> float:
        """Return the q-th percentile (0 to 100) in milliseconds; NaN without any duration."""
        total = self.count
        if total == 0:
            return math.nan
        rank = max(1, math.ceil(q / 100 * total))
        bucket = int(np.searchsorted(np.cumsum(self._counts), rank))
        edge_s = _LOWEST_S * 10.0 ** (bucket / _PER_DECADE)
        return float(min(edge_s, self._max_s)) * 1e3

    def summary(self) -> dict[str, float | int]:
        """Return count, mean, p50, p95, p99 and max in milliseconds; empty without durations."""
        total = self.count
        if total == 0:
            return {"count": 0}
        return {
            "count": total,
            "mean_ms": round(self._sum_s / total * 1e3, 4),
            "p50_ms": round(self.percentile_ms(50), 4),
            "p95_ms": round(self.percentile_ms(95), 4),
            "p99_ms": round(self.percentile_ms(99), 4),
            "max_ms": round(self._max_s * 1e3, 4),
        }
