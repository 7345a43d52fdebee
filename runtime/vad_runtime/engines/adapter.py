"""Finds the TensorRT libraries of this machine and hides how they differ.

All that depends on a version or flavour of TensorRT stands in the modules `adapter*.py`: 8.6, 10.x,
11.x, the lean and dispatch runtimes, and TensorRT for RTX. Nobody else asks for versions; they ask
`lib.can.X`.
"""

import importlib
import warnings
from types import ModuleType
from typing import Any

from vad_runtime.contracts import BackendError
from vad_runtime.engines.adapter_base import TITLES, Features, Flavour
from vad_runtime.engines.adapter_build import BuildSide, ParseIssue
from vad_runtime.engines.adapter_run import Context, RunSide

__all__ = [
    "FLAVOURS",
    "Context",
    "Features",
    "Flavour",
    "ParseIssue",
    "TensorRt",
    "found",
    "installed",
]

FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "rtx", "lean", "dispatch")

_MODULES: dict[Flavour, tuple[str, ...]] = {
    # The first is an alias that some packages bring, the second what the wheels really hold.
    "tensorrt": ("tensorrt", "tensorrt_bindings"),
    "rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    "lean": ("tensorrt_lean", "tensorrt_lean_bindings"),
    "dispatch": ("tensorrt_dispatch", "tensorrt_dispatch_bindings"),
}

_INSTALL: dict[Flavour, str] = {
    "tensorrt": "Install with: pip install 'vad-edge[trt]' (on a Jetson: JetPack brings it)",
    "rtx": "Install with: pip install 'vad-edge[rtx]'",
    "lean": "Install with: pip install 'vad-edge[lean]'",
    "dispatch": "Install with: pip install tensorrt_dispatch",
}


class TensorRt(BuildSide, RunSide):
    """One TensorRT library. `found` gives the one object for each; tests make their own.

    Builders, networks, engines and the like are TensorRT's own objects; only this class and
    `Context` call them. `can` says what there is.
    """


_libraries: dict[Flavour, TensorRt] = {}


def found(flavour: Flavour) -> TensorRt:
    """Import a TensorRT library.

    Returns:
        Always the same object, since TensorRT keeps the first logger of a process.

    Raises:
        BackendError: It is not installed, or it does not load; the reason and the next step.
    """
    module = _imported(flavour)
    known = _libraries.get(flavour)
    if known is None or known.trt is not module:
        known = _libraries[flavour] = TensorRt(flavour, module)
    return known


def installed() -> dict[Flavour, TensorRt | str]:
    """Try all libraries: each, or why it is not there."""
    result: dict[Flavour, TensorRt | str] = {}
    for flavour in FLAVOURS:
        try:
            result[flavour] = found(flavour)
        except BackendError as error:
            result[flavour] = str(error)
    return result


def _imported(flavour: Flavour) -> ModuleType:
    for name in _MODULES[flavour]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of other people's modules
                module: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                continue
            raise _broken(flavour, error) from None
        # Bindings without their libraries raise ImportError, OSError or RuntimeError.
        except Exception as error:
            raise _broken(flavour, error) from None
        if not (hasattr(module, "Runtime") and hasattr(module, "__version__")):
            raise _broken(flavour, f"{name} has no Runtime: an empty folder, or another package")
        return module  # type: ignore[no-any-return]
    raise BackendError(f"{TITLES[flavour]} is not installed. {_INSTALL[flavour]}")


def _broken(flavour: Flavour, reason: object) -> BackendError:
    text = " ".join(str(reason).split()).rstrip(".") or type(reason).__name__
    return BackendError(
        f"{TITLES[flavour]} is installed but does not load ({text}). "
        f"Install its libraries, or take it away. {_INSTALL[flavour]}"
    )
