"""Small graphs and builds for the tests of the TensorRT adapter."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from helpers_fake_tensorrt import fake_tensorrt
from onnx import TensorProto, helper, numpy_helper

from vad_runtime.engines.adapter import TensorRt


def graph(folder: Path, operator: str = "Relu") -> Path:
    """Save x (N, 3) -> y (N, 3): an addition, then the operator."""
    weight = numpy_helper.from_array(np.ones((1, 3), np.float32), "w")
    nodes = [
        helper.make_node("Add", ["x", "w"], ["a"], name="first"),
        helper.make_node(operator, ["a"], ["y"], name="second"),
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3])] for name in ("x", "y")
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[0], ends[1], [weight]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    file = folder / f"{operator}.onnx"
    onnx.save(model, file)
    return file


def library(snapshot: str, **settings: Any) -> TensorRt:
    trt = fake_tensorrt(snapshot, **settings)
    return TensorRt(trt.fake_flavour, trt)


def can_of(lib: TensorRt) -> set[str]:
    """Return the names of the features that a library has."""
    return {name for name, has in asdict(lib.can).items() if has}


class Work:
    """A build that is ready: builder, network, settings."""

    def __init__(self, lib: TensorRt, file: Path, batches: tuple[int, ...] = (1, 4)) -> None:
        self.lib = lib
        self.builder = lib.builder()
        self.network = lib.network(self.builder)
        assert lib.parse(self.builder, self.network, file) == []
        self.config = lib.config(self.builder)
        for batch in batches:
            shape = (batch, 3)
            lib.add_profile(self.builder, self.config, "x", shape)

    def build(self) -> memoryview:
        return self.lib.build(self.builder, self.network, self.config)

    @property
    def record(self) -> dict[str, Any]:
        """What the fake was asked to build."""
        found: dict[str, Any] = self.lib.trt.fake_records.builds[-1]
        return found


def listen(work: Work, events: list[Any], step: Any = None) -> bool:
    def step_told(*facts: Any) -> bool:
        events.append(facts)
        return True if step is None else bool(step(*facts))

    return work.lib.set_monitor(
        work.config, lambda *facts: events.append(facts), step_told, events.append
    )
