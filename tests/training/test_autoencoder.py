"""The autoencoder, its loss, and the model from clip to scores; formulas worked by hand."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_backbone import tiny_embedder
from torch import nn

from vad_training.config.backbone_ae import AutoencoderConfig
from vad_training.models.autoencoder import EmbeddingAutoencoder, autoencoder_loss
from vad_training.models.backbone_ae import AutoencoderScores, BackboneAutoencoder, distances


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}


def kinds(model: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in model]


# -- layers ------------------------------------------------------------------------------------


def test_two_hidden_layers_have_the_layout_of_r2plus1d() -> None:
    model = EmbeddingAutoencoder(512, AutoencoderConfig(hidden=(256, 128)))
    assert kinds(model.encoder) == ["BatchNorm1d", "Linear", "ReLU", "Dropout", "Linear", "ReLU"]
    assert kinds(model.decoder) == ["Linear", "ReLU", "Dropout", "Linear"]
    assert shapes(model) == {
        "encoder.0.weight": (512,),
        "encoder.0.bias": (512,),
        "encoder.1.weight": (256, 512),
        "encoder.1.bias": (256,),
        "encoder.4.weight": (128, 256),
        "encoder.4.bias": (128,),
        "decoder.0.weight": (256, 128),
        "decoder.0.bias": (256,),
        "decoder.3.weight": (512, 256),
        "decoder.3.bias": (512,),
    }
    assert {layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)} == {0.3}


def test_three_hidden_layers_have_the_layout_of_timesformer() -> None:
    model = EmbeddingAutoencoder(768, AutoencoderConfig(hidden=(512, 256, 128)))
    stage = ["Linear", "ReLU", "Dropout"]
    assert kinds(model.encoder) == ["BatchNorm1d", *stage, *stage, "Linear", "ReLU"]
    assert kinds(model.decoder) == [*stage, *stage, "Linear"]
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [
        *((768, 512), (512, 256), (256, 128)),
        *((128, 256), (256, 512), (512, 768)),
    ]


def test_one_hidden_layer_without_batch_norm_is_two_linear_layers() -> None:
    model = EmbeddingAutoencoder(9, AutoencoderConfig(hidden=(4,), batch_norm=False))
    assert kinds(model.encoder) == ["Linear", "ReLU"]
    assert kinds(model.decoder) == ["Linear"]


def test_latents_are_never_negative_and_reconstructions_may_be() -> None:
    torch.manual_seed(0)
    model = EmbeddingAutoencoder(8, AutoencoderConfig(hidden=(6, 4))).eval()
    with torch.no_grad():
        reconstruction, latent = model(torch.randn(50, 8))
    assert reconstruction.shape == (50, 8)
    assert latent.shape == (50, 4)
    assert float(latent.min()) == 0 < float(latent.max())
    assert float(reconstruction.min()) < 0


# -- loss --------------------------------------------------------------------------------------


def test_the_loss_sums_over_dimensions_and_averages_over_clips() -> None:
    made = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    target = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.0, -3.0]])
    # Squares: 0 + 4 + 9 = 13 and 0.25 + 0 + 9 = 9.25; their mean is 11.125.
    assert float(autoencoder_loss(made, target, "mse")) == 11.125
    # Huber: 0 + 1.5 + 2.5 = 4 and 0.125 + 0 + 2.5 = 2.625; their mean is 3.3125.
    assert float(autoencoder_loss(made, target, "huber")) == 3.3125


@pytest.mark.parametrize("kind", ["mse", "huber"])
def test_no_gradient_flows_into_the_target(kind: str) -> None:
    made = torch.ones(2, 3, requires_grad=True)
    target = torch.zeros(2, 3, requires_grad=True)
    autoencoder_loss(made, target, kind).backward()  # type: ignore[arg-type]
    assert target.grad is None
    assert made.grad is not None
    # d/dx of the sum of x^2 (or, where x is at most 1, of x^2 / 2), over a mean of two clips
    assert torch.equal(made.grad, torch.full((2, 3), 1.0 if kind == "mse" else 0.5))


# -- from clip to scores -----------------------------------------------------------------------


def whole_model() -> BackboneAutoencoder:
    torch.manual_seed(1)
    autoencoder = EmbeddingAutoencoder(6, AutoencoderConfig(hidden=(5, 3)))
    centroids = torch.randn(2, 6), torch.rand(2, 3)
    return BackboneAutoencoder(tiny_embedder(), autoencoder, ["a", "b"], *centroids).eval()


def test_distances_are_euclidean() -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    centroids = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    assert distances(points, centroids).tolist() == [[0, 3, 5], [5, 4, 0]]


def test_a_point_close_to_a_far_centroid_keeps_the_digits_of_its_distance() -> None:
    centroid = torch.full((1, 64), 1000.0)
    assert float(distances(centroid + 0.5, centroid)) == 4.0  # sqrt(64 * 0.25)


def test_scores_are_the_summed_squared_error_and_the_distances() -> None:
    model = whole_model()
    clips = torch.randint(0, 256, (3, 4, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        found = model(clips)
        embedding = model.embedder(clips)
        made, latent = model.autoencoder(embedding)
        again = model.scores(embedding)
    assert torch.equal(found.embedding, embedding)
    assert torch.equal(found.latent, latent)
    for i in range(3):
        assert float(found.error[i]) == pytest.approx(float(((embedding[i] - made[i]) ** 2).sum()))
        for c in range(2):
            far = torch.linalg.vector_norm(embedding[i] - model.embedding_centroids[c])
            assert float(found.embedding_distance[i, c]) == pytest.approx(float(far))
            far = torch.linalg.vector_norm(latent[i] - model.latent_centroids[c])
            assert float(found.latent_distance[i, c]) == pytest.approx(float(far))
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


@pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations
def test_the_model_exports_to_onnx_with_any_number_of_clips(tmp_path: Path) -> None:
    model = whole_model()
    clips = torch.randint(0, 256, (5, 4, 32, 32, 3), dtype=torch.uint8)
    file = tmp_path / "model.onnx"
    torch.onnx.export(
        model,
        (clips[:2],),
        str(file),
        input_names=["clip"],
        output_names=list(AutoencoderScores._fields),
        opset_version=18,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        with torch.no_grad():
            wanted = model(clips[:count])
        found = session.run(None, {"clip": clips[:count].numpy()})
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other.numpy(), rtol=1e-4, atol=1e-5)
