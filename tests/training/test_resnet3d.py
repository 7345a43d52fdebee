"""3-D ResNets: both shortcuts, the published layout, and their export."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_one_line
from helpers_onnx import assert_export_agrees
from torch import Tensor

from vad_runtime.contracts import InputError
from vad_training.config import BackboneConfig
from vad_training.models.backbones.base import ClipEmbedder
from vad_training.models.backbones.registry import embedder_from_config, load_strictly
from vad_training.models.backbones.resnet3d import SPECS, ShortcutA

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def published(depth: int, kind: str, seed: int = 0) -> dict[str, Tensor]:
    """Random weights as the files of 2017 hold them: DataParallel, fc, no num_batches_tracked."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}

    def conv(name: str, out: int, into: int, size: int) -> None:
        scale = (2 / (into * size**3)) ** 0.5
        shape = (out, into, size, size, size)
        tensors[f"module.{name}.weight"] = torch.randn(shape, generator=generator) * scale

    def norm(name: str, width: int) -> None:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            value = torch.rand(width, generator=generator)
            tensors[f"module.{name}.{leaf}"] = (
                value + 0.5 if leaf in ("weight", "running_var") else (value * 0.2)
            )

    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    channels = 64
    for i, count in enumerate(BLOCKS[depth]):
        width = 64 * 2**i
        wide = width if depth < 50 else 4 * width
        for j in range(count):
            at = f"layer{i + 1}.{j}"
            parts = [(width, 3), (width, 3)] if depth < 50 else [(width, 1), (width, 3), (wide, 1)]
            into = channels
            for k, (out, size) in enumerate(parts, start=1):
                conv(f"{at}.conv{k}", out, into, size)
                norm(f"{at}.bn{k}", out)
                into = out
            if j == 0 and (i > 0 or channels != wide) and kind == "B":
                conv(f"{at}.downsample.0", wide, channels, 1)
                norm(f"{at}.downsample.1", wide)
            channels = wide
    tensors["module.fc.weight"] = torch.zeros(400, channels)
    tensors["module.fc.bias"] = torch.zeros(400)
    return tensors


def reference(tensors: dict[str, Tensor], x: Tensor, depth: int) -> Tensor:
    """The network as functions over the published names; shortcut A in the source's own terms."""
    w = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}

    def norm(y: Tensor, name: str) -> Tensor:
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        shape = (1, -1, 1, 1, 1)
        scale = (w[f"{name}.weight"] / torch.sqrt(var + 1e-5)).reshape(shape)
        return (y - mean.reshape(shape)) * scale + w[f"{name}.bias"].reshape(shape)

    x = norm(F.conv3d(x, w["conv1.weight"], stride=(1, 2, 2), padding=3), "bn1").relu()
    x = F.max_pool3d(x, 3, 2, 1)
    for i, count in enumerate(BLOCKS[depth]):
        for j in range(count):
            at, stride = f"layer{i + 1}.{j}", 2 if i > 0 and j == 0 else 1
            strides = [stride, 1] if depth < 50 else [1, stride, 1]
            y = x
            for k, s in enumerate(strides, start=1):
                weight = w[f"{at}.conv{k}.weight"]
                y = norm(F.conv3d(y, weight, stride=s, padding=weight.shape[2] // 2), f"{at}.bn{k}")
                if k < len(strides):
                    y = y.relu()
            if f"{at}.downsample.0.weight" in w:
                x = norm(F.conv3d(x, w[f"{at}.downsample.0.weight"], stride=stride),
                         f"{at}.downsample.1")  # fmt: skip
            elif x.shape != y.shape:
                x = F.avg_pool3d(x, kernel_size=1, stride=stride)
                zeros = torch.zeros(len(x), y.shape[1] - x.shape[1], *x.shape[2:])
                x = torch.cat([x, zeros], dim=1)
            x = (x + y).relu()
    return F.avg_pool3d(x, x.shape[2:], stride=1).flatten(1)


@pytest.mark.parametrize("name", ["resnet3d_18", "resnet3d_50", "resnet3d_18_b", "resnet3d_50_a"])
@torch.no_grad()
def test_the_published_layout_gives_the_sources_embedding(name: str, tmp_path: Path) -> None:
    spec = SPECS[name]
    depth = int(name.split("_")[1])
    kind = {"18": "A", "50": "B", "b": "B", "a": "A"}[name.rpartition("_")[2]]
    tensors = published(depth, kind)
    network = spec.build(16).eval()
    load_strictly(ClipEmbedder(spec, network, 16), tensors, "file")
    # Smaller than published, so that the test is quick; nothing in the network depends on it.
    x = torch.randn(2, 3, 8, 40, 40, generator=torch.Generator().manual_seed(1))
    embedding, expected = network(x), reference(tensors, x, depth)
    assert embedding.shape == (2, spec.embedding)
    assert (expected[0] - expected[1]).abs().max() > 1e-3 * expected.abs().max()
    torch.testing.assert_close(
        embedding, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
    )


@pytest.mark.parametrize("name", sorted(SPECS))
def test_every_depth_and_shortcut_has_exactly_the_tensors_of_its_file(name: str) -> None:
    spec = SPECS[name]
    depth = int(name.split("_")[1])
    by_default = "A" if depth < 50 else "B"
    kind = name.rpartition("_")[2].upper() if name.count("_") == 2 else by_default
    with torch.device("meta"):
        network = spec.build(16)
    state = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    assert state == {k: tuple(v.shape) for k, v in spec.convert(published(depth, kind)).items()}
    assert ("shortcut A" in spec.layouts) == (kind == "A")
    assert (f"resnet-{depth}-kinetics.pth" in spec.layouts) == (kind == by_default)


def test_shortcut_a_takes_every_second_pixel_and_adds_channels_of_zeros() -> None:
    x = torch.arange(2 * 3 * 3 * 5.0).reshape(1, 2, 3, 3, 5)
    y = ShortcutA(2, 5, 2)(x)
    assert y.shape == (1, 5, 2, 2, 3)
    assert y[0, 1, 1, 1].tolist() == x[0, 1, 2, 2, [0, 2, 4]].tolist()
    assert not y[0, 2:].any()


@torch.no_grad()
def test_a_container_loads_and_frames_are_normalised_on_the_scale_of_255(tmp_path: Path) -> None:
    tensors = published(18, "A")
    torch.save({"epoch": 200, "arch": "resnet-18", "state_dict": tensors}, tmp_path / "r.pth")
    config = BackboneConfig(name="resnet3d_18", weights=str(tmp_path / "r.pth"))
    embedder = embedder_from_config(config)
    clip = torch.zeros(1, 16, 112, 112, 3, dtype=torch.uint8)
    clip[..., 0], clip[..., 1], clip[..., 2] = 255, 108, 0
    pixel = embedder.preprocess(clip)[0, :, 3, 50, 60]
    by_hand = [
        (255 - 114.7748) / 38.7568578,
        (108 - 107.7354) / 37.88248729,
        (0 - 99.4750) / 40.02898126,
    ]
    assert pixel.tolist() == pytest.approx(by_hand, rel=1e-4)
    np.testing.assert_array_equal(
        embedder.network.get_parameter("layer4.1.conv2.weight").numpy(),
        tensors["module.layer4.1.conv2.weight"].numpy(),
    )


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("resnet3d_18_b", "A", "misses layer2.0.downsample.0.weight"),
        ("resnet3d_18", "B", "unknown layer2.0.downsample.0.weight"),
    ],
)
def test_the_other_shortcut_is_refused_by_name(name: str, kind: str, said: str) -> None:
    spec = SPECS[name]
    embedder = ClipEmbedder(spec, spec.build(16), 16)
    with pytest.raises(InputError) as caught:
        load_strictly(embedder, published(18, kind), "file.pth")
    assert_one_line(caught.value, "file.pth", said, "shortcut")


@pytest.mark.parametrize(("name", "kind"), [("resnet3d_18", "A"), ("resnet3d_18_b", "B")])
def test_the_exported_network_gives_the_same_embeddings(
    name: str, kind: str, tmp_path: Path
) -> None:
    spec = SPECS[name]
    embedder = ClipEmbedder(spec, spec.build(16), 16).eval()
    load_strictly(embedder, published(18, kind), "file")
    clip = np.random.default_rng(0).integers(0, 256, (1, 16, 48, 48, 3), np.uint8)
    assert_export_agrees(embedder, torch.from_numpy(clip), tmp_path)
