"""A backbone of a few hundred parameters, for tests of whatever sits on one.

`tiny_embedder`  32 x 32 frames, T = 4, D = 6; counts the clips that go through it
`tiny_config`    a configuration of the family backbone-ae that suits it
`write_site`     a table of short videos
"""

from pathlib import Path
from typing import Any

import torch
from helpers import moving_blob, write_video
from torch import Tensor, nn

from vad_training.config import BackboneAeConfig, read_config
from vad_training.data.table import Entry, Split
from vad_training.models.backbones.base import BackboneSpec, ClipEmbedder, Preprocess

TINY = [
    "family=backbone-ae",
    "clip.stride=2",
    "clip.hop=4",
    "autoencoder.hidden=[5, 3]",
    "optimiser.batch=4",
    "optimiser.learning_rate=5e-3",
    "epochs=3",
    "threads=1",
    "device=cpu",
    "seed=3",
]


class TinyNetwork(nn.Module):
    """Has what real backbones have and tests must see: BatchNorm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 3, stride=(1, 4, 4))
        self.norm = nn.BatchNorm3d(4)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(8, 6)
        self.clips = 0

    def forward(self, frames: Tensor) -> Tensor:
        if not torch.compiler.is_exporting():  # it would fix the number of clips in the graph
            self.clips += len(frames)
        x = torch.relu(self.norm(self.conv(frames)))
        pooled = torch.cat([x.mean(dim=(2, 3, 4)), x.amax(dim=(2, 3, 4))], dim=1)
        embedding: Tensor = self.out(self.drop(pooled))
        return embedding


TINY_SPEC = BackboneSpec(
    name="tiny",
    embedding=6,
    frames=(4, 8),
    height=32,
    width=32,
    preprocess=Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)),
    build=lambda _frames: TinyNetwork(),
    convert=dict,
    layouts="its own",
    source="these tests",
)


def tiny_embedder(seed: int = 0, frames: int = 4) -> ClipEmbedder:
    """Return the embedder in eval mode; `embedder.network.clips` counts what it has embedded."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ClipEmbedder(TINY_SPEC, TinyNetwork(), frames).eval()


def tiny_config(*settings: str) -> BackboneAeConfig:
    config = read_config(None, [*TINY, *settings])
    assert isinstance(config, BackboneAeConfig)
    return config


def write_site(folder: Path, splits: dict[str, Split], **changes: Any) -> list[Entry]:
    """Write a video of 24 frames for each key `class/name`; 5 clips each with `tiny_config`."""
    entries = []
    for seed, (key, split) in enumerate(splits.items()):
        label, _, name = key.partition("/")
        path = folder / label / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, moving_blob(24, height=48, width=64, seed=seed))
        entries.append(Entry(path=path, label=label, split=split, **changes))
    return entries
