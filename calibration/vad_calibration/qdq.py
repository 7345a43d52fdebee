"""Q/DQ graphs: one INT8 artefact that TensorRT, OpenVINO and ONNX Runtime all take.

The rules are those of `lint_qdq`: activations signed 8-bit with zero point 0 and one scale a
tensor; weights stored as signed 8-bit with one scale an output channel; biases stay in floating
point; `QuantizeLinear` and `DequantizeLinear` only.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from vad_calibration.graph import Graph, unused
from vad_calibration.limits import LEVELS
from vad_calibration.placement import (
    Layer,
    QuantiseChoice,
    Rounding,
    quantisable_layers,
    roundings,
)
from vad_calibration.rows import stack_rows
from vad_runtime.contracts import ExportError

_OPSET = 13
"""From here on DequantizeLinear takes one scale a channel."""

_ZERO = "vad_zero_int8"


def qdq_from_model(
    model: onnx.ModelProto,
    layers: Collection[str],
    limits: Mapping[str, float],
    choice: QuantiseChoice,
) -> onnx.ModelProto:
    """Return a copy of a graph whose layers compute in INT8.

    A value is rounded to ``clip(round(x / s), -128, 127) * s`` with ``s = limit / 127``
    (Krishnamoorthi, arXiv 1806.08342, symmetric), where only what lies beyond the limit becomes
    -128; a weight to -127 .. 127, with one s an output channel, from its largest magnitude.

    A convolution of one channel also reads several rows as channels then (`stack_rows`).

    Args:
        model: The fp32 graph; only read.
        layers: Names of the layers to quantise, of those that `quantisable_layers` lists.
        limits: For each tensor of `activation_tensors` the magnitude that becomes 127.
        choice: As for `quantisable_layers`.

    Raises:
        ExportError: A layer that is not there, a tensor without a limit that is positive and
            finite, a weight that is not finite, or an opset before 13.
    """
    _require_opset(model)
    out = onnx.ModelProto()
    out.CopyFrom(model)
    have = {layer.name: layer for layer in quantisable_layers(out, choice)}
    unknown = sorted(set(layers) - set(have))
    if unknown:
        raise ExportError(
            f"the graph has no layer {unknown[0]} to quantise. Its layers: {', '.join(have)}"
        )
    chosen = [layer for name, layer in have.items() if name in set(layers)]
    graph = Graph(out)
    places = roundings(out, chosen, choice)
    made = _Maker(out)
    for place in places:
        if place.like not in limits:
            raise ExportError(
                f"no range is known for {place.like}. Calibrate this graph again: "
                "vad-export calibrate"
            )
        if not 0 < limits[place.like] < math.inf:
            raise ExportError(
                f"the range of {place.like} is {limits[place.like]:g}, which is no range. "
                "Calibrate this graph again: vad-export calibrate"
            )
        _round_activation(graph, made, place, limits[place.like])
    for layer in chosen:
        _round_weight(graph, made, layer)
    made.finish({layer.weight for layer in chosen})
    stack_rows(out)
    return out


def _require_opset(model: onnx.ModelProto) -> None:
    opset = next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < _OPSET:
        raise ExportError(
            f"the graph has opset {opset}, and scales a channel need {_OPSET}. "
            "Export it with opset 18."
        )


class _Maker:
    """Collects new nodes and initialisers, and puts the nodes where they belong."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._constants: dict[str, TensorProto] = {}
        self._tensors = set(_names(model.graph))
        self._nodes = {node.name for node in model.graph.node}
        self._behind: dict[str, list[NodeProto]] = {}
        self._before: dict[str, list[NodeProto]] = {}

    def constant(self, wish: str, value: npt.NDArray[np.generic]) -> str:
        """Return the name of a new constant; the same wish gives the same constant."""
        if wish not in self._constants:
            self._constants[wish] = numpy_helper.from_array(value, self.tensor(wish))
        return self._constants[wish].name

    def tensor(self, wish: str) -> str:
        """Return a name for a new tensor that nothing else in the graph has."""
        name = unused(wish, self._tensors)
        self._tensors.add(name)
        return name

    def node(self, kind: str, inputs: list[str], output: str, wish: str, **more: Any) -> NodeProto:
        """Return a new node with a name that no other node has."""
        name = unused(wish, self._nodes)
        self._nodes.add(name)
        return helper.make_node(kind, inputs, [output], name, **more)

    def zero(self) -> str:
        return self.constant(_ZERO, np.array(0, np.int8))

    def behind(self, tensor: str, nodes: list[NodeProto]) -> None:
        """Put nodes right behind the maker of a tensor (in front of all, for an input)."""
        self._behind.setdefault(tensor, []).extend(nodes)

    def before(self, node: str, nodes: list[NodeProto]) -> None:
        self._before.setdefault(node, []).extend(nodes)

    def finish(self, weights: Collection[str]) -> None:
        """Write everything into the model; those of the weights that nobody reads any more go."""
        proto = self._model.graph
        ordered: list[NodeProto] = []
        for value in proto.input:
            ordered += self._behind.get(value.name, [])
        for node in proto.node:
            ordered += self._before.get(node.name, [])
            ordered.append(node)
            for name in node.output:
                ordered += self._behind.get(name, [])
        copies = []
        for node in ordered:
            copy = NodeProto()
            copy.CopyFrom(node)
            copies.append(copy)
        del proto.node[:]
        proto.node.extend(copies)
        left = set(weights) - set(_read(proto))
        for i in reversed(range(len(proto.node))):
            if proto.node[i].op_type == "Constant" and proto.node[i].output[0] in left:
                del proto.node[i]
        for values in (proto.initializer, proto.input):
            for i in reversed(range(len(values))):
                if values[i].name in left:
                    del values[i]
        proto.initializer.extend(self._constants.values())


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names of all tensors, also of those inside of branches and loops."""
    yield from (value.name for value in (*graph.input, *graph.initializer))
    yield from (value.values.name for value in graph.sparse_initializer)
    for node in graph.node:
        yield from (*node.input, *node.output)
        for inner in _inner(node):
            yield from _names(inner)


def _read(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names of the tensors that are read, also inside of branches and loops."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for inner in _inner(node):
            yield from _read(inner)


def _inner(node: NodeProto) -> Iterator[onnx.GraphProto]:
    for found in node.attribute:
        if found.type == onnx.AttributeProto.GRAPH:
            yield found.g
        yield from found.graphs


def _round_activation(graph: Graph, made: _Maker, place: Rounding, limit: float) -> None:
    tensor = place.tensor
    scale = made.constant(f"{place.like}_scale", np.array(limit / LEVELS, np.float32))
    rounded, back = made.tensor(f"{tensor}_int8"), made.tensor(f"{tensor}_rounded")
    grid = [scale, made.zero()]
    made.behind(
        tensor,
        [
            made.node("QuantizeLinear", [tensor, *grid], rounded, f"quantise_{tensor}"),
            made.node("DequantizeLinear", [rounded, *grid], back, f"dequantise_{tensor}"),
        ],
    )
    for node in graph.readers[tensor]:
        if node.name in place.readers:
            for i, name in enumerate(node.input):
                if name == tensor:
                    node.input[i] = back


def _round_weight(graph: Graph, made: _Maker, layer: Layer) -> None:
    weight = numpy_helper.to_array(graph.constants[layer.weight])
    if not np.isfinite(weight).all():
        raise ExportError(
            f"the weights of {layer.name} are not all finite, so they have no range. "
            "Check the training, and export again."
        )
    rounded, scale = rounded_weight(weight, layer.axis)
    # One weight may serve several layers, along different axes even.
    name = f"{layer.weight}_axis{layer.axis}"
    back = made.tensor(f"{layer.name}_weight")
    node = made.node(
        "DequantizeLinear",
        [
            made.constant(f"{name}_int8", rounded),
            made.constant(f"{name}_scale", scale),
            # Shared where the weight is shared, and only there: with zero points that belong to
            # several weights, or several to one, OpenVINO 2026.4.1 leaves the layers in float.
            made.constant(f"{name}_zeros", np.zeros(len(scale), np.int8)),
        ],
        back,
        f"dequantise_weight_{layer.name}",
        axis=layer.axis,
    )
    made.before(layer.name, [node])
    for reader in graph.readers[layer.weight]:
        if reader.name == layer.name:
            reader.input[1] = back


def rounded_weight(
    weight: npt.NDArray[np.float32], axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Round a weight to INT8 with one scale an output channel.

    Args:
        weight: Any shape; only read.
        axis: Of the output channels.

    Returns:
        The rounded weight, same shape, int8, and the scales, shape (channels,), float32; the
        caller owns both. A channel of zeros has the scale 1; no scale is below 2^-126, the
        smallest that is not denormal.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others).astype(np.float32)
    # A denormal scale is zero to engines that flush such numbers.
    scale = np.maximum(largest / np.float32(LEVELS), np.finfo(np.float32).tiny)
    scale = np.where(largest > 0, scale, np.float32(1)).astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = -1
    rounded = np.clip(np.rint(weight / scale.reshape(shape)), -LEVELS, LEVELS)
    return rounded.astype(np.int8), scale
