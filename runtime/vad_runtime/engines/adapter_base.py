"""What every part of the TensorRT adapter needs: the features of a library, its log, its errors."""

import ctypes
import re
import threading
from collections import deque
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from vad_runtime.contracts import BackendError, ExportError, VadError
from vad_runtime.engines.explain import cause_of

Flavour = Literal["tensorrt", "rtx", "lean", "dispatch"]
"""Which library: TensorRT, TensorRT for RTX, or TensorRT's lean or dispatch runtime."""

TITLES: dict[Flavour, str] = {
    "tensorrt": "TensorRT",
    "rtx": "TensorRT-RTX",
    "lean": "TensorRT lean runtime",
    "dispatch": "TensorRT dispatch runtime",
}

_PLACE = re.compile(r"\.? +In \w+ at /\S+?:\d+")
_KEPT = 50
_TOLD = 2
_LONGEST = 160

DTYPES: dict[str, str] = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
"""TensorRT's names of types and NumPy's. `trt.nptype` fails with newer NumPys on 8.6."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a library can do. Asked of its names; nobody else looks at versions."""

    builder: bool
    """It builds plans. The lean and dispatch runtimes only load them."""
    parser: bool
    """It reads ONNX files."""
    legacy_precision: bool
    """FP16 and INT8 are flags of the builder, and INT8 ranges come from a calibrator (8.x). Without
    it the types in the graph are all that counts."""
    monitor: bool
    """The builder tells its progress."""
    version_compatible: bool
    """It builds plans that later versions load."""
    hardware_compatible: bool
    """It builds plans for all GPUs from Ampere on."""
    targets: bool
    """It builds for GPUs that are named, on any machine (TensorRT-RTX)."""
    runtime_cache: bool
    """Kernels are compiled where the plan runs, and can be kept in a file (TensorRT-RTX)."""
    own_graphs: bool
    """It makes CUDA graphs itself, so the caller must not capture (TensorRT-RTX)."""
    timing_cache: bool
    """Measured kernels can be kept for the next build."""
    levels: bool
    """The builder has an optimisation level."""
    host_code_switch: bool
    """The runtime asks before a plan's host code runs."""
    dla: bool
    """It knows the deep-learning accelerator; whether there is one is another question."""


def features_of(trt: Any, flavour: Flavour) -> Features:
    """Ask a module for its names.

    Args:
        trt: The module.
        flavour: TensorRT-RTX has names whose calls fail or do nothing; those count as missing.
    """

    def has(owner: str, *names: str) -> bool:
        found = getattr(trt, owner, None)
        return found is not None and all(hasattr(found, name) for name in names)

    classic = flavour != "rtx"
    builder = has("Builder", "build_serialized_network")
    typed = builder and (
        has("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")
        or not has("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH")
    )
    return Features(
        builder=builder,
        parser=has("OnnxParser", "parse_from_file"),
        legacy_precision=builder and not typed and has("BuilderFlag", "FP16", "INT8"),
        monitor=has("IBuilderConfig", "progress_monitor") and has("IProgressMonitor"),
        version_compatible=builder and classic and has("BuilderFlag", "VERSION_COMPATIBLE"),
        hardware_compatible=classic
        and has("IBuilderConfig", "hardware_compatibility_level")
        and has("HardwareCompatibilityLevel", "AMPERE_PLUS"),
        targets=has("IBuilderConfig", "num_compute_capabilities", "set_compute_capability"),
        runtime_cache=has("IRuntimeConfig", "create_runtime_cache") and has("IRuntimeCache"),
        own_graphs=has("IRuntimeConfig", "cuda_graph_strategy")
        and has("CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE"),
        timing_cache=classic and has("IBuilderConfig", "create_timing_cache"),
        levels=classic and has("IBuilderConfig", "builder_optimization_level"),
        host_code_switch=has("Runtime", "engine_host_code_allowed"),
        dla=classic and has("IBuilderConfig", "DLA_core") and has("Builder", "num_DLA_cores"),
    )


class Log:
    """The last warnings and errors of one library. TensorRT calls it from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: deque[tuple[bool, str]] = deque(maxlen=_KEPT)

    def keep(self, is_error: bool, line: str) -> None:
        """Add what TensorRT said: on one line, and without the place in TensorRT's sources."""
        with self._lock:
            self._lines.append((is_error, _PLACE.sub("", " ".join(line.split()))))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._lines.clear()

    def errors(self) -> list[str]:
        """Return the errors, oldest first."""
        with self._lock:
            return [line for is_error, line in self._lines if is_error]

    def warnings(self) -> list[str]:
        """Return the warnings, oldest first."""
        with self._lock:
            return [line for is_error, line in self._lines if not is_error]


def _logger(trt: Any, log: Log) -> Any:
    severity = trt.ILogger.Severity
    errors = (severity.INTERNAL_ERROR, severity.ERROR)
    warning = severity.WARNING

    class Keeper(trt.ILogger):  # type: ignore[misc]
        """Hands what matters to a `Log`."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # not super(): the binding asks for this very call

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT."""
            if severity in errors:
                log.keep(True, message)
            elif severity == warning:
                log.keep(False, message)

    return Keeper()


class Library:
    """A library with its log. `TensorRt` adds what it can do.

    TensorRT uses the first logger of a process only, so there is one `Library` for each module (see
    `adapter.found`).
    """

    def __init__(self, flavour: Flavour, trt: ModuleType) -> None:
        self.flavour: Flavour = flavour
        self.trt: Any = trt
        self.version: str = str(self.trt.__version__)
        number = re.match(r"\d+", self.version)
        self.major = int(number[0]) if number else 0
        self.name = f"{TITLES[flavour]} {self.version}"
        self.can = features_of(trt, flavour)
        self._log = Log()
        self._made_logger: Any = None

    @property
    def logger(self) -> Any:
        """The one logger, a `trt.ILogger`."""
        if self._made_logger is None:
            self._made_logger = _logger(self.trt, self._log)
        return self._made_logger

    def fresh_log(self) -> None:
        """Forget what TensorRT has said, so that a failure tells of what comes now."""
        self._log.clear()

    def errors(self) -> list[str]:
        """Return the last errors that TensorRT has logged, oldest first, each on one line."""
        return self._log.errors()

    def warnings(self) -> list[str]:
        """Return the last warnings that TensorRT has logged, oldest first, each on one line."""
        return self._log.warnings()

    def is_usable(self, made: Any) -> bool:
        """Return whether a runtime or builder that was just made can be worked with.

        Where the driver is missing or too old for the library, the constructors of lean and
        dispatch 11.4 only log a CUDA error: they hand back an object with a bogus pointer, and the
        next call on it ends the process. Freeing it would be such a call, so it is kept for ever.

        Args:
            made: What the constructor gave, after `fresh_log`; None = nothing.
        """
        if made is None:
            return False
        if not any("cuda" in line.lower() for line in self.errors()):
            return True
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))
        return False

    def failure(self, what: str, kind: type[VadError] = BackendError) -> VadError:
        """Return an error with TensorRT's own words, their meaning, and what to do.

        Args:
            what: What failed: `model.engine cannot be loaded`.
            kind: Class of the error.

        Returns:
            One line. It is returned, not raised.
        """
        lines = self._telling(kind)
        known = cause_of(lines)
        if known is None:
            said = "; ".join(_shortened(line) for line in lines[-_TOLD:]) or "no reason"
            return kind(f"{what}: {self.name} says: {said.rstrip('.')}. See: vad-run doctor")
        line = next(line for line in reversed(lines) if known.pattern.search(line))
        said = _shortened(line).rstrip(".")
        return kind(f"{what}: {self.name} says: {said} ({known.cause}). {known.remedy}")

    def _telling(self, kind: type[VadError]) -> list[str]:
        errors = list(dict.fromkeys(self.errors())) or list(dict.fromkeys(self.warnings()))
        if self.can.targets and issubclass(kind, ExportError):
            # TensorRT-RTX builds without a driver, and complains of it all the same.
            errors = [line for line in errors if "cudaError 35" not in line] or errors
        return errors


def _shortened(line: str) -> str:
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
