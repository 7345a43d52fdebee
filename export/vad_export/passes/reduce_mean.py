"""A mean over tokens or frames as a MatMul with a row of 1/n.

TimeSformer averages the class tokens of its frames right after a linear layer. OpenVINO does not
compile a graph in which that ReduceMean follows a quantised MatMul; as a MatMul it does.
"""

import numpy as np
import onnx
from onnx import NodeProto

from vad_calibration.graph import attributes
from vad_export.passes.graph import (
    GraphEditor,
    int64,
    make_node,
    run_pass,
)

_FOLLOWED = ("Reshape", "Transpose", "Gather", "Slice", "Squeeze", "Unsqueeze", "Identity", "Add")
"""Nodes that are looked through on the way back to a MatMul; Add only with a constant."""


def reduce_mean(model: onnx.ModelProto) -> int:
    """Replace each ReduceMean over tokens behind a linear layer.

    Tokens are the last axis but one, of a size known in the graph; between the linear layer and the
    mean only its bias and changes of shape may lie. Global average pools of convolutions are left
    alone: every engine has them as one fast kernel.

    Args:
        model: Edited in place.

    Returns:
        How many ReduceMeans are MatMuls now.
    """
    return run_pass(model, _replace)


def _replace(editor: GraphEditor, node: NodeProto) -> bool:
    if node.op_type != "ReduceMean" or not _is_behind_matmul(editor, node.input[0]):
        return False
    shape, axes = editor.shape(node.input[0]), _axes(editor, node)
    if shape is None or len(shape) < 2 or axes is None or len(axes) != 1:
        return False
    size = shape[-2]
    if size is None or axes[0] not in (-2, len(shape) - 2):
        return False
    output = node.output[0]
    row = editor.add_constant(np.full((1, size), 1 / size, np.float32), f"{output}_mean_row")
    matmul = make_node(editor, "MatMul", [row, node.input[0]], f"{output}_matmul")
    new = [matmul]
    if not attributes(node).get("keepdims", 1):
        axis = editor.add_constant(int64([-2]), f"{output}_axis")
        new.append(make_node(editor, "Squeeze", [matmul.output[0], axis], f"{output}_squeezed"))
    editor.insert(node, *new)
    editor.remove(node)
    editor.set_output(new[-1], 0, output)
    return True


def _axes(editor: GraphEditor, node: NodeProto) -> list[int] | None:
    """Return the constant axes: an input since opset 18, an attribute before."""
    if len(node.input) > 1 and node.input[1]:
        value = editor.constant(node.input[1])
        return None if value is None else [int(axis) for axis in value.reshape(-1)]
    return list(attributes(node).get("axes", [])) or None


def _is_behind_matmul(editor: GraphEditor, tensor: str) -> bool:
    while (node := editor.producer(tensor)) is not None:
        if node.op_type in ("MatMul", "Gemm"):
            return True
        if node.op_type not in _FOLLOWED:
            return False
        tensor = node.input[0]
        if node.op_type == "Add":
            constant = [editor.constant(name) is not None for name in node.input]
            if not any(constant):
                return False
            tensor = node.input[constant.index(False)] if False in constant else tensor
    return False
