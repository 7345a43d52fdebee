"""Published backbones: weights load strictly; the embedding is what the classifier took."""

import functools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vad_runtime.contracts import InputError
from vad_training.config import BackboneConfig
from vad_training.models.backbones.base import ClipEmbedder
from vad_training.models.backbones.pytorchvideo import slow_frames
from vad_training.models.backbones.registry import (
    BACKBONES,
    embedder_from_config,
    load_strictly,
    new_embedder,
    spec_of,
)
from vad_training.models.operators import declare_torchvision_operators

OTHERS = ("torchvision", "pytorchvideo", "timesformer")
PUBLISHED = [name for name in BACKBONES if BACKBONES[name] in OTHERS]
SMALL = {"r2plus1d_18": (8, 32), "r3d_18": (16, 32), "mc3_18": (16, 32), "timesformer": (8, 224)}
"""Frames and size that are enough for a comparison; else the backbone's frames and 64."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from threads that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def original(name: str) -> nn.Module:
    """Return the definition that the published weights belong to, with lively random weights."""
    declare_torchvision_operators()
    torch.manual_seed(3)
    if BACKBONES[name] == "torchvision":
        from torchvision.models import video

        network = getattr(video, name)(weights=None)
    elif BACKBONES[name] == "timesformer":
        from transformers import TimesformerConfig, TimesformerForVideoClassification

        network = TimesformerForVideoClassification(TimesformerConfig(num_labels=400))
        nn.init.normal_(network.timesformer.embeddings.time_embeddings)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from pytorchvideo.models import hub

        network = getattr(hub, name)(pretrained=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return network.eval()


def shortened(network: Any) -> None:
    """Make a network's pooling fit small frames, in the same way on either side."""
    for module in network.modules():
        if isinstance(module, nn.AvgPool3d):
            module.kernel_size = (module.kernel_size[0], 1, 1)


def classifier_input(network: Any, name: str, clip: Tensor) -> Tensor:
    """Return what the classifier of the original definition takes, averaged over positions."""
    if BACKBONES[name] == "torchvision":
        classifier, arguments = network.fc, (clip,)
    elif BACKBONES[name] == "timesformer":
        classifier, arguments = network.classifier, (clip.transpose(1, 2),)
    else:
        classifier, arguments = network.blocks[-1].proj, (clip,)
    if name == "slowfast_r50":
        frames = torch.linspace(0, clip.shape[2] - 1, clip.shape[2] // 4).long()
        arguments = ([clip[:, :, frames], clip],)
    taken: list[Tensor] = []
    handle = classifier.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    with torch.no_grad():
        network(*arguments)
    handle.remove()
    (value,) = taken
    return value.flatten(1, -2).mean(dim=1) if value.ndim > 2 else value


def small_clips(name: str, count: int = 2) -> Tensor:
    frames, size = SMALL.get(name, (spec_of(name).frames[0], 64))
    rng = np.random.default_rng(5)
    return torch.from_numpy(rng.integers(0, 256, (count, frames, size, size, 3), np.uint8))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_embedding_has_its_size_at_every_clip_length(name: str) -> None:
    spec = spec_of(name)
    for frames in spec.frames:
        with torch.device("meta"), torch.no_grad():  # shapes alone, nothing is computed
            embedder = ClipEmbedder(spec, spec.build(frames), frames).eval()
            clip = torch.zeros(2, frames, spec.height, spec.width, 3, dtype=torch.uint8)
            assert embedder(clip).shape == (2, spec.embedding)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_load_and_give_what_the_classifier_took(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "timesformer":  # two layers of twelve: all are alike; the next test has them all
        from transformers import TimesformerConfig

        full = TimesformerConfig.__init__
        shallow = functools.partialmethod(full, num_hidden_layers=2)
        monkeypatch.setattr(TimesformerConfig, "__init__", shallow)
    clips = small_clips(name)
    embedder = new_embedder(spec_of(name), clips.shape[1], seed=1)
    network = original(name)
    load_strictly(embedder, network.state_dict(), "published")
    if name == "timesformer":
        assert len(embedder.network.timesformer.encoder.layer) == 2
    shortened(embedder.network)
    shortened(network)
    with torch.no_grad():
        preprocessed = embedder.preprocess(clips)
        embeddings = embedder(clips)
    expected = classifier_input(network, name, preprocessed)
    assert expected.abs().max() > 0.01
    assert not torch.allclose(expected[0], expected[1], rtol=1e-3)
    torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=1e-5)


def test_timesformer_loads_every_layer_of_the_published_layout() -> None:
    with torch.device("meta"):  # names and shapes alone
        tensors = original("timesformer").state_dict()
        embedder = ClipEmbedder(spec_of("timesformer"), spec_of("timesformer").build(8), 8)
    assert len([name for name in tensors if name.endswith("temporal_dense.weight")]) == 12
    load_strictly(embedder, tensors, "model.safetensors")
    tensors["timesformer.head.weight"] = torch.zeros(1)
    with pytest.raises(InputError, match=r"unknown timesformer\.head\.weight"):
        load_strictly(embedder, tensors, "model.safetensors")


@pytest.mark.parametrize("frames", [4 * n for n in range(2, 33)])
def test_the_slow_pathway_has_the_frames_of_the_published_transform(frames: int) -> None:
    assert slow_frames(frames) == torch.linspace(0, frames - 1, frames // 4).long().tolist()


def test_the_slow_pathway_of_32_frames_worked_by_hand() -> None:
    # 31 / 7 = 4.43 apart: 0, 4.43, 8.86, 13.29, 17.71, 22.14, 26.57, 31
    assert slow_frames(32) == [0, 4, 8, 13, 17, 22, 26, 31]


def test_timesformer_repeats_its_time_embeddings_over_a_longer_clip() -> None:
    with torch.device("meta"):
        embedder = ClipEmbedder(spec_of("timesformer"), spec_of("timesformer").build(16), 16)
    shape = embedder.network.state_dict()["timesformer.embeddings.time_embeddings"].shape
    assert shape == (1, 8, 768)  # as published


def test_a_pixel_is_preprocessed_as_published() -> None:
    embedder = new_embedder(spec_of("mc3_18"))
    clip = torch.zeros(1, 16, 4, 5, 3, dtype=torch.uint8)
    clip[0, 9, 2, 3] = torch.tensor([10, 128, 255])
    pixel = embedder.preprocess(clip)[0, :, 9, 2, 3]
    by_hand = [
        (10 / 255 - 0.43216) / 0.22803,
        (128 / 255 - 0.394666) / 0.22145,
        (255 / 255 - 0.37645) / 0.216989,
    ]
    assert pixel.tolist() == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("name", ["r3d_18", "slow_r50", "slowfast_r50", "x3d_m", "timesformer"])
def test_each_library_has_its_mean_and_standard_deviation(name: str) -> None:
    how = spec_of(name).preprocess
    if name == "r3d_18":
        assert how.mean == (0.43216, 0.394666, 0.37645)
        assert how.std == (0.22803, 0.22145, 0.216989)
    else:
        assert how.mean == (0.45,) * 3
        assert how.std == (0.225,) * 3
    assert how.scale == 1 / 255
    assert not how.bgr


def test_batch_norm_does_not_drift_while_embedding() -> None:
    embedder = embedder_from_config(BackboneConfig(name="x3d_xs", random_weights=0))
    assert not any(module.training for module in embedder.modules())
    before = {name: value.clone() for name, value in embedder.state_dict().items()}
    shortened(embedder.network)
    with torch.no_grad():
        first, again = embedder(small_clips("x3d_xs")), embedder(small_clips("x3d_xs"))
    assert torch.equal(first, again)
    for name, value in embedder.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_x3d_can_be_trained_further() -> None:
    embedder = new_embedder(spec_of("x3d_xs"))
    shortened(embedder.network)
    embedder(small_clips("x3d_xs")).sum().backward()
    gradients = [weight.grad for weight in embedder.network.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
