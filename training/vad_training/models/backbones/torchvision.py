"""torchvision's 18-layer video ResNets: `r2plus1d_18`, `r3d_18`, `mc3_18`."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from vad_training.models.backbones.base import BackboneSpec, Preprocess
from vad_training.models.operators import declare_torchvision_operators

_PREPROCESS = Preprocess(mean=(0.43216, 0.394666, 0.37645), std=(0.22803, 0.22145, 0.216989))
_LAYOUTS = "torchvision's state dict, with or without fc"
_SOURCE = "Tran et al., CVPR 2018 (arXiv 1711.11248); torchvision.models.video.{}"


def _builder(name: str) -> Callable[[int], nn.Module]:
    def build(_frames: int) -> nn.Module:
        declare_torchvision_operators()
        from torchvision.models import video

        network: nn.Module = getattr(video, name)(weights=None)
        network.fc = nn.Identity()
        return network

    return build


def _without_classifier(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in tensors.items() if k not in ("fc.weight", "fc.bias")}


def _spec(name: str, frames: tuple[int, ...]) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        embedding=512,
        frames=frames,
        height=112,
        width=112,
        preprocess=_PREPROCESS,
        build=_builder(name),
        convert=_without_classifier,
        layouts=_LAYOUTS,
        source=_SOURCE.format(name),
    )


SPECS: dict[str, BackboneSpec] = {
    "r2plus1d_18": _spec("r2plus1d_18", (16, 8, 32, 64)),
    "r3d_18": _spec("r3d_18", (16,)),
    "mc3_18": _spec("mc3_18", (16,)),
}
"""The backbones of this module by name. The embedding is what `fc` took: the mean over the last
stage's positions."""
