"""Back ends: what runs a bundle's graph. Each is imported only when it is asked for.

`import openvino` would tell Google Analytics of itself, in a process of its own, and keep an
identity in ~/intel. Nothing beside a camera does that unasked, so OpenVINO finds its package for it
missing, which it is prepared for. Who has imported `openvino_telemetry` before keeps it.
"""

import sys

from vad_runtime.backends.base import Backend
from vad_runtime.backends.registry import (
    Choice,
    backend_names,
    open_backend,
    refusal,
    runs_on_gpu,
)

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__all__ = ["Backend", "Choice", "backend_names", "open_backend", "refusal", "runs_on_gpu"]
