"""Settings of the family `mil`: features of weakly labelled videos and a ranking head."""

from typing import Annotated, Literal

import msgspec

from vad_training.config.common import (
    BackboneConfig,
    ClipChoice,
    Count,
    NotNegative,
    Positive,
    Seed,
    Share,
    Strict,
)


class FeaturesConfig(Strict, frozen=True, kw_only=True):
    """What a bag is made of."""

    modality: Literal["rgb", "flow", "two"] = "rgb"
    """`two`: rgb and flow side by side."""
    segments: Count = 32
    """Segments of a video: instances of its bag."""
    normalise: bool = True
    """L2-normalise each segment's feature."""
    normal: tuple[str, ...] = ("*normal*",)
    """Folders (or names) that match one of these patterns hold normal videos; case is ignored."""
    validation_fraction: Share = 0.2
    """Share of the videos, in each class, that is kept for validation. 0: train on all of them,
    and take the weights of the last epoch; for when the settings are chosen already."""


class HeadConfig(Strict, frozen=True, kw_only=True):
    """The head from features to scores."""

    kind: Literal["sultani", "topk", "rtfm"] = "sultani"
    """Sultani et al. 2018 (ranking); top-k binary cross-entropy; RTFM-style feature magnitude."""
    hidden: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)] = (512, 32)
    dropout: Share = 0.6
    top_k: Count = 3
    """Segments of a bag that are taken (`topk`, `rtfm`)."""
    members: Count = 1
    """So many heads, trained side by side on the same bags; the score is their mean."""


class MilLossConfig(Strict, frozen=True, kw_only=True):
    """The loss over bags."""

    pairs: Literal["all", "paired"] = "all"
    """`sultani`: every anomalous bag against every normal one, or bag i against bag i."""
    sparsity: NotNegative = 8e-5
    smoothness: NotNegative = 8e-5
    magnitude: NotNegative = 1e-4
    """Weight of the feature magnitude's margin loss (`rtfm`)."""
    margin: Positive = 100.0
    """That margin, in units of the feature's norm (`rtfm`)."""


class MilOptimiserConfig(Strict, frozen=True, kw_only=True):
    """Optimiser and schedule."""

    kind: Literal["adagrad", "adam"] = "adagrad"
    learning_rate: Positive = 1e-2
    weight_decay: NotNegative = 1e-3
    """L2 on the weights (not on biases)."""
    batch: Count = 30
    """Bags of each class in a step."""
    milestones: tuple[Count, ...] = ()
    """Epochs from which the rate is lower by `gamma`."""
    gamma: Positive = 0.1


class MilConfig(Strict, frozen=True, kw_only=True):
    """Everything a run depends on, beside the features."""

    family: Literal["mil"] = "mil"
    backbone: BackboneConfig | None = None
    """What the features were computed with; an export from clip to score needs it. None: taken
    from the feature files, where they say so."""
    clip: ClipChoice = ClipChoice(stride=1, hop=16)
    features: FeaturesConfig = FeaturesConfig()
    head: HeadConfig = HeadConfig()
    loss: MilLossConfig = MilLossConfig()
    optimiser: MilOptimiserConfig = MilOptimiserConfig()
    epochs: Count = 75
    steps_per_epoch: Count | None = None
    """Steps after which an epoch ends; None = when every bag of the rarer class was seen once."""
    patience: Count | None = None
    """Stop after this many epochs without a better validation loss; None = never."""
    seed: Seed = 0
    device: str = "auto"
    threads: Count | None = None
