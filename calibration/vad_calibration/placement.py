"""Which layers of a graph are quantised, and where their activations are."""

import heapq
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

import msgspec
import onnx
from onnx import NodeProto, TensorProto

from vad_calibration.graph import LIGHT, Graph, attribute, copies, named
from vad_runtime.contracts import ExportError

WEIGHT_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose weights this package can quantise."""

_MOVES = ("MaxPool", "Concat", "Pad", "Slice", "Reshape", "Transpose", "Flatten", "Squeeze")
"""Operators that pass values on or pick among them, so that rounding may happen before them."""

_QUANTISED = ("QuantizeLinear", "DequantizeLinear")


class QuantiseChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which layers become INT8, and how their surroundings are treated."""

    ops: tuple[str, ...] = WEIGHT_OPS
    """Operators to quantise. TensorRT ran `ConvTranspose` in FP16 for long (NVIDIA/TensorRT#3412,
    #4668): leave it out for an engine that gains nothing from it."""

    first: bool = True
    """Quantise layers that read the clip, so three channels or one."""

    least_share: float = 0.001
    """Leave a dense layer alone that does less than this share of the work and holds less than this
    share of the weights: it would cost accuracy and gain nothing. A convolution that reads one
    position (squeeze and excitation) is a dense layer too. Small convolutions of pictures are
    quantised: a whole picture would be converted for each and back again (19 small ones were 2 %
    of SlowFast's time in OpenVINO)."""

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

    @property
    def dense(self) -> bool:
        """Whether it is no convolution, or one that reads a single position."""
        return self.op in ("Gemm", "MatMul") or self.work == self.weights


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
        and (
            not layer.dense or max(layer.work / work, layer.weights / weights) >= choice.least_share
        )
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
    if axis is None or _copies_pixels(node, graph):
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


def _copies_pixels(node: NodeProto, graph: Graph) -> bool:
    weight = graph.constants.get(node.input[1]) if len(node.input) > 1 else None
    # Weights of hundreds of megabytes are not to be read for this.
    if weight is None or prod(weight.dims) > LIGHT:
        return False
    return copies(node, onnx.numpy_helper.to_array(weight))


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
            if node.op_type in WEIGHT_OPS and not _copies_pixels(node, graph):
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
    found: dict[str, _Place] = {}
    names = {layer.name for layer in layers}
    for layer in layers:
        found.setdefault(layer.activation, _Place(like=layer.activation)).add(layer.name)
    if choice.residual:
        for add_node, (tensor, *_) in _residuals(graph, names):
            found.setdefault(tensor, _Place(like=tensor)).add(add_node.name)
    _hoist(graph, found)
    return [
        Rounding(tensor=tensor, like=_origin(found, place.like), readers=tuple(place.readers))
        for tensor, place in found.items()
    ]


def _origin(found: Mapping[str, "_Place"], like: str) -> str:
    """Follow a range to the tensor that it was measured on: one grid along a chain of pools."""
    while found[like].like != like:
        like = found[like].like
    return like


@dataclass
class _Place:
    """A rounding that is still being put together."""

    like: str
    readers: dict[str, None] = field(default_factory=dict)

    def add(self, reader: str) -> None:
        self.readers[reader] = None


def _hoist(graph: Graph, found: dict[str, _Place]) -> None:
    """Move roundings up through nodes that only pass values on; adds to `found`.

    Only where every reader of a tensor takes it rounded: any other would get rounded values too.
    From the end of the graph to its beginning, so that a tensor's readers are known before it.
    """
    order = {name: i for i, node in enumerate(graph.model.graph.node) for name in node.output}
    waiting = [(-order.get(tensor, -1), tensor) for tensor in found]
    heapq.heapify(waiting)
    while waiting:
        _, tensor = heapq.heappop(waiting)
        place, maker = found[tensor], graph.maker.get(tensor)
        if maker is None or maker.op_type not in _MOVES or not _moves_only(maker, graph):
            continue
        readers = {reader.name for reader in graph.readers[tensor]}
        if tensor in graph.outputs or not readers <= set(place.readers):
            continue
        joined = maker.op_type == "Concat"
        for upper in maker.input if joined else maker.input[:1]:
            if upper in found and not joined and place.like == tensor:
                # Rounded already for others: one grid for both, or values are rounded twice.
                found[upper].add(maker.name)
                place.like = found[upper].like
            elif upper in found or upper not in graph.maker or upper in graph.outputs:
                continue
            elif all(reader.name == maker.name for reader in graph.readers[upper]):
                found[upper] = _Place(like=place.like, readers={maker.name: None})
                heapq.heappush(waiting, (-order[upper], upper))


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

    They are more than quantising all of the layers needs: which tensors are rounded, and whose
    range they take, hangs on which layers are quantised.
    """
    graph = Graph(model)
    tensors = [layer.activation for layer in layers]
    if choice.residual:
        names = {layer.name for layer in layers}
        tensors += [tensor for _, others in _residuals(graph, names) for tensor in others]
    return list(dict.fromkeys(tensors))
