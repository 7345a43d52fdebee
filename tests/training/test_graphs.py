"""Graphs of the families `backbone-ae` and `mil`: outputs, forms, and where they come from."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from helpers import assert_one_line, clip_spec
from torch import Tensor, nn

import vad_training.graphs.features as features_module
from vad_runtime.contracts import ConfigError, FeatureSpec, InputError
from vad_runtime.features import unit_length
from vad_training.checkpoint import Checkpoint, checkpoint_from_path
from vad_training.checkpoint_file import save_checkpoint
from vad_training.config import BackboneConfig, MilConfig, StaeConfig
from vad_training.config.backbone_ae import AutoencoderConfig
from vad_training.config.mil import FeaturesConfig, HeadConfig
from vad_training.graphs import FORMS_OF, graph_from_checkpoint, takes_features
from vad_training.graphs.backbone_ae import FORMS, backbone_ae_graph
from vad_training.graphs.mil import mil_clip_graph, mil_head_graph
from vad_training.models.autoencoder import EmbeddingAutoencoder
from vad_training.models.backbone_ae import BackboneAutoencoder
from vad_training.models.backbones.base import BackboneSpec, ClipEmbedder, Preprocess
from vad_training.models.mil import MilHead, mil_head
from vad_training.models.stae import STAE

CLIP = clip_spec(frames=4, height=6, width=6, colour="rgb", hop=4)
SIZE = 5
EXTRA = ["error", "embedding", "latent", "embedding_distance", "latent_distance"]
Clips = np.ndarray[Any, np.dtype[np.uint8]]


class Net(nn.Module):
    """Mean over space and time, and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, SIZE)

    def forward(self, clip: Tensor) -> Tensor:
        found: Tensor = self.layer(clip.mean(dim=(2, 3, 4)))
        return found


SPEC = BackboneSpec(
    name="tiny",
    embedding=SIZE,
    frames=(4,),
    height=6,
    width=6,
    preprocess=Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3)),
    build=lambda _: Net(),
    convert=dict,
    layouts="none",
    source="this test",
)


@pytest.fixture(scope="module")
def embedder() -> ClipEmbedder:
    torch.manual_seed(0)
    return ClipEmbedder(SPEC, Net(), 4).eval()


@pytest.fixture(scope="module")
def model(embedder: ClipEmbedder) -> BackboneAutoencoder:
    torch.manual_seed(1)
    autoencoder = EmbeddingAutoencoder(SIZE, AutoencoderConfig(hidden=(4, 3)))
    centroids = torch.randn(2, SIZE), torch.rand(2, 3)
    return BackboneAutoencoder(embedder, autoencoder, ["walk", "run"], *centroids).eval()


@pytest.fixture(scope="module")
def head() -> MilHead:
    torch.manual_seed(2)
    return mil_head(HeadConfig(hidden=(4, 3)), SIZE).eval()


def clips_of(count: int, seed: int = 0) -> Clips:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 6, 6, 3), np.uint8)


def embeddings_of(embedder: ClipEmbedder, clips: Clips) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Work the embedding out in double precision, apart from the network's one layer."""
    means = (clips / 255.0).mean(axis=(1, 2, 3))
    inputs = (means - [0.4, 0.5, 0.6]) / [0.2, 0.2, 0.3]
    layer = embedder.network.get_submodule("layer")
    weight, bias = (layer.get_parameter(n).detach().double().numpy() for n in ("weight", "bias"))
    return np.asarray(inputs @ weight.T + bias)


# -- backbone-ae -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_the_score_of_a_clip_is_what_its_form_says(model: BackboneAutoencoder, form: str) -> None:
    clips = clips_of(3)
    found = backbone_ae_graph(model, CLIP, form=form).run(clips)
    assert list(found) == ["score"]
    embedding = embeddings_of(model.embedder, clips)
    with torch.inference_mode():
        rebuilt, latent = model.autoencoder(torch.from_numpy(embedding).float())
    if form == "error":
        want = ((embedding - rebuilt.numpy()) ** 2).sum(axis=1)
    else:
        points = embedding if form == "distance" else latent.numpy()
        name = "embedding_centroids" if form == "distance" else "latent_centroids"
        centroids = model.get_buffer(name).numpy()
        # Anomalous where every centroid is at least t away: the least distance decides.
        distances = [[np.linalg.norm(p - c) for c in centroids] for p in points]
        want = np.min(distances, axis=1)
    np.testing.assert_allclose(found["score"], want, rtol=1e-4)


def test_the_default_form_is_the_error(model: BackboneAutoencoder) -> None:
    graph = backbone_ae_graph(model, CLIP)
    assert (graph.score.per, graph.score.form, graph.score.count) == ("clip", "error", 1)
    assert FORMS_OF["backbone-ae"][0] == "error"


def test_optional_outputs_have_the_shapes_that_the_manifest_gets(
    model: BackboneAutoencoder,
) -> None:
    graph = backbone_ae_graph(model, CLIP, outputs=EXTRA)
    found = graph.run(clips_of(3))
    assert list(found) == ["score", *EXTRA] == graph.output_names
    for spec in graph.outputs:
        assert found[spec.name].shape == (3, *spec.shape[1:])
        assert found[spec.name].dtype == np.float32
    np.testing.assert_array_equal(found["score"], found["error"])
    np.testing.assert_array_equal(
        backbone_ae_graph(model, CLIP, form="distance").run(clips_of(3))["score"],
        found["embedding_distance"].min(axis=1),
    )
    meanings = {spec.name: spec.meaning for spec in graph.outputs}
    assert "walk, run" in meanings["latent_distance"]


def test_the_manifest_describes_the_graph(model: BackboneAutoencoder) -> None:
    graph = backbone_ae_graph(model, CLIP, form="distance", outputs=["latent"], training={"a": 1})
    about = graph.manifest(licence="CC0")
    assert (about.family, about.name, about.licence) == ("backbone-ae", "backbone-ae", "CC0")
    assert (about.clip, about.score.form, about.training) == (CLIP, "distance", {"a": 1})
    assert about.artefacts == {}
    assert about.input_shape == (4, 6, 6, 3)


@pytest.mark.parametrize(
    ("form", "outputs", "parts"),
    [
        ("reconstruction", [], ["no score of form reconstruction", "error, distance"]),
        ("error", ["picture"], ["no output 'picture'", "embedding"]),
        ("error", ["latent", "latent"], ["latent was asked for twice"]),
    ],
)
def test_a_form_or_output_that_there_is_not_is_one_line(
    model: BackboneAutoencoder, form: str, outputs: list[str], parts: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        backbone_ae_graph(model, CLIP, form=form, outputs=outputs)
    assert_one_line(caught.value, *parts)


# -- mil ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", [True, False])
def test_a_clip_scores_what_the_head_says_of_its_embedding(
    embedder: ClipEmbedder, head: MilHead, normalise: bool
) -> None:
    clips = clips_of(3)
    graph = mil_clip_graph(embedder, head, CLIP, normalise=normalise, outputs=["embedding"])
    found = graph.run(clips)
    embedding = embeddings_of(embedder, clips).astype(np.float32)
    np.testing.assert_allclose(found["embedding"], embedding, atol=1e-6)
    feature = unit_length(embedding) if normalise else embedding
    with torch.inference_mode():
        want = head(torch.from_numpy(feature)[:, None]).numpy()[:, 0]
    np.testing.assert_allclose(found["score"], want, rtol=1e-5)
    assert found["score"].shape == (3,)
    assert (graph.score.per, graph.score.form) == ("clip", "probability")


def test_a_head_alone_scores_every_segment(head: MilHead) -> None:
    spec = FeatureSpec(segments=4, size=SIZE, normalise=True)
    graph = mil_head_graph(head, spec, CLIP)
    features = np.random.default_rng(0).normal(size=(2, 4, SIZE)).astype(np.float32)
    with torch.inference_mode():
        want = head(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(graph.run(features)["score"], want, rtol=1e-6)
    assert (graph.score.per, graph.score.count) == ("segment", 4)
    assert graph.manifest().input_name == "features"
    with pytest.raises(ConfigError, match="a head alone has no output 'embedding'"):
        mil_head_graph(head, spec, CLIP, outputs=["embedding"])


# -- from checkpoints --------------------------------------------------------------------------


def mil_run(head: MilHead, summary: dict[str, Any], **settings: Any) -> Checkpoint:
    config = MilConfig(head=HeadConfig(hidden=(4, 3)), **settings)
    return Checkpoint(model=head, config=config, published=False, summary=summary)


@pytest.fixture
def tiny_registry(embedder: ClipEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every backbone be the tiny one; its weights are known by the name of their file."""

    def described(config: BackboneConfig) -> dict[str, Any]:
        weights = {"weights": config.weights, "weights_sha256": f"hash of {config.weights}"}
        return {"name": config.name, "preprocessing": "published", **weights}

    monkeypatch.setattr(features_module, "embedder_from_config", lambda *_: embedder)
    monkeypatch.setattr(features_module, "spec_from_config", lambda _: SPEC)
    monkeypatch.setattr(features_module, "describe", described)


ABOUT = {
    "backbone": {
        "name": "tiny",
        "preprocessing": "published",
        "weights": "elsewhere.pt",
        "weights_sha256": "hash of w.pt",
    },
    "clip": msgspec.to_builtins(CLIP),
    "modality": "rgb",
}


@pytest.mark.usefixtures("tiny_registry")
def test_a_mil_run_uses_the_clip_and_the_backbone_of_its_features(head: MilHead) -> None:
    run = mil_run(head, {"features": ABOUT}, backbone=BackboneConfig(name="tiny", weights="w.pt"))
    graph = graph_from_checkpoint(run)
    assert graph.clip == CLIP
    assert graph.training["backbone"]["weights_sha256"] == "hash of w.pt"
    alone = graph_from_checkpoint(run, head_only=True)
    assert alone.features == FeatureSpec(
        segments=32,
        size=SIZE,
        normalise=True,
        made_by="tiny with elsewhere.pt (sha256 hash of w.pt…)",
    )
    assert not takes_features(run.config)


@pytest.mark.usefixtures("tiny_registry")
def test_the_weights_of_the_features_can_be_given_at_export(head: MilHead) -> None:
    run = mil_run(head, {"features": ABOUT})
    assert takes_features(run.config)
    graph = graph_from_checkpoint(run, weights=Path("w.pt"))
    assert graph.training["backbone"]["name"] == "tiny"
    with pytest.raises(ConfigError) as caught:
        graph_from_checkpoint(run)
    assert_one_line(caught.value, "tiny with elsewhere.pt", "--weights", "--head-only")


@pytest.mark.usefixtures("tiny_registry")
def test_other_weights_than_those_of_the_features_are_refused(head: MilHead) -> None:
    with pytest.raises(ConfigError) as caught:
        graph_from_checkpoint(mil_run(head, {"features": ABOUT}), weights=Path("other.pt"))
    assert_one_line(caught.value, "computed by tiny with elsewhere.pt", "not by tiny with other.pt")


def test_a_head_of_foreign_features_can_be_exported_alone(head: MilHead) -> None:
    run = mil_run(head, {}, features=FeaturesConfig(segments=8, normalise=False))
    graph = graph_from_checkpoint(run, head_only=True)
    assert graph.features == FeatureSpec(segments=8, size=SIZE, normalise=False)
    with pytest.raises(ConfigError) as caught:
        graph_from_checkpoint(run)
    assert_one_line(caught.value, "does not say which backbone computed", "--head-only")


@pytest.mark.usefixtures("tiny_registry")
def test_flow_is_not_computed_in_a_graph(head: MilHead) -> None:
    run = mil_run(
        head,
        {},
        backbone=BackboneConfig(name="tiny", weights="w.pt"),
        features=FeaturesConfig(modality="two"),
    )
    with pytest.raises(ConfigError) as caught:
        graph_from_checkpoint(run)
    assert_one_line(caught.value, "optical flow", "two features", "--head-only")
    assert takes_features(run.config)


def test_options_of_another_family_are_refused(head: MilHead) -> None:
    stae = Checkpoint(model=STAE().eval(), config=StaeConfig(), published=False, summary={})
    for options, part in (
        ({"form": "error"}, "the family stae has no score of form error"),
        ({"head_only": True}, "no head of its own"),
        ({"weights": Path("w")}, "for the family mil"),
    ):
        with pytest.raises(ConfigError) as caught:
            graph_from_checkpoint(stae, **options)  # type: ignore[arg-type]
        assert_one_line(caught.value, part)
    for other in ({"alpha": 1.0}, {"future_offset": 3}):
        with pytest.raises(ConfigError, match="belong to the family stae"):
            graph_from_checkpoint(mil_run(head, {}), head_only=True, **other)  # type: ignore[arg-type]


def test_a_mil_run_is_read_from_its_folder(head: MilHead, tmp_path: Path) -> None:
    config = MilConfig(head=HeadConfig(hidden=(4, 3)))
    content = {"model": head.state_dict(), "summary": {"segments": 32}}
    save_checkpoint(tmp_path / "best.pt", content, config)
    found = checkpoint_from_path(tmp_path)
    assert isinstance(found.model, MilHead)
    assert (found.config, found.summary, found.published) == (config, {"segments": 32}, False)
    assert not found.model.training
    save_checkpoint(tmp_path / "best.pt", content, MilConfig(head=HeadConfig(hidden=(4, 4))))
    with pytest.raises(InputError) as caught:
        checkpoint_from_path(tmp_path)
    assert_one_line(caught.value, "best.pt")


def test_the_original_head_is_read_from_its_matlab_file(tmp_path: Path) -> None:
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    cells: dict[str, Any] = {}
    for key, (a, b) in {"0": (SIZE, 4), "2": (4, 3), "4": (3, 1)}.items():
        cell = np.empty((1, 2), object)
        cell[0, 0], cell[0, 1] = rng.normal(size=(a, b)), rng.normal(size=(1, b))
        cells[key] = cell
    savemat(tmp_path / "weights_L1L2.mat", cells)
    found = checkpoint_from_path(tmp_path / "weights_L1L2.mat")
    assert found.published
    assert isinstance(found.config, MilConfig)
    assert found.config.head.hidden == (4, 3)
    graph = graph_from_checkpoint(found, head_only=True)
    features = rng.normal(size=(1, 32, SIZE)).astype(np.float32)
    hidden = np.maximum(features[0] @ cells["0"][0, 0] + cells["0"][0, 1], 0)
    logits = (hidden @ cells["2"][0, 0] + cells["2"][0, 1]) @ cells["4"][0, 0] + cells["4"][0, 1]
    np.testing.assert_allclose(
        graph.run(features)["score"][0], 1 / (1 + np.exp(-logits[:, 0])), 1e-4
    )
