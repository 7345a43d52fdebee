"""Training of the family `mil`: a ranking head on the features of weakly labelled videos."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vad_runtime.contracts import ConfigError
from vad_runtime.files import made_folder, whole_file
from vad_training.config.mil import MilConfig
from vad_training.data.features import FeatureSet, split_videos
from vad_training.loop import FitResult, device_of, require_free_run, run_loop
from vad_training.metrics.roc import roc_auc
from vad_training.mil_losses import mil_loss
from vad_training.models.mil import BagOutput, MilHead, mil_head

SPLIT = "split.json"
"""Names of the run's training and validation videos."""


def fit_mil(
    features: FeatureSet, config: MilConfig, folder: Path, *, resume: bool = False
) -> FitResult:
    """Train a head on bags.

    Part of the videos, chosen by seed and stratified by class, is kept for validation.

    Args:
        features: The labelled videos.
        config: The run's settings.
        folder: The run folder; made if missing. `best.pt` holds the head, `split.json` the split.
        resume: Go on from `last.pt`, to the bit.

    Raises:
        InputError: Too few videos, or the folder holds another run.
        ConfigError: `head.top_k` is larger than a bag, or patience without validation.
        TrainingError: The loss is not finite.
        Interrupted: Ctrl-C came; `last.pt` is saved.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    training, validation = split_videos(
        features.names, features.labels, config.features.validation_fraction, config.seed
    )
    task = MilTask(features, training, validation, config)
    if not resume:
        require_free_run(folder)
        # Not in a resumed run: the loop may yet refuse it, and then the file is another run's.
        with whole_file(made_folder(folder) / SPLIT) as temporary:
            parts = {"train": training, "val": validation}
            names = {part: [features.names[i] for i in numbers] for part, numbers in parts.items()}
            temporary.write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")
    return run_loop(task, config, folder, resume=resume)


class MilTask:
    """What `vad_training.loop.run_loop` needs to know; one example is a bag of the rarer class.

    A step takes `optimiser.batch` bags of the rarer class, as an epoch's permutation gives them,
    and as many of the other class, drawn without repetition. All segments of a bag are ranked.

    Args:
        features: The labelled videos.
        training: Numbers of the videos that are trained on.
        validation: Numbers of the videos that the best checkpoint is chosen by.
        config: The run's settings.

    Raises:
        ConfigError: `head.top_k` is larger than a bag, or patience without validation.
    """

    def __init__(
        self,
        features: FeatureSet,
        training: Sequence[int],
        validation: Sequence[int],
        config: MilConfig,
    ) -> None:
        segments, dimension = features.features.shape[1:]
        if config.head.kind != "sultani" and config.head.top_k > segments:
            raise ConfigError(
                f"head.top_k={config.head.top_k}: a bag has {segments} segments. Lower it."
            )
        if config.patience is not None and not validation:
            raise ConfigError(
                "patience: with features.validation_fraction=0 there is no validation loss to wait "
                "for. Leave patience out."
            )
        self._features, self._config = features, config
        self._training, self._validation = list(training), list(validation)
        self._device = device_of(config.device)
        torch.manual_seed(int(np.random.default_rng([config.seed, 1]).integers(2**63)))
        self._head = mil_head(config.head, dimension).to(self._device)
        self._optimiser = _optimiser(self._head, config)
        by_label = {k: [i for i in self._training if features.labels[i] == k] for k in (0, 1)}
        self._by_label = by_label
        self._rare = 0 if len(by_label[0]) <= len(by_label[1]) else 1
        content = [features.key(), self._training, self._validation]
        self._key = hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def model(self) -> nn.Module:
        """The head."""
        return self._head

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """Over weights and biases of the head."""
        return self._optimiser

    @property
    def examples(self) -> int:
        """How many bags of the rarer class are trained on."""
        return len(self._by_label[self._rare])

    @property
    def key(self) -> str:
        """A hash of the features, the labels and the split."""
        return self._key

    def begin_epoch(self, epoch: int) -> None:
        """Every epoch is like the others."""

    def train_step(self, numbers: Sequence[int], rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the loss of the numbered bags of the rarer class with as many of the other."""
        common = self._by_label[1 - self._rare]
        drawn = rng.choice(len(common), size=len(numbers), replace=False)
        bags = {
            self._rare: [self._by_label[self._rare][i] for i in numbers],
            1 - self._rare: [common[i] for i in drawn.tolist()],
        }
        self._head.train()
        features, count = self._bags([*bags[1], *bags[0]]), len(numbers)
        values: dict[str, Tensor] = {}
        for member in self._head.members:
            both = member.bag(features)
            anomalous = BagOutput(*(tensor[:count] for tensor in both))
            normal = BagOutput(*(tensor[count:] for tensor in both))
            # The sum: each member gets the gradient that it would get alone.
            for name, value in mil_loss(anomalous, normal, self._config).items():
                values[name] = values[name] + value if name in values else value
        return values

    def learning_rate(
        self,
        step: int,
        per_epoch: int,
        losses: Sequence[float],  # noqa: ARG002 - the schedule looks at the epoch alone
    ) -> float:
        """Return the rate: `gamma` of the rate before at each milestone."""
        settings = self._config.optimiser
        passed = sum(step // per_epoch >= epoch for epoch in settings.milestones)
        return settings.learning_rate * settings.gamma**passed

    def validation_loss(self) -> float | None:
        """Return 1 - AUC of the validation videos, each scored by its highest segment.

        Not the training loss: that also falls when scores only move apart that are in the right
        order already, and its sums over bags depend on how many there are. None: nothing is held
        back.
        """
        if not self._validation:
            return None
        scores = self.scores(self._validation).max(axis=1)
        return 1 - roc_auc(scores, self._features.labels[self._validation] == 1)

    def scores(self, numbers: Sequence[int]) -> npt.NDArray[np.float64]:
        """Return the segment scores of some videos, shape (len(numbers), S)."""
        self._head.eval()
        with torch.inference_mode():
            parts = [
                self._head(self._bags(numbers[i : i + 64])).double().cpu().numpy()
                for i in range(0, len(numbers), 64)
            ]
        return np.concatenate(parts)

    def summary(self) -> dict[str, Any]:
        """Return what the manifest shall say."""
        labels = self._features.labels
        segments, dimension = self._features.features.shape[1:]
        return {
            "anomalous_videos": int(labels[self._training].sum()),
            "normal_videos": int((labels[self._training] == 0).sum()),
            "validation_videos": len(self._validation),
            "segments": segments,
            "dimension": dimension,
            "features": self._features.about,
            "validation_loss_is": "1 - AUC of videos, each by its highest segment",
        }

    def content(self) -> dict[str, Any]:
        """The head is all there is."""
        return {}

    def _bags(self, numbers: Sequence[int]) -> Tensor:
        return torch.from_numpy(self._features.features[list(numbers)]).to(self._device)


def _optimiser(head: MilHead, config: MilConfig) -> torch.optim.Optimizer:
    """Return the optimiser; L2 pulls on weights and not on biases."""
    settings = config.optimiser
    weights = [p for name, p in head.named_parameters() if name.endswith("weight")]
    biases = [p for name, p in head.named_parameters() if name.endswith("bias")]
    groups = [
        {"params": weights, "weight_decay": settings.weight_decay},
        {"params": biases, "weight_decay": 0.0},
    ]
    if settings.kind == "adagrad":
        return torch.optim.Adagrad(groups, lr=settings.learning_rate)
    return torch.optim.Adam(groups, lr=settings.learning_rate)
