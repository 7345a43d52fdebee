"""Back ends: what runs a bundle's graph. Each is imported only when it is asked for."""

from vad_runtime.backends.base import Backend
from vad_runtime.backends.registry import (
    Choice,
    backend_names,
    open_backend,
    refusal,
    runs_on_gpu,
)

__all__ = ["Backend", "Choice", "backend_names", "open_backend", "refusal", "runs_on_gpu"]
