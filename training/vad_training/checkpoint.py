"""Checkpoints of every family, and the published layouts of whole models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vad_runtime.contracts import InputError
from vad_training.autoencoder_run import load_autoencoder
from vad_training.checkpoint_file import SCHEMA, read_checkpoint_file
from vad_training.config import (
    BackboneAeConfig,
    MilConfig,
    StaeConfig,
    TrainConfig,
    config_from_tree,
)
from vad_training.config.mil import HeadConfig
from vad_training.models.mil import head_from_matlab, head_from_weights
from vad_training.models.stae import STAE

_MATLAB = ".mat"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained model and where it comes from."""

    model: nn.Module
    """`STAE`, `BackboneAutoencoder` or `MilHead`, by the family of `config`. On the CPU, float32,
    in eval mode; the caller owns it."""
    config: TrainConfig
    """The configuration of its training; for published weights the defaults (`published`)."""
    published: bool
    """The file held bare weights in the published layout, without a configuration."""
    summary: dict[str, Any]
    """What is known of its training, for the manifest."""


def checkpoint_from_path(path: Path) -> Checkpoint:
    """Open a run folder, one of our checkpoints, or published weights of a whole model.

    Published are the STAE's, and the original MIL head's MATLAB file. No code in a file is run.

    Raises:
        InputError: None of these, or weights that do not fit the model exactly.
        ConfigError: A configuration that this version does not understand.
    """
    file = path
    if path.is_dir():
        file = path / "best.pt"
        if not file.is_file():
            raise InputError(f"{path} holds no best.pt. Give a run folder of vad-train fit.")
    if file.suffix.lower() == _MATLAB:
        return _matlab_head(file)
    content = read_checkpoint_file(file)
    if "config" not in content:
        return Checkpoint(
            model=stae_from_weights(content, str(file)),
            config=StaeConfig(),
            published=True,
            summary={"weights": f"published: {file.name}"},
        )
    if content.get("schema") != SCHEMA:
        raise InputError(
            f"{file} has checkpoint schema {content.get('schema')}, this version reads "
            f"{SCHEMA}. Upgrade with: pip install -U vad-edge"
        )
    if not isinstance(content.get("model"), dict):
        raise InputError(f"{file} holds a configuration but no model. Give a checkpoint.")
    config = config_from_tree(content["config"], str(file))
    return Checkpoint(
        model=_model(config, content, file),
        config=config,
        published=False,
        summary=content.get("summary", {}),
    )


def _model(config: TrainConfig, content: dict[str, Any], file: Path) -> nn.Module:
    if isinstance(config, BackboneAeConfig):
        return load_autoencoder(content, file.parent, str(file))
    if isinstance(config, MilConfig):
        return head_from_weights(config.head, content["model"], str(file))
    return stae_from_weights(content["model"], str(file))


def _matlab_head(file: Path) -> Checkpoint:
    head = head_from_matlab(file)
    first, *others = [len(layer.get_parameter("bias")) for layer in head.layers[:-1]]
    return Checkpoint(
        model=head,
        config=MilConfig(head=HeadConfig(hidden=(first, *others))),
        published=True,
        summary={"weights": f"published: {file.name}"},
    )


def stae_from_weights(weights: dict[str, Any], where: str) -> STAE:
    """Load weights into a new STAE, strictly.

    Raises:
        InputError: A tensor is missing, unknown, or of another shape.
    """
    model = STAE()
    # DataParallel puts `module.` before every name; the tensors are the same.
    plain = {name.removeprefix("module."): value for name, value in weights.items()}
    wanted = model.state_dict()
    missing, unknown = sorted(wanted.keys() - plain.keys()), sorted(plain.keys() - wanted.keys())
    if missing or unknown:
        which = f"misses {missing[0]}" if missing else f"holds an unknown {unknown[0]}"
        raise InputError(
            f"{where} does not fit the STAE: it {which} "
            f"({len(missing)} missing, {len(unknown)} unknown). Give STAE weights."
        )
    for name, tensor in plain.items():
        if not isinstance(tensor, Tensor) or tensor.shape != wanted[name].shape:
            shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise InputError(
                f"{where} does not fit the STAE: {name} is {shape}, "
                f"not {tuple(wanted[name].shape)}. Give STAE weights."
            )
    model.load_state_dict(plain, strict=True)
    return model.eval()
