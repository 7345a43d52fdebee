"""Training of the family `backbone-ae`: an autoencoder on the embeddings of a video backbone."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vad_runtime.contracts import ClipSpec, ConfigError, InputError
from vad_runtime.files import made_folder
from vad_training.autoencoder_run import BACKBONE, NETWORK_PREFIX, TABLE
from vad_training.checkpoint_file import save_checkpoint
from vad_training.config import BackboneAeConfig
from vad_training.data.holdout import split_for_training, validation_entries
from vad_training.data.store import Frames, FrameStore, Segment, store_from_footage
from vad_training.data.table import Entry, of_split, write_table
from vad_training.embeddings import EmbeddingCache, VideoEmbeddings, embeddings_of
from vad_training.loop import FitResult, device_of, require_free_run, run_loop
from vad_training.models.autoencoder import EmbeddingAutoencoder, autoencoder_loss
from vad_training.models.backbones.base import ClipEmbedder, clip_of
from vad_training.models.backbones.registry import describe, embedder_from_config
from vad_training.schedules import scheduled_rate


def fit_autoencoder(
    entries: Sequence[Entry],
    config: BackboneAeConfig,
    folder: Path,
    *,
    resume: bool = False,
    cache: EmbeddingCache | None = None,
    embedder: ClipEmbedder | None = None,
    tell_skipped: Callable[[str], object] | None = None,
) -> FitResult:
    """Train an autoencoder on the embeddings of normal clips.

    The backbone is in eval mode throughout, so its BatchNorm never drifts; while it is frozen each
    clip goes through it once. From `config.unfreeze.epoch` on, clips run through it in every step.

    Args:
        entries: The videos. `split_for_training` says how empty splits are decided.
        config: The recipe.
        folder: Run folder; see `vad_training.autoencoder_run`.
        resume: Go on from `last.pt`.
        cache: Where embeddings are kept; None = the default cache.
        embedder: The backbone; None = the configuration's. Its network is trained in place where
            the configuration unfreezes it.
        tell_skipped: Called with one line for each video that gives no clips.

    Raises:
        ConfigError: A backbone, device, class or batch that there is not.
        InputError: The folder holds another run, there is nothing to resume, no clips, or the same
            video for training and for validation.
        TrainingError: The loss is not finite.
        Interrupted: Ctrl-C came; `last.pt` is saved.
    """
    if not resume:
        require_free_run(folder)
    if config.autoencoder.batch_norm and config.optimiser.batch < 2:
        raise ConfigError("optimiser.batch: BatchNorm needs 2 clips. Set optimiser.batch=2.")
    table = split_for_training(
        entries, config.data.classes, config.data.validation_fraction, config.seed
    )
    device = device_of(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    about: dict[str, Any]
    if embedder is None:
        embedder = embedder_from_config(config.backbone, config.clip.frames)
        about = describe(config.backbone)
    else:
        about = {"name": embedder.spec.name}
    embedder = embedder.to(device).eval().requires_grad_(False)
    clip = clip_of(embedder.spec, config.clip)
    made_folder(folder)
    train, held = (
        _clips_of(part, embedder, clip, config, cache, tell_skipped or _nobody)
        for part in (of_split(table, "train"), validation_entries(table))
    )
    _require_apart(train, held)
    least = 2 if config.autoencoder.batch_norm else 1
    if len(train.labels) < least or not held.labels:
        reasons = [*train.skipped, *held.skipped]
        raise InputError(
            f"too little footage: {len(train.labels)} training and {len(held.labels)} validation "
            f"clips. Give more, or longer, videos.{f' Skipped: {reasons[0]}' if reasons else ''}"
        )
    footage = None
    if config.unfreeze.epoch is not None:
        paths = [video.path for video in (*train.videos, *held.videos)]
        footage = _Footage(store_from_footage(paths, clip, folder / "frames"), clip)
    task = _Task(config, embedder, about, train, held, footage)
    if not resume:
        write_table(folder / TABLE, table)
        if footage is None:
            network = {"model": embedder.network.state_dict(prefix=NETWORK_PREFIX)}
            save_checkpoint(folder / BACKBONE, network, config)
    return run_loop(task, config, folder, resume=resume)


@dataclass(frozen=True, kw_only=True)
class _Clips:
    """The clips of a split."""

    videos: list[VideoEmbeddings]
    """Those that give clips."""
    skipped: list[str]
    """Why the others give none."""
    embeddings: Tensor
    """Shape (n, D), float32, on the CPU."""
    labels: list[str]
    """Class of each of the n clips."""
    places: list[tuple[Path, int]]
    """Video of each of the n clips, and the clip's number in the video."""
    key: str


def _clips_of(
    entries: Sequence[Entry],
    embedder: ClipEmbedder,
    clip: ClipSpec,
    config: BackboneAeConfig,
    cache: EmbeddingCache | None,
    tell_skipped: Callable[[str], object],
) -> _Clips:
    videos = embeddings_of([entry.path for entry in entries], embedder, clip, cache=cache)
    for video in videos:
        if video.skipped is not None:
            tell_skipped(video.skipped)
    labels: list[str] = []
    places: list[tuple[Path, int]] = []
    embeddings = []
    digest = hashlib.sha256()
    for entry, video in zip(entries, videos, strict=True):
        numbers = _spread(len(video.embeddings), config.data.clips_per_video)
        embeddings.append(video.embeddings[numbers])
        labels += [entry.label] * len(numbers)
        places += [(entry.path.resolve(), number) for number in numbers]
        digest.update(f"{entry.label} {video.key} {len(numbers)}\n".encode())
    return _Clips(
        videos=[video for video in videos if video.skipped is None],
        skipped=[video.skipped for video in videos if video.skipped is not None],
        embeddings=torch.from_numpy(np.concatenate(embeddings)),
        labels=labels,
        places=places,
        key=digest.hexdigest(),
    )


def _require_apart(train: _Clips, held: _Clips) -> None:
    """Refuse a video that is trained on under one name and validates under another."""
    trained = {video.key: video.path for video in train.videos}
    for video in held.videos:
        if video.key in trained:
            raise InputError(
                f"{trained[video.key]} (train) and {video.path} (val) are the same video. "
                "Find such videos with: vad-train data check"
            )


class _Footage:
    """Clips of the videos by number, for a backbone that is trained: decoded once, on disk."""

    def __init__(self, store: FrameStore, clip: ClipSpec) -> None:
        self._frames, self._length = store.frames, clip.frames
        self._rows: dict[Path, list[int]] = {Path(video).resolve(): [] for video in store.videos}
        for segment in store.segments:
            video = Path(store.videos[segment.video]).resolve()
            self._rows[video] += first_rows(segment, clip)

    def clips(self, places: Sequence[tuple[Path, int]]) -> Frames:
        """Return clips, shape (N, T, H, W, 3), uint8; the caller owns them."""
        rows = [self._rows[video][number] for video, number in places]
        return np.stack([self._frames[row : row + self._length] for row in rows])


def first_rows(segment: Segment, clip: ClipSpec) -> list[int]:
    """Return the rows at which the clips of a segment begin: those of `ClipWindow`.

    ::

        8 frames, T = 4, hop = 3 rows

        r0 r1 r2 r3 r4 r5 r6 r7
        [---------]
                 [---------]
                    [---------]     the tail: r7 would be in no clip otherwise
    """
    last = segment.start + segment.frames - clip.frames
    rows = list(range(segment.start, last + 1, clip.hop // clip.stride))
    return [*rows, last] if rows and rows[-1] != last else rows


class _Task:
    """What `run_loop` trains; see `vad_training.loop.Task`."""

    def __init__(
        self,
        config: BackboneAeConfig,
        embedder: ClipEmbedder,
        about: dict[str, Any],
        train: _Clips,
        held: _Clips,
        footage: _Footage | None,
    ) -> None:
        self._config, self._embedder, self._about = config, embedder, about
        self._footage = footage
        self._train, self._held = train, held
        self._device = embedder.get_buffer("mean").device
        self._classes = sorted(set(train.labels))
        self._live = False
        self._centroids: dict[str, Any] | None = None
        torch.manual_seed(config.seed)
        self._autoencoder = EmbeddingAutoencoder(embedder.spec.embedding, config.autoencoder)
        self._autoencoder.to(self._device)
        self.model = nn.ModuleDict({"autoencoder": self._autoencoder})
        groups: list[dict[str, Any]] = [{"params": list(self._autoencoder.parameters())}]
        if config.unfreeze.epoch is not None:
            self.model["network"] = embedder.network
            parameters = backbone_parameters(embedder, config.unfreeze.first_parameter)
            for parameter in parameters:
                parameter.requires_grad_(True)
            factor = config.unfreeze.learning_rate_factor
            groups.append({"params": parameters, "factor": factor})
        self.optimiser = torch.optim.Adam(
            groups,
            lr=config.optimiser.learning_rate,
            weight_decay=config.optimiser.weight_decay,
        )
        self.examples = len(train.labels)
        self.key = f"{train.key} {held.key}"

    def begin_epoch(self, epoch: int) -> None:
        """Run clips through the backbone from its epoch on; embeddings of the cache train none."""
        first = self._config.unfreeze.epoch
        self._live = first is not None and epoch >= first

    def train_step(self, numbers: Sequence[int], rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the loss of a batch."""
        self._centroids = None
        self._autoencoder.train()  # the backbone stays in eval mode
        if len(numbers) == 1 and self._config.autoencoder.batch_norm:
            # The last batch of an epoch may hold a single clip, whose variance is 0.
            numbers = [*numbers, int(numbers[0] + rng.integers(1, self.examples)) % self.examples]
        return {"loss": self._loss(self._embeddings(self._train, numbers))}

    def learning_rate(self, step: int, per_epoch: int, losses: Sequence[float]) -> float:
        """Return the rate of the step's epoch."""
        settings, epochs = self._config.optimiser, self._config.epochs
        return scheduled_rate(settings, step // per_epoch, epochs, losses)

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Return the loss over all clips of the split `val`."""
        self.model.eval()
        total = 0.0
        for numbers in self._batches(self._held):
            loss = self._loss(self._embeddings(self._held, numbers))
            total += float(loss) * len(numbers)
        return total / len(self._held.labels)

    def summary(self) -> dict[str, Any]:
        """Return facts for the manifest."""
        rates = {round(video.fps, 3) for video in self._train.videos}
        return {
            "backbone": {**self._about, "trained": self._live},
            "videos": len(self._train.videos),
            "validation_videos": len(self._held.videos),
            "skipped": [*self._train.skipped, *self._held.skipped],
            "classes": self._classes,
            "fps": rates.pop() if len(rates) == 1 else None,
            "training_clips": self.examples,
            "validation_clips": len(self._held.labels),
        }

    @torch.no_grad()
    def content(self) -> dict[str, Any]:
        """Return the centroids of the training clips: mean embedding and latent of each class."""
        if self._centroids is None:
            self.model.eval()
            sums = {
                "embedding": torch.zeros(len(self._classes), self._embedder.spec.embedding),
                "latent": torch.zeros(len(self._classes), self._config.autoencoder.hidden[-1]),
            }
            sums = {name: total.double() for name, total in sums.items()}
            number_of = {name: i for i, name in enumerate(self._classes)}
            classes = torch.tensor([number_of[label] for label in self._train.labels])
            for numbers in self._batches(self._train):
                embedding = self._embeddings(self._train, numbers)
                latent = self._autoencoder(embedding)[1]
                for name, points in (("embedding", embedding), ("latent", latent)):
                    sums[name].index_add_(0, classes[numbers], points.cpu().double())
            counts = torch.bincount(classes, minlength=len(self._classes))[:, None]
            means = {name: (total / counts).float() for name, total in sums.items()}
            self._centroids = {"classes": self._classes, **means}
        return {"centroids": self._centroids}

    def _loss(self, embeddings: Tensor) -> Tensor:
        reconstruction, _ = self._autoencoder(embeddings)
        return autoencoder_loss(reconstruction, embeddings, self._config.autoencoder.loss)

    def _embeddings(self, clips: _Clips, numbers: Sequence[int]) -> Tensor:
        if not self._live:
            return clips.embeddings[numbers].to(self._device)
        assert self._footage is not None
        pixels = self._footage.clips([clips.places[number] for number in numbers])
        embeddings: Tensor = self._embedder(torch.from_numpy(pixels).to(self._device))
        return embeddings

    def _batches(self, clips: _Clips) -> Iterator[list[int]]:
        size = self._config.optimiser.batch if self._live else 1024
        for first in range(0, len(clips.labels), size):
            yield list(range(first, min(first + size, len(clips.labels))))


def backbone_parameters(embedder: ClipEmbedder, first: int) -> list[nn.Parameter]:
    """Return the parameters of a backbone from an index on.

    Raises:
        ConfigError: It has no more than `first` parameters.
    """
    parameters = list(embedder.network.parameters())
    if first >= len(parameters):
        raise ConfigError(
            f"unfreeze.first_parameter={first}: {embedder.spec.name} has {len(parameters)} "
            "parameters. Choose a lower index."
        )
    return parameters[first:]


def _spread(total: int, most: int | None) -> list[int]:
    if most is None or total <= most:
        return list(range(total))
    return [round(place) for place in np.linspace(0, total - 1, most).tolist()]


def _nobody(_line: str) -> None:
    """Stand in for a caller who does not ask which videos were skipped."""
