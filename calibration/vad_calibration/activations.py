"""Inner tensors of an ONNX graph for one input after the other, in ONNX Runtime on a CPU.

The wanted tensors become outputs of the graph. The model is never loaded into Python for that:
serialised protobuf messages of one type may be written one after the other and are then read as one
(repeated fields are joined), so a copy of the file with a few bytes behind it is the graph with
more outputs. ONNX Runtime fills in their types and shapes.
"""

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from vad_runtime.backends.base import Inputs
from vad_runtime.backends.checks import first_line, usable_threads
from vad_runtime.contracts.errors import BackendError, ExportError, InputError

Float32 = npt.NDArray[np.float32]

MEMORY_BYTES = 256 << 20
"""How many bytes of inner tensors may exist at once, unless the caller says otherwise."""

_GRAPH = 7  # field of ModelProto
_WEIGHTS = (5, 15)  # fields of GraphProto: initializer, sparse_initializer
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Activations:
    """Runs a graph and gives its inner tensors. A context manager; `close` frees the engine.

    ONNX Runtime must keep every output, so it merges no node over a wanted tensor: what comes out
    is what the unchanged graph computes there.

    Args:
        model: An ONNX file with one input; its weights are in the file.
        tensors: Names of float32 tensors, as the graph has them.
        threads: For one input; None = all that this process may use.
        memory_bytes: Where the tensors of one input take more than this, the graph is run several
            times, each time for some of them. One tensor alone may be larger.

    Raises:
        ExportError: A tensor is not in the graph or not float32, or the graph has several inputs.
        InputError: The file cannot be read or copied.
        BackendError: ONNX Runtime cannot load it.
    """

    def __init__(
        self,
        model: Path,
        tensors: Sequence[str],
        *,
        threads: int | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        graph = graph_without_weights(model)
        made = {name for node in graph.node for name in node.output if name}
        made |= {value.name for value in graph.input}
        for tensor in tensors:
            if tensor not in made:
                raise ExportError(
                    f"{model.name} has no tensor called {tensor}. "
                    "Take names that the graph's own nodes write."
                )
        there = {value.name for value in (*graph.output, *graph.input)}
        extra = [name for name in dict.fromkeys(tensors) if name not in there]
        self._model = model
        self._tensors = list(dict.fromkeys(tensors))
        self._session: Any = _session(model, extra, _batch_names(graph), threads)
        inputs = [value.name for value in self._session.get_inputs()]
        if len(inputs) != 1:
            raise ExportError(
                f"{model.name} has the inputs {', '.join(inputs) or 'none'}. "
                "Calibration needs a graph with one."
            )
        self._input = inputs[0]
        self._check_types()
        self.groups = grouped(self._sizes(), memory_bytes)
        """The tensors of each run of the graph, without the input itself."""

    def of(self, inputs: Inputs) -> Iterator[tuple[str, Float32]]:
        """Run the graph on one input.

        Args:
            inputs: Shape (1, …), of the dtype of the graph's input.

        Yields:
            Each tensor's name and its values, float32; the caller owns the array.

        Raises:
            BackendError: ONNX Runtime failed, for example over an input of another shape.
        """
        if self._session is None:
            raise ValueError("these activations are closed")
        if self._input in self._tensors:
            yield self._input, np.array(inputs, np.float32)
        for group in self.groups:
            try:
                values = self._session.run(group, {self._input: inputs})
            except Exception as error:  # ONNX Runtime's errors share no narrower base class
                raise BackendError(
                    f"onnxruntime failed on {self._model.name}: {first_line(error)}"
                ) from error
            values.reverse()
            for name in group:
                yield name, values.pop()  # given away: free as soon as the caller is done

    def close(self) -> None:
        """Free the engine. A second call does nothing."""
        self._session = None

    def __enter__(self) -> "Activations":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_types(self) -> None:
        values = [*self._session.get_outputs(), *self._session.get_inputs()]
        types = {value.name: value.type for value in values}
        for tensor in self._tensors:
            kind = types[tensor].removeprefix("tensor(").removesuffix(")")
            if kind != "float":
                raise ExportError(
                    f"the tensor {tensor} of {self._model.name} is {kind}, not float32. "
                    "Calibrate the fp32 graph, and only its float tensors."
                )

    def _sizes(self) -> dict[str, int | None]:
        """Bytes of each tensor for one input as ONNX Runtime infers them; None = not known."""
        shapes = {output.name: output.shape for output in self._session.get_outputs()}
        return {
            name: 4 * math.prod(shapes[name])
            if all(isinstance(length, int) for length in shapes[name])
            else None
            for name in self._tensors
            if name != self._input
        }


def grouped(sizes: Mapping[str, int | None], memory_bytes: int) -> list[list[str]]:
    """Split tensors, in their order, into groups that fit into memory together.

    Args:
        sizes: Bytes of each; None = not known, such a tensor is alone.
        memory_bytes: The most that a group of two or more may take.
    """
    groups: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if size is not None and size <= room:
            groups[-1].append(name)
            room -= size
        else:
            groups.append([name])
            room = 0 if size is None else memory_bytes - size
    return groups


def graph_without_weights(model: Path) -> onnx.GraphProto:
    """Read a graph's nodes, inputs and outputs and jump over its weights.

    Reading the whole file would take its size twice in memory, which for C3D is more than
    everything else that calibration needs.

    Raises:
        InputError: The file cannot be read.
        ExportError: It is no ONNX file, or damaged.
    """
    kept = bytearray()
    try:
        with model.open("rb") as file:
            for field, _, start, end in _fields(file, 0, os.fstat(file.fileno()).st_size):
                if field != _GRAPH:
                    continue
                for inner, tag, _, stop in _fields(file, start, end):
                    if inner not in _WEIGHTS:
                        file.seek(tag)
                        kept += file.read(stop - tag)
        graph: onnx.GraphProto = onnx.GraphProto.FromString(bytes(kept))
    except OSError as error:
        raise InputError(f"{model} cannot be read ({error.strerror}). Give an ONNX file.") from None
    except Exception as error:  # the protobuf library has several errors for a damaged message
        raise ExportError(
            f"{model} is no ONNX file, or damaged ({first_line(error)}). Export the bundle again."
        ) from None
    if not graph.node:
        raise ExportError(f"{model} holds no graph. Give an ONNX file.")
    return graph


def _fields(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Walk over the fields of a protobuf message (protobuf.dev, "Encoding").

    Yields:
        Number of the field, and where its tag, its content and the next field begin.

    Raises:
        ValueError: The bytes are no such message.
    """
    at = start
    while at < end:
        file.seek(at)
        tag = _varint(file)
        kind = tag & 7
        length = 0
        if kind == _BYTES:
            length = _varint(file)
        elif kind == _VARINT:
            _varint(file)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("it is no protobuf message")
        content = file.tell()
        if content + length > end:
            raise ValueError("it ends too early")
        yield tag >> 3, at, content, content + length
        at = content + length


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("it ends too early")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("it is no protobuf message")


def _batch_names(graph: onnx.GraphProto) -> list[str]:
    """Return what the graph calls the number of inputs; fixed to 1, all shapes are known."""
    shapes = [value.type.tensor_type.shape.dim for value in graph.input]
    return sorted({dims[0].dim_param for dims in shapes if dims and dims[0].dim_param})


def _session(model: Path, tensors: Sequence[str], ones: Sequence[str], threads: int | None) -> Any:
    """Load the graph with `tensors` as more outputs and the dimensions `ones` set to 1."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads or usable_threads()
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4  # its errors are raised; it shall not print them too
    # Without arena and pattern, memory goes back to the system as soon as a tensor is not needed.
    settings.enable_cpu_mem_arena = False
    settings.enable_mem_pattern = False
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name in ones:
        settings.add_free_dimension_override_by_name(name, 1)
    outputs = onnx.ModelProto()
    outputs.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    # The engine has read the file when the session is there, so the copy lives for a moment only.
    with tempfile.TemporaryDirectory(prefix="vad-activations-") as folder:
        copy = Path(folder) / model.name
        try:
            shutil.copyfile(model, copy)
            with copy.open("ab") as file:
                file.write(outputs.SerializeToString())
        except OSError as error:
            raise InputError(
                f"{model} cannot be copied to {folder} ({error.strerror}). "
                "Set TMPDIR to a folder with room for it."
            ) from None
        try:
            return ort.InferenceSession(str(copy), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no narrower base class
            raise BackendError(
                f"onnxruntime cannot load {model.name}: {first_line(error)}"
            ) from error
