"""A small bundle to build engines from, in every precision."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from helpers import artefact, clip_spec, manifest, motion_model
from helpers_fake_tensorrt import flavour_of, use_fake, with_driver
from helpers_qdq import EVERYTHING
from onnx import TensorProto, helper, numpy_helper

from vad_calibration.placement import activation_tensors, quantisable_layers
from vad_calibration.qdq import qdq_from_model
from vad_export.engine.build import Built, engine_from_bundle
from vad_export.engine.settings import EngineSettings
from vad_export.fp16 import fp16_from_model
from vad_runtime.bundle import Bundle, write_bundle
from vad_runtime.contracts import FeatureSpec, OutputSpec, ScoreSpec

LIMIT = 4.0
"""The |x| that becomes 127, for every tensor of the int8 graph."""


def int8_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Quantise every layer with limits out of the blue: only the form of the graph matters."""
    layers = quantisable_layers(model, EVERYTHING)
    limits = dict.fromkeys(activation_tensors(model, layers, EVERYTHING), LIMIT)
    return qdq_from_model(model, [layer.name for layer in layers], limits, EVERYTHING)


def engine_bundle(folder: Path, *, leave_out: tuple[str, ...] = ()) -> Bundle:
    """Write `site.vad` around `motion_model` as fp32, fp16, int8 and mixed.

    Args:
        folder: Where to.
        leave_out: Precisions that the bundle shall not have.
    """
    whole = onnx.load(motion_model(folder / "fp32.onnx", clip_spec()))
    for i, node in enumerate(whole.graph.node):
        node.name = f"{node.op_type.lower()}{i}"
    small = int8_graph(whole)
    models = {
        "fp32": whole,
        "fp16": fp16_from_model(whole).model,
        "int8": small,
        "mixed": fp16_from_model(small).model,
    }
    files, entries = {}, {}
    for name, model in models.items():
        if name in leave_out:
            continue
        files[name] = folder / f"{name}.onnx"
        onnx.save(model, files[name])
        file = "model.onnx" if name == "fp32" else f"model.{name}.onnx"
        entries[name] = artefact(file=file, precision=name, opset=18)
    return write_bundle(folder / "site.vad", manifest(artefacts=entries), files)


def two_output_bundle(folder: Path) -> Bundle:
    """Write `two.vad`: `motion_model` with an optional output `embedding`, 8 numbers a clip."""
    model = onnx.load(motion_model(folder / "two.onnx", clip_spec()))
    model.graph.node.append(helper.make_node("Neg", ["score"], ["embedding"], "embed"))
    shape: list[int | str] = ["N", 8]
    model.graph.output.append(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, shape))
    onnx.save(model, folder / "two.onnx")
    about = msgspec.structs.replace(
        manifest(artefacts={"fp32": artefact(opset=18)}),
        outputs=[OutputSpec(name="embedding", shape=shape, meaning="the score, turned round")],
    )
    return write_bundle(folder / "two.vad", about, {"fp32": folder / "two.onnx"})


def head_bundle(folder: Path) -> Bundle:
    """Write `head.vad`: features in, 4 segments of 16 numbers, and a score for each.

    The fp16 graph is the fp32 one: only what stands in the manifest matters.
    """
    weight = np.ones((16, 1), np.float32) / 16
    nodes = [
        helper.make_node("MatMul", ["features", "w"], ["wide"], "weigh"),
        helper.make_node("Squeeze", ["wide", "last"], ["score"], "squeeze"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 4, 16])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([2]), "last")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "head.onnx")
    entries = {
        "fp32": artefact(file="head.onnx", opset=18),
        "fp16": artefact(file="head.fp16.onnx", precision="fp16", opset=18),
    }
    about = msgspec.structs.replace(
        manifest(artefacts=entries),
        features=FeatureSpec(segments=4, size=16, normalise=False),
        score=ScoreSpec(per="segment", form="probability", count=4),
    )
    return write_bundle(folder / "head.vad", about, dict.fromkeys(entries, folder / "head.onnx"))


def settings(folder: Path, **changes: Any) -> EngineSettings:
    """Return settings that write into `folder`."""
    plain: dict[str, Any] = {"precision": "fp32", "out": folder}
    return EngineSettings(**(plain | changes))


def use_builder(monkeypatch: pytest.MonkeyPatch, snapshot: str, **changes: Any) -> Any:
    """Install a fake TensorRT, with an Orin where it needs a GPU to build, and return it."""
    if flavour_of(snapshot) == "tensorrt":
        with_driver(monkeypatch, sm=87, integrated=True, name="Orin", cuda="12.6")
    return use_fake(monkeypatch, snapshot, **changes)


def build(bundle: Bundle, folder: Path, **changes: Any) -> tuple[Built, list[str]]:
    """Build an engine; return it and the lines that were said."""
    said: list[str] = []
    return engine_from_bundle(bundle, settings(folder, **changes), said.append), said


def names_in(folder: Path) -> list[str]:
    """Return the names of all files of a folder, hidden ones too."""
    return sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
