"""Statistics of latencies. Every figure comes from the raw values: nothing is binned or cut off."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]

SLOWER = 1.10
"""The last third of a run may take this many times as long as the first before it is told."""
ENOUGH_FOR_P99 = 100
"""With fewer latencies than this, p99 is the largest of them."""
ALLOWED_SHARE = 0.01
"""A target is met where no greater share of the clips misses it: that is what p99 says."""
_LEAST_FOR_THIRDS = 9
_LEAST_FOR_THIRDS_S = 5.0
"""A device does not get hot in less, and what else the machine does is no even load then."""


def ms_text(value: float) -> str:
    """Return milliseconds with three digits that count, and at least two behind the point.

    >>> [ms_text(value) for value in (41.237, 0.4567, 0.0512)]
    ['41.24', '0.457', '0.0512']
    """
    size = abs(value)
    return f"{value:.{2 if size >= 1 or size == 0 else 3 if size >= 0.1 else 4}f}"


def summary(values_ms: Sequence[float] | Times) -> dict[str, float | int]:
    """Return count, mean, spread and percentiles of latencies in milliseconds.

    A percentile is a value that was measured: the smallest that at least q % of all do not exceed.
    `spread_ms` is the distance from p5 to p95, `jitter_ms` the mean change from one to the next.
    """
    values = np.asarray(values_ms, np.float64)
    if not len(values):
        return {"count": 0}
    p5, p50, p95, p99 = np.percentile(values, [5, 50, 95, 99], method="inverted_cdf").tolist()
    jitter = float(np.abs(np.diff(values)).mean()) if len(values) > 1 else 0.0
    return {
        "count": len(values),
        "mean_ms": float(values.mean()),
        "std_ms": float(values.std()),
        "min_ms": float(values.min()),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "max_ms": float(values.max()),
        "spread_ms": p95 - p5,
        "jitter_ms": jitter,
    }


def misses(
    values_ms: Sequence[float] | Times, starts_s: Sequence[float] | Times | None, target_ms: float
) -> dict[str, Any]:
    """Return which latencies were longer than the target, and when.

    Args:
        values_ms: Shape (n,), n >= 1.
        starts_s: When each began, seconds since the first; None = not known.
        target_ms: A latency of exactly this long is no miss.
    """
    late = np.asarray(values_ms, np.float64) > target_ms
    where = np.flatnonzero(late)
    runs = _runs(where)
    longest = max(runs, key=lambda run: run[1] - run[0], default=None)
    times = None if starts_s is None else np.asarray(starts_s, np.float64)
    share = len(where) / len(late)
    return {
        "target_ms": target_ms,
        "met": bool(share <= ALLOWED_SHARE),
        "count": len(where),
        "share": share,
        "longest_run": 0 if longest is None else longest[1] - longest[0],
        "longest_run_at_s": None if longest is None or times is None else float(times[longest[0]]),
        "clips": where.tolist(),
        "at_s": [] if times is None else times[where].tolist(),
    }


def _runs(where: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the stretches of neighbouring numbers, each as its first and the one behind its last.

    >>> _runs(np.array([3, 4, 5, 9]))
    [(3, 6), (9, 10)]
    """
    if not len(where):
        return []
    parts = np.split(where, np.flatnonzero(np.diff(where) > 1) + 1)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts]


def thirds(
    values_ms: Sequence[float] | Times, starts_s: Sequence[float] | Times
) -> dict[str, Any] | None:
    """Compare the first third of a run with the last, by their medians; None = too short a run.

    A device that gets too hot lowers its clocks: its clips get slower and stay so.

    Args:
        values_ms: Shape (n,).
        starts_s: When each began, seconds since the first.
    """
    values = np.asarray(values_ms, np.float64)
    part = len(values) // 3
    if part < _LEAST_FOR_THIRDS // 3 or starts_s[-1] < _LEAST_FOR_THIRDS_S:
        return None
    first, last = float(np.median(values[:part])), float(np.median(values[-part:]))
    ratio = last / first if first > 0 else math.inf
    return {
        "first_third_ms": first,
        "last_third_ms": last,
        "ratio": ratio,
        "slower": bool(ratio > SLOWER),
    }
