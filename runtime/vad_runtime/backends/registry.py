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
from vad_runtime.contracts.manifest import Artefact


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
            for by name, so that scores do not depend on which; under `auto` it may be bf16.

    Raises:
        BackendError: The name is unknown, its library is not installed, or it cannot run the
            bundle. With `auto`: nothing can; the message says why for each.
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
    refusals: list[str] = []
    for candidate, entry in _BACKENDS.items():
        if not entry.auto:
            continue
        try:
            reason = _FASTEST if not refusals else f"next best, since {'; '.join(refusals)}"
            return _open(bundle, candidate, wanted, reason)
        except BackendError as error:
            refusals.append(str(error).rstrip("."))
    raise BackendError(f"no back end can run {bundle.name}: {'; '.join(refusals)}.")


def _open(bundle: Bundle, name: str, options: Options, reason: str) -> Choice:
    entry = _BACKENDS[name]
    short, artefact = _artefact(bundle, name)
    factory = _import(name, entry)
    backend = factory(bundle.file(artefact), bundle.manifest, options)
    return Choice(backend=backend, name=name, artefact=short, reason=reason)


def _artefact(bundle: Bundle, name: str) -> tuple[str, Artefact]:
    for short, artefact in bundle.manifest.artefacts.items():
        if artefact.format == "onnx" and artefact.precision == "fp32":
            return short, artefact
    have = ", ".join(bundle.manifest.artefacts)
    raise BackendError(
        f"{name} cannot run any artefact of {bundle.name} ({have}). Export an fp32 graph."
    )


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
