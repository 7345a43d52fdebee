"""BatchNormalization folded into the layer in front of it or behind it.

In inference it is ``y = a * x + c`` for each channel, with ``a = gamma / sqrt(var + epsilon)`` and
``c = beta - mean * a`` (Ioffe & Szegedy 2015, section 3.1), so a linear layer that makes `x`, or a
Gemm that reads `y`, can do it with other weights.
"""

import numpy as np
import onnx
from onnx import NodeProto

from vad_calibration.graph import attributes, set_attribute
from vad_export.passes.graph import (
    Array,
    GraphEditor,
    is_float,
    run_pass,
)

_LINEAR = ("Conv", "ConvTranspose", "Gemm")


def batch_norm(model: onnx.ModelProto) -> int:
    """Fold each BatchNormalization that a linear layer can take over.

    That is one behind a Conv, ConvTranspose or Gemm whose output nothing else reads, else one in
    front of Gemms only (the first layer of the autoencoder on embeddings). In front of a
    convolution it stays: with padding the fold would be wrong at the border.

    Args:
        model: fp32, edited in place.

    Returns:
        How many BatchNormalizations are gone.
    """
    return run_pass(model, _fold)


def _fold(editor: GraphEditor, node: NodeProto) -> bool:
    if node.op_type != "BatchNormalization" or attributes(node).get("training_mode", 0):
        return False
    affine = _affine(editor, node)
    if affine is None or any(node.output[1:]):
        return False
    return _fold_backward(editor, node, *affine) or _fold_forward(editor, node, *affine)


def _affine(editor: GraphEditor, node: NodeProto) -> tuple[Array, Array] | None:
    """Return `a` and `c`, float64, shape (C,)."""
    values = [editor.constant(name) for name in node.input[1:5]]
    if not all(is_float(value) for value in values):
        return None
    gamma, beta, mean, var = (np.asarray(value, np.float64) for value in values)
    a = gamma / np.sqrt(var + attributes(node).get("epsilon", 1e-5))
    return a, beta - mean * a


def _fold_backward(editor: GraphEditor, node: NodeProto, a: Array, c: Array) -> bool:
    """Fold into the layer that makes the input."""
    layer = editor.producer(node.input[0])
    if layer is None or layer.op_type not in _LINEAR:
        return False
    if len(editor.consumers(node.input[0])) != 1 or editor.is_kept(node.input[0]):
        return False
    weight, bias = _weights(editor, layer, len(a))
    if weight is None or bias is None:
        return False
    if layer.op_type == "Gemm":
        per_output = a[:, None] if attributes(layer).get("transB", 0) else a
    elif layer.op_type == "Conv":
        per_output = a.reshape(-1, *[1] * (weight.ndim - 1))
    else:
        # (C_in, C_out / groups, …): the input channels of group g make the outputs of group g.
        groups = attributes(layer).get("group", 1)
        rows = np.repeat(a.reshape(groups, -1), weight.shape[0] // groups, axis=0)
        per_output = rows.reshape(*rows.shape, *[1] * (weight.ndim - 2))
    _store(editor, layer, weight * per_output, bias * a + c)
    output = node.output[0]
    editor.remove(node)
    editor.set_output(layer, 0, output)
    return True


def _fold_forward(editor: GraphEditor, node: NodeProto, a: Array, c: Array) -> bool:
    """Fold into the Gemms that read the output."""
    output = node.output[0]
    readers = editor.consumers(output)
    if not readers or editor.is_kept(output):
        return False
    for gemm in readers:
        about = attributes(gemm)
        usable = gemm.op_type == "Gemm" and not about.get("transA", 0)
        if not usable or output in gemm.input[1:]:
            return False
        stored = editor.constant(gemm.input[1])
        if stored is None or stored.ndim != 2:
            return False
        width = stored.shape[0 if about.get("transB", 0) else 1]
        if any(part is None for part in _weights(editor, gemm, width)):
            return False
    for gemm in readers:
        _into_gemm(editor, gemm, a, c)
        editor.set_input(gemm, 0, node.input[0])
    editor.remove(node)
    return True


def _into_gemm(editor: GraphEditor, gemm: NodeProto, a: Array, c: Array) -> None:
    about = attributes(gemm)
    stored = editor.constant(gemm.input[1])
    assert stored is not None
    transposed = about.get("transB", 0)
    weight, bias = _weights(editor, gemm, stored.shape[0 if transposed else 1])
    assert weight is not None
    assert bias is not None
    by_input = weight if transposed else weight.T
    shift = about.get("alpha", 1.0) * (by_input @ c)
    _store(editor, gemm, weight * (a if transposed else a[:, None]), bias + shift)


def _weights(
    editor: GraphEditor, layer: NodeProto, channels: int
) -> tuple[Array | None, Array | None]:
    """Return a layer's weight and its bias of shape (channels,), both float64, bias times beta.

    A layer without a bias has zeros. None for what is no constant, or no bias for each channel.
    """
    weight = editor.constant(layer.input[1])
    if not is_float(weight):
        return None, None
    assert weight is not None
    wide = weight.astype(np.float64)
    if len(layer.input) < 3 or not layer.input[2]:
        return wide, np.zeros(channels)
    bias = editor.constant(layer.input[2])
    if bias is None or not is_float(bias):
        return wide, None
    beta = attributes(layer).get("beta", 1.0) if layer.op_type == "Gemm" else 1.0
    # A Gemm's bias is anything that broadcasts to (N, channels); one row is what a fold can use.
    if bias.size not in (1, channels) or (bias.ndim > 1 and bias.shape[-1] != bias.size):
        return wide, None
    return wide, beta * np.broadcast_to(bias.reshape(-1).astype(np.float64), (channels,))


def _store(editor: GraphEditor, layer: NodeProto, weight: Array, bias: Array) -> None:
    """Give a layer its own new weight and bias; the old ones may have other readers."""
    names = (f"{layer.input[1]}_folded", f"{layer.output[0]}_bias")
    editor.set_input(layer, 1, editor.add_constant(weight.astype(np.float32), names[0]))
    editor.set_input(layer, 2, editor.add_constant(bias.astype(np.float32), names[1]))
    if layer.op_type == "Gemm":
        set_attribute(layer, "beta", 1.0)
