"""Runs of the family `backbone-ae`, read back: for analysis, evaluation and export.

::

    run folder
    ├── config.yaml  log.jsonl  last.pt     see loop.py
    ├── best.pt       autoencoder and centroids; the backbone too where it was trained
    ├── backbone.pt   the frozen backbone; absent where best.pt holds one
    └── table.csv     every video with the split that it had in this run
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vad_runtime.contracts import ClipSpec, InputError
from vad_training.checkpoint_file import SCHEMA, read_checkpoint_file
from vad_training.config import BackboneAeConfig, config_from_tree
from vad_training.models.autoencoder import EmbeddingAutoencoder
from vad_training.models.backbone_ae import BackboneAutoencoder
from vad_training.models.backbones.base import ClipEmbedder, clip_of
from vad_training.models.backbones.registry import load_state, new_embedder, spec_from_config

BACKBONE, TABLE = "backbone.pt", "table.csv"

AUTOENCODER_PREFIX, NETWORK_PREFIX = "autoencoder.", "network."
"""Where a checkpoint's names begin: the parts of the trained model."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderRun:
    """A trained backbone and autoencoder."""

    folder: Path
    model: BackboneAutoencoder
    """On the CPU, float32, in eval mode; the caller owns it."""
    config: BackboneAeConfig
    clip: ClipSpec
    """The clips it was trained on."""
    summary: dict[str, Any]
    """What is known of its training, for the manifest."""


def autoencoder_from_run(folder: Path, *, embedder: ClipEmbedder | None = None) -> AutoencoderRun:
    """Open a run folder of the family `backbone-ae`.

    Args:
        folder: Of `vad-train fit`.
        embedder: A backbone of the run's form, to put the run's weights into; None = built from
            the configuration.

    Raises:
        InputError: No such run, or files that do not fit each other.
        ConfigError: A configuration that this version does not understand.
    """
    file = folder / "best.pt"
    if not file.is_file():
        raise InputError(f"{folder} holds no best.pt. Give a run folder of vad-train fit.")
    content = read_checkpoint_file(file)
    model = load_autoencoder(content, folder, str(file), embedder=embedder)
    config = _config_of(content, str(file))
    return AutoencoderRun(
        folder=folder,
        model=model,
        config=config,
        clip=clip_of(model.embedder.spec, config.clip),
        summary=content.get("summary", {}),
    )


def load_autoencoder(
    content: dict[str, Any], folder: Path, where: str, *, embedder: ClipEmbedder | None = None
) -> BackboneAutoencoder:
    """Return the model of a checkpoint.

    Args:
        content: What `best.pt` or `last.pt` holds.
        folder: Where `backbone.pt` lies.
        where: The checkpoint's name, for messages.
        embedder: See `autoencoder_from_run`.

    Returns:
        On the CPU, float32, in eval mode; the caller owns it.

    Raises:
        InputError: Something is missing or does not fit.
        ConfigError: A configuration that this version does not understand.
    """
    config = _config_of(content, where)
    weights, centroids = content.get("model"), content.get("centroids")
    if not isinstance(weights, dict) or not isinstance(centroids, dict):
        raise InputError(f"{where} holds no autoencoder with centroids. Give a run's best.pt.")
    network = _part(weights, NETWORK_PREFIX)
    network_from = where
    if not network:
        network_from = str(folder / BACKBONE)
        network = _part(read_checkpoint_file(folder / BACKBONE).get("model", {}), NETWORK_PREFIX)
    if embedder is None:
        # Not from the published file, which may be gone: the run holds the weights.
        embedder = new_embedder(spec_from_config(config.backbone), config.clip.frames)
    load_state(embedder, network, network_from)
    autoencoder = EmbeddingAutoencoder(embedder.spec.embedding, config.autoencoder)
    try:
        autoencoder.load_state_dict(_part(weights, AUTOENCODER_PREFIX), strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{where} does not fit its own configuration ({reason}). Give a run's best.pt."
        ) from None
    classes = centroids.get("classes", [])
    lengths = {"embedding": embedder.spec.embedding, "latent": config.autoencoder.hidden[-1]}
    for name, length in lengths.items():
        tensor = centroids.get(name)
        if not isinstance(tensor, Tensor) or tensor.shape != (len(classes), length):
            raise InputError(f"{where} holds no {name} centroids that fit. Give a run's best.pt.")
    model = BackboneAutoencoder(
        embedder, autoencoder, classes, centroids["embedding"], centroids["latent"]
    )
    return model.eval().requires_grad_(False)


def _config_of(content: Mapping[str, Any], where: str) -> BackboneAeConfig:
    if content.get("schema") != SCHEMA or not isinstance(content.get("config"), dict):
        raise InputError(f"{where} is no checkpoint of schema {SCHEMA}. Give a run's best.pt.")
    config = config_from_tree(content["config"], where)
    if not isinstance(config, BackboneAeConfig):
        raise InputError(f"{where} is of the family {config.family}. Give one of backbone-ae.")
    return config


def _part(weights: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }
