"""The fast training step computes what the plain model computes."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vad_training.losses import prediction_weights, stae_loss
from vad_training.models import STAE
from vad_training.models.accurate_norm import norm_and_leaky_relu
from vad_training.models.fast import (
    Precision,
    Step,
    conv_to_one_channel,
    depth_is_unsafe_in_bf16,
    fast_step,
)
from vad_training.models.heap import keep_freed_memory

FRAMES = 16


@pytest.fixture(autouse=True)
def fixed_seed_and_one_thread() -> Iterator[None]:
    # On a busy machine two threads wait for each other at every small operation, 10x too long.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


def moving_blobs(batch: int, frames: int, size: int, generator: torch.Generator) -> Tensor:
    """Smooth clips: a soft spot that moves over a ramp; (batch, 1, frames, size, size)."""
    start, speed = (torch.rand(2, batch, 2, 1, generator=generator) - 0.5).unbind(0)
    centre = start + speed * torch.linspace(0, 1, frames)  # (batch, 2, frames)
    axis = torch.linspace(-1, 1, size)
    y, x = centre[:, 0, :, None, None], centre[:, 1, :, None, None]
    spot = torch.exp(-8 * ((axis[:, None] - y) ** 2 + (axis - x) ** 2))
    return (0.3 + 0.1 * axis + 0.5 * spot)[:, None]


def loss_of(step: Step, clips: Tensor, future: Tensor) -> Tensor:
    mask = torch.ones(clips.shape[0], FRAMES, dtype=torch.bool)
    reconstruction, prediction = step(clips)
    weights = prediction_weights("source", FRAMES)
    return stae_loss(reconstruction, prediction, clips, future, mask, weights).total


def relative_error(value: Tensor | None, exact: Tensor | None) -> float:
    assert value is not None
    assert exact is not None
    return float((value.detach() - exact.detach()).norm() / exact.detach().norm())


def poison_freed_memory() -> None:
    """Leave NaN in freed memory, so that a read of memory nobody wrote shows."""
    blocks = [torch.full((2**k,), float("nan")) for k in range(4, 22)]
    del blocks


def test_fp32_outputs_and_every_gradient_equal_the_plain_model() -> None:
    plain = STAE().train()
    for module in plain.modules():
        if isinstance(module, nn.LeakyReLU):
            # At slope .01 a value within rounding of 0 may fall on either side, and its gradient
            # jumps by 100x: in so small a clip one such jump is 1e-3 of a gradient's norm. The
            # next test has the real slope.
            module.negative_slope = 0.999
    fast = copy.deepcopy(plain)
    video = torch.rand(2, 1, 2 * FRAMES, 32, 32)  # noise: a smooth clip has ties in max pooling
    clips, future = video[:, :, :FRAMES], video[:, :, FRAMES:]

    for expected, got in zip(plain(clips), fast_step(fast)(clips), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    torch.autograd.backward(loss_of(plain, clips, future))
    torch.autograd.backward(loss_of(fast_step(fast), clips, future))

    largest = max(float(p.grad.norm()) for p in plain.parameters() if p.grad is not None)
    cancelled = 0
    for (name, p), q in zip(plain.named_parameters(), fast.parameters(), strict=True):
        assert p.grad is not None, name
        assert q.grad is not None, name
        assert q.grad.shape == q.shape, name
        assert q.grad.dtype == q.dtype, name
        if bool((q.grad == 0).all()):  # a bias that the following BatchNorm cancels
            assert name.endswith(".bias"), name
            assert float(p.grad.norm()) < 1e-5 * largest, name
            cancelled += 1
        else:
            assert relative_error(q.grad, p.grad) <= 1e-5, name
    assert cancelled == 12


def test_fp32_gradients_are_as_near_to_float64_as_the_plain_models() -> None:
    plain = STAE().train()
    fast, exact = copy.deepcopy(plain), copy.deepcopy(plain).double()
    video = moving_blobs(2, 2 * FRAMES, 32, torch.Generator().manual_seed(1))
    clips, future = video[:, :, :FRAMES], video[:, :, FRAMES:]
    torch.autograd.backward(loss_of(plain, clips, future))
    torch.autograd.backward(loss_of(fast_step(fast), clips, future))
    reconstruction, prediction = exact(clips.double())
    by_frame = (prediction - future.double()).square().mean(dim=(0, 1, 3, 4))
    loss = (reconstruction - clips.double()).square().mean()
    loss = loss + (by_frame * prediction_weights("source", FRAMES)).mean()
    torch.autograd.backward(loss)
    for (name, p), q, r in zip(
        plain.named_parameters(), fast.parameters(), exact.parameters(), strict=True
    ):
        assert q.grad is not None
        if q.grad.any():
            # Both jump at a few kinks of LeakyReLU; one jump is about 1e-3.
            assert relative_error(q.grad, r.grad) < 5 * relative_error(p.grad, r.grad) + 3e-3, name


def test_norm_and_leaky_relu_equals_float64_with_all_gradients_and_statistics() -> None:
    x = (torch.randn(2, 6, 4, 32, 24) * 0.3 + 2).contiguous(memory_format=torch.channels_last_3d)
    grad = torch.randn_like(x) + 0.1
    norm = nn.BatchNorm3d(6)
    nn.init.normal_(norm.weight)
    exact_norm = copy.deepcopy(norm).double()
    inputs, exact_inputs = x.clone().requires_grad_(), x.double().requires_grad_()
    got = norm_and_leaky_relu(inputs, norm, 0.01)
    expected = functional.leaky_relu(exact_norm(exact_inputs), 0.01)
    torch.autograd.backward(got, grad)
    torch.autograd.backward(expected, grad.double())
    assert relative_error(got, expected) < 1e-6
    assert relative_error(inputs.grad, exact_inputs.grad) < 1e-5
    for name in ("weight", "bias"):
        assert relative_error(getattr(norm, name).grad, getattr(exact_norm, name).grad) < 1e-5
    assert relative_error(norm.running_mean, exact_norm.running_mean) < 1e-6
    assert relative_error(norm.running_var, exact_norm.running_var) < 1e-6
    assert norm.num_batches_tracked == 1


def test_the_state_dict_after_a_step_equals_the_plain_one() -> None:
    plain = STAE().train()
    fast = copy.deepcopy(plain)
    clips = moving_blobs(2, FRAMES, 16, torch.Generator().manual_seed(1))
    plain(clips)
    fast_step(fast)(clips)
    assert list(fast.state_dict()) == list(plain.state_dict())
    for (name, expected), got in zip(
        plain.state_dict().items(), fast.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6, msg=name)


def test_in_eval_mode_the_step_equals_the_plain_model_and_its_biases_have_gradients() -> None:
    plain = STAE().eval()
    fast = copy.deepcopy(plain)
    video = moving_blobs(1, 2 * FRAMES, 16, torch.Generator().manual_seed(1))
    clips, future = video[:, :, :FRAMES], video[:, :, FRAMES:]
    torch.autograd.backward(loss_of(plain, clips, future))
    torch.autograd.backward(loss_of(fast_step(fast), clips, future))
    for (name, p), q in zip(plain.named_parameters(), fast.named_parameters(), strict=True):
        assert relative_error(q[1].grad, p.grad) <= 1e-4, name


@pytest.mark.parametrize("shape", [(2, 32, 4, 6, 8), (1, 5, 2, 2, 4)])
def test_conv_to_one_channel_equals_conv3d_with_all_gradients(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last_3d)
    weight, bias = torch.randn(1, shape[1], 3, 3, 3).double(), torch.randn(1).double()
    arguments = [t.requires_grad_() for t in (x, weight, bias)]
    expected = functional.conv3d(x, weight, bias, padding=1)
    got = conv_to_one_channel(x, weight, bias)
    torch.testing.assert_close(got, expected)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(got, arguments, grad), torch.autograd.grad(expected, arguments, grad)
    )


@pytest.mark.parametrize("frames", [8, 16])
def test_bf16_gradients_are_finite_and_near_fp32_whatever_freed_memory_holds(frames: int) -> None:
    keep_freed_memory()  # else the kernel would clear what we poison
    exact = STAE().train()
    video = moving_blobs(2, frames, 32, torch.Generator().manual_seed(1))
    target = video.flip(2)

    def gradients(step: Step, model: STAE) -> list[Tensor]:
        reconstruction, prediction = step(video)
        loss = ((reconstruction - video) ** 2 + (prediction - target) ** 2).mean()
        poison_freed_memory()
        return list(torch.autograd.grad(loss, list(model.parameters())))

    expected = gradients(fast_step(exact), exact)
    for _ in range(3):
        rounded = copy.deepcopy(exact)
        for (name, _p), got, want in zip(
            exact.named_parameters(), gradients(fast_step(rounded, "bf16"), rounded), expected,
            strict=True,
        ):  # fmt: skip
            assert got.isfinite().all(), name
            if want.any():
                cosine = functional.cosine_similarity(got.flatten(), want.flatten(), 0)
                assert cosine > 0.9, f"{name}: {float(cosine)}"


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_the_bf16_weight_gradient_is_right_at_depths_called_safe(depth: int) -> None:
    assert not depth_is_unsafe_in_bf16(depth)
    keep_freed_memory()
    x, grad = torch.randn(2, 2, 64, depth, 8, 8).bfloat16().unbind(0)
    weight = torch.randn(64, 64, 3, 3, 3).bfloat16()
    memory_format = torch.channels_last_3d

    def weight_gradient(dtype: torch.dtype) -> Tensor:
        w = weight.to(dtype).requires_grad_()
        y = functional.conv3d(x.to(dtype).contiguous(memory_format=memory_format), w, padding=1)
        poison_freed_memory()
        return torch.autograd.grad(y, w, grad.to(dtype))[0].float()

    assert relative_error(weight_gradient(torch.bfloat16), weight_gradient(torch.float32)) < 0.01


def test_bf16_training_follows_fp32_training() -> None:
    curves: dict[Precision, list[float]] = {"fp32": [], "bf16": []}
    for precision, losses in curves.items():
        torch.manual_seed(3)
        model = STAE().train()
        step = fast_step(model, precision)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        generator = torch.Generator().manual_seed(4)
        for _ in range(15):
            video = moving_blobs(2, 2 * FRAMES, 32, generator)
            loss = loss_of(step, video[:, :, :FRAMES], video[:, :, FRAMES:])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(float(loss.detach()))
    fp32, bf16 = torch.tensor(curves["fp32"]), torch.tensor(curves["bf16"])
    assert fp32[-1] < 0.8 * fp32[0]
    assert ((bf16 - fp32).abs() / fp32).max() < 0.1


def test_the_step_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="Choose 'fp32' or 'bf16'"):
        fast_step(STAE(), "fp16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="float32 parameters on the CPU"):
        fast_step(STAE().double())
    with pytest.raises(ValueError, match="multiples of 8"):
        fast_step(STAE())(torch.zeros(1, 1, 12, 16, 16))


def test_the_step_leaves_the_module_itself_alone() -> None:
    model = STAE()
    before = {name: type(module) for name, module in model.named_modules()}
    fast_step(model)(torch.rand(2, 1, 8, 8, 8))
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())
