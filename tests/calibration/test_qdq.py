"""Q/DQ graphs: numbers, sizes, what an engine makes of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import assert_one_line
from helpers_qdq import (
    EVERYTHING,
    Net,
    exact_limits,
    int8_kinds,
    quantised,
    run,
    simulated,
)
from onnx import TensorProto, helper, numpy_helper

from vad_calibration import qdq
from vad_calibration.lint import lint_qdq
from vad_calibration.placement import QuantiseChoice, quantisable_layers
from vad_calibration.qdq import qdq_from_model, rounded_weight
from vad_runtime.contracts import ExportError

Nets = dict[str, tuple[Callable[[], tuple[Net, onnx.ModelProto]], dict[str, int]]]


def pictures() -> tuple[Net, onnx.ModelProto]:
    net = Net((4, 9, 9))
    a = net.weight("a", 6, 4, 3, 3)
    bias = net.weight("bias", 6)
    x = net.add("Relu", net.add("Conv", "clip", a, bias, pads=[1] * 4, name="conv"))
    x = net.add("Conv", x, net.weight("b", 8, 3, 3, 3), strides=[2, 2], group=2, name="grouped")
    return net, net.model(x)


def clips() -> tuple[Net, onnx.ModelProto]:
    net = Net((2, 6, 8, 8))
    a = net.weight("a", 4, 2, 3, 3, 3)
    x = net.add("Conv", "clip", a, net.weight("bias", 4), pads=[1] * 6, name="conv")
    return net, net.model(net.add("LeakyRelu", x, alpha=0.1))


def upwards() -> tuple[Net, onnx.ModelProto]:
    net = Net((3, 5, 5))
    a = net.weight("a", 3, 6, 3, 3)
    more: dict[str, Any] = {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}
    return net, net.model(net.add("ConvTranspose", "clip", a, name="deconv", **more))


def rows(transposed: int) -> tuple[Net, onnx.ModelProto]:
    net = Net((12,))
    weight = net.weight("a", *((7, 12) if transposed else (12, 7)))
    bias = net.weight("bias", 7)
    x = net.add("Gemm", "clip", weight, bias, transB=transposed, name="gemm")
    return net, net.model(net.add("Sigmoid", x))


def tokens() -> tuple[Net, onnx.ModelProto]:
    net = Net((5, 12))
    x = net.add("MatMul", "clip", net.weight("a", 12, 7), name="matmul")
    return net, net.model(net.add("Tanh", x))


NETS: Nets = {
    "Conv of pictures": (pictures, {"conv": 0, "grouped": 0}),
    "Conv of clips": (clips, {"conv": 0}),
    "ConvTranspose": (upwards, {"deconv": 1}),
    "Gemm": (lambda: rows(0), {"gemm": 1}),
    "Gemm with transB": (lambda: rows(1), {"gemm": 0}),
    "MatMul": (tokens, {"matmul": 1}),
}


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", NETS)
def test_the_graph_computes_what_rounding_in_numpy_gives(name: str) -> None:
    make, axes = NETS[name]
    net, model = make()
    inputs = net.sample()
    limits = exact_limits(model, inputs)
    [found] = run(qdq_from_model(model, list(axes), limits, EVERYTHING), inputs)
    [expected] = simulated(model, inputs, axes, limits)
    [exact] = run(model, inputs)
    assert close(found, expected)
    # Rounding to 8 bits is seen, and is no more than that.
    error = np.abs(found - exact).mean() / np.abs(exact).mean()
    assert 5e-4 < error < 0.03


@pytest.mark.parametrize("name", NETS)
def test_the_input_model_is_not_changed(name: str) -> None:
    net, model = NETS[name][0]()
    limits = exact_limits(model, net.sample())
    before = model.SerializeToString(deterministic=True)
    qdq_from_model(model, list(NETS[name][1]), limits, EVERYTHING)
    assert model.SerializeToString(deterministic=True) == before


def test_values_beyond_the_limit_are_clipped_to_it() -> None:
    net = Net((2, 1, 1))
    model = net.model(
        net.add(
            "Conv", "clip", net.constant("half", np.eye(2, dtype=np.float32)[..., None, None] / 2)
        )
    )
    made = qdq_from_model(model, ["conv0"], {"clip": 1.0}, EVERYTHING)
    values = np.array([[-5, 5], [-1, 0.3]], np.float32)[..., None, None]
    [found] = run(made, values)
    step = 1 / 127
    np.testing.assert_allclose(
        2 * found[..., 0, 0], [[-128 * step, 1], [-1, round(0.3 / step) * step]], 1e-6
    )


def test_weights_are_stored_in_int8_and_the_file_is_a_quarter() -> None:
    net = Net((64, 8, 8))
    bias = net.weight("bias", 64)
    x = net.add("Conv", "clip", net.weight("a", 64, 64, 3, 3), bias, pads=[1] * 4, name="conv")
    model = net.model(net.add("Conv", x, net.weight("b", 64, 64, 3, 3), name="last"))
    made = quantised(model, net.sample())
    assert made.ByteSize() < 0.27 * model.ByteSize()
    types = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert types["bias"] == TensorProto.FLOAT
    assert "a" not in types
    stored = [tensor for tensor in made.graph.initializer if list(tensor.dims) == [64, 64, 3, 3]]
    assert [tensor.data_type for tensor in stored] == [TensorProto.INT8] * 2
    assert {-127, 127} <= set(numpy_helper.to_array(stored[0]).ravel().tolist())
    assert numpy_helper.to_array(stored[0]).min() == -127
    onnx.checker.check_model(made, full_check=True)
    assert lint_qdq(made) == []


def test_a_weight_of_two_layers_is_stored_once_and_both_are_right(tmp_path: Path) -> None:
    net = Net((16, 8, 8))
    shared = net.weight("w", 16, 16, 3, 3)
    x = net.add("Relu", net.add("Conv", "clip", shared, pads=[1] * 4, name="first"))
    x = net.add("Relu", net.add("Conv", x, shared, pads=[1] * 4, name="second"))
    model = net.model(net.add("ConvTranspose", x, shared, pads=[1] * 4, name="across"))
    inputs = net.sample()
    limits = exact_limits(model, inputs)
    made = qdq_from_model(model, ["first", "second", "across"], limits, EVERYTHING)
    [expected] = simulated(model, inputs, {"first": 0, "second": 0, "across": 1}, limits)
    assert close(run(made, inputs)[0], expected)
    # The deconvolution has its scales along the other axis, so it needs the weight once more.
    stored = [t for t in made.graph.initializer if t.data_type == TensorProto.INT8 and t.dims]
    assert sum(list(tensor.dims) == [16, 16, 3, 3] for tensor in stored) == 2
    assert set(int8_kinds(made, (1, 16, 8, 8), tmp_path).values()) <= {"i8", "u8"}


def test_a_weight_that_a_float_layer_reads_too_stays() -> None:
    net = Net((4, 8, 8))
    shared = net.weight("w", 4, 4, 1, 1)
    x = net.add("Conv", "clip", shared, name="first")
    model = net.model(net.add("Conv", x, shared, name="second"))
    inputs = net.sample()
    limits = exact_limits(model, inputs)
    made = qdq_from_model(model, ["first"], limits, EVERYTHING)
    [expected] = simulated(model, inputs, {"first": 0}, limits)
    assert close(run(made, inputs)[0], expected)
    assert "w" in {tensor.name for tensor in made.graph.initializer}


def test_a_tensor_that_a_float_node_reads_too_reaches_it_unrounded() -> None:
    net = Net((4, 8, 8))
    x = net.add("Relu", "clip", to="shared")
    y = net.add("Conv", x, net.weight("w", 4, 4, 1, 1), name="conv")
    model = net.model(y, net.add("Sigmoid", x))
    inputs = net.sample()
    limits = exact_limits(model, inputs)
    made = qdq_from_model(model, ["conv"], limits, EVERYTHING)
    found, gate = run(made, inputs)
    assert close(found, simulated(model, inputs, {"conv": 0}, limits)[0])
    np.testing.assert_array_equal(gate, run(model, inputs)[1])


def test_an_output_of_the_graph_that_is_rounded_for_a_layer_leaves_it_unrounded() -> None:
    net = Net((4, 8, 8))
    x = net.add("Conv", "clip", net.weight("a", 4, 4, 1, 1), name="first", to="latent")
    y = net.add("Conv", x, net.weight("b", 4, 4, 1, 1), name="second")
    model = net.model(y, x)
    inputs = net.sample()
    limits = exact_limits(model, inputs)
    made = qdq_from_model(model, ["second"], limits, EVERYTHING)
    assert [output.name for output in made.graph.output] == [y, "latent"]
    np.testing.assert_array_equal(run(made, inputs)[1], run(model, inputs)[1])


def branches() -> tuple[Net, onnx.ModelProto]:
    """All that rounding can move through, between convolutions."""
    net = Net((4, 8, 8))
    a = net.add("Relu", net.add("Conv", "clip", net.weight("a", 4, 4, 1, 1), name="a1"))
    b = net.add("Conv", "clip", net.weight("b", 4, 4, 3, 3), pads=[1] * 4, name="b1")
    x = net.add("Concat", net.add("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2]),
                net.add("Slice", b, *(net.constant(n, v) for n, v in
                                      {"from": [0, 0], "to": [4, 4], "along": [2, 3]}.items())),
                axis=1)  # fmt: skip
    x = net.add("Pad", x, net.constant("pads", [0, 0, 1, 1, 0, 0, 1, 1]))
    x = net.add("Transpose", x, perm=[0, 1, 3, 2])
    x = net.add("Conv", x, net.weight("c", 6, 8, 3, 3), name="c1")
    x = net.add("Reshape", net.add("Relu", x), net.constant("flat", [0, 6, 16]))
    x = net.add("Conv", x, net.weight("d", 3, 6, 1), name="d1")
    return net, net.model(x)


def test_moving_the_rounding_up_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    net, model = branches()
    inputs = net.sample(8)
    # Tight ranges, so that values are clipped in some branches.
    limits = {name: 0.6 * limit for name, limit in exact_limits(model, inputs).items()}
    axes = dict.fromkeys(["a1", "b1", "c1", "d1"], 0)
    moved = qdq_from_model(model, list(axes), limits, EVERYTHING)
    monkeypatch.setattr("vad_calibration.placement._MOVES", ())
    plain = qdq_from_model(model, list(axes), limits, EVERYTHING)
    count = [[n.op_type for n in m.graph.node].count("QuantizeLinear") for m in (moved, plain)]
    assert count == [10, 3]
    np.testing.assert_array_equal(run(moved, inputs)[0], run(plain, inputs)[0])
    assert close(run(plain, inputs)[0], simulated(model, inputs, axes, limits)[0])
    assert lint_qdq(moved) == []


@pytest.mark.parametrize("downsample", [False, True])
def test_a_residual_addition_is_rounded_on_one_side_only(downsample: bool, tmp_path: Path) -> None:
    net = Net((16, 8, 8))
    stem = net.add("Relu", net.add("Conv", "clip", net.weight("aw", 16, 16, 1, 1), name="a"))
    x = net.add("Conv", stem, net.weight("bw", 16, 16, 3, 3), pads=[1] * 4, name="b")
    side, noisy = stem, stem
    if downsample:
        side = net.add("Conv", stem, net.weight("cw", 16, 16, 1, 1), name="c")
        noisy = x
    total = net.add("Relu", net.add("Add", x, side, name="sum"))
    model = net.model(net.add("Conv", total, net.weight("dw", 8, 16, 1, 1), name="d"))
    inputs = net.sample()
    limits = exact_limits(model, inputs)
    axes = dict.fromkeys([layer.name for layer in quantisable_layers(model, EVERYTHING)], 0)
    made = qdq_from_model(model, list(axes), limits, EVERYTHING)
    [expected] = simulated(model, inputs, axes, limits, {"sum": noisy})
    assert close(run(made, inputs)[0], expected)
    assert set(int8_kinds(made, (1, 16, 8, 8), tmp_path).values()) <= {"i8", "u8"}


def test_openvino_computes_every_layer_of_a_decoder_in_int8(tmp_path: Path) -> None:
    # As many channels everywhere: zero points that several weights share would look the same.
    net = Net((1, 8, 32, 32))
    one = {"pads": [1] * 6}
    halved = one | {"strides": [2, 2, 2]}
    x = net.add("Conv", "clip", net.weight("w0", 16, 1, 3, 3, 3), net.weight("b0", 16), **halved)
    x = net.add("Conv", net.add("Relu", x), net.weight("w1", 16, 16, 3, 3, 3), **one)
    x = net.add("MaxPool", net.add("Relu", x), kernel_shape=[2, 2, 2], strides=[2, 2, 2])
    x = net.add("Relu", net.add("Conv", x, net.weight("w2", 16, 16, 3, 3, 3), **one))
    doubled = halved | {"output_padding": [1, 1, 1]}
    for i in (3, 4):
        weight, bias = net.weight(f"w{i}", 16, 16, 3, 3, 3), net.weight(f"b{i}", 16)
        x = net.add("Relu", net.add("ConvTranspose", x, weight, bias, **doubled))
    model = net.model(net.add("Conv", x, net.weight("w5", 1, 16, 3, 3, 3), **one))
    made = quantised(model, net.sample(1))
    kinds = int8_kinds(made, (1, 1, 8, 32, 32), tmp_path)
    assert sorted(name.split()[0] for name in kinds) == ["Convolution"] * 4 + ["Deconvolution"] * 2
    assert set(kinds.values()) <= {"i8", "u8"}
    assert "f32" in int8_kinds(model, (1, 1, 8, 32, 32), tmp_path).values()


def test_names_that_are_taken_are_not_used_again() -> None:
    net = Net((4, 8, 8))
    a = net.weight("conv_weight", 4, 4, 1, 1)
    x = net.add("Conv", "clip", a, to="x", name="conv")
    scaled = net.add("Mul", "clip", net.constant("clip_scale", np.float32(2)), to="clip_int8")
    more = net.add("Conv", scaled, net.weight("b", 4, 4, 1, 1), to="conv_weight_axis0_int8")
    y = net.add("Add", net.add("Conv", x, a, to="z", name="quantise_clip"), more)
    model = net.model(y)
    inputs = net.sample()
    limits = exact_limits(model, inputs)
    axes = {"conv": 0, "quantise_clip": 0, more: 0}
    noisy = {y: more}
    made = qdq_from_model(model, list(axes), limits, EVERYTHING)
    onnx.checker.check_model(made, full_check=True)
    # Of the two convolutions that are added the later in the graph takes the sum over.
    assert close(run(made, inputs)[0], simulated(model, inputs, axes, limits, noisy)[0])


def test_a_weight_that_a_branch_reads_stays() -> None:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [4, 4, 1, 1])],
    )
    net = Net((4, 8, 8))
    weight = net.weight("w", 4, 4, 1, 1)
    x = net.add("Conv", "clip", weight, name="conv")
    yes = net.constant("yes", np.array(True))
    copied = net.add("If", yes, then_branch=inner, else_branch=inner)
    model = net.model(x, copied)
    inputs = net.sample()
    made = qdq_from_model(model, ["conv"], exact_limits(model, inputs), EVERYTHING)
    np.testing.assert_array_equal(run(made, inputs)[1], run(model, inputs)[1])


def test_the_result_is_the_same_file_every_time() -> None:
    net, model = branches()
    texts = {quantised(model, net.sample()).SerializeToString() for _ in range(3)}
    assert len(texts) == 1


# -- weights -----------------------------------------------------------------------------------


def test_each_output_channel_of_a_weight_has_a_scale_of_its_own() -> None:
    weight = np.random.default_rng(1).normal(0, 1, (3, 4, 5)).astype(np.float32)
    weight[:, 2] *= 100
    found, scale = rounded_weight(weight, 1)
    assert (found.dtype, found.shape, scale.dtype, scale.shape) == (np.int8, (3, 4, 5), "f4", (4,))
    np.testing.assert_allclose(scale, np.abs(weight).max(axis=(0, 2)) / 127, 1e-6)
    assert np.abs(found).max(axis=(0, 2)).tolist() == [127] * 4
    back = found * scale[:, None]
    assert (np.abs(back - weight) <= 0.5001 * scale[:, None]).all()


def test_channels_without_weights_and_with_tiny_ones_have_a_scale_that_is_a_number() -> None:
    weight = np.zeros((4, 3), np.float32)
    weight[1] = 1e-44  # so small that a 127th of it is no number any more
    weight[2] = 1e-30
    weight[3] = 3e38
    found, scale = rounded_weight(weight, 0)
    assert np.isfinite(scale).all()
    assert (scale > 0).all()
    assert scale[0] == 1
    assert found[0].tolist() == found[1].tolist() == [0, 0, 0]
    assert found[2].tolist() == found[3].tolist() == [127] * 3


# -- errors ------------------------------------------------------------------------------------


@pytest.fixture
def plain() -> onnx.ModelProto:
    net = Net((4, 8, 8))
    return net.model(net.add("Conv", "clip", net.weight("w", 4, 4, 1, 1), name="conv"))


def test_a_layer_that_is_not_there_is_named(plain: onnx.ModelProto) -> None:
    with pytest.raises(ExportError) as error:
        qdq_from_model(plain, ["conv", "cnov"], {"clip": 1.0}, EVERYTHING)
    assert_one_line(error.value, "no layer cnov", "conv")


@pytest.mark.parametrize("limits", [{}, {"clip": 0.0}, {"clip": np.nan}, {"clip": np.inf}])
def test_a_tensor_without_a_range_is_named(
    plain: onnx.ModelProto, limits: dict[str, float]
) -> None:
    with pytest.raises(ExportError) as error:
        qdq_from_model(plain, ["conv"], limits, EVERYTHING)
    assert_one_line(error.value, "clip", "vad-export calibrate")


def test_weights_that_are_not_finite_are_named(plain: onnx.ModelProto) -> None:
    broken = np.full((4, 4, 1, 1), np.nan, np.float32)
    plain.graph.initializer[0].CopyFrom(numpy_helper.from_array(broken, "w"))
    with pytest.raises(ExportError) as error:
        qdq_from_model(plain, ["conv"], {"clip": 1.0}, EVERYTHING)
    assert_one_line(error.value, "weights of conv", "not all finite")


def test_an_old_opset_is_refused_with_the_way_out(plain: onnx.ModelProto) -> None:
    plain.opset_import[0].version = 12
    with pytest.raises(ExportError) as error:
        qdq_from_model(plain, ["conv"], {"clip": 1.0}, EVERYTHING)
    assert_one_line(error.value, "opset 12", "Export it with opset 18")


def test_a_choice_that_leaves_the_layer_out_does_not_quantise_it(plain: onnx.ModelProto) -> None:
    with pytest.raises(ExportError):
        qdq_from_model(plain, ["conv"], {"clip": 1.0}, QuantiseChoice(ops=("Gemm",)))


def test_onnxruntime_takes_the_graph_with_its_optimiser_on() -> None:
    net, model = branches()
    made, inputs = quantised(model, net.sample()), net.sample()
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    [found] = session.run(None, {"clip": inputs})
    [expected] = run(made, inputs)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    assert qdq.LEVELS == 127
