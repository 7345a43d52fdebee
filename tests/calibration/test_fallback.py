"""The search for the fewest layers to put back."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from vad_calibration.fallback import Fallback, fewest_layers_back
from vad_calibration.sensitivity import LayerEffect

Rule = Callable[[frozenset[str]], bool]


def effects(values: list[float]) -> list[LayerEffect]:
    return [
        LayerEffect(layer=f"L{i}", effect=value, spearman=1.0) for i, value in enumerate(values)
    ]


def search(values: list[float], rule: Rule, **changes: int) -> Fallback:
    """Search, and check what holds for every search."""
    asked: list[frozenset[str]] = []

    def passes(quantised: frozenset[str]) -> bool:
        asked.append(quantised)
        return rule(quantised)

    found = fewest_layers_back(effects(values), passes, **changes)
    names = frozenset(f"L{i}" for i in range(len(values)))
    assert found.tried == len(asked) == len(set(asked)) == len(found.trail)
    assert [names - set(one.kept) for one in found.trail] == asked
    assert names - set(found.kept) in asked
    assert found.passed == rule(names - set(found.kept))
    return found


def additive(values: list[float], budget: float) -> Rule:
    # A set has no order of its own, and a plain sum depends on the order in its last bits.
    return lambda quantised: math.fsum(values[int(name[1:])] for name in quantised) <= budget


def test_nothing_is_put_back_where_everything_quantised_passes() -> None:
    found = search([0.3, 0.1], lambda _: True)
    assert (found.kept, found.tried, found.passed) == ([], 1, True)


@pytest.mark.parametrize("needed", [1, 2, 3, 5, 8, 13, 29, 30])
def test_with_independent_additive_effects_it_finds_exactly_the_layers_needed(needed: int) -> None:
    values = [2.0**-i for i in np.random.default_rng(needed).permutation(30)]
    worst_first = sorted(range(30), key=lambda i: -values[i])
    budget = math.fsum(values[i] for i in worst_first[needed:])
    found = search(values, additive(values, budget))
    assert found.passed
    assert found.kept == [f"L{i}" for i in worst_first[:needed]]
    assert found.tried <= 2 + 2 * math.ceil(math.log2(30)) + needed
    assert not found.out_of_tries


def test_two_layers_that_are_bad_only_together_cost_one_of_them() -> None:
    values = [0.01] * 40
    found = search(values, lambda quantised: not {"L17", "L30"} <= quantised)
    assert found.passed
    assert len(found.kept) == 1
    assert found.kept[0] in ("L17", "L30")


def test_an_interaction_of_layers_that_look_harmless_is_pruned_to_the_layers_that_matter() -> None:
    # Alone they do least; the search must put back the whole graph, and takes the rest back.
    values = [1.0] * 60 + [0.0, 0.0]
    found = search(values, lambda quantised: not {"L60", "L61"} & quantised)
    assert sorted(found.kept) == ["L60", "L61"]
    assert found.tried < 30


def test_no_layer_put_back_could_be_quantised_again_alone() -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        values = rng.random(20).tolist()
        true = rng.random(20).tolist()  # the effects measured alone say nothing
        rule = additive(true, 0.4 * sum(true))
        found = search(values, rule, budget=500)
        assert found.passed
        quantised = {f"L{i}" for i in range(20)} - set(found.kept)
        for layer in found.kept:
            assert not rule(frozenset(quantised | {layer}))


def test_where_more_layers_back_can_hurt_what_it_returns_still_passed() -> None:
    for seed in range(40):
        draws = np.random.default_rng(seed)
        verdicts: dict[frozenset[str], bool] = {frozenset(): True}

        def rule(
            quantised: frozenset[str],
            verdicts: dict[frozenset[str], bool] = verdicts,
            draws: np.random.Generator = draws,
        ) -> bool:
            return verdicts.setdefault(quantised, bool(draws.random() < 0.3))

        found = search(draws.random(12).tolist(), rule)
        assert found.passed


def test_a_search_that_cannot_pass_says_so_after_two_tries() -> None:
    found = search([0.5] * 100, lambda _: False)
    assert not found.passed
    assert len(found.kept) == 100
    assert found.tried == 2
    assert [one.step for one in found.trail] == ["all quantised", "none quantised"]


@pytest.mark.parametrize("budget", range(1, 30))
def test_it_never_tries_more_than_allowed(budget: int) -> None:
    values = [1.0] * 110
    rule = additive(values, 53)
    found = search(values, rule, budget=budget)
    assert found.tried == budget
    assert found.out_of_tries
    assert found.passed == (budget > 1)  # the second try, nothing quantised, passes


def test_a_search_that_ran_out_of_tries_returns_the_best_set_that_passed() -> None:
    values = [1.0] * 64
    found = search(values, additive(values, 20), budget=10)
    assert found.passed
    assert len(found.kept) == min(len(one.kept) for one in found.trail if one.passed) < 64


def test_the_search_among_110_layers_fits_the_default_budget() -> None:
    values = [1.0 / (i + 1) for i in range(110)]
    found = search(values, additive(values, math.fsum(values[20:])))
    assert found.kept == [f"L{i}" for i in range(20)]
    assert not found.out_of_tries


def test_layers_with_infinite_effect_are_put_back_first() -> None:
    values = [0.5, math.inf, 0.9, math.inf]
    found = search(values, lambda quantised: not {"L1", "L3"} & quantised)
    assert found.kept == ["L1", "L3"]


def test_one_layer_and_no_layers_are_searched_too() -> None:
    assert search([0.5], lambda quantised: not quantised).kept == ["L0"]
    assert search([], lambda _: True).passed
    assert not search([], lambda _: False).passed


def test_a_name_twice_and_no_tries_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        fewest_layers_back(effects([1]) * 2, lambda _: True)
    with pytest.raises(ValueError, match="at least 1"):
        fewest_layers_back(effects([1]), lambda _: True, budget=0)


def test_a_manifest_gets_names_of_what_is_kept_and_the_trail_in_numbers() -> None:
    found = search([0.1, 0.7], lambda quantised: "L1" not in quantised)
    assert json.loads(json.dumps(found.as_dict())) == {
        "kept": ["L1"],
        "tried": 3,
        "passed": True,
        "out_of_tries": False,
        "trail": [
            {"step": "all quantised", "kept": 0, "passed": False},
            {"step": "none quantised", "kept": 2, "passed": True},
            {"step": "gallop", "kept": 1, "passed": True},
        ],
    }


def test_the_same_search_twice_tries_the_same() -> None:
    values = [0.5, 0.25, 0.5, 0.125] * 8
    rule = additive(values, 4)
    assert search(values, rule) == search(values, rule)
