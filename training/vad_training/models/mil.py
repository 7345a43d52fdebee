"""Heads of the family `mil`: from the features of a video's segments to their scores.

All are small networks that look at each segment by itself, so the head that was trained on bags of
32 segments scores a stream clip by clip just as well.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vad_runtime.backends.checks import first_line
from vad_runtime.contracts import InputError
from vad_training.config.mil import HeadConfig

_ORIGINAL = ("0", "2", "4")
"""Keys of the original head's layers with weights; "1", "3" and "5" are its dropouts."""


class BagOutput(NamedTuple):
    """What the losses look at."""

    scores: Tensor
    """Shape (N, S), in 0..1."""
    logits: Tensor
    """Shape (N, S): scores before the sigmoid."""
    embedding: Tensor
    """Shape (N, S, H): output of the first hidden layer, after ReLU."""


class MilHead(nn.Module):
    """Three fully connected layers from a segment's feature to its score.

    ``Linear(D, H1) - ReLU - Dropout - Linear(H1, H2) - Dropout - Linear(H2, 1) - sigmoid``: the
    second layer is linear (Sultani et al., CVPR 2018, arXiv 1801.04264, and their code). Weights
    are Xavier-normal, biases 0.

    The three kinds of head differ in their loss (`vad_training.mil_losses`), not in this network:
    what they learn on bags, they apply to one segment.

    Args:
        dimension: D, length of a feature.
        hidden: Sizes of the hidden layers.
        dropout: Share of units dropped in training.

    Attributes:
        dimension: D.
    """

    def __init__(
        self, dimension: int, hidden: tuple[int, ...] = (512, 32), dropout: float = 0.6
    ) -> None:
        super().__init__()
        self.dimension = dimension
        sizes = (dimension, *hidden, 1)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.dropout = nn.Dropout(dropout)
        for layer in self.layers:
            nn.init.xavier_normal_(layer.weight)  # type: ignore[arg-type]  # Linear's is a tensor
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def bag(self, features: Tensor) -> BagOutput:
        """Return scores with what the losses need beside them.

        Args:
            features: Shape (N, S, D), float32.
        """
        embedding = torch.relu(self.layers[0](features))
        hidden = self.dropout(embedding)
        for layer in self.layers[1:-1]:
            hidden = self.dropout(layer(hidden))
        logits = self.layers[-1](hidden).squeeze(-1)
        return BagOutput(torch.sigmoid(logits), logits, embedding)

    def forward(self, features: Tensor) -> Tensor:
        """Return scores, shape (N, S) in 0..1, of features of shape (N, S, D), float32."""
        return self.bag(features).scores

    @property
    def members(self) -> "Sequence[MilHead]":
        """The networks that are trained, each by a loss of its own: this one."""
        return [self]


class SultaniHead(MilHead):
    """The head of Sultani et al., CVPR 2018 (arXiv 1801.04264): trained by ranking."""


class TopKHead(MilHead):
    """Trained by binary cross-entropy on the mean of a bag's k highest scores."""


class RtfmHead(MilHead):
    """Feature magnitude and top-k, after RTFM (Tian et al., ICCV 2021, arXiv 2101.10030).

    The magnitude is that of the first hidden layer's output. The paper computes it behind a
    temporal network (dilated convolutions and self-attention over the segments). That network sees
    the whole video at once, so it cannot score a stream, and is left out here: this head is not the
    paper's model and its published 84.0 is no promise for it.
    """


class MilEnsemble(MilHead):
    """Several heads that differ in their initial weights and dropout; the score is their mean.

    Each learns by itself, on the same bags (deep ensembles: Lakshminarayanan et al., NeurIPS 2017,
    arXiv 1612.01474). Beside a backbone they cost nothing; what they gain is in
    docs/results/mil_ucf_crime.md.

    Args:
        heads: At least one, all of the same dimension.
    """

    def __init__(self, heads: Sequence[MilHead]) -> None:
        nn.Module.__init__(self)
        self.dimension = heads[0].dimension
        self.heads = nn.ModuleList(heads)

    def bag(self, features: Tensor) -> BagOutput:  # noqa: ARG002 - it always raises
        """Refuse: only a member has logits and an embedding. See `members`.

        Raises:
            TypeError: Always.
        """
        raise TypeError("an ensemble has no bag output of its own; ask its members")

    def forward(self, features: Tensor) -> Tensor:
        """Return the mean of the members' scores; see `MilHead.forward`."""
        return torch.stack([head(features) for head in self.heads]).mean(dim=0)

    @property
    def members(self) -> Sequence[MilHead]:
        """The heads."""
        return [head for head in self.heads if isinstance(head, MilHead)]


_KINDS: dict[str, type[MilHead]] = {"sultani": SultaniHead, "topk": TopKHead, "rtfm": RtfmHead}


def mil_head(config: HeadConfig, dimension: int) -> MilHead:
    """Return a new head, or an ensemble of them, with weights from PyTorch's generator."""
    heads = [
        _KINDS[config.kind](dimension, config.hidden, config.dropout) for _ in range(config.members)
    ]
    return heads[0] if len(heads) == 1 else MilEnsemble(heads)


def head_from_weights(config: HeadConfig, weights: Mapping[str, Any], where: str) -> MilHead:
    """Return the head of a checkpoint, in eval mode; the caller owns it.

    Raises:
        InputError: The weights do not fit the configuration exactly.
    """
    prefix = "heads.0." if config.members > 1 else ""
    first = weights.get(f"{prefix}layers.0.weight")
    if not isinstance(first, Tensor) or first.ndim != 2:
        raise InputError(f"{where} holds no MIL head. Give a run of the family mil.")
    head = mil_head(config, first.shape[1])
    try:
        head.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{where} does not fit its head: {reason} Train it again.") from None
    return head.eval()


def head_from_matlab(path: Path) -> SultaniHead:
    """Read the original authors' MATLAB file (`weights_L1L2.mat`).

    Keys "0", "2" and "4" each hold a cell (weights, bias) with weights of shape (inputs, outputs),
    the transpose of PyTorch's.

    Args:
        path: The file.

    Returns:
        The head in eval mode; the caller owns it. It was trained on L2-normalised C3D features of
        simple preprocessing.

    Raises:
        InputError: Not readable, or not such a head.
    """
    import zlib

    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        cells = loadmat(str(path))
    except OSError as error:
        # SciPy's own, for a file that ends too soon, has no strerror.
        reason = error.strerror or first_line(error)
        raise InputError(f"{path} cannot be read ({reason}). Check the path.") from None
    except (
        *(MatReadError, ValueError, TypeError, IndexError, NotImplementedError),
        zlib.error,
    ) as error:
        reason = first_line(error)[:120]
        raise InputError(f"{path} is no MATLAB file ({reason}). Give weights_L1L2.mat.") from None
    layers = [_layer(cells, key, path) for key in _ORIGINAL]
    sizes = [weight.shape[1] for weight, _ in layers]
    follow = all(a == b.shape[0] for a, (b, _) in zip(sizes[:-1], layers[1:], strict=True))
    if not follow or sizes[-1] != 1:
        shapes = ", ".join(str(tuple(weight.shape)) for weight, _ in layers)
        raise InputError(f"{path}: layers of {shapes} make no head. Give weights_L1L2.mat.")
    head = SultaniHead(layers[0][0].shape[0], tuple(sizes[:-1]))
    with torch.no_grad():
        for linear, (weight, bias) in zip(head.layers, layers, strict=True):
            linear.weight.copy_(weight.T)  # type: ignore[operator]
            linear.bias.copy_(bias)  # type: ignore[operator]
    return head.eval()


def _layer(cells: Mapping[str, Any], key: str, path: Path) -> tuple[Tensor, Tensor]:
    """Return weights (inputs, outputs) and bias (outputs,) of one cell."""
    try:
        weight, bias = cells[key].reshape(-1)
        pair = torch.from_numpy(weight.astype("float32")), torch.from_numpy(bias.astype("float32"))
    except (KeyError, ValueError, AttributeError, TypeError):
        raise InputError(
            f"{path} holds no pair of weights and bias under {key!r}. Give weights_L1L2.mat."
        ) from None
    weight_tensor, bias_tensor = pair[0], pair[1].reshape(-1)
    if weight_tensor.ndim != 2 or weight_tensor.shape[1] != bias_tensor.shape[0]:
        raise InputError(
            f"{path}: weights {tuple(weight_tensor.shape)} and bias {tuple(bias_tensor.shape)} "
            f"under {key!r} do not fit. Give weights_L1L2.mat."
        )
    return weight_tensor, bias_tensor
