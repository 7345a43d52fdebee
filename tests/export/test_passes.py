"""Passes that fold something into a layer: what they change, and what they must leave alone."""

from typing import Any

import numpy as np
import pytest
from helpers_passes import Node, changed, conv, drawn, make, of_clips, unchanged

from vad_export.passes.graph import GraphEditor

# -- normalisation -----------------------------------------------------------------------------

MEAN = np.array([0.4, 0.5, 0.3], np.float32).reshape(1, 3, 1, 1, 1)
STD = np.array([0.2, 0.25, 0.3], np.float32).reshape(1, 3, 1, 1, 1)
NORMALISE: list[Node] = [
    ("Mul", ["x", "by"], "a", {}),
    ("Sub", ["a", "mean"], "b", {}),
    ("Div", ["b", "std"], "c", {}),
]
NORMAL = {"by": np.float32(1 / 255), "mean": MEAN, "std": STD}


def test_without_padding_the_whole_normalisation_goes_into_weight_and_bias() -> None:
    model = of_clips([*NORMALISE, conv("c")], {**NORMAL, "w": drawn(5, 3, 2, 3, 3)})
    assert changed("normalisation", model) == {"Transpose": 1, "Cast": 1, "Conv": 1}
    assert len(model.graph.node[-1].input) == 3


def test_with_padding_one_subtraction_in_raw_units_is_left() -> None:
    weights = {**NORMAL, "w": drawn(5, 3, 3, 3, 3)}
    model = of_clips([*NORMALISE, conv("c", pads=[1] * 6)], weights)
    left = changed("normalisation", model)
    assert left == {"Transpose": 1, "Cast": 1, "Sub": 1, "Conv": 1}
    mean = GraphEditor(model).constant(model.graph.node[2].input[1])
    assert mean is not None
    np.testing.assert_allclose(mean, 255 * MEAN, rtol=1e-6)


@pytest.mark.parametrize("rule", ["SAME_UPPER", "SAME_LOWER"])
def test_padding_that_follows_from_the_size_counts_as_padding(rule: str) -> None:
    model = of_clips([*NORMALISE, conv("c", auto_pad=rule)], {**NORMAL, "w": drawn(5, 3, 3, 3, 3)})
    assert changed("normalisation", model)["Sub"] == 1


def test_a_scale_alone_is_folded_under_padding_and_stays_for_its_other_readers() -> None:
    nodes: list[Node] = [
        ("Div", ["x", "by"], "a", {}),
        conv("a", output="b", pads=[1] * 6),
        ("Sub", ["a", "b"], "y", {}),
    ]
    model = of_clips(nodes, {"by": np.float32(255), "w": drawn(1, 1, 3, 3, 3)}, colours=1)
    assert changed("normalisation", model)["Div"] == 1
    assert model.graph.node[3].op_type == "Conv"
    assert model.graph.node[3].input[0] == "x"


def test_two_first_convolutions_behind_a_choice_of_frames_are_both_folded() -> None:
    nodes: list[Node] = [
        *NORMALISE,
        ("Gather", ["c", "frames"], "slow", {"axis": 2}),
        conv("slow", output="y", pads=[0, 1, 1, 0, 1, 1]),
        conv("c", output="z", weight="v", pads=[1] * 6),
        conv("c", output="q", weight="v", pads=[1] * 6),
    ]
    values = {"frames": np.array([0, 3]), "w": drawn(4, 3, 1, 3, 3), "v": drawn(2, 3, 3, 3, 3)}
    model = of_clips(nodes, {**NORMAL, **values}, outputs=("y", "z", "q"))
    left = changed("normalisation", model, places=3)
    # One for the slow pathway, one that both convolutions of the fast pathway share.
    assert left["Sub"] == 2
    assert left["Mul"] + left["Div"] == 0


def test_frames_joined_with_the_batch_are_followed_to_a_2d_convolution() -> None:
    nodes: list[Node] = [
        *NORMALISE,
        ("Transpose", ["c"], "d", {"perm": [0, 2, 1, 3, 4]}),
        ("Reshape", ["d", "images"], "e", {}),
        conv("e", output="f", strides=[2, 2]),
        ("Reshape", ["f", "back"], "y", {}),
    ]
    values = {"images": np.array([-1, 3, 6, 8]), "back": np.array([-1, 4, 5, 3, 4])}
    model = of_clips(nodes, {**NORMAL, **values, "w": drawn(5, 3, 2, 2)})
    assert changed("normalisation", model)["Sub"] == 0


def swap_nodes(source: str = "x") -> list[Node]:
    """Return nodes that turn RGB into BGR, as the exporter writes `flip`."""
    parts: list[Node] = [
        ("Slice", [source, f"i{c}", f"i{c + 1}", "i1"], f"part{c}", {}) for c in range(3)
    ]
    return [*parts, ("Concat", ["part2", "part1", "part0"], "bgr", {"axis": 1})]


INDICES = {f"i{i}": np.array([i]) for i in range(8)}


def test_a_channel_swap_a_mean_clip_and_a_crop_leave_a_crop_and_one_subtraction() -> None:
    nodes: list[Node] = [
        *swap_nodes(),
        ("Sub", ["bgr", "cube"], "a", {}),
        ("Slice", ["a", "i1", "i5", "i3"], "b", {}),
        ("Slice", ["b", "i2", "i6", "i4"], "c", {}),
        conv("c", pads=[1] * 6),
    ]
    values = {**INDICES, "cube": 100 + 9 * drawn(3, 4, 6, 8), "w": drawn(5, 3, 3, 3, 3)}
    model = of_clips(nodes, values)
    left = changed("normalisation", model)
    assert left == {"Transpose": 1, "Cast": 1, "Slice": 2, "Sub": 1, "Conv": 1}


def test_a_mean_that_differs_within_a_channel_never_goes_into_the_bias() -> None:
    nodes: list[Node] = [
        ("Mul", ["x", "by"], "a", {}),
        ("Sub", ["a", "cube"], "b", {}),
        conv("b"),
    ]
    values = {"by": np.float32(1 / 255), "cube": drawn(3, 4, 6, 8), "w": drawn(5, 3, 3, 3, 3)}
    left = changed("normalisation", of_clips(nodes, values))
    assert (left["Mul"], left["Sub"]) == (0, 1)


def test_each_group_of_a_grouped_convolution_gets_its_own_channels_scale() -> None:
    model = of_clips([*NORMALISE, conv("c", group=3)], {**NORMAL, "w": drawn(6, 1, 2, 2, 2)})
    assert changed("normalisation", model)["Sub"] == 0


def test_a_constant_minus_the_pixels_is_folded_with_its_sign() -> None:
    nodes: list[Node] = [("Sub", ["one", "x"], "a", {}), conv("a")]
    model = of_clips(nodes, {"one": np.float32(255), "w": drawn(5, 3, 2, 2, 2)})
    assert changed("normalisation", model)["Sub"] == 0


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param([conv("x", pads=[1] * 6)], id="no normalisation"),
        pytest.param(
            [("Sub", ["x", "mean"], "a", {}), conv("a", pads=[1] * 6)], id="one subtraction"
        ),
        pytest.param(
            [("Mul", ["x", "nought"], "a", {}), conv("a")], id="a scale of nought has no inverse"
        ),
        pytest.param(
            [("Slice", ["x", "i0", "i1", "i1"], "a", {}), conv("a", weight="one")],
            id="one channel of three",
        ),
        pytest.param(
            [*NORMALISE, ("Relu", ["c"], "d", {}), conv("d")], id="something that is not linear"
        ),
        pytest.param([*swap_nodes(), conv("bgr", group=3, weight="deep")], id="groups swapped"),
        pytest.param(
            [
                *NORMALISE,
                ("Slice", ["c", "i0", "i1", "i1"], "d", {}),
                ("Reshape", ["d", "grey"], "e", {}),
                conv("e", output="f", weight="flat"),
                ("Unsqueeze", ["f", "i1"], "y", {}),
            ],
            id="one channel as images",
        ),
    ],
)
def test_pixels_are_left_alone_where_nothing_is_gained_or_it_would_be_wrong(
    nodes: list[Node],
) -> None:
    values = {
        **{**NORMAL, **INDICES},
        "nought": np.float32(0),
        "grey": np.array([-1, 1, 6, 8]),
        "w": drawn(5, 3, 3, 3, 3),
        "one": drawn(5, 1, 3, 3, 3),
        "deep": drawn(3, 1, 3, 3, 3),
        "flat": drawn(2, 1, 3, 3),
    }
    unchanged("normalisation", of_clips(nodes, values))


# -- BatchNormalization ------------------------------------------------------------------------


def norm(source: str, *, output: str = "y", **attributes: Any) -> Node:
    return ("BatchNormalization", [source, *"gbmv"], output, attributes)


def norm_values(channels: int) -> dict[str, np.ndarray]:
    return {
        "g": drawn(channels),
        "b": drawn(channels),
        "m": drawn(channels),
        "v": np.exp(drawn(channels)),
    }


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_a_norm_behind_a_convolution_is_folded(kind: str, groups: int, biased: bool) -> None:
    weight = drawn(6, 4 // groups, 3, 3) if kind == "Conv" else drawn(4, 6 // groups, 3, 3)
    inputs = ["x", "w", "bias"] if biased else ["x", "w"]
    nodes: list[Node] = [(kind, inputs, "a", {"group": groups, "pads": [1] * 4}), norm("a")]
    values = {"w": weight, "bias": drawn(6), **norm_values(6)}
    model = make(nodes, values, (4, 7, 5), rank=4)
    assert changed("batch_norm", model) == {kind: 1}


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [(5,), (1, 5), (1,), (1, 1), ()])
def test_norms_on_both_sides_of_a_gemm_are_folded(transposed: int, bias: tuple[int, ...]) -> None:
    gemm: dict[str, Any] = {"transB": transposed, "alpha": 0.5, "beta": 2.0}
    nodes: list[Node] = [
        ("BatchNormalization", ["x", "g4", "b4", "m4", "v4"], "a", {"epsilon": 1e-3}),
        ("Gemm", ["a", "w", "bias"], "c", gemm),
        norm("c"),
    ]
    values = {
        **norm_values(5),
        **{f"{name}4": value for name, value in norm_values(4).items()},
        "w": drawn(5, 4) if transposed else drawn(4, 5),
        "bias": np.asarray(drawn(*bias), np.float32),
    }
    assert changed("batch_norm", make(nodes, values, (4,), rank=2), places=2) == {"Gemm": 1}


def test_a_norm_in_front_of_two_gemms_is_folded_into_each() -> None:
    nodes: list[Node] = [
        norm("x", output="a"),
        ("Gemm", ["a", "w"], "y", {}),
        ("Gemm", ["a", "w"], "z", {}),
    ]
    model = make(nodes, {**norm_values(4), "w": drawn(4, 5)}, (4,), rank=2, outputs=("y", "z"))
    assert changed("batch_norm", model) == {"Gemm": 2}


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        pytest.param(
            [conv("x", output="a"), norm("a"), ("Relu", ["a"], "z", {})],
            ("y", "z"),
            id="the convolution has another reader",
        ),
        pytest.param([conv("x", output="a"), norm("a")], ("y", "a"), id="an output of the graph"),
        pytest.param([norm("x", output="a"), conv("a")], ("y",), id="in front of a convolution"),
        pytest.param(
            [conv("x", output="c"), ("Relu", ["c"], "a", {}), norm("a")], ("y",), id="behind a ReLU"
        ),
    ],
)
def test_a_norm_stays_where_folding_it_would_change_something(
    nodes: list[Node], outputs: tuple[str, ...]
) -> None:
    model = make(
        nodes, {"w": drawn(4, 4, 3, 3), **norm_values(4)}, (4, 7, 5), rank=4, outputs=outputs
    )
    unchanged("batch_norm", model)


def test_a_norm_in_front_of_a_gemm_and_something_else_stays() -> None:
    nodes: list[Node] = [
        norm("x", output="a"),
        ("Gemm", ["a", "w"], "b_", {}),
        ("Add", ["a", "b_"], "y", {}),
    ]
    unchanged("batch_norm", make(nodes, {**norm_values(4), "w": drawn(4, 4)}, (4,), rank=2))
