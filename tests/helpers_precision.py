"""Small bundles that can be quantised. Import it as `helpers_precision`."""

from pathlib import Path

import numpy as np
import onnx
from helpers import artefact, clip_spec, manifest, write_video
from helpers_footage import scene
from onnx import TensorProto, helper, numpy_helper

from vad_runtime.bundle import Bundle, write_bundle
from vad_runtime.contracts import FeatureSpec, Manifest, ScoreSpec, Scoring

SPEC = clip_spec(hop=4)
LAYERS = ("first", "second", "third")
CHANNELS = 16


def footage(folder: Path, *, videos: int = 2, frames: int = 40) -> Path:
    """Draw videos of a square that wanders."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(videos):
        write_video(folder / f"day{i}.mp4", scene(frames, seed=i))
    return folder


def network(*, outlier: float = 0.0) -> onnx.ModelProto:
    """Return a small convolutional autoencoder; its score is each frame's squared error.

    Args:
        outlier: What one channel in front of the layer `second` holds everywhere. That layer's
            weights for it are zero, so it changes no score; but INT8 has one scale for a tensor.
    """
    rng = np.random.default_rng(3)
    shapes = [(CHANNELS, 1, 3, 3, 3), (CHANNELS, CHANNELS, 3, 3, 3), (1, CHANNELS, 1, 1, 1)]
    weights = [rng.normal(0, 1 / np.sqrt(np.prod(s[1:])), s).astype(np.float32) for s in shapes]
    bias = rng.normal(0, 0.1, CHANNELS).astype(np.float32)
    if outlier:
        weights[0][0], bias[0] = 0, outlier
        weights[1][:, 0] = 0
    constants = {
        "scale": np.array(1 / 255, np.float32),
        "bias": bias,
        "over": np.array([1, 3, 4], np.int64),
        **{f"w{i}": weight for i, weight in enumerate(weights)},
    }

    def conv(name: str, x: str, weight: str, *more: str) -> onnx.NodeProto:
        size = constants[weight].shape[-1]
        return helper.make_node("Conv", [x, weight, *more], [name], name, pads=[size // 2] * 6)

    nodes = [
        helper.make_node("Transpose", ["clip"], ["moved"], "move", perm=[0, 4, 1, 2, 3]),
        helper.make_node("Cast", ["moved"], ["cast"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["cast", "scale"], ["x"], "normalise"),
        conv("first", "x", "w0", "bias"),
        helper.make_node("Relu", ["first"], ["a"], "relu1"),
        conv("second", "a", "w1"),
        helper.make_node("Relu", ["second"], ["b"], "relu2"),
        conv("third", "b", "w2"),
        helper.make_node("Sub", ["third", "x"], ["difference"], "difference"),
        helper.make_node("Mul", ["difference", "difference"], ["squared"], "square"),
        helper.make_node("ReduceMean", ["squared", "over"], ["score"], "mean", keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("clip", TensorProto.UINT8, ["N", *SPEC.clip_shape])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", SPEC.frames])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made


def bundle_of(model: onnx.ModelProto, path: Path, about: Manifest | None = None) -> Bundle:
    """Write a bundle around a graph."""
    file = path.with_suffix(".onnx")
    onnx.save(model, file)
    default = manifest(clip=SPEC, artefacts={"fp32": artefact(opset=18)})
    return write_bundle(path, about or default, {"fp32": file})


FEATURES = FeatureSpec(segments=4, size=64, normalise=False)


def head_bundle(path: Path) -> Bundle:
    """Write a bundle whose graph is a head over features: two layers and a sigmoid."""
    rng = np.random.default_rng(5)
    constants = {
        "w0": rng.normal(0, 0.2, (64, 32)).astype(np.float32),
        "w1": rng.normal(0, 0.3, (32, 1)).astype(np.float32),
        "flat": np.array([0, FEATURES.segments], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["features", "w0"], ["h"], "hidden"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w1"], ["o"], "out"),
        helper.make_node("Reshape", ["o", "flat"], ["s"], "reshape"),
        helper.make_node("Sigmoid", ["s"], ["score"], "sigmoid"),
    ]
    shape = ["N", FEATURES.segments, FEATURES.size]
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", FEATURES.segments])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    about = Manifest(
        family="mil",
        name="head",
        clip=clip_spec(frames=16),
        features=FEATURES,
        score=ScoreSpec(per="segment", form="probability", count=FEATURES.segments),
        scoring=Scoring(threshold=0.5, method="set by hand for tests"),
        artefacts={"fp32": artefact(opset=18)},
    )
    return bundle_of(made, path, about)


def feature_files(folder: Path, *, videos: int = 24) -> Path:
    """Write files of features."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(2)
    for i in range(videos):
        clips = rng.normal(0, 1, (12, FEATURES.size)) + rng.normal(0, 1, FEATURES.size)
        np.save(folder / f"video{i}.npy", clips.astype(np.float32))
    return folder
