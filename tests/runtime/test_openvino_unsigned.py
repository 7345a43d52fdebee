"""Signed INT8 activations that cannot be negative are read as unsigned, and nothing else is."""

from typing import Any

import numpy as np
import openvino as ov
import pytest
from onnx import TensorProto, helper, numpy_helper

from vad_runtime.backends import openvino_unsigned
from vad_runtime.backends.openvino import _core
from vad_runtime.backends.openvino_unsigned import read_unsigned, unsigned_is_safe

SHAPE = (1, 4, 6, 16, 16)
STEP = 0.05


def model_of(kinds: list[str], readers: int = 1) -> Any:
    """Return an OpenVINO model: operators of some kinds, a rounding, and convolutions of it."""
    rng = np.random.default_rng(0)
    nodes, last = [], "x"
    for i, kind in enumerate(kinds):
        inputs = [last, last] if kind in ("Add", "Concat") else [last]
        extra: dict[str, Any] = {"axis": 1} if kind == "Concat" else {}
        if kind == "MaxPool":
            extra = {"kernel_shape": [1, 1, 1]}
        nodes.append(helper.make_node(kind, inputs, [f"t{i}"], **extra))
        last = f"t{i}"
    channels = 8 if "Concat" in kinds else 4
    nodes += [
        helper.make_node("QuantizeLinear", [last, "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
    ]
    outputs = []
    for i in range(readers):
        nodes.append(helper.make_node("Conv", ["d", f"w{i}"], [f"y{i}"], pads=[1] * 6))
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None))
    constants = {"step": np.array(STEP, np.float32), "zero": np.array(0, np.int8)}
    for i in range(readers):
        constants[f"w{i}"] = rng.normal(size=(4, channels, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return _core().read_model(whole.SerializeToString())


def answers(model: Any, x: np.ndarray) -> list[np.ndarray]:
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    found = _core().compile_model(model, "CPU", hint)(x)
    return [np.array(value) for value in found.values()]


@pytest.mark.parametrize(
    "kinds",
    [["Relu"], ["Sigmoid"], ["Relu", "MaxPool"], ["Relu", "Add"], ["Relu", "Concat"], ["Abs"]],
)
def test_what_cannot_be_negative_is_read_unsigned_and_means_the_same(kinds: list[str]) -> None:
    model = model_of(kinds)
    x = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    [before] = answers(model_of(kinds), x)
    assert read_unsigned(model) == 1
    [after] = answers(model, x)
    # Half a signed step and half an unsigned one, times the weights that meet in one value.
    weights = 27 * (8 if "Concat" in kinds else 4)
    assert 0 < np.abs(after - before).max() < 0.75 * STEP * weights
    assert np.abs(after - before).mean() < 0.05 * np.abs(before).mean()


def test_the_steps_are_half_as_wide_and_the_largest_value_is_the_same() -> None:
    model = model_of(["Relu"])
    read_unsigned(model)
    [rounding] = [n for n in model.get_ordered_ops() if n.get_type_name() == "FakeQuantize"]
    low, high = (float(rounding.input_value(i).get_node().data) for i in (1, 2))
    assert low == 0
    assert high == pytest.approx(127 * STEP, rel=1e-6)
    kinds = {
        str(n.get_output_element_type(0).get_type_name())
        for n in model.get_ordered_ops()
        if n.get_type_name() == "Convert"
    }
    assert "u8" in kinds
    assert "i8" not in kinds


@pytest.mark.parametrize(
    "kinds", [[], ["LeakyRelu"], ["Neg"], ["Relu", "Neg"], ["Tanh", "MaxPool"]]
)
def test_what_may_be_negative_is_left_alone(kinds: list[str]) -> None:
    model = model_of(kinds)
    x = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    before = answers(model_of(kinds), x)
    assert read_unsigned(model) == 0
    np.testing.assert_array_equal(answers(model, x), before)


def test_every_reader_of_a_tensor_gets_the_unsigned_values() -> None:
    model = model_of(["Relu"], readers=3)
    assert read_unsigned(model) == 1
    x = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    for one, two in zip(answers(model, x), answers(model_of(["Relu"], readers=3), x), strict=True):
        assert np.abs(one - two).mean() < 0.05 * np.abs(two).mean()


def test_a_second_reading_changes_nothing() -> None:
    model = model_of(["Relu"])
    assert [read_unsigned(model), read_unsigned(model)] == [1, 0]


def test_a_model_without_int8_is_left_alone() -> None:
    source = ov.opset13.parameter([1, 4], ov.Type.f32, name="x")
    model = ov.Model([ov.opset13.relu(source)], [source], "plain")
    assert read_unsigned(model) == 0


@pytest.mark.parametrize(
    ("flags", "safe"),
    [
        ({"avx2", "avx512_vnni"}, True),
        ({"avx_vnni"}, True),
        ({"avx2", "avx512f"}, False),
        ((), False),
    ],
)
def test_a_processor_that_would_overflow_reads_them_signed(
    monkeypatch: pytest.MonkeyPatch, flags: Any, safe: bool
) -> None:
    monkeypatch.setattr(openvino_unsigned, "cpu_flags", lambda: frozenset(flags))
    assert unsigned_is_safe() is safe
