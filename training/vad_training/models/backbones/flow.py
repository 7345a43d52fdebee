"""Optical flow, and the I3D network that looks at it.

Flow is computed by the host, outside every graph, so whoever uses its embeddings names the method.
The two-stream I3D was trained on TV-L1, which OpenCV has in its contrib modules alone; DIS and
Farneback are in every OpenCV.
"""

from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from vad_runtime.contracts import ConfigError

Clip = npt.NDArray[np.uint8]
Flow = npt.NDArray[np.float32]
Method = Literal["dis", "farneback"]

FLOW_LIMIT_PX = 20.0
"""Longer motion counts as this long, in each direction (Carreira and Zisserman, CVPR 2017)."""


def flow_from_clip(clip: Clip, method: Method = "dis") -> Flow:
    """Return the optical flow of a clip as the flow network takes it.

    Args:
        clip: Shape (T, H, W, 3) with T > 1, uint8, RGB; of the size that the network takes.
        method: `dis` (dense inverse search, preset medium) or `farneback`.

    Returns:
        Shape (T, H, W, 2), float32: motion to the right and downwards from each frame to the next,
        clipped to `FLOW_LIMIT_PX` and divided by it, so -1..1. The last field is the one before it
        again, because the frame after the clip has not come. The caller owns it.

    Raises:
        ConfigError: A method that is not there.
        ValueError: Fewer than two frames.
    """
    import cv2

    if method not in get_args(Method):
        have = ", ".join(get_args(Method))
        raise ConfigError(f"flow method {method!r} is unknown. Choose one of: {have}.")
    if len(clip) < 2:
        raise ValueError(f"flow needs two frames, got {len(clip)}")
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
    estimator = (
        cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        if method == "dis"
        else cv2.FarnebackOpticalFlow.create()
    )
    fields = [
        # OpenCV's stubs do not know that None asks for a new array.
        estimator.calc(a, b, None)  # type: ignore[call-overload]
        for a, b in pairwise(gray)
    ]
    flow = np.stack([*fields, fields[-1]])
    return np.clip(flow / FLOW_LIMIT_PX, -1.0, 1.0).astype(np.float32, copy=False)


class FlowEmbedder(nn.Module):
    """Flow fields in, embeddings out.

    Args:
        network: `I3D(channels=2)`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, flow: Tensor) -> Tensor:
        """Return embeddings, (N, 1024), of flow of shape (N, T, H, W, 2): `flow_from_clip`."""
        embedding: Tensor = self.network(flow.permute(0, 4, 1, 2, 3))
        return embedding
