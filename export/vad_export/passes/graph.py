"""Reading and editing an ONNX graph in place."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from vad_calibration.graph import attributes

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]

_SMALL = 1024
"""Constants of up to this many elements are shown to shape inference with their values."""


class GraphEditor:
    """The main graph of a model with an index of who makes and who reads each tensor.

    Nodes are added, changed and removed through it; `finish` writes them back to the model and
    drops what nothing reads any more. Until then the model's node list is the old one.

    Args:
        model: Edited in place. Its nodes and initialisers stay the model's.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[NodeProto] = list(model.graph.node)
        self._initialisers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._names = set(_all_names(model.graph))
        # A body of an If or a Loop may read any tensor of the graph around it.
        captured = (
            name
            for node in self.nodes
            for attribute in node.attribute
            for body in _bodies(attribute)
            for inner in body.node
            for name in _read_names(inner)
        )
        self._kept = {value.name for value in model.graph.output} | set(captured)
        # Now, since the nodes are edited in place and the model's list is stale until `finish`.
        self._shapes = _inferred_shapes(model)
        self._index()

    def _index(self) -> None:
        self._producer = {name: node for node in self.nodes for name in node.output if name}
        self._consumers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self._consumers.setdefault(name, []).append(node)

    def producer(self, tensor: str) -> NodeProto | None:
        """Return the node that makes a tensor; None for inputs and initialisers."""
        return self._producer.get(tensor)

    def consumers(self, tensor: str) -> list[NodeProto]:
        """Return the nodes that read a tensor, each once, in graph order."""
        return list(self._consumers.get(tensor, ()))

    def is_kept(self, tensor: str) -> bool:
        """Return whether a tensor must stay: an output, or read by the body of an If or a Loop."""
        return tensor in self._kept

    def constant(self, tensor: str) -> Array | None:
        """Return the value of an initialiser or a Constant node; None for anything else.

        The array is the caller's to read only.
        """
        stored = self._initialisers.get(tensor)
        if stored is not None:
            return numpy_helper.to_array(stored)
        node = self._producer.get(tensor)
        if node is not None and node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    return numpy_helper.to_array(attribute.t)
                if attribute.name.startswith("value_"):
                    # value_float, value_floats, value_int, value_ints
                    kind = np.float32 if "float" in attribute.name else np.int64
                    return np.array(helper.get_attribute_value(attribute), kind)
        return None

    def shape(self, tensor: str) -> Shape | None:
        """Return a tensor's shape in the graph as it was at the start; None where unknown.

        A dimension without a fixed size (N) is None.
        """
        return self._shapes.get(tensor)

    def add_constant(self, array: Array, name: str) -> str:
        """Store an array (copied) as an initialiser and return its name, free of clashes."""
        name = self.free_name(name)
        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        self._initialisers[name] = self.model.graph.initializer[-1]
        return name

    def free_name(self, name: str) -> str:
        """Reserve and return a name that no tensor or node has: `name`, else `name_2` and so on."""
        free, i = name, 2
        while free in self._names:
            free, i = f"{name}_{i}", i + 1
        self._names.add(free)
        return free

    def insert(self, before: NodeProto, *nodes: NodeProto) -> None:
        """Put nodes into the graph in front of one that is there."""
        at = next(i for i, node in enumerate(self.nodes) if node is before)
        self.nodes[at:at] = nodes
        self._index()

    def remove(self, node: NodeProto) -> None:
        """Take a node out of the graph; nothing may read its outputs when `finish` is called."""
        self.nodes = [other for other in self.nodes if other is not node]
        self._index()

    def set_input(self, node: NodeProto, index: int, tensor: str) -> None:
        """Let a node read `tensor` as input number `index` (appended if it is the next one)."""
        if index == len(node.input):
            node.input.append(tensor)
        else:
            node.input[index] = tensor
        self._index()

    def set_output(self, node: NodeProto, index: int, tensor: str) -> None:
        """Let a node make `tensor` as output number `index`."""
        node.output[index] = tensor
        self._index()

    def finish(self) -> None:
        """Write the nodes back and drop dead nodes and initialisers that nothing reads."""
        graph = self.model.graph
        alive: list[NodeProto] = []
        wanted = set(self._kept)
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                alive.append(node)
                wanted.update(_read_names(node))
        alive.reverse()
        # Without copies the nodes would be freed with the list that they are in.
        copies = [_copied(node) for node in alive]
        del graph.node[:]
        graph.node.extend(copies)
        dropped = {t.name for t in graph.initializer if t.name not in wanted}
        # Old graphs list their initialisers among the inputs too.
        for values in (graph.initializer, graph.input):
            for i in reversed(range(len(values))):
                if values[i].name in dropped:
                    del values[i]
        made = {name for node in copies for name in node.output}
        for i in reversed(range(len(graph.value_info))):
            if graph.value_info[i].name not in made:
                del graph.value_info[i]


def spatial_pads(node: NodeProto, rank: int) -> tuple[list[int], list[int]] | None:
    """Return how much a Conv pads at the begin and the end of each spatial axis.

    Args:
        node: A Conv.
        rank: Number of spatial axes.

    Returns:
        Pixels at the begin, pixels at the end; None where it follows from the input's size
        (`auto_pad` SAME_UPPER or SAME_LOWER).
    """
    about = attributes(node)
    rule = about.get("auto_pad", "NOTSET")
    if rule == "VALID":
        return [0] * rank, [0] * rank
    if rule != "NOTSET":
        return None
    pads = list(about.get("pads", [0] * 2 * rank))
    return pads[:rank], pads[rank:]


def run_pass(model: onnx.ModelProto, change: Callable[[GraphEditor, NodeProto], bool]) -> int:
    """Offer every node to `change` once, in graph order, and finish the graph.

    Args:
        model: Edited in place.
        change: Returns whether it changed something at that node. A node that an earlier call
            took out is not offered.

    Returns:
        The number of places changed.
    """
    editor = GraphEditor(model)
    places = 0
    for node in list(editor.nodes):
        if any(node is other for other in editor.nodes):
            places += change(editor, node)
    if places:
        editor.finish()
    return places


def _copied(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _bodies(attribute: AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.type == AttributeProto.GRAPH:
        yield attribute.g
    yield from attribute.graphs


def _read_names(node: NodeProto) -> Iterator[str]:
    """Yield what a node reads, with what the nodes in its bodies read."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for body in _bodies(attribute):
            for inner in body.node:
                yield from _read_names(inner)
            yield from (value.name for value in body.output)


def _all_names(graph: onnx.GraphProto) -> Iterator[str]:
    for values in (graph.input, graph.output, graph.initializer):
        yield from (value.name for value in values)
    for node in graph.node:
        yield node.name
        yield from node.output
        yield from _read_names(node)


def _inferred_shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """Infer the shape of every tensor without a second copy of the weights.

    Large initialisers are shown to shape inference as inputs: of a weight only its shape counts,
    and serialising several hundred megabytes for that would double the memory.
    """
    graph = model.graph
    large = [tensor for tensor in graph.initializer if prod(tensor.dims) > _SMALL]
    names = {tensor.name for tensor in large}
    bare = helper.make_model(
        helper.make_graph(
            list(graph.node),
            graph.name or "graph",
            [
                *(value for value in graph.input if value.name not in names),
                *(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in large),
            ],
            list(graph.output),
            [tensor for tensor in graph.initializer if tensor.name not in names],
        ),
        opset_imports=list(model.opset_import),
        ir_version=max(model.ir_version, 4),
        functions=list(model.functions),
    )
    inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            shapes[value.name] = tuple(
                d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim
            )
    return shapes


def make_node(
    editor: GraphEditor,
    kind: str,
    inputs: Sequence[str],
    output: str,
    **attributes: Any,
) -> NodeProto:
    """Return a node with one output; name and output are made free of clashes."""
    name = editor.free_name(f"node_{output}")
    return helper.make_node(kind, list(inputs), [editor.free_name(output)], name=name, **attributes)


def is_float(array: Array | None) -> bool:
    """Return whether there is an array and it holds 32-bit floats, as ONNX stores weights."""
    return array is not None and array.dtype == np.float32


def int64(values: Iterable[int]) -> Array:
    """Return whole numbers as ONNX wants shapes, axes and indices."""
    return np.array(list(values), np.int64)


FLOAT = TensorProto.FLOAT
