"""Finds, imports and opens back ends on demand.

A new back end is one line in `_BACKENDS` and one module; runtime/README.md shows it.
"""

import contextlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

from vad_runtime.backends.base import Backend, BackendClass, Options
from vad_runtime.backends.checks import first_line
from vad_runtime.bundle import Bundle
from vad_runtime.contracts.errors import BackendError, NoDriverError, VadError
from vad_runtime.contracts.manifest import Artefact, PlanChoice, Precision, artefact_precision
from vad_runtime.cuda.driver import driver_installed, gpu_of
from vad_runtime.engines.fit import engines_of
from vad_runtime.engines.plan_file import ENGINE_FOLDER, read_sidecar, sidecar_path


@dataclass(frozen=True, kw_only=True)
class _Entry:
    module: str
    factory: str
    needs: str | None
    """Top-level module of the library that must be installed; None = nothing, or one of several
    that the back end looks for itself."""
    extra: str
    """Extra of vad-edge that installs it."""
    auto: bool = True
    gpu: bool = False
    """It computes on an NVIDIA GPU."""
    plans: bool = False
    """It runs TensorRT plans, so the options about these mean something to it."""


_FASTEST = "the fastest installed engine on this CPU"
_FIRST_ON_GPU = "the first installed engine that runs it on this GPU"

# `auto` takes the first that works: those for a GPU where there is one, then those for a CPU in the
# order of speed (docs/results/backends.md).
_BACKENDS: dict[str, _Entry] = {
    "tensorrt": _Entry(
        module="vad_runtime.backends.tensorrt",
        factory="TensorRtBackend",
        needs=None,
        extra="trt",
        gpu=True,
        plans=True,
    ),
    "onnxruntime-cuda": _Entry(
        module="vad_runtime.backends.onnxruntime_gpu",
        factory="OnnxRuntimeCudaBackend",
        needs="onnxruntime",
        extra="gpu",
        gpu=True,
    ),
    "onnxruntime-tensorrt": _Entry(
        module="vad_runtime.backends.onnxruntime_gpu",
        factory="OnnxRuntimeTensorRtBackend",
        needs="onnxruntime",
        extra="gpu",
        gpu=True,
    ),
    "openvino": _Entry(
        module="vad_runtime.backends.openvino",
        factory="OpenVinoBackend",
        needs="openvino",
        extra="openvino",
    ),
    "onnxruntime": _Entry(
        module="vad_runtime.backends.onnxruntime",
        factory="OnnxRuntimeBackend",
        needs="onnxruntime",
        extra="onnxruntime",
    ),
    "fake": _Entry(
        module="vad_runtime.backends.fake",
        factory="FakeBackend",
        needs=None,
        extra="runtime",
        auto=False,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A back end that is ready to run, and why it was taken."""

    backend: Backend
    name: str
    artefact: str
    """Short name of the artefact in the manifest."""
    reason: str

    @property
    def line(self) -> str:
        """One line for people and reports."""
        return f"{self.backend.device}, artefact {self.artefact} ({self.reason})"


def backend_names() -> tuple[str, ...]:
    """Return the names that `--backend` takes, beside `auto`."""
    return tuple(_BACKENDS)


def runs_on_gpu(name: str) -> bool:
    """Return whether the back end of this name computes on an NVIDIA GPU."""
    return _BACKENDS[name].gpu


def refusal(name: str, device: str = "auto") -> str | None:
    """Return why a back end cannot run here at all, with the next step; None = it can.

    The library is imported and the driver is asked, but no graph is loaded.

    Args:
        name: One of `backend_names()`.
        device: As `Options.device`.
    """
    entry = _BACKENDS[name]
    try:
        if entry.gpu:
            gpu_of(device)
        factory = _import(name, entry)
        # What a back end needs beside its own module, it says itself.
        require: Any = getattr(factory, "require", None)
        if require is not None:
            require(device)
    except VadError as error:  # a VAD_CUDA that makes no sense, too
        return str(error)
    return None


def open_backend(bundle: Bundle, name: str = "auto", options: Options | None = None) -> Choice:
    """Open a back end for a bundle.

    Args:
        bundle: An opened bundle.
        name: `auto` for the first that is installed and loads an artefact of the bundle, or one
            of `backend_names()`.
        options: Precision, threads, device, TensorRT plan. The precision `auto` means fp32 for an
            engine asked for by name, so that scores do not depend on which; a plan asked for by its
            file has its own, and so have the bundle's where all are of one. Where both are `auto`,
            the bundle's plan decides if it can be followed; without one it is fp32, or bf16 where
            that is proven, and never a graph of another precision.

    Raises:
        BackendError: The name is unknown, its library is not installed, it cannot run the bundle,
            or the bundle has no graph of this precision. With `auto`: nothing can; the message
            says why for each.
    """
    wanted = _with_precision_of_plan_file(options or Options())
    if name != "auto":
        if name not in _BACKENDS:
            raise BackendError(
                f"no back end is called {name!r}. Use auto or one of: {', '.join(_BACKENDS)}"
            )
        if wanted.precision == "auto":
            # Whoever names an engine compares; `auto` is for whoever wants speed.
            plans = _BACKENDS[name].plans
            precision = _precision_of_plans(bundle, wanted) if plans else "fp32"
            wanted = replace(wanted, precision=precision)
        return _open(bundle, name, wanted, "asked for")
    planned = _planned(bundle, wanted) if wanted.precision == "auto" else ""
    if isinstance(planned, Choice):
        return planned
    _artefact(bundle, wanted)  # refused once, not by each engine
    return _first_that_runs(bundle, wanted, planned)


def _first_that_runs(bundle: Bundle, options: Options, planned: str) -> Choice:
    refusals: list[str] = []
    no_driver = False
    for candidate, entry in _candidates(options):
        if no_driver and entry.gpu:
            continue  # it would only say the same again
        try:
            reason = _FIRST_ON_GPU if entry.gpu else _FASTEST
            if refusals:
                reason = f"next best, since {'; '.join(refusals)}"
            return _open(bundle, candidate, options, reason + planned)
        except BackendError as error:
            no_driver = no_driver or isinstance(error, NoDriverError)
            refusals.append(str(error).rstrip("."))
    raise BackendError(f"no back end can run {bundle.name}: {'; '.join(refusals)}.")


def _candidates(options: Options) -> Iterator[tuple[str, _Entry]]:
    """Yield what `auto` may try, in order.

    Engines for a GPU are left out without a word where nobody could expect one: without a driver,
    or where `cpu` was asked for. Asked for `cuda`, or for a TensorRT plan, nothing else will do.
    """
    plans = bool(_plan_options(options))
    on_gpu = options.device.startswith("cuda")
    gpus = plans or on_gpu or (options.device != "cpu" and driver_installed())
    for name, entry in _BACKENDS.items():
        if not entry.auto or (entry.gpu and not gpus):
            continue
        if (plans and not entry.plans) or (on_gpu and not entry.gpu):
            continue
        yield name, entry


def _plan_options(options: Options) -> list[str]:
    """Return the options that mean something for a TensorRT plan only, as they are typed."""
    given = {
        "--engine": options.engine is not None,
        "--rebuild": options.rebuild,
        "--host-code": options.host_code,
    }
    return [name for name, is_given in given.items() if is_given]


def _with_precision_of_plan_file(options: Options) -> Options:
    """Return the options with the precision of the plan that was named, where none was asked for.

    A plan without a sidecar is left to the back end, which says what is wrong with it.
    """
    plan = options.engine
    if plan is None or options.precision != "auto" or not plan.is_file():
        return options
    if not sidecar_path(plan).is_file():
        return options
    return replace(options, precision=read_sidecar(plan).precision)


def _precision_of_plans(bundle: Bundle, options: Options) -> Precision:
    """Return the precision of the plans that were built, which is what they were built for.

    Raises:
        BackendError: They are of several, none of them fp32.
    """
    folder = options.engine or bundle.path / ENGINE_FOLDER
    found: set[Precision] = set()
    for plan in engines_of(folder) if folder.is_dir() else []:
        with contextlib.suppress(BackendError):  # the back end says what is wrong with it
            found.add(read_sidecar(plan).precision)
    if "fp32" in found or not found:
        return "fp32"
    if len(found) > 1:
        have = " and ".join(sorted(found))
        raise BackendError(f"{folder} holds plans in {have}. Say which with --precision.")
    return found.pop()


def _planned(bundle: Bundle, options: Options) -> Choice | str:
    """Return what the bundle's plan chose, opened, or why not, as the tail of a reason."""
    plan = bundle.manifest.plan
    if plan is None:
        return ""
    try:
        if plan.backend not in _BACKENDS:
            raise BackendError(f"no back end is called {plan.backend!r} here")
        if bundle.manifest.artefact_of(plan.precision) is None:
            raise BackendError(f"its {artefact_precision(plan.precision)} artefact is gone")
        options = replace(options, precision=plan.precision)
        return _open(bundle, plan.backend, options, _plan_line(plan))
    except BackendError as error:
        reason = str(error).rstrip(".")
        return f"; the plan ({plan.backend}, {plan.precision}) is not followed: {reason}"


def _plan_line(plan: PlanChoice) -> str:
    target = "" if plan.target_ms is None else f" for {plan.target_ms:g} ms a clip"
    entry = _BACKENDS.get(plan.backend)
    threads = "" if entry is not None and entry.gpu else f" with {plan.threads} threads"
    return f"planned on {plan.cpu}{target}: {plan.median_ms:.3g} ms{threads}"


def _open(bundle: Bundle, name: str, options: Options, reason: str) -> Choice:
    entry = _BACKENDS[name]
    pointless = [] if entry.plans else _plan_options(options)
    if pointless:
        raise BackendError(
            f"{name} runs no TensorRT plans, so {' and '.join(pointless)} cannot be honoured. "
            "Use --backend tensorrt."
        )
    short, artefact = _artefact(bundle, options)
    factory = _import(name, entry)
    backend = factory(bundle.file(artefact), bundle.manifest, options)
    return Choice(backend=backend, name=name, artefact=short, reason=reason)


def _artefact(bundle: Bundle, options: Options) -> tuple[str, Artefact]:
    precision: Precision = "fp32" if options.precision == "auto" else options.precision
    found = bundle.manifest.artefact_of(precision)
    if found is not None and found[1].format == "onnx":
        return found
    wanted = artefact_precision(precision)
    have = ", ".join(bundle.manifest.artefacts)
    way_out = (
        "Export an fp32 graph."
        if wanted == "fp32"
        else f"Make one with: vad-export quantise {bundle.path} --precision {wanted}"
    )
    raise BackendError(f"{bundle.name} has no {wanted} artefact (it has: {have}). {way_out}")


def _import(name: str, entry: _Entry) -> BackendClass:
    missing = BackendError(
        f"{name} is not installed. Install it with: pip install 'vad-edge[{entry.extra}]'"
    )
    try:
        module = importlib.import_module(entry.module)
    except ModuleNotFoundError as error:
        if entry.needs is None or (error.name or "").split(".")[0] != entry.needs:
            raise
        raise missing from None
    except (ImportError, OSError) as error:
        if entry.needs is None:
            raise
        # The library is there but its shared objects are not, or are of another platform.
        raise BackendError(
            f"{name} is installed but does not load ({first_line(error)})."
        ) from error
    return cast(BackendClass, getattr(module, entry.factory))
