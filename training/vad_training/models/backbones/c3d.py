"""C3D: eight 3-D convolutions and a fully connected layer, trained on Sports-1M.

Source: Tran et al., Learning Spatiotemporal Features with 3D Convolutional Networks, ICCV 2015.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vad_runtime.contracts import InputError
from vad_training.models.backbones.base import BackboneSpec, Preprocess
from vad_training.models.backbones.layouts import without, without_wrapper

MEAN_CUBE = (3, 16, 128, 171)
"""Shape of the Sports-1M mean: channels (blue, green, red), frames, rows, columns."""


class C3D(nn.Module):
    """The network up to fc6.

    Attributes:
        mean_cube: The mean clip that `ClipEmbedder` subtracts, 0..255; shape `MEAN_CUBE`. It is
            zero until it is loaded. It is part of the state dict, so that a run keeps it, but not
            of the published weights: whoever loads those adds `mean_cube_from_file`. A network for
            the preprocessing `simple` has none.
    """

    mean_cube: Tensor

    def __init__(self, *, mean_cube: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, 3, padding=1)
        self.conv2 = nn.Conv3d(64, 128, 3, padding=1)
        self.conv3a = nn.Conv3d(128, 256, 3, padding=1)
        self.conv3b = nn.Conv3d(256, 256, 3, padding=1)
        self.conv4a = nn.Conv3d(256, 512, 3, padding=1)
        self.conv4b = nn.Conv3d(512, 512, 3, padding=1)
        self.conv5a = nn.Conv3d(512, 512, 3, padding=1)
        self.conv5b = nn.Conv3d(512, 512, 3, padding=1)
        self.pool1 = nn.MaxPool3d((1, 2, 2))
        self.pool = nn.MaxPool3d(2)
        self.pool5 = nn.MaxPool3d(2, padding=(0, 1, 1))
        self.fc6 = nn.Linear(512 * 1 * 4 * 4, 4096)
        if mean_cube:
            self.register_buffer("mean_cube", torch.zeros(MEAN_CUBE))

    def forward(self, clips: Tensor) -> Tensor:
        """Return fc6 after its ReLU, (N, 4096), of clips of shape (N, 3, 16, 112, 112), BGR."""
        x = self.pool1(F.relu(self.conv1(clips)))
        x = self.pool(F.relu(self.conv2(x)))
        x = self.pool(F.relu(self.conv3b(F.relu(self.conv3a(x)))))
        x = self.pool(F.relu(self.conv4b(F.relu(self.conv4a(x)))))
        x = self.pool5(F.relu(self.conv5b(F.relu(self.conv5a(x)))))
        return F.relu(self.fc6(x.flatten(1)))


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of `C3D` from the tensors of a published file.

    `mean_cube` is in the result only if the file holds it, which ours do.
    """
    return without(without_wrapper(tensors), "fc7.", "fc8.")


def mean_cube_from_file(path: Path) -> Tensor:
    """Read the Sports-1M mean clip.

    Args:
        path: A `.npy`, or a `.npz` with one array; shape `MEAN_CUBE`, with or without a first axis
            of length 1, BGR, 0..255.

    Returns:
        Shape `MEAN_CUBE`, float32; the caller owns it.

    Raises:
        InputError: Missing, not such a file, or of another shape.
    """
    try:
        # A pickled object could run code, so none is read.
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.lib.npyio.NpzFile):
                if len(content.files) != 1:
                    raise InputError(
                        f"{path} holds {len(content.files)} arrays, not the mean cube alone. "
                        "Give the Sports-1M mean cube."
                    )
                content = content[content.files[0]]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Check the path.") from None
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise InputError(f"{path} is no .npy or .npz file. Give the Sports-1M mean cube.") from None
    if content.shape == (1, *MEAN_CUBE):
        content = content[0]
    if content.shape != MEAN_CUBE or not np.issubdtype(content.dtype, np.floating):
        raise InputError(
            f"{path} holds {content.dtype} of shape {content.shape}, not floats of shape "
            f"{MEAN_CUBE}. Give the Sports-1M mean cube."
        )
    if not np.isfinite(content).all():
        raise InputError(f"{path} holds values that are not finite. Give another copy.")
    return torch.from_numpy(np.array(content, np.float32))


def _with_cube(_frames: int) -> nn.Module:
    return C3D()


def _without_cube(_frames: int) -> nn.Module:
    return C3D(mean_cube=False)


_LAYOUTS = (
    "the PyTorch port of the Sports-1M weights, c3d.pickle (conv1.weight ... fc8.bias), with or "
    "without fc7 and fc8"
)
_SOURCE = "Tran et al., ICCV 2015 (arXiv 1412.0767)"

SPECS = {
    "c3d": BackboneSpec(
        name="c3d",
        embedding=4096,
        frames=(16,),
        height=128,
        width=171,
        preprocess=Preprocess(
            mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), scale=1.0, bgr=True, cube=True, crop=112
        ),
        build=_with_cube,
        convert=convert,
        layouts=_LAYOUTS,
        source=_SOURCE,
    )
}

SIMPLE_SPEC = BackboneSpec(
    name="c3d",
    embedding=4096,
    frames=(16,),
    height=112,
    width=112,
    preprocess=Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), scale=1.0, bgr=True),
    build=_without_cube,
    convert=convert,
    layouts=_LAYOUTS,
    source=_SOURCE,
)
"""C3D with the preprocessing `simple`: frames as OpenCV decodes them (BGR, 0..255), resized
straight to 112 x 112 by area, and no mean. Detectors whose MIL heads were trained on such features
need it; the network was trained with the other."""
