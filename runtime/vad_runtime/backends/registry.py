"""Finds, imports and opens back ends on demand.

A new back end is one line in `_BACKENDS` and one module; runtime/README.md shows it.
"""

import importlib
from dataclasses import dataclass, replace
from typing import cast

from vad_runtime.backends.base import Backend, BackendClass, Options
from vad_runtime.backends.checks import first_line
from vad_runtime.bundle import Bundle
from vad_runtime.contracts.errors import BackendError
from vad_runtime.contracts.manifest import Artefact, PlanChoice, Precision, artefact_precision


@dataclass(frozen=True, kw_only=True)
class _Entry:
    module: str
    factory: str
    needs: str | None
    """Top-level module of the library that must be installed; None = nothing."""
    extra: str
    """Extra of vad-edge that installs it."""
    auto: bool = True


_FASTEST = "the fastest installed engine on this CPU"

# In the order of speed on a CPU (docs/results/backends.md): `auto` takes the first that works.
_BACKENDS: dict[str, _Entry] = {
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


def open_backend(bundle: Bundle, name: str = "auto", options: Options | None = None) -> Choice:
    """Open a back end for a bundle.

    Args:
        bundle: An opened bundle.
        name: `auto` for the fastest that is installed and loads an artefact of the bundle, or one
            of `backend_names()`.
        options: Precision, threads, device. The precision `auto` means fp32 for an engine asked
            for by name, so that scores do not depend on which. Where both are `auto`, the
            bundle's plan decides if it can be followed; without one it is fp32, or bf16 where
            that is proven, and never a graph of another precision.

    Raises:
        BackendError: The name is unknown, its library is not installed, it cannot run the bundle,
            or the bundle has no graph of this precision. With `auto`: nothing can; the message
            says why for each.
    """
    wanted = options or Options()
    if name != "auto":
        if name not in _BACKENDS:
            raise BackendError(
                f"no back end is called {name!r}. Use auto or one of: {', '.join(_BACKENDS)}"
            )
        if wanted.precision == "auto":
            # Whoever names an engine compares; `auto` is for whoever wants speed.
            wanted = replace(wanted, precision="fp32")
        return _open(bundle, name, wanted, "asked for")
    planned = _planned(bundle, wanted) if wanted.precision == "auto" else ""
    if isinstance(planned, Choice):
        return planned
    _artefact(bundle, wanted)  # refused once, not by each engine
    refusals: list[str] = []
    for candidate, entry in _BACKENDS.items():
        if not entry.auto:
            continue
        try:
            reason = _FASTEST if not refusals else f"next best, since {'; '.join(refusals)}"
            return _open(bundle, candidate, wanted, reason + planned)
        except BackendError as error:
            refusals.append(str(error).rstrip("."))
    raise BackendError(f"no back end can run {bundle.name}: {'; '.join(refusals)}.")


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
    return f"planned on {plan.cpu}{target}: {plan.median_ms:.3g} ms with {plan.threads} threads"


def _open(bundle: Bundle, name: str, options: Options, reason: str) -> Choice:
    entry = _BACKENDS[name]
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
        # The library is there but its shared objects are not, or are of another platform.
        raise BackendError(
            f"{name} is installed but does not load ({first_line(error)})."
        ) from error
    return cast(BackendClass, getattr(module, entry.factory))
