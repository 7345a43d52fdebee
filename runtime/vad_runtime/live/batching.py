"""Which clips run next, and together with which. Pure logic: times are passed in."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from vad_runtime.windows import Clip

_MARGIN_S = 0.005
_WEIGHT = 0.2

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A clip that waits for its scores; times are monotonic seconds."""

    clip: Clip
    due_from_s: float
    """Arrival of its last frame; of a window that a hole has ended: when that was seen."""
    target_s: float
    deadline_s: float
    """Infinite where nobody waits: a recording that is not paced."""
    since_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Generic[T]):
    """A clip that waits for the engine; times are monotonic seconds."""

    item: T
    deadline_s: float
    """When its score is due; infinite = a recording that nobody waits for."""
    urgency_s: float
    """Its deadline, made earlier for a stream whose clips were skipped; decides the order."""
    since_s: float
    """When it was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick(Generic[T]):
    """What to do now."""

    run: list[T]
    """To run together, in order; empty = wait."""
    until_s: float
    """Then things are looked at again at the latest, monotonic; infinite = when something comes."""


class RunTimes:
    """How long an engine takes for so many clips: an exponential mean for each number."""

    def __init__(self) -> None:
        self._mean_s: dict[int, float] = {}

    def add(self, count: int, seconds: float) -> None:
        """Take the duration of a run of `count` clips."""
        before = self._mean_s.get(count, seconds)
        self._mean_s[count] = before + _WEIGHT * (seconds - before)

    def expected_s(self, count: int) -> float:
        """Return what a run of `count` clips takes, from the nearest number known; 0 = unknown."""
        if not self._mean_s:
            return 0.0
        nearest = min(self._mean_s, key=lambda known: (abs(known - count), known))
        # A larger batch takes at most so many times longer; a smaller one at most as long.
        return self._mean_s[nearest] * max(1.0, count / nearest)


def order(waiting: Sequence[Waiting[T]]) -> list[Waiting[T]]:
    """Return the clips by urgency; those without a deadline come last, the oldest first."""
    return sorted(waiting, key=lambda one: (one.urgency_s, one.since_s))


def pick(
    waiting: Sequence[Waiting[T]],
    now_s: float,
    *,
    largest: int,
    more: int,
    times: RunTimes,
) -> Pick[T]:
    """Choose what an engine runs next.

    One clip at a time it is earliest deadline first. With batches, a batch that is not full waits
    for more clips as long as a run of it would take (waiting longer could not pay), but never
    beyond the last moment at which its most urgent clip can still be in time.

    Args:
        waiting: All clips that wait for this engine.
        now_s: The present.
        largest: Most clips in one run.
        more: Streams that may bring another clip at any moment.
        times: Measured durations.
    """
    ready = order(waiting)
    if not ready:
        return Pick(run=[], until_s=math.inf)
    if math.isfinite(ready[0].deadline_s):
        # A recording that nobody waits for must not make a camera's batch larger.
        ready = [one for one in ready if math.isfinite(one.deadline_s)]
    batch = ready[:largest]
    taken = Pick(run=[one.item for one in batch], until_s=now_s)
    if len(batch) == largest or more == 0:
        return taken
    run_s = times.expected_s(len(batch))
    patience = min(one.since_s for one in batch) + run_s
    last_moment = min(one.deadline_s for one in batch)
    last_moment -= times.expected_s(len(batch) + 1) + _MARGIN_S
    until_s = min(patience, last_moment)
    return taken if until_s <= now_s else Pick(run=[], until_s=until_s)
