"""The autoencoder of clip embeddings: what it cannot reconstruct is unlike its training data."""

import itertools
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from vad_training.config.backbone_ae import AutoencoderConfig

LossKind = Literal["mse", "huber"]


class EmbeddingAutoencoder(nn.Module):
    """An autoencoder of vectors.

    ::

        hidden = (256, 128)

        e (N, D) -> BatchNorm - Linear D,256 - ReLU - Dropout - Linear 256,128 - ReLU -> latent
        latent   -> Linear 128,256 - ReLU - Dropout - Linear 256,D                    -> ê (N, D)

    More sizes make more stages of Linear, ReLU and Dropout on both sides. There is no dropout on
    the latent, and nothing behind the last layer, since an embedding may be negative.

    Args:
        embedding: D, length of an embedding.
        config: Sizes, dropout, and whether there is a BatchNorm.
    """

    def __init__(self, embedding: int, config: AutoencoderConfig) -> None:
        super().__init__()
        sizes = (embedding, *config.hidden)
        first: list[nn.Module] = [nn.BatchNorm1d(embedding)] if config.batch_norm else []
        self.encoder = nn.Sequential(*first, *_stages(sizes, config.dropout), nn.ReLU())
        self.decoder = nn.Sequential(*_stages(sizes[::-1], config.dropout))

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return reconstruction and latent.

        Args:
            embedding: Shape (N, D), float32; in training N is at least 2, which a BatchNorm needs.

        Returns:
            The reconstruction, (N, D), and the latent, (N, L), which is never negative.
        """
        latent = self.encoder(embedding)
        return self.decoder(latent), latent


def autoencoder_loss(reconstruction: Tensor, target: Tensor, kind: LossKind = "mse") -> Tensor:
    """Return the reconstruction error: the sum over the dimensions, the mean over the clips.

    With `mse` a term is ``(ê - e)^2``. With `huber` it is ``(ê - e)^2 / 2`` where the difference is
    at most 1 and ``|ê - e| - 1/2`` beyond (Huber, Ann. Math. Statist. 35, 1964). No gradient flows
    into the target: a backbone that is trained too would otherwise learn embeddings that are easy
    to reconstruct.

    Args:
        reconstruction: ê, shape (N, D), float32.
        target: e, the same shape: the raw embedding.
        kind: `mse` or `huber`.

    Returns:
        A scalar with its graph.
    """
    term = functional.mse_loss if kind == "mse" else functional.huber_loss
    return term(reconstruction, target.detach(), reduction="none").sum(dim=1).mean()


def _stages(sizes: tuple[int, ...], dropout: float) -> list[nn.Module]:
    """Linear layers with ReLU and dropout between them."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(itertools.pairwise(sizes)):
        if i:
            layers += [nn.ReLU(), nn.Dropout(dropout)]
        layers.append(nn.Linear(before, after))
    return layers
