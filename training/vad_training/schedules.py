"""Learning rates as functions of the step alone, so that a resumed run has the same ones.

Each equals the scheduler of PyTorch that it is named after, stepped once an epoch.
"""

import math
from collections.abc import Sequence

from vad_training.config.backbone_ae import AdamConfig

_LEAST_GAIN = 1e-4
"""Share by which a loss must fall to count as better (`threshold` of ReduceLROnPlateau)."""


def scheduled_rate(settings: AdamConfig, epoch: int, epochs: int, losses: Sequence[float]) -> float:
    """Return the learning rate of an epoch.

    `step`: StepLR. `multistep`: MultiStepLR. `plateau`: ReduceLROnPlateau in the mode `min`.
    `cosine`: CosineAnnealingLR down to 0 over the whole run. `warm_restarts`:
    CosineAnnealingWarmRestarts with cycles of equal length.

    Args:
        settings: Rate at the start, and the schedule.
        epoch: From 0.
        epochs: Epochs of the whole run.
        losses: Validation loss of each epoch before this one (`plateau`).
    """
    start, gamma, period = settings.learning_rate, settings.gamma, settings.period
    if settings.schedule == "step":
        return start * gamma ** (epoch // period)
    if settings.schedule == "multistep":
        return start * gamma ** sum(epoch >= milestone for milestone in settings.milestones)
    if settings.schedule == "plateau":
        return start * gamma ** _plateaus(losses, period)
    if settings.schedule == "cosine":
        return start * (1 + math.cos(math.pi * epoch / epochs)) / 2
    if settings.schedule == "warm_restarts":
        return start * (1 + math.cos(math.pi * (epoch % period) / period)) / 2
    return start


def _plateaus(losses: Sequence[float], patience: int) -> int:
    """Return how often more than `patience` epochs in a row brought no lower loss."""
    best, without_gain, plateaus = math.inf, 0, 0
    for loss in losses:
        without_gain += 1
        if loss < best * (1 - _LEAST_GAIN):
            best, without_gain = loss, 0
        if without_gain > patience:
            plateaus, without_gain = plateaus + 1, 0
    return plateaus
