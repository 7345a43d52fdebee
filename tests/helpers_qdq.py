"""Small graphs for tests of quantisation. Import it as `helpers_qdq`.

::

    net = Net((8, 16, 16))                        # input `clip`, shape (N, 8, 16, 16), float32
    x = net.add("Conv", "clip", net.weight("w", 4, 8, 3, 3), pads=[1] * 4)
    model = net.model(net.add("Relu", x))
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from vad_calibration.placement import QuantiseChoice, activation_tensors, quantisable_layers
from vad_calibration.qdq import qdq_from_model
from vad_runtime.contracts.manifest import COPY

Array = npt.NDArray[np.float32]

EVERYTHING = QuantiseChoice(least_share=0)
"""A choice that leaves no layer out."""


class Net:
    """A graph in the making.

    Args:
        shape: Of one input `clip`, without the batch.
        seed: For the weights.
    """

    def __init__(self, shape: Sequence[int], *, seed: int = 0) -> None:
        self._shape = list(shape)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[TensorProto] = []
        self._rng = np.random.default_rng(seed)

    def weight(self, name: str, *shape: int, scale: float = 0.1) -> str:
        """Add normally distributed weights, each output channel (axis 0) of another size."""
        value = self._rng.normal(0, scale, shape)
        value *= np.linspace(0.5, 2, shape[0]).reshape([-1] + [1] * (len(shape) - 1))
        return self.constant(name, value.astype(np.float32))

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        """Add an initialiser."""
        self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op: str, *inputs: str, to: str | None = None, **more: Any) -> str:
        """Add a node that is called as its output, and return that."""
        out = to or f"{op.lower()}{len(self._nodes)}"
        name = more.pop("name", out)
        self._nodes.append(helper.make_node(op, list(inputs), [out], name=name, **more))
        return out

    def model(self, *outputs: str, opset: int = 18) -> onnx.ModelProto:
        """Return the graph with these outputs; their shapes are inferred."""
        made = helper.make_model(
            helper.make_graph(
                self._nodes,
                "net",
                [helper.make_tensor_value_info("clip", TensorProto.FLOAT, ["N", *self._shape])],
                [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
                self._constants,
            ),
            opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("private", 1)],
            ir_version=9,
        )
        made = onnx.shape_inference.infer_shapes(made)
        del made.graph.value_info[:]
        return made

    def sample(self, count: int = 2) -> Array:
        """Return inputs, normally distributed, shape (count, …)."""
        drawn = np.random.default_rng(9).normal(0, 1, (count, *self._shape))
        return np.asarray(drawn, np.float32)


def run(model: onnx.ModelProto, inputs: npt.NDArray[Any], *extra: str) -> list[Array]:
    """Return the outputs in ONNX Runtime with its optimiser off, and inner tensors behind them."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        whole.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, {"clip": inputs}))


def exact_limits(
    model: onnx.ModelProto, inputs: Array, choice: QuantiseChoice = EVERYTHING
) -> dict[str, float]:
    """Return the largest magnitude of each tensor that may be rounded."""
    names = activation_tensors(model, quantisable_layers(model, choice), choice)
    inner = [name for name in names if name != "clip"]
    values = dict(zip(inner, run(model, inputs, *inner)[len(model.graph.output) :], strict=True))
    return {name: float(np.abs(values.get(name, inputs)).max()) for name in names}


def quantised(
    model: onnx.ModelProto, inputs: Array, choice: QuantiseChoice = EVERYTHING
) -> onnx.ModelProto:
    """Return the graph with all of its layers in INT8, ranges as `exact_limits` has them."""
    names = [layer.name for layer in quantisable_layers(model, choice)]
    return qdq_from_model(model, names, exact_limits(model, inputs, choice), choice)


def rounded(values: Array, scale: npt.ArrayLike) -> Array:
    """Return values on the grid of symmetric INT8, in NumPy."""
    step = np.asarray(scale, np.float32)
    return np.asarray(np.clip(np.rint(values / step), -128, 127) * step, np.float32)


def simulated(
    model: onnx.ModelProto,
    inputs: Array,
    axes: Mapping[str, int],
    limits: Mapping[str, float],
    also: Mapping[str, str] | None = None,
) -> list[Array]:
    """Run a graph in NumPy, node by node, with rounded inputs and weights of some layers.

    Args:
        model: The fp32 graph; its nodes have names.
        inputs: Of the graph.
        axes: Layers to quantise -> the weights' axis of output channels.
        limits: The magnitude that becomes 127, by tensor.
        also: Other nodes -> the input that is rounded for them.
    """
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    values: dict[str, Any] = {**held, "clip": inputs}
    for node in model.graph.node:
        given = {name: values[name] for name in node.input if name}
        noisy = node.input[0] if node.name in axes else (also or {}).get(node.name)
        if noisy is not None:
            given[noisy] = rounded(given[noisy], np.float32(limits[noisy] / 127))
        if node.name in axes:
            weight = np.moveaxis(held[node.input[1]], axes[node.name], -1)
            largest = np.abs(weight).reshape(-1, weight.shape[-1]).max(axis=0)
            moved = rounded(weight, largest / np.float32(127))
            given[node.input[1]] = np.moveaxis(moved, -1, axes[node.name])
        values |= _one(node, given)
    return [np.asarray(values[output.name], np.float32) for output in model.graph.output]


def _one(node: onnx.NodeProto, given: Mapping[str, Any]) -> dict[str, Any]:
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype), None
            )
            for name, value in given.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output],
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    answers = ReferenceEvaluator(whole).run(None, dict(given))
    return dict(zip(node.output, answers, strict=True))


def int8_kinds(model: onnx.ModelProto, shape: Sequence[int], folder: Path) -> dict[str, str]:
    """Return how OpenVINO computes each layer that multiplies: its kind and number -> precision."""
    import openvino

    from vad_runtime.backends.openvino import _core

    file = folder / "openvino.onnx"
    onnx.save(model, file)
    read = _core().read_model(str(file))
    read.reshape({"clip": list(shape)})
    compiled = _core().compile_model(
        read, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    )
    assert isinstance(compiled, openvino.CompiledModel)
    kinds = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        about = node.get_rt_info()
        kind = str(about["layerType"].get())
        if node.get_friendly_name().startswith(COPY):
            continue
        if kind in ("Convolution", "Deconvolution", "FullyConnected", "MatMul"):
            kinds[f"{kind} {len(kinds)}"] = str(about["runtimePrecision"].get())
    return kinds
