"""C3D: the published layout, the mean cube, both preprocessings, and its export."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_one_line
from torch import Tensor

from vad_runtime.contracts import InputError
from vad_training.config import BackboneConfig
from vad_training.models.backbones.base import ClipEmbedder
from vad_training.models.backbones.c3d import (
    C3D,
    MEAN_CUBE,
    SIMPLE_SPEC,
    SPECS,
    convert,
    mean_cube_from_file,
)
from vad_training.models.backbones.registry import embedder_from_config, load_strictly

# The layers of c3d.pickle, in its order; fc7 and fc8 are the classifier.
LAYERS = {
    "conv1": (64, 3, 3, 3, 3),
    "conv2": (128, 64, 3, 3, 3),
    "conv3a": (256, 128, 3, 3, 3),
    "conv3b": (256, 256, 3, 3, 3),
    "conv4a": (512, 256, 3, 3, 3),
    "conv4b": (512, 512, 3, 3, 3),
    "conv5a": (512, 512, 3, 3, 3),
    "conv5b": (512, 512, 3, 3, 3),
    "fc6": (4096, 8192),
}


def published() -> dict[str, Tensor]:
    """Random weights in the layout of c3d.pickle, with activations of sensible size.

    The classifier is as small as it may be: it is dropped unread.
    """
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in LAYERS.items():
        scale = (2 / np.prod(shape[1:])) ** 0.5
        tensors[f"{name}.weight"] = torch.randn(shape, generator=generator) * scale
        tensors[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    for name in ("fc7", "fc8"):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = torch.zeros(2, 2), torch.zeros(2)
    return tensors


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return published()


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1, 16, 128, 171, 3), "u1"))


def reference(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """C3D written out as one chain of functions, from the table of the paper."""
    for name, pool, padding in (
        ("conv1", (1, 2, 2), 0),
        ("conv2", 2, 0),
        ("conv3a", None, 0),
        ("conv3b", 2, 0),
        ("conv4a", None, 0),
        ("conv4b", 2, 0),
        ("conv5a", None, 0),
        ("conv5b", 2, (0, 1, 1)),
    ):
        x = F.conv3d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1).clamp(min=0)
        if pool is not None:
            x = F.max_pool3d(x, pool, stride=pool, padding=padding)
    x = x.reshape(len(x), 8192)
    return (x @ weights["fc6.weight"].T + weights["fc6.bias"]).clamp(min=0)


def save_cube(path: Path, cube: np.ndarray) -> Path:
    np.savez(path, mean=cube)
    return path


@torch.no_grad()
def test_the_published_layout_gives_fc6_of_the_clip_minus_the_mean_cube(
    weights: dict[str, Tensor], clip: Tensor, tmp_path: Path
) -> None:
    torch.save(weights, tmp_path / "c3d.pickle")
    cube = np.random.default_rng(2).uniform(60, 130, MEAN_CUBE).astype(np.float32)
    config = BackboneConfig(
        name="c3d",
        weights=str(tmp_path / "c3d.pickle"),
        mean=str(save_cube(tmp_path / "mean.npz", cube)),
    )
    embedding = embedder_from_config(config)(clip)

    # By hand: blue first, minus the cube, and of 128 x 171 the rows 8..119, the columns 29..140.
    bgr = clip.numpy()[0, ..., ::-1].transpose(3, 0, 1, 2).astype(np.float32) - cube
    centre = torch.from_numpy(np.ascontiguousarray(bgr[None, :, :, 8:120, 29:141]))
    expected = reference(weights, centre)
    assert embedding.shape == (1, 4096)
    assert (expected > 0).float().mean() > 0.2  # not a row of zeros
    torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-3 * float(expected.max()))


@torch.no_grad()
def test_simple_preprocessing_is_bgr_without_a_mean() -> None:
    embedder = ClipEmbedder(SIMPLE_SPEC, C3D(mean_cube=False), 16)
    clip = torch.zeros(1, 16, 112, 112, 3, dtype=torch.uint8)
    clip[..., 0], clip[..., 2] = 200, 7  # red, blue
    plain = embedder.preprocess(clip)
    assert plain.shape == (1, 3, 16, 112, 112)
    assert plain[0, :, 0, 0, 0].tolist() == [7, 0, 200]
    assert "mean_cube" not in embedder.network.state_dict()


def test_the_cube_is_in_the_state_of_a_run_but_not_in_the_published_file(
    weights: dict[str, Tensor],
) -> None:
    assert "mean_cube" not in convert(weights)
    assert C3D().state_dict()["mean_cube"].shape == MEAN_CUBE
    assert "mean_cube" in convert(C3D().state_dict())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("conv3b.bias"), "misses conv3b.bias"),
        (lambda t: t.update({"conv6.weight": torch.zeros(1)}), "unknown conv6.weight"),
        (lambda t: t.update({"conv1.bias": torch.zeros(3)}), "conv1.bias is (3,), not (64,)"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_weights_that_do_not_fit_are_named(
    change: object, said: str, weights: dict[str, Tensor]
) -> None:
    tensors = dict(weights)
    change(tensors)  # type: ignore[operator]
    embedder = ClipEmbedder(SPECS["c3d"], C3D(), 16)
    with pytest.raises(InputError) as caught:
        load_strictly(embedder, tensors, "c3d.pickle")
    assert_one_line(caught.value, "c3d.pickle", said)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_mean_cube_is_read_with_or_without_a_first_axis(suffix: str, tmp_path: Path) -> None:
    cube = np.random.default_rng(0).normal(size=MEAN_CUBE)
    path = tmp_path / f"mean.{suffix}"
    (np.save if suffix == "npy" else np.savez)(path, cube[None])
    tensor = mean_cube_from_file(path)
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), cube, rtol=1e-6)


def test_what_is_no_mean_cube_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "order.npy", np.zeros((16, 3, 128, 171)))
    np.save(tmp_path / "nan.npy", np.full(MEAN_CUBE, np.nan))
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    (tmp_path / "text.npy").write_text("mean")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    np.save(tmp_path / "objects.npy", np.array([print], dtype=object), allow_pickle=True)
    for name, said in {
        "missing.npy": "cannot be read",
        "order.npy": "(16, 3, 128, 171)",
        "nan.npy": "not finite",
        "two.npz": "2 arrays",
        "text.npy": "no .npy or .npz",
        "broken.npz": "no .npy or .npz",
        "objects.npy": "no .npy or .npz",
    }.items():
        with pytest.raises(InputError) as caught:
            mean_cube_from_file(tmp_path / name)
        assert_one_line(caught.value, name, said)


@pytest.mark.data
def test_the_real_mean_cube_is_blue_first(data: Path) -> None:
    cube = mean_cube_from_file(data / "c3d_mean" / "sports1m_mean_3x16x128x171_bgr_f32.npz")
    # The means that users of the file report, blue, green, red.
    assert cube.mean(dim=(1, 2, 3)).numpy() == pytest.approx([90.25, 97.66, 101.41], abs=0.01)


def test_the_exported_network_gives_the_same_embeddings(
    weights: dict[str, Tensor], clip: Tensor, tmp_path: Path
) -> None:
    from helpers_onnx import assert_export_agrees

    embedder = ClipEmbedder(SPECS["c3d"], C3D(), 16).eval()
    load_strictly(embedder, weights, "c3d.pickle")
    embedder.network.get_buffer("mean_cube").fill_(96.0)
    assert_export_agrees(embedder, clip, tmp_path)
