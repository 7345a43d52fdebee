"""Build ONNX files with TensorRT-RTX. Needs no GPU: the kernels are compiled where the plan runs.

Never make a `Runtime` here: without a driver the bindings hand back an object that crashes the
process at the next call.
"""

import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXPECTED = sys.platform == "linux" and platform.machine() == "x86_64"
"""Whether the package index has a wheel for this machine (see the extra `rtx`)."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """A plan."""

    plan: bytes
    seconds: float
    messages: list[str]
    """Warnings and errors of the builder."""

    @property
    def size(self) -> int:
        return len(self.plan)


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


_loggers: list[Any] = []  # TensorRT keeps the first logger of a process and ignores later ones


def _logger(trt: Any) -> Any:
    if not _loggers:

        class Collector(trt.ILogger):  # type: ignore[misc]
            """Keeps warnings and worse."""

            def __init__(self) -> None:
                super().__init__()
                self.messages: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                """Called by TensorRT."""
                if severity <= trt.ILogger.Severity.WARNING:
                    self.messages.append(message)

        _loggers.append(Collector())
    return _loggers[0]


def build(file: Path) -> Built:
    """Build a plan for batch 1 from an ONNX file.

    The test fails with TensorRT's own words where the parser or the builder refuses the graph.
    """
    trt: Any = tensorrt_rtx()
    logger = _logger(trt)
    logger.messages.clear()
    start = time.perf_counter()
    builder = trt.Builder(logger)
    network = builder.create_network(0)  # strongly typed: the types in the graph count
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(file)):
        errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        pytest.fail(f"TensorRT-RTX cannot parse {file.name}: {'; '.join(errors)}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        shape = [1, *tuple(tensor.shape)[1:]]
        profile.set_shape(tensor.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    memory = builder.build_serialized_network(network, config)
    if memory is None:
        pytest.fail(f"TensorRT-RTX cannot build {file.name}: {'; '.join(logger.messages)}")
    return Built(
        plan=bytes(memory),
        seconds=time.perf_counter() - start,
        messages=list(logger.messages),
    )
