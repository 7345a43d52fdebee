"""Small graphs of every family build with TensorRT-RTX in each precision; no GPU is needed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers import clip_spec
from helpers_tensorrt import build, tensorrt_rtx
from tiny_backbone import tiny_embedder
from torch import Tensor, nn

from vad_calibration.lint import lint_qdq
from vad_calibration.placement import QuantiseChoice, activation_tensors, quantisable_layers
from vad_calibration.qdq import qdq_from_model
from vad_export.fp16 import fp16_from_model
from vad_export.onnx_graph import onnx_from_graph
from vad_runtime.backends.base import Options
from vad_runtime.backends.onnxruntime import OnnxRuntimeBackend
from vad_runtime.backends.openvino import OpenVinoBackend
from vad_runtime.contracts import ClipSpec, ExportError, ScoreSpec
from vad_training.config import ClipChoice
from vad_training.config.backbone_ae import AutoencoderConfig
from vad_training.config.mil import HeadConfig
from vad_training.graphs import ScoreGraph
from vad_training.graphs.backbone_ae import backbone_ae_graph
from vad_training.graphs.mil import mil_clip_graph
from vad_training.graphs.stae import ScoreForm, stae_graph
from vad_training.models.autoencoder import EmbeddingAutoencoder
from vad_training.models.backbone_ae import BackboneAutoencoder
from vad_training.models.backbones.base import clip_of
from vad_training.models.mil import mil_head
from vad_training.models.stae import STAE

CLIP = clip_spec(frames=16)

CHOICE = QuantiseChoice()


def int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Quantise every layer, with limits out of the blue: only the form of the graph matters."""
    layers = quantisable_layers(model, CHOICE)
    limits = dict.fromkeys(activation_tensors(model, layers, CHOICE), 4.0)
    return qdq_from_model(model, [layer.name for layer in layers], limits, CHOICE)


PRECISIONS: dict[str, tuple[Callable[[onnx.ModelProto], onnx.ModelProto], float | None]] = {
    "fp16": (lambda model: fp16_from_model(model).model, 0.65),
    "int8": (int8, None),
    "mixed": (lambda model: fp16_from_model(int8(model)).model, None),
}
"""Precision -> how its graph is made from the fp32 one, and the largest share of the fp32 plan's
bytes that its plan may take. None: TensorRT-RTX has INT8 for matrix products only and keeps other
things beside INT8 convolution weights (the STAE's plan grows), so "built" is all that is said."""


class Residual(nn.Module):
    """A small 3-D residual network with an error score."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(1, 128, 3, stride=(1, 2, 2), padding=1)
        self.first = nn.Sequential(
            nn.Conv3d(128, 128, 3, padding=1), nn.BatchNorm3d(128), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv3d(128, 128, 3, padding=1), nn.BatchNorm3d(128))
        self.narrow = nn.Linear(128, 8)
        self.wide = nn.Linear(8, 128)

    def forward(self, clip: Tensor) -> Tensor:
        """Score clips of shape (N, T, H, W, 1), uint8."""
        x = (clip.to(torch.float32).permute(0, 4, 1, 2, 3) / 255 - 0.45) / 0.225
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.second(self.first(x)))
        code = x.mean(dim=(2, 3, 4))
        return (code - self.wide(torch.relu(self.narrow(code)))).square().sum(dim=1)


class Attention(nn.Module):
    """A small transformer block over patches, then a head of unit vectors and a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv3d(1, 384, (4, 8, 8), stride=(4, 8, 8))
        self.before = nn.LayerNorm(384, eps=1e-6)
        self.qkv = nn.Linear(384, 3 * 384)
        self.after = nn.LayerNorm(384, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(384, 1536), nn.GELU(), nn.Linear(1536, 384))
        self.head = nn.Linear(384, 1)

    def forward(self, clip: Tensor) -> Tensor:
        """Score clips of shape (N, T, H, W, 1), uint8."""
        x = clip.to(torch.float32).permute(0, 4, 1, 2, 3) / 255
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.before(x)).chunk(3, dim=-1)
        x = x + torch.softmax(q @ k.transpose(1, 2) * 384**-0.5, dim=-1) @ v
        x = x + self.mlp(self.after(x))
        unit = nn.functional.normalize(x.mean(dim=1), dim=-1)
        return torch.sigmoid(self.head(unit))[:, 0]


def clip_graph(module: nn.Module, clip: ClipSpec) -> ScoreGraph:
    return ScoreGraph(
        family="test",
        module=module.eval(),
        clip=clip,
        score=ScoreSpec(per="clip", form="error"),
        outputs=[],
        training={},
    )


def tiny_autoencoder() -> ScoreGraph:
    embedder = tiny_embedder()
    model = BackboneAutoencoder(
        embedder,
        EmbeddingAutoencoder(6, AutoencoderConfig(hidden=(5, 3))),
        ["a", "b"],
        torch.randn(2, 6),
        torch.rand(2, 3),
    )
    clip = clip_of(embedder.spec, ClipChoice(stride=1, hop=4))
    return backbone_ae_graph(model.eval(), clip, form="error", outputs=[])


def tiny_mil() -> ScoreGraph:
    embedder = tiny_embedder()
    head = mil_head(HeadConfig(), 6).eval()
    clip = clip_of(embedder.spec, ClipChoice(stride=1, hop=4))
    return mil_clip_graph(embedder, head, clip, normalise=True, outputs=[])


FAMILIES: dict[str, Callable[[], ScoreGraph]] = {
    "stae": lambda: stae_graph(STAE().eval(), CLIP, ScoreForm()),
    "backbone-ae": tiny_autoencoder,
    "mil": tiny_mil,
    "residual": lambda: clip_graph(Residual(), CLIP),
    "attention": lambda: clip_graph(Attention(), CLIP),
}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An fp32 graph and its plan."""

    graph: ScoreGraph
    file: Path
    built: bytes


@pytest.fixture(scope="module", params=FAMILIES)
def reference(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    tensorrt_rtx()
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp(request.param) / "model.onnx"
    graph = FAMILIES[request.param]()
    onnx_from_graph(graph, file)
    return Reference(graph=graph, file=file, built=build(file))


def test_the_fp32_graph_builds(reference: Reference) -> None:
    assert reference.built[:4] == b"vtrt"
    weights = sum(t.ByteSize() for t in onnx.load(reference.file).graph.initializer)
    assert len(reference.built) > 0.9 * weights


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_narrower_graph_builds_and_an_fp16_plan_is_clearly_smaller(
    reference: Reference, precision: str, tmp_path: Path
) -> None:
    make, share = PRECISIONS[precision]
    file = tmp_path / "narrow.onnx"
    onnx.save(make(onnx.load(reference.file)), file)
    built = build(file)
    assert built[:4] == b"vtrt"
    # In a plan of a tiny model the weights are next to nothing.
    if share is not None and reference.file.stat().st_size > 1 << 20:
        assert len(built) < share * len(reference.built)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_narrower_graph_breaks_no_rule_and_runs_in_both_engines(
    reference: Reference, precision: str, tmp_path: Path
) -> None:
    model = PRECISIONS[precision][0](onnx.load(reference.file))
    assert lint_qdq(model) == []
    file = tmp_path / "narrow.onnx"
    onnx.save(model, file)
    shape = (2, *reference.graph.clip.clip_shape)
    clips = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    about = reference.graph.manifest()
    answers = []
    for engine in (OpenVinoBackend, OnnxRuntimeBackend):
        options = Options(precision=precision)  # type: ignore[arg-type]
        backend = engine(file, about, options)
        answers.append(backend.infer(clips)["score"])
        backend.close()
    # Engines round in other places, and OpenVINO may compute the rest in bf16.
    assert np.isfinite(answers[0]).all()
    scale = np.abs(answers[1]).max()
    assert scale > 0
    np.testing.assert_allclose(answers[0], answers[1], atol=0.1 * scale)


def test_a_graph_that_tensorrt_refuses_fails_with_its_own_words(tmp_path: Path) -> None:
    tensorrt_rtx()
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> '
        "g (float[N,4] x) => (float[N,4] y) { y = NoSuchOperator(x) }"
    )
    file = tmp_path / "odd.onnx"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="NoSuchOperator"):
        build(file)
