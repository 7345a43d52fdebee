"""The compiled module, where it was built and is wanted. Nothing else in the package imports it."""

import functools
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

OFF = "VAD_NATIVE=0"
"""In the environment: everything computes with NumPy, with the same result."""
_NAME = "vad_runtime._native"


def native_module() -> "ModuleType | None":
    """Return `vad_runtime._native`; None where it does not serve, as `why_not` says.

    It is asked for each frame, and takes 2 µs: the environment may change, the folders are searched
    once.
    """
    if os.environ.get("VAD_NATIVE") == "0" or not _is_there():
        return None
    module = sys.modules.get(_NAME)
    # A checkout that moved on keeps the module that was compiled before.
    return module if hasattr(module, "Resizer") else None


@functools.cache
def _is_there() -> bool:
    # Python remembers what it has imported, but not what it could not find: 33 µs each time.
    try:
        import vad_runtime._native as module
    except ModuleNotFoundError as error:
        if error.name != _NAME:
            raise
        return False
    return module is not None


def why_not() -> str:
    """Return in a few words why `native_module` gives None."""
    if os.environ.get("VAD_NATIVE") == "0":
        return OFF
    if sys.modules.get(_NAME) is not None:
        return "the compiled module is too old: reinstall vad-edge"
    return "no compiled module"
