"""Which layers are quantised, and where their activations are rounded."""

import numpy as np
import onnx
import pytest
from helpers import assert_one_line
from helpers_qdq import EVERYTHING, Net, exact_limits, quantised, run
from onnx import helper

from vad_calibration.placement import (
    Layer,
    QuantiseChoice,
    activation_tensors,
    quantisable_layers,
    roundings,
)
from vad_calibration.qdq import qdq_from_model
from vad_runtime.contracts import ExportError


def layers_of(model: onnx.ModelProto, choice: QuantiseChoice = EVERYTHING) -> dict[str, Layer]:
    return {layer.name: layer for layer in quantisable_layers(model, choice)}


def places(
    model: onnx.ModelProto, choice: QuantiseChoice = EVERYTHING
) -> dict[str, tuple[str, tuple[str, ...]]]:
    layers = quantisable_layers(model, choice)
    return {r.tensor: (r.like, r.readers) for r in roundings(model, layers, choice)}


@pytest.fixture
def mixed() -> onnx.ModelProto:
    """A convolution, a deconvolution, a Gemm and a MatMul."""
    net = Net((4, 8, 8))
    x = net.add("Conv", "clip", net.weight("a", 6, 4, 3, 3), pads=[1] * 4, name="conv")
    x = net.add("Relu", x)
    b = net.weight("b", 6, 5, 2, 2)
    x = net.add("ConvTranspose", x, b, strides=[2, 2], name="deconv")
    x = net.add("ReduceMean", x, net.constant("over", [2, 3]), keepdims=0)
    x = net.add("Gemm", x, net.weight("c", 7, 5), transB=1, name="gemm")
    return net.model(net.add("MatMul", x, net.weight("d", 7, 3), name="matmul"))


def test_every_layer_with_constant_weights_is_found_with_its_work_and_its_axis(
    mixed: onnx.ModelProto,
) -> None:
    found = layers_of(mixed)
    assert {name: (layer.op, layer.axis) for name, layer in found.items()} == {
        "conv": ("Conv", 0),
        "deconv": ("ConvTranspose", 1),
        "gemm": ("Gemm", 0),
        "matmul": ("MatMul", 1),
    }
    # Multiplications, counted by hand: outputs x weights each; a deconvolution: inputs x weights.
    assert found["conv"].work == (6 * 8 * 8) * (4 * 3 * 3)
    assert found["deconv"].work == (6 * 8 * 8) * (5 * 2 * 2)
    assert found["gemm"].work == 7 * 5
    assert found["matmul"].work == 7 * 3
    assert found["conv"].weights == 6 * 4 * 9


def test_operators_are_left_alone_unless_they_are_chosen(mixed: onnx.ModelProto) -> None:
    everything = ["conv", "deconv", "gemm", "matmul"]
    assert list(layers_of(mixed, QuantiseChoice(least_share=0))) == everything
    assert list(layers_of(mixed, QuantiseChoice(ops=("Gemm",), least_share=0))) == ["gemm"]


def test_a_dense_layer_that_does_next_to_nothing_is_left_alone(mixed: onnx.ModelProto) -> None:
    # 35 and 21 of 22000 multiplications, but 35 and 21 of 392 weights.
    assert "gemm" in layers_of(mixed, QuantiseChoice(least_share=0.05))
    assert "gemm" not in layers_of(mixed, QuantiseChoice(least_share=0.1))
    # A convolution stays whatever its share is.
    assert list(layers_of(mixed, QuantiseChoice(least_share=1))) == ["conv", "deconv"]


def test_a_small_convolution_of_one_position_counts_as_a_dense_layer() -> None:
    # Squeeze and excitation: what all positions have in common scales the channels.
    net = Net((4, 8, 8))
    x = net.add("Conv", "clip", net.weight("a", 16, 4, 3, 3), pads=[1] * 4, name="picture")
    mean = net.add("ReduceMean", x, net.constant("over", [2, 3]), keepdims=1)
    gate = net.add("Conv", mean, net.weight("b", 16, 16, 1, 1), name="one position")
    model = net.model(net.add("Mul", x, net.add("Sigmoid", gate)))
    assert list(layers_of(model)) == ["picture", "one position"]
    assert list(layers_of(model, QuantiseChoice(least_share=0.5))) == ["picture"]


def test_a_convolution_of_zeros_is_a_layer() -> None:
    # As before training behind a BatchNorm whose scale begins at 0.
    net = Net((3, 8, 8))
    zeros = net.constant("zeros", np.zeros((4, 3, 1, 1), np.float32))
    assert list(layers_of(net.model(net.add("Conv", "clip", zeros, name="conv")))) == ["conv"]


def test_layers_that_read_the_clip_can_be_left_alone() -> None:
    net = Net((3, 8, 8))
    small = net.add("Mul", "clip", net.constant("scale", [0.5]))
    a = net.add("Conv", small, net.weight("a", 4, 3, 3, 3), pads=[1] * 4, name="reads the clip")
    b = net.add("Relu", net.add("Conv", a, net.weight("b", 4, 4, 1, 1), name="second"))
    # The shape of the clip reaches a later layer too, but what the clip shows does not.
    flat = net.add("Reshape", b, net.add("Concat", *batch_and_rest(net), axis=0))
    c = net.add("MatMul", flat, net.weight("c", 4 * 8 * 8, 2), name="third")
    model = net.model(c)
    assert list(layers_of(model)) == ["reads the clip", "second", "third"]
    later = QuantiseChoice(ops=EVERYTHING.ops, least_share=0, first=False)
    assert list(layers_of(model, later)) == ["second", "third"]


def batch_and_rest(net: Net) -> tuple[str, str]:
    return net.add("Shape", "clip", start=0, end=1), net.constant("rest", [-1])


def test_nodes_without_a_name_are_given_one_that_no_other_has() -> None:
    net = Net((3, 8, 8))
    a = net.add("Conv", "clip", net.weight("a", 4, 3, 1, 1), name="Conv_1")
    b = net.add("Conv", a, net.weight("b", 4, 4, 1, 1), name="")
    c = net.add("Conv", b, net.weight("c", 4, 4, 1, 1), name="Conv_1")
    model = net.model(net.add("Conv", c, net.weight("d", 4, 4, 1, 1), name="Conv_2"))
    names = list(layers_of(model))
    assert len(set(names)) == 4
    assert names[0] == "Conv_1"
    assert names[3] == "Conv_2"
    assert list(layers_of(model)) == names


def test_a_constant_of_the_kind_constant_is_a_weight_too() -> None:
    net = Net((3, 8, 8))
    held = helper.make_tensor("value", onnx.TensorProto.FLOAT, [2, 3, 1, 1], [0.5] * 6)
    weight = net.add("Constant", value=held)
    model = net.model(net.add("Conv", "clip", weight, name="conv"))
    assert list(layers_of(model)) == ["conv"]
    made = quantised(model, net.sample())
    assert [node.op_type for node in made.graph.node].count("Constant") == 0
    assert run(made, net.sample())[0].shape == (2, 2, 8, 8)


def test_weights_that_are_computed_or_grouped_deconvolutions_are_no_layers() -> None:
    net = Net((4, 8, 8))
    a = net.add("Conv", "clip", net.weight("a", 4, 4, 1, 1), name="plain")
    b = net.add("ConvTranspose", a, net.weight("b", 4, 2, 1, 1), group=2, name="grouped")
    flat = net.add("Flatten", b)
    c = net.add("MatMul", flat, net.add("Transpose", flat, perm=[1, 0]), name="no weights")
    assert list(layers_of(net.model(c))) == ["plain"]


def test_a_graph_with_an_operator_that_nobody_knows_can_be_placed() -> None:
    net = Net((4, 8, 8))
    a = net.add("Conv", "clip", net.weight("a", 4, 4, 1, 1), name="before")
    odd = net.add("Mystery", a, domain="private")
    b = net.add("Conv", odd, net.weight("b", 4, 4, 1, 1), name="after")
    found = layers_of(net.model(b))
    assert found["before"].work > 0
    assert found["after"].work == 0
    made = qdq_from_model(
        net.model(b), ["before", "after"], {"clip": 1.0, odd: 1.0}, QuantiseChoice(least_share=0)
    )
    assert [n.op_type for n in made.graph.node].count("QuantizeLinear") == 2


def test_an_operator_that_the_standard_does_not_have_does_not_stop_the_placing() -> None:
    net = Net((4, 8, 8))
    a = net.add("Conv", "clip", net.weight("a", 4, 4, 1, 1), name="before")
    model = net.model(a)
    model.graph.node[0].output[0] = "inner"
    model.graph.node.append(helper.make_node("NoSuchOperator", ["inner"], [a], "odd"))
    assert list(layers_of(model)) == ["before"]


def test_nothing_to_quantise_is_one_line_that_says_what_there_is() -> None:
    net = Net((4, 8, 8))
    with pytest.raises(ExportError) as error:
        quantisable_layers(net.model(net.add("Relu", "clip")), QuantiseChoice())
    assert_one_line(error.value, "Conv, ConvTranspose, Gemm, MatMul", "it has Relu", "fp16 or bf16")


def test_a_graph_that_is_quantised_already_is_refused(mixed: onnx.ModelProto) -> None:
    net = Net((4, 8, 8))
    stored = net.constant("stored", np.ones((4, 4, 1, 1), np.int8))
    weight = net.add("DequantizeLinear", stored, net.constant("scale", np.float32(0.1)))
    others = [quantised(mixed, net.sample()), net.model(net.add("Conv", "clip", weight))]
    for model in others:
        with pytest.raises(ExportError) as error:
            quantisable_layers(model, QuantiseChoice())
        assert_one_line(error.value, "quantised already", "Give the fp32 graph")


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"ops": ("Relu",)}, "Relu"), ({"least_share": 1.5}, "1.5"), ({"least_share": -1}, "-1")],
)
def test_a_choice_that_makes_no_sense_is_refused(changes: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        QuantiseChoice(**changes)  # type: ignore[arg-type]  # on purpose


# -- where activations are rounded -------------------------------------------------------------


def test_rounding_moves_up_through_what_only_picks_values() -> None:
    net = Net((4, 8, 8))
    a = net.add("Relu", net.add("Conv", "clip", net.weight("a", 4, 4, 1, 1)), to="a_out")
    pooled = net.add("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2], to="pooled")
    padded = net.add("Pad", pooled, net.constant("pads", [0, 0, 1, 1, 0, 0, 1, 1]), to="padded")
    model = net.model(net.add("Conv", padded, net.weight("b", 4, 4, 3, 3), to="b_out"))
    found = places(model)
    assert found["padded"] == ("padded", ("b_out",))
    assert found["pooled"] == ("padded", ("padded",))
    assert found["a_out"] == ("padded", ("pooled",))


def test_rounding_does_not_move_above_padding_with_another_number_than_zero() -> None:
    net = Net((4, 8, 8))
    a = net.add("Relu", "clip", to="a_out")
    pads = net.constant("pads", [0, 0, 1, 1, 0, 0, 1, 1])
    one = net.constant("one", np.float32(1))
    padded = net.add("Pad", a, pads, one, to="padded")
    model = net.model(net.add("Conv", padded, net.weight("b", 4, 4, 3, 3), to="b_out"))
    assert list(places(model)) == ["padded"]


def test_rounding_stays_below_a_tensor_that_others_read_in_floating_point() -> None:
    net = Net((4, 8, 8))
    a = net.add("Relu", "clip", to="a_out")
    pooled = net.add("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2], to="pooled")
    b = net.add("Conv", pooled, net.weight("b", 4, 4, 3, 3), to="b_out")
    # Read by a sigmoid, or an output of the graph itself.
    assert list(places(net.model(b, net.add("Sigmoid", a)))) == ["pooled"]
    assert list(places(net.model(b, a))) == ["pooled"]


def siblings() -> tuple[Net, onnx.ModelProto]:
    """Return a pool that two convolutions read."""
    net = Net((4, 8, 8))
    a = net.add("Relu", net.add("Conv", "clip", net.weight("a", 4, 4, 1, 1)), to="a_out")
    pooled = net.add("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2], to="pooled")
    one = net.add("Conv", pooled, net.weight("b", 4, 4, 3, 3), to="one")
    return net, net.model(one, net.add("Conv", pooled, net.weight("c", 4, 4, 3, 3), to="two"))


def test_a_layer_that_stays_in_floating_point_sees_no_rounded_values() -> None:
    net, model = siblings()
    x = net.sample()
    limits = dict.fromkeys(exact_limits(model, x), 0.05)  # so tight that rounding shows
    made = qdq_from_model(model, ["one"], limits, EVERYTHING)
    whole, half = run(model, x), run(made, x)
    assert np.abs(half[0] - whole[0]).max() > 0.01
    np.testing.assert_array_equal(half[1], whole[1])


def test_rounding_moves_up_where_every_reader_takes_it() -> None:
    found = places(siblings()[1])
    assert found["pooled"] == ("pooled", ("one", "two"))
    assert found["a_out"] == ("pooled", ("pooled",))


def test_a_pool_of_a_tensor_that_is_rounded_anyway_has_its_range() -> None:
    # As in Inception: a joined tensor goes to convolutions and to a pool in front of another.
    net = Net((4, 8, 8))
    parts = [net.add("Relu", "clip", to="p"), net.add("Sigmoid", "clip", to="q")]
    joined = net.add("Concat", *parts, axis=1, to="joined")
    one = net.add("Conv", joined, net.weight("b", 4, 8, 1, 1), to="one")
    pooled = net.add("MaxPool", joined, kernel_shape=[1, 1], to="pooled")
    again = net.add("MaxPool", pooled, kernel_shape=[1, 1], to="again")
    two = net.add("Conv", pooled, net.weight("c", 4, 8, 1, 1), to="two")
    model = net.model(one, two, net.add("Conv", again, net.weight("d", 4, 8, 1, 1), to="three"))
    found = places(model)
    assert found["joined"] == ("joined", ("one", "pooled"))
    assert found["pooled"] == ("joined", ("two", "again"))
    assert found["again"] == ("joined", ("three",))
    assert found["p"] == found["q"] == ("joined", ("joined",))
    # Rounding a second time on the same grid changes nothing.
    x = net.sample()
    made = quantised(model, x)
    rounded, second = run(made, x, "pooled", "pooled_rounded")[-2:]
    np.testing.assert_array_equal(rounded, second)


def residual(*, downsample: bool, spread: bool = False) -> tuple[Net, onnx.ModelProto]:
    net = Net((4, 8, 8))
    stem = net.add(
        "Relu", net.add("Conv", "clip", net.weight("a_w", 4, 4, 1, 1), to="a"), to="stem"
    )
    main = net.add("Relu", net.add("Conv", stem, net.weight("b_w", 4, 4, 1, 1), to="b"), to="mid")
    main = net.add("Conv", main, net.weight("c_w", 4, 4, 1, 1), to="c")
    side = stem
    if downsample:
        side = net.add("Conv", stem, net.weight("d_w", 4, 4, 1, 1), to="d")
    if spread:
        side = net.add("ReduceMean", stem, net.constant("over", [2, 3]), keepdims=1, to="mean")
    total = net.add("Relu", net.add("Add", main, side, to="sum"), to="out")
    return net, net.model(net.add("Conv", total, net.weight("e_w", 4, 4, 1, 1), to="e"))


def test_the_other_input_of_a_residual_addition_is_rounded_too() -> None:
    _, model = residual(downsample=False)
    assert places(model)["stem"] == ("stem", ("b", "sum"))
    assert "c" not in places(model)
    without = QuantiseChoice(ops=EVERYTHING.ops, least_share=0, residual=False)
    assert places(model, without)["stem"] == ("stem", ("b",))


def test_of_two_convolutions_that_are_added_the_later_one_takes_the_sum_over() -> None:
    _, model = residual(downsample=True)
    assert places(model)["c"] == ("c", ("sum",))
    assert "d" not in places(model)


def test_an_addition_that_spreads_one_input_over_the_other_is_left_alone() -> None:
    _, model = residual(downsample=False, spread=True)
    assert "mean" not in places(model)
    assert places(model)["stem"] == ("stem", ("b",))


def test_ranges_are_known_whichever_layers_the_search_puts_back() -> None:
    net, model = residual(downsample=True)
    limits = exact_limits(model, net.sample())
    names = [layer.name for layer in quantisable_layers(model, EVERYTHING)]
    for left in names:
        made = qdq_from_model(model, set(names) - {left}, limits, EVERYTHING)
        assert run(made, net.sample())[0].shape == (2, 4, 8, 8)


def test_the_tensors_to_measure_are_named_once_and_are_in_the_graph(mixed: onnx.ModelProto) -> None:
    tensors = activation_tensors(mixed, quantisable_layers(mixed, EVERYTHING), EVERYTHING)
    assert len(set(tensors)) == len(tensors) == 4
    assert tensors[0] == "clip"
    made = {name for node in mixed.graph.node for name in node.output}
    assert set(tensors[1:]) <= made
