"""Passes that compute the same in another way: means as MatMuls, blocks of output pixels."""

from typing import Any

import numpy as np
import onnx
import pytest
from helpers_passes import Node, changed, conv, drawn, make, unchanged

from vad_export.passes.output_blocking import best_block

# -- ReduceMean --------------------------------------------------------------------------------


def mean(source: str, axes: str, *, output: str = "y", **attributes: Any) -> Node:
    return ("ReduceMean", [source, axes], output, attributes)


TOKENS: list[Node] = [
    ("MatMul", ["x", "w"], "a", {}),
    ("Add", ["bias", "a"], "b", {}),
    ("Reshape", ["b", "frames"], "c", {}),
]
AXES = {"one": np.array([1]), "last": np.array([-1]), "both": np.array([1, 2])}
TOKEN_VALUES = {**AXES, "w": drawn(6, 6), "bias": drawn(6), "frames": np.array([-1, 8, 6])}


@pytest.mark.parametrize("axes", ["one", "before_last"])
@pytest.mark.parametrize("keep", [0, 1])
def test_a_mean_over_frames_behind_a_linear_layer_becomes_a_matmul(axes: str, keep: int) -> None:
    values = {**TOKEN_VALUES, "before_last": np.array([-2])}
    rank = 2 + keep
    model = make([*TOKENS, mean("c", axes, keepdims=keep)], values, (4, 6), rank=rank)
    # Two inputs of four tokens are one video of eight frames.
    left = changed("reduce_mean", model, counts=(2, 4))
    assert left["ReduceMean"] == 0
    assert (left["MatMul"], left["Squeeze"]) == (2, 1 - keep)


def test_the_axes_of_old_operator_sets_are_found() -> None:
    model = make([*TOKENS, mean("c", "one")], TOKEN_VALUES, (4, 6), rank=3)
    node = model.graph.node[-1]
    node.input.pop()
    node.attribute.append(onnx.helper.make_attribute("axes", [1]))
    model.opset_import[0].version = 17
    onnx.checker.check_model(model, full_check=True)
    assert changed("reduce_mean", model, counts=(2, 4))["ReduceMean"] == 0


@pytest.mark.parametrize(
    ("nodes", "shape", "rank"),
    [
        pytest.param([*TOKENS, mean("c", "last")], (4, 6), 3, id="over the channels"),
        pytest.param([*TOKENS, mean("c", "both")], (4, 6), 3, id="over two axes"),
        pytest.param(
            [*TOKENS, ("Relu", ["c"], "d", {}), mean("d", "one")], (4, 6), 3, id="behind a ReLU"
        ),
        pytest.param([mean("x", "one")], (8, 6), 3, id="behind no layer"),
        pytest.param(
            [("MatMul", ["x", "w"], "a", {}), mean("a", "one")],
            ("T", 6),
            3,
            id="a number of frames that is not fixed",
        ),
        pytest.param(
            [conv(weight="k", output="a"), mean("a", "pool")], (2, 5, 5), 4, id="a global pool"
        ),
    ],
)
def test_other_means_are_left_alone(nodes: list[Node], shape: tuple[Any, ...], rank: int) -> None:
    values = {**TOKEN_VALUES, "k": drawn(3, 2, 3, 3), "pool": np.array([2, 3])}
    unchanged("reduce_mean", make(nodes, values, shape, rank=rank))


# -- output blocking ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "sizes", "block"),
    [
        (1, (4, 8, 8), (2, 2, 4)),
        (1, (3, 8, 8), (1, 4, 4)),
        (2, (4, 6, 6), (2, 2, 2)),
        (3, (4, 8, 8), (1, 2, 2)),
        (4, (5, 6, 6), (1, 2, 2)),
        (1, (8, 8), (4, 4)),
        (3, (8, 6), (2, 2)),
    ],
)
@pytest.mark.parametrize("biased", [False, True])
def test_a_convolution_to_few_channels_computes_a_block_at_a_time(
    channels: int, sizes: tuple[int, ...], block: tuple[int, ...], biased: bool
) -> None:
    axes = len(sizes)
    assert best_block(channels, [3] * axes, sizes) == block
    inputs = ["x", "w", "b"] if biased else ["x", "w"]
    nodes: list[Node] = [
        ("Conv", inputs, "a", {"pads": [1] * 2 * axes, "kernel_shape": [3] * axes}),
        ("Sigmoid", ["a"], "y", {}),
    ]
    values = {"w": drawn(channels, 5, *[3] * axes), "b": drawn(channels)}
    model = make(nodes, values, (5, *sizes), rank=axes + 2)
    left = changed("output_blocking", model)
    assert left == {"Conv": 1, "Reshape": 2, "Transpose": 1, "Sigmoid": 1}
    weight = next(t for t in model.graph.initializer if t.name == model.graph.node[0].input[1])
    assert list(weight.dims) == [channels * np.prod(block), 5, *(b + 2 for b in block)]


def test_kernels_of_several_sizes_are_blocked() -> None:
    model = make([conv(pads=[0, 1, 2, 0, 1, 2])], {"w": drawn(1, 5, 1, 3, 5)}, (5, 4, 8, 8))
    assert changed("output_blocking", model)["Reshape"] == 2


def test_the_convolution_may_itself_be_an_output_and_have_several_readers() -> None:
    nodes: list[Node] = [
        conv(output="y", pads=[1] * 6),
        ("Sigmoid", ["y"], "s", {}),
        ("Mul", ["y", "s"], "z", {}),
    ]
    model = make(nodes, {"w": drawn(1, 5, 3, 3, 3)}, (5, 4, 8, 8), outputs=("y", "z"))
    assert changed("output_blocking", model)["Reshape"] == 2


SAME = {"pads": [1] * 6}


@pytest.mark.parametrize(
    ("weight", "attributes", "sizes"),
    [
        pytest.param((1, 6, 3, 3, 3), SAME, (3, 5, 7), id="odd sizes"),
        pytest.param((1, 6, 3, 3, 3), SAME, (4, 8, "W"), id="a size that is not fixed"),
        pytest.param((8, 6, 3, 3, 3), SAME, (4, 8, 8), id="enough channels"),
        pytest.param((1, 6, 3, 3, 3), {}, (4, 8, 8), id="no padding"),
        pytest.param((1, 6, 2, 2, 2), {"pads": [0] * 3 + [1] * 3}, (4, 8, 8), id="an even kernel"),
        pytest.param((1, 6, 3, 3, 3), SAME | {"strides": [1, 2, 2]}, (4, 8, 8), id="a stride"),
        pytest.param(
            (1, 6, 3, 3, 3),
            {"pads": [2] * 6, "dilations": [2] * 3},
            (4, 8, 8),
            id="a dilation",
        ),
        pytest.param((2, 3, 3, 3, 3), SAME | {"group": 2}, (4, 8, 8), id="groups"),
        pytest.param((1, 6, 3), {"pads": [1, 1]}, (8,), id="one axis"),
    ],
)
def test_other_convolutions_are_left_alone(
    weight: tuple[int, ...], attributes: dict[str, Any], sizes: tuple[Any, ...]
) -> None:
    nodes = [conv(**attributes)]
    model = make(nodes, {"w": drawn(*weight)}, (6, *sizes), rank=2 + len(sizes))
    unchanged("output_blocking", model)


def test_a_convolution_that_copies_pixels_is_left_alone() -> None:
    """It stands for a move of pixels; a bias makes it a layer like others."""
    copy = np.zeros((1, 1, 3, 3, 3), np.float32)
    copy[0, 0, 1, 2, 0] = 1
    unchanged("output_blocking", make([conv(**SAME)], {"w": copy}, (1, 4, 8, 8)))
    biased: list[Node] = [("Conv", ["x", "w", "b"], "y", SAME)]
    changed("output_blocking", make(biased, {"w": copy, "b": drawn(1)}, (1, 4, 8, 8)))
