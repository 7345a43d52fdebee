"""The STAE's architecture and its loss."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vad_training.losses import prediction_weights, stae_loss
from vad_training.models import STAE

DATA = Path(os.environ.get("VAD_DATA", Path(__file__).parents[3] / "shared" / "data"))


def published_state() -> dict[str, Tensor]:
    path = DATA / "stae" / "model_final_checkpoint.pth"
    if not path.exists():
        if os.environ.get("VAD_REQUIRE_DATA") == "1":
            pytest.fail(f"VAD_REQUIRE_DATA=1, but {path} is missing.")
        pytest.skip(f"{path} is missing; set VAD_DATA to the data folder.")
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


@pytest.mark.data
def test_the_published_checkpoint_loads_strictly() -> None:
    state = published_state()
    assert len(state) == 88
    model = STAE()
    model.load_state_dict(state, strict=True)
    assert list(model.state_dict()) == list(state)


@pytest.mark.data
def test_the_published_weights_reconstruct_a_smooth_clip() -> None:
    model = STAE().eval()
    model.load_state_dict(published_state(), strict=True)
    ramp = torch.linspace(0.3, 0.6, 64)
    clip = ramp.expand(1, 1, 16, 64, 64)
    with torch.inference_mode():
        reconstruction, prediction = model(clip)
    assert (reconstruction - clip)[..., 8:-8, 8:-8].abs().mean() < 0.05
    assert (prediction - clip)[..., 8:-8, 8:-8].abs().mean() < 0.10


@pytest.mark.parametrize("shape", [(2, 1, 16, 16, 24), (1, 1, 8, 8, 8)])
def test_both_outputs_have_the_shape_of_the_clips_and_are_grey_values(shape: tuple[int]) -> None:
    model = STAE().eval()
    with torch.inference_mode():
        outputs = model(torch.rand(shape))
    for output in outputs:
        assert output.shape == shape
        assert output.min() >= 0
        assert output.max() <= 1


def test_forward_is_encode_then_reconstruct_and_predict() -> None:
    model = STAE().eval()
    clips = torch.rand(1, 1, 16, 16, 24)
    with torch.inference_mode():
        code = model.encode(clips)
        assert code.shape == (1, 64, 2, 2, 3)
        reconstruction, prediction = model(clips)
        torch.testing.assert_close(model.reconstruct(code), reconstruction)
        torch.testing.assert_close(model.predict(code), prediction)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 12, 16, 16), "T is 12"),
        ((1, 1, 16, 20, 16), "H is 20"),
        ((1, 1, 16, 16, 0), "W is 0"),
        ((1, 3, 16, 16, 16), "grey clips"),
        ((16, 16, 16), "grey clips"),
    ],
)
def test_other_shapes_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STAE()(torch.zeros(shape))


def test_source_weights_fall_from_t_minus_1_to_0() -> None:
    assert prediction_weights("source", 4).tolist() == [3, 2, 1, 0]


def test_paper_weights_are_the_source_weights_over_t_squared() -> None:
    assert prediction_weights("paper", 4).tolist() == [3 / 16, 2 / 16, 1 / 16, 0]


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="Choose 'source' or 'paper'"):
        prediction_weights("none", 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one frame"):
        prediction_weights("paper", 0)


def random_batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.rand(2, 1, 4, 8, 8, generator=generator) for _ in range(4)]
    return tensors[0], tensors[1], tensors[2], tensors[3]


def test_the_loss_is_the_written_formula() -> None:
    reconstruction, prediction, clips, future = random_batch()
    weights = prediction_weights("source", 4)
    loss = stae_loss(
        reconstruction, prediction, clips, future, torch.ones(2, 4, dtype=torch.bool), weights
    )
    expected = sum(
        weights[t] * ((prediction - future)[:, :, t] ** 2).mean() for t in range(4)
    ) / 4  # fmt: skip
    torch.testing.assert_close(loss.reconstruction, ((reconstruction - clips) ** 2).mean())
    torch.testing.assert_close(loss.prediction, expected)
    torch.testing.assert_close(loss.total, loss.reconstruction + loss.prediction)


def test_absent_frames_have_no_influence_even_when_they_are_nan() -> None:
    reconstruction, prediction, clips, future = random_batch()
    prediction.requires_grad_()
    future[1, :, 2:] = float("nan")
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    weights = prediction_weights("source", 4)
    loss = stae_loss(reconstruction, prediction, clips, future, mask, weights)
    error = (prediction - future)[:, 0].square().mean(dim=(2, 3)) * weights
    torch.testing.assert_close(loss.prediction, error[mask].sum() / 6)
    torch.autograd.backward(loss.total)
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
    assert (prediction.grad[1, :, 2:] == 0).all()
    assert (prediction.grad[1, :, :2] != 0).any()


def test_a_batch_without_any_future_has_prediction_loss_0() -> None:
    reconstruction, prediction, clips, future = random_batch()
    prediction.requires_grad_()
    mask = torch.zeros(2, 4, dtype=torch.bool)
    nan = torch.full_like(future, float("nan"))
    loss = stae_loss(reconstruction, prediction, clips, nan, mask, prediction_weights("paper", 4))
    torch.autograd.backward(loss.total)
    assert loss.prediction == 0
    assert prediction.grad is not None
    assert (prediction.grad == 0).all()


def test_the_loss_refuses_shapes_that_do_not_fit() -> None:
    reconstruction, prediction, clips, future = random_batch()
    mask = torch.ones(2, 4, dtype=torch.bool)
    weights = prediction_weights("source", 4)
    with pytest.raises(ValueError, match="future has shape"):
        stae_loss(reconstruction, prediction, clips, future[:, :, :3], mask, weights)
    with pytest.raises(ValueError, match="future_mask must be bool"):
        stae_loss(reconstruction, prediction, clips, future, mask.float(), weights)
    with pytest.raises(ValueError, match="weights has shape"):
        stae_loss(reconstruction, prediction, clips, future, mask, weights[:3])
