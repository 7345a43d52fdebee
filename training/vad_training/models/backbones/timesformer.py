"""TimeSformer: a vision transformer with divided space-time attention (`timesformer`)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vad_training.models.backbones.base import BackboneSpec, Preprocess
from vad_training.models.operators import declare_torchvision_operators

_TRAINED_FRAMES = 8


class TimeSformer(nn.Module):
    """ViT-B/16 over 224 x 224 frames; its embedding is the class token after the last layer norm.

    Attributes:
        timesformer: The network of transformers, so that parameters have the names of its files.
    """

    def __init__(self, frames: int) -> None:
        super().__init__()
        declare_torchvision_operators()  # transformers imports torchvision
        from transformers import TimesformerConfig, TimesformerModel

        # The defaults are ViT-B/16, divided space-time. Nothing is downloaded: no from_pretrained.
        self.timesformer = TimesformerModel(TimesformerConfig(num_frames=frames))
        # As published, whatever the clip's length: the network repeats each time embedding then
        # (nearest neighbour), and the file still fits.
        embeddings = self.timesformer.embeddings
        embeddings.time_embeddings = nn.Parameter(
            torch.zeros(1, _TRAINED_FRAMES, embeddings.time_embeddings.shape[2])
        )

    def forward(self, clip: Tensor) -> Tensor:
        """Return the embedding, (N, 768), of clips of shape (N, 3, T, 224, 224)."""
        frames = clip.permute(0, 2, 1, 3, 4)
        hidden: Tensor = self.timesformer(pixel_values=frames).last_hidden_state
        return hidden[:, 0]


def _without_classifier(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in tensors.items() if k not in ("classifier.weight", "classifier.bias")}


SPECS: dict[str, BackboneSpec] = {
    "timesformer": BackboneSpec(
        name="timesformer",
        embedding=768,
        frames=(_TRAINED_FRAMES, 16, 32),
        height=224,
        width=224,
        preprocess=Preprocess(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225)),
        build=TimeSformer,
        convert=_without_classifier,
        layouts="Hugging Face's pytorch_model.bin or model.safetensors (timesformer.*), with or "
        "without classifier.*",
        source="Bertasius et al., ICML 2021 (arXiv 2102.05095); transformers TimesformerModel",
    )
}
"""The backbone of this module by name."""
