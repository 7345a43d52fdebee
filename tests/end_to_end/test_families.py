"""Every model of the list as a graph: what PyTorch computes, ONNX Runtime and OpenVINO compute too.

Weights are random: the graph's form does not depend on them, and the real ones are not everywhere.
"""

import csv
import gc
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import moving_blob, real_data, write_video

from vad_calibration import clips_from_footage
from vad_export.cli import cli as vad_export
from vad_export.onnx_graph import onnx_from_graph
from vad_runtime.backends.base import Clips, Options
from vad_runtime.backends.onnxruntime import OnnxRuntimeBackend
from vad_runtime.backends.openvino import OpenVinoBackend
from vad_runtime.bundle import Bundle
from vad_runtime.cli import cli as vad_run
from vad_training.config import BackboneAeConfig, BackboneConfig, ClipChoice, MilConfig
from vad_training.config.backbone_ae import AdamConfig, AutoencoderConfig
from vad_training.config.mil import FeaturesConfig, HeadConfig
from vad_training.data.features import feature_set_from_path
from vad_training.data.table import Entry
from vad_training.embeddings import EmbeddingCache
from vad_training.extraction import extract_features
from vad_training.feature_network import network_from_config
from vad_training.fit_autoencoder import fit_autoencoder
from vad_training.fit_mil import fit_mil
from vad_training.graphs import ScoreGraph
from vad_training.graphs.backbone_ae import backbone_ae_graph
from vad_training.graphs.mil import mil_clip_graph
from vad_training.models.autoencoder import EmbeddingAutoencoder
from vad_training.models.backbone_ae import BackboneAutoencoder
from vad_training.models.backbones.base import ClipEmbedder, clip_of
from vad_training.models.backbones.registry import backbone_names, new_embedder, spec_of
from vad_training.models.mil import mil_head

ENGINES = [OnnxRuntimeBackend, OpenVinoBackend]
OUTPUTS = ["embedding", "latent", "error", "embedding_distance", "latent_distance"]

BACKBONES = [
    *("r2plus1d_18", "r3d_18", "mc3_18", "slow_r50", "slowfast_r50", "x3d_xs", "x3d_s", "x3d_m"),
    *("timesformer", "i3d", "c3d", "resnet3d_18", "resnet3d_50"),
]
MIL = ["c3d", "i3d", "resnet3d_18"]
DENSE = ClipChoice(stride=1, hop=8)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A graph and its ONNX file."""

    graph: ScoreGraph
    file: Path


def test_every_backbone_is_in_the_list() -> None:
    # i3d_flow takes optical flow, which is not computed in a graph. Of the 3-D ResNets each kind
    # of block and shortcut is there once: 34 has those of 18 (basic, A), 101 those of 50
    # (bottleneck, B), and the names that end with a or b have the other shortcut.
    others = {name for name in backbone_names() if name.endswith(("_flow", "_a", "_b"))}
    others |= {"resnet3d_34", "resnet3d_101"}
    assert set(BACKBONES) == set(backbone_names()) - others


def embedder_of(name: str) -> ClipEmbedder:
    return new_embedder(spec_of(name), seed=0)


def exported(graph: ScoreGraph, folder: Path) -> Iterator[Exported]:
    """Export, and leave neither half a gigabyte on disk nor in memory."""
    file = folder / "model.onnx"
    onnx_from_graph(graph, file)
    yield Exported(graph=graph, file=file)
    file.unlink()
    gc.collect()


@pytest.fixture(scope="module", params=BACKBONES)
def autoencoder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exported]:
    embedder = embedder_of(request.param)
    size = embedder.spec.embedding
    torch.manual_seed(1)
    model = BackboneAutoencoder(
        embedder,
        EmbeddingAutoencoder(size, AutoencoderConfig(hidden=(64, 16))),
        ["a", "b", "c"],
        torch.randn(3, size),
        torch.rand(3, 16),
    )
    clip = clip_of(embedder.spec, DENSE)
    graph = backbone_ae_graph(model.eval(), clip, form="distance", outputs=OUTPUTS)
    yield from exported(graph, tmp_path_factory.mktemp("autoencoder"))


@pytest.fixture(scope="module", params=MIL)
def ranked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exported]:
    embedder = embedder_of(request.param)
    torch.manual_seed(1)
    head = mil_head(HeadConfig(), embedder.spec.embedding).eval()
    clip = clip_of(embedder.spec, DENSE)
    graph = mil_clip_graph(embedder, head, clip, normalise=True, outputs=["embedding"])
    yield from exported(graph, tmp_path_factory.mktemp("mil"))


def agrees(made: Exported, clips: Clips) -> None:
    """Assert that both engines compute what PyTorch does, and that the clips are not all alike."""
    want = made.graph.run(clips)
    assert not np.allclose(want["embedding"][0], want["embedding"][1], rtol=1e-4, atol=0)
    for engine in ENGINES:
        backend = engine(made.file, made.graph.manifest(), Options(precision="fp32"))
        found = backend.infer(clips)
        backend.close()
        assert list(found) == made.graph.output_names
        for a, b in zip(found["embedding"], want["embedding"], strict=True):
            cosine = float(a.astype(np.float64) @ b) / np.linalg.norm(a) / np.linalg.norm(b)
            assert cosine >= 0.9999, engine
        for name in ("score", *(n for n in found if n.endswith(("error", "distance")))):
            np.testing.assert_allclose(found[name], want[name], rtol=1e-3, err_msg=name)


def two_clips(made: Exported, drawn: Path) -> Clips:
    """Return a clip of a fight and one of a normal scene; two drawn ones without real data."""
    data = real_data()
    videos = [drawn]
    if data is not None:
        videos = [sorted((data / "fight" / kind).glob("*.mp4"))[0] for kind in ("fight", "normal")]
    return clips_from_footage(videos, made.graph.clip, 2).clips


@pytest.mark.slow
def test_a_backbone_with_an_autoencoder_keeps_its_answers(
    autoencoder: Exported, tiny_video: Path
) -> None:
    agrees(autoencoder, two_clips(autoencoder, tiny_video))


@pytest.mark.slow
def test_a_backbone_with_a_mil_head_keeps_its_answers(ranked: Exported, tiny_video: Path) -> None:
    agrees(ranked, two_clips(ranked, tiny_video))


# -- from a run to a stream --------------------------------------------------------------------

CLIP = ClipChoice(stride=1, hop=4)
BACKBONE = BackboneConfig(name="x3d_xs", random_weights=0)  # the smallest


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of videos: normal, and the same with other noise. Do not change."""
    folder = tmp_path_factory.mktemp("site")
    for kind in ("fight", "normal"):
        (folder / kind).mkdir()
        for i in range(3):
            images = moving_blob(36, seed=i + 10 * (kind == "fight"))
            write_video(folder / kind / f"{i}.mp4", images)
    return folder


def typed(command: Any, *words: str | Path) -> str:
    done = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def raw_scores(folder: Path) -> list[float]:
    with (folder / "scores.csv").open(newline="") as stream:
        return [float(row["raw"]) for row in csv.DictReader(stream)]


def test_a_run_of_backbone_and_autoencoder_watches_a_stream(
    site: Path, tiny_video: Path, tmp_path: Path
) -> None:
    config = BackboneAeConfig(
        backbone=BACKBONE,
        clip=CLIP,
        autoencoder=AutoencoderConfig(hidden=(16, 4)),
        optimiser=AdamConfig(batch=4),
        epochs=1,
        device="cpu",
    )
    entries = [Entry(path=f, label="normal") for f in sorted((site / "normal").iterdir())]
    cache = EmbeddingCache(tmp_path / "cache")
    fit_autoencoder(entries, config, tmp_path / "run", cache=cache)
    target = tmp_path / "site.vad"
    said = typed(
        *(vad_export, "onnx", tmp_path / "run", "-o", target, "--clips", tiny_video),
        *("--form", "latent_distance", "--output", "embedding", "--normal", site / "normal"),
    )
    assert "onnxruntime fp32: differs from PyTorch by at most" in said
    assert "cosine 1.000000" in said
    assert said.endswith("latent_distance score, 4 frames in\n")
    about = Bundle.open(target).manifest
    assert (about.family, about.score.per) == ("backbone-ae", "clip")
    assert about.training["backbone"]["weights"] == "random weights, seed 0"
    assert about.training["classes"] == ["normal"]
    assert about.scoring.evidence["frames"] == 3 * 36
    assert about.scoring.threshold is not None
    typed(vad_run, "watch", target, tiny_video, "-o", tmp_path / "out", "--no-plot")
    scores = raw_scores(tmp_path / "out")
    assert len(scores) == 60
    assert len(set(scores)) == 60 // 4


def test_a_mil_run_scores_a_stream_and_its_head_the_features(
    site: Path, tiny_video: Path, tmp_path: Path
) -> None:
    """15 clips in 32 segments are a clip a segment, so both bundles must give the same scores."""
    spec = spec_of("x3d_xs")
    network = network_from_config(BACKBONE)
    extract_features(site, tmp_path / "features", network, clip_of(spec, CLIP), workers=1)
    config = MilConfig(
        backbone=BACKBONE,
        clip=CLIP,
        features=FeaturesConfig(validation_fraction=0.34),
        epochs=2,
        device="cpu",
    )
    features = feature_set_from_path(tmp_path / "features", config.features)
    fit_mil(features, config, tmp_path / "run")
    export = (vad_export, "onnx", tmp_path / "run", "-o")
    typed(*export, tmp_path / "fused.vad", "--clips", tiny_video, "--output", "embedding")
    typed(*export, tmp_path / "head.vad", "--head-only", "--clips", tmp_path / "features")
    assert Bundle.open(tmp_path / "fused.vad").manifest.clip == clip_of(spec, CLIP)
    spec_of_head = Bundle.open(tmp_path / "head.vad").manifest.features
    assert spec_of_head is not None
    assert spec_of_head.made_by == "x3d_xs with random weights, seed 0"

    extract_features(tiny_video, tmp_path / "new", network, clip_of(spec, CLIP), workers=1)
    live = ("--no-plot", "--no-overlay", "--backend", "onnxruntime")
    typed(vad_run, "watch", tmp_path / "fused.vad", tiny_video, "-o", tmp_path / "a", *live)
    words = ("score", tmp_path / "head.vad", tmp_path / "new", "-o", tmp_path / "b")
    said = typed(vad_run, *words, *live)
    assert "60 frames, 15 clips" in said
    a, b = raw_scores(tmp_path / "a"), raw_scores(tmp_path / "b")
    assert len(set(a)) == 15
    np.testing.assert_allclose(a, b, rtol=1e-4)
    assert json.loads((tmp_path / "b" / "report.json").read_text())["mode"] == "features"
