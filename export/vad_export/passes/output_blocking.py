"""A convolution with few output channels computes a block of pixels at a time.

Engines put output channels into the lanes of a vector register (16 floats with AVX-512), so a
convolution to one channel uses one lane of 16. The convolution of a whole block of neighbouring
output pixels, each as a channel of its own, is the same sums in other places: a kernel of size
``k + b - 1`` with stride `b` holds `b` shifted copies of the kernel of size `k` along each axis.
A depth-to-space step puts the pixels back, unless what follows can do without (`blocked_tail`).
Nothing is rounded differently but for the order of additions.
"""

from collections.abc import Sequence
from itertools import product
from math import ceil, prod

import numpy as np
import onnx
from onnx import NodeProto

from vad_calibration.graph import attributes, copies, set_attribute
from vad_export.passes.blocked_tail import Blocks, sum_of_blocks
from vad_export.passes.graph import (
    Array,
    GraphEditor,
    int64,
    is_float,
    make_node,
    run_pass,
    spatial_pads,
)

LANES = 16
"""Floats in a vector register of the widest processors."""

MOST_CHANNELS = 4
"""Convolutions to more channels than this gain too little."""

_SIDES = (1, 2, 4)
_LEAST_GAIN = 1.5


def output_blocking(model: onnx.ModelProto) -> int:
    """Rewrite each convolution to at most four channels as one to a block of pixels.

    It must be 2-D or 3-D, without groups, with stride and dilation 1 and `same` padding of an odd
    kernel, and the sizes of its output must be known and divide by a block that is worth it. One
    that only copies pixels is left alone.

    Args:
        model: Edited in place.

    Returns:
        How many convolutions were rewritten.
    """
    return run_pass(model, _rewrite)


def best_block(channels: int, kernel: Sequence[int], sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the sides of the block that costs least, ones where none is worth it.

    The cost of an output pixel is (lanes in use, rounded up to whole registers) x (volume of the
    wider kernel) / (pixels of the block). One channel and a 3 x 3 x 3 kernel give (2, 2, 4): 96
    instead of 432.

    Args:
        channels: Output channels.
        kernel: Kernel size of each spatial axis.
        sizes: Output size of each spatial axis, pixels.
    """
    fitting = [
        sides
        for sides in product(_SIDES, repeat=len(sizes))
        if all(size % side == 0 for size, side in zip(sizes, sides, strict=True))
        and channels * prod(sides) <= LANES
    ]
    none = (1,) * len(sizes)
    # Among equals the longest last side: those pixels are neighbours in memory.
    best = min(fitting, key=lambda sides: (_cost(channels, kernel, sides), sides), default=none)
    gain = _cost(channels, kernel, none) / _cost(channels, kernel, best)
    return best if gain >= _LEAST_GAIN else none


def _cost(channels: int, kernel: Sequence[int], sides: Sequence[int]) -> float:
    lanes = LANES * ceil(channels * prod(sides) / LANES)
    wider = prod(k + b - 1 for k, b in zip(kernel, sides, strict=True))
    return lanes * wider / prod(sides)


def _rewrite(editor: GraphEditor, node: NodeProto) -> bool:
    if node.op_type != "Conv":
        return False
    weight = editor.constant(node.input[1])
    if not is_float(weight):
        return False
    assert weight is not None
    if copies(node, weight):  # it may be what stands for an earlier move of pixels
        return False
    kernel, channels = weight.shape[2:], weight.shape[0]
    if channels > MOST_CHANNELS or len(kernel) not in (2, 3) or not _is_same(node, kernel):
        return False
    bias = editor.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if len(node.input) > 2 and node.input[2] and bias is None:
        return False
    shape = editor.shape(node.output[0])
    sizes = [] if shape is None else [size for size in shape[2:] if size]
    if len(sizes) != len(kernel):
        return False
    block = best_block(channels, kernel, sizes)
    if prod(block) == 1:
        return False
    output = node.output[0]
    name = editor.add_constant(_blocked(weight, block), f"{node.input[1]}_blocked")
    editor.set_input(node, 1, name)
    if bias is not None:
        spread = np.repeat(bias, prod(block))
        editor.set_input(node, 2, editor.add_constant(spread, f"{node.input[2]}_blocked"))
    set_attribute(node, "kernel_shape", [k + b - 1 for k, b in zip(kernel, block, strict=True)])
    set_attribute(node, "strides", list(block))
    editor.set_output(node, 0, editor.free_name(f"{output}_blocks"))
    blocks = Blocks(tensor=node.output[0], sizes=sizes, sides=block)
    if channels == 1 and sum_of_blocks(editor, output, blocks):
        return True
    steps = _depth_to_space(editor, node.output[0], output, channels, sizes, block)
    after = next(i for i, other in enumerate(editor.nodes) if other is node)
    editor.nodes[after + 1 : after + 1] = steps
    editor.set_output(steps[-1], 0, output)
    return True


def _is_same(node: NodeProto, kernel: Sequence[int]) -> bool:
    """Return whether a Conv has no groups, stride 1, dilation 1, odd kernel and `same` padding."""
    about, ones = attributes(node), [1] * len(kernel)
    half = [k // 2 for k in kernel]
    return (
        about.get("group", 1) == 1
        and list(about.get("strides", ones)) == ones
        and list(about.get("dilations", ones)) == ones
        and all(k % 2 for k in kernel)
        and spatial_pads(node, len(kernel)) == (half, half)
    )


def _blocked(weight: Array, block: Sequence[int]) -> Array:
    """Return the weight whose output channel (m, position in the block) is channel m there.

    Args:
        weight: Shape (M, C, *k).
        block: Sides.

    Returns:
        Shape (M * prod(block), C, *(k + block - 1)), zeros around each copy of the kernel.
    """
    channels, inputs, *kernel = weight.shape
    wider = [k + b - 1 for k, b in zip(kernel, block, strict=True)]
    blocked = np.zeros((channels, *block, inputs, *wider), np.float32)
    for at in np.ndindex(*block):
        window = tuple(slice(i, i + k) for i, k in zip(at, kernel, strict=True))
        where: tuple[slice | int, ...] = (slice(None), *at, slice(None), *window)
        blocked[where] = weight
    return blocked.reshape(-1, inputs, *wider)


def _depth_to_space(
    editor: GraphEditor,
    source: str,
    output: str,
    channels: int,
    sizes: Sequence[int],
    block: Sequence[int],
) -> list[NodeProto]:
    """Return the nodes from (N, M * blocks, *sizes / block) to (N, M, *sizes).

    ONNX DepthToSpace knows two spatial axes only, and axes of the block that are 1 would only make
    the transposition slower, so this is Reshape, Transpose, Reshape.
    """
    cut = [i for i, side in enumerate(block) if side > 1]
    outer = [] if channels == 1 else [channels]
    coarse = [size // side for size, side in zip(sizes, block, strict=True)]
    apart = [0, *outer, *(block[i] for i in cut), *coarse]
    first = 1 + len(outer)
    order = list(range(first))
    for i in range(len(sizes)):
        order.append(first + len(cut) + i)
        if i in cut:
            order.append(first + cut.index(i))
    shapes = [
        editor.add_constant(int64(values), f"{output}_{what}_shape")
        for what, values in (("apart", apart), ("pixel", [0, channels, *sizes]))
    ]
    split = make_node(editor, "Reshape", [source, shapes[0]], f"{output}_apart")
    turned = make_node(editor, "Transpose", [split.output[0]], f"{output}_turned", perm=order)
    joined = make_node(editor, "Reshape", [turned.output[0], shapes[1]], f"{output}_pixels")
    return [split, turned, joined]
