"""Every model of the list as a graph: what PyTorch computes, ONNX Runtime and OpenVINO compute too.

Weights are random: the graph's form does not depend on them, and the real ones are not everywhere.
"""

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import real_data

from vad_calibration import clips_from_footage
from vad_export.onnx_graph import onnx_from_graph
from vad_runtime.backends.base import Clips, Options
from vad_runtime.backends.onnxruntime import OnnxRuntimeBackend
from vad_runtime.backends.openvino import OpenVinoBackend
from vad_training.config import ClipChoice
from vad_training.config.backbone_ae import AutoencoderConfig
from vad_training.config.mil import HeadConfig
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
