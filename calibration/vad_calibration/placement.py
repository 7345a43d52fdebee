"""Which layers of a graph are quantised, and where their activations are."""

from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count
from math import prod

import msgspec
import onnx
from onnx import NodeProto, TensorProto

from vad_runtime.contracts import ExportError

WEIGHT_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose weights this package can quantise."""

_MOVES = ("MaxPool", "Concat", "Pad", "Slice", "Reshape", "Transpose", "Flatten", "Squeeze")
"""Operators that pass values on or pick among them, so that rounding may happen before them."""

_QUANTISED = ("QuantizeLinear", "DequantizeLinear")

_LIGHT = 1024
"""Initialisers of so many elements or fewer may be shapes and axes, which shape inference needs."""


class QuantiseChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which layers become INT8, and how their surroundings are treated."""

    ops: tuple[str, ...] = ("Conv", "Gemm", "MatMul")
    """Operators to quantise; `ConvTranspose` only by choice: TensorRT ran it in FP16 for long
    (NVIDIA/TensorRT#3412, #4668), and it is the layer that decoders are most sensitive to."""

    first: bool = True
    """Quantise layers that read the clip, so three channels or one."""

    least_share: float = 0.001
    """Leave a layer alone that does less than this share of the work and holds less than this
    share of the weights: it would cost accuracy and gain nothing."""

    residual: bool = True
    """Round the other input of an addition behind a quantised convolution too, so that an engine
    can fuse convolution, addition and activation into one INT8 kernel."""

    def __post_init__(self) -> None:
        """Refuse operators that cannot be quantised."""
        for op in self.ops:
            if op not in WEIGHT_OPS:
                raise ValueError(f"ops: {op} cannot be quantised, choose from {WEIGHT_OPS}")
        if not 0 <= self.least_share <= 1:
            raise ValueError(f"least_share must lie in 0..1, got {self.least_share}")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A node with constant weights that can compute in INT8."""

    name: str
    """The node's name."""
    op: str
    activation: str
    """The tensor that it reads."""
    weight: str
    """Its constant."""
    axis: int
    """The weight's axis of output channels."""
    work: int
    """Multiplications for one input; 0 where a shape is not known."""
    weights: int
    """Elements of the weight."""


class Graph:
    """Who makes and who reads each tensor of a model; the model is not changed.

    Args:
        model: With named nodes.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.maker: dict[str, NodeProto] = {}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        self.constants: dict[str, TensorProto] = {t.name: t for t in model.graph.initializer}
        """Initialisers, and what nodes of the kind Constant hold."""
        self.outputs = {output.name for output in model.graph.output}
        for node in model.graph.node:
            for name in node.output:
                self.maker[name] = node
            for name in node.input:
                self.readers[name].append(node)
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t

    @cached_property
    def shapes(self) -> Mapping[str, list[int | None]]:
        """Shapes by tensor, from ONNX's shape inference; None = a size that is not fixed.

        Large initialisers take part as inputs of the same shape, so their data is not copied.
        Behind a node that inference does not know nothing is known.
        """
        light = onnx.ModelProto()
        light.ir_version = self.model.ir_version
        light.opset_import.extend(self.model.opset_import)
        graph = light.graph
        graph.name = "shapes"
        graph.node.extend(self.model.graph.node)
        held = {tensor.name for tensor in self.model.graph.initializer}
        # Before IR version 4 initialisers were inputs too.
        graph.input.extend(value for value in self.model.graph.input if value.name not in held)
        graph.output.extend(self.model.graph.output)
        for tensor in self.model.graph.initializer:
            if prod(tensor.dims) <= _LIGHT:
                graph.initializer.append(tensor)
            else:
                graph.input.append(
                    onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                )
        try:
            known = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
        except Exception:  # InferenceError and RuntimeError, over operators it has never heard of
            known = graph
        return {
            value.name: [
                d.dim_value if d.HasField("dim_value") else None
                for d in value.type.tensor_type.shape.dim
            ]
            for value in (*known.value_info, *known.input, *known.output)
        }


def named(model: onnx.ModelProto) -> None:
    """Give every node a name of its own, since layers are spoken of by name."""
    given = {node.name for node in model.graph.node}
    taken: set[str] = set()
    for i, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = unused(f"{node.op_type}_{i}", given | taken)
        taken.add(node.name)


def unused(name: str, taken: Container[str]) -> str:
    """Return a name that is not taken: this one, or this one with a number behind it."""
    tries = chain([name], (f"{name}_{i}" for i in count(1)))
    return next(one for one in tries if one not in taken)


def attribute(node: NodeProto, name: str, default: int) -> int:
    """Return an integer attribute of a node."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def quantisable_layers(model: onnx.ModelProto, choice: QuantiseChoice) -> list[Layer]:
    """Return the layers that a choice quantises, in the order of the graph.

    Args:
        model: An fp32 graph; nodes without a name are given one.
        choice: Which operators and sizes.

    Raises:
        ExportError: There is none, or the graph is quantised already.
    """
    named(model)
    graph = Graph(model)
    if any(quantised_already(node) for node in model.graph.node):
        raise ExportError("the graph is quantised already. Give the fp32 graph.")
    layers = [layer for node in model.graph.node if (layer := _layer(node, graph)) is not None]
    work = sum(layer.work for layer in layers) or 1
    weights = sum(layer.weights for layer in layers) or 1
    early = set(_reads_input(graph)) if not choice.first else set()
    chosen = [
        layer
        for layer in layers
        if layer.op in choice.ops
        and layer.name not in early
        and max(layer.work / work, layer.weights / weights) >= choice.least_share
    ]
    if not chosen:
        have = ", ".join(sorted({node.op_type for node in model.graph.node}))
        raise ExportError(
            f"no layer of the graph can be quantised: looked for {', '.join(choice.ops)} with "
            f"constant weights, it has {have}. Use fp16 or bf16 for this model."
        )
    return chosen


def quantised_already(node: NodeProto) -> bool:
    """Return whether a node computes with, or makes, integers that stand for real numbers."""
    kind = node.op_type
    return "Integer" in kind or kind.startswith("QLinear") or kind.endswith(_QUANTISED)


def _layer(node: NodeProto, graph: Graph) -> Layer | None:
    standard = node.domain in ("", "ai.onnx")
    if node.op_type not in WEIGHT_OPS or len(node.input) < 2 or not standard:
        return None
    weight = graph.constants.get(node.input[1])
    # The activation must not be a constant: a folded shape computation may look like a layer.
    if weight is None or weight.data_type != TensorProto.FLOAT or node.input[0] in graph.constants:
        return None
    axis = _channel_axis(node, weight)
    if axis is None:
        return None
    shape = graph.shapes.get(node.output[0])
    size = prod(weight.dims)
    work = 0
    if shape:
        # One input: the batch (the first dimension) is not counted, unknown sizes count as one.
        outputs = prod(d or 1 for d in shape[1:])
        if node.op_type == "ConvTranspose":
            inputs = graph.shapes.get(node.input[0]) or []
            work = size * prod(d or 1 for d in inputs[2:])
        else:
            work = outputs * size // max(weight.dims[axis], 1)
    return Layer(
        name=node.name,
        op=node.op_type,
        activation=node.input[0],
        weight=node.input[1],
        axis=axis,
        work=work,
        weights=size,
    )


def _channel_axis(node: NodeProto, weight: TensorProto) -> int | None:
    """Return the weight's axis of output channels, None where it cannot be quantised."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        # With groups one channel of the axis belongs to several outputs.
        return 1 if attribute(node, "group", 1) == 1 else None
    if len(weight.dims) != 2 or attribute(node, "transA", 0):
        return None
    return 0 if attribute(node, "transB", 0) else 1


def _reads_input(graph: Graph) -> Iterator[str]:
    """Yield the names of layers between which and the clip there is no other layer."""
    fresh = [v.name for v in graph.model.graph.input if v.name not in graph.constants]
    seen = set(fresh)
    while fresh:
        for node in graph.readers[fresh.pop()]:
            if node.op_type in WEIGHT_OPS:
                yield node.name
                continue
            if node.op_type in ("Shape", "Size"):
                continue  # how many clips there are is not what they show
            new = [name for name in node.output if name not in seen]
            seen.update(new)
            fresh.extend(new)


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """A tensor that is rounded to INT8 for some of its readers."""

    tensor: str
    like: str
    """The tensor whose range it has: its own, or that of a pooled or joined copy of it."""
    readers: tuple[str, ...]
    """Names of the nodes that read the rounded values."""


def roundings(
    model: onnx.ModelProto, layers: Collection[Layer], choice: QuantiseChoice
) -> list[Rounding]:
    """Return where activations are rounded, each tensor at most once.

    ::

        conv - relu - Q/DQ - maxpool - Q/DQ - conv      rounding moves up through what only picks
                   conv - Q/DQ - add - relu - Q/DQ      values, and into the branches of a sum, so
                   conv --------/                       that convolutions write INT8 themselves

    Args:
        model: An fp32 graph with named nodes.
        layers: Those that are quantised.
        choice: Whether residual additions are rounded.
    """
    graph = Graph(model)
    found: dict[str, tuple[str, dict[str, None]]] = {}

    def add(tensor: str, like: str, readers: Iterable[str]) -> None:
        entry = found.setdefault(tensor, (like, {}))
        entry[1].update(dict.fromkeys(readers))

    names = {layer.name for layer in layers}
    for layer in layers:
        add(layer.activation, layer.activation, [layer.name])
    if choice.residual:
        for add_node, (tensor, *_) in _residuals(graph, names):
            add(tensor, tensor, [add_node.name])
    for tensor in list(found):
        for upper, reader in _upwards(graph, tensor):
            add(upper, found[tensor][0], [reader])
    return [
        Rounding(tensor=tensor, like=like, readers=tuple(readers))
        for tensor, (like, readers) in found.items()
    ]


def _residuals(graph: Graph, quantised: set[str]) -> Iterator[tuple[NodeProto, list[str]]]:
    """Yield additions that a quantised convolution could carry out, and the input to be rounded.

    Where both inputs come from such a convolution, the second tensor is the one that would be
    rounded if the later convolution were not quantised.
    """
    order = {node.name: i for i, node in enumerate(graph.model.graph.node)}
    for node in graph.model.graph.node:
        if node.op_type != "Add" or any(name in graph.constants for name in node.input):
            continue
        if not _same_shape(*(graph.shapes.get(name) for name in node.input)):
            continue  # one input is spread over the other: no kernel does that
        fusible = [
            name
            for name in node.input
            if (maker := graph.maker.get(name)) is not None
            and maker.op_type == "Conv"
            and maker.name in quantised
            and len(graph.readers[name]) == 1
            and name not in graph.outputs
        ]
        # Of two convolutions the later one takes the sum over, as it is the last to be computed.
        fusible.sort(key=lambda name: order[graph.maker[name].name], reverse=True)
        if fusible:
            yield node, [other for one in fusible for other in node.input if other != one]


def _same_shape(first: list[int | None] | None, second: list[int | None] | None) -> bool:
    """Return whether two shapes may be the same, as far as they are known."""
    if first is None or second is None:
        return True
    known = [(a, b) for a, b in zip(first, second, strict=False) if None not in (a, b)]
    return len(first) == len(second) and all(a == b for a, b in known)


def _upwards(graph: Graph, tensor: str) -> Iterator[tuple[str, str]]:
    """Yield tensors above `tensor` that can be rounded in its place, and who reads them.

    A tensor that somebody else reads too is not one: it would have to be kept in both forms.
    """
    maker = graph.maker.get(tensor)
    if maker is None or maker.op_type not in _MOVES or not _moves_only(maker, graph):
        return
    data = maker.input if maker.op_type == "Concat" else maker.input[:1]
    for upper in data:
        alone = len(graph.readers[upper]) == 1 and upper not in graph.outputs
        if upper in graph.maker and alone:
            yield upper, maker.name
            yield from _upwards(graph, upper)


def _moves_only(node: NodeProto, graph: Graph) -> bool:
    """Return whether a node makes no new values; padding must be with zeros, which INT8 has."""
    if node.op_type != "Pad":
        return True
    mode = next((a.s for a in node.attribute if a.name == "mode"), b"constant")
    if mode != b"constant":
        return True
    if len(node.input) < 3 or not node.input[2]:
        return True
    value = graph.constants.get(node.input[2])
    return value is not None and not onnx.numpy_helper.to_array(value).any()


def activation_tensors(
    model: onnx.ModelProto, layers: Collection[Layer], choice: QuantiseChoice
) -> list[str]:
    """Return the tensors whose ranges must be known to quantise any of the layers, each once.

    They are more than quantising all of the layers needs: where two convolutions are added, it
    hangs on which of them are quantised whose output is rounded.
    """
    graph = Graph(model)
    tensors = [rounding.like for rounding in roundings(model, layers, choice)]
    if choice.residual:
        names = {layer.name for layer in layers}
        tensors += [tensor for _, others in _residuals(graph, names) for tensor in others]
    return list(dict.fromkeys(tensors))
