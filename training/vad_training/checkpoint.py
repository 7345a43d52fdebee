"""Checkpoints: ours, and the published STAE layout."""

import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vad_runtime.contracts import InputError
from vad_runtime.files import whole_file
from vad_training.config import TrainConfig, config_from_tree, tree_from_config
from vad_training.models.stae import STAE

SCHEMA = 1

_UNREADABLE = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What `torch.load` raises for files that only look like checkpoints, beside pickle's errors."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained model and where it comes from."""

    model: STAE
    """On the CPU, float32, in eval mode; the caller owns it."""
    config: TrainConfig
    """The configuration of its training; for published weights the defaults (`published`)."""
    published: bool
    """The file held bare weights in the published layout, without a configuration."""
    summary: dict[str, Any]
    """What is known of its training, for the manifest."""


def save_checkpoint(path: Path, content: dict[str, Any], config: TrainConfig) -> None:
    """Write a checkpoint atomically.

    Args:
        path: The file; replaced only when the new one is complete.
        content: Tensors and plain values.
        config: The run's configuration.

    Raises:
        InputError: The file cannot be written.
    """
    with whole_file(path) as temporary:
        torch.save({"schema": SCHEMA, "config": tree_from_config(config), **content}, temporary)


def read_checkpoint_file(path: Path) -> dict[str, Any]:
    """Read a checkpoint file as plain tensors and values; no code in it is ever run.

    Raises:
        InputError: Missing, or not a checkpoint that can be read safely.
    """
    try:
        with warnings.catch_warnings():
            # PyTorch's notes on the pickle protocol; what matters is raised.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Check the path.") from None
    except (pickle.UnpicklingError, EOFError, *_UNREADABLE) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise InputError(f"{path} is no PyTorch checkpoint ({reason}). Give another.") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise InputError(f"{path} holds no weights by name. Give a checkpoint.")
    return content


def checkpoint_from_path(path: Path) -> Checkpoint:
    """Open a run folder, one of our checkpoints, or published STAE weights.

    Raises:
        InputError: None of these, or weights that do not fit the model exactly.
        ConfigError: A configuration that this version does not understand.
    """
    file = path
    if path.is_dir():
        file = path / "best.pt"
        if not file.is_file():
            raise InputError(f"{path} holds no best.pt. Give a run folder of vad-train fit.")
    content = read_checkpoint_file(file)
    published = "config" not in content
    if published:
        weights, config, summary = content, TrainConfig(), {"weights": f"published: {file.name}"}
    else:
        if content.get("schema") != SCHEMA:
            raise InputError(
                f"{file} has checkpoint schema {content.get('schema')}, this version reads "
                f"{SCHEMA}. Upgrade with: pip install -U vad-edge"
            )
        if not isinstance(content.get("model"), dict):
            raise InputError(f"{file} holds a configuration but no model. Give a checkpoint.")
        weights, summary = content["model"], content.get("summary", {})
        config = config_from_tree(content["config"], str(file))
    return Checkpoint(
        model=stae_from_weights(weights, str(file)),
        config=config,
        published=published,
        summary=summary,
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
