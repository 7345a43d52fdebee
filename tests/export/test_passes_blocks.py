"""What follows a convolution to blocks of pixels: when it stays in blocks, and when it must not."""

from typing import Any

import numpy as np
import pytest
from helpers_passes import Node, changed, conv, drawn, make, of_clips, run
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
    "clips": np.array([0, 1, 3, 4]),
    "columns": drawn(8),
    "mask": drawn(1, 1, 4, 6, 8),
    "two_of_rank_six": np.full((1,) * 6, 2, np.float32),
    "none": np.array([0]),
    "begin": np.array([1]),
    "next": np.array([2]),
    "end": np.array([3]),
    "axis": np.array([2]),
    "far": np.array([6]),
    "row": np.array([3]),
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


ALL: list[Node] = [*SQUARE, total("frames", keepdims=1)]


def masked(by: str) -> list[Node]:
    """Return a graph whose decoded pixels are multiplied by a constant."""
    return [*DECODED[:-1], ("Mul", ["pixels_out", by], "decoded", {}), TARGET, *ALL]


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


def test_a_part_of_a_part_of_the_clip_is_taken_in_the_same_order() -> None:
    """Rows 1 to 6, and of those 1 to 3, are two rows; the other way round one."""
    nodes: list[Node] = [
        ("Slice", ["x", "begin", "far", "row"], "most", {}),
        ("Slice", ["most", "begin", "end", "row"], "seen", {}),
        conv("seen", output="code", **SAME),
        *DECODED[1:],
        ("Div", ["seen", "scale"], "target", {}),
        *ALL,
    ]
    assert changed("output_blocking", model_of(nodes, rank=5))["Conv"] == 3


def test_a_part_of_the_clip_may_begin_where_the_graph_says() -> None:
    """Its size must be known, as that of an output is."""
    nodes: list[Node] = [
        *DECODED,
        ("Identity", ["none"], "where", {}),
        ("Slice", ["x", "where", "far", "axis"], "seen", {}),
        ("Div", ["seen", "scale"], "target", {}),
        *ALL,
    ]
    model = model_of(nodes, rank=5, outputs=("y", "target"))
    sizes = model.graph.output[1].type.tensor_type.shape.dim
    for dim, size in zip(list(sizes)[1:], (1, 4, 6, 8), strict=True):
        dim.dim_value = size
    assert changed("output_blocking", model)["Conv"] == 3


def test_the_attributes_of_a_step_are_kept() -> None:
    leaky: Node = ("LeakyRelu", ["pixels_out"], "decoded", {"alpha": 0.3})
    model = model_of([*DECODED[:-1], leaky, TARGET, *ALL], rank=5)
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
        pytest.param(
            [*DECODED, ("Div", ["x", "scale"], "a", {}), ("Mul", ["a", "two"], "target", {}), *ALL],
            ("y",),
            5,
            id="scaled twice",
        ),
        pytest.param(
            [
                *DECODED,
                TARGET,
                ("Sub", ["target", "decoded"], "e", {}),
                ("Sub", ["target", "e"], "d", {}),
                *ALL[1:],
            ],
            ("y",),
            5,
            id="compared twice",
        ),
        pytest.param(
            [*DECODED, TARGET, *SQUARE, total("clips", keepdims=1)], ("y",), 5, id="over the clips"
        ),
        pytest.param(masked("mask"), ("y",), 5, id="a value for each pixel"),
        pytest.param(masked("columns"), ("y",), 5, id="a value for each column"),
        pytest.param(masked("two_of_rank_six"), ("y",), 6, id="a value that adds an axis"),
        pytest.param(
            [*DECODED, TARGET, *ALL, ("Neg", ["decoded"], "z", {})],
            ("y", "z"),
            5,
            id="read by two",
        ),
        pytest.param(
            [
                *DECODED,
                ("Slice", ["x", "begin", "next", "axis"], "frame", {}),
                ("Div", ["frame", "scale"], "target", {}),
                *ALL,
            ],
            ("y",),
            5,
            id="one frame for all",
        ),
        pytest.param(
            [*DECODED, TARGET, ("Mul", ["target", "decoded"], "d", {}), *ALL[1:]],
            ("y",),
            5,
            id="a product",
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


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_several_channels_are_put_back_before_they_are_added_up(channels: int) -> None:
    nodes = [*DECODED[:2], conv("kept", weight="several", output="s", **SAME), ALL[-1]]
    values = VALUES | {"several": drawn(channels, 5, 3, 3, 3)}
    left = changed("output_blocking", of_clips(nodes, values, colours=1))
    assert (left["Conv"], left["Reshape"], left["Transpose"]) == (2, 2, 2)


def test_a_picture_that_is_no_clip_of_bytes_is_not_cut() -> None:
    """Its numbers need not be whole, and lower precisions would round them."""
    values = {name: VALUES[name] for name in ("w", "v", "scale", "frames")}
    model = make([*DECODED, TARGET, *ALL], values, (1, 4, 6, 8))
    left = changed("output_blocking", model)
    assert (left["Conv"], left["Reshape"], left["Transpose"]) == (2, 2, 1)


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
        VALUES | {"wide": drawn(16, 1, 3, 3, 3) / 300, "back": drawn(1, 16, 3, 3, 3)},
        colours=1,
        rank=2,
    )
    assert changed("output_blocking", model)["Conv"] == 3
    assert [layer.name for layer in quantisable_layers(model, QuantiseChoice())] == [
        "n_code",
        "n_pixels_out",
    ]
    late = quantisable_layers(model, QuantiseChoice(first=False))
    assert [layer.name for layer in late] == ["n_pixels_out"]


def test_no_pass_finds_anything_in_a_graph_that_went_through_all_passes() -> None:
    """Least of all in a convolution that copies rows, which may be an earlier pass's own."""
    rows = np.zeros((4, 1, 1, 3, 1), np.float32)
    rows[np.arange(3), 0, 0, np.arange(3), 0] = 1
    nodes: list[Node] = [
        conv("x", weight="rows_up", output="neighbours", pads=[0, 1, 0] * 2),
        conv("neighbours", weight="flat", output="code", pads=[1, 0, 1] * 2),
        *DECODED[1:],
        TARGET,
        *SQUARE,
        total("frames", keepdims=0),
    ]
    model = of_clips(
        nodes, VALUES | {"rows_up": rows, "flat": drawn(5, 4, 3, 1, 3) / 300}, colours=1, rank=2
    )
    before = run(model)[0]
    places = [change(model) for change in PASSES.values()]
    assert dict(zip(PASSES, places, strict=True)) == dict.fromkeys(PASSES, 0) | {
        "output_blocking": 1
    }
    assert not any(change(model) for change in PASSES.values())
    np.testing.assert_allclose(run(model)[0], before, rtol=1e-5)
