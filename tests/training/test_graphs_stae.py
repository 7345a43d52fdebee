"""The graph around a model: every form of the score against plain numpy."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_one_line, clip_spec

from vad_runtime.contracts import ConfigError
from vad_training.graphs.stae import (
    FORMS,
    OPTIONAL_OUTPUTS,
    Form,
    ScoreForm,
    StaeScore,
    output_specs,
)
from vad_training.models.stae import STAE

T, SIZE = 8, 16
CLIP = clip_spec(height=SIZE, width=SIZE)


@pytest.fixture(scope="module")
def model() -> STAE:
    """An untrained model whose normalisation layers have seen something."""
    torch.manual_seed(0)
    made = STAE()
    made.train()
    with torch.no_grad():
        for _ in range(3):
            made(torch.rand(2, 1, T, SIZE, SIZE))
    return made.eval()


def clips_of(frames: int, count: int = 2, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, frames, SIZE, SIZE, 1), np.uint8)


def grey(frames: np.ndarray[Any, Any]) -> torch.Tensor:
    """Turn frames (N, T, H, W, 1) into the model's input (N, 1, T, H, W)."""
    return torch.from_numpy(frames[..., 0][:, None].astype(np.float32) / np.float32(255))


def error(
    frames: np.ndarray[Any, Any], guess: torch.Tensor
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the squared error of each frame summed over its pixels, in double precision."""
    wanted = frames[..., 0].astype(np.float64) / 255
    squares: np.ndarray[Any, np.dtype[np.float64]] = (
        wanted - guess.numpy()[:, 0].astype(np.float64)
    ) ** 2
    return squares.sum(axis=(2, 3))


def expected(
    model: STAE, form: ScoreForm, clips: np.ndarray[Any, Any]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Compute the score from docs/bundle-format.md's table, with the model's own methods."""
    head = clips[:, :T]
    with torch.inference_mode():
        reconstruct = error(head, model.reconstruct(model.encode(grey(head))))
        if form.form == "reconstruction":
            return reconstruct
        prediction = model.predict(model.encode(grey(head)))
        if form.form == "lookahead":
            d = form.future_offset
            return reconstruct + form.alpha * error(clips[:, d : d + T], prediction)
        now = clips[:, T:]
        predicted = error(now, prediction)
        if form.form == "prediction":
            return predicted
        return error(now, model.reconstruct(model.encode(grey(now)))) + form.alpha * predicted


def scores(
    model: STAE, form: ScoreForm, clips: np.ndarray[Any, Any], outputs: tuple[str, ...] = ()
) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    graph = StaeScore(model, T, form, list(outputs)).eval()
    with torch.inference_mode():
        return [value.numpy() for value in graph(torch.from_numpy(clips))]


@pytest.mark.parametrize("alpha", [1.0, 0.25])
@pytest.mark.parametrize("form", FORMS)
def test_the_score_is_the_sum_of_squares_that_its_form_says(
    model: STAE, form: Form, alpha: float
) -> None:
    chosen = ScoreForm(form=form, alpha=alpha, future_offset=4)
    clips = clips_of(chosen.clip_frames(T))
    (score,) = scores(model, chosen, clips)
    assert score.dtype == np.float32
    np.testing.assert_allclose(score, expected(model, chosen, clips), rtol=1e-5)


@pytest.mark.parametrize(
    ("form", "frames", "first", "alpha"),
    [
        ("reconstruction", 8, 0, None),
        ("prediction", 16, 8, None),
        ("both", 16, 8, 0.5),
        ("lookahead", 11, 0, 0.5),
    ],
)
def test_the_score_spec_says_which_frames_are_scored(
    model: STAE, form: Form, frames: int, first: int, alpha: float | None
) -> None:
    chosen = ScoreForm(form=form, alpha=0.5, future_offset=3)
    spec = chosen.score_spec(T)
    assert chosen.clip_frames(T) == frames
    assert (spec.per, spec.form, spec.first, spec.count) == ("frame", form, first, 8)
    assert spec.alpha == alpha
    assert spec.first + spec.count <= frames
    (score,) = scores(model, chosen, clips_of(frames, 3))
    assert score.shape == (3, spec.count)


@pytest.mark.parametrize("offset", [1, 4, 8, 11])
def test_lookahead_compares_with_the_frames_that_its_offset_says(model: STAE, offset: int) -> None:
    chosen = ScoreForm(form="lookahead", future_offset=offset)
    clips = clips_of(T + offset)
    (score,) = scores(model, chosen, clips)
    np.testing.assert_allclose(score, expected(model, chosen, clips), rtol=1e-5)


def test_a_static_scene_scores_the_same_at_every_offset_of_the_comparison(model: STAE) -> None:
    still = np.repeat(clips_of(1), 16, axis=1)
    by_offset = [
        scores(model, ScoreForm(form="lookahead", future_offset=d), still[:, : T + d])[0]
        for d in (1, 4, 8)
    ]
    np.testing.assert_allclose(by_offset[0], by_offset[1], rtol=1e-6)
    np.testing.assert_allclose(by_offset[0], by_offset[2], rtol=1e-6)


@pytest.mark.parametrize("form", ["reconstruction", "prediction", "both"])
def test_each_score_belongs_to_the_frame_in_its_place(model: STAE, form: Form) -> None:
    chosen = ScoreForm(form=form)
    spec = chosen.score_spec(T)
    clips = clips_of(chosen.clip_frames(T), 1)
    (before,) = scores(model, chosen, clips)
    for j in range(spec.count):
        changed = clips.copy()
        changed[0, spec.first + j] = 255 - changed[0, spec.first + j] // 4
        (after,) = scores(model, chosen, changed)
        assert np.argmax(np.abs(after - before)[0]) == j


# -- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["reconstruction", "prediction", "both"])
def test_a_causal_form_needs_no_frame_after_those_it_scores(model: STAE, form: Form) -> None:
    chosen = ScoreForm(form=form)
    spec = chosen.score_spec(T)
    assert spec.first + spec.count == chosen.clip_frames(T)
    footage = clips_of(40, 1)
    other = footage.copy()
    other[:, 24:] = 0
    frames = chosen.clip_frames(T)
    for start in range(0, 24 - frames + 1, 4):
        (one,) = scores(model, chosen, footage[:, start : start + frames])
        (two,) = scores(model, chosen, other[:, start : start + frames])
        np.testing.assert_array_equal(one, two)


def test_a_prediction_does_not_see_the_frames_that_it_predicts(model: STAE) -> None:
    chosen = ScoreForm(form="prediction")
    clips = clips_of(16, 1)
    changed = clips.copy()
    changed[:, T:] = 0
    _, one = scores(model, chosen, clips, ("prediction",))
    _, two = scores(model, chosen, changed, ("prediction",))
    np.testing.assert_array_equal(one, two)


def test_a_frame_of_the_context_changes_no_comparison_but_the_prediction(model: STAE) -> None:
    chosen = ScoreForm(form="both", alpha=0.0)
    clips = clips_of(16, 1)
    changed = clips.copy()
    changed[:, :T] = 0
    np.testing.assert_array_equal(
        scores(model, chosen, clips)[0], scores(model, chosen, changed)[0]
    )


# -- optional outputs --------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_optional_outputs_have_the_shapes_that_the_manifest_gets(model: STAE, form: Form) -> None:
    chosen = ScoreForm(form=form, future_offset=4)
    absent = {"reconstruction": "prediction", "prediction": "reconstruction"}.get(form)
    names = [name for name in OPTIONAL_OUTPUTS if name != absent]
    specs = output_specs(names, chosen, CLIP)
    assert [spec.name for spec in specs] == names
    score, *values = scores(model, chosen, clips_of(chosen.clip_frames(T), 3), tuple(names))
    assert score.shape == (3, T)
    for spec, value in zip(specs, values, strict=True):
        assert spec.shape[0] == "N"
        assert value.shape == (3, *spec.shape[1:])
        assert spec.dtype == value.dtype.name
        assert spec.meaning


def test_outputs_come_in_the_order_in_which_they_were_asked_for(model: STAE) -> None:
    clips = clips_of(T, 1)
    _, latent, guess = scores(model, ScoreForm(), clips, ("latent", "reconstruction"))
    _, again, code = scores(model, ScoreForm(), clips, ("reconstruction", "latent"))
    np.testing.assert_array_equal(latent, code)
    np.testing.assert_array_equal(guess, again)
    with torch.inference_mode():
        np.testing.assert_array_equal(latent, model.encode(grey(clips)).numpy())


def test_the_latent_of_a_form_with_context_is_that_of_the_scored_clip(model: STAE) -> None:
    clips = clips_of(16, 1)
    _, latent = scores(model, ScoreForm(form="both"), clips, ("latent",))
    with torch.inference_mode():
        np.testing.assert_array_equal(latent, model.encode(grey(clips[:, T:])).numpy())


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("reconstruction", "prediction"),
        ("prediction", "reconstruction"),
        ("both", "distance"),
        ("lookahead", "score"),
        ("both", ""),
    ],
)
def test_an_output_that_the_form_lacks_is_one_line(form: Form, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        output_specs(["latent", name], ScoreForm(form=form), CLIP)
    assert_one_line(caught.value, form, repr(name), "Choose from: latent")
