"""The spatio-temporal autoencoder with a reconstructing and a predicting decoder.

Architecture: Zhao et al., "Spatio-Temporal AutoEncoder for Video Anomaly Detection", ACM MM 2017
(doi 10.1145/3123266.3123451), with the layer sizes of the published Pixel Play '26 checkpoint.

    clip (1,T,H,W) -> 32 -> 48 -> 64 -> 64 (T/8,H/8,W/8) -+-> decoder_recon -> the same clip
                      (each arrow halves T, H and W)       +-> decoder_pred  -> the next T frames
"""

from itertools import pairwise

from torch import Tensor, nn

STRIDE = 8
"""How much the encoder shrinks each of T, H and W."""

NEGATIVE_SLOPE = 0.01
"""Slope of every LeakyReLU for negative input."""

_ENCODER_CHANNELS = (1, 32, 48, 64)
_DECODER_CHANNELS = (64, 48, 32, 32)


class STAE(nn.Module):
    """Encodes a grey clip and decodes it twice: into itself and into the clip that follows.

    The names and the indices of the layers are those of the published checkpoint (88 tensors), so
    it loads with `strict=True`. This is the plain module: the one to export and to train on a GPU;
    `vad_training.models.fast` computes the same training step faster on a CPU.
    """

    def __init__(self) -> None:
        """Build the network with PyTorch's default random weights."""
        super().__init__()
        self.encoder = _encoder()
        self.decoder_recon = _decoder()
        self.decoder_pred = _decoder()

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruct clips and predict the clips that follow them.

        Args:
            clips: shape (B, 1, T, H, W), float, grey in 0..1; T, H and W are multiples of 8.

        Returns:
            The reconstruction and the prediction of the next T frames, each of the shape of
            `clips`, float in 0..1.

        Raises:
            ValueError: if the shape of `clips` is another one.
        """
        code = self.encode(clips)
        return self.reconstruct(code), self.predict(code)

    def encode(self, clips: Tensor) -> Tensor:
        """Encode clips.

        Args:
            clips: shape (B, 1, T, H, W), float, grey in 0..1; T, H and W are multiples of 8.

        Returns:
            The code, shape (B, 64, T/8, H/8, W/8), float.

        Raises:
            ValueError: if the shape of `clips` is another one.
        """
        check_clip_shape(clips)
        code: Tensor = self.encoder(clips)
        return code

    def reconstruct(self, code: Tensor) -> Tensor:
        """Decode a code (B, 64, T/8, H/8, W/8) into its clip (B, 1, T, H, W), float in 0..1."""
        clips: Tensor = self.decoder_recon(code)
        return clips

    def predict(self, code: Tensor) -> Tensor:
        """Decode a code (B, 64, T/8, H/8, W/8) into the next clip (B, 1, T, H, W) in 0..1."""
        clips: Tensor = self.decoder_pred(code)
        return clips


def check_clip_shape(clips: Tensor) -> None:
    """Refuse clips that the network cannot halve three times.

    Args:
        clips: any tensor.

    Raises:
        ValueError: unless the shape is (B, 1, T, H, W) with T, H and W positive multiples of 8.
    """
    shape = tuple(clips.shape)
    if len(shape) != 5 or shape[1] != 1:
        raise ValueError(f"The STAE needs grey clips of shape (B, 1, T, H, W), but got {shape}.")
    for name, size in zip(("T", "H", "W"), shape[2:], strict=True):
        if size == 0 or size % STRIDE:
            raise ValueError(
                f"The STAE needs T, H and W to be multiples of {STRIDE}, but {name} is {size} in a "
                f"clip tensor of shape {shape}. Choose another clip length or frame size."
            )


def _encoder() -> nn.Sequential:
    layers: list[nn.Module] = []
    for c_in, c_out in pairwise(_ENCODER_CHANNELS):
        layers += [nn.Conv3d(c_in, c_out, 3, padding=1), *_norm_and_activation(c_out)]
        layers.append(nn.MaxPool3d(2))
    c_code = _ENCODER_CHANNELS[-1]
    layers += [nn.Conv3d(c_code, c_code, 3, padding=1), *_norm_and_activation(c_code)]
    return nn.Sequential(*layers)


def _decoder() -> nn.Sequential:
    c_code, c_last = _DECODER_CHANNELS[0], _DECODER_CHANNELS[-1]
    layers: list[nn.Module] = [nn.ConvTranspose3d(c_code, c_code, 3, padding=1)]
    layers += _norm_and_activation(c_code)
    for c_in, c_out in pairwise(_DECODER_CHANNELS):
        layers.append(nn.ConvTranspose3d(c_in, c_out, 3, stride=2, padding=1, output_padding=1))
        layers += _norm_and_activation(c_out)
    layers += [nn.Conv3d(c_last, 1, 3, padding=1), nn.Sigmoid()]
    return nn.Sequential(*layers)


def _norm_and_activation(channels: int) -> list[nn.Module]:
    # In place: the output of a BatchNorm is needed by nobody else, its backward reads its input.
    return [nn.BatchNorm3d(channels), nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)]


__all__ = ["NEGATIVE_SLOPE", "STAE", "STRIDE", "check_clip_shape"]
