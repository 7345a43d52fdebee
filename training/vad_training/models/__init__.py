"""The trainable networks."""

from vad_training.models.stae import STAE

__all__ = ["STAE"]
