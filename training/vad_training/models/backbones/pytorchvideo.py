"""pytorchvideo's networks: `slow_r50`, `slowfast_r50`, `x3d_xs`, `x3d_s`, `x3d_m`.

The classifier is taken out of the published head; the rest of the head stays as it is. Its average
pooling moves a fixed window of the size that training used (7 x 7) over the larger feature map of
the published evaluation size (8 x 8 at 256), and the mean over its positions is the embedding: the
inner positions count more than the rim, as they do in the published accuracy.
"""

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vad_training.models.backbones.base import BackboneSpec, Preprocess
from vad_training.models.operators import declare_torchvision_operators

_PREPROCESS = Preprocess(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
_LAYOUTS = "pytorchvideo's state dict, bare or under model_state, with or without the projection"

SLOWNESS = 4
"""Frames of the fast pathway for one of the slow pathway (`alpha` of SlowFast)."""


def slow_frames(frames: int) -> list[int]:
    """Return which frames of a clip go into SlowFast's slow pathway.

    As pytorchvideo's transform: ``linspace(0, frames - 1, frames // 4)``, rounded down; here in
    integers, so that no rounding of a float can choose another frame.
    """
    count = frames // SLOWNESS
    return [i * (frames - 1) // (count - 1) for i in range(count)]


class SlowFast(nn.Module):
    """A SlowFast network that takes one clip and picks its slow pathway itself.

    Attributes:
        blocks: Stem, stages, pooling and head of pytorchvideo's network.
    """

    def __init__(self, blocks: nn.ModuleList, frames: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.register_buffer("slow", torch.tensor(slow_frames(frames)), persistent=False)

    def forward(self, clip: Tensor) -> Tensor:
        """Return the embedding, (N, 2304), of clips of shape (N, 3, T, H, W)."""
        # The blocks change the list in place, not the tensors.
        x: Any = [clip.index_select(2, self.get_buffer("slow")), clip]
        for block in self.blocks:
            x = block(x)
        embedding: Tensor = x
        return embedding


def _builder_of(module: str, name: str) -> Any:
    declare_torchvision_operators()
    with warnings.catch_warnings():
        # fvcore compiles a loss with torch.jit as it is imported, which PyTorch deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        return getattr(importlib.import_module(f"pytorchvideo.models.{module}"), name)


def _build_slow(_frames: int) -> nn.Module:
    create_resnet = _builder_of("resnet", "create_resnet")
    network: nn.Module = create_resnet(
        stem_conv_kernel_size=(1, 7, 7), head_pool_kernel_size=(8, 7, 7), model_depth=50
    )
    _remove_projection(network)
    return network


def _build_slowfast(frames: int) -> nn.Module:
    create_slowfast = _builder_of("slowfast", "create_slowfast")
    network = create_slowfast(model_depth=50, slowfast_fusion_conv_kernel_size=(7, 1, 1))
    _remove_projection(network)
    return SlowFast(network.blocks, frames)


def _x3d_builder(trained_size: int) -> Callable[[int], nn.Module]:
    def build(frames: int) -> nn.Module:
        create_x3d = _builder_of("x3d", "create_x3d")
        # SiLU is x * sigmoid(x), as pytorchvideo's Swish, whose own backward pass reads an
        # attribute that PyTorch has deprecated.
        network: nn.Module = create_x3d(
            input_clip_length=frames,
            input_crop_size=trained_size,
            inner_act=nn.SiLU,
            head_activation=None,
        )
        _remove_projection(network)
        return network

    return build


def _remove_projection(network: Any) -> None:
    network.blocks[-1].proj = nn.Identity()


def _converter(head: int) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    classifier = (f"blocks.{head}.proj.weight", f"blocks.{head}.proj.bias")

    def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in tensors.items() if name not in classifier}

    return convert


def _spec(
    name: str,
    *,
    embedding: int,
    frames: int,
    size: int,
    build: Callable[[int], nn.Module],
    source: str,
    head: int = 5,
) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        embedding=embedding,
        frames=(frames,),
        height=size,
        width=size,
        preprocess=_PREPROCESS,
        build=build,
        convert=_converter(head),
        layouts=_LAYOUTS,
        source=f"{source}; pytorchvideo {name}",
    )


_SLOWFAST = "Feichtenhofer et al., ICCV 2019 (arXiv 1812.03982)"
_X3D = "Feichtenhofer, CVPR 2020 (arXiv 2004.04730)"

SPECS: dict[str, BackboneSpec] = {
    "slow_r50": _spec(
        "slow_r50", embedding=2048, frames=8, size=256, build=_build_slow, source=_SLOWFAST
    ),
    "slowfast_r50": _spec(
        "slowfast_r50",
        embedding=2304,
        frames=32,
        size=256,
        build=_build_slowfast,
        source=_SLOWFAST,
        head=6,  # one block more: the concatenation of the pathways
    ),
    "x3d_xs": _spec(
        "x3d_xs", embedding=2048, frames=4, size=182, build=_x3d_builder(160), source=_X3D
    ),
    "x3d_s": _spec(
        "x3d_s", embedding=2048, frames=13, size=182, build=_x3d_builder(160), source=_X3D
    ),
    "x3d_m": _spec(
        "x3d_m", embedding=2048, frames=16, size=256, build=_x3d_builder(224), source=_X3D
    ),
}
"""The backbones of this module by name. The embedding is what the projection took: for X3D the
output of the head's last convolution and ReLU (`lin_5` in the paper's code)."""
