"""A bundle from a graph."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import torch

from vad_calibration import SampledClips, clips_from_footage
from vad_export.gate_footage import evenly
from vad_export.onnx_graph import onnx_from_graph
from vad_export.opset import opset_of
from vad_export.parity import parity_report
from vad_export.passes import optimise
from vad_export.threshold import raw_scores, scoring_from_normal
from vad_runtime import __version__
from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Inputs
from vad_runtime.bundle import (
    Bundle,
    require_free_bundle_path,
    rewrite_manifest,
    write_bundle,
)
from vad_runtime.contracts import (
    Artefact,
    ConfigError,
    FeatureSpec,
    Manifest,
    Scoring,
)
from vad_runtime.features import find_features, read_fitting_features, segments_for
from vad_training.data.store import store_from_footage
from vad_training.graphs import ScoreGraph

_PARITY_CLIPS = 8
_PASS_INPUTS = 2


def bundle_from_graph(
    graph: ScoreGraph,
    target: Path,
    *,
    footage: Sequence[Path] = (),
    scoring: Scoring | None = None,
    normal: Sequence[Path] = (),
    quantile: float = 0.999,
    name: str | None = None,
    licence: str = "unspecified",
    overwrite: bool = False,
    passes: bool = True,
) -> Bundle:
    """Export, check against PyTorch, and write a bundle.

    Args:
        graph: The model as a graph, from `graph_from_checkpoint`.
        target: The `*.vad` folder; appears only when everything has passed.
        footage: Real videos (or feature files, where the graph takes features) for the parity
            check; without any, seeded noise is used, and the manifest says so.
        scoring: Normaliser and threshold, if they are known already.
        normal: Normal footage, not trained on, from which they are chosen otherwise; none = raw
            scores and no alarms.
        quantile: For that choice, see `scoring_from_normal`.
        name: The model's name; None = its family.
        licence: Of the weights.
        overwrite: Replace an existing bundle.
        passes: Rewrite the graph exactly where that is faster on this machine; see
            `vad_export.passes`. What was done stands in the manifest.

    Raises:
        ConfigError: Normal footage for a graph that takes features.
        InputError: The target is not free or not writable, or the footage cannot be read.
        ExportError: The model cannot be exported or the graph differs from PyTorch.
    """
    require_free_bundle_path(target, overwrite=overwrite)
    if normal and graph.features is not None:
        raise ConfigError(
            "a graph of features scores no footage, so none can give its threshold. "
            "Set one with: vad-export set BUNDLE threshold=…"
        )
    sample, origins = _sample(graph, footage)
    with tempfile.TemporaryDirectory(prefix="vad-export-") as work:
        file = Path(work) / "model.fp32.onnx"
        onnx_from_graph(graph, file)
        details = _optimised(file, graph.manifest(), sample) if passes else {}
        artefact = msgspec.structs.replace(_artefact(file), details=details)
        manifest = graph.manifest(
            name=name, artefacts={"fp32": artefact}, scoring=scoring, licence=licence
        )
        # The check needs a bundle to open; the one that is kept is written after it has passed.
        draft = write_bundle(Path(work) / "draft.vad", manifest, {"fp32": file})
        report = parity_report(draft, graph.run(sample), sample, origins, real_clips=bool(footage))
        draft = rewrite_manifest(draft, msgspec.structs.replace(draft.manifest, parity=report))
        if normal:
            draft = scoring_from_footage(draft, normal, quantile)
        return write_bundle(target, draft.manifest, {"fp32": file}, overwrite=overwrite)


def _optimised(file: Path, manifest: Manifest, sample: Inputs) -> dict[str, Any]:
    """Rewrite a graph in place where that is exact and faster; return what was tried."""
    try:
        model, reports = optimise(onnx.load(file), manifest, sample[:_PASS_INPUTS])
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        return {}  # nothing can be proved without it; the check that follows says what is missing
    onnx.save(model, file)
    tried = {
        report.name: {
            "places": report.places,
            "kept": report.kept,
            "max_difference": report.max_difference,
            "speedup": report.speedup,
            "why": report.why,
        }
        for report in reports
        if report.places
    }
    return {"passes": tried} if tried else {}


def pass_lines(bundle: Bundle) -> list[str]:
    """Return a line for people for each exact pass that was tried on a bundle's fp32 graph."""
    tried = bundle.manifest.artefacts["fp32"].details.get("passes", {})
    return [
        f"pass {name}: {'kept' if found['kept'] else 'not kept'}, largest difference "
        f"{found['max_difference']:.1e} of the scores' scale; {found['why']}"
        for name, found in tried.items()
    ]


def _artefact(file: Path) -> Artefact:
    versions = {"vad-edge": __version__, "torch": str(torch.__version__), "onnx": onnx.__version__}
    return Artefact(
        file=file.name,
        sha256="",
        bytes=0,
        format="onnx",
        precision="fp32",
        opset=opset_of(file),
        tools=versions,
    )


def _sample(graph: ScoreGraph, footage: Sequence[Path]) -> tuple[Inputs, list[tuple[str, int]]]:
    """Return inputs for the parity check, and file and first frame of each."""
    if footage and graph.features is not None:
        return _features_sample(graph.features, footage)
    if footage:
        clips: SampledClips = clips_from_footage(footage, graph.clip, _PARITY_CLIPS)
        return clips.clips, list(clips.origins)
    rng = np.random.default_rng(0)
    origins = [("seeded noise", i) for i in range(_PARITY_CLIPS)]
    if graph.features is not None:
        size = (_PARITY_CLIPS, graph.features.segments, graph.features.size)
        noise = np.abs(rng.standard_normal(size, np.float32))
        if graph.features.normalise:
            noise /= np.linalg.norm(noise, axis=2, keepdims=True)
        return noise, origins
    return rng.integers(0, 256, (_PARITY_CLIPS, *graph.clip.clip_shape), dtype=np.uint8), origins


def _features_sample(
    spec: FeatureSpec, files: Sequence[Path]
) -> tuple[Inputs, list[tuple[str, int]]]:
    """Return the segments' features of a few videos, spread evenly over the files."""
    videos = [video for file in files for video in find_features(file, spec.modality)]
    chosen = [read_fitting_features(video, spec) for video in evenly(videos, _PARITY_CLIPS)]
    bags = [segments_for(video, spec) for video in chosen]
    return np.stack(bags), [(video.name, 0) for video in chosen]


def scoring_from_footage(bundle: Bundle, normal: Sequence[Path], quantile: float) -> Bundle:
    """Choose normaliser and threshold of a bundle from normal footage that it was not trained on.

    Raises:
        InputError: The footage cannot be read, or is too short.
        BundleError: The manifest cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="vad-export-") as work:
        store = store_from_footage(normal, bundle.manifest.clip, Path(work))
        choice = open_backend(bundle)
        try:
            raw = raw_scores(bundle.manifest, choice.backend, store, store.segments)
        finally:
            choice.backend.close()
    scoring = scoring_from_normal(raw, quantile=quantile)
    return rewrite_manifest(bundle, msgspec.structs.replace(bundle.manifest, scoring=scoring))
