"""Training the STAE on normal footage."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vad_runtime.contracts import ConfigError, InputError
from vad_training.config import StaeConfig
from vad_training.data.store import FrameStore, Segment
from vad_training.data.windows import Batch, Window, batch_of, split_segments, windows_of
from vad_training.loop import FitResult, device_of, run_loop
from vad_training.losses import STAELoss, prediction_weights, stae_loss
from vad_training.models.fast import fast_step
from vad_training.models.heap import keep_freed_memory
from vad_training.models.stae import STAE


def fit_stae(
    store: FrameStore,
    config: StaeConfig,
    folder: Path,
    *,
    resume: bool = False,
    validation: FrameStore | None = None,
) -> FitResult:
    """Train an STAE on normal footage.

    Args:
        store: Footage for training; a part is kept for validation unless `validation` is given.
        config: The recipe.
        folder: Run folder: `config.yaml`, `log.jsonl`, `last.pt`, `best.pt`.
        resume: Go on from `last.pt`.
        validation: Other normal footage for the validation loss.

    Raises:
        ConfigError: The clip does not suit the STAE, or the device is not there.
        InputError: The folder holds another run, or there is nothing to resume.
        TrainingError: The loss is not finite.
        Interrupted: Ctrl-C came; `last.pt` is saved.
    """
    return run_loop(_StaeTask(store, config, validation), config, folder, resume=resume)


class _StaeTask:
    """What the STAE brings to the loop."""

    def __init__(
        self, store: FrameStore, config: StaeConfig, validation: FrameStore | None
    ) -> None:
        check_clip(config)
        self._store, self._config = store, config
        self._device = device_of(config.device)
        if config.threads:
            torch.set_num_threads(config.threads)
        train, held = _footage(store, config, validation)
        frames = config.clip.frames
        self._windows = windows_of(train, frames, config.data.window_step)
        self._held_store = validation or store
        self._held = _spread(windows_of(held, frames, frames), config.data.validation_windows)
        if not self._windows or not self._held:
            raise InputError(
                f"too little footage: {len(self._windows)} training and {len(self._held)} "
                f"validation windows of {frames} frames. Give more, or longer, videos."
            )
        torch.manual_seed(config.seed)
        self.model = STAE().to(self._device)
        self._precision = precision_of(config.precision, self._device)
        self._forward = forward_of(self.model, self._precision, self._device)
        self.optimiser = torch.optim.Adam(
            self.model.parameters(),
            lr=config.optimiser.learning_rate,
            weight_decay=config.optimiser.weight_decay,
            foreach=True,
        )
        weights = prediction_weights(config.loss.prediction_weights, frames)
        self._weights = weights.to(self._device)
        self.examples = len(self._windows)
        held_key = self._held_store.key
        self.key = f"{store.key} {held_key} {len(self._windows)} {len(self._held)}"

    def begin_epoch(self, epoch: int) -> None:
        """Nothing changes from epoch to epoch."""

    def train_step(self, numbers: Sequence[int], rng: np.random.Generator) -> dict[str, Tensor]:
        """See `Task.train_step`."""
        batch = self._batch(self._store, [self._windows[n] for n in numbers], rng)
        self.model.train()
        loss = self._loss(batch)
        return {
            "loss": loss.total,
            "reconstruction": loss.reconstruction,
            "prediction": loss.prediction,
        }

    def learning_rate(
        self,
        step: int,
        per_epoch: int,
        losses: Sequence[float],  # noqa: ARG002 - no schedule of this family looks at them
    ) -> float:
        """See `Task.learning_rate`."""
        return learning_rate_at(self._config, step, per_epoch)

    def content(self) -> dict[str, Any]:
        """Nothing beside the model."""
        return {}

    def _batch(
        self, store: FrameStore, windows: Sequence[Window], rng: np.random.Generator | None
    ) -> Batch:
        config = self._config
        augment = config.augment if rng is not None else None
        offset = config.loss.future_offset
        return batch_of(store, windows, config.clip.frames, offset, augment, rng)

    def _loss(self, batch: Batch) -> STAELoss:
        clips, future = self._tensor(batch.clips), self._tensor(batch.future)
        mask = torch.from_numpy(batch.mask).to(self._device)
        reconstruction, prediction = self._forward(clips)
        return stae_loss(reconstruction, prediction, clips, future, mask, self._weights)

    def _tensor(self, clips: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
        # One channel: (B, T, H, W, 1) and (B, 1, T, H, W) are the same memory.
        b, t, h, w, _ = clips.shape
        tensor = torch.from_numpy(clips).to(self._device).reshape(b, 1, t, h, w)
        return tensor.to(torch.float32).div_(255.0)

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Return the mean loss over the validation windows."""
        self.model.eval()
        total, count = 0.0, 0
        size = self._config.optimiser.batch
        for i in range(0, len(self._held), size):
            batch = self._batch(self._held_store, self._held[i : i + size], None)
            total += float(self._loss(batch).total) * len(batch.clips)
            count += len(batch.clips)
        return total / count

    def summary(self) -> dict[str, Any]:
        """See `Task.summary`."""
        return {
            "videos": len(self._store.videos),
            "frames": len(self._store.frames),
            "fps": self._store.fps,
            "seconds": self._store.seconds(),
            "training_windows": len(self._windows),
            "validation_windows": len(self._held),
            "precision": self._precision,
        }


def check_clip(config: StaeConfig) -> None:
    """Refuse a clip that the STAE cannot take.

    Raises:
        ConfigError: It is not grey, or a size is no multiple of 8.
    """
    clip = config.clip
    if clip.colour != "gray":
        raise ConfigError("clip.colour: the STAE takes gray clips. Set clip.colour=gray.")
    for name in ("frames", "height", "width"):
        if getattr(clip, name) % 8:
            raise ConfigError(
                f"clip.{name}: the STAE needs a multiple of 8, got {getattr(clip, name)}."
            )


def precision_of(wanted: str, device: torch.device) -> str:
    """Return `fp32` or `bf16` for a configuration's precision on a device."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # Without the instructions bfloat16 is emulated, and slower than float32.
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return "bf16" if probe is not None and probe() else "fp32"


def forward_of(
    model: STAE, precision: str, device: torch.device
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return the fastest forward pass of the model for training on a device."""
    if device.type == "cpu":
        keep_freed_memory()
        return fast_step(model, "bf16" if precision == "bf16" else "fp32")

    def with_autocast(clips: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            reconstruction, prediction = model(clips)
        return reconstruction.float(), prediction.float()

    return with_autocast


def learning_rate_at(config: StaeConfig, step: int, per_epoch: int) -> float:
    """Return the learning rate of a step; a function of the step alone, so resuming is exact."""
    settings = config.optimiser
    if settings.schedule == "step":
        passed = sum(step // per_epoch >= epoch for epoch in settings.milestones)
        return settings.learning_rate * settings.gamma**passed
    total = per_epoch * config.epochs
    warm_up = max(1, total // 20)
    if step < warm_up:
        return settings.learning_rate * (step + 1) / warm_up
    share = (step - warm_up) / max(1, total - warm_up)
    return settings.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))


def _footage(
    store: FrameStore, config: StaeConfig, validation: FrameStore | None
) -> tuple[list[Segment], list[Segment]]:
    if validation is not None:
        return store.segments, validation.segments
    return split_segments(store, config.data.validation_fraction, config.seed)


def _spread(windows: list[Window], count: int) -> list[Window]:
    if len(windows) <= count:
        return windows
    places = np.linspace(0, len(windows) - 1, count).round().astype(int)
    return [windows[i] for i in places.tolist()]
