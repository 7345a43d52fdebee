"""The compiled module, where it was built and is wanted. Nothing else in the package imports it."""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

OFF = "VAD_NATIVE=0"
"""In the environment: everything computes with NumPy, with the same result."""


def native_module() -> "ModuleType | None":
    """Return `vad_runtime._native`; None where it does not serve, as `why_not` says."""
    if os.environ.get("VAD_NATIVE") == "0":
        return None
    try:
        import vad_runtime._native as module
    except ModuleNotFoundError as error:
        if error.name != "vad_runtime._native":
            raise
        return None
    # A checkout that moved on keeps the module that was compiled before.
    return module if hasattr(module, "Resizer") else None


def why_not() -> str:
    """Return in a few words why `native_module` gives None."""
    if os.environ.get("VAD_NATIVE") == "0":
        return OFF
    if sys.modules.get("vad_runtime._native") is not None:
        return "the compiled module is too old: reinstall vad-edge"
    return "no compiled module"
