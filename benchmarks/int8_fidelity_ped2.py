"""Cases of int8_fidelity_study.py on UCSD Ped2: the published STAE, and a 2-D autoencoder."""

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from int8_fidelity_cases import Case, Scores, StoreFootage, bundle_once, fp32_scores, with_threshold
from onnx import TensorProto, helper, numpy_helper

from vad_runtime.bundle import Bundle, write_bundle
from vad_runtime.contracts import Artefact, ClipSpec, Manifest, ScoreSpec
from vad_runtime.labels import Interval, Labels, VideoLabels
from vad_training.checkpoint import checkpoint_from_path
from vad_training.data.store import store_from_footage
from vad_training.graphs import graph_from_checkpoint
from vad_training.metrics.offline import minmax
from vad_training.metrics.roc import roc_auc


@dataclass(frozen=True, kw_only=True)
class Ped2:
    """The footage of Ped2 at one model's size: twelve training clips to calibrate on, four to
    choose by, and the twelve test clips."""

    calibration: Path
    check: StoreFootage
    test: StoreFootage
    gate: list[Path]
    labels: Labels

    def auc(self, scores: Scores, change: Callable[..., Any] = lambda known: known) -> float:
        parts, truth = [], []
        for segment, part in zip(self.test.store.segments, scores, strict=True):
            marks = self.labels.of(self.test.store.videos[segment.video])
            assert marks is not None
            known = ~np.isnan(part)
            parts.append(change(part[known]))
            truth.append(marks.mask()[: len(part)][known])
        return roc_auc(np.concatenate(parts), np.concatenate(truth))

    @property
    def aucs(self) -> dict[str, Callable[[Scores], float]]:
        return {
            "frames, as scored": self.auc,
            "frames, min-max a video": lambda scores: self.auc(scores, minmax),
        }


def ped2_from_folder(data: Path, manifest: Manifest, work: Path, few: int | None) -> Ped2:
    folder = data / "ped2"
    training = sorted((folder / "training/frames").iterdir())
    testing = sorted((folder / "testing/frames").iterdir())[:few]
    listing = work / "calibration.txt"
    listing.write_text("\n".join(map(str, training[:12][:few])) + "\n")
    truth = msgspec.json.decode((folder / "labels.json").read_bytes())
    videos = {}
    for name, video in truth.items():
        pairs = np.reshape(video["anomalous_1based_inclusive"], (-1, 2)).tolist()
        videos[f"testing/frames/{name}"] = VideoLabels(
            frames=video["n_frames"],
            anomalies=[Interval(first=first - 1, last=last - 1) for first, last in pairs],
        )
    return Ped2(
        calibration=listing,
        check=StoreFootage(
            manifest, store_from_footage(training[12:][:few], manifest.clip, work / "check")
        ),
        test=StoreFootage(manifest, store_from_footage(testing, manifest.clip, work / "test")),
        # Every other clip is enough for a verdict, and scores in half the time.
        gate=testing[::2],
        labels=Labels(schema=1, label_set="UCSD Ped2", fps=10.0, videos=videos),
    )


def stae_case(data: Path, work: Path, few: int | None) -> Case:
    checkpoint = checkpoint_from_path(data / "stae" / "model_final_checkpoint.pth")
    graph = graph_from_checkpoint(checkpoint, form="reconstruction")
    graph = replace(graph, clip=msgspec.structs.replace(graph.clip, hop=16))
    training = sorted((data / "ped2/training/frames").iterdir())
    bundle = bundle_once(work, graph, training[:2])
    ped2 = ped2_from_folder(data, bundle.manifest, work, few)
    return _ped2_case(
        "STAE, reconstruction",
        "published checkpoint, trained on Avenue; UCSD Ped2, a clip every 16 frames",
        bundle,
        ped2,
        48,
        few,
    )


def ped_ae_case(data: Path, work: Path, few: int | None) -> Case:
    # Of this package's ways to shrink a frame, the one that gives the AUC known for these weights.
    clip = ClipSpec(
        frames=1,
        height=128,
        width=128,
        colour="gray",
        hop=1,
        resizer="exact",
        interpolation="bilinear",
    )
    bundle = _ped_ae_bundle(data / "ped_ae" / "trained_model.h5", clip, work)
    ped2 = ped2_from_folder(data, bundle.manifest, work, few)
    return _ped2_case(
        "2-D autoencoder",
        "published Keras weights, trained on UCSD; UCSD Ped2, every frame",
        bundle,
        ped2,
        256,
        few,
        first="frames, min-max a video",
    )


def _ped2_case(
    name: str,
    about: str,
    bundle: Bundle,
    ped2: Ped2,
    inputs: int,
    few: int | None,
    first: str = "frames, as scored",
) -> Case:
    bundle = with_threshold(bundle, fp32_scores(bundle, ped2.check), 0.99)
    return Case(
        name=name,
        about=about + "; calibrated on training clips 1-12, threshold and choice on 13-16",
        bundle=bundle,
        calibration=ped2.calibration,
        inputs=min(inputs, 8 * (few or inputs)),
        check=ped2.check,
        test=ped2.test,
        aucs={first: ped2.aucs[first]} | ped2.aucs,
        gate=ped2.gate,
        labels=ped2.labels,
    )


def _ped_ae_bundle(file: Path, clip: ClipSpec, work: Path) -> Bundle:
    target = work / "model.vad"
    if target.exists():
        return Bundle.open(target)
    try:
        h5py = importlib.import_module("h5py")
    except ImportError:
        sys.exit(
            "h5py is not installed, and the Keras weights need it. Install it beside the project: "
            "pip install --target FOLDER --no-deps h5py, then run with PYTHONPATH=FOLDER"
        )
    with h5py.File(file) as content:
        weights = content["model_weights"]
        layers = [weights[n][n] for n in ("conv2d", *(f"conv2d_{i}" for i in range(1, 7)))]
        arrays = [(np.array(x["kernel"]), np.array(x["bias"])) for x in layers]
    onnx_file = work / "model.onnx"
    onnx.save(ped_ae_model(arrays, clip), onnx_file)
    manifest = Manifest(
        family="frame-ae",
        name="frame-ae",
        clip=clip,
        score=ScoreSpec(per="clip", form="reconstruction"),
        artefacts={
            "fp32": Artefact(
                file="model.fp32.onnx", sha256="", bytes=0, format="onnx", precision="fp32"
            )
        },
    )
    return write_bundle(target, manifest, {"fp32": onnx_file})


def ped_ae_model(
    layers: Sequence[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]], clip: ClipSpec
) -> onnx.ModelProto:
    """Return the autoencoder as a graph of the contract.

    Three times convolution, ReLU and max-pool, a convolution, three times upsampling and
    convolution; the last ends in a sigmoid. The score is the squared error, summed over the frame.

    Args:
        layers: Kernel (3, 3, in, out), as Keras has it, and bias (out,) of the 7 convolutions.
        clip: One grey frame of 128 x 128.
    """
    constants = [
        numpy_helper.from_array(np.array(255, np.float32), "levels"),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "twice"),
        numpy_helper.from_array(np.array([0, 1, 128, 128], np.int64), "plane"),
        numpy_helper.from_array(np.array([1, 2, 3], np.int64), "pixels"),
    ]
    nodes = [
        helper.make_node("Cast", ["clip"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["values", "levels"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "plane"], ["frame"]),
    ]
    at = "frame"
    for i, (kernel, bias) in enumerate(layers):
        if i >= 4:
            nodes.append(
                helper.make_node(
                    "Resize",
                    [at, "", "twice"],
                    [f"up{i}"],
                    mode="nearest",
                    coordinate_transformation_mode="asymmetric",
                    nearest_mode="floor",
                )
            )
            at = f"up{i}"
        constants += [
            numpy_helper.from_array(
                np.ascontiguousarray(kernel.transpose(3, 2, 0, 1), np.float32), f"kernel{i}"
            ),
            numpy_helper.from_array(bias.astype(np.float32), f"bias{i}"),
        ]
        nodes += [
            helper.make_node(
                "Conv", [at, f"kernel{i}", f"bias{i}"], [f"conv{i}"], pads=[1, 1, 1, 1]
            ),
            helper.make_node("Relu" if i < 6 else "Sigmoid", [f"conv{i}"], [f"out{i}"]),
        ]
        at = f"out{i}"
        if i < 3:
            nodes.append(
                helper.make_node("MaxPool", [at], [f"pool{i}"], kernel_shape=[2, 2], strides=[2, 2])
            )
            at = f"pool{i}"
    nodes += [
        helper.make_node("Sub", [at, "frame"], ["error"]),
        helper.make_node("Mul", ["error", "error"], ["squared"]),
        helper.make_node("ReduceSum", ["squared", "pixels"], ["score"], keepdims=0),
    ]
    for i, node in enumerate(nodes):
        node.name = f"{node.op_type}_{i}"
    graph = helper.make_graph(
        nodes,
        "frame-ae",
        [helper.make_tensor_value_info("clip", TensorProto.UINT8, ["N", *clip.clip_shape])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model
