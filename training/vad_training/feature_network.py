"""Networks that give the features of clips: a video backbone, I3D on optical flow, or both."""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vad_runtime.contracts import ConfigError
from vad_runtime.features import Modality
from vad_runtime.sources import Pixels
from vad_training.config import BackboneConfig
from vad_training.embeddings import embedder_key
from vad_training.models.backbones.base import ClipEmbedder
from vad_training.models.backbones.flow import FlowEmbedder, Method, flow_from_clip
from vad_training.models.backbones.registry import describe, embedder_from_config

FLOW = "i3d_flow"
"""The backbone that looks at optical flow."""

Inputs = tuple[npt.NDArray[Any], ...]
"""One clip as the networks take it: pixels, flow, or both."""


class FeatureNetwork(Protocol):
    """From clips to features; `StreamNetwork` is the real one."""

    @property
    def key(self) -> str:
        """Changes whenever the features of a clip would."""

    @property
    def about(self) -> dict[str, Any]:
        """What the files say of it; plain values."""

    def prepare(self, clip: Pixels) -> Inputs:
        """Return what the network takes, of a clip (T, H, W, 3); called in decoding threads."""

    def embed(self, clips: Sequence[Inputs]) -> npt.NDArray[np.float32]:
        """Return the features, shape (N, D), of N prepared clips; called in one thread."""


class StreamNetwork:
    """A video backbone on RGB, I3D on optical flow, or both side by side.

    Args:
        rgb: In eval mode; None = flow alone.
        flow: In eval mode; None = RGB alone.
        method: How flow is computed.
        about: What the files shall say of the weights.
        device: Where the networks run.
    """

    def __init__(
        self,
        rgb: ClipEmbedder | None,
        flow: FlowEmbedder | None = None,
        *,
        method: Method = "dis",
        about: dict[str, Any] | None = None,
        device: torch.device | None = None,
    ) -> None:
        if rgb is None and flow is None:
            raise ValueError("a StreamNetwork needs a network")
        self._device = device or torch.device("cpu")
        self._streams: list[nn.Module] = [n.to(self._device) for n in (rgb, flow) if n is not None]
        self._rgb, self._flow, self._method = rgb is not None, flow is not None, method
        modality: Modality = "two" if rgb and flow else "flow" if flow else "rgb"
        self.about: dict[str, Any] = {**(about or {}), "modality": modality}
        digest = hashlib.sha256(f"{modality} {method if flow else ''}".encode())
        if rgb is not None:
            digest.update(embedder_key(rgb).encode())
        if flow is not None:
            for name, tensor in flow.state_dict().items():
                digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        self.key = digest.hexdigest()

    def prepare(self, clip: Pixels) -> Inputs:
        """Return the pixels, the flow, or both."""
        inputs: Inputs = (clip,) if self._rgb else ()
        return (*inputs, flow_from_clip(clip, self._method)) if self._flow else inputs

    def embed(self, clips: Sequence[Inputs]) -> npt.NDArray[np.float32]:
        """Return features: those of RGB first, then those of flow."""
        parts = []
        with torch.inference_mode():
            for stream, arrays in zip(self._streams, zip(*clips, strict=True), strict=True):
                batch = torch.from_numpy(np.stack(arrays)).to(self._device)
                parts.append(stream(batch).float().cpu().numpy())
        return np.concatenate(parts, axis=1)


def network_from_config(
    rgb: BackboneConfig | None,
    flow: BackboneConfig | None = None,
    *,
    frames: int | None = None,
    method: Method = "dis",
    device: torch.device | None = None,
) -> StreamNetwork:
    """Build the network that a user asked for.

    Args:
        rgb: The backbone for RGB; None = flow alone.
        flow: `i3d_flow`; None = RGB alone.
        frames: T; None = the backbone's own number.
        method: How flow is computed.
        device: Where the networks run.

    Raises:
        ConfigError: No network, one that takes other inputs, or settings that it lacks.
        InputError: A file that cannot be read or does not fit.
    """
    if rgb is not None and rgb.name == FLOW:
        raise ConfigError(f"{FLOW} looks at flow. Use: --backbone i3d --modality flow")
    if flow is not None and flow.name != FLOW:
        raise ConfigError(f"there is no flow network {flow.name!r}. Use {FLOW}.")
    about: dict[str, Any] = {}
    embedder = flow_embedder = None
    if rgb is not None:
        embedder = embedder_from_config(rgb, frames)
        about["backbone"] = describe(rgb)
    if flow is not None:
        flow_embedder = FlowEmbedder(embedder_from_config(flow, frames).network).eval()
        about["flow"] = {**describe(flow), "method": method}
    return StreamNetwork(embedder, flow_embedder, method=method, about=about, device=device)
