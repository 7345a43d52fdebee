"""Which nodes of an FP16 graph stay in FP32, and why: one function a rule.

Half precision has 11 bits of mantissa, nothing above 65504, and nothing exact below 6.1e-5 (the
smaller numbers, down to 6e-8, lose bits, and some chips flush them to zero).
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx

from vad_export.fp16_graph import GraphView, attribute

LARGEST = float(np.finfo(np.float16).max)
TINY = float(np.finfo(np.float16).tiny)
"""Smallest number with all its bits."""

LARGE_REDUCTION = 64
"""Elements: above, the rounding of a sum in half precision may reach a percent."""

SMALL_TENSOR = 4096
"""Elements of one clip: below, single precision costs nothing that one could measure."""

SMALL_WEIGHT = 65536
"""Elements of the last matrix of a score head that may stay in single precision."""

LOST = 1e-3
"""Share of a constant's norm that rounding may take; ordinary weights lose 3e-4."""

RULES = MappingProxyType(
    {
        "asked": "the caller wants it so",
        "subgraph": "control flow, or read inside of it",
        "no_fp16": "ONNX has no such operator in FP16, or it makes its values from nothing",
        "normalisation": "arithmetic on pixels of 0..255 before the first layer",
        "integers": "arithmetic on integers that were cast to float: 2049 has no FP16 form",
        "tiny_epsilon": "an epsilon that FP16 flushes or rounds, up to the division by it",
        "l2_norm": "square root of a sum of squares, up to the division by it",
        "softmax": "sum of exponentials",
        "wide_range": "exponentials, logarithms, powers, reciprocals",
        "large_reduction": f"sum or mean of more than {LARGE_REDUCTION} elements, and its squares",
        "overflow": f"a constant above {LARGEST:.0f}",
        "underflow": f"a factor or weight that loses more than {LOST:g} of its norm",
        "quantisation_scale": "a scale of Q/DQ that FP16 does not hold",
        "score_head": "the last steps to the score, on small tensors",
    }
)

LAYOUT = frozenset(
    {"Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split"}
    | {"Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
ARITHMETIC = frozenset({"Abs", "Add", "Clip", "Div", "Max", "Min", "Mul", "Neg", "Sub", "Sum"})
ACTIVATIONS = frozenset({"LeakyRelu", "Relu", "Sigmoid", "Softplus", "Sqrt", "Tanh"})
SUMS = frozenset({"ReduceL1", "ReduceMean", "ReduceSum", "ReduceSumSquare"})
L2_NORMS = frozenset({"LpNormalization", "ReduceL2"})
SOFTMAX = frozenset({"LogSoftmax", "Softmax", "ReduceLogSum", "ReduceLogSumExp"})
WIDE = frozenset({"Exp", "Log", "Pow", "Reciprocal", "ReduceProd"})
NORMALISERS = frozenset(
    {"BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"}
    | {"MeanVarianceNormalization", "RMSNormalization"}
)
MATRIX = frozenset({"Gemm", "MatMul"})
QUANTISATION = frozenset({"DequantizeLinear", "QuantizeLinear"})
_FACTORS = frozenset({"Conv", "ConvTranspose", "Div", "Gemm", "MatMul", "Mul"})

Found = Iterable[onnx.NodeProto]


def kept_nodes(view: GraphView, keep: Collection[str] = ()) -> dict[str, str]:
    """Return the nodes that stay in FP32.

    Args:
        view: The graph.
        keep: Names of nodes that the caller wants in FP32.

    Returns:
        Node name -> rule, a key of `RULES`; the first rule that names a node counts.
    """
    kept: dict[str, str] = {}
    wanted = frozenset(keep)
    rules: dict[str, Callable[[], Found]] = {
        "asked": lambda: (n for n in view.nodes if n.name in wanted),
        "subgraph": lambda: _around_subgraphs(view),
        "no_fp16": lambda: (n for n in view.nodes if view.ports(n) is None),
        "normalisation": lambda: _on_pixels(view),
        "integers": lambda: _on_integers(view),
        "tiny_epsilon": lambda: _tiny_epsilons(view),
        "l2_norm": lambda: _l2_norms(view),
        "softmax": lambda: (n for n in view.nodes if n.op_type in SOFTMAX),
        "wide_range": lambda: (n for n in view.nodes if n.op_type in WIDE),
        "large_reduction": lambda: _large_reductions(view),
        "overflow": lambda: (n for n in view.nodes if any(map(_overflows, _constants(view, n)))),
        "underflow": lambda: (n for n in view.nodes if _loses_factor(view, n)),
        "quantisation_scale": lambda: _lost_scales(view),
        "score_head": lambda: _score_head(view),
    }
    for rule, find in rules.items():
        for node in find():
            if view.has_floats(node):
                kept.setdefault(node.name, rule)
    _follow_quantisation(view, kept)
    return kept


# -- what is around the graph ------------------------------------------------------------------


def _around_subgraphs(view: GraphView) -> Iterator[onnx.NodeProto]:
    for node in view.nodes:
        if view.has_subgraph(node) or any(name in view.captured for name in node.output):
            yield node


def _on_pixels(view: GraphView) -> list[onnx.NodeProto]:
    """Return what computes on cast bytes; steps after the last arithmetic one are exact in FP16."""
    region = _only_from(view, [n for n in view.nodes if _casts_from(view, n, _BYTES)])
    kept: list[onnx.NodeProto] = []
    names: set[str] = set()
    for node in reversed(region):
        feeds = any(user.name in names for user in view.users(node))
        if node.op_type in ARITHMETIC or feeds:
            kept.append(node)
            names.add(node.name)
    return kept


def _on_integers(view: GraphView) -> list[onnx.NodeProto]:
    return _only_from(view, [n for n in view.nodes if _casts_from(view, n, _INTEGERS)])


_BYTES = frozenset({onnx.TensorProto.UINT8, onnx.TensorProto.INT8})
_INTEGERS = frozenset(
    {onnx.TensorProto.INT32, onnx.TensorProto.INT64}
    | {onnx.TensorProto.UINT32, onnx.TensorProto.UINT64}
)


def _casts_from(view: GraphView, node: onnx.NodeProto, kinds: frozenset[int]) -> bool:
    return node.op_type == "Cast" and view.types.get(node.input[0]) in kinds


def _only_from(view: GraphView, sources: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the sources and the simple steps all of whose moving inputs come from them."""
    if not sources:
        return []
    starts = {node.name for node in sources}
    tensors: set[str] = set()
    region = []
    for node in view.nodes:
        moving = [name for name in node.input if view.is_moving_float(name)]
        inside = bool(moving) and all(name in tensors for name in moving)
        if node.name in starts or (inside and node.op_type in LAYOUT | ARITHMETIC | {"Cast"}):
            region.append(node)
            tensors.update(node.output)
    return region


# -- small numbers -----------------------------------------------------------------------------


def _tiny_epsilons(view: GraphView) -> Iterator[onnx.NodeProto]:
    for node in view.nodes:
        if node.op_type in NORMALISERS | {"LpNormalization"}:
            if _tiny_attribute(view, node):
                yield node
        elif node.op_type in {"Add", "Clip", "Max", "Sub"} and any(
            array.size == 1 and 0 < abs(float(array.reshape(()))) < TINY
            for array in _constants(view, node)
        ):
            yield from _until_division(view, node)


def _tiny_attribute(view: GraphView, node: onnx.NodeProto) -> bool:
    if node.op_type == "BatchNormalization":
        # Engines fold it into one factor and one term. The epsilon counts beside a variance that
        # is small itself; otherwise a whole network would stay in FP32 for it.
        variance = view.constants.get(node.input[4])
        if variance is not None and float(view.array(node.input[4]).min()) > 16 * TINY:
            return False
    return float(attribute(node, "epsilon", 1e-5)) < TINY


def _l2_norms(view: GraphView) -> Iterator[onnx.NodeProto]:
    for node in view.nodes:
        sums = (user for user in view.sources(node) if user.op_type in SUMS)
        if node.op_type in L2_NORMS or (node.op_type == "Sqrt" and next(sums, None) is not None):
            yield from _until_division(view, node)


def _until_division(view: GraphView, start: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield a node with the squares and sums before it and the steps after it up to a division.

    Rounding to FP16 between any two of them would flush what FP32 has just kept.
    """
    yield from _with_squares(view, start)
    seen: set[str] = set()
    todo = list(view.users(start))
    while todo:
        node = todo.pop()
        if node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type in {"Sqrt", "Reciprocal", "Pow"} | ARITHMETIC | LAYOUT - {"Concat"}:
            yield node
            if node.op_type not in {"Div", "Mul"}:
                todo += view.users(node)


def _with_squares(view: GraphView, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield a node and, before it, sums, squares, and the difference that was squared."""
    yield node
    for source in view.sources(node):
        if source.op_type in SUMS | L2_NORMS | {"Abs", "Pow", "Sqrt"} or _is_square(source):
            yield from _with_squares(view, source)
        elif source.op_type == "Sub" and (node.op_type in {"Abs", "Pow"} or _is_square(node)):
            yield source


def _is_square(node: onnx.NodeProto) -> bool:
    return node.op_type == "Mul" and node.input[0] == node.input[1]


# -- large numbers and long sums ---------------------------------------------------------------


def _large_reductions(view: GraphView) -> Iterator[onnx.NodeProto]:
    for node in view.nodes:
        if node.op_type in {"CumSum", "GroupNormalization", "InstanceNormalization"}:
            yield node
        elif node.op_type in {"AveragePool", "GlobalAveragePool"} | SUMS:
            count = _reduced(view, node)
            if count is None or count > LARGE_REDUCTION:
                yield from _with_squares(view, node)


def _reduced(view: GraphView, node: onnx.NodeProto) -> int | None:
    """Return how many elements make one element of the result; None where nobody can say."""
    if node.op_type == "AveragePool":
        return int(np.prod(attribute(node, "kernel_shape", [])))
    shape = view.shapes.get(node.input[0])
    if shape is None:
        return None
    if node.op_type == "GlobalAveragePool":
        axes = list(range(2, len(shape)))
    elif len(node.input) > 1 and node.input[1]:
        if node.input[1] not in view.constants:
            return None
        axes = [int(axis) for axis in view.array(node.input[1]).ravel()]
    else:
        axes = list(attribute(node, "axes", []))
    sizes = [shape[axis] for axis in axes or range(len(shape))]
    return None if None in sizes else int(np.prod([size for size in sizes if size is not None]))


# -- constants ---------------------------------------------------------------------------------


def _constants(view: GraphView, node: onnx.NodeProto) -> Iterator[npt.NDArray[np.float32]]:
    for name in node.input:
        if name in view.constants and view.types[name] == onnx.TensorProto.FLOAT:
            yield view.array(name)


def _overflows(array: npt.NDArray[np.float32]) -> bool:
    finite = array[np.isfinite(array)]
    return bool(finite.size) and float(np.abs(finite).max()) > LARGEST


def _is_lost(array: npt.NDArray[np.float32]) -> bool:
    """Say whether rounding takes more than `LOST` of the norm; too large counts as lost."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16).astype(np.float32)
    norm = float(np.linalg.norm(array))
    return norm > 0 and not float(np.linalg.norm(array - half)) <= LOST * norm


def _loses_factor(view: GraphView, node: onnx.NodeProto) -> bool:
    # Terms (a bias, the mean in a Sub) may be rounded: they are small beside what they go to.
    if node.op_type not in _FACTORS:
        return False
    factors = node.input if node.op_type == "Mul" else node.input[1:2]
    return any(
        name in view.constants
        and view.types[name] == onnx.TensorProto.FLOAT
        and _is_lost(view.array(name))
        for name in factors
    )


def _lost_scales(view: GraphView) -> Iterator[onnx.NodeProto]:
    """Yield Q/DQ with a lost scale; after DQ also the layer, which then fuses with it in FP32."""
    for node in view.nodes:
        scale = node.input[1] if node.op_type in QUANTISATION else ""
        if scale in view.constants and _is_lost(view.array(scale)):
            yield node
            if node.op_type == "DequantizeLinear":
                yield from view.users(node)


# -- the end of the graph ----------------------------------------------------------------------


def _score_head(view: GraphView) -> Iterator[onnx.NodeProto]:
    """Yield the steps before the score (the first output) on small tensors, to the last matrix."""
    simple = LAYOUT | ARITHMETIC | ACTIVATIONS | SUMS
    todo = [view.producer[name] for name in view.outputs[:1] if name in view.producer]
    seen: set[str] = set()
    while todo:
        node = todo.pop()
        if node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type in MATRIX:
            weight = view.constants.get(node.input[1])
            if weight is not None and int(np.prod(weight.dims)) <= SMALL_WEIGHT:
                yield node
        elif node.op_type in simple and _is_small(view, node):
            yield node
            todo += view.sources(node)


def _is_small(view: GraphView, node: onnx.NodeProto) -> bool:
    """Say whether what a node reads is small; a free dimension is the batch and counts as one."""
    for name in node.input:
        if view.is_moving_float(name):
            shape = view.shapes.get(name)
            if shape is None or np.prod([size or 1 for size in shape]) > SMALL_TENSOR:
                return False
    return True


def _follow_quantisation(view: GraphView, kept: dict[str, str]) -> None:
    """Keep Q behind a kept node, and DQ before kept nodes only: a cast between would split them."""
    for node in view.nodes:
        if node.op_type == "QuantizeLinear" and node.name not in kept:
            rules = [kept[source.name] for source in view.sources(node) if source.name in kept]
            if rules:
                kept[node.name] = rules[0]
    for node in reversed(view.nodes):
        if node.op_type == "DequantizeLinear" and node.name not in kept:
            rules = [kept.get(user.name, "") for user in view.users(node)]
            if rules and all(rules):
                kept[node.name] = rules[0]
