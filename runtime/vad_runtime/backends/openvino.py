"""OpenVINO on a CPU: the fastest measured engine for every model of this project."""

import ctypes
import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from vad_runtime.backends.base import Inputs, Options, Outputs, PrecisionChoice
from vad_runtime.backends.checks import (
    checked_clips,
    checked_graph,
    checked_outputs,
    first_line,
    usable_threads,
)
from vad_runtime.backends.openvino_unsigned import read_unsigned, unsigned_is_safe
from vad_runtime.contracts.errors import BackendError
from vad_runtime.contracts.manifest import COPY, Manifest

_HINT = {"fp32": "f32", "bf16": "bf16"}
_MULTIPLYING = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")


@functools.cache
def _core() -> ov.Core:
    """Return the one OpenVINO core of this process.

    Each core's CPU plug-in gives the calling thread a signal stack of its own and restores the one
    it found when it is freed. With two cores, freed in another order than they were made, that is
    the freed stack of the other (seen with OpenVINO 2026.4.1): the next Ctrl-C then ends the
    process with a segmentation fault, since Python's handlers run on the signal stack.
    """
    return ov.Core()


def _arithmetic(
    precision: PrecisionChoice, manifest: Manifest, *, has_bf16: bool
) -> tuple[str, str]:
    """Return OpenVINO's precision hint, and what it computes in, for people.

    `{layers}` in the text stands for how many layers compute in int8, known after compiling.

    Raises:
        BackendError: bf16 was asked for and the processor has none.
    """
    if precision == "bf16" and not has_bf16:
        raise BackendError("this CPU has no bf16 arithmetic. Use --precision fp32.")
    if precision == "auto":
        # Only where the export has measured, on this model, that the scores stay the same.
        proven = (manifest.parity or {}).get("bf16_allowed") is True
        if has_bf16 and not proven:
            return "f32", "fp32 (bf16 is not proven for this bundle)"
        precision = "bf16" if has_bf16 else "fp32"
    if precision == "fp16":
        # The CPU plug-in widens the graph; the hint f16 is for processors with AMX-FP16 only.
        return "f32", "fp16 graph computed in fp32"
    if precision in ("int8", "mixed"):
        rest = "bf16" if has_bf16 else "fp32"
        return _HINT[rest], f"{precision} ({{layers}}; the rest in {rest})"
    return _HINT[precision], precision


def _output_name(port: Any, manifest: Manifest) -> str:
    """Return the name that the manifest knows: a cast that is optimised away leaves several."""
    names = port.get_names()
    known = ["score", *(output.name for output in manifest.outputs)]
    return str(next((name for name in known if name in names), port.get_any_name()))


def _int8_layers(compiled: Any) -> str:
    """Return how many of the layers that multiply run in int8: OpenVINO fuses what it can."""
    kinds = [
        str(node.get_rt_info()["runtimePrecision"].get())
        for node in compiled.get_runtime_model().get_ordered_ops()
        if str(node.get_rt_info()["layerType"].get()) in _MULTIPLYING
        and not node.get_friendly_name().startswith(COPY)
    ]
    return f"{sum(kind in ('u8', 'i8') for kind in kinds)} of {len(kinds)} layers"


class OpenVinoBackend:
    """One compiled model and one infer request; batch 1, since a CPU gains nothing from more.

    The precision hint is always set: without one OpenVINO silently computes in bf16 where the
    processor can.
    """

    def __init__(self, file: Path, manifest: Manifest, options: Options) -> None:
        self._manifest = manifest
        if options.device not in ("auto", "cpu"):
            raise BackendError(f"openvino runs on cpu here, not on {options.device}. Use cpu.")
        try:
            core = _core()
            has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        except RuntimeError as error:
            raise BackendError(f"openvino finds no CPU ({first_line(error)}).") from error
        hint, arithmetic = _arithmetic(options.precision, manifest, has_bf16=has_bf16)
        threads = options.threads or usable_threads()
        try:
            model = core.read_model(str(file))
            if [port.get_any_name() for port in model.inputs] != [manifest.input_name]:
                raise BackendError(
                    f"{file.name} has no single input `{manifest.input_name}`. "
                    "Export the bundle again."
                )
            # `reshape` would bend a graph to any size without a word.
            checked_graph(
                file,
                manifest,
                dtype=model.input().get_element_type().to_dtype().name,
                shape=[
                    d.get_length() if d.is_static else None
                    for d in model.input().get_partial_shape()
                ],
                outputs=[_output_name(port, manifest) for port in model.outputs],
            )
            model.reshape({manifest.input_name: [1, *manifest.input_shape]})
            if unsigned_is_safe():
                read_unsigned(model)  # a graph without INT8 has nothing to be changed
            self._compiled: Any = core.compile_model(
                model,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": hint,
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_NUM_THREADS": threads,
                    "NUM_STREAMS": 1,
                    # Pinned, every process begins with processor 0: two of one thread each share it
                    # and take twice the time (docs/results/overlap.md).
                    "ENABLE_CPU_PINNING": False,
                },
            )
        except RuntimeError as error:
            raise BackendError(
                f"openvino cannot load {file.name}: {str(error).strip().splitlines()[-1]} "
                "Try --backend onnxruntime."
            ) from error
        self._request: Any = self._compiled.create_infer_request()
        self._names = [_output_name(port, manifest) for port in self._compiled.outputs]
        chip = str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip()
        version = ov.__version__.split("-")[0]
        if "{layers}" in arithmetic:
            arithmetic = arithmetic.replace("{layers}", _int8_layers(self._compiled))
        self.device = f"openvino {version} on cpu ({chip}), {arithmetic}, {threads} threads"

    def infer(self, clips: Inputs) -> Outputs:
        """See `Backend.infer`; one graph run per clip."""
        checked_clips(clips, self._manifest)
        return checked_outputs(clips, self._manifest, self._one)

    def _one(self, clip: Inputs) -> Outputs:
        try:
            self._request.set_input_tensor(ov.Tensor(_writable(clip), shared_memory=True))
            self._request.infer()
        except RuntimeError as error:
            raise BackendError(f"openvino failed: {str(error).splitlines()[-1]}") from error
        return {
            name: np.array(self._request.get_output_tensor(i).data, dtype=np.float32)
            for i, name in enumerate(self._names)
        }

    def close(self) -> None:
        """See `Backend.close`."""
        self._request = None
        self._compiled = None


def _writable(clip: Inputs) -> Inputs:
    """Return the same memory as an array that may be written.

    OpenVINO only reads its input, but takes no read-only array, and the ring gives nothing else.
    The array must not outlive `clip`.
    """
    memory = (ctypes.c_uint8 * clip.nbytes).from_address(clip.ctypes.data)
    plain: npt.NDArray[Any] = np.frombuffer(memoryview(memory), clip.dtype)
    return plain.reshape(clip.shape)
