"""The rows of a grey picture as channels: the same products, four at a time."""

from typing import Any

import numpy as np
import onnx
import pytest
from helpers_qdq import EVERYTHING, Net, exact_limits, run

from vad_calibration import qdq
from vad_calibration.lint import lint_qdq
from vad_calibration.placement import QuantiseChoice, quantisable_layers
from vad_calibration.qdq import qdq_from_model
from vad_calibration.rows import stack_rows
from vad_runtime.contracts.manifest import COPY

SAME = {"pads": [1] * 6}


@pytest.fixture(autouse=True)
def _not_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """`qdq_from_model` shall leave it to the tests."""
    monkeypatch.setattr(qdq, "stack_rows", lambda _: 0)


def made_of(
    sizes: tuple[int, ...], weight: tuple[int, ...], **more: Any
) -> tuple[Net, onnx.ModelProto]:
    """Return a net of one convolution, and its Q/DQ graph."""
    channels = more.pop("channels", weight[1])
    net = Net((channels, *sizes))
    inputs = ["clip", net.weight("w", *weight)]
    if more.pop("biased", False):
        inputs.append(net.weight("b", weight[0]))
    x = net.add("Relu", net.add("Conv", *inputs, name="conv", **more))
    return net, quantised(net, net.model(x))


def quantised(net: Net, model: onnx.ModelProto) -> onnx.ModelProto:
    limits = exact_limits(model, net.sample())
    names = [layer.name for layer in quantisable_layers(model, EVERYTHING)]
    return qdq_from_model(model, names, limits, EVERYTHING)


@pytest.mark.parametrize(
    ("sizes", "weight", "attributes"),
    [
        ((4, 6, 8), (16, 1, 3, 3, 3), SAME),
        ((4, 6, 8), (17, 1, 3, 5, 3), {}),
        ((4, 6, 8), (16, 1, 1, 3, 1), {"pads": [0, 1, 0, 0, 0, 0]}),
        (
            (4, 9, 9),
            (16, 1, 3, 7, 7),
            {"strides": [1, 2, 2], "pads": [1, 3, 3, 1, 3, 3], "kernel_shape": [3, 7, 7]},
        ),
        ((6, 8), (16, 1, 3, 3), {"pads": [1] * 4, "strides": [2, 1]}),
        ((6, 8), (16, 1, 2, 3), {"auto_pad": "VALID"}),
        ((9, 8), (16, 1, 8, 3), {"dilations": [1, 1]}),
    ],
)
@pytest.mark.parametrize("biased", [False, True])
def test_rows_of_a_grey_picture_become_channels_and_the_answer_stays(
    sizes: tuple[int, ...], weight: tuple[int, ...], attributes: dict[str, Any], biased: bool
) -> None:
    net, model = made_of(sizes, weight, biased=biased, **attributes)
    for count in (1, 3):
        before = run(model, net.sample(count))[0]
        stacked = onnx.ModelProto.FromString(model.SerializeToString())
        assert stack_rows(stacked) == 1
        onnx.checker.check_model(stacked, full_check=True)
        after = run(stacked, net.sample(count))[0]
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-6 * np.abs(before).max())
    assert lint_qdq(stacked) == []
    assert stack_rows(stacked) == 0, "a second time there is nothing left"
    kinds = [node.op_type for node in stacked.graph.node]
    assert kinds.count("Conv") == 2
    copy = next(node for node in stacked.graph.node if node.name.startswith(COPY))
    assert copy.input[0] == "clip"
    (wide,) = [
        t
        for t in stacked.graph.initializer
        if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == len(weight)
    ]
    assert wide.dims[1] % 4 == 0
    assert wide.dims[len(sizes)] == 1


@pytest.mark.parametrize(
    ("sizes", "weight", "attributes"),
    [
        pytest.param((4, 6, 8), (16, 3, 3, 3, 3), SAME, id="three colours"),
        pytest.param((4, 6, 8), (8, 1, 3, 3, 3), SAME, id="few outputs"),
        pytest.param((4, 6, 8), (16, 1, 3, 1, 3), {}, id="one row"),
        pytest.param((12, 8), (16, 1, 9, 3), {}, id="nine rows"),
        pytest.param((6, 8), (16, 1, 3, 3), {"dilations": [2, 2]}, id="a dilation"),
        pytest.param((6, 8), (16, 1, 3, 3), {"auto_pad": "SAME_UPPER"}, id="padding by size"),
        pytest.param((6, 8), (16, 1, 3, 3), {"group": 16, "channels": 16}, id="depthwise"),
        pytest.param((8,), (16, 1, 3), {}, id="one axis"),
    ],
)
def test_other_convolutions_stay_as_they_are(
    sizes: tuple[int, ...], weight: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    _, model = made_of(sizes, weight, **attributes)
    before = model.SerializeToString(deterministic=True)
    assert stack_rows(model) == 0
    assert model.SerializeToString(deterministic=True) == before


def test_a_deconvolution_of_one_channel_stays_as_it_is() -> None:
    net = Net((1, 6, 8))
    model = quantised(
        net, net.model(net.add("ConvTranspose", "clip", net.weight("a", 1, 16, 3, 3)))
    )
    assert stack_rows(model) == 0


def test_rounded_values_that_somebody_else_reads_stay_where_they_are() -> None:
    net = Net((1, 6, 8))
    both = [
        net.add("Conv", "clip", net.weight(name, 16, 1, 3, 3), name=name + "_conv")
        for name in ("a", "b")
    ]
    model = quantised(net, net.model(*both))
    assert stack_rows(model) == 0


def test_a_layer_in_floating_point_stays_as_it_is() -> None:
    net = Net((1, 6, 8))
    x = net.add("Conv", "clip", net.weight("a", 16, 1, 3, 3), name="first")
    model = net.model(net.add("Conv", x, net.weight("b", 16, 16, 3, 3), name="second"))
    limits = exact_limits(model, net.sample())
    assert stack_rows(qdq_from_model(model, ["second"], limits, EVERYTHING)) == 0


def test_quantising_stacks_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdq, "stack_rows", stack_rows)
    _, model = made_of((4, 6, 8), (16, 1, 3, 3, 3))
    assert sum(node.name.startswith(COPY) for node in model.graph.node) == 1


def test_convolutions_that_copy_pixels_are_not_quantised() -> None:
    """INT8 has 127 steps for the 255 of a pixel."""
    kernels = np.zeros((4, 1, 3, 1), np.float32)
    kernels[range(3), 0, range(3)] = 1
    two, half = kernels.copy(), kernels / 2
    two[3, 0, :2] = 1
    names = {}
    for name, weight in (("copy", kernels), ("sum", two), ("half", half)):
        net = Net((1, 6, 8))
        x = net.add("Conv", "clip", net.constant("k", weight), name="moved")
        model = net.model(net.add("Conv", x, net.weight("a", 16, 4, 3, 3), name="proper"))
        choice = QuantiseChoice(least_share=0)
        names[name] = [layer.name for layer in quantisable_layers(model, choice)]
        late = QuantiseChoice(least_share=0, first=False)
        # What reads the clip through copies alone is still the first layer.
        if name == "copy":
            with pytest.raises(Exception, match="no layer"):
                quantisable_layers(model, late)
    assert names == {"copy": ["proper"], "sum": ["moved", "proper"], "half": ["moved", "proper"]}
    net = Net((1, 6, 8))
    bias = net.weight("bias", 4)
    model = net.model(net.add("Conv", "clip", net.constant("k", kernels), bias, name="biased"))
    assert [layer.name for layer in quantisable_layers(model, EVERYTHING)] == ["biased"]
