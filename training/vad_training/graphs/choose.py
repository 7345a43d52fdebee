"""From a checkpoint of any family to its graph."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vad_runtime.contracts import ConfigError, InputError
from vad_training.checkpoint import Checkpoint
from vad_training.config import (
    BackboneAeConfig,
    BackboneConfig,
    MilConfig,
    StaeConfig,
    TrainConfig,
)
from vad_training.graphs import backbone_ae, mil, stae
from vad_training.graphs.base import ScoreGraph, chosen_form
from vad_training.graphs.features import MadeFeatures
from vad_training.models.backbone_ae import BackboneAutoencoder
from vad_training.models.backbones.base import clip_of
from vad_training.models.backbones.registry import describe
from vad_training.models.mil import MilHead
from vad_training.models.stae import STAE

FORMS_OF: dict[str, tuple[str, ...]] = {
    stae.FAMILY: stae.FORMS,
    backbone_ae.FAMILY: backbone_ae.FORMS,
    mil.FAMILY: mil.FORMS,
}
"""Forms of the score by family, the default first."""


def graph_from_checkpoint(
    checkpoint: Checkpoint,
    *,
    form: str | None = None,
    alpha: float | None = None,
    future_offset: int | None = None,
    outputs: Sequence[str] = (),
    head_only: bool = False,
    weights: Path | None = None,
    mean: Path | None = None,
) -> ScoreGraph:
    """Return the graph of a trained model.

    Args:
        checkpoint: From `checkpoint_from_path`; the graph keeps its model.
        form: What a score is made of, one of `FORMS_OF` the family; None = the first.
        alpha: Weight of the prediction error (stae); None = 1.
        future_offset: See `ScoreForm` (stae); None = the training's.
        outputs: Names of optional outputs.
        head_only: The graph takes precomputed features (mil).
        weights: The file with the weights of the backbone that computed the features (mil); None =
            the configuration's.
        mean: The file with its mean cube, where it has one.

    Raises:
        ConfigError: A form, an output or an option that the family does not have.
        InputError: Weights that the graph needs are missing.
    """
    config, model = checkpoint.config, checkpoint.model
    family = config.family
    form = chosen_form(family, form, FORMS_OF[family])
    if head_only and family != mil.FAMILY:
        raise ConfigError(f"the family {family} has no head of its own. Leave out --head-only.")
    if family != stae.FAMILY and (alpha is not None or future_offset is not None):
        raise ConfigError(f"alpha and future offset belong to the family stae, not to {family}.")
    if (weights or mean) and (family != mil.FAMILY or head_only):
        raise ConfigError("the weights of a backbone are for the family mil, and not for its head.")
    if isinstance(config, StaeConfig):
        assert isinstance(model, STAE)
        return stae.stae_graph(
            model,
            config.clip,
            stae.ScoreForm(
                form=form,  # type: ignore[arg-type]  # chosen_form has checked it
                alpha=1.0 if alpha is None else alpha,
                future_offset=future_offset or config.loss.future_offset,
            ),
            outputs=outputs,
            trained_offset=config.loss.future_offset,
            training=checkpoint.summary,
        )
    if isinstance(config, BackboneAeConfig):
        assert isinstance(model, BackboneAutoencoder)
        return backbone_ae.backbone_ae_graph(
            model,
            clip_of(model.embedder.spec, config.clip, _fps(checkpoint)),
            form=form,
            outputs=outputs,
            training=_with_backbone(checkpoint, config.backbone),
        )
    assert isinstance(model, MilHead)
    made = MadeFeatures.of(checkpoint.summary, config)
    if head_only:
        return mil.mil_head_graph(
            model,
            made.spec(model.dimension),
            made.clip(),
            form=form,
            outputs=outputs,
            training=checkpoint.summary,
        )
    embedder, about = made.embedder(model.dimension, weights, mean)
    return mil.mil_clip_graph(
        embedder,
        model,
        made.clip(),
        normalise=config.features.normalise,
        form=form,
        outputs=outputs,
        training=checkpoint.summary | {"backbone": about},
    )


def takes_features(config: TrainConfig) -> bool:
    """Return whether a run can only be scored from precomputed features.

    So it is for a MIL head whose backbone is not known, or which looks at optical flow.
    """
    return isinstance(config, MilConfig) and (
        config.backbone is None or config.features.modality != "rgb"
    )


def _fps(checkpoint: Checkpoint) -> float | None:
    """Return the frame rate of the training footage, where it was the same everywhere."""
    fps = checkpoint.summary.get("fps")
    return fps if isinstance(fps, float) else None


def _with_backbone(checkpoint: Checkpoint, backbone: BackboneConfig) -> dict[str, Any]:
    """Return the summary with what is known of the backbone's weights."""
    try:
        about = describe(backbone)
    except InputError:
        # The run holds the weights, so the file that they came from may be gone.
        about = {"name": backbone.name, "weights": Path(str(backbone.weights)).name}
    return checkpoint.summary | {"backbone": about}
