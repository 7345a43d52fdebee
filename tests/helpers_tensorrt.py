"""Plans of ONNX files, built with the real TensorRT-RTX, which needs no GPU for that."""

import os
import platform
import sys
from pathlib import Path
from types import ModuleType

import onnx
import pytest

from vad_export.engine.build import engine_from_onnx
from vad_export.engine.graph_facts import graph_facts
from vad_export.engine.settings import EngineSettings, target_for

EXPECTED = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
"""Whether the package index has a wheel for this machine (see the extra `rtx`)."""


def tensorrt_rtx() -> ModuleType:
    """Return the bindings; skips without them, fails under VAD_REQUIRE_DATA=1 where there are."""
    try:
        import tensorrt_rtx_bindings
    # Bindings without their libraries raise ImportError or OSError, and not only "not found".
    except (ImportError, OSError) as error:
        required = EXPECTED and os.environ.get("VAD_REQUIRE_DATA") == "1"
        give_up = pytest.fail if required else pytest.skip
        give_up(f"no TensorRT-RTX ({error}); pip install 'vad-edge[rtx]'")
    module: ModuleType = tensorrt_rtx_bindings
    return module


def build(file: Path) -> bytes:
    """Build a plan for batch 1, with all outputs, as `vad-export build-engine` does.

    Raises:
        ExportError: TensorRT-RTX refuses the graph, in its own words.
    """
    tensorrt_rtx()
    outputs = tuple(output.name for output in onnx.load(file).graph.output)
    settings = EngineSettings(flavour="rtx", outputs=outputs)
    made = engine_from_onnx(graph_facts(file), target_for(settings), settings, lambda _line: None)
    return bytes(made.content)
