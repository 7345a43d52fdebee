"""Checkpoint files: written whole or not at all, read without running any code in them."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from vad_runtime.contracts import InputError
from vad_runtime.files import whole_file
from vad_training.config import TrainConfig, tree_from_config

SCHEMA = 1

_UNREADABLE = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What `torch.load` raises for files that only look like checkpoints, beside pickle's errors."""


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
