"""The graph of the STAE: one score a frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec
import torch
from torch import Tensor, nn

from vad_runtime.contracts import ClipSpec, ConfigError, OutputSpec, ScoreSpec
from vad_training.graphs.base import ScoreGraph, chosen_outputs
from vad_training.models.stae import STAE, STRIDE

FAMILY = "stae"

Form = Literal["reconstruction", "prediction", "both", "lookahead"]
"""What a frame's score is made of; see `StaeScore`."""

FORMS: tuple[Form, ...] = get_args(Form)

OPTIONAL_OUTPUTS: dict[str, str] = {
    "latent": "bottleneck of the scored clip",
    "reconstruction": "reconstructed frames, grey in 0..1",
    "prediction": "predicted frames, grey in 0..1",
}


@dataclass(frozen=True, kw_only=True)
class ScoreForm:
    """A form with its parameters."""

    form: Form = "reconstruction"
    alpha: float = 1.0
    """Weight of the prediction error (forms `both` and `lookahead`)."""
    future_offset: int = 16
    """Frames from the start of a clip to the start of what it is compared with (`lookahead`)."""

    def clip_frames(self, model_frames: int) -> int:
        """Return how many frames the graph takes for a model with `model_frames`."""
        if self.form == "reconstruction":
            return model_frames
        if self.form == "lookahead":
            return model_frames + self.future_offset
        return 2 * model_frames

    def score_spec(self, model_frames: int) -> ScoreSpec:
        """Return the meaning of the output `score`."""
        context_first = self.form in ("prediction", "both")
        return ScoreSpec(
            per="frame",
            form=self.form,
            first=model_frames if context_first else 0,
            count=model_frames,
            alpha=self.alpha if self.form in ("both", "lookahead") else None,
        )


class StaeScore(nn.Module):
    """The STAE as a graph of the contract.

    ::

        form             clip frames      compared                                   scored
        reconstruction   [ 0..15 ]        frames with their reconstruction           0..15
        prediction       [ 0..15 16..31 ] 16..31 with what 0..15 predicted           16..31
        both             [ 0..15 16..31 ] the same, plus 16..31 reconstructed        16..31
        lookahead        [ 0..15 ..15+d ] 0..15 reconstructed, plus the prediction   0..15
                                          from 0..15 with frames d..15+d

    `prediction` and `both` are causal: a prediction made 16 frames ago meets the frames that have
    arrived. `lookahead` is the form of the published offline code (d = 4 there), where a frame's
    score waits for d later frames.

    The score of a frame is the sum over pixels of the squared error on a grey scale of 0..1; with
    both terms `reconstruction + alpha * prediction` (Zhao et al., ACM MM 2017, eq. 6 on).
    """

    def __init__(self, model: STAE, model_frames: int, form: ScoreForm, outputs: list[str]) -> None:
        super().__init__()
        self.model = model
        self.frames = model_frames
        self.form = form
        self.outputs = outputs

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        """Score clips of shape (N, T, H, W, 1), uint8; return `score` and the asked outputs."""
        # The cast comes first: TensorRT moves no uint8.
        frames = clip.to(torch.float32).permute(0, 4, 1, 2, 3) / 255.0
        size = self.frames
        head = frames[:, :, :size]
        extra: dict[str, Tensor] = {}
        want = self.form.form
        if want == "reconstruction":
            code = self.model.encode(head)
            score, extra["reconstruction"] = self._reconstructed(head, code)
        elif want == "lookahead":
            code = self.model.encode(head)
            score, extra["reconstruction"] = self._reconstructed(head, code)
            future = frames[:, :, self.form.future_offset : self.form.future_offset + size]
            error, extra["prediction"] = self._predicted(future, code)
            score = score + self.form.alpha * error
        else:
            now = frames[:, :, size : 2 * size]
            code = self.model.encode(head)
            score, extra["prediction"] = self._predicted(now, code)
            if want == "both":
                code = self.model.encode(now)
                error, extra["reconstruction"] = self._reconstructed(now, code)
                score = error + self.form.alpha * score
        extra["latent"] = code
        return (score, *(extra[name] for name in self.outputs))

    def _reconstructed(self, clips: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        guess = self.model.reconstruct(code)
        return _frame_error(clips, guess), guess

    def _predicted(self, clips: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        guess = self.model.predict(code)
        return _frame_error(clips, guess), guess


def _frame_error(clips: Tensor, guess: Tensor) -> Tensor:
    """Return the squared error summed over the pixels of each frame, shape (N, T)."""
    difference = clips - guess
    return (difference * difference).sum(dim=(1, 3, 4))


def stae_graph(
    model: STAE,
    clip: ClipSpec,
    form: ScoreForm,
    *,
    outputs: Sequence[str] = (),
    trained_offset: int | None = None,
    training: dict[str, Any] | None = None,
) -> ScoreGraph:
    """Return the graph around a trained model.

    Args:
        model: On the CPU, in eval mode; the graph keeps it.
        clip: The model's own clip; forms with context take more frames.
        form: What a score is made of.
        outputs: Names of optional outputs.
        trained_offset: Frames from a clip to the future that the model was trained to predict;
            None = not known.
        training: For the manifest.

    Raises:
        ConfigError: An output that this form does not have, or a form that compares other frames
            than the model was trained to predict.
    """
    compared = form.form in ("prediction", "both")
    if compared and trained_offset is not None and trained_offset != clip.frames:
        raise ConfigError(
            f"form {form.form} compares with the frames {clip.frames} later, but this model is "
            f"trained to predict those {trained_offset} later (loss.future_offset). Choose "
            f"reconstruction or lookahead, or train with loss.future_offset={clip.frames}."
        )
    specs = output_specs(list(outputs), form, clip)
    return ScoreGraph(
        family=FAMILY,
        module=StaeScore(model, clip.frames, form, list(outputs)).eval(),
        clip=msgspec.structs.replace(clip, frames=form.clip_frames(clip.frames)),
        score=form.score_spec(clip.frames),
        outputs=specs,
        training=training or {},
    )


def output_specs(names: list[str], form: ScoreForm, clip: ClipSpec) -> list[OutputSpec]:
    """Return the manifest entries of optional outputs.

    Raises:
        ConfigError: An output that this form of the graph does not have.
    """
    absent = {"reconstruction": "prediction", "prediction": "reconstruction"}.get(form.form)
    pixels = [1, clip.frames, clip.height, clip.width]
    code = [64, clip.frames // STRIDE, clip.height // STRIDE, clip.width // STRIDE]
    have = {
        name: OutputSpec(
            name=name, shape=["N", *(code if name == "latent" else pixels)], meaning=meaning
        )
        for name, meaning in OPTIONAL_OUTPUTS.items()
        if name != absent
    }
    return chosen_outputs(names, have, f"form {form.form}")
