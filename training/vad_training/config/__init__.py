"""Training configurations, one class for each model family.

::

    common.py       types and settings that several families share
    stae.py         StaeConfig         spatio-temporal autoencoder
    backbone_ae.py  BackboneAeConfig   video backbone + autoencoder
    mil.py          MilConfig          features + MIL ranking head
    read.py         YAML in, YAML out
"""

from vad_training.config.backbone_ae import BackboneAeConfig
from vad_training.config.common import BackboneConfig, ClipChoice
from vad_training.config.mil import MilConfig
from vad_training.config.read import (
    FAMILIES,
    TrainConfig,
    config_from_tree,
    read_config,
    tree_from_config,
    yaml_from_config,
)
from vad_training.config.stae import (
    AugmentConfig,
    DataConfig,
    LossConfig,
    OptimiserConfig,
    StaeConfig,
)

__all__ = [
    "FAMILIES",
    "AugmentConfig",
    "BackboneAeConfig",
    "BackboneConfig",
    "ClipChoice",
    "DataConfig",
    "LossConfig",
    "MilConfig",
    "OptimiserConfig",
    "StaeConfig",
    "TrainConfig",
    "config_from_tree",
    "read_config",
    "tree_from_config",
    "yaml_from_config",
]
