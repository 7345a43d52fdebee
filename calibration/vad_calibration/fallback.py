"""The fewest layers to put back to higher precision until a quantised graph keeps its budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vad_calibration.sensitivity import LayerEffect, by_effect
from vad_runtime.progress import Progress, progress

Passes = Callable[[frozenset[str]], bool]
"""Says whether the graph in which exactly the layers named are quantised keeps its budget."""

Step = Literal["all quantised", "none quantised", "gallop", "bisect", "prune"]

DEFAULT_BUDGET = 64
"""Tries. The search among 110 layers takes up to 15; the rest is for taking layers back."""


@dataclass(frozen=True, kw_only=True)
class Try:
    """One set that was tried."""

    step: Step
    kept: tuple[str, ...]
    """Layers in higher precision, the largest effect first."""

    passed: bool


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """Which layers stay in higher precision."""

    kept: list[str]
    """Their names, the largest effect first. This very set was tried."""

    tried: int
    """How many variants were tried."""

    passed: bool
    """Whether `kept` passed. Where it did not: every layer, if not even that passed."""

    out_of_tries: bool = False
    """The budget of tries ended the search: fewer layers might do."""

    trail: list[Try] = field(default_factory=list)
    """What was tried, in order."""

    def as_dict(self) -> dict[str, Any]:
        """Return it for a manifest; the trail holds numbers of layers in place of names."""
        return {
            "kept": list(self.kept),
            "tried": self.tried,
            "passed": self.passed,
            "out_of_tries": self.out_of_tries,
            "trail": [
                {"step": one.step, "kept": len(one.kept), "passed": one.passed}
                for one in self.trail
            ],
        }


def fewest_layers_back(
    effects: Sequence[LayerEffect], passes: Passes, *, budget: int = DEFAULT_BUDGET
) -> Fallback:
    """Search for a small set of layers that must not be quantised.

    1. Everything quantised; done if it passes. Then nothing quantised: if that fails too, no
       search can help.
    2. The smallest number k such that the k layers with the largest effects put back pass: 1, 2,
       4, ... until one passes, then by halves. This supposes that more layers back never hurt;
       where it does not hold, k may not be the smallest, but what is returned did pass.
    3. Effects were measured one by one, so some of the k may be there for nothing. Each is
       quantised again, from the least effect up, and stays so if that passes; after a success
       twice as many are tried at once, after a failure half as many.

    The result has no layer that could be quantised alone, if more layers back never hurt and the
    budget lasted; a smaller set of quite other layers may exist.

    Args:
        effects: One for each layer that can be quantised, in the order of the graph.
        passes: Called with the names of the layers that are quantised, also with none and with
            all; never twice with the same. Expensive: a graph is made and scored.
        budget: Most calls of `passes`, at least 1.

    Raises:
        ValueError: A layer is named twice, or `budget` is below 1.
    """
    order = [found.layer for found in by_effect(effects)]
    if len(set(order)) != len(order):
        raise ValueError("a layer is named twice")
    if budget < 1:
        raise ValueError(f"budget must be at least 1, not {budget}")
    with progress("putting layers back, variants", None) as bar:
        search = _Search(order, passes, budget, bar)
        search.run()
    return search.result()


class _OutOfTriesError(Exception):
    pass


class _Search:
    def __init__(self, order: list[str], passes: Passes, budget: int, bar: Progress) -> None:
        self._order = order
        self._passes = passes
        self._budget = budget
        self._bar = bar
        self._known: dict[frozenset[str], bool] = {}
        self._trail: list[Try] = []
        self._best: frozenset[str] | None = None
        """The smallest set put back that has passed."""
        self._out_of_tries = False

    def run(self) -> None:
        try:
            if self._try("all quantised", frozenset()):
                return
            if not self._try("none quantised", frozenset(self._order)):
                return
            self._prune(self._smallest_prefix())
        except _OutOfTriesError:
            self._out_of_tries = True

    def result(self) -> Fallback:
        passed = self._best is not None
        kept = self._sorted(self._best) if self._best is not None else self._trail[-1].kept
        return Fallback(
            kept=list(kept),
            tried=len(self._trail),
            passed=passed,
            out_of_tries=self._out_of_tries,
            trail=self._trail,
        )

    def _smallest_prefix(self) -> int:
        """Return k such that k layers back pass and k - 1 fail."""
        failed, passed = 0, 1
        while not self._prefix("gallop", passed):
            failed, passed = passed, min(2 * passed, len(self._order))
        while passed - failed > 1:
            middle = (failed + passed) // 2
            if self._prefix("bisect", middle):
                passed = middle
            else:
                failed = middle
        return passed

    def _prefix(self, step: Step, count: int) -> bool:
        return self._try(step, frozenset(self._order[:count]))

    def _prune(self, count: int) -> None:
        kept = frozenset(self._order[:count])
        doubtful = self._order[:count][::-1]
        at, size = 0, 1
        end = count  # of the chunk that failed last: what reaches beyond it would fail too
        while at < count:
            size = min(size, (end if at < end else count) - at)
            chunk = doubtful[at : at + size]
            if self._try("prune", kept - set(chunk)):
                kept -= set(chunk)
                at, size = at + size, 2 * size
            elif size > 1:
                end, size = at + size, size // 2
            else:
                at += 1

    def _try(self, step: Step, kept: frozenset[str]) -> bool:
        if kept in self._known:
            return self._known[kept]
        if len(self._trail) == self._budget:
            raise _OutOfTriesError
        passed = bool(self._passes(frozenset(self._order) - kept))
        self._known[kept] = passed
        self._trail.append(Try(step=step, kept=self._sorted(kept), passed=passed))
        self._bar.advance(note=f"{len(kept)} back: {'passed' if passed else 'failed'}")
        if passed and (self._best is None or len(kept) < len(self._best)):
            self._best = kept
        return passed

    def _sorted(self, layers: frozenset[str]) -> tuple[str, ...]:
        return tuple(layer for layer in self._order if layer in layers)
