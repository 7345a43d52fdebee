"""An ONNX graph: who makes and who reads what, names, constants, attributes."""

from collections import defaultdict
from collections.abc import Container, Mapping
from functools import cached_property
from itertools import chain, count
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, NodeProto, TensorProto

LIGHT = 1024
"""Initialisers of so many elements or fewer may be shapes and axes, which shape inference needs."""


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
            if prod(tensor.dims) <= LIGHT:
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


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return a node's attributes by name; strings as str."""
    plain = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in plain.items()}


def set_attribute(node: NodeProto, name: str, value: Any) -> None:
    """Set or replace one attribute."""
    kept = [a for a in node.attribute if a.name != name]
    new = [*kept, onnx.helper.make_attribute(name, value)]
    copied = [AttributeProto.FromString(a.SerializeToString()) for a in new]
    del node.attribute[:]
    node.attribute.extend(copied)


def copies(node: NodeProto, weight: npt.NDArray[np.generic]) -> bool:
    """Return whether a convolution only copies pixels: kernels hold a single 1, some may be empty.

    Such stand for moves of pixels (`stack_rows`, `output_blocking`). In floating point they
    keep whole numbers up to 255 as they are, in INT8 they would not.
    """
    if node.op_type != "Conv" or len(node.input) > 2 or weight.size > LIGHT:
        return False
    kernels = weight.reshape(len(weight), -1)
    ones = kernels == 1
    # A layer of zeros alone, as before training behind a BatchNorm that begins at 0, is a layer.
    return bool(((kernels == 0) | ones).all() and (ones.sum(axis=1) <= 1).all() and ones.any())
