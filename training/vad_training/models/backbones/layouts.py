"""What several published files have in common, whatever network they hold."""

from collections.abc import Mapping

import torch
from torch import Tensor


def without_wrapper(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without the prefix `module.` that DataParallel puts before each name."""
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def with_batch_counts(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with a zero `num_batches_tracked` for each BatchNorm that has none.

    Files from before PyTorch 0.4.1 lack it. It is a counter of training steps, which inference and
    training with a fixed momentum never read.
    """
    full = dict(tensors)
    for name in tensors:
        if name.endswith(".running_mean"):
            counter = name.removesuffix("running_mean") + "num_batches_tracked"
            full.setdefault(counter, torch.zeros((), dtype=torch.int64))
    return full


def without(tensors: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with none of the prefixes."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}
