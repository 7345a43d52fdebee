"""What quantising each layer does to the score, measured one layer at a time.

The effect on the score counts, not the error of the layer's own tensor: a large error may die in
the next pooling, a small one may sit right before the sum of squares that is the score.
"""

import heapq
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from vad_calibration.agreement import Scores, checked_pair, spearman, spread_of
from vad_runtime.progress import Progress, progress

ScoresOf = Callable[[frozenset[str]], Scores]
"""Gives the scores of the graph in which exactly the layers named are quantised."""

MAX_VARIANTS = 48
"""Graphs with more layers than this are measured in groups; so many variants are scored at most."""

NEGLIGIBLE = 1e-3
"""A group with less effect than this share of the spread is not looked into."""


@dataclass(frozen=True, kw_only=True)
class LayerEffect:
    """What one quantised layer does to the score."""

    layer: str
    """Name of its node."""

    effect: float
    """Mean |change of the score| / spread of the reference scores; infinite where a score is not
    finite. For a layer measured with others: an equal share of what the group does."""

    spearman: float
    """Rank correlation of the changed scores with the reference; the group's for a group."""

    group: int = 1
    """How many layers were quantised together to measure it; 1 = this one alone."""


def layer_effects(
    layers: Sequence[str],
    scores_of: ScoresOf,
    reference: Scores,
    *,
    max_layers: int = MAX_VARIANTS,
    negligible: float = NEGLIGIBLE,
) -> list[LayerEffect]:
    """Measure the effect of quantising each layer alone.

    Up to `max_layers` layers are scored one by one, in the order given. A graph with more is
    measured in groups of neighbours: the two halves first; then, again and again, the group with
    the largest effect is cut into halves that are both scored, until every group that is not
    negligible is a single layer, or `max_layers` variants have been scored. One bad layer among
    110 takes about 2 log2(110) = 14 variants. What groups cannot see: two layers whose errors
    cancel each other in the score.

    Args:
        layers: Names without repetition, in the order of the graph.
        scores_of: Called with the names of the layers to quantise; gives scores shaped like
            `reference`, of the same clips.
        reference: Scores with nothing quantised, shape (N,) or (N, count). Where they are
            constant, effects are shares of their mean magnitude instead of their spread.
        max_layers: Most variants to score, at least 2.
        negligible: Effect of a group, as a share of the spread, below which it is not cut.

    Returns:
        One for each layer, in the order of `layers`.

    Raises:
        InputError: A reference score is not finite.
        ValueError: A name is repeated, shapes differ, or `max_layers` is below 2.
    """
    if len(set(layers)) != len(layers):
        raise ValueError("a layer is named twice")
    if max_layers < 2:
        raise ValueError(f"max_layers must be at least 2, not {max_layers}")
    if not layers:
        return []
    total = min(len(layers), max_layers)
    with progress("measuring layers, variants", total) as bar:
        measure = _Measure(scores_of, reference, bar)
        if len(layers) <= max_layers:
            return [measure.group([layer])[0] for layer in layers]
        return _by_groups(layers, measure, max_layers, negligible)


class _Measure:
    """Scores variants and counts them."""

    def __init__(self, scores_of: ScoresOf, reference: Scores, bar: Progress) -> None:
        self._scores_of = scores_of
        self._reference = reference
        self._unit = _unit(reference)
        self._bar = bar
        self.variants = 0

    def group(self, layers: Sequence[str]) -> list[LayerEffect]:
        """Score one variant; give each of its layers an equal share of the effect."""
        scores = self._scores_of(frozenset(layers))
        effect, rank = self._of(scores)
        self.variants += 1
        self._bar.advance()
        return [
            LayerEffect(layer=layer, effect=effect / len(layers), spearman=rank, group=len(layers))
            for layer in layers
        ]

    def _of(self, scores: Scores) -> tuple[float, float]:
        expected, found = checked_pair(self._reference, scores)
        if not np.isfinite(found).all():
            return math.inf, 0.0
        return float(np.abs(found - expected).mean()) / self._unit, spearman(expected, found)


def _unit(reference: Scores) -> float:
    """Return the spread, or something to order layers by where there is none (a single clip)."""
    return spread_of(reference) or float(np.abs(reference).mean()) or 1.0


def _by_groups(
    layers: Sequence[str], measure: _Measure, max_variants: int, negligible: float
) -> list[LayerEffect]:
    found: dict[str, LayerEffect] = {}
    # The largest effect comes out first, the earlier group among equals.
    waiting: list[tuple[float, int, int]] = []

    def score(first: int, end: int) -> None:
        effects = measure.group(layers[first:end])
        found.update((effect.layer, effect) for effect in effects)
        total = effects[0].effect * len(effects)
        if len(effects) > 1 and total >= negligible:
            heapq.heappush(waiting, (-total, first, end))

    def cut(first: int, end: int) -> None:
        middle = (first + end + 1) // 2
        score(first, middle)
        score(middle, end)

    cut(0, len(layers))
    while waiting and measure.variants + 2 <= max_variants:
        _, first, end = heapq.heappop(waiting)
        cut(first, end)
    return [found[layer] for layer in layers]


def by_effect(effects: Collection[LayerEffect]) -> list[LayerEffect]:
    """Return them with the largest effect first, equal ones in the order given."""
    return sorted(
        effects, key=lambda found: -math.inf if math.isnan(found.effect) else -found.effect
    )
