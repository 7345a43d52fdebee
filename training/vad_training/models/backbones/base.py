"""What every backbone is: a network with a published weight layout, and what it does to frames."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from vad_runtime.contracts import ClipSpec, ConfigError
from vad_training.config import ClipChoice


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From uint8 frames to what the network was trained on: ``(x * scale - mean) / std``.

    It runs inside the graph, so training, calibration and the device cannot differ.
    """

    mean: tuple[float, float, float]
    """In the order of the network's channels (see `bgr`), after `scale`."""
    std: tuple[float, float, float]
    scale: float = 1 / 255
    bgr: bool = False
    """The network takes blue first."""
    cube: bool = False
    """Subtract a mean clip (the network's buffer `mean_cube`, shape (3, T, H, W)) in place of
    `mean`, before the crop."""
    crop: int | None = None
    """Side of the centre crop, pixels; None = no crop."""


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """One backbone."""

    name: str
    embedding: int
    """D, length of the embedding."""
    frames: tuple[int, ...]
    """Clip lengths it takes; the first is its own."""
    height: int
    """Rows of a clip (before the crop in the graph, if there is one)."""
    width: int
    preprocess: Preprocess
    build: Callable[[int], nn.Module]
    """From the number of frames to the network, with random weights: it takes float32
    (N, 3, T, H, W), preprocessed, and returns (N, D). Its parameters have the published names,
    apart from a prefix and the classifier, which are `convert`'s business."""
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    """From the tensors of a published file to the state dict of the network; drops the classifier.
    Whatever it does not know stays, so that strict loading names it."""
    layouts: str
    """Which published files load, in words."""
    source: str
    """Paper and code that define it."""
    read: Callable[[Path], Mapping[str, Tensor]] | None = None
    """From a published file to its tensors, where that is no PyTorch file; None = a PyTorch or
    safetensors file."""


class ClipEmbedder(nn.Module):
    """A backbone as the graphs of this project use it: uint8 clips in, embeddings out.

    Attributes:
        spec: What it is.
        network: The network; its parameters have the published names.
        clip_frames: T.
    """

    def __init__(self, spec: BackboneSpec, network: nn.Module, frames: int) -> None:
        super().__init__()
        self.spec = spec
        self.network = network
        self.clip_frames = frames
        shape = (1, 3, 1, 1, 1)
        self.register_buffer(
            "mean", torch.tensor(spec.preprocess.mean).reshape(shape), persistent=False
        )
        self.register_buffer(
            "std", torch.tensor(spec.preprocess.std).reshape(shape), persistent=False
        )

    def preprocess(self, clip: Tensor) -> Tensor:
        """Return what the network takes.

        Args:
            clip: Shape (N, T, H, W, 3), uint8, RGB.

        Returns:
            Shape (N, 3, T, H', W'), float32.
        """
        how = self.spec.preprocess
        # The cast comes first: TensorRT moves no uint8.
        frames = clip.to(torch.float32).permute(0, 4, 1, 2, 3)
        if how.bgr:
            # Slices, not flip: every exporter and engine knows them.
            frames = torch.cat([frames[:, 2:3], frames[:, 1:2], frames[:, 0:1]], dim=1)
        frames = frames * how.scale
        # Each term is a choice of the published training, not one formula with special values.
        if how.cube:
            frames = frames - self.get_buffer("network.mean_cube")
        else:
            frames = (frames - self.get_buffer("mean")) / self.get_buffer("std")
        if how.crop is not None:
            top = (frames.shape[3] - how.crop) // 2
            left = (frames.shape[4] - how.crop) // 2
            frames = frames[:, :, :, top : top + how.crop, left : left + how.crop]
        return frames

    def forward(self, clip: Tensor) -> Tensor:
        """Return the embeddings, (N, D) float32, of clips of shape (N, T, H, W, 3), uint8."""
        embedding: Tensor = self.network(self.preprocess(clip))
        return embedding


def frames_of(spec: BackboneSpec, frames: int | None) -> int:
    """Return T: a user's choice, or the backbone's own number where there is none.

    Raises:
        ConfigError: A number of frames that the backbone does not take.
    """
    count = spec.frames[0] if frames is None else frames
    if count not in spec.frames:
        have = ", ".join(map(str, spec.frames))
        raise ConfigError(f"clip.frames={count}: {spec.name} takes {have}. Choose one of these.")
    return count


def clip_of(spec: BackboneSpec, choice: ClipChoice, fps: float | None = None) -> ClipSpec:
    """Return the clip of a backbone with a user's choices.

    Raises:
        ConfigError: A number of frames that it does not take, or a hop that fits no stride.
    """
    frames = frames_of(spec, choice.frames)
    plain = {k: v for k, v in msgspec.structs.asdict(choice).items() if k != "frames"}
    try:
        return ClipSpec(
            frames=frames, height=spec.height, width=spec.width, colour="rgb", fps=fps, **plain
        )
    except ValueError as error:
        raise ConfigError(f"clip: {error}. Change clip.stride, clip.hop or the resizer.") from None
