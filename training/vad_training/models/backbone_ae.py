"""Backbone, autoencoder and class centroids as one model: clip in, scores out."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vad_training.models.autoencoder import EmbeddingAutoencoder
from vad_training.models.backbones.base import ClipEmbedder


class AutoencoderScores(NamedTuple):
    """What the model says of N clips; every tensor float32."""

    error: Tensor
    """Shape (N,): ``sum((e - ê)^2)`` over the dimensions of the embedding."""
    embedding: Tensor
    """e, shape (N, D)."""
    latent: Tensor
    """Shape (N, L)."""
    embedding_distance: Tensor
    """Shape (N, C): Euclidean distance of the embedding to the centroid of each class."""
    latent_distance: Tensor
    """Shape (N, C): the same for the latent."""


class BackboneAutoencoder(nn.Module):
    """A video backbone, the autoencoder of its embeddings, and the centroids of training.

    Args:
        embedder: From clips to embeddings; becomes a part of this module.
        autoencoder: From embeddings to reconstructions; likewise.
        classes: Names of the C classes of the training clips.
        embedding_centroids: Shape (C, D): mean embedding of each class.
        latent_centroids: Shape (C, L): mean latent of each class.

    Attributes:
        embedder: See above.
        autoencoder: See above.
        classes: See above.
    """

    embedding_centroids: Tensor
    latent_centroids: Tensor

    def __init__(
        self,
        embedder: ClipEmbedder,
        autoencoder: EmbeddingAutoencoder,
        classes: Sequence[str],
        embedding_centroids: Tensor,
        latent_centroids: Tensor,
    ) -> None:
        super().__init__()
        self.embedder = embedder
        self.autoencoder = autoencoder
        self.classes = tuple(classes)
        self.register_buffer("embedding_centroids", embedding_centroids)
        self.register_buffer("latent_centroids", latent_centroids)

    def forward(self, clip: Tensor) -> AutoencoderScores:
        """Score clips of shape (N, T, H, W, 3), uint8, RGB."""
        return self.scores(self.embedder(clip))

    def scores(self, embedding: Tensor) -> AutoencoderScores:
        """Score embeddings, shape (N, D), that the backbone has given before."""
        reconstruction, latent = self.autoencoder(embedding)
        difference = embedding - reconstruction
        return AutoencoderScores(
            error=(difference * difference).sum(dim=1),
            embedding=embedding,
            latent=latent,
            embedding_distance=distances(embedding, self.embedding_centroids),
            latent_distance=distances(latent, self.latent_centroids),
        )


def distances(points: Tensor, centroids: Tensor) -> Tensor:
    """Return Euclidean distances, (N, C), of points (N, D) to centroids (C, D).

    From differences, which every engine computes alike. `torch.cdist` may take the road over
    ``|a|^2 + |b|^2 - 2ab``, which loses the digits of a point close to its centroid.
    """
    difference = points[:, None] - centroids[None]
    return torch.sqrt((difference * difference).sum(dim=2))
