"""The models of the performance suites, and their bundles, which are made once and kept.

Six models with drawn weights, as docs/results/performance.md lists them, and two twins that take a
second instead of a minute, for runs that only look whether everything works. A bundle holds the
graph after the exact passes and its int8 form; beside it lies NNCF's own, where nncf is installed.

    python benchmarks/perf_models.py                 makes what is missing: a run only measures then
    python benchmarks/perf_models.py MODEL FOLDER    what a suite starts for a missing bundle

Bundles lie in .bench/ below the repository (VAD_BENCH_CACHE names another folder), in a folder
named after everything that they hang on: the code that makes them and the versions of its tools.
"""

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vad_runtime.bundle import Bundle, write_bundle
from vad_runtime.contracts import Artefact, ClipSpec, Scoring
from vad_runtime.files import whole_file

ROOT = Path(__file__).resolve().parent.parent
Clips = npt.NDArray[np.uint8]

CALIBRATION_CLIPS, CHECK_CLIPS = 2, 2
_SOURCES = (
    "calibration/vad_calibration",
    "export/vad_export/passes",
    "training/vad_training/graphs",
    "training/vad_training/models",
    "runtime/vad_runtime/contracts",
)
_SINGLE = (
    "benchmarks/perf_models.py",
    "benchmarks/precision_parts.py",
    "export/vad_export/onnx_graph.py",
    "export/vad_export/precision_config.py",
)
_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "numpy")


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model of the suites."""

    name: str
    gop: float | None
    """Work for a clip, 1e9 multiplications and additions, before any pass; None = not known. Of
    the STAE with one of its two decoders, as the reconstruction needs it."""
    eager: float | None = None
    """Target: how many times faster than eager fp32 the bundle's int8 shall be."""
    twin: bool = False
    """Small: for runs that measure nothing."""


MODELS = {
    "c3d": Model(name="C3D + MIL 16x112", gop=77, eager=8),
    "r3d_18": Model(name="R3D-18 16x112", gop=81, eager=7),
    "r2plus1d_18": Model(name="R(2+1)D-18 16x112", gop=81, eager=8),
    "slowfast_r50": Model(name="SlowFast-R50 32x256", gop=131, eager=9.5),
    "timesformer": Model(name="TimeSformer-B 8x224", gop=392, eager=7),
    "stae": Model(name="STAE 16x128 grey", gop=6.8, eager=24),
    "stae_twin": Model(name="STAE 16x64 grey", gop=None, twin=True),
    "backbone_twin": Model(name="two layers, 4x32", gop=None, twin=True),
}
FULL = [key for key, model in MODELS.items() if not model.twin]
TWINS = [key for key, model in MODELS.items() if model.twin]


def score_graph(key: str) -> Any:
    """Return a model as a `ScoreGraph`, the same weights each time."""
    import torch
    from precision_parts import graph_of

    with torch.random.fork_rng(devices=[]):
        if key == "stae_twin":
            return _stae_twin()
        if key == "backbone_twin":
            return _backbone_twin()
        return graph_of(key, None)


def _stae_twin() -> Any:
    import torch

    from vad_training.graphs.stae import ScoreForm, stae_graph
    from vad_training.models.stae import STAE

    torch.manual_seed(1)
    clip = ClipSpec(frames=16, height=64, width=64, colour="gray", hop=4)
    return stae_graph(STAE().eval(), clip, ScoreForm(form="reconstruction"))


def _backbone_twin() -> Any:
    import torch
    from tiny_backbone import tiny_embedder

    from vad_training.config import ClipChoice
    from vad_training.config.mil import HeadConfig
    from vad_training.graphs.mil import mil_clip_graph
    from vad_training.models.backbones.base import clip_of
    from vad_training.models.mil import mil_head

    torch.manual_seed(1)
    embedder = tiny_embedder()
    head = mil_head(HeadConfig(), embedder.spec.embedding).eval()
    clip = clip_of(embedder.spec, ClipChoice(stride=1, hop=4))
    return mil_clip_graph(embedder, head, clip, normalise=True, outputs=["embedding"])


def drawn_clips(spec: ClipSpec, count: int, *, seed: int) -> Clips:
    """Return clips of squares that cross a wall, shape (count, T, H, W, C)."""
    from helpers import moving_blob

    made = np.empty((count, *spec.clip_shape), np.uint8)
    for i in range(count):
        size = {"height": spec.height, "width": spec.width}
        images = np.stack(list(moving_blob(spec.frames, **size, seed=seed + i)))
        # A wall of noise is what no camera sees, and all that int8 would spend its range on.
        smooth = images.reshape(*images.shape[:1], spec.height, spec.width, 3).astype(np.float32)
        smooth = (smooth + np.roll(smooth, 1, 1) + np.roll(smooth, 1, 2)) / 3
        pixels = smooth.astype(np.uint8)
        made[i] = pixels if spec.channels == 3 else pixels[..., 1:2]
    return made


# -- making and keeping ------------------------------------------------------------------------


def cache_folder() -> Path:
    """Return where bundles and compiled peers are kept."""
    return Path(os.environ.get("VAD_BENCH_CACHE") or ROOT / ".bench")


def versions_of(names: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def folder_of(key: str) -> Path:
    """Return the folder of a model's bundle, made or not."""
    digest = hashlib.sha256(json.dumps([key, versions_of(_TOOLS)]).encode())
    files = [ROOT / name for name in _SINGLE]
    files += sorted(file for name in _SOURCES for file in (ROOT / name).rglob("*.py"))
    for file in files:
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return cache_folder() / f"{key}-{digest.hexdigest()[:16]}"


@dataclass(frozen=True, kw_only=True)
class Made:
    """A model's bundle and how it was made."""

    key: str
    bundle: Bundle
    nncf: Path | None
    """NNCF's own int8 graph, OpenVINO's format."""
    about: dict[str, Any]

    @property
    def model(self) -> Model:
        """What the tables say of it."""
        return MODELS[self.key]

    def clips(self) -> Clips:
        """Return clips that it was not calibrated with, shape (N, T, H, W, C)."""
        return drawn_clips(self.bundle.manifest.clip, CHECK_CLIPS, seed=1000)


def made(key: str, say: Callable[[str], None] = lambda _line: None) -> Made:
    """Return a model's bundle; made now where it is missing, in a process of its own if large.

    Args:
        key: Of `MODELS`.
        say: Takes a line where it takes a while.
    """
    folder = folder_of(key)
    if not (folder / "about.json").exists():
        begun = time.perf_counter()
        if MODELS[key].twin:
            make(key, folder)
        else:
            say(f"making the bundle of {key} …")
            # The exporter takes gigabytes, which a process gives back only when it ends.
            path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
            subprocess.run(
                [sys.executable, __file__, key, str(folder)],
                check=True,
                env=os.environ | {"PYTHONPATH": path},
                capture_output=True,
            )
            say(f"made in {time.perf_counter() - begun:.0f} s, kept in {folder}")
    about = json.loads((folder / "about.json").read_text())
    nncf = folder / "nncf.xml"
    return Made(
        key=key,
        bundle=Bundle.open(folder / f"{key}.vad", verify=False),
        nncf=nncf if nncf.exists() else None,
        about=about,
    )


def make(key: str, folder: Path) -> None:
    """Export a model, apply the exact passes, quantise it, and write its bundle."""
    import onnx

    from vad_calibration.inputs import ArrayInputs
    from vad_calibration.placement import activation_tensors, quantisable_layers
    from vad_calibration.qdq import qdq_from_model
    from vad_calibration.ranges import ranges_from_inputs
    from vad_export.onnx_graph import onnx_from_graph
    from vad_export.opset import opset_of
    from vad_export.passes import optimise
    from vad_export.precision_config import PrecisionConfig

    folder.mkdir(parents=True, exist_ok=True)
    marks = [time.perf_counter()]
    raw, fp32, int8 = (folder / f"{name}.onnx" for name in ("raw", "fp32", "int8"))
    graph = score_graph(key)
    onnx_from_graph(graph, raw)
    manifest = graph.manifest(scoring=Scoring(threshold=1e9, method="set by hand for benchmarks"))
    del graph
    marks.append(time.perf_counter())
    clips = drawn_clips(manifest.clip, CALIBRATION_CLIPS, seed=0)
    # Without timing: a pass that is exact stays, whatever else this machine does meanwhile.
    model, reports = optimise(onnx.load(raw), manifest, clips[:1], measure=False)
    onnx.save(model, fp32)
    marks.append(time.perf_counter())
    config = PrecisionConfig()
    layers = quantisable_layers(model, config.layers)
    tensors = activation_tensors(model, layers, config.layers)
    ranges = ranges_from_inputs(fp32, tensors, ArrayInputs(clips))
    limits = ranges.limits(config.method, percentile=config.percentile)
    names = [layer.name for layer in layers]
    onnx.save(qdq_from_model(model, names, limits, config.layers), int8)
    marks.append(time.perf_counter())
    entries = {
        name: Artefact(
            file=file.name, sha256="", bytes=0, format="onnx", precision=name, opset=opset_of(file)
        )
        for name, file in (("fp32", fp32), ("int8", int8))
    }
    about = _with_artefacts(manifest, entries)
    write_bundle(folder / f"{key}.vad", about, {"fp32": fp32, "int8": int8}, overwrite=True)
    nncf_s = _by_nncf(key, fp32, manifest, clips, folder / "nncf.xml")
    for file in (raw, fp32, int8):
        file.unlink()
    seconds = np.diff(marks).tolist()
    found = {
        "export_s": seconds[0],
        "passes_s": seconds[1],
        "calibration_s": seconds[2],
        "nncf_s": nncf_s,
        "calibration_clips": len(clips),
        "layers": len(layers),
        "passes": [report.name for report in reports if report.kept],
    }
    with whole_file(folder / "about.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1))


def _with_artefacts(manifest: Any, entries: dict[str, Artefact]) -> Any:
    import msgspec

    return msgspec.structs.replace(manifest, artefacts=entries)


def _by_nncf(key: str, source: Path, manifest: Any, clips: Clips, file: Path) -> float | None:
    """Let NNCF quantise the same graph with the same clips; return how long it took."""
    try:
        import nncf
    except ModuleNotFoundError:
        return None
    import openvino as ov

    begun = time.perf_counter()
    model = ov.Core().read_model(str(source))
    model.reshape({manifest.input_name: [1, *manifest.input_shape]})
    kind = nncf.ModelType.TRANSFORMER if key == "timesformer" else None
    data = nncf.Dataset(list(clips), lambda clip: clip[None])
    quantised = nncf.quantize(model, data, subset_size=len(clips), model_type=kind)
    ov.save_model(quantised, str(file), compress_to_fp16=False)
    return time.perf_counter() - begun


if __name__ == "__main__":
    if len(sys.argv) == 3:
        make(sys.argv[1], Path(sys.argv[2]))
    else:
        sys.path.insert(0, str(ROOT / "tests"))
        for each in MODELS:
            made(each, lambda line: print(line, flush=True))
