"""The normalisation of the pixels folded into the first convolutions.

Between `clip` and the first convolution lie scalings, a mean, a standard deviation, sometimes a
channel swap, a crop or a mean clip. All of it is ``scale * x + shift`` of raw pixels `x`. A
convolution takes over the scale always, and the shift where it does not pad: padded zeros mean
"mean pixel" there, so with padding one subtraction in raw units stays, ``x - (-shift / scale)``.
"""

from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import NodeProto

from vad_calibration.graph import attributes
from vad_export.passes.graph import (
    FLOAT,
    Array,
    GraphEditor,
    is_float,
    make_node,
    spatial_pads,
)


@dataclass(frozen=True, kw_only=True)
class _Affine:
    """What a tensor is: ``scale * raw + shift``, with the channels in another order."""

    raw: str
    """Tensor of raw pixels in the same layout, all channels."""
    axis: int
    """Which axis has the channels."""
    scale: Array
    """float64, shape (channels of this tensor,)."""
    shift: Array
    """float64, of the tensor's rank; broadcasts to its shape, 1 along N."""
    order: tuple[int, ...]
    """The channel of `raw` that each channel comes from."""
    steps: int = 0
    """How many nodes compute the affine function."""
    is_float: bool = False


def normalisation(model: onnx.ModelProto) -> int:
    """Fold what is done to raw pixels into the convolutions that read them first.

    Args:
        model: fp32, edited in place; its first input holds the pixels, channels last.

    Returns:
        How many convolutions took something over.
    """
    editor = GraphEditor(model)
    source = model.graph.input[0]
    rank = len(source.type.tensor_type.shape.dim)
    if source.type.tensor_type.elem_type != onnx.TensorProto.UINT8 or rank < 3:
        return 0
    channels = source.type.tensor_type.shape.dim[rank - 1].dim_value
    if channels < 1:
        return 0
    known = {
        source.name: _Affine(
            raw=source.name,
            axis=rank - 1,
            scale=np.ones(channels),
            shift=np.zeros((1,) * rank),
            order=tuple(range(channels)),
        )
    }
    walk = _Walk(editor, known, channels)
    places = sum(walk.visit(node) for node in list(editor.nodes))
    if places:
        editor.finish()
    return places


class _Walk:
    """Follows the pixels from node to node, in graph order."""

    def __init__(self, editor: GraphEditor, known: dict[str, _Affine], channels: int) -> None:
        self._editor = editor
        self._channels = channels
        self._known = known
        self._copies: dict[tuple[str, ...], str] = {}
        self._centred: list[tuple[str, Array, str]] = []

    def visit(self, node: NodeProto) -> bool:
        """Note what a node makes of the pixels; return whether it was a Conv that was changed."""
        sources = [self._known.get(name) for name in node.input]
        if not any(sources):
            return False
        if node.op_type == "Conv":
            return sources[0] is not None and self._fold(node, sources[0])
        result: _Affine | None = None
        if node.op_type in ("Mul", "Div", "Add", "Sub"):
            result = self._arithmetic(node)
        elif node.op_type == "Concat":
            result = _swapped(node, sources)
        elif sources[0] is not None:
            result = self._moved(node, sources[0])
        if result is not None:
            self._known[node.output[0]] = result
        return False

    def _arithmetic(self, node: NodeProto) -> _Affine | None:
        first = node.input[0] in self._known
        source = self._known[node.input[0 if first else 1]]
        operand = self._editor.constant(node.input[1 if first else 0])
        rank = source.shift.ndim
        if not source.is_float or operand is None or operand.ndim > rank:
            return None
        if node.op_type == "Div" and not first:
            return None
        by: Array = np.expand_dims(operand, tuple(range(rank - operand.ndim))).astype(np.float64)
        if by.shape[0] != 1 or by.shape[source.axis] not in (1, len(source.order)):
            return None
        steps = source.steps + 1
        if node.op_type in ("Add", "Sub"):
            sign = 1 if node.op_type == "Add" or first else -1
            of = 1 if node.op_type == "Add" else (-1 if first else 1)
            return replace(
                source, scale=sign * source.scale, shift=sign * source.shift + of * by, steps=steps
            )
        if any(size != 1 for i, size in enumerate(by.shape) if i != source.axis):
            return None
        factor = 1 / by if node.op_type == "Div" else by
        scale = source.scale * factor.reshape(-1)
        if not np.isfinite(scale).all() or not scale.all():
            return None
        return replace(source, scale=scale, shift=source.shift * factor, steps=steps)

    def _moved(self, node: NodeProto, source: _Affine) -> _Affine | None:
        """Follow a node that moves or picks pixels, and let a copy of it do so with raw ones."""
        about = attributes(node)
        if node.op_type == "Cast" and about["to"] == FLOAT:
            moved: _Affine | None = replace(source, is_float=True)
        elif node.op_type == "Transpose":
            order = about.get("perm", list(reversed(range(source.shift.ndim))))
            moved = None
            if order[0] == 0:
                shift = source.shift.transpose(order)
                moved = replace(source, axis=order.index(source.axis), shift=shift)
        elif node.op_type == "Slice":
            moved = self._sliced(node, source)
            if moved is not None and moved.order != source.order:
                return moved  # picked channels are sorted out in the weights
        elif node.op_type == "Gather":
            moved = self._gathered(node, source)
        elif node.op_type == "Reshape":
            moved = self._reshaped(node, source)
        else:
            moved = None
        if moved is None:
            return None
        if source.raw == node.input[0]:
            return replace(moved, raw=node.output[0])
        return replace(moved, raw=self._copy(node, source.raw))

    def _sliced(self, node: NodeProto, source: _Affine) -> _Affine | None:
        values = [self._editor.constant(name) if name else None for name in node.input[1:]]
        if len(values) < 2 or any(v is None for v in values):
            return None
        rank = source.shift.ndim
        starts, ends = (np.asarray(v).tolist() for v in values[:2])
        axes = np.asarray(values[2]).tolist() if len(values) > 2 else list(range(len(starts)))
        steps = np.asarray(values[3]).tolist() if len(values) > 3 else [1] * len(starts)
        scale, shift, order = source.scale, source.shift, source.order
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            axis %= rank
            if step < 1 or axis == 0:
                return None
            cut = slice(start, end, step)
            if axis == source.axis:
                scale, order = scale[cut], order[cut]
            if shift.shape[axis] > 1:
                shift = shift[(slice(None),) * axis + (cut,)]
        if order != source.order and {axis % rank for axis in axes} != {source.axis}:
            return None
        return replace(source, scale=scale, shift=shift, order=order)

    def _gathered(self, node: NodeProto, source: _Affine) -> _Affine | None:
        axis = attributes(node).get("axis", 0) % source.shift.ndim
        indices = self._editor.constant(node.input[1])
        if indices is None or indices.ndim != 1 or axis in (0, source.axis):
            return None
        if source.shift.shape[axis] == 1:
            return source
        return replace(source, shift=np.take(source.shift, indices, axis))

    def _reshaped(self, node: NodeProto, source: _Affine) -> _Affine | None:
        """Follow a Reshape from (N, T, C, ...) to (N * T, C, ...)."""
        shape = self._editor.constant(node.input[1])
        before = self._editor.shape(node.input[0])
        if shape is None or before is None or source.order != tuple(range(self._channels)):
            return None
        tail = list(before[source.axis :])
        target = [int(size) for size in shape]
        if None in tail or target[-len(tail) :] != tail or len(target) != len(tail) + 1:
            return None
        if any(size != 1 for size in source.shift.shape[: source.axis]):
            return None
        shift = source.shift.reshape(1, *source.shift.shape[source.axis :])
        return replace(source, axis=1, shift=shift)

    def _copy(self, node: NodeProto, raw: str) -> str:
        """Return what a node makes of raw pixels: from a copy of it, made once."""
        key = (node.output[0], raw)
        if key not in self._copies:
            output = self._editor.free_name(f"{node.output[0]}_raw")
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = self._editor.free_name(f"node_{output}")
            copy.input[0] = raw
            copy.output[0] = output
            self._editor.insert(node, copy)
            self._copies[key] = output
        return self._copies[key]

    def _fold(self, conv: NodeProto, source: _Affine) -> bool:
        weight = self._editor.constant(conv.input[1])
        if not is_float(weight) or source.axis != 1 or not source.is_float or not source.steps:
            return False
        assert weight is not None
        groups = attributes(conv).get("group", 1)
        plain = tuple(range(self._channels))
        # Picked channels go into the weights only where every raw channel is read once.
        if tuple(sorted(source.order)) != plain or (groups > 1 and source.order != plain):
            return False
        rank = weight.ndim - 2
        shifted = bool(source.shift.any())
        into_bias = shifted and _takes_shift(conv, source, rank)
        before = self._editor.producer(conv.input[0])
        if (
            shifted
            and not into_bias
            and (before is not None and before.op_type == "Sub" and source.steps == 1)
            and (bool((source.scale == 1).all()) and source.order == plain)
        ):
            return False  # one Sub right in front, in raw units: nothing to gain
        # Output o of a grouped convolution reads the channels of its own group only.
        reads = np.repeat(np.array(plain).reshape(groups, -1), weight.shape[0] // groups, axis=0)
        wide, ones = weight.astype(np.float64), (1,) * rank
        if into_bias:
            each = np.broadcast_to(source.shift.reshape(-1), (len(plain),))[reads]
            extra = (wide * each.reshape(*each.shape, *ones)).sum(axis=tuple(range(1, rank + 2)))
            if not self._add_to_bias(conv, extra):
                return False
        wide = wide * source.scale[reads].reshape(*reads.shape, *ones)
        wide = wide[:, np.argsort(source.order)] if source.order != plain else wide
        name = self._editor.add_constant(wide.astype(np.float32), f"{conv.input[1]}_raw")
        self._editor.set_input(conv, 1, name)
        centred = self._centre(conv, source) if shifted and not into_bias else source.raw
        self._editor.set_input(conv, 0, centred)
        return True

    def _add_to_bias(self, conv: NodeProto, extra: Array) -> bool:
        """Add to a convolution's bias, shape (C_out,); False where that is no constant."""
        if len(conv.input) > 2 and conv.input[2]:
            bias = self._editor.constant(conv.input[2])
            if bias is None or not is_float(bias):
                return False
            extra = extra + bias.astype(np.float64)
        name = self._editor.add_constant(extra.astype(np.float32), f"{conv.output[0]}_bias")
        self._editor.set_input(conv, 2, name)
        return True

    def _centre(self, conv: NodeProto, source: _Affine) -> str:
        """Return the tensor ``raw + shift / scale``; convolutions of the same pixels share it."""
        across = source.scale.reshape(1, -1, *(1,) * (source.shift.ndim - 2))
        mean = -np.broadcast_to(source.shift, np.broadcast(source.shift, across).shape) / across
        if source.order != tuple(range(len(source.order))):
            mean = mean[:, np.argsort(source.order)]
        value = mean.astype(np.float32)
        for raw, other, tensor in self._centred:
            if raw == source.raw and np.array_equal(value, other):
                return tensor
        name = self._editor.add_constant(value, f"{source.raw}_mean")
        node = make_node(self._editor, "Sub", [source.raw, name], f"{source.raw}_centred")
        self._editor.insert(conv, node)
        tensor = str(node.output[0])
        self._centred.append((source.raw, value, tensor))
        return tensor


def _takes_shift(conv: NodeProto, source: _Affine, rank: int) -> bool:
    """Return whether a shift is the same for every output pixel: no padding, one per channel."""
    pads = spatial_pads(conv, rank)
    padded = pads is None or any(pads[0]) or any(pads[1])
    return not padded and all(size == 1 for size in source.shift.shape[2:])


def _swapped(node: NodeProto, sources: list[_Affine | None]) -> _Affine | None:
    """Follow a Concat that puts picked channels of the same raw pixels side by side."""
    parts = [source for source in sources if source is not None]
    first = parts[0]
    axis = attributes(node)["axis"] % first.shift.ndim
    if len(parts) < len(sources) or any(
        part.raw != first.raw or part.axis != axis or part.is_float != first.is_float
        for part in parts
    ):
        return None
    sizes = [list(part.shift.shape) for part in parts]
    whole = [max(size[i] for size in sizes) for i in range(first.shift.ndim)]
    shifts = []
    for part in parts:
        shape = [len(part.order) if i == axis else size for i, size in enumerate(whole)]
        shifts.append(np.broadcast_to(part.shift, shape))
    return replace(
        first,
        scale=np.concatenate([part.scale for part in parts]),
        shift=np.concatenate(shifts, axis),
        order=sum((part.order for part in parts), ()),
        steps=max(part.steps for part in parts) + 1,
    )
