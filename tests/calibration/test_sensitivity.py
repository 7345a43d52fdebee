"""The effect of each quantised layer on the score."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from vad_calibration.agreement import Scores
from vad_calibration.sensitivity import LayerEffect, by_effect, layer_effects

REFERENCE = np.linspace(0, 10, 21)  # its spread is 9
NOISE = np.random.default_rng(5).choice([-1.0, 1.0], REFERENCE.shape)


class Model:
    """Each quantised layer moves every score by its own error, up or down."""

    def __init__(self, errors: dict[str, float], reference: Scores = REFERENCE) -> None:
        self.errors = errors
        self.reference = reference
        self.asked: list[frozenset[str]] = []

    def __call__(self, quantised: frozenset[str]) -> Scores:
        self.asked.append(quantised)
        return self.reference + NOISE.reshape(self.reference.shape) * sum(
            self.errors[layer] for layer in sorted(quantised)
        )


def many(bad: dict[int, float], count: int = 110) -> Model:
    return Model({f"layer{i}": bad.get(i, 0.0) for i in range(count)})


def effects_of(model: Model, **changes: int) -> list[LayerEffect]:
    return layer_effects(list(model.errors), model, model.reference, **changes)


def test_an_effect_is_the_mean_change_of_the_score_in_units_of_the_spread() -> None:
    model = Model({"a": 0.9, "b": 0.0, "c": 0.09})
    found = effects_of(model)
    assert [one.layer for one in found] == ["a", "b", "c"]
    assert [one.effect for one in found] == pytest.approx([0.1, 0.0, 0.01])
    assert model.asked == [frozenset("a"), frozenset("b"), frozenset("c")]


def test_a_layer_that_changes_the_order_of_the_scores_has_a_low_rank_correlation() -> None:
    shaken, still = effects_of(Model({"shaken": 4.0, "still": 0.01}))
    assert still.spearman == 1
    assert shaken.spearman < 0.8


def test_scores_that_are_not_finite_are_an_infinite_effect() -> None:
    def scores_of(quantised: frozenset[str]) -> Scores:
        scores = REFERENCE.copy()
        if "b" in quantised:
            scores[3] = np.nan
        return scores

    a, b = layer_effects(["a", "b"], scores_of, REFERENCE)
    assert (a.effect, a.spearman) == (0, 1)
    assert (b.effect, b.spearman) == (math.inf, 0)
    assert [one.layer for one in by_effect([a, b])] == ["b", "a"]


def test_a_constant_reference_still_orders_the_layers() -> None:
    flat = np.full(REFERENCE.shape, 2.0)
    found = effects_of(Model({"a": 0.02, "b": 0.2}, flat))
    assert [one.effect for one in found] == pytest.approx([0.01, 0.1])


def test_several_scores_a_clip_are_measured_together() -> None:
    (found,) = effects_of(Model({"a": 0.9}, REFERENCE.reshape(7, 3)))
    assert found.effect == pytest.approx(0.1)


def test_scores_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        layer_effects(["a"], lambda _: REFERENCE[1:], REFERENCE)


def test_a_name_twice_and_room_for_one_variant_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        layer_effects(["a", "a"], lambda _: REFERENCE, REFERENCE)
    with pytest.raises(ValueError, match="at least 2"):
        layer_effects(["a"], lambda _: REFERENCE, REFERENCE, max_layers=1)
    assert layer_effects([], lambda _: REFERENCE, REFERENCE) == []


def test_equal_effects_stay_in_the_order_of_the_graph() -> None:
    effects = [LayerEffect(layer=name, effect=0.5, spearman=1) for name in "dbac"]
    assert [one.layer for one in by_effect(effects)] == list("dbac")


@pytest.mark.parametrize("place", [0, 54, 55, 77, 109])
def test_groups_find_the_one_bad_layer_among_110_in_far_fewer_variants(place: int) -> None:
    model = many({place: 0.9})
    found = effects_of(model)
    assert len(model.asked) <= 14
    assert [one.layer for one in found] == list(model.errors)
    worst = by_effect(found)[0]
    assert (worst.layer, worst.group) == (f"layer{place}", 1)
    assert worst.effect == pytest.approx(0.1)
    assert sum(one.effect for one in found) == pytest.approx(0.1)


def test_groups_find_a_layer_whose_scores_are_not_finite() -> None:
    found = effects_of(many({80: math.inf}, 110))
    assert [one.layer for one in found if one.effect == math.inf] == ["layer80"]


@pytest.mark.parametrize("allowed", [2, 3, 20, 48])
def test_groups_never_score_more_variants_than_allowed(allowed: int) -> None:
    model = many(dict.fromkeys(range(110), 0.5))  # every layer matters
    found = effects_of(model, max_layers=allowed)
    assert len(model.asked) in (allowed, allowed - 1)
    assert len(set(model.asked)) == len(model.asked)
    assert [one.effect for one in found] == pytest.approx([0.5 / 9] * 110)


def test_groups_cut_the_largest_effect_first() -> None:
    found = effects_of(many({10: 0.9, 90: 0.09}), max_layers=14)
    assert by_effect(found)[0].layer == "layer10"
    assert found[10].group == 1
    assert found[90].group > 1


def test_a_graph_with_as_many_layers_as_allowed_is_measured_layer_by_layer() -> None:
    model = many({}, 20)
    found = effects_of(model, max_layers=20)
    assert {one.group for one in found} == {1}
    assert len(model.asked) == 20


@pytest.mark.parametrize("make", [lambda: many({3: 0.5, 70: 0.2}), lambda: many({1: 0.5}, 9)])
def test_measuring_twice_gives_the_same_in_the_same_order(make: Callable[[], Model]) -> None:
    first, second = make(), make()
    assert effects_of(first) == effects_of(second)
    assert first.asked == second.asked
