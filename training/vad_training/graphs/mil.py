"""The graphs of the family `mil`: clip to score, and a video's features to its segments' scores."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vad_runtime.contracts import ClipSpec, FeatureSpec, OutputSpec, ScoreSpec
from vad_training.graphs.base import ScoreGraph, chosen_form, chosen_outputs
from vad_training.models.backbones.base import ClipEmbedder

FAMILY = "mil"

FORMS = ("probability",)
"""The head ends in a sigmoid, whichever loss it was trained with."""

_LEAST_NORM = 1e-12
"""A feature shorter than this is taken as it is: it has no direction."""


class MilClipScore(nn.Module):
    """Backbone and head as one graph: a clip is a segment of its own.

    Args:
        embedder: In eval mode; becomes a part of this module.
        head: From features (N, S, D) to scores (N, S); likewise.
        normalise: Bring each embedding to length 1 first, as the training has.
        outputs: `embedding` (as the backbone gives it), or none.
    """

    def __init__(
        self,
        embedder: ClipEmbedder,
        head: nn.Module,
        *,
        normalise: bool,
        outputs: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.embedder = embedder
        self.head = head
        self.normalise = normalise
        self.outputs = list(outputs)

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        """Score clips of shape (N, T, H, W, 3), uint8; return `score` and the asked outputs."""
        embedding = self.embedder(clip)
        feature = embedding
        if self.normalise:
            length = torch.sqrt((embedding * embedding).sum(dim=1, keepdim=True))
            feature = embedding / torch.clamp(length, min=_LEAST_NORM)
        score = self.head(feature[:, None])[:, 0]
        return (score, *({"embedding": embedding}[name] for name in self.outputs))


class MilSegmentScore(nn.Module):
    """The head alone as a graph: the features of a video's segments to their scores.

    Args:
        head: From features (N, S, D) to scores (N, S); becomes a part of this module.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Score features of shape (N, S, D), float32, normalised as the manifest says."""
        return (self.head(features),)


def mil_clip_graph(
    embedder: ClipEmbedder,
    head: nn.Module,
    clip: ClipSpec,
    *,
    normalise: bool,
    form: str | None = None,
    outputs: Sequence[str] = (),
    training: dict[str, Any] | None = None,
) -> ScoreGraph:
    """Return the graph from clip to score.

    Args:
        embedder: On the CPU, in eval mode; the graph keeps it.
        head: Likewise.
        clip: The clips that the backbone takes.
        normalise: Whether the head was trained on features of length 1.
        form: `probability`, or None.
        outputs: `embedding`, or none.
        training: For the manifest.

    Raises:
        ConfigError: A form or an output that there is not.
    """
    size = embedder.spec.embedding
    have = {
        "embedding": OutputSpec(
            name="embedding", shape=["N", size], meaning="what the backbone makes of the clip"
        )
    }
    return ScoreGraph(
        family=FAMILY,
        module=MilClipScore(embedder, head, normalise=normalise, outputs=outputs).eval(),
        clip=clip,
        score=ScoreSpec(per="clip", form=chosen_form(FAMILY, form, FORMS)),
        outputs=chosen_outputs(outputs, have, f"the family {FAMILY}"),
        training=training or {},
    )


def mil_head_graph(
    head: nn.Module,
    features: FeatureSpec,
    clip: ClipSpec,
    *,
    form: str | None = None,
    outputs: Sequence[str] = (),
    training: dict[str, Any] | None = None,
) -> ScoreGraph:
    """Return the graph of the head alone.

    Args:
        head: On the CPU, in eval mode; the graph keeps it.
        features: What it takes.
        clip: What one feature was computed from.
        form: `probability`, or None.
        outputs: None; there are no optional ones.
        training: For the manifest.

    Raises:
        ConfigError: A form or an output that there is not.
    """
    return ScoreGraph(
        family=FAMILY,
        module=MilSegmentScore(head).eval(),
        clip=clip,
        score=ScoreSpec(
            per="segment", form=chosen_form(FAMILY, form, FORMS), count=features.segments
        ),
        outputs=chosen_outputs(outputs, {}, "a head alone"),
        features=features,
        training=training or {},
    )
