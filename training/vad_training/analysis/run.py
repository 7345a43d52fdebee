"""The scored clips of a trained run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vad_runtime.contracts import InputError
from vad_training.analysis.table import ClipTable, Names, Space, Values
from vad_training.autoencoder_run import TABLE, autoencoder_from_run
from vad_training.data.table import Entry, read_table
from vad_training.embeddings import EmbeddingCache, Embeddings, VideoEmbeddings, embeddings_of
from vad_training.models.backbone_ae import AutoencoderScores, BackboneAutoencoder
from vad_training.models.backbones.base import ClipEmbedder

_BATCH = 256
"""Embeddings that are scored together."""


@dataclass(frozen=True, kw_only=True)
class RunClips:
    """What a run says of the clips of its table."""

    table: ClipTable
    skipped: tuple[str, ...]
    """One line for each video that gives no clips."""


def clip_table_from_run(
    folder: Path, cache: EmbeddingCache | None = None, *, embedder: ClipEmbedder | None = None
) -> RunClips:
    """Score the clips of the videos in the table of a `backbone-ae` run, on the CPU.

    Args:
        folder: The run.
        cache: Where embeddings are kept; None = the default cache, which training has filled with
            those of its own videos.
        embedder: See `autoencoder_from_run`.

    Raises:
        InputError: No such run, or no video gives a clip.
        ConfigError: A configuration that this version does not understand.
    """
    run = autoencoder_from_run(folder, embedder=embedder)
    entries = analysed_entries(read_table(folder / TABLE))
    paths = [entry.path for entry in entries]
    videos = embeddings_of(paths, run.model.embedder, run.clip, cache=cache)
    skipped = tuple(video.skipped for video in videos if video.skipped is not None)
    if len(skipped) == len(videos):
        first = f" First reason: {skipped[0]}" if skipped else ""
        raise InputError(f"{folder / TABLE} names no video that gives a clip.{first}")
    return RunClips(table=_table_of(entries, videos, run.model), skipped=skipped)


def analysed_entries(entries: list[Entry]) -> list[Entry]:
    """Return the entries that count.

    Those with a split; outside of training without augmentations of originals that are there too,
    which would count one video several times.
    """
    paths = {entry.path for entry in entries}
    return [
        entry
        for entry in entries
        if entry.split == "train" or (entry.split and entry.original not in paths)
    ]


def _table_of(
    entries: list[Entry], videos: list[VideoEmbeddings], model: BackboneAutoencoder
) -> ClipTable:
    counts = [len(video.embeddings) for video in videos]
    scores = _scores_of(np.concatenate([video.embeddings for video in videos]), model)
    classes = np.repeat(np.array([entry.label for entry in entries], np.str_), counts)
    return ClipTable(
        videos=tuple(
            str(entry.path) for entry, n in zip(entries, counts, strict=True) for _ in range(n)
        ),
        first_frames=np.concatenate([video.first_frames for video in videos]),
        classes=classes,
        splits=np.repeat(np.array([entry.split for entry in entries], np.str_), counts),
        errors=_double(scores.error),
        spaces={
            "embedding": _space(scores.embedding, scores.embedding_distance, classes, model),
            "latent": _space(scores.latent, scores.latent_distance, classes, model),
        },
    )


@torch.inference_mode()
def _scores_of(embeddings: Embeddings, model: BackboneAutoencoder) -> AutoencoderScores:
    parts = [
        model.scores(torch.from_numpy(embeddings[first : first + _BATCH]))
        for first in range(0, len(embeddings), _BATCH)
    ]
    return AutoencoderScores(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _space(
    points: torch.Tensor, distances: torch.Tensor, classes: Names, model: BackboneAutoencoder
) -> Space:
    to_centroids = _double(distances)
    own = np.full(len(to_centroids), np.nan)
    for i, name in enumerate(model.classes):
        own = np.where(classes == name, to_centroids[:, i], own)
    return Space(
        own=own, centroids=model.classes, to_centroids=to_centroids, points=_double(points)
    )


def _double(tensor: torch.Tensor) -> Values:
    return tensor.numpy().astype(np.float64)
