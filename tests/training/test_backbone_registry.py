"""Backbones by name: files load strictly and safely, choices are checked, manifests tell all."""

import hashlib
import importlib
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_one_line
from torch import nn

from vad_runtime.contracts import ConfigError, InputError
from vad_training.config import BackboneConfig
from vad_training.models.backbones.base import ClipEmbedder
from vad_training.models.backbones.registry import (
    BACKBONES,
    backbone_names,
    describe,
    embedder_from_config,
    load_state,
    load_strictly,
    new_embedder,
    spec_from_config,
    spec_of,
)
from vad_training.models.operators import declare_torchvision_operators


@pytest.fixture(scope="module")
def x3d() -> nn.Module:
    """The smallest network, as published; not to be changed."""
    declare_torchvision_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from pytorchvideo.models import hub

    network: nn.Module = hub.x3d_xs(pretrained=False)
    return network


@pytest.fixture(scope="module")
def x3d_file(x3d: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "X3D_XS.pyth"
    torch.save({"model_state": x3d.state_dict(), "epoch": 300}, file)
    return file


def x3d_config(file: Path) -> BackboneConfig:
    return BackboneConfig(name="x3d_xs", weights=str(file))


@pytest.fixture(scope="module")
def empty() -> ClipEmbedder:
    """An embedder that weights are refused for; not to be changed."""
    return new_embedder(spec_of("x3d_xs"))


# -- loading -----------------------------------------------------------------------------------


def test_a_published_container_file_loads(x3d: nn.Module, x3d_file: Path) -> None:
    state = embedder_from_config(x3d_config(x3d_file)).network.state_dict()
    for name, value in state.items():
        assert torch.equal(value, x3d.state_dict()[name]), name
    assert "blocks.5.proj.weight" in x3d.state_dict()
    assert len(state) == len(x3d.state_dict()) - 2


@pytest.mark.parametrize("kind", ["bare", "state_dict", "module", "safetensors"])
def test_other_containers_hold_the_same_weights(kind: str, x3d: nn.Module, tmp_path: Path) -> None:
    tensors = dict(x3d.state_dict())
    file = tmp_path / "weights.pt"
    if kind == "safetensors":
        from safetensors.torch import save_file

        file = tmp_path / "model.safetensors"
        save_file(tensors, file)
    elif kind == "module":
        torch.save({"state_dict": {f"module.{k}": v for k, v in tensors.items()}}, file)
    else:
        torch.save(tensors if kind == "bare" else {"state_dict": tensors}, file)
    state = embedder_from_config(x3d_config(file)).network.state_dict()
    assert all(torch.equal(value, tensors[name]) for name, value in state.items())


def test_a_missing_tensor_is_named(x3d: nn.Module, empty: ClipEmbedder) -> None:
    tensors = dict(x3d.state_dict())
    del tensors["blocks.0.conv.conv_t.weight"]
    with pytest.raises(InputError) as caught:
        load_strictly(empty, tensors, "file.pyth")
    assert_one_line(
        caught.value, "file.pyth", "x3d_xs", "misses blocks.0.conv.conv_t.weight", "1 missing"
    )


def test_an_unknown_tensor_is_named(x3d: nn.Module, empty: ClipEmbedder) -> None:
    tensors = {**x3d.state_dict(), "blocks.9.weight": torch.zeros(1)}
    with pytest.raises(InputError) as caught:
        load_strictly(empty, tensors, "file.pyth")
    assert_one_line(caught.value, "file.pyth", "unknown blocks.9.weight", "1 unknown")


def test_a_misshapen_tensor_is_named(x3d: nn.Module, empty: ClipEmbedder) -> None:
    name = "blocks.0.norm.weight"
    tensors = {**x3d.state_dict(), name: torch.zeros(25)}
    with pytest.raises(InputError) as caught:
        load_strictly(empty, tensors, "file.pyth")
    assert_one_line(caught.value, name, "is (25,), not (24,)")


def test_a_value_that_is_no_tensor_is_named(x3d: nn.Module, empty: ClipEmbedder) -> None:
    tensors: dict[str, Any] = {**x3d.state_dict(), "blocks.0.norm.weight": [1.0]}
    with pytest.raises(InputError) as caught:
        load_strictly(empty, tensors, "file.pyth")
    assert_one_line(caught.value, "blocks.0.norm.weight is list")


def test_weights_of_another_backbone_are_refused(x3d_file: Path) -> None:
    with pytest.raises(InputError) as caught:
        embedder_from_config(BackboneConfig(name="mc3_18", weights=str(x3d_file)))
    assert_one_line(caught.value, x3d_file.name, "does not fit mc3_18", "torchvision")


def test_our_own_state_dict_goes_back_in_strictly() -> None:
    spec = spec_of("x3d_xs")
    one, two = new_embedder(spec, seed=1), new_embedder(spec, seed=2)
    load_state(two, one.network.state_dict(), "backbone.pt")
    for name, value in two.network.state_dict().items():
        assert torch.equal(value, one.network.state_dict()[name]), name
    state = dict(one.network.state_dict())
    del state["blocks.0.norm.weight"]
    with pytest.raises(InputError, match=r"backbone\.pt .* misses blocks\.0\.norm\.weight"):
        load_state(two, state, "backbone.pt")


@pytest.mark.parametrize("name", ["absent.pt", "absent.safetensors"])
def test_an_absent_file_is_said(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        embedder_from_config(x3d_config(tmp_path / name))
    assert_one_line(caught.value, name, "cannot be read", "Check the path")


@pytest.mark.parametrize("name", ["damaged.pt", "damaged.safetensors"])
def test_a_damaged_file_is_said(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"no weights at all")
    with pytest.raises(InputError) as caught:
        embedder_from_config(x3d_config(tmp_path / name))
    assert_one_line(caught.value, name, "Give another")


def test_a_container_without_names_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {0: torch.zeros(1)}}, tmp_path / "numbers.pt")
    with pytest.raises(InputError, match="no weights by name"):
        embedder_from_config(x3d_config(tmp_path / "numbers.pt"))


def test_code_in_a_weights_file_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"model_state": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(InputError):
        embedder_from_config(x3d_config(tmp_path / "trap.pt"))
    assert not (tmp_path / "sprung").exists()


# -- choices -----------------------------------------------------------------------------------


def test_neither_weights_nor_seed_names_both_ways() -> None:
    with pytest.raises(ConfigError) as caught:
        embedder_from_config(BackboneConfig())
    assert_one_line(caught.value, "r2plus1d_18", "backbone.weights", "backbone.random_weights")


def test_weights_and_seed_together_are_refused(x3d_file: Path) -> None:
    both = BackboneConfig(name="x3d_xs", weights=str(x3d_file), random_weights=1)
    with pytest.raises(ConfigError, match="both are given"):
        embedder_from_config(both)


def test_an_unknown_backbone_lists_those_that_are_there() -> None:
    with pytest.raises(ConfigError) as caught:
        spec_of("resnet")
    assert_one_line(caught.value, "'resnet'", *backbone_names())


def test_every_backbone_is_where_the_registry_says() -> None:
    for name in backbone_names():
        assert spec_of(name).name == name
    modules = {
        importlib.import_module(f"vad_training.models.backbones.{m}") for m in BACKBONES.values()
    }
    assert {name for module in modules for name in module.SPECS} == set(BACKBONES)


def test_simple_preprocessing_is_for_c3d_alone() -> None:
    assert not spec_from_config(BackboneConfig(name="c3d", preprocessing="simple")).preprocess.cube
    with pytest.raises(ConfigError) as caught:
        spec_from_config(BackboneConfig(name="mc3_18", preprocessing="simple"))
    assert_one_line(caught.value, "preprocessing=simple", "c3d alone", "mc3_18")


def test_a_clip_length_that_the_backbone_lacks_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        embedder_from_config(BackboneConfig(name="slow_r50", random_weights=0), frames=16)
    assert_one_line(caught.value, "clip.frames=16", "slow_r50 takes 8")


def test_a_seed_gives_the_same_weights_and_leaves_the_callers_generator_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = (
        embedder_from_config(
            BackboneConfig(name="x3d_xs", random_weights=seed)
        ).network.state_dict()
        for seed in (4, 4, 5)
    )
    assert torch.equal(torch.get_rng_state(), before)
    name = "blocks.0.conv.conv_t.weight"
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one[name], other[name])


def test_the_mean_cube_of_c3d_comes_from_its_file(tmp_path: Path) -> None:
    cube = np.random.default_rng(0).uniform(80, 130, (3, 16, 128, 171)).astype(np.float32)
    np.save(tmp_path / "mean.npy", cube)
    config = BackboneConfig(name="c3d", random_weights=0, mean=str(tmp_path / "mean.npy"))
    embedder = embedder_from_config(config)
    clip = torch.full((1, 16, 128, 171, 3), 7, dtype=torch.uint8)
    pixel = embedder.preprocess(clip)[0, :, 3, 0, 0]
    top, left = (128 - 112) // 2, (171 - 112) // 2
    np.testing.assert_allclose(pixel, 7 - cube[:, 3, top, left], rtol=1e-6)
    without = embedder_from_config(BackboneConfig(name="c3d", random_weights=0))
    assert without.preprocess(clip)[0, :, 3, 0, 0].tolist() == [7, 7, 7]


def test_c3d_weights_without_their_mean_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        embedder_from_config(BackboneConfig(name="c3d", weights="c3d.pickle"))
    assert_one_line(caught.value, "backbone.mean", "simple")


@pytest.mark.parametrize(("name", "how"), [("mc3_18", "published"), ("c3d", "simple")])
def test_a_mean_that_nobody_would_read_is_refused(name: str, how: Any) -> None:
    config = BackboneConfig(name=name, random_weights=0, preprocessing=how, mean="mean.npy")
    with pytest.raises(ConfigError, match=r"backbone\.mean"):
        embedder_from_config(config)


# -- what is said of them ----------------------------------------------------------------------


def test_the_manifest_names_the_weights(x3d_file: Path) -> None:
    about = describe(x3d_config(x3d_file))
    assert about["name"] == "x3d_xs"
    assert about["weights"] == "X3D_XS.pyth"
    assert about["weights_sha256"] == hashlib.sha256(x3d_file.read_bytes()).hexdigest()


def test_the_manifest_says_that_weights_are_random() -> None:
    about = describe(BackboneConfig(random_weights=17))
    assert about["weights"] == "random weights, seed 17"
    assert "weights_sha256" not in about


def test_asking_for_a_backbone_imports_no_network_library() -> None:
    script = (
        "import sys; from vad_training.models.backbones.registry import *\n"
        "for name in backbone_names(): spec_of(name)\n"
        "print({m.partition('.')[0] for m in sys.modules} "
        "& {'torchvision', 'pytorchvideo', 'transformers', 'safetensors'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
