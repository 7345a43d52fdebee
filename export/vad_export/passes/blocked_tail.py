"""What follows a convolution that computes blocks of pixels, computed on the blocks as well.

`output_blocking` would put the pixels back into their places only for the score to add them all up.
Where everything behind the convolution works pixel by pixel and then sums over the picture, the
blocks can stay: a depth-to-space step commutes with such operations. The picture that they are
compared with is cut into the same blocks, by a convolution whose kernels hold a single 1: engines
run it in the memory layout of its neighbours, which no chain of Reshape and Transpose has.

::

    blocks - depth-to-space - Sigmoid ----- Sub - Mul - ReduceSum - score
                                clip / 255 --/
    blocks - Sigmoid - Mul 255 - Sub - Div 255 - Mul - ReduceSum (the rest of the block) - score
      clip, space-to-depth -------/
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from onnx import NodeProto, TensorProto

from vad_calibration.graph import attributes
from vad_export.passes.graph import Array, GraphEditor, int64, make_node
from vad_runtime.contracts.manifest import COPY

_UNARY = ("Abs", "Identity", "LeakyRelu", "Neg", "Relu", "Sigmoid", "Sqrt", "Tanh")
_BINARY = ("Add", "Div", "Mul", "Pow", "Sub")
_SUMS = ("ReduceMean", "ReduceSum")
_SCALED = ("Div", "Mul")
_TURNS = ("Cast", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """A tensor (N, block positions, *coarse) that stands for one (N, 1, *sizes)."""

    tensor: str
    sizes: Sequence[int]
    """Of the picture, pixels along each spatial axis."""
    sides: Sequence[int]
    """Of a block; they divide the sizes."""

    @property
    def coarse(self) -> list[int]:
        """Blocks along each spatial axis."""
        return [size // side for size, side in zip(self.sizes, self.sides, strict=True)]


def sum_of_blocks(editor: GraphEditor, pixels: str, blocks: Blocks) -> bool:
    """Move what is computed from a tensor of pixels over to its blocks, as far as a sum.

    Nothing is changed unless there is such a sum, every step towards it works on each pixel by
    itself, and nobody else reads any of the tensors.

    Args:
        editor: The graph; its `pixels` are made by nobody any more, or soon.
        pixels: The tensor (N, 1, *sizes) that readers know.
        blocks: What takes its place.

    Returns:
        Whether `pixels` has no reader any more.
    """
    steps = _steps(editor, pixels, blocks)
    if steps is None:
        return False
    writer = _Writer(editor, blocks)
    current = blocks.tensor
    for step in steps[:-1]:
        current = writer.step(step, current)
    last = steps[-1]
    writer.sum(last, current)
    at = next(i for i, other in enumerate(editor.nodes) if other is last.node)
    editor.nodes[at:at] = writer.nodes
    for step in steps:
        editor.remove(step.node)
    editor.set_output(writer.nodes[-1], 0, last.node.output[0])
    return True


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A node on the way to the sum, and what else it reads."""

    node: NodeProto
    source: str
    """The tensor of pixels that it reads."""
    whole: "_Whole | None" = None
    """The picture that it is compared with."""
    axes: tuple[int, ...] = ()
    """For a sum."""


@dataclass(frozen=True, kw_only=True)
class _Whole:
    """A picture as whole numbers, and how it is scaled behind that."""

    tensor: str
    moves: tuple[NodeProto, ...]
    """Slices, from the last to the first, that are to be made of the whole numbers."""
    scale: NodeProto | None
    """Div or Mul by a constant."""


def _steps(editor: GraphEditor, pixels: str, blocks: Blocks) -> list[_Step] | None:
    """Return the nodes from a tensor to the sum over it; None where there is no such chain."""
    steps: list[_Step] = []
    tensor = pixels
    while True:
        readers = editor.consumers(tensor)
        if len(readers) != 1 or editor.is_kept(tensor) or len(readers[0].output) != 1:
            return None
        node = readers[0]
        step = _Step(node=node, source=tensor)
        if node.op_type in _SUMS:
            axes = _summed_axes(editor, node, len(blocks.sizes) + 2)
            if axes is None or node.input[0] != tensor:
                return None
            return [*steps, _Step(node=node, source=tensor, axes=axes)]
        if node.op_type in _BINARY:
            others = {name for name in node.input if name != tensor}
            if any(not _is_scalar(editor, name) for name in others):
                compared = any(one.whole for one in steps)
                whole = None if compared else _whole(editor, node, tensor, blocks)
                if whole is None:
                    return None
                step = _Step(node=node, source=tensor, whole=whole)
        elif node.op_type not in _UNARY:
            return None
        steps.append(step)
        tensor = node.output[0]


def _is_scalar(editor: GraphEditor, name: str) -> bool:
    value = editor.constant(name)
    return value is not None and value.size == 1 and value.ndim <= 1


def _whole(editor: GraphEditor, node: NodeProto, tensor: str, blocks: Blocks) -> _Whole | None:
    """Return the other operand of a subtraction, if it is a picture of whole numbers, scaled.

    Only whole numbers up to 255 pass a convolution in bf16 or fp16 unharmed.
    """
    if node.op_type != "Sub" or list(node.input).count(tensor) != 1:
        return None
    name = next(name for name in node.input if name != tensor)
    shape = editor.shape(name)
    if shape is None or list(shape[1:]) != [1, *blocks.sizes]:
        return None
    scale: NodeProto | None = None
    moves: list[NodeProto] = []
    maker = editor.producer(name)
    while maker is not None and maker.op_type in ("Slice", *_SCALED):
        if maker.op_type == "Slice":
            moves.append(maker)
        elif scale is None and _is_scalar(editor, maker.input[1]):
            scale = maker
        else:
            return None
        name = maker.input[0]
        maker = editor.producer(name)
    return (
        _Whole(tensor=name, moves=tuple(moves), scale=scale)
        if _whole_numbers(editor, name)
        else None
    )


def _whole_numbers(editor: GraphEditor, name: str) -> bool:
    """Return whether a tensor is the clip of bytes itself, cast and turned."""
    while (maker := editor.producer(name)) is not None:
        if maker.op_type not in _TURNS:
            return False
        name = maker.input[0]
    return any(
        value.name == name and value.type.tensor_type.elem_type == TensorProto.UINT8
        for value in editor.model.graph.input
    )


def _summed_axes(editor: GraphEditor, node: NodeProto, rank: int) -> tuple[int, ...] | None:
    """Return the axes of a sum that runs over the channels and not over the clips."""
    axes: Sequence[int] | None
    if len(node.input) > 1 and node.input[1]:
        value = editor.constant(node.input[1])
        axes = None if value is None else [int(axis) for axis in value.ravel()]
    else:
        axes = attributes(node).get("axes")
    if not axes:
        return None
    found = sorted(axis % rank for axis in axes)
    return tuple(found) if 0 not in found and 1 in found else None


class _Writer:
    """Writes the same steps for the blocks.

    Args:
        editor: Of the graph.
        blocks: What the steps begin with.
    """

    def __init__(self, editor: GraphEditor, blocks: Blocks) -> None:
        self._editor = editor
        self._blocks = blocks
        self.nodes: list[NodeProto] = []
        """What was written, in order."""

    def _add(self, kind: str, inputs: Sequence[str], wish: str, **about: object) -> str:
        node = make_node(self._editor, kind, inputs, wish, **about)
        self.nodes.append(node)
        return str(node.output[0])

    def _constant(self, value: Array, wish: str) -> str:
        return self._editor.add_constant(value, wish)

    def step(self, step: _Step, current: str) -> str:
        """Write a step that reads `current`; return its result."""
        node, wish = step.node, f"{step.node.output[0]}_blocks"
        kept = attributes(node)
        if step.whole is None:
            inputs = [current if name == step.source else name for name in node.input]
            return self._add(node.op_type, inputs, wish, **kept)
        whole, scale = step.whole, step.whole.scale
        other = self._cut(whole, wish)
        if scale is not None:
            # The scale is taken out of the picture: its numbers stay whole.
            undo = {"Div": "Mul", "Mul": "Div"}[scale.op_type]
            current = self._add(undo, [current, scale.input[1]], f"{wish}_unscaled")
        pair = [current if name == step.source else other for name in node.input]
        made = self._add(node.op_type, pair, wish)
        if scale is not None:
            made = self._add(scale.op_type, [made, scale.input[1]], f"{wish}_scaled")
        return made

    def _cut(self, whole: _Whole, wish: str) -> str:
        """Write the steps that cut a picture into blocks."""
        tensor = whole.tensor
        for move in reversed(whole.moves):
            tensor = self._add("Slice", [tensor, *move.input[1:]], f"{wish}_slice")
        sides = list(self._blocks.sides)
        kernel = np.eye(prod(sides), dtype=np.float32).reshape(-1, 1, *sides)
        weight = self._constant(kernel, f"{wish}_cut")
        size = {"kernel_shape": sides, "strides": sides}
        made = self._add("Conv", [tensor, weight], f"{wish}_picture", **size)
        self.nodes[-1].name = self._editor.free_name(f"{COPY}{made}")
        return made

    def sum(self, step: _Step, current: str) -> None:
        """Write a sum over whole blocks, then over what is left of the block's positions."""
        node, blocks = step.node, self._blocks
        rank = len(blocks.sizes)
        wish = f"{node.output[0]}_blocks"
        spatial = [axis - 2 for axis in step.axes if axis >= 2]
        left = [i for i in range(rank) if i not in spatial]
        if spatial:
            current = self._reduce(node, current, [i + 2 for i in spatial], f"{wish}_summed")
        # (N, positions, blocks left) -> (N, *sides, blocks left)
        coarse = [blocks.coarse[i] for i in left]
        apart = self._constant(int64([0, *blocks.sides, *coarse]), f"{wish}_apart_shape")
        current = self._add("Reshape", [current, apart], f"{wish}_apart")
        if spatial:
            current = self._reduce(node, current, [i + 1 for i in spatial], f"{wish}_rest")
        # (N, *sides left, *blocks left) -> (N, blocks, side, blocks, side, …)
        if any(blocks.sides[i] > 1 for i in left):
            order = [0]
            for i in range(len(left)):
                order += [1 + len(left) + i, 1 + i]
            current = self._add("Transpose", [current], f"{wish}_turned", perm=order)
        keeps = attributes(node).get("keepdims", 1)
        shape = [0]
        for i, size in zip(range(-1, rank), [1, *blocks.sizes], strict=True):
            if i in left:
                shape.append(size)
            elif keeps:
                shape.append(1)
        whole = self._constant(int64(shape), f"{wish}_shape")
        self._add("Reshape", [current, whole], wish)

    def _reduce(self, node: NodeProto, current: str, axes: Sequence[int], wish: str) -> str:
        """Write the same kind of sum over other axes, without keeping them."""
        if len(node.input) > 1:
            names = [current, self._constant(int64(axes), f"{wish}_axes")]
            return self._add(node.op_type, names, wish, keepdims=0)
        return self._add(node.op_type, [current], wish, keepdims=0, axes=list(axes))
