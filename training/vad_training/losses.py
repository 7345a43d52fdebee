"""Training losses."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

WeightScheme = Literal["source", "paper"]
"""Whose weights the prediction loss uses; see `prediction_weights`."""


class STAELoss(NamedTuple):
    """The loss of one batch; each field is a scalar tensor, float32, with its graph."""

    total: Tensor
    """reconstruction + prediction: the value to call `backward` on."""
    reconstruction: Tensor
    """Mean squared error of the reconstruction."""
    prediction: Tensor
    """Weighted mean squared error of the prediction over the frames that exist."""


def prediction_weights(scheme: WeightScheme, frames: int) -> Tensor:
    """Weights of the predicted frames: the farther ahead a frame, the less its error counts.

    Both fall linearly from the first frame to 0 at the last one:

    * `source`: T-1, T-2, ..., 0, as in the published training code (Pixel Play '26 project).
    * `paper`: Zhao et al., ACM MM 2017 (doi 10.1145/3123266.3123451). Its prediction
      loss is `1/T^2 * sum over t = 1..T of (T - t) * ||x_t - x̂_t||^2`, beside a reconstruction
      loss without weights, `||x - x̂||^2`. Dividing both by the number of elements of a clip makes
      them means as in `stae_loss` and leaves `w_t = (T - t) / T^2`. For T = 16 this is 1/256 of
      `source`: there the prediction dominates training, here the reconstruction does.

    Args:
        scheme: "source" or "paper".
        frames: T, the number of predicted frames, at least 1.

    Returns:
        shape (T,), float32, on the CPU; the caller owns it.

    Raises:
        ValueError: for another scheme or no frames.
    """
    if frames < 1:
        raise ValueError(f"A prediction needs at least one frame, but got {frames}.")
    falling = torch.arange(frames - 1, -1, -1, dtype=torch.float32)
    if scheme == "source":
        return falling
    if scheme == "paper":
        return falling / frames**2
    raise ValueError(f"Unknown prediction weights {scheme!r}. Choose 'source' or 'paper'.")


def stae_loss(
    reconstruction: Tensor,
    prediction: Tensor,
    clips: Tensor,
    future: Tensor,
    future_mask: Tensor,
    weights: Tensor,
) -> STAELoss:
    """Loss of the STAE: reconstruct the clip and predict the frames after it.

        mean((reconstruction - clips)^2) + mean over existing frames, pixels of
        w_t (prediction - future)^2

    A frame past the end of its video does not exist: whatever stands in `future` there, even NaN,
    has no influence, and the mean divides by the existing elements only. With no existing frame in
    the whole batch the second term is 0.

    Args:
        reconstruction: shape (B, 1, T, H, W), float (any precision; the loss is float32).
        prediction: like `reconstruction`.
        clips: like `reconstruction`, what was to be reconstructed.
        future: like `reconstruction`, the T frames after the clip.
        future_mask: shape (B, T), bool, True where the frame of `future` exists.
        weights: shape (T,), float, see `prediction_weights`.

    Returns:
        The two terms and their sum.

    Raises:
        ValueError: if the shapes do not fit or the mask is not bool.
    """
    shape = clips.shape
    for name, tensor in (
        ("reconstruction", reconstruction),
        ("prediction", prediction),
        ("future", future),
    ):
        if tensor.shape != shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, but the clips have {tuple(shape)}."
            )
    batch, channels, frames, height, width = shape
    if future_mask.shape != (batch, frames) or future_mask.dtype != torch.bool:
        raise ValueError(
            f"future_mask must be bool of shape {(batch, frames)}, but is {future_mask.dtype} of "
            f"shape {tuple(future_mask.shape)}."
        )
    if weights.shape != (frames,):
        raise ValueError(
            f"weights has shape {tuple(weights.shape)}, but there are {frames} frames."
        )

    reconstruction_loss = functional.mse_loss(reconstruction.float(), clips.float())
    # The error of an absent frame is replaced, not multiplied by 0: 0 * NaN would be NaN.
    exists = future_mask[:, None, :, None, None]
    known_future = torch.where(exists, future.float(), prediction.detach().float())
    error = functional.mse_loss(prediction.float(), known_future, reduction="none")
    error_by_frame = error.sum(dim=(1, 3, 4))  # (B, T), exactly 0 where no frame exists
    elements = (future_mask.sum() * (channels * height * width)).clamp(min=1)
    prediction_loss = (error_by_frame * weights.to(error.device, torch.float32)).sum() / elements
    return STAELoss(reconstruction_loss + prediction_loss, reconstruction_loss, prediction_loss)
