"""Buffers on a GPU for one size of a batch in ONNX Runtime, and a CUDA graph over them."""

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from vad_runtime.backends.base import Inputs, Outputs
from vad_runtime.backends.checks import first_line, input_dtype
from vad_runtime.contracts.errors import BackendError
from vad_runtime.contracts.manifest import Manifest
from vad_runtime.cuda.driver import Gpu

FATAL = 4
"""ONNX Runtime's least talkative level: its errors reach us as exceptions, and once is enough."""

_PLAIN = "-1"
"""The `gpu_graph_id` with which the CUDA provider neither captures nor replays."""

_REPLAY_TOLERANCE = 1e-3
"""Of the largest value: what a replayed graph may differ from a plain run, which may have taken
other algorithms."""


class NoGraphError(BackendError):
    """It failed with CUDA graphs on. Its text is the reason alone."""


class Slot:
    """Buffers on the GPU for batches of one size, and a CUDA graph over them."""

    def __init__(
        self, session: Any, manifest: Manifest, count: int, gpu: Gpu, graph: str | None
    ) -> None:
        """Allocate, run once, and capture.

        Args:
            session: ONNX Runtime's.
            manifest: Of the bundle.
            count: Clips in a batch.
            gpu: Where.
            graph: Name of the CUDA graph, a number; None = none.

        Raises:
            NoGraphError: The graph gives other scores than a plain run.
        """
        self.captured = graph is not None
        self._session = session
        self._names = [output.name for output in session.get_outputs()]
        shape, dtype = (count, *manifest.input_shape), input_dtype(manifest)
        self._input = ort.OrtValue.ortvalue_from_shape_and_type(
            list(shape), dtype.type, "cuda", gpu.index
        )
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(manifest.input_name, self._input)
        for name in self._names:
            self._binding.bind_output(name, "cuda", gpu.index)
        self._how = _run_options(_PLAIN)
        first, second = _noise(shape, dtype)
        self._input.update_inplace(first)
        session.run_with_iobinding(self._binding, self._how)
        # The arrays of this run become the fixed ones: only now are all shapes known.
        self._outputs = dict(zip(self._names, self._binding.get_outputs(), strict=True))
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        if graph is None:
            return
        plain = self._read(), self.run(second)
        self._how = _run_options(graph)
        # Both, since only one of them is a replay of what was captured with the other: the CUDA
        # provider captures in the next run, the TensorRT provider (1.31 has no ids) in the last.
        for inputs, want in zip((first, second), plain, strict=True):
            _check_replay(want, self.run(inputs))

    def run(self, inputs: Inputs) -> Outputs:
        """Score a whole batch; the arrays are the caller's."""
        self._input.update_inplace(inputs)
        self._session.run_with_iobinding(self._binding, self._how)
        return self._read()

    def _read(self) -> Outputs:
        # np.array: where a value lies in host memory, numpy() is a view of the next result.
        return {name: np.array(value.numpy()) for name, value in self._outputs.items()}


def _check_replay(plain: Outputs, replayed: Outputs) -> None:
    for name, want in plain.items():
        room = _REPLAY_TOLERANCE * float(np.abs(np.nan_to_num(want)).max(initial=0.0))
        if not np.allclose(replayed[name], want, rtol=0.0, atol=room, equal_nan=True):
            raise NoGraphError(f"a replayed graph gave another `{name}` than a plain run")


def _noise(
    shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    rng = np.random.default_rng(0)
    if dtype == np.uint8:
        first, second = (rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(2))
    else:
        first, second = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    return first, second


def _run_options(graph: str) -> Any:
    options = ort.RunOptions()
    options.log_severity_level = FATAL
    options.add_run_config_entry("gpu_graph_id", graph)
    return options


def elsewhere(session: Any, provider: str) -> str:
    """Say how many nodes another provider got, where ONNX Runtime tells (from 1.24 on)."""
    told = getattr(session, "get_provider_graph_assignment_info", None)
    if told is None:
        return ""
    try:
        parts = [(part.ep_name, len(part.get_nodes())) for part in told()]
    except Exception:  # not recorded: as where it does not tell
        return ""
    total = sum(count for _, count in parts)
    out = ""
    for name in dict.fromkeys(name for name, _ in parts if name != provider):
        count = sum(n for other, n in parts if other == name)
        out += f", {count} of {total} nodes on {name.removesuffix('ExecutionProvider')}"
    return out


def reason_of(error: BaseException) -> str:
    """Return what an error of ONNX Runtime says, without its code, source file and function."""
    text = first_line(error)
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^\S+\.(?:cc|h|cu):\d+ .*?\) ", "", text, count=1)
    return text.split(" ; GPU=")[0].rstrip(". ")[:300]
