"""Time of several callables side by side, so that what the machine does in between hits them all.

Timed one after the other, the same graph differs by 5 to 18 % between runs: a processor changes its
clock and has other guests. So every round calls each of them once, in an order drawn anew::

    round 1   B A C        medians and percentiles are taken over the rounds;
    round 2   A C B        their ratios are what can be trusted
    round 3   C B A
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter, process_time

import numpy as np
import numpy.typing as npt

from vad_runtime.progress import progress

LEAST_ROUNDS = 5
"""Rounds that are always made, however long they take: fewer have no spread."""

_WARM_UP = 2


@dataclass(frozen=True, kw_only=True)
class Times:
    """What one callable took in each round."""

    wall_ms: npt.NDArray[np.float64]
    """Shape (rounds,), milliseconds on the clock; the caller owns it."""

    cpu_ms: npt.NDArray[np.float64]
    """Shape (rounds,), milliseconds of processor time of all threads of this process."""

    @property
    def rounds(self) -> int:
        """How often it was timed."""
        return len(self.wall_ms)

    @property
    def median_ms(self) -> float:
        """Median of the wall time."""
        return self.percentile_ms(50)

    @property
    def p95_ms(self) -> float:
        """95th percentile of the wall time."""
        return self.percentile_ms(95)

    @property
    def cpu_median_ms(self) -> float:
        """Median of the processor time of all threads."""
        return float(np.median(self.cpu_ms))

    def percentile_ms(self, q: float) -> float:
        """Return the q-th percentile (0 to 100) of the wall time, interpolated linearly."""
        return float(np.percentile(self.wall_ms, q))


def interleaved(
    calls: Mapping[str, Callable[[int], object]],
    *,
    rounds: int = 30,
    max_s: float = 120.0,
    seed: int = 0,
    label: str = "timing, rounds",
) -> dict[str, Times]:
    """Time callables in shuffled rounds, after two rounds that warm up and are not counted.

    Args:
        calls: By name; each is called once a round with the round's number (0, 1, …, counted anew
            after the warm-up), so that all of them can take the same input in a round.
        rounds: How many are timed, at least 5.
        max_s: No round begins that would probably end later than so many seconds after the first
            call, the warm-up included; the least number of rounds is made all the same.
        seed: For the order.
        label: What the progress bar says.

    Returns:
        The times by name, in the order of `calls`.

    Raises:
        ValueError: Fewer than 5 rounds.
    """
    if rounds < LEAST_ROUNDS:
        raise ValueError(f"at least {LEAST_ROUNDS} rounds are needed, got {rounds}")
    rng = np.random.default_rng(seed)
    names = list(calls)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    start = perf_counter()
    longest_s = 0.0
    with progress(label, _WARM_UP + rounds) as bar:
        for turn in range(-_WARM_UP, rounds):
            begun = perf_counter()
            if turn >= LEAST_ROUNDS and begun - start + longest_s > max_s:
                break
            for place in rng.permutation(len(names)).tolist():
                name = names[place]
                wall_s, cpu_s = _timed(calls[name], max(turn, 0))
                if turn >= 0:
                    wall[name].append(wall_s * 1e3)
                    cpu[name].append(cpu_s * 1e3)
            if turn >= 0:
                # The warm-up may be much slower and says nothing about the rounds to come.
                longest_s = max(longest_s, perf_counter() - begun)
            bar.advance()
    return {name: Times(wall_ms=np.array(wall[name]), cpu_ms=np.array(cpu[name])) for name in names}


def _timed(call: Callable[[int], object], turn: int) -> tuple[float, float]:
    """Return wall and processor time of one call, seconds."""
    cpu = process_time()
    wall = perf_counter()
    call(turn)
    wall_s = perf_counter() - wall
    return wall_s, process_time() - cpu
