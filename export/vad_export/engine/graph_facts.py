"""What an ONNX file says about itself, read without the package onnx.

A device that builds engines has TensorRT and not onnx, so the few facts that a build needs are
read straight from the file: inputs, operators, weights' shapes and the scales of Q/DQ nodes. An
ONNX file is a protobuf message; the field numbers below stand in onnx.proto of the ONNX project
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts.errors import ExportError

_WIRE_VARINT, _WIRE_64, _WIRE_BYTES, _WIRE_32 = 0, 1, 2, 5
_FLOAT, _UINT8, _FLOAT16 = 1, 2, 10
_NAMES = {
    _FLOAT: "float32",
    _UINT8: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    _FLOAT16: "float16",
    11: "float64",
    16: "bfloat16",
}
_WINDOWED = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")


@dataclass(frozen=True, kw_only=True)
class GraphInput:
    """An input of the graph that is no constant."""

    name: str
    dtype: str
    """As NumPy calls it, `uint8`."""
    shape: tuple[int | str, ...]
    """A string is the name of a dimension that is not fixed, `?` where it has none."""


@dataclass(frozen=True, kw_only=True)
class GraphNode:
    """One operator."""

    name: str
    """Its own name; its first output where it has none."""
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    kernel: int
    """Number of dimensions of `kernel_shape`; 0 = it has none."""


@dataclass(frozen=True, kw_only=True)
class GraphFacts:
    """A graph without its weights."""

    file: Path
    inputs: tuple[GraphInput, ...]
    nodes: tuple[GraphNode, ...]
    ranks: dict[str, int]
    """Number of dimensions of each constant."""
    scales: dict[str, float]
    """Constants that are one float32 number."""

    @property
    def free_batch(self) -> bool:
        """Whether the first dimension of the first input is free."""
        shape = self.inputs[0].shape if self.inputs else ()
        return bool(shape) and isinstance(shape[0], str)

    @property
    def three_dimensional(self) -> GraphNode | None:
        """The first convolution or pooling over three dimensions; None = there is none."""
        for node in self.nodes:
            if node.operator not in _WINDOWED:
                continue
            weights = self.ranks.get(node.inputs[1], 0) if len(node.inputs) > 1 else 0
            if node.kernel == 3 or weights == 5:
                return node
        return None

    @property
    def uint8_transposes(self) -> list[GraphNode]:
        """Nodes `Transpose` that read an input of type uint8."""
        bytes_in = {one.name for one in self.inputs if one.dtype == "uint8"}
        found = []
        for node in self.nodes:
            if node.operator in ("Transpose", "Identity") and node.inputs[0] in bytes_in:
                bytes_in.update(node.outputs)
                if node.operator == "Transpose":
                    found.append(node)
        return found

    def activation_scales(self) -> dict[str, float]:
        """Return each tensor that a QuantizeLinear reads with its one scale; weights are left out.

        The value of level 127 is ``127 * scale``.
        """
        return {
            node.inputs[0]: self.scales[node.inputs[1]]
            for node in self.nodes
            if node.operator == "QuantizeLinear"
            and node.inputs[1] in self.scales
            and node.inputs[0] not in self.ranks
        }


def graph_facts(file: Path) -> GraphFacts:
    """Read the facts of an ONNX file; its weights are not loaded.

    Raises:
        ExportError: The file cannot be read, or is no ONNX graph.
    """
    try:
        with file.open("rb") as stream:
            # Not closed here: an error's traceback may still hold views of it.
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        return _from_model(memoryview(content), file)
    except OSError as error:
        _refuse(file, error.strerror or str(error))
    except (ValueError, IndexError, struct.error, UnicodeDecodeError):
        _refuse(file, "it is no ONNX graph")


def _refuse(file: Path, reason: str) -> NoReturn:
    raise ExportError(f"{file} cannot be read ({reason}). Export the bundle again.") from None


def _from_model(content: memoryview, file: Path) -> GraphFacts:
    graphs = [_bytes(value) for field, value in _fields(content) if field == 7]
    if not graphs:
        raise ValueError("no graph")
    nodes: list[GraphNode] = []
    inputs: list[GraphInput] = []
    ranks: dict[str, int] = {}
    scales: dict[str, float] = {}
    for field, value in _fields(graphs[0]):
        if field == 1:
            nodes.append(_node(_bytes(value)))
        elif field == 5:
            name, dims, number = _constant(_bytes(value))
            ranks[name] = len(dims)
            if number is not None:
                scales[name] = number
        elif field == 11:
            inputs.append(_input(_bytes(value)))
    return GraphFacts(
        file=file,
        inputs=tuple(one for one in inputs if one.name not in ranks),
        nodes=tuple(nodes),
        ranks=ranks,
        scales=scales,
    )


def _node(content: memoryview) -> GraphNode:
    inputs: list[str] = []
    outputs: list[str] = []
    name = operator = ""
    kernel = 0
    for field, value in _fields(content):
        if field == 1:
            inputs.append(_text(value))
        elif field == 2:
            outputs.append(_text(value))
        elif field == 3:
            name = _text(value)
        elif field == 4:
            operator = _text(value)
        elif field == 5:
            attribute, numbers = _attribute(_bytes(value))
            kernel = numbers if attribute == "kernel_shape" else kernel
    return GraphNode(
        name=name or (outputs[0] if outputs else operator),
        operator=operator,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        kernel=kernel,
    )


def _attribute(content: memoryview) -> tuple[str, int]:
    """Return an attribute's name and how many whole numbers it lists."""
    name, count = "", 0
    for field, value in _fields(content):
        if field == 1:
            name = _text(value)
        elif field == 8:
            count += 1 if isinstance(value, int) else len(list(_varints(value)))
    return name, count


def _constant(content: memoryview) -> tuple[str, list[int], float | None]:
    """Return name, shape and, for one float32 number, that number."""
    name, kind = "", 0
    dims: list[int] = []
    raw: memoryview | None = None
    for field, value in _fields(content):
        if field == 1:
            dims += [value] if isinstance(value, int) else list(_varints(value))
        elif field == 2 and isinstance(value, int):
            kind = value
        elif field in (4, 9):  # float_data packed, or raw_data: both little-endian
            raw = _bytes(value)
        elif field == 8:
            name = _text(value)
    one = kind == _FLOAT and raw is not None and len(raw) == 4
    return name, dims, _floats(raw)[0] if one and raw is not None else None


def _floats(raw: memoryview) -> list[float]:
    values: npt.NDArray[np.float32] = np.frombuffer(raw, "<f4")
    return [float(value) for value in values]


def _input(content: memoryview) -> GraphInput:
    name, kind = "", 0
    shape: list[int | str] = []
    for field, value in _fields(content):
        if field == 1:
            name = _text(value)
        elif field == 2:
            for part, tensor in _fields(_bytes(value)):
                if part == 1:
                    kind, shape = _tensor_type(_bytes(tensor))
    return GraphInput(name=name, dtype=_NAMES.get(kind, f"type {kind}"), shape=tuple(shape))


def _tensor_type(content: memoryview) -> tuple[int, list[int | str]]:
    kind = 0
    shape: list[int | str] = []
    for field, value in _fields(content):
        if field == 1 and isinstance(value, int):
            kind = value
        elif field == 2:
            shape = [_dimension(_bytes(dim)) for part, dim in _fields(_bytes(value)) if part == 1]
    return kind, shape


def _dimension(content: memoryview) -> int | str:
    for field, value in _fields(content):
        if field == 1 and isinstance(value, int):
            return value
        if field == 2:
            return _text(value) or "?"
    return "?"


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a protobuf message; groups are refused."""
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        field, wire = key >> 3, key & 7
        if field == 0:
            raise ValueError("no protobuf")
        if wire == _WIRE_VARINT:
            number, place = _varint(content, place)
            yield field, number
            continue
        if wire == _WIRE_BYTES:
            size, place = _varint(content, place)
        elif wire in (_WIRE_64, _WIRE_32):
            size = 8 if wire == _WIRE_64 else 4
        else:
            raise ValueError("no protobuf")
        if place + size > len(content):
            raise ValueError("cut off")
        yield field, content[place : place + size]
        place += size


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = content[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
        shift += 7
        if shift > 63:
            raise ValueError("no protobuf")


def _varints(content: int | memoryview) -> Iterator[int]:
    place, whole = 0, _bytes(content)
    while place < len(whole):
        number, place = _varint(whole, place)
        yield number


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message belongs")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode()
