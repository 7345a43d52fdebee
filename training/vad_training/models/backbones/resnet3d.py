"""3-D ResNets of depth 18, 34, 50 and 101, trained on Kinetics.

Source: Hara et al., Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?,
CVPR 2018.

Where a block changes the size of its input, its shortcut is of type A (every second pixel, zeros
for the new channels: no parameters) or B (a 1 x 1 x 1 convolution and BatchNorm). The published
files are of type A for depths 18 and 34, and of type B for 50 and 101; the other combinations have
names that end in `_a` and `_b`. The type is never guessed from the file.
"""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from vad_training.models.backbones.base import BackboneSpec, Preprocess
from vad_training.models.backbones.layouts import with_batch_counts, without, without_wrapper

Shortcut = Literal["A", "B"]


class ShortcutA(nn.Module):
    """Subsampling, and zeros for the channels that the input lacks."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.missing = out_channels - channels

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (N, out_channels, ceil(T / stride), ceil(H / stride), ceil(W / stride))."""
        s = self.stride
        return F.pad(x[:, :, ::s, ::s, ::s], (0, 0, 0, 0, 0, 0, 0, self.missing))


def _shortcut(kind: Shortcut, channels: int, out_channels: int, stride: int) -> nn.Module | None:
    if stride == 1 and channels == out_channels:
        return None
    if kind == "A":
        return ShortcutA(channels, out_channels, stride)
    return nn.Sequential(
        nn.Conv3d(channels, out_channels, 1, stride=stride, bias=False),
        nn.BatchNorm3d(out_channels),
    )


class BasicBlock(nn.Module):
    """Two 3 x 3 x 3 convolutions."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, kind: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.downsample = _shortcut(kind, channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (N, width, T', H', W')."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """A 3 x 3 x 3 convolution between two of 1 x 1 x 1."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, kind: Shortcut) -> None:
        super().__init__()
        wide = width * self.expansion
        self.conv1 = nn.Conv3d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(wide)
        self.downsample = _shortcut(kind, channels, wide, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (N, 4 * width, T', H', W')."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


Block = type[BasicBlock] | type[Bottleneck]

_DEPTHS: dict[int, tuple[Block, tuple[int, int, int, int], Shortcut]] = {
    18: (BasicBlock, (2, 2, 2, 2), "A"),
    34: (BasicBlock, (3, 4, 6, 3), "A"),
    50: (Bottleneck, (3, 4, 6, 3), "B"),
    101: (Bottleneck, (3, 4, 23, 3), "B"),
}
"""Block, blocks in each stage, and the shortcut of the published file."""


def _stage(
    block: Block, channels: int, width: int, count: int, stride: int, shortcut: Shortcut
) -> nn.Sequential:
    first = block(channels, width, stride, shortcut)
    others = [block(width * block.expansion, width, 1, shortcut) for _ in range(count - 1)]
    return nn.Sequential(first, *others)


class ResNet3D(nn.Module):
    """The network without its classifier.

    Args:
        depth: 18, 34, 50 or 101.
        shortcut: See the module.
    """

    def __init__(self, depth: int, shortcut: Shortcut) -> None:
        super().__init__()
        block, blocks, _ = _DEPTHS[depth]
        self.conv1 = nn.Conv3d(3, 64, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        wide = block.expansion
        self.layer1 = _stage(block, 64, 64, blocks[0], 1, shortcut)
        self.layer2 = _stage(block, 64 * wide, 128, blocks[1], 2, shortcut)
        self.layer3 = _stage(block, 128 * wide, 256, blocks[2], 2, shortcut)
        self.layer4 = _stage(block, 256 * wide, 512, blocks[3], 2, shortcut)

    def forward(self, clips: Tensor) -> Tensor:
        """Return the embeddings, (N, 512 or 2048), of clips of shape (N, 3, 16, 112, 112).

        The source pools 1 x 4 x 4, which is all that is left of such clips; hence the plain mean.
        """
        x = self.maxpool(F.relu(self.bn1(self.conv1(clips))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        embedding: Tensor = x.mean(dim=(2, 3, 4))
        return embedding


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of `ResNet3D` from the tensors of a published file."""
    return with_batch_counts(without(without_wrapper(tensors), "fc."))


def _build(depth: int, shortcut: Shortcut, _frames: int) -> nn.Module:
    return ResNet3D(depth, shortcut)


def _spec(name: str, depth: int, shortcut: Shortcut) -> BackboneSpec:
    block, _, published = _DEPTHS[depth]
    file = f"resnet-{depth}-kinetics.pth" if shortcut == published else "files of this layout"
    return BackboneSpec(
        name=name,
        embedding=512 * block.expansion,
        frames=(16,),
        height=112,
        width=112,
        preprocess=Preprocess(
            mean=(114.7748, 107.7354, 99.4750),
            std=(38.7568578, 37.88248729, 40.02898126),
            scale=1.0,
        ),
        build=partial(_build, depth, shortcut),
        convert=convert,
        layouts=f"3D-ResNets-PyTorch: {file} (conv1.weight, layer1.0.conv1.weight, ...), with or "
        f"without `module.` and fc; shortcut {shortcut}",
        source="Hara et al., CVPR 2018 (arXiv 1711.09577)",
    )


def _specs() -> dict[str, BackboneSpec]:
    specs = {}
    kinds: tuple[Shortcut, Shortcut] = ("A", "B")
    for depth, (_, _, published) in _DEPTHS.items():
        for kind in kinds:
            suffix = "" if kind == published else f"_{kind.lower()}"
            name = f"resnet3d_{depth}{suffix}"
            specs[name] = _spec(name, depth, kind)
    return specs


SPECS = _specs()
