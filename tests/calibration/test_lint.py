"""The static check of Q/DQ graphs: one graph a rule, and what TensorRT's parser says to each."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers_qdq import Net, quantised
from helpers_tensorrt import build, tensorrt_rtx
from onnx import TensorProto, helper, numpy_helper

from vad_calibration.lint import RULES, lint_qdq
from vad_runtime.contracts import ExportError

CHANNELS = 16


def graph(
    *,
    opset: int = 18,
    kind: str = "int8",
    point: int = 0,
    scale: float = 0.02,
    scales: int = 0,
    zero_point: bool = True,
    computed: bool = False,
    round_input: bool = True,
    weight_kind: str = "int8",
    weight_scale: float = 0.01,
    axis: int = 0,
    one_scale: bool = False,
    stored: bool = True,
    round_weight: bool = True,
    bias: str = "float",
    half: str = "",
    domain: str = "",
    between: str = "",
) -> onnx.ModelProto:
    """Return a convolution in INT8; without changes it breaks no rule.

    Args:
        opset: Of the graph.
        kind: Of the quantised activation.
        point: Its zero point.
        scale: Its scale.
        scales: If not 0, so many of them.
        zero_point: Whether it is given.
        computed: The scale comes from a node.
        round_input: Whether the input is quantised.
        weight_kind: Of the quantised weight.
        weight_scale: Scale of one channel of it.
        axis: Of its scales.
        one_scale: One scale for the whole weight.
        stored: In INT8, and not rounded in the graph.
        round_weight: Whether the weight is quantised.
        bias: `float`, `int32` or `int8`.
        half: `weight` or `all`: what is dequantised to fp16.
        domain: Of the nodes.
        between: An operator between QuantizeLinear and DequantizeLinear.
    """
    nodes: list[onnx.NodeProto] = []
    constants: list[TensorProto] = []
    float_kind = np.float16 if half == "all" else np.float32
    weight_float = np.float16 if half else np.float32

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(op: str, inputs: list[str], output: str, name: str, **more: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name, **more))
        return output

    x = "clip"
    if round_input:
        grid = [constant("s", np.full(scales, scale, float_kind) if scales else float_kind(scale))]
        if computed:
            grid = [add("Abs", grid, "computed", "abs")]
        if zero_point:
            grid.append(constant("z", np.full(scales or (), point, kind)))
        along = {"axis": 1} if scales else {}
        inner = add("QuantizeLinear", [x, *grid], "q", "quantise", domain=domain, **along)
        if between:
            inner = add(between, [inner], "moved", "between")
        x = add("DequantizeLinear", [inner, *grid], "d", "dequantise", domain=domain, **along)
    shape = (CHANNELS, CHANNELS, 3, 3)
    weight = np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)
    plain = (weight * 0.01).astype(weight_float)
    w = constant("w", weight.astype(weight_kind) if stored and round_weight else plain)
    if round_weight:
        several = np.full(CHANNELS, 0.01, weight_float)
        several[3] = weight_scale
        size = () if one_scale else (CHANNELS,)
        grid = [constant("ws", weight_float(0.01) if one_scale else several)]
        grid.append(constant("wz", np.zeros(size, weight_kind)))
        if not stored:
            w = add("QuantizeLinear", [w, *grid], "wq", "quantise weight", axis=axis)
        w = add("DequantizeLinear", [w, *grid], "wd", "dequantise weight", axis=axis)
    if bias == "float":
        b = constant("b", np.ones(CHANNELS, float_kind))
    else:
        grid = [constant("bi", np.ones(CHANNELS, bias)), constant("bs", float_kind(0.02))]
        b = add("DequantizeLinear", grid, "bd", "dequantise bias")
    add("Conv", [x, w, b], "score", "conv", pads=[1] * 4)
    whole = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}[float_kind]
    sides = ["N", CHANNELS, 8, 8]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "one",
            [helper.make_tensor_value_info("clip", whole, sides)],
            [helper.make_tensor_value_info("score", whole, sides)],
            constants,
        ),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
        ir_version=9,
    )


Finds = list[tuple[str, str]]
BOTH = ["quantise", "dequantise"]

BREAKS: dict[str, tuple[dict[str, Any], Finds, bool]] = {
    "of another domain": (
        {"domain": "com.microsoft"},
        [(node, "operator") for node in BOTH],
        True,
    ),
    "uint8": ({"kind": "uint8"}, [(node, "type") for node in BOTH], True),
    "int16": ({"kind": "int16", "opset": 21}, [(node, "type") for node in BOTH], False),
    "no zero point": ({"zero_point": False}, [("quantise", "type")], True),
    "uint8 weights": (
        {"weight_kind": "uint8"},
        [("dequantise weight", "type")],
        False,
    ),
    "zero point": ({"point": 3}, [(node, "zero-point") for node in BOTH], False),
    "scale 0": ({"scale": 0.0}, [(node, "scale") for node in BOTH], False),
    "negative scale": ({"scale": -0.1}, [(node, "scale") for node in BOTH], False),
    "scale NaN": ({"scale": np.nan}, [(node, "scale") for node in BOTH], False),
    "infinite scale": ({"scale": np.inf}, [(node, "scale") for node in BOTH], True),
    "computed scale": ({"computed": True}, [(node, "scale") for node in BOTH], True),
    "one scale of a weight 0": ({"weight_scale": 0.0}, [("dequantise weight", "scale")], False),
    "scales along the inputs": ({"axis": 1}, [("conv", "axis")], True),
    "scales a channel of an activation": (
        {"scales": CHANNELS},
        [("quantise", "axis")],
        True,
    ),
    "int32 bias": (
        {"bias": "int32"},
        [("dequantise bias", "type"), ("conv", "bias")],
        False,
    ),
    "int8 bias": ({"bias": "int8"}, [("conv", "bias")], True),
    "rounded in the graph": ({"stored": False}, [("quantise weight", "stored")], True),
    "an operator in between": (
        {"between": "Identity"},
        [("quantise", "pair"), ("dequantise", "pair")],
        True,
    ),
    "only the weights": ({"round_input": False}, [("conv", "both")], True),
    "only the input": ({"round_weight": False}, [("conv", "both")], True),
    "opset 12": ({"opset": 12}, [("dequantise weight", "opset")], True),
    "fp16 scales at opset 18": (
        {"half": "all"},
        [(node, "opset") for node in (*BOTH, "dequantise weight")],
        True,
    ),
    "two floating point types": (
        {"half": "weight", "opset": 19},
        [("conv", "float")],
        False,
    ),
}
"""What is changed, node and rule that are found, whether TensorRT-RTX 1.7.1 takes it after all."""


@pytest.mark.parametrize("name", BREAKS)
def test_the_node_and_the_rule_that_it_breaks_are_named(name: str) -> None:
    changes, expected, _ = BREAKS[name]
    findings = lint_qdq(graph(**changes))
    assert [(finding.node, finding.rule) for finding in findings] == expected
    for finding in findings:
        assert finding.line.startswith(f"{finding.node}: {finding.message} ({finding.rule}: ")
        assert "\n" not in finding.line


def test_every_rule_is_broken_by_one_of_these_graphs() -> None:
    assert {rule for _, expected, _ in BREAKS.values() for _, rule in expected} == set(RULES)


@pytest.mark.parametrize(
    "changes", [{}, {"one_scale": True}, {"opset": 13}, {"half": "all", "opset": 19}]
)
def test_a_graph_that_keeps_the_rules_has_no_findings(changes: dict[str, Any]) -> None:
    model = graph(**changes)
    onnx.checker.check_model(model, full_check=True)
    assert lint_qdq(model) == []


def test_a_graph_without_int8_has_no_findings() -> None:
    assert lint_qdq(graph(round_input=False, round_weight=False)) == []


@pytest.mark.parametrize("name", ["none", *BREAKS])
def test_tensorrt_refuses_what_this_table_says_and_takes_the_rest(
    name: str, tmp_path: Path
) -> None:
    tensorrt_rtx()
    changes, _, taken = BREAKS.get(name, ({}, [], True))
    file = tmp_path / "graph.onnx"
    file.write_bytes(graph(**changes).SerializeToString())
    if taken:
        assert build(file)[:4] == b"vtrt"
        return
    with pytest.raises(ExportError):
        build(file)


# -- other graphs ------------------------------------------------------------------------------


def pairs(*nodes: onnx.NodeProto, output: int = TensorProto.FLOAT) -> onnx.ModelProto:
    constants = [
        numpy_helper.from_array(np.float32(0.1), "s"),
        numpy_helper.from_array(np.array(0, np.int8), "z"),
        numpy_helper.from_array(np.ones((4, 4), np.int8), "w"),
    ]
    return helper.make_model(
        helper.make_graph(
            list(nodes),
            "pairs",
            [helper.make_tensor_value_info("clip", TensorProto.FLOAT, [1, 4])],
            [helper.make_tensor_value_info("score", output, None)],
            constants,
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )


def node(op: str, inputs: str, output: str, **more: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(","), output.split(), name=output, **more)


QUANTISE = node("QuantizeLinear", "clip,s,z", "q")


@pytest.mark.parametrize(
    ("nodes", "expected", "words"),
    [
        ([QUANTISE], ("q", "pair"), "read by nothing"),
        ([node("QuantizeLinear", "clip,s,z", "score")], ("score", "pair"), "one of the graph's"),
        (
            [node("QuantizeLinear", "clip,s,", "q", output_dtype=2)],
            ("q", "type"),
            "its type is uint8",
        ),
        ([node("QuantizeLinear", "clip,s,", "q")], ("q", "type"), "unsigned"),
        ([node("MatMulInteger", "clip,w", "m")], ("m", "operator"), "MatMulInteger"),
        ([node("ConvInteger", "clip,w", "m")], ("m", "operator"), "ConvInteger"),
        (
            [QUANTISE, node("QLinearMatMul", "q,s,z,w,s,z,s,z", "m")],
            ("m", "operator"),
            "QLinearMatMul",
        ),
        ([node("DequantizeLinear", "clip,s,z", "d")], ("d", "pair"), "it reads an input"),
    ],
)
def test_what_is_wrong_is_said_in_words(
    nodes: list[onnx.NodeProto], expected: tuple[str, str], words: str
) -> None:
    found = {(f.node, f.rule): f.message for f in lint_qdq(pairs(*nodes))}
    assert expected in found
    assert words in found[expected]


def test_a_type_that_an_attribute_states_counts() -> None:
    stated = node("QuantizeLinear", "clip,s,", "q", output_dtype=TensorProto.INT8)
    model = pairs(stated, node("DequantizeLinear", "q,s", "score"))
    assert lint_qdq(model) == []


def test_a_node_without_a_name_is_called_after_its_output() -> None:
    model = pairs(helper.make_node("QuantizeLinear", ["clip", "s", "z"], ["nameless"]))
    assert [finding.node for finding in lint_qdq(model)] == ["nameless"]


def test_scales_and_zero_points_in_nodes_of_the_kind_constant_are_constants() -> None:
    def held(name: str, value: np.ndarray) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))

    model = pairs(
        held("scale", np.array(0.1, np.float32)),
        held("zero", np.array(0, np.int8)),
        node("QuantizeLinear", "clip,scale,zero", "q"),
        node("DequantizeLinear", "q,scale,zero", "score"),
    )
    assert lint_qdq(model) == []


@pytest.mark.parametrize(
    ("op", "shape", "more", "right"),
    [
        ("ConvTranspose", (4, 6, 3, 3), {}, 1),
        ("Gemm", (6, 4), {"transB": 1}, 0),
        ("Gemm", (4, 6), {}, 1),
        ("MatMul", (4, 6), {}, 1),
    ],
)
def test_the_axis_of_the_output_channels_is_known_for_every_layer(
    op: str, shape: tuple[int, ...], more: dict[str, int], right: int
) -> None:
    net = Net((4, 8, 8) if op == "ConvTranspose" else (4,))
    drawn = np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)
    model = net.model(net.add(op, "clip", net.constant("w", drawn), **more))
    made = quantised(model, net.sample())
    assert lint_qdq(made) == []
    [weight] = [n for n in made.graph.node if n.name.startswith("dequantise_weight")]
    [axis] = [a for a in weight.attribute if a.name == "axis"]
    assert axis.i == right
    axis.i = 1 - right
    assert [finding.rule for finding in lint_qdq(made)] == ["axis"]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same convolutions in INT8: as ONNX Runtime makes them by default, and ours."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    folder = tmp_path_factory.mktemp("both")
    files = {name: folder / f"{name}.onnx" for name in ("fp32", "theirs", "ours")}
    net = Net((8, 8, 8))
    x = net.add("Conv", "clip", net.weight("a", 8, 8, 3, 3), net.weight("b", 8), name="first")
    x = net.add("Relu", x)
    model = net.model(net.add("Conv", x, net.weight("c", 8, 8, 3, 3), net.weight("d", 8)))
    onnx.save(model, files["fp32"])
    onnx.save(quantised(model, net.sample()), files["ours"])
    samples = iter([{"clip": net.sample()}])

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the package has no types
        """Gives one batch."""

        def get_next(self) -> dict[str, np.ndarray] | None:
            """Return it, then None."""
            return next(samples, None)

    quantize_static(files["fp32"], files["theirs"], Reader(), quant_format=QuantFormat.QDQ)
    return files


def test_what_onnxruntime_makes_by_default_breaks_several_rules(both: dict[str, Path]) -> None:
    rules = {finding.rule for finding in lint_qdq(onnx.load(both["theirs"]))}
    assert {"type", "zero-point", "bias"} <= rules
    assert lint_qdq(onnx.load(both["ours"])) == []


def test_tensorrt_refuses_what_onnxruntime_makes_and_takes_ours(both: dict[str, Path]) -> None:
    assert build(both["ours"])[:4] == b"vtrt"
    with pytest.raises(ExportError, match="input has type Int32") as caught:
        build(both["theirs"])
    assert "cudaError" not in str(caught.value)
