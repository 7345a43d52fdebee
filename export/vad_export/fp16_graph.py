"""What the conversion to FP16 must know of an ONNX graph: types, shapes, who feeds whom."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from vad_runtime.backends.checks import first_line
from vad_runtime.contracts import ExportError

_SMALL_BYTES = 4096
"""Constants up to this size go through shape inference: they may be axes or shapes."""

_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Positions of the float32 inputs and outputs of a node that change together to FP16."""

    inputs: frozenset[int]
    outputs: frozenset[int]


class GraphView:
    """A graph with the answers that the rules ask for. It keeps the model and changes nothing.

    Every node must have a name, and constants must be initialisers; see `tidied`.

    Raises:
        ExportError: The types of the graph contradict one another.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.nodes: Sequence[onnx.NodeProto] = graph.node
        self.constants: dict[str, TensorProto] = {t.name: t for t in graph.initializer}
        self.inputs = [v.name for v in graph.input if v.name not in self.constants]
        self.outputs = [v.name for v in graph.output]
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self._users.setdefault(name, []).append(node)
        self.captured = frozenset(_captured(self.nodes))
        self._opsets = {entry.domain: entry.version for entry in model.opset_import}
        self.types: dict[str, int] = {}
        """Element type of every tensor that has one."""
        self.shapes: dict[str, list[int | None]] = {}
        """Shape of every tensor of known rank; None = free."""
        self._infer(model)

    def _infer(self, model: onnx.ModelProto) -> None:
        skeleton = _without_weights(model)
        try:
            known = shape_inference.infer_shapes(skeleton, strict_mode=False, data_prop=True).graph
        except Exception as error:  # onnx raises its own classes and RuntimeError
            raise ExportError(
                f"ONNX cannot infer the types of the graph: {first_line(error)} Export it again."
            ) from error
        for value in [*known.input, *known.output, *known.value_info]:
            kind = value.type.tensor_type
            self.types[value.name] = kind.elem_type
            if kind.HasField("shape"):
                self.shapes[value.name] = [
                    d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim
                ]
        for name, tensor in self.constants.items():
            self.types[name], self.shapes[name] = tensor.data_type, list(tensor.dims)

    def array(self, constant: str) -> npt.NDArray[Any]:
        """Return the values of a constant."""
        values: npt.NDArray[Any] = numpy_helper.to_array(self.constants[constant])
        return values

    def users(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the nodes that read what a node writes."""
        return [user for name in node.output for user in self._users.get(name, [])]

    def sources(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the nodes that write the float tensors a node reads."""
        return [
            self.producer[name]
            for name in dict.fromkeys(node.input)
            if name in self.producer and self.is_float(name)
        ]

    def is_float(self, name: str) -> bool:
        """Say whether a tensor is float32."""
        return self.types.get(name) == TensorProto.FLOAT

    def is_moving_float(self, name: str) -> bool:
        """Say whether a tensor is float32 and no constant."""
        return self.is_float(name) and name not in self.constants

    def has_floats(self, node: onnx.NodeProto) -> bool:
        """Say whether a node reads or writes float32."""
        return any(map(self.is_float, [*node.input, *node.output]))

    def has_subgraph(self, node: onnx.NodeProto) -> bool:
        """Say whether a node is an If, Loop, Scan or another with a graph of its own."""
        return any(entry.type in _GRAPHS for entry in node.attribute)

    def ports(self, node: onnx.NodeProto) -> Ports | None:
        """Return what changes to FP16 with a node, by the operator's own definition in ONNX.

        Returns:
            None where the node cannot be had in FP16. Inputs that are float32 by definition
            (the scales of a Resize) are not among the ports.
        """
        try:
            schema = onnx.defs.get_schema(
                node.op_type, self._opsets.get(node.domain, 1), node.domain
            )
        except onnx.defs.SchemaError:
            return None
        allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        inputs, variables = set(), set()
        for i, name in enumerate(node.input):
            variable = schema.inputs[min(i, len(schema.inputs) - 1)].type_str
            kinds = allowed.get(variable, [])
            if kinds and not any(kind.startswith("tensor(") for kind in kinds):
                return None  # sequences: their elements' type is not looked after here
            if self.is_float(name) and kinds:
                if "tensor(float16)" not in kinds:
                    return None
                inputs.add(i)
                variables.add(variable)
        if node.op_type == "Cast" and self.is_float(node.output[0]):
            return Ports(inputs=frozenset(inputs), outputs=frozenset({0}))
        outputs = set()
        for i, name in enumerate(node.output):
            variable = schema.outputs[min(i, len(schema.outputs) - 1)].type_str
            if self.is_float(name) and variable in variables:
                outputs.add(i)
            elif self.is_float(name) and (variable in allowed or not inputs):
                return None
        return Ports(inputs=frozenset(inputs), outputs=frozenset(outputs))


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute's value, or `default` where the node has none."""
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default


def tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which every node has a name of its own and constants are initialisers."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    nodes: list[onnx.NodeProto] = []
    names: set[str] = set()
    for i, node in enumerate(graph.node):
        value = None
        if node.op_type == "Constant" and not node.domain:
            value = _constant_value(node)
        if value is not None:
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
            continue
        if not node.name or node.name in names:
            node.name = f"{node.name or node.op_type}_{i}"
        names.add(node.name)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return made


def with_graph(model: onnx.ModelProto, graph: onnx.GraphProto) -> onnx.ModelProto:
    """Return a model around another graph, without a copy of the old one's weights."""
    made = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            made.graph.CopyFrom(graph)
        elif field.is_repeated:
            getattr(made, field.name).extend(value)
        else:
            setattr(made, field.name, value)
    return made


def _constant_value(node: onnx.NodeProto) -> npt.NDArray[Any] | None:
    """Return what a Constant holds; None for strings and sparse tensors, which stay nodes."""
    for entry in node.attribute:
        if entry.name == "value":
            value: npt.NDArray[Any] = numpy_helper.to_array(entry.t)
            return value
        if entry.name in ("value_float", "value_floats"):
            return np.array(helper.get_attribute_value(entry), np.float32)
        if entry.name in ("value_int", "value_ints"):
            return np.array(helper.get_attribute_value(entry), np.int64)
    return None


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose large constants are inputs: shape inference copies a model twice."""
    graph = onnx.GraphProto(name=model.graph.name)
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    listed = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _SMALL_BYTES:
            graph.initializer.append(tensor)
        elif tensor.name not in listed:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return with_graph(model, graph)


def _captured(nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    """Yield the names that subgraphs read, their own among them."""
    for node in nodes:
        for entry in node.attribute:
            for graph in [*([entry.g] if entry.type == _GRAPHS[0] else []), *entry.graphs]:
                for inner in graph.node:
                    yield from inner.input
                yield from (value.name for value in graph.output)
                yield from _captured(graph.node)
