"""Static check of Q/DQ graphs: which node breaks which rule of INT8.

A graph that passes is made for TensorRT, OpenVINO and ONNX Runtime alike. Graphs that break the
rules one at a time were given to TensorRT-RTX 1.7.1; its parser refuses only some of them:

* refused: QLinearConv and its like (`operator`); 16-bit values, unsigned weights, biases of 32 bits
  (`type`); a zero point that is not 0 (`zero-point`); a scale of 0 or less, or no number (`scale`).
* taken, and still findings here, since they cost accuracy, size or time, or other engines refuse
  them: the operators of com.microsoft (`operator`); unsigned activations with zero point 0
  (`type`); an infinite or computed scale; scales along another axis, or several for an activation
  (`axis`); an 8-bit bias (`bias`); weights that the graph rounds, four times the file (`stored`);
  operators between the two nodes of a pair (`pair`); INT8 for the input or the weights alone, which
  rounds and then computes in floating point (`both`); an opset that is too old (`opset`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from vad_calibration.graph import Graph, attribute

RULES: dict[str, str] = {
    "operator": "INT8 is written as QuantizeLinear and DequantizeLinear of the standard domain",
    "opset": "scales an axis need opset 13, scales in fp16 opset 19",
    "type": "quantised values are signed 8-bit",
    "zero-point": "zero points are 0",
    "scale": "scales are constants, positive and finite",
    "axis": "a weight has one scale, or one an output channel; anything else has one scale",
    "bias": "biases are not quantised",
    "stored": "weights are stored in INT8, not as floats that are rounded in the graph",
    "pair": "a QuantizeLinear is read by DequantizeLinear only, which reads a QuantizeLinear or a "
    "constant",
    "both": "a layer has both its input and its weights quantised, or neither",
    "float": "scales are fp32 or fp16, and a layer's input, weights and bias of one type",
}
"""The rules by name."""

_OLD = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")
_Q, _DQ = "QuantizeLinear", "DequantizeLinear"
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A node that breaks a rule."""

    node: str
    """The node's name; its first output where it has none."""
    rule: str
    """A key of `RULES`."""
    message: str
    """What is there, in words."""

    @property
    def line(self) -> str:
        """One line for people."""
        return f"{self.node}: {self.message} ({self.rule}: {RULES[self.rule]})"


def lint_qdq(model: onnx.ModelProto) -> list[Finding]:
    """Return every place where a graph breaks one of the `RULES`, in the order of the graph.

    Args:
        model: Any graph; one without INT8 breaks none.
    """
    graph = Graph(model)
    opset = next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    return [
        Finding(node=node.name or node.output[0], rule=rule, message=message)
        for node in model.graph.node
        for rule, message in _broken(node, graph, opset)
    ]


def _broken(node: NodeProto, graph: Graph, opset: int) -> Iterator[tuple[str, str]]:
    kind = node.op_type
    if kind in _OLD or kind.startswith("QLinear"):
        yield "operator", f"it is a {kind}"
    elif kind in (_Q, _DQ):
        if node.domain not in ("", "ai.onnx"):
            yield "operator", f"it belongs to the domain {node.domain}"
        yield from _grid(node, graph, opset)
        yield from _pair(node, graph)
    elif kind in _WEIGHTED:
        yield from _layer(node, graph)


def _grid(node: NodeProto, graph: Graph, opset: int) -> Iterator[tuple[str, str]]:
    """Check type, zero point and scale."""
    given = len(node.input) > 2 and bool(node.input[2])
    point = graph.constants.get(node.input[2]) if given else None
    weight = graph.constants.get(node.input[0])
    stated = attribute(node, "output_dtype", 0)
    if given and point is None:
        yield "zero-point", "its zero point is no constant"
    elif point is not None and point.data_type != TensorProto.INT8:
        yield "type", f"its type is {_type(point.data_type)}"
    elif point is not None and numpy_helper.to_array(point).any():
        values = numpy_helper.to_array(point).ravel()
        yield "zero-point", f"its zero point is {values[np.flatnonzero(values)[0]]}"
    elif point is None and node.op_type == _Q and stated not in (0, TensorProto.INT8):
        yield "type", f"its type is {_type(stated)}"
    elif point is None and node.op_type == _Q and not stated:
        yield "type", "without a zero point its type is unsigned"
    elif point is None and weight is not None and weight.data_type != TensorProto.INT8:
        yield "type", f"its type is {_type(weight.data_type)}"
    scale = graph.constants.get(node.input[1])
    if scale is None:
        yield "scale", "its scale is no constant"
    else:
        yield from _scale(node, scale, weight, opset)


def _scale(
    node: NodeProto, scale: TensorProto, weight: TensorProto | None, opset: int
) -> Iterator[tuple[str, str]]:
    values = numpy_helper.to_array(scale).astype(np.float64).ravel()
    bad = values[~(np.isfinite(values) & (values > 0))]
    if bad.size:
        yield "scale", f"its scale is {bad[0]:g}"
    if scale.data_type not in _FLOATS:
        yield "float", f"its scale is {_type(scale.data_type)}"
    elif scale.data_type == TensorProto.FLOAT16 and opset < 19:
        yield "opset", f"a scale in fp16 at opset {opset}"
    if values.size > 1 and opset < 13:
        yield "opset", f"{values.size} scales at opset {opset}"
    if values.size > 1 and weight is None and node.op_type == _Q:
        # The float weight of a pair has its own finding.
        yield "axis", f"an activation with {values.size} scales"


def _pair(node: NodeProto, graph: Graph) -> Iterator[tuple[str, str]]:
    if node.op_type == "QuantizeLinear":
        if node.input[0] in graph.constants:
            yield "stored", "it rounds a constant"
        others = [r.op_type for r in graph.readers[node.output[0]] if r.op_type != _DQ]
        if others:
            yield "pair", f"its output is read by {others[0]}"
        elif node.output[0] in graph.outputs:
            yield "pair", "its output is one of the graph's"
        elif not graph.readers[node.output[0]]:
            yield "pair", "its output is read by nothing"
        return
    maker = graph.maker.get(node.input[0])
    if node.input[0] not in graph.constants and (maker is None or maker.op_type != _Q):
        yield "pair", f"it reads {'an input' if maker is None else maker.op_type}"


def _layer(node: NodeProto, graph: Graph) -> Iterator[tuple[str, str]]:
    sources = [graph.maker.get(name) for name in node.input]
    quantised = [s is not None and s.op_type == _DQ for s in sources]
    if len(sources) > 2 and quantised[2]:
        yield "bias", f"its bias comes from {_named(sources[2])}"
    weight = sources[1] if len(sources) > 1 else None
    constant = len(node.input) > 1 and node.input[1] in graph.constants
    if quantised[0] and constant:
        yield "both", "its input is INT8, its weights are not"
    if weight is None or not quantised[1]:
        return
    if not quantised[0]:
        yield "both", "its weights are INT8, its input is not"
    types = {kind for name in node.input if (kind := _float_type(name, graph)) is not None}
    if len(types) > 1:
        yield "float", f"it computes with {' and '.join(sorted(map(_type, types)))}"
    stored = graph.constants.get(weight.input[0])
    if stored is None:
        return
    scale = graph.constants.get(weight.input[1])
    if scale is None or np.prod(scale.dims) == 1:
        return
    axis = _axis(node, len(stored.dims))
    have = attribute(weight, "axis", 1) % max(len(stored.dims), 1)
    if axis is not None and have != axis:
        yield "axis", f"its weights have scales along axis {have}, its output channels are {axis}"


def _axis(node: NodeProto, rank: int) -> int | None:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return rank - 1


def _float_type(name: str, graph: Graph) -> int | None:
    """Return the type of an input that is a constant or dequantised; None = not known."""
    if name in graph.constants:
        return int(graph.constants[name].data_type)
    maker = graph.maker.get(name)
    scale = graph.constants.get(maker.input[1]) if maker and maker.op_type == _DQ else None
    return None if scale is None else int(scale.data_type)


def _named(node: NodeProto | None) -> str:
    return "nothing" if node is None else node.name or node.output[0]


def _type(number: int) -> str:
    return str(TensorProto.DataType.Name(number)).lower()
