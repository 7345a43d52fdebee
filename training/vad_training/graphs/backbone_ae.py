"""The graph of the family `backbone-ae`: backbone, autoencoder and class centroids."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from vad_runtime.contracts import ClipSpec, OutputSpec, ScoreSpec
from vad_training.graphs.base import ScoreGraph, chosen_form, chosen_outputs
from vad_training.models.backbone_ae import BackboneAutoencoder

FAMILY = "backbone-ae"

Form = Literal["error", "distance", "latent_distance"]
"""What a clip's score is made of; see `BackboneAeScore`."""

FORMS: tuple[Form, ...] = get_args(Form)


class BackboneAeScore(nn.Module):
    """The model as a graph of the contract: one score a clip.

    ========================  ==========================================================
    form                      score
    ========================  ==========================================================
    `error`                   ``sum((e - ê)^2)`` over the dimensions of the embedding
    `distance`                the least Euclidean distance of the embedding to a centroid
    `latent_distance`         the same for the latent
    ========================  ==========================================================

    A clip is anomalous where *every* centroid is at least t away, so the least distance is what a
    threshold t is compared with.

    Args:
        model: In eval mode; becomes a part of this module.
        form: What the score is made of.
        outputs: Names of optional outputs, which are the fields of `AutoencoderScores`.
    """

    def __init__(self, model: BackboneAutoencoder, form: Form, outputs: Sequence[str] = ()) -> None:
        super().__init__()
        self.model = model
        self.form = form
        self.outputs = list(outputs)

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        """Score clips of shape (N, T, H, W, 3), uint8; return `score` and the asked outputs."""
        found = self.model(clip)
        if self.form == "error":
            score = found.error
        elif self.form == "distance":
            score = torch.amin(found.embedding_distance, dim=1)
        else:
            score = torch.amin(found.latent_distance, dim=1)
        # An output that is the score itself would lose its own name in the graph.
        return (score, *(getattr(found, name).clone() for name in self.outputs))


def backbone_ae_graph(
    model: BackboneAutoencoder,
    clip: ClipSpec,
    *,
    form: str | None = None,
    outputs: Sequence[str] = (),
    training: dict[str, Any] | None = None,
) -> ScoreGraph:
    """Return the graph around a trained model.

    Args:
        model: On the CPU, in eval mode; the graph keeps it.
        clip: The clips that the backbone takes.
        form: One of `FORMS`; None = the first.
        outputs: Names of optional outputs.
        training: For the manifest.

    Raises:
        ConfigError: A form or an output that there is not.
    """
    form = chosen_form(FAMILY, form, FORMS)
    specs = chosen_outputs(outputs, _output_specs(model), f"the family {FAMILY}")
    return ScoreGraph(
        family=FAMILY,
        module=BackboneAeScore(model, form, outputs).eval(),  # type: ignore[arg-type]
        clip=clip,
        score=ScoreSpec(per="clip", form=form),
        outputs=specs,
        training=training or {},
    )


def _output_specs(model: BackboneAutoencoder) -> dict[str, OutputSpec]:
    classes, size = model.embedding_centroids.shape
    latent = model.latent_centroids.shape[1]
    order = f"of {', '.join(model.classes)}, in this order" if model.classes else "of each class"
    shapes_and_meanings: dict[str, tuple[list[int], str]] = {
        "error": ([], "squared error of the embedding's reconstruction, summed"),
        "embedding": ([size], "what the backbone makes of the clip"),
        "latent": ([latent], "bottleneck of the autoencoder"),
        "embedding_distance": (
            [classes],
            f"Euclidean distance of the embedding to the centroid {order}",
        ),
        "latent_distance": (
            [classes],
            f"Euclidean distance of the latent to the centroid {order}",
        ),
    }
    return {
        name: OutputSpec(name=name, shape=["N", *shape], meaning=meaning)
        for name, (shape, meaning) in shapes_and_meanings.items()
    }
