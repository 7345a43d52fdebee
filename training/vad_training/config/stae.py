"""Settings of the STAE."""

from typing import Literal

from vad_runtime.contracts import ClipSpec
from vad_training.config.common import Count, Fraction, NotNegative, Positive, Seed, Strict


class DataConfig(Strict, frozen=True, kw_only=True):
    """Which windows of the footage are trained on."""

    window_step: Count = 2
    """Clip frames from the start of one training window to the next."""
    validation_fraction: Fraction = 0.2
    """Share of the videos (of the frames, with one video) that is kept for validation."""
    validation_windows: Count = 64
    """At most this many windows, spread evenly, give the validation loss."""


class AugmentConfig(Strict, frozen=True, kw_only=True):
    """Random changes, the same for every frame of a window and of its future."""

    rotation_deg: NotNegative = 2.0
    """Rotation by up to this angle to either side, degrees."""
    blur_sigma: NotNegative = 1.0
    """Gaussian blur with a sigma of up to this many pixels, on every other window."""


class OptimiserConfig(Strict, frozen=True, kw_only=True):
    """Adam and its learning rate."""

    learning_rate: Positive = 1e-4
    weight_decay: NotNegative = 1e-5
    batch: Count = 4
    schedule: Literal["step", "cosine"] = "step"
    """`step`: times `gamma` at each milestone. `cosine`: a short warm-up, then down to 2 %."""
    milestones: tuple[Count, ...] = (25,)
    """Epochs, counted from 0, from which the rate is lower (`step`)."""
    gamma: Positive = 0.1


class LossConfig(Strict, frozen=True, kw_only=True):
    """The STAE's loss."""

    future_offset: Count = 16
    """Clip frames from a window's start to the start of the future that it predicts."""
    prediction_weights: Literal["source", "paper"] = "source"


class StaeConfig(Strict, frozen=True, kw_only=True):
    """Everything a run depends on, beside the footage. Defaults: the published recipe."""

    family: Literal["stae"] = "stae"
    clip: ClipSpec = ClipSpec(frames=16, hop=4, height=128, width=128, colour="gray")
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    loss: LossConfig = LossConfig()
    epochs: Count = 40
    steps_per_epoch: Count | None = None
    """Steps after which an epoch ends; None = when every window was seen once."""
    patience: Count | None = None
    """Stop after this many epochs without a better validation loss; None = never."""
    seed: Seed = 0
    device: str = "auto"
    """`auto` = the first CUDA device if there is one, else the CPU; or a PyTorch device name."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the heavy layers; weights, loss and optimiser are always float32. `auto` =
    bf16 where the device computes in it, else fp32."""
    threads: Count | None = None
    """CPU threads; None = PyTorch's own choice."""
