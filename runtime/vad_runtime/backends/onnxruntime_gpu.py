"""ONNX Runtime on an NVIDIA GPU: with its CUDA provider, or with TensorRT behind it.

ONNX Runtime lists its GPU providers on machines without a GPU too, and where one of them does not
start it computes on the processor without an error. So the driver is asked first, and afterwards
the session which provider it really got.

The buffers lie on the GPU at fixed addresses, one set for each size of a batch, and each set has a
CUDA graph of its own. A graph is replayed only after it has given the same scores as a plain run.
"""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from vad_runtime.backends.base import Inputs, Options, Outputs, PrecisionChoice
from vad_runtime.backends.checks import checked_clips, checked_graph, checked_score
from vad_runtime.backends.onnxruntime_slot import FATAL, NoGraphError, Slot, elsewhere, reason_of
from vad_runtime.backends.onnxruntime_trt_cache import (
    cleared,
    engine_cache,
    fp32_stays_fp32,
    locked,
    tensorrt_version,
)
from vad_runtime.contracts.errors import BackendError
from vad_runtime.contracts.manifest import Manifest
from vad_runtime.cuda.driver import Gpu, driver, gpu_of

_DEFAULT_SEVERITY = 2


class OnnxRuntimeCudaBackend:
    """One session on the CUDA provider; an fp32 graph computes in fp32, never in TF32.

    int8 and mixed graphs are refused. This provider has no int8 convolution: it would round to
    int8, compute in floating point, take longer than the fp32 graph, and prove nothing about the
    int8 arithmetic of another engine.
    """

    _NAME = "onnxruntime-cuda"
    _PROVIDER = "CUDAExecutionProvider"
    _LABEL = "CUDA"
    _BATCHES: tuple[int, ...] = (16, 8, 4, 2, 1)
    _ARITHMETIC: Mapping[PrecisionChoice, str] = {
        "auto": "fp32",
        "fp32": "fp32",
        "fp16": "fp16 graph",
    }

    def __init__(self, file: Path, manifest: Manifest, options: Options) -> None:
        self._file, self._manifest, self._options = file, manifest, options
        if options.precision not in self._ARITHMETIC:
            raise BackendError(self._refusal(options.precision))
        self._gpu = self.require(options.device)
        self._missing = _preloaded()
        self._prepare()
        self._session: Any = None
        self._slots: dict[int, Slot] = {}
        self._batches = self._BATCHES
        self._graphs = options.graphs
        self._why_no_graph = "" if options.graphs else "switched off"
        if options.graphs:
            try:
                self._open()
            except NoGraphError as error:
                self._why_no_graph = str(error)
                self._graphs = False
                self.close()
        if self._session is None:
            self._open()
        self.device = self._described()

    @classmethod
    def require(cls, device: str) -> Gpu:
        """Return the GPU, or say why this back end runs nothing here. Makes no session.

        Raises:
            NoDriverError: No driver, or no GPU.
            BackendError: No such device, an ONNX Runtime without this provider, or one for a newer
                CUDA than the driver knows.
        """
        gpu = gpu_of(device)  # before a library that may end the process without one
        _preloaded()  # where the provider is a plugin, it is only then in the list
        if cls._PROVIDER not in ort.get_available_providers():
            raise BackendError(
                f"{cls._NAME}: this onnxruntime {ort.__version__} has no {cls._LABEL} provider. "
                "Install one that has: pip uninstall onnxruntime; pip install 'vad-edge[gpu]'"
            )
        wants, knows = _cuda_major(), driver().cuda
        if wants and int(wants) > int(knows.split(".")[0]):
            raise BackendError(
                f"{cls._NAME}: this onnxruntime {ort.__version__} is for CUDA {wants}, the driver "
                f"knows only {knows}. Update the driver, or install an older onnxruntime-gpu."
            )
        return gpu

    def infer(self, clips: Inputs) -> Outputs:
        """See `Backend.infer`; clips are run in batches, the largest that fit first."""
        checked_clips(clips, self._manifest)
        parts, start = [], 0
        while start < len(clips):
            count = next(size for size in self._batches if size <= len(clips) - start)
            try:
                parts.append(self._slot(count).run(clips[start : start + count]))
            except Exception as error:  # ONNX Runtime's errors share no narrower base class
                raise BackendError(self._failed(error)) from error
            start += count
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        checked_score(joined["score"], len(clips), self._manifest)
        return joined

    def close(self) -> None:
        """See `Backend.close`."""
        self._slots.clear()  # the buffers come from the session's allocator
        self._session = None

    # -- what the TensorRT provider does otherwise -----------------------------------------------

    def _prepare(self) -> None:
        """Get ready what the settings need."""

    def _providers(self) -> list[Any]:
        return [(self._PROVIDER, _cuda_settings(self._gpu, self._graphs)), "CPUExecutionProvider"]

    def _change(self, settings: Any) -> None:
        """Change the session's own settings."""

    def _refusal(self, precision: PrecisionChoice) -> str:
        if precision == "bf16":
            return f"{self._NAME} does not compute an fp32 graph in bf16. Use --precision fp32."
        return (
            f"{self._NAME} has no int8 arithmetic: it would round the {precision} graph to int8 "
            "and compute in floating point, slower than fp32. Use --precision fp16 or "
            "--backend tensorrt."
        )

    # -- the session -----------------------------------------------------------------------------

    def _open(self) -> None:
        """Make the session and its first buffers.

        Raises:
            BackendError: It does not load, or computes elsewhere.
            NoGraphError: With CUDA graphs on: something failed that may work without.
        """
        session = self._made()
        used = session.get_providers()
        if used[0] != self._PROVIDER:
            raise BackendError(
                f"{self._NAME}: asked ONNX Runtime for its {self._LABEL} provider, but it would "
                f"compute with {used[0]}: {self._missing or _needed()}. Install what it needs: "
                "pip install 'onnxruntime-gpu[cuda,cudnn]'"
            )
        inputs = session.get_inputs()
        if [node.name for node in inputs] != [self._manifest.input_name]:
            raise BackendError(
                f"{self._file.name} has no single input `{self._manifest.input_name}`. "
                "Export the bundle again."
            )
        kind = inputs[0].type.removeprefix("tensor(").removesuffix(")")
        shape = [d if isinstance(d, int) else None for d in inputs[0].shape]
        checked_graph(
            self._file,
            self._manifest,
            dtype="float32" if kind == "float" else kind,
            shape=shape,
            outputs=[output.name for output in session.get_outputs()],
        )
        if shape[0] == 1:
            self._batches = (1,)
        self._session = session
        try:
            self._slot(1)
        except NoGraphError:
            raise
        except Exception as error:  # as above
            if self._graphs:
                raise NoGraphError(reason_of(error)) from error
            raise BackendError(self._failed(error)) from error

    def _made(self) -> Any:
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = self._options.threads or 1  # for what stays on the CPU
        settings.inter_op_num_threads = 1
        settings.log_severity_level = FATAL
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        self._change(settings)
        try:
            with _quiet():
                session = ort.InferenceSession(
                    str(self._file), settings, providers=self._providers(), enable_fallback=0
                )
        except Exception as error:  # as above
            if self._graphs:
                raise NoGraphError(reason_of(error)) from error
            raise BackendError(
                f"{self._NAME} cannot load {self._file.name}: {reason_of(error)}."
            ) from error
        session.disable_fallback()
        return session

    def _slot(self, count: int) -> Slot:
        """Return the buffers for a batch of this size, made where there were none."""
        if count not in self._slots:
            make = partial(Slot, self._session, self._manifest, count, self._gpu)
            try:
                slot = make(str(count) if self._graphs else None)
            except Exception:  # as above
                if not self._graphs or count == 1:
                    raise
                slot = make(None)  # larger batches may want more memory than a graph has
            self._slots[count] = slot
            self.device = self._described()
        return self._slots[count]

    def _described(self) -> str:
        graph = "CUDA graph" if self._graphs else f"no CUDA graph ({self._why_no_graph})"
        without = [str(n) for n, slot in self._slots.items() if self._graphs and not slot.captured]
        return (
            f"onnxruntime {ort.__version__} {self._LABEL} on cuda:{self._gpu.index} "
            f"({self._gpu.name}, SM {self._gpu.sm}), {self._ARITHMETIC[self._options.precision]}, "
            f"{graph}{' except for batch ' + ', '.join(without) if without else ''}"
            f"{elsewhere(self._session, self._PROVIDER)}"
        )

    def _failed(self, error: Exception) -> str:
        reason = reason_of(error)
        memory = "memory" in reason.lower()
        way_out = "Free memory on the GPU" if memory else "Try --no-cuda-graphs"
        return f"{self._NAME} failed: {reason}. {way_out}, or run on the processor: --device cpu"


class OnnxRuntimeTensorRtBackend(OnnxRuntimeCudaBackend):
    """One session on the TensorRT provider, which builds engines and keeps them in a cache.

    The first start takes as long as a build of TensorRT. What TensorRT refuses is computed by the
    CUDA provider, and the device line says how much. One clip at a time: this provider builds anew
    for each size of a batch. The cache is a folder of its own for each graph, GPU, driver and
    version: the provider itself compares only names.
    """

    _NAME = "onnxruntime-tensorrt"
    _PROVIDER = "TensorrtExecutionProvider"
    _LABEL = "TensorRT"
    _BATCHES = (1,)
    _ARITHMETIC: Mapping[PrecisionChoice, str] = {
        "auto": "fp32",
        "fp32": "fp32",
        "fp16": "fp16 graph",
        "int8": "int8 graph",
        "mixed": "mixed graph",
    }

    @classmethod
    def require(cls, device: str) -> Gpu:
        """As for the CUDA provider; beside it, the TensorRT that this provider wants loads.

        Raises:
            BackendError: As there, or no such TensorRT.
        """
        gpu = super().require(device)
        _tensorrt_of_provider()
        return gpu

    def _prepare(self) -> None:
        versions = [ort.__version__, _tensorrt_of_provider()]
        self._cache = engine_cache(self._file, self._manifest, self._gpu, versions)

    def _open(self) -> None:
        with locked(self._cache), fp32_stays_fp32():
            super()._open()

    def _made(self) -> Any:
        try:
            return super()._made()
        except NoGraphError:
            raise
        except BackendError:
            # A build that was killed leaves half an engine, which does not load ever after.
            if not cleared(self._cache):
                raise
            return super()._made()

    def _providers(self) -> list[Any]:
        on = {True: "True", False: "False"}
        precision = self._options.precision
        settings = {
            "device_id": str(self._gpu.index),
            "trt_fp16_enable": on[precision in ("fp16", "mixed")],
            "trt_int8_enable": on[precision in ("int8", "mixed")],
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(self._cache),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(self._cache),
            "trt_cuda_graph_enable": on[self._graphs],
        }
        # A CUDA graph is TensorRT's here. The provider behind it must not capture too.
        behind = ("CUDAExecutionProvider", _cuda_settings(self._gpu, graphs=False))
        return [(self._PROVIDER, settings), behind, "CPUExecutionProvider"]

    def _change(self, settings: Any) -> None:
        # A free batch dimension would move the build from the start to the first clip.
        settings.add_free_dimension_override_by_name("N", 1)
        if self._options.precision in ("int8", "mixed"):
            # TensorRT fuses Q/DQ pairs itself, and ONNX Runtime's rules for them around fp16 are
            # wrong on the CPU.
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def _cuda_settings(gpu: Gpu, graphs: bool) -> dict[str, str]:
    return {
        "device_id": str(gpu.index),
        "use_tf32": "0",
        "enable_cuda_graph": "1" if graphs else "0",
        # Twice the memory at each step is too much where the GPU shares the machine's.
        "arena_extend_strategy": "kSameAsRequested",
    }


def _tensorrt_of_provider() -> str:
    return tensorrt_version(Path(ort.__file__).parent / "capi")


def _preloaded() -> str:
    """Load CUDA and cuDNN from where pip puts them; return what does not load, or nothing."""
    preload = getattr(ort, "preload_dlls", None)
    if preload is None:
        return ""
    said = io.StringIO()
    # A build whose provider is a plugin registers it here, and warns if that fails.
    with contextlib.redirect_stdout(said), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        preload()
    # First it tries pip's folders, by path, then the loader's, by name: only that one is final.
    failed = dict.fromkeys(re.findall(r"Failed to load ([^\s/]+): ", said.getvalue()))
    if failed:
        return f"{', '.join(failed)} cannot be loaded"
    return str(warned[0].message).splitlines()[0].rstrip(". ") if warned else ""


def _needed() -> str:
    return f"it needs CUDA {_cuda_major()} and cuDNN, and one of them is not there".replace(
        "  ", " "
    )


def _cuda_major() -> str:
    """Return the CUDA that this ONNX Runtime was built for, `13`; empty where it does not say."""
    version = str(getattr(ort, "cuda_version", "") or "").split(".")[0]
    return version if version.isdigit() else ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime's own log lines off stderr; what they say is in our message."""
    ort.set_default_logger_severity(FATAL)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_DEFAULT_SEVERITY)
