"""Times in shuffled rounds, and ratios of them with their confidence intervals.

What a machine does in between (its clock, its other guests) hits neighbours alike. So a ratio is
taken within each round, and the rounds only tell how sure it is::

    round 1   B A C      b1 / a1   c1 / a1       ratio = median over the rounds
    round 2   A C B      b2 / a2   c2 / a2       interval = bootstrap of that median

Of fewer than six rounds a bootstrap says little: there the interval is the least and the most.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Call = Callable[[], object]
Series = npt.NDArray[np.float64]

PAUSE_S = 0.02
"""Between two calls: the threads of one engine spin for a while, at the cost of the next one."""
_RESAMPLES = 4000
_ENOUGH = 6
"""Rounds from which on a bootstrap is made."""
SURE, LEAST_MOST = "95 %", "least to most"


@dataclass(frozen=True, kw_only=True)
class Times:
    """What one call took in each round, milliseconds."""

    wall_ms: Series
    cpu_ms: Series
    """Of all threads of this process."""

    def summary(self) -> dict[str, float | list[float]]:
        """Return medians, the spread and every value, for a report."""
        return {
            "wall_ms": float(np.median(self.wall_ms)),
            "p10_ms": float(np.percentile(self.wall_ms, 10)),
            "p90_ms": float(np.percentile(self.wall_ms, 90)),
            "cpu_ms": float(np.median(self.cpu_ms)),
            "walls_ms": [round(value, 4) for value in self.wall_ms.tolist()],
        }


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A median over rounds and its interval."""

    value: float
    low: float
    high: float
    rounds: int

    @property
    def kind(self) -> str:
        """What the interval is."""
        return interval_kind(self.rounds)

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"

    def told(self) -> str:
        """Return it for where no table's head tells the kind of the interval."""
        return str(self) if self.kind == SURE else f"{str(self)[:-1]}, {self.kind})"

    def as_dict(self) -> dict[str, float | str]:
        """Return it for a report."""
        found: dict[str, float | str] = {"value": self.value, "low": self.low, "high": self.high}
        return {**found, "rounds": self.rounds, "kind": self.kind}


def interval_kind(rounds: int) -> str:
    """Return what an interval of so many rounds is."""
    return SURE if rounds >= _ENOUGH else LEAST_MOST


def rounds(
    calls: Mapping[str, Call],
    *,
    count: int,
    max_s: float = 60.0,
    warm_up: int = 2,
    least: int = 5,
    pause_s: float = PAUSE_S,
    seed: int = 0,
) -> dict[str, Times]:
    """Time every call once a round, in an order drawn anew.

    Args:
        calls: By name.
        count: Of the rounds that are timed.
        max_s: No further round begins once so much time has passed; `least` are made all the same.
        warm_up: Rounds before them that do not count.
        least: See `max_s`.
        pause_s: Rest between two calls.
        seed: Of the order.
    """
    rng = np.random.default_rng(seed)
    names = list(calls)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    begun = time.perf_counter()
    for turn in range(-warm_up, count):
        if turn >= min(least, count) and time.perf_counter() - begun > max_s:
            break
        for place in rng.permutation(len(names)).tolist():
            name = names[place]
            time.sleep(pause_s)
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            calls[name]()
            wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
            if turn >= 0:
                wall[name].append(wall_s * 1e3)
                cpu[name].append(cpu_s * 1e3)
    return {name: Times(wall_ms=np.array(wall[name]), cpu_ms=np.array(cpu[name])) for name in names}


def ratio(numerator: Series, denominator: Series, *, seed: int = 0) -> Ratio:
    """Return the median over rounds of numerator / denominator, with its interval.

    Args:
        numerator: Shape (rounds,).
        denominator: Of the same rounds.
        seed: Of the resampling.
    """
    each = np.asarray(numerator, np.float64) / np.asarray(denominator, np.float64)
    low, high = each.min(), each.max()
    if interval_kind(len(each)) == SURE:
        rng = np.random.default_rng(seed)
        drawn = np.median(rng.choice(each, (_RESAMPLES, len(each))), axis=1)
        low, high = np.percentile(drawn, [2.5, 97.5])
    return Ratio(value=float(np.median(each)), low=float(low), high=float(high), rounds=len(each))


def best_of_rounds(
    ours: Call, theirs: Call, *, limit: float, count: int = 7, attempts: int = 3
) -> tuple[float, list[float]]:
    """Return the processor time of `ours` / `theirs` where neither was disturbed.

    Other guests of the machine only ever add time, so the least time of many short calls is what
    the code takes by itself, and code that has become slower is slower in its best call too: one
    may look again where the ratio is above the limit, and seldom looks a real regression away.

    Args:
        ours: What is guarded.
        theirs: The reference, in the same rounds.
        limit: Of the ratio; more rounds are made only while it is above.
        count: Rounds in an attempt.
        attempts: How often so many rounds are made at most; all rounds count together.

    Returns:
        The ratio of the least times, and what it was after each attempt.
    """
    least = {"ours": np.inf, "theirs": np.inf}
    seen: list[float] = []
    for attempt in range(attempts):
        found = rounds(
            {"ours": ours, "theirs": theirs},
            count=count,
            warm_up=1,
            max_s=20.0,
            pause_s=0.001,
            seed=attempt,
        )
        for name, series in found.items():
            least[name] = min(least[name], float(series.cpu_ms.min()))
        seen.append(least["ours"] / least["theirs"])
        if seen[-1] <= limit:
            break
    return seen[-1], seen
