"""ONNX Runtime on a CPU: runs everywhere, and the reference for parity."""

from pathlib import Path
from typing import Any

import onnxruntime as ort

from vad_runtime.backends.base import Inputs, Options, Outputs, PrecisionChoice
from vad_runtime.backends.checks import (
    checked_clips,
    checked_graph,
    checked_outputs,
    first_line,
    usable_threads,
)
from vad_runtime.contracts.errors import BackendError
from vad_runtime.contracts.manifest import Manifest

_ARITHMETIC: dict[PrecisionChoice, str] = {
    "auto": "fp32",
    "fp32": "fp32",
    "fp16": "fp16 graph (in fp32 where the engine has no fp16)",
    "int8": "int8 graph (in int8 what the engine fuses, the rest in fp32)",
    "mixed": "mixed graph, optimiser off (rounded to int8, computed in fp16 or fp32)",
}


class OnnxRuntimeBackend:
    """One session on the CPU provider; fp16 and int8 graphs run as they are.

    A mixed graph runs with the optimiser off, which is wrong for Q/DQ pairs around fp16. Without
    it every quantised value is rounded to int8 as the graph says and then computed in floating
    point: slow, but right.
    """

    def __init__(self, file: Path, manifest: Manifest, options: Options) -> None:
        self._manifest = manifest
        if options.device not in ("auto", "cpu"):
            raise BackendError(f"onnxruntime runs on cpu here, not on {options.device}. Use cpu.")
        if options.precision == "bf16":
            raise BackendError(
                "onnxruntime has no bf16 arithmetic on a CPU. "
                "Use --backend openvino or --precision fp32."
            )
        threads = options.threads or usable_threads()
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        if options.precision == "mixed":
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Spinning threads would steal the core that decodes the next frames.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = ort.InferenceSession(
                str(file), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors share no narrower base class
            raise BackendError(
                f"onnxruntime cannot load {file.name}: {first_line(error)}"
            ) from error
        used = self._session.get_providers()
        if used != ["CPUExecutionProvider"]:
            raise BackendError(f"Asked ONNX Runtime for its CPU provider, but it chose {used}.")
        self._names = [output.name for output in self._session.get_outputs()]
        inputs = self._session.get_inputs()
        if [node.name for node in inputs] != [manifest.input_name]:
            raise BackendError(
                f"{file.name} has no single input `{manifest.input_name}`. Export the bundle again."
            )
        kind = inputs[0].type.removeprefix("tensor(").removesuffix(")")
        checked_graph(
            file,
            manifest,
            dtype="float32" if kind == "float" else kind,
            shape=[d if isinstance(d, int) else None for d in inputs[0].shape],
            outputs=self._names,
        )
        arithmetic = _ARITHMETIC[options.precision]
        self.device = f"onnxruntime {ort.__version__} on cpu, {arithmetic}, {threads} threads"

    def infer(self, clips: Inputs) -> Outputs:
        """See `Backend.infer`; one graph run per clip."""
        checked_clips(clips, self._manifest)
        return checked_outputs(clips, self._manifest, self._one)

    def _one(self, clip: Inputs) -> Outputs:
        try:
            values = self._session.run(self._names, {self._manifest.input_name: clip})
        except Exception as error:  # as above
            raise BackendError(f"onnxruntime failed: {first_line(error)}") from error
        return dict(zip(self._names, values, strict=True))

    def close(self) -> None:
        """See `Backend.close`."""
        self._session = None
