"""The training step of the STAE, computed faster on a CPU.

The same parameters, the same function and the same gradients as `STAE.forward`; only the order and
the form of the work differ:

* Everything between two layers is stored channels-last (N, D, H, W, C in memory).
* The last convolution 32 -> 1 fills one of 16 SIMD lanes. `conv_to_one_channel` computes a block of
  2x2x4 pixels as 16 output channels instead, and its weight gradient with input and output swapped.
* BatchNorm sums in another order than PyTorch does for channels-last; see `accurate_norm`.
* In training a BatchNorm subtracts the mean and with it the bias of the convolution before it. The
  gradient of such a bias is 0; the plain step sums a tensor to get its rounding error.
* Optionally convolutions and activations in bfloat16, with float32 parameters, statistics and loss.

Why not `torch.autocast` with channels-last: the gradient of a convolution's weights in bfloat16 is
wrong at depth 2, where the STAE has its bottleneck; see `depth_is_unsafe_in_bf16`.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from vad_training.models.accurate_norm import norm_and_leaky_relu
from vad_training.models.stae import STAE, check_clip_shape

Precision = Literal["fp32", "bf16"]
"""What the convolutions compute in; parameters and loss are float32 in both."""

Step = Callable[[Tensor], tuple[Tensor, Tensor]]
"""clips -> (reconstruction, prediction), as `STAE.forward`."""

_BLOCK = (2, 2, 4)
"""Pixels (D, H, W) that `conv_to_one_channel` computes as channels: 16, one AVX-512 register."""


def fast_step(model: STAE, precision: Precision = "fp32") -> Step:
    """Make the fast forward pass of a model; `backward` on its result is fast too.

    The step reads the parameters of `model` at each call, updates the running statistics of its
    BatchNorms as `model.forward` does and follows `model.train()` and `model.eval()`. The model
    itself is not changed: its state dict, its export and its own forward stay as they are. Call
    `vad_training.models.heap.keep_freed_memory` once before: that is a third of the gain.

    Args:
        model: an STAE on the CPU with float32 parameters; the caller owns it.
        precision: "fp32" gives the plain model's gradients up to rounding; "bf16" is about 1.6x
            faster again, on a CPU with AVX512-BF16 or AMX only.

    Returns:
        A function from clips, shape (B, 1, T, H, W), float32 in 0..1, to reconstruction and
        prediction, each of the same shape, float32, owned by the caller.

    Raises:
        ValueError: for another precision or a model that is not float32 on the CPU.
    """
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"Unknown precision {precision!r}. Choose 'fp32' or 'bf16'.")
    for name, parameter in model.named_parameters():
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
            raise ValueError(
                f"fast_step needs float32 parameters on the CPU, but {name} is {parameter.dtype} "
                f"on {parameter.device}. On a GPU use the model itself under torch.autocast."
            )
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16

    def step(clips: Tensor) -> tuple[Tensor, Tensor]:
        check_clip_shape(clips)
        x = _channels_last(clips.to(dtype))
        code = _run(model.encoder, x)
        return _run(model.decoder_recon, code).float(), _run(model.decoder_pred, code).float()

    return step


def depth_is_unsafe_in_bf16(depth: int) -> bool:
    """Whether the bfloat16 weight gradient of a 3x3x3 convolution with padding 1 is wrong.

    oneDNN 3.12 (PyTorch 2.13), `jit_bf16:avx512_core_bf16` backward_weights: where every output
    slice touches the padding in depth and there is more than one such slice, it adds to memory that
    it never cleared. For kernel 3, padding 1, stride 1 that is depth 2 exactly; depths 1 and 3 to 8
    and stride 2 were checked and are right. The result holds whatever the memory held before: NaN
    within a few steps, or a finite gradient that is off by more than its own size. Both memory
    formats are concerned, so `torch.autocast` on a CPU trains the STAE on wrong gradients as well.

    Args:
        depth: size of the first spatial dimension of the convolution's input.

    Returns:
        True for the depth to compute in float32.
    """
    return depth == 2


def conv_to_one_channel(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve to a single channel: `conv3d(x, weight, bias, padding=1)`, several times faster.

    Forward: the 16 outputs of a block of 2x2x4 pixels see 4x4x6 inputs. So a convolution with that
    kernel, the block as its stride and 16 output channels, each the 3x3x3 kernel at another place
    of the 4x4x6 field, gives the block as channels, and a transposition puts them in their places.
    Backward: with g the gradient of the output, the gradient of x is an ordinary convolution of one
    channel to many; the one of the weights is that of a convolution *from* g *to* x, mirrored.

    Args:
        x: shape (N, C, D, H, W), float32 or bfloat16, best channels-last; D and H are multiples of
            2, W of 4.
        weight: shape (1, C, 3, 3, 3), the dtype of x.
        bias: shape (1,), the dtype of x.

    Returns:
        shape (N, 1, D, H, W), the dtype of x, contiguous.
    """
    # torch leaves Function.apply without types.
    result: Tensor = _ConvToOneChannel.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result


class _ConvToOneChannel(torch.autograd.Function):
    """See `conv_to_one_channel`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        blocks = functional.conv3d(
            x, _block_weight(weight), bias.expand(16), stride=_BLOCK, padding=1
        )
        n, _, d, h, w = blocks.shape
        # (N, pd*ph*pw, D, H, W) -> (N, D, pd, H, ph, W, pw): each block opens in its place.
        opened = blocks.reshape(n, *_BLOCK, d, h, w).permute(0, 4, 1, 5, 2, 6, 3)
        return opened.reshape(n, 1, d * _BLOCK[0], h * _BLOCK[1], w * _BLOCK[2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad = _channels_last(grad)
        mirrored = weight.flip(2, 3, 4).transpose(0, 1)
        grad_x = functional.conv3d(grad, mirrored, padding=1) if ctx.needs_input_grad[0] else None
        grad_mirrored = torch.ops.aten.convolution_backward(
            x, grad, mirrored, None, [1] * 3, [1] * 3, [1] * 3, False, [0] * 3, 1,
            [False, True, False],
        )[1]  # fmt: skip
        grad_weight = grad_mirrored.transpose(0, 1).flip(2, 3, 4)
        # bfloat16 keeps 8 bits: a sum over all pixels needs more.
        precise = torch.promote_types(grad.dtype, torch.float32)
        grad_bias = grad.sum(dtype=precise).to(weight.dtype).reshape(1)
        return grad_x, grad_weight, grad_bias


def _channels_last(one_channel: Tensor) -> Tensor:
    """Give a tensor (N, 1, D, H, W) strides that say channels-last.

    With one channel both formats have the same memory, and PyTorch takes such a tensor for
    channels-first: its convolution to 32 channels then comes out channels-first, and every later
    layer copies it. `contiguous(memory_format=...)` sees nothing to do and leaves the strides.
    """
    dense = one_channel.contiguous()
    n, _, d, h, w = dense.shape
    return dense.as_strided((n, 1, d, h, w), (d * h * w, 1, h * w, w, 1))


def _block_weight(weight: Tensor) -> Tensor:
    """Place a kernel (1, C, 3, 3, 3) at the 16 places of a block: (16, C, 4, 4, 6)."""
    pd, ph, pw = _BLOCK
    field = weight.new_zeros(pd, ph, pw, weight.shape[1], pd + 2, ph + 2, pw + 2)
    for d in range(pd):
        for h in range(ph):
            for w in range(pw):
                field[d, h, w, :, d : d + 3, h : h + 3, w : w + 3] = weight[0]
    return field.flatten(0, 2).contiguous(memory_format=torch.channels_last_3d)


class _BiasBeforeNorm(torch.autograd.Function):
    """Pass weight and bias on, but let nobody compute the bias's gradient: it is 0."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(bias)
        bias = bias.clone()
        ctx.mark_non_differentiable(bias)
        return weight.view_as(weight), bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_weight: Tensor, _grad_bias: Tensor) -> tuple[Tensor, Tensor]:
        # Zeros, not None: who reads `parameter.grad` finds a tensor, as after the plain step.
        (bias,) = ctx.saved_tensors
        return grad_weight, torch.zeros_like(bias)


def _run(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Run the encoder or a decoder, layer by layer, each in its fast form."""
    rest = iter(layers)
    for layer in rest:
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
            x = _convolve(layer, x, bias_cancels=layer.training and layer.out_channels > 1)
        elif isinstance(layer, nn.BatchNorm3d) and layer.training and x.dtype == torch.float32:
            # bfloat16 itself is coarser than the error that this form avoids.
            activation = next(rest)
            assert isinstance(activation, nn.LeakyReLU)  # follows every BatchNorm of the STAE
            x = norm_and_leaky_relu(x, layer, activation.negative_slope)
        elif isinstance(layer, nn.Sigmoid):
            x = layer(x.float())  # in bfloat16 its steps near 1 are as wide as those of 8-bit grey
        else:
            x = layer(x)
    return x


def _convolve(layer: nn.Conv3d | nn.ConvTranspose3d, x: Tensor, *, bias_cancels: bool) -> Tensor:
    weight, bias = layer.weight, layer.bias  # every kernel of the STAE is 3x3x3 with padding 1
    assert bias is not None  # the STAE has a bias everywhere
    if bias_cancels:
        weight, bias = _BiasBeforeNorm.apply(weight, bias)  # type: ignore[no-untyped-call]
    dtype = x.dtype
    if dtype == torch.bfloat16 and layer.stride[0] == 1 and depth_is_unsafe_in_bf16(x.shape[2]):
        x = x.float()
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    if isinstance(layer, nn.ConvTranspose3d):
        y = functional.conv_transpose3d(x, weight, bias, layer.stride, 1, layer.output_padding)
    elif layer.out_channels == 1:
        y = conv_to_one_channel(x, weight, bias)
    else:
        y = functional.conv3d(x, weight, bias, layer.stride, 1)
    return y.to(dtype)


__all__ = ["Precision", "Step", "conv_to_one_channel", "depth_is_unsafe_in_bf16", "fast_step"]
