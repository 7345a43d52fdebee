"""Unsigned INT8 for activations that are never negative: faster on a CPU, and finer.

Our INT8 graphs have signed activations, since TensorRT takes no others. x86 processors multiply
unsigned activations by signed weights (`vpdpbusd`, AVX-512 VNNI); for signed ones OpenVINO adds 128
and takes it away again, which cost 6 to 8 % of C3D and R3D-18 when it was tried. Behind
a ReLU the sign bit is never used, so the same range can be counted in 255 steps instead of 127.

::

    x ── round to -127..127, step s ──        x ── round to 0..255, step s · 127/255 ──

Other engines keep the signed steps; the parity gate measures each engine as it really runs.
Without such an instruction oneDNN adds products of unsigned and signed bytes in 16 bits, which
overflow (its guide "Nuances of int8 Computations"); there the graph stays signed.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from vad_runtime.machine import cpu_flags

_STEPS = 255

_NEVER_NEGATIVE = frozenset(["Relu", "Sigmoid", "Softmax", "Abs", "Exp", "Sqrt"])
_KEEPS_SIGN = frozenset(
    [
        "MaxPool",
        "AvgPool",
        "Reshape",
        "Transpose",
        "Slice",
        "StridedSlice",
        "Gather",
        "Squeeze",
        "Unsqueeze",
        "Convert",
        "FakeQuantize",
        "ReduceMean",
        "ReduceSum",
        "ReduceMax",
    ]
)
"""Operators whose result is not negative where their first input is not."""
_ALL_INPUTS = frozenset(["Add", "Concat", "Multiply", "Divide", "Maximum"])
"""Operators whose result is not negative where no input is."""


_DOT_PRODUCTS = frozenset(["avx512_vnni", "avx_vnni", "amx_int8"])
"""Processor features that multiply unsigned by signed bytes and add up in 32 bits."""


def unsigned_is_safe() -> bool:
    """Return whether this processor adds products of unsigned and signed bytes without overflow."""
    return bool(_DOT_PRODUCTS & cpu_flags())


def read_unsigned(model: Any) -> int:
    """Make signed INT8 activations unsigned where they cannot be negative, in place.

    Args:
        model: An `openvino.Model` that was read from one of our Q/DQ graphs.

    Returns:
        How many tensors were changed.
    """
    known: dict[str, bool] = {}
    chains = [chain for chain in _chains(model) if _not_negative(chain[0].input_value(0), known)]
    for rounding, converts, limit in chains:
        step = np.float32(limit / _STEPS)
        source = rounding.input_value(0)
        top = np.float32(limit)
        zero = np.float32(0)
        unsigned = ops.convert(
            ops.fake_quantize(source, zero, top, zero, np.float32(_STEPS), _STEPS + 1), "u8"
        )
        for last in converts:
            back = ops.multiply(ops.convert(unsigned, "f32"), step)
            back.set_friendly_name(last.get_friendly_name())
            for reader in list(last.output(0).get_target_inputs()):
                reader.replace_source_output(back.output(0))
    return len(chains)


def _chains(model: Any) -> Iterator[tuple[Any, list[Any], float]]:
    """Yield each signed rounding, the ends of its ways back to float32, and its largest value.

    ::

        FakeQuantize -128..127 ── Convert i8 ── Convert f32 ── [Subtract 0] ── Multiply step
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() != "FakeQuantize" or _constant(node, 3) != -128.0:
            continue
        largest = _constant(node, 2)
        ends: list[Any] = []
        whole = largest is not None and _constant(node, 4) == 127.0
        for rounded in _readers(node):
            whole = whole and rounded.get_type_name() == "Convert"
            for widened in _readers(rounded):
                whole = whole and widened.get_type_name() == "Convert"
                for end in _readers(widened):
                    if end.get_type_name() == "Subtract":
                        whole = whole and _is_zero(end)
                        ends += _readers(end)
                    else:
                        ends.append(end)
        whole = whole and all(end.get_type_name() == "Multiply" for end in ends)
        floats = all(end.get_output_element_type(0) == ov.Type.f32 for end in ends)
        if whole and ends and floats:
            yield node, ends, float(largest or 0.0)


def _readers(node: Any) -> list[Any]:
    return [target.get_node() for target in node.output(0).get_target_inputs()]


def _constant(node: Any, index: int) -> float | None:
    """Return an input's value where it is one constant number, else None."""
    source = node.input_value(index).get_node()
    if source.get_type_name() != "Constant" or source.data.size != 1:
        return None
    return float(source.data.reshape(-1)[0])


def _is_zero(node: Any) -> bool:
    source = node.input_value(1).get_node()
    while source.get_type_name() in ("Convert", "Reshape", "Broadcast"):
        source = source.input_value(0).get_node()
    return source.get_type_name() == "Constant" and not np.asarray(source.data).any()


def _not_negative(output: Any, known: dict[str, bool]) -> bool:
    """Return whether a tensor cannot hold negative values, by the operators that make it."""
    node = output.get_node()
    name = str(node.get_name())  # unique in a model, unlike the friendly name
    if name not in known:
        known[name] = _looked_up(node, known)
    return known[name]


def _looked_up(node: Any, known: dict[str, bool]) -> bool:
    kind = node.get_type_name()
    if kind == "Parameter":
        return str(node.get_element_type().get_type_name()).startswith("u")
    if kind == "Constant":
        return bool((np.asarray(node.data) >= 0).all())
    if kind in _NEVER_NEGATIVE:
        return True
    if kind == "Subtract":
        return _is_zero(node) and _not_negative(node.input_value(0), known)
    if kind in _KEEPS_SIGN:
        return _not_negative(node.input_value(0), known)
    if kind in _ALL_INPUTS:
        return all(_not_negative(node.input_value(i), known) for i in range(node.get_input_size()))
    return False
