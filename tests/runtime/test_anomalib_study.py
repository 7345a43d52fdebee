"""The parts of the study of anomalib that need no anomalib."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from vad_runtime.contracts import ClipSpec

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import anomalib_study

    return anomalib_study


def weighted_graph(clip: ClipSpec, file: Path) -> Path:
    """Write a graph whose score weighs every pixel of a clip differently."""
    shape = [1, *clip.clip_shape]
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["clip"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axes"], ["score"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "weighted",
        [helper.make_tensor_value_info("clip", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [1])],
        [
            onnx.numpy_helper.from_array(weights, "weights"),
            onnx.numpy_helper.from_array(np.arange(1, 5), "axes"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), file)
    return file


@pytest.mark.parametrize("colour", ["rgb", "gray"])
def test_the_graph_for_pictures_scores_a_clip_as_the_graph_for_clips_does(study, tmp_path, colour):
    import openvino as ov

    clip = ClipSpec(frames=3, height=6, width=8, colour=colour)
    manifest = SimpleNamespace(clip=clip, input_name="clip", input_shape=clip.clip_shape)
    source = weighted_graph(clip, tmp_path / "graph.onnx")
    file = study.adapted(source, manifest, tmp_path / "adapted.xml")

    pixels = np.random.default_rng(1).integers(0, 256, clip.clip_shape, np.uint8)
    pictures = pixels.astype(np.float32) / 255  # what the inferencer makes of them
    if colour == "rgb":
        pictures = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    want = ov.Core().compile_model(source, "CPU", exact)({0: pixels[None]})["score"]
    found = ov.Core().compile_model(file, "CPU", exact)({0: pictures})["pred_score"]

    np.testing.assert_allclose(found, want, rtol=1e-4)


def test_a_side_that_ends_is_said_with_its_own_words(study, tmp_path):
    peer = study.Peer(Path(sys.executable), tmp_path)

    with pytest.raises(SystemExit, match=r"anomalib's side ended:[\s\S]*KeyError: 'nothing'"):
        peer.ask("nothing")

    peer.close()
