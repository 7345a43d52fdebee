"""Backbones by name, and embedders from a configuration.

No network's library (torchvision, pytorchvideo, transformers) is imported before one of its
networks is built.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vad_runtime.bundle import sha256_of_file
from vad_runtime.contracts import ConfigError, InputError
from vad_training.checkpoint_file import read_checkpoint_file
from vad_training.config import BackboneConfig
from vad_training.models.backbones.base import BackboneSpec, ClipEmbedder, frames_of
from vad_training.models.backbones.c3d import mean_cube_from_file
from vad_training.models.backbones.layouts import without_wrapper

_HERE = "vad_training.models.backbones"

BACKBONES: dict[str, str] = {
    "r2plus1d_18": "torchvision",
    "r3d_18": "torchvision",
    "mc3_18": "torchvision",
    "slow_r50": "pytorchvideo",
    "slowfast_r50": "pytorchvideo",
    "x3d_xs": "pytorchvideo",
    "x3d_s": "pytorchvideo",
    "x3d_m": "pytorchvideo",
    "timesformer": "timesformer",
    "c3d": "c3d",
    "i3d": "i3d",
    "i3d_flow": "i3d",
    "resnet3d_18": "resnet3d",
    "resnet3d_18_b": "resnet3d",
    "resnet3d_34": "resnet3d",
    "resnet3d_34_b": "resnet3d",
    "resnet3d_50": "resnet3d",
    "resnet3d_50_a": "resnet3d",
    "resnet3d_101": "resnet3d",
    "resnet3d_101_a": "resnet3d",
}
"""Module of this package that has each backbone in its `SPECS`."""

_CONTAINERS = ("state_dict", "model_state")
"""Keys under which published files hold their tensors, where these are not bare."""

_CUBE = "mean_cube"


def backbone_names() -> tuple[str, ...]:
    """Return the names of all backbones."""
    return tuple(BACKBONES)


def spec_of(name: str, preprocessing: str = "published") -> BackboneSpec:
    """Return a backbone by name.

    Args:
        name: One of `BACKBONES`.
        preprocessing: See `BackboneConfig.preprocessing`.

    Raises:
        ConfigError: There is no such backbone, or it has no such preprocessing.
    """
    if name not in BACKBONES:
        raise ConfigError(
            f"there is no backbone {name!r}. Choose from: {', '.join(backbone_names())}"
        )
    module: Any = importlib.import_module(f"{_HERE}.{BACKBONES[name]}")
    if preprocessing == "published":
        spec: BackboneSpec = module.SPECS[name]
        return spec
    if name != "c3d":
        raise ConfigError(
            f"backbone.preprocessing={preprocessing} is for c3d alone, not for {name}. "
            "Set it to published."
        )
    simple: BackboneSpec = module.SIMPLE_SPEC
    return simple


def spec_from_config(config: BackboneConfig) -> BackboneSpec:
    """Return the backbone that a configuration names.

    Raises:
        ConfigError: See `spec_of`.
    """
    return spec_of(config.name, config.preprocessing)


def embedder_from_config(config: BackboneConfig, frames: int | None = None) -> ClipEmbedder:
    """Build a backbone with the weights that a configuration names.

    Args:
        config: Needs either `weights` or `random_weights`. c3d with a mean cube also needs `mean`,
            apart from random weights, with which it may subtract zeros.
        frames: T; None = the backbone's own number.

    Returns:
        The embedder on the CPU, in eval mode; the caller owns it. The global random generators
        are left as they were.

    Raises:
        ConfigError: Weights or mean cube missing or too many, or a T that the backbone lacks.
        InputError: A file that cannot be read, or does not fit the network exactly.
    """
    spec = spec_from_config(config)
    _check_choice(config, spec)
    # Read before the network is built: a wrong path is said at once.
    tensors = _tensors_from_file(Path(config.weights), spec) if config.weights else None
    cube = mean_cube_from_file(Path(config.mean)) if config.mean else None
    embedder = new_embedder(spec, frames, seed=config.random_weights or 0)
    if tensors is not None:
        load_strictly(embedder, tensors, str(config.weights))
    if cube is not None:
        embedder.network.get_buffer(_CUBE).copy_(cube)
    return embedder


def new_embedder(spec: BackboneSpec, frames: int | None = None, *, seed: int = 0) -> ClipEmbedder:
    """Build a backbone with random weights, for `load_state` or for trials.

    Args:
        spec: The backbone.
        frames: T; None = the backbone's own number.
        seed: Seed of the weights. One version of PyTorch gives the same weights for it each time.

    Returns:
        The embedder on the CPU, in eval mode; the caller owns it. The global random generators
        are left as they were.

    Raises:
        ConfigError: A T that the backbone does not take.
    """
    count = frames_of(spec, frames)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        network = spec.build(count)
    return ClipEmbedder(spec, network, count).eval()


def load_strictly(embedder: ClipEmbedder, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load the tensors of a published file.

    Args:
        embedder: Its network is changed in place.
        tensors: By their published names; a classifier among them is left out.
        where: The file, for the message.

    Raises:
        InputError: A tensor is missing, unknown, or of another shape.
    """
    state = embedder.spec.convert(tensors)
    network = embedder.network.state_dict()
    if _CUBE in network:  # no part of a published file
        state.setdefault(_CUBE, network[_CUBE])
    load_state(embedder, state, where)


def load_state(embedder: ClipEmbedder, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state dict of the embedder's network, as this project's checkpoints hold it.

    Args:
        embedder: Its network is changed in place.
        state: What `embedder.network.state_dict()` gave.
        where: The file, for the message.

    Raises:
        InputError: A tensor is missing, unknown, or of another shape.
    """
    spec = embedder.spec
    wanted = embedder.network.state_dict()
    missing = sorted(wanted.keys() - state.keys())
    unknown = sorted(state.keys() - wanted.keys())
    if missing or unknown:
        which = f"misses {missing[0]}" if missing else f"holds an unknown {unknown[0]}"
        raise InputError(
            f"{where} does not fit {spec.name}: it {which} ({len(missing)} missing, "
            f"{len(unknown)} unknown). Give weights in this layout: {spec.layouts}."
        )
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or tensor.shape != wanted[name].shape:
            shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise InputError(
                f"{where} does not fit {spec.name}: {name} is {shape}, not "
                f"{tuple(wanted[name].shape)}. Give weights in this layout: {spec.layouts}."
            )
    embedder.network.load_state_dict(dict(state), strict=True)


def describe(config: BackboneConfig) -> dict[str, Any]:
    """Return what the manifest says of a backbone: name, weights, hashes, preprocessing.

    Raises:
        ConfigError: See `embedder_from_config`.
        InputError: A file cannot be read.
    """
    _check_choice(config, spec_from_config(config))
    about: dict[str, Any] = {"name": config.name, "preprocessing": config.preprocessing}
    if config.weights:
        path = Path(config.weights)
        about |= {"weights": path.name, "weights_sha256": _sha256(path)}
    else:
        about["weights"] = f"random weights, seed {config.random_weights}"
    if config.mean:
        path = Path(config.mean)
        about |= {"mean": path.name, "mean_sha256": _sha256(path)}
    return about


def _check_choice(config: BackboneConfig, spec: BackboneSpec) -> None:
    if (config.weights is None) == (config.random_weights is None):
        state = "neither is" if config.weights is None else "both are"
        raise ConfigError(
            f"{config.name}: {state} given of backbone.weights and backbone.random_weights. "
            "Set backbone.weights to a file, or, for trials, backbone.random_weights to a seed."
        )
    if config.mean is not None and not spec.preprocess.cube:
        raise ConfigError(
            f"backbone.mean is for c3d with published preprocessing, not for {config.name} with "
            f"{config.preprocessing}. Leave it out."
        )
    if config.mean is None and config.weights is not None and spec.preprocess.cube:
        raise ConfigError(
            f"{config.name} with published preprocessing subtracts the Sports-1M mean. Set "
            "backbone.mean to its .npy file, or backbone.preprocessing to simple."
        )


def _tensors_from_file(path: Path, spec: BackboneSpec) -> dict[str, Tensor]:
    content: Any
    if path.suffix == ".safetensors":
        content = _tensors_from_safetensors(path)
    else:
        content = (spec.read or read_checkpoint_file)(path)
    for key in _CONTAINERS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not all(isinstance(name, str) for name in content):
        raise InputError(f"{path} holds no weights by name. Give another file.")
    return without_wrapper(content)


def _tensors_from_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except OSError as error:
        reason = error.strerror or "no such file"
        raise InputError(f"{path} cannot be read ({reason}). Check the path.") from None
    except SafetensorError as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path} is no safetensors file ({reason}). Give another.") from None


def _sha256(path: Path) -> str:
    try:
        return sha256_of_file(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Check the path.") from None
