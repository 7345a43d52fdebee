"""Settings of the family `backbone-ae`: a video backbone and an autoencoder of its embeddings."""

from typing import Annotated, Literal

import msgspec

from vad_training.config.common import (
    BackboneConfig,
    ClipChoice,
    Count,
    Fraction,
    NotNegative,
    Positive,
    Seed,
    Share,
    Strict,
)


class AutoencoderConfig(Strict, frozen=True, kw_only=True):
    """The autoencoder between embedding and latent."""

    hidden: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)] = (256, 128)
    """Sizes from the embedding to the latent, the latent last."""
    dropout: Share = 0.3
    batch_norm: bool = True
    """BatchNorm1d in front of the first layer."""
    loss: Literal["mse", "huber"] = "mse"
    """Summed over the dimensions of the embedding, mean over the clips."""


class ClipDataConfig(Strict, frozen=True, kw_only=True):
    """Which clips are trained on."""

    classes: tuple[str, ...] = ()
    """Train on these classes of the table alone; none = on all of its split `train`."""
    validation_fraction: Fraction = 0.2
    """Share of the videos that is kept for validation, where the table has no split `val`."""
    clips_per_video: Count | None = None
    """At most this many clips of a video, spread evenly; None = every one at `clip.hop`."""


class AdamConfig(Strict, frozen=True, kw_only=True):
    """Adam and the schedule of its learning rate."""

    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.0
    batch: Count = 8
    """Clips in a step."""
    schedule: Literal["constant", "step", "multistep", "plateau", "cosine", "warm_restarts"] = (
        "step"
    )
    """As the schedulers of PyTorch: StepLR, MultiStepLR, ReduceLROnPlateau (on the validation
    loss, so lower is better), CosineAnnealingLR, CosineAnnealingWarmRestarts."""
    milestones: tuple[Count, ...] = (5, 10, 25, 50)
    """Epochs from which the rate is lower (`multistep`)."""
    period: Count = 10
    """Epochs: step size (`step`), patience (`plateau`), cycle (`warm_restarts`)."""
    gamma: Positive = 0.1
    """Factor on the rate (`step`, `multistep`, `plateau`)."""


class UnfreezeConfig(Strict, frozen=True, kw_only=True):
    """Training the backbone too."""

    epoch: Count | None = None
    """Epoch, from 0, from which the backbone is trained; None = never. From then on clips run
    through it in every step; before, embeddings come from the cache."""
    first_parameter: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Parameters of the backbone before this index stay frozen."""
    learning_rate_factor: Positive = 0.1
    """Rate of the backbone's parameters as a multiple of the autoencoder's."""


class BackboneAeConfig(Strict, frozen=True, kw_only=True):
    """Everything a run depends on, beside the footage."""

    family: Literal["backbone-ae"] = "backbone-ae"
    backbone: BackboneConfig = BackboneConfig()
    clip: ClipChoice = ClipChoice()
    data: ClipDataConfig = ClipDataConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    optimiser: AdamConfig = AdamConfig()
    unfreeze: UnfreezeConfig = UnfreezeConfig()
    epochs: Count = 50
    steps_per_epoch: Count | None = None
    """Steps after which an epoch ends; None = when every clip was seen once."""
    patience: Count | None = None
    """Stop after this many epochs without a better validation loss; None = never."""
    seed: Seed = 0
    device: str = "auto"
    """`auto` = the first CUDA device if there is one, else the CPU; or a PyTorch device name."""
    threads: Count | None = None
    """CPU threads; None = PyTorch's own choice."""
