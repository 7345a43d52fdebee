"""Passes that keep a picture in blocks, or read a pixel together with its neighbours."""

from typing import Any

import numpy as np
import onnx
import pytest
from helpers_passes import Node, changed, conv, drawn, make, of_clips, unchanged
from onnx import numpy_helper

from vad_calibration.placement import QuantiseChoice, quantisable_layers
from vad_export.passes import PASSES

SAME = {"pads": [1] * 6}
VALUES: dict[str, np.ndarray] = {
    "w": drawn(5, 1, 3, 3, 3) / 300,
    "v": drawn(1, 5, 3, 3, 3),
    "scale": np.float32(255),
    "inverse": np.float32(1 / 255),
    "two": np.float32(2),
    "frames": np.array([1, 3, 4]),
    "all": np.array([1, 2, 3, 4]),
    "last": np.array([-1, -2, 1]),
    "rows": np.array([1, 2, 3]),
    "pixels": np.array([2, 3, 4]),
    "begin": np.array([1]),
    "end": np.array([3]),
    "axis": np.array([2]),
}
DECODED: list[Node] = [
    conv("x", output="code", **SAME),
    ("Relu", ["code"], "kept", {}),
    conv("kept", weight="v", output="pixels_out", **SAME),
    ("Sigmoid", ["pixels_out"], "decoded", {}),
]
TARGET: Node = ("Div", ["x", "scale"], "target", {})
SQUARE: list[Node] = [
    ("Sub", ["target", "decoded"], "d", {}),
    ("Mul", ["d", "d"], "s", {}),
]


def total(axes: str, *, kind: str = "ReduceSum", source: str = "s", **more: Any) -> Node:
    return (kind, [source, axes], "y", more)


def model_of(nodes: list[Node], *, rank: int, outputs: tuple[str, ...] = ("y",)) -> Any:
    read = {name for _, inputs, _, _ in nodes for name in inputs}
    values = {name: value for name, value in VALUES.items() if name in read}
    return of_clips(nodes, values, colours=1, rank=rank, outputs=outputs)


@pytest.mark.parametrize("axes", ["frames", "all", "last", "rows"])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("kind", ["ReduceSum", "ReduceMean"])
def test_a_sum_over_a_picture_is_taken_over_its_blocks(axes: str, keep: int, kind: str) -> None:
    rank = 5 if keep else 5 - len(VALUES[axes])
    model = model_of([*DECODED, TARGET, *SQUARE, total(axes, kind=kind, keepdims=keep)], rank=rank)
    left = changed("output_blocking", model)
    assert left["Conv"] == 3  # two, and the one that cuts the clip into blocks
    assert left["Transpose"] == 1 + (axes != "all")  # the first is of_clips' own
    assert left[kind] == 2


@pytest.mark.parametrize(
    "between",
    [
        [("Sub", ["decoded", "target"], "d", {}), ("Pow", ["d", "two"], "s", {})],
        [("Sub", ["decoded", "target"], "d", {}), ("Abs", ["d"], "s", {})],
        [
            ("Mul", ["decoded", "two"], "e", {}),
            ("Sub", ["target", "e"], "d", {}),
            ("Mul", ["d", "d"], "s", {}),
        ],
    ],
)
def test_other_differences_stay_in_blocks_too(between: list[Node]) -> None:
    model = model_of([*DECODED, TARGET, *between, total("frames", keepdims=0)], rank=2)
    assert changed("output_blocking", model)["Reshape"] == 2


@pytest.mark.parametrize("scaling", ["Div", "Mul"])
def test_the_picture_that_is_cut_holds_whole_numbers(scaling: str) -> None:
    """In bf16 a 255th is not exact, and a fused product of 1/255 is off by half a percent."""
    value = "scale" if scaling == "Div" else "inverse"
    target: Node = (scaling, ["x", value], "target", {})
    model = model_of([*DECODED, target, *SQUARE, total("frames", keepdims=0)], rank=2)
    changed("output_blocking", model)
    makers = {node.output[0]: node for node in model.graph.node}
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    (cut,) = [
        node
        for node in model.graph.node
        if node.op_type == "Conv" and set(np.unique(constants[node.input[1]])) == {0, 1}
    ]
    assert makers[cut.input[0]].op_type == "Cast"
    readers = [node.op_type for node in model.graph.node if cut.output[0] in node.input]
    assert readers == ["Sub"]


def test_a_part_of_the_clip_may_be_what_is_compared() -> None:
    few = [
        ("Slice", ["x", "begin", "end", "axis"], "seen", {}),
        conv("seen", output="code", **SAME),
        *DECODED[1:],
    ]
    scaled: list[Node] = [TARGET, ("Slice", ["target", "begin", "end", "axis"], "part", {})]
    square: list[Node] = [("Sub", ["part", "decoded"], "d", {}), ("Mul", ["d", "d"], "s", {})]
    model = model_of([*few, *scaled, *square, total("frames", keepdims=0)], rank=2)
    assert changed("output_blocking", model)["Conv"] == 3


@pytest.mark.parametrize(
    ("nodes", "outputs", "rank"),
    [
        pytest.param(
            [*DECODED, TARGET, *SQUARE, total("frames", keepdims=1)],
            ("y", "decoded"),
            5,
            id="the picture is asked for",
        ),
        pytest.param(
            [*DECODED, TARGET, *SQUARE, total("frames", keepdims=1)],
            ("y", "s"),
            5,
            id="the map of errors is asked for",
        ),
        pytest.param(
            [*DECODED, TARGET, *SQUARE, total("pixels", keepdims=1)], ("y",), 5, id="not channels"
        ),
        pytest.param(
            [*DECODED, TARGET, *SQUARE, ("MaxPool", ["s"], "y", {"kernel_shape": [1, 2, 2]})],
            ("y",),
            5,
            id="no sum",
        ),
        pytest.param(
            [
                *DECODED,
                ("Sigmoid", ["x"], "target", {}),
                *SQUARE,
                total("frames", keepdims=1),
            ],
            ("y",),
            5,
            id="compared with no whole numbers",
        ),
    ],
)
def test_the_pixels_are_put_back_where_somebody_needs_them(
    nodes: list[Node], outputs: tuple[str, ...], rank: int
) -> None:
    model = model_of(nodes, rank=rank, outputs=outputs)
    left = changed("output_blocking", model)
    assert left["Conv"] == 2
    assert (left["Reshape"], left["Transpose"]) == (2, 2)


# -- input stacking ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "attributes", "sizes"),
    [
        ((16, 1, 3, 3, 3), SAME, (4, 6, 8)),
        ((16, 1, 3, 5, 3), {}, (4, 6, 8)),
        ((17, 1, 1, 3, 1), {"pads": [0, 1, 0, 0, 0, 0]}, (4, 6, 8)),
        ((16, 1, 3, 7, 7), {"strides": [1, 2, 2], "pads": [1, 3, 3, 1, 3, 3]}, (4, 9, 9)),
        ((16, 1, 3, 3), {"pads": [1] * 4, "strides": [2, 1]}, (6, 8)),
        ((16, 1, 2, 3), {"auto_pad": "VALID"}, (6, 8)),
    ],
)
@pytest.mark.parametrize("biased", [False, True])
def test_rows_of_a_grey_picture_become_channels(
    weight: tuple[int, ...], attributes: dict[str, Any], sizes: tuple[int, ...], biased: bool
) -> None:
    inputs = ["x", "w", "b"] if biased else ["x", "w"]
    values = {"w": drawn(*weight), "b": drawn(weight[0])}
    model = make([("Conv", inputs, "y", attributes)], values, (1, *sizes), rank=len(weight))
    assert changed("input_stacking", model) == {"Conv": 2}
    shapes = {t.name: list(t.dims) for t in model.graph.initializer}
    proper = shapes[model.graph.node[1].input[1]]
    assert proper[1] % 4 == 0
    assert proper[len(sizes)] == 1


@pytest.mark.parametrize(
    ("weight", "attributes", "sizes"),
    [
        pytest.param((16, 3, 3, 3, 3), SAME, (4, 6, 8), id="three colours"),
        pytest.param((8, 1, 3, 3, 3), SAME, (4, 6, 8), id="few outputs"),
        pytest.param((16, 1, 3, 1, 3), {}, (4, 6, 8), id="one row"),
        pytest.param((16, 1, 3, 3), {"dilations": [2, 2]}, (6, 8), id="a dilation"),
        pytest.param((16, 1, 3, 3), {"auto_pad": "SAME_UPPER"}, (6, 8), id="padding by size"),
        pytest.param((16, 1, 3), {}, (8,), id="one axis"),
    ],
)
def test_other_first_convolutions_are_left_alone(
    weight: tuple[int, ...], attributes: dict[str, Any], sizes: tuple[int, ...]
) -> None:
    values = {"w": drawn(*weight)}
    model = make([conv(**attributes)], values, (weight[1], *sizes), rank=len(weight))
    unchanged("input_stacking", model)


def test_convolutions_that_copy_pixels_are_not_quantised() -> None:
    """INT8 has 127 steps for the 255 of a pixel."""
    model = of_clips(
        [
            conv("x", output="code", weight="wide", **SAME),
            conv("code", weight="back", output="pixels_out", **SAME),
            ("Sigmoid", ["pixels_out"], "decoded", {}),
            TARGET,
            *SQUARE,
            total("frames", keepdims=0),
        ],
        VALUES | {"wide": drawn(16, 1, 3, 3, 3), "back": drawn(1, 16, 3, 3, 3)},
        colours=1,
        rank=2,
    )
    for name in ("output_blocking", "input_stacking"):
        assert PASSES[name](model) == 1
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 4
    assert [layer.name for layer in quantisable_layers(model, QuantiseChoice())] == [
        "n_code",
        "n_pixels_out",
    ]
    # What reads the clip through copies alone is still the first layer.
    late = quantisable_layers(model, QuantiseChoice(first=False))
    assert [layer.name for layer in late] == ["n_pixels_out"]
    assert onnx.checker.check_model(model, full_check=True) is None
