"""BatchNorm and LeakyReLU for channels-last float32 tensors, with accurate sums.

PyTorch's own kernels for this layout (2.13, CPU) add up a million float32 values per channel one
after another: at the STAE's size the standard deviation is off by 1e-4 and the mean by up to 2e-4
standard deviations, a thousand times more than channels-first. The cure costs nothing: with the
pixels of a row counted as channels of their own, the same kernels add up W times fewer values into
W times more sums, and those are then joined in float64.

    memory   [pixel 0: c0 c1 c2][pixel 1: c0 c1 c2] ... one row of W pixels ... [pixel W-1: ...]
    kernel    W*C "channels", N*D*H values each                    -> (W, C) sums -> (C,) in float64

The formulas are those of Ioffe and Szegedy, "Batch Normalization", ICML 2015 (arXiv 1502.03167),
section 3; the variances are joined as in Chan, Golub and LeVeque, "Updating Formulae and a Pairwise
Algorithm for Computing Sample Variances", 1979.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


def norm_and_leaky_relu(x: Tensor, norm: nn.BatchNorm3d, slope: float) -> Tensor:
    """Compute `leaky_relu(norm(x), slope)` in training mode.

    Updates the running statistics of `norm` as its own forward does.

    Args:
        x: shape (N, C, D, H, W), float32; another layout than channels-last is copied.
        norm: in training mode, with affine parameters, running statistics and a momentum.
        slope: of the LeakyReLU for negative input, positive.

    Returns:
        shape (N, C, D, H, W), float32, channels-last; the caller owns it.
    """
    # torch leaves Function.apply without types.
    result: Tensor = _NormAndLeakyReLU.apply(  # type: ignore[no-untyped-call]
        x, norm.weight, norm.bias, norm, slope
    )
    return result


class _NormAndLeakyReLU(torch.autograd.Function):
    """See `norm_and_leaky_relu`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm3d, slope: float
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        mean, variance = _mean_and_variance(x)
        _update_running_statistics(norm, mean, variance, x.numel() // x.shape[1])
        y = functional.batch_norm(
            x, mean.float(), variance.float(), weight, bias, training=False, eps=norm.eps
        )
        # In place, and y is kept for backward: the slope is positive, so y keeps its sign.
        functional.leaky_relu_(y, slope)
        ctx.save_for_backward(x, y, weight, mean, (variance + norm.eps).rsqrt())
        ctx.slope = slope
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, y, weight, mean, inverse_std = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        inner = torch.ops.aten.leaky_relu_backward(grad, y, ctx.slope, True)
        grad_weight, grad_bias = _sums_for_backward(inner, x, mean, inverse_std)

        # dL/dx = weight/std * (inner - grad_bias/n - (x - mean)/std * grad_weight/n), linear in x:
        count = x.numel() // x.shape[1]
        scale = weight * inverse_std
        by_x = -scale * inverse_std * grad_weight / count
        constant = -scale * grad_bias / count - by_x * mean
        rest = torch.addcmul(_as_channels(constant), x, _as_channels(by_x))
        grad_x = torch.addcmul(rest, inner, _as_channels(scale), out=inner)
        return grad_x, grad_weight.float(), grad_bias.float(), None, None


def _as_channels(values: Tensor) -> Tensor:
    """Shape (C,), float64 -> (1, C, 1, 1, 1), float32."""
    return values.float().view(1, -1, 1, 1, 1)


def _pixels_as_channels(x: Tensor) -> Tensor:
    """View a channels-last tensor (N, C, D, H, W) as a channels-last (1, W*C, N*D*H, 1)."""
    n, c, d, h, w = x.shape
    return x.permute(0, 2, 3, 4, 1).view(1, n * d * h, 1, w * c).permute(0, 3, 1, 2)


def _mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, float64 of shape (C,)."""
    means, variances = torch.ops.aten.batch_norm_update_stats(
        _pixels_as_channels(x), None, None, 0.0
    )
    means, variances = (t.view(-1, x.shape[1]).double() for t in (means, variances))  # (W, C)
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).square().mean(0)


def _sums_for_backward(
    grad: Tensor, x: Tensor, mean: Tensor, inverse_std: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums of grad * (x - mean) * inverse_std and of grad by channel, float64 of shape (C,)."""
    width, channels = x.shape[4], x.shape[1]
    _, products, sums = torch.ops.aten.native_batch_norm_backward(
        _pixels_as_channels(grad),
        _pixels_as_channels(x),
        torch.ones(width * channels),
        None,
        None,
        mean.float().repeat(width),
        inverse_std.float().repeat(width),
        True,
        0.0,
        [False, True, True],
    )
    products, sums = (t.view(width, channels).sum(0, dtype=torch.float64) for t in (products, sums))
    return products, sums


def _update_running_statistics(
    norm: nn.BatchNorm3d, mean: Tensor, variance: Tensor, count: int
) -> None:
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        raise ValueError("norm_and_leaky_relu needs a BatchNorm with running statistics.")
    if norm.momentum is None:
        raise ValueError("norm_and_leaky_relu needs a BatchNorm with a momentum.")
    if count < 2:
        raise ValueError("A BatchNorm in training needs more than one value per channel.")
    norm.running_mean.lerp_(mean.float(), norm.momentum)
    norm.running_var.lerp_((variance * (count / (count - 1))).float(), norm.momentum)
    norm.num_batches_tracked.add_(1)


__all__ = ["norm_and_leaky_relu"]
