"""The training loop of the STAE: resumable to the bit, interruptible at any step."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vad_runtime.commands import Interrupted, deferred_interrupt
from vad_runtime.contracts import ConfigError, InputError, TrainingError
from vad_runtime.files import made_folder, whole_file
from vad_runtime.machine import cpu_name
from vad_runtime.progress import progress
from vad_training.checkpoint import read_checkpoint_file, save_checkpoint
from vad_training.config import TrainConfig, tree_from_config, yaml_from_config
from vad_training.data.store import FrameStore, Segment
from vad_training.data.windows import Batch, Window, batch_of, split_segments, windows_of
from vad_training.losses import STAELoss, prediction_weights, stae_loss
from vad_training.models.fast import fast_step
from vad_training.models.heap import keep_freed_memory
from vad_training.models.stae import STAE

_MAY_CHANGE = ("epochs", "patience", "device", "threads", "precision", "optimiser")
"""Keys of the configuration that a resumed run may change; of `optimiser` all but the batch."""

LAST, BEST, LOG, CONFIG = "last.pt", "best.pt", "log.jsonl", "config.yaml"


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """How a run ended."""

    folder: Path
    best_loss: float
    """Lowest validation loss; its weights are in `best.pt`."""
    epochs: int
    steps: int
    stopped_early: bool


@dataclass(kw_only=True)
class _Progress:
    """The part of a run's state that is not tensors; saved in `last.pt`."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    best_loss: float = math.inf
    epochs_without_gain: int = 0
    epoch_losses: list[float] = field(default_factory=list)


def fit_stae(
    store: FrameStore,
    config: TrainConfig,
    folder: Path,
    *,
    resume: bool = False,
    validation: FrameStore | None = None,
) -> FitResult:
    """Train an STAE on normal footage.

    The order of the windows and their augmentation depend on the seed and the step alone, so a run
    that was interrupted and resumed gives the same losses, to the bit, as one that was not (on the
    same CPU with the same number of threads).

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
    return _Fit(store, config, folder, resume, validation).run()


def require_free_run(folder: Path) -> None:
    """Refuse a folder that holds a run, before any work is done.

    Raises:
        InputError: It does.
    """
    if (folder / LAST).exists() or (folder / BEST).exists():
        raise InputError(f"{folder} holds a run already. Add --resume, or name another folder.")


class _Fit:
    def __init__(
        self,
        store: FrameStore,
        config: TrainConfig,
        folder: Path,
        resume: bool,
        validation: FrameStore | None,
    ) -> None:
        check_clip(config)
        self._store, self._config, self._folder = store, config, made_folder(folder)
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
        batches = math.ceil(len(self._windows) / config.optimiser.batch)
        self._per_epoch = min(config.steps_per_epoch or batches, batches)
        self._total = self._per_epoch * config.epochs
        torch.manual_seed(config.seed)
        self._model = STAE().to(self._device)
        self._precision = precision_of(config.precision, self._device)
        self._forward = forward_of(self._model, self._precision, self._device)
        self._optimiser = torch.optim.Adam(
            self._model.parameters(),
            lr=config.optimiser.learning_rate,
            weight_decay=config.optimiser.weight_decay,
            foreach=True,
        )
        weights = prediction_weights(config.loss.prediction_weights, frames)
        self._weights = weights.to(self._device)
        self._state = _Progress()
        self._stop = False
        self._begin(resume)

    def _begin(self, resume: bool) -> None:
        last = self._folder / LAST
        if resume:
            if not last.is_file():
                raise InputError(f"{last} is not there to resume. Start without --resume.")
            self._restore(read_checkpoint_file(last), last)
        else:
            require_free_run(self._folder)
            (self._folder / LOG).write_text("")
        with whole_file(self._folder / CONFIG) as temporary:
            temporary.write_text(yaml_from_config(self._config), encoding="utf-8")

    def _restore(self, content: dict[str, Any], last: Path) -> None:
        if content.get("footage") != self._footage_key():
            raise InputError(
                f"{last} was trained on other footage or with another split. Start a new run."
            )
        old, new = content.get("config", {}), tree_from_config(self._config)
        changed = [key for key in new if key not in _MAY_CHANGE and new[key] != old.get(key)]
        if new["optimiser"]["batch"] != old.get("optimiser", {}).get("batch"):
            changed.append("optimiser.batch")
        if changed:
            raise InputError(
                f"{last} was trained with another {changed[0]}. Give the same, or start a new run."
            )
        self._model.load_state_dict(content["model"])
        self._optimiser.load_state_dict(content["optimiser"])
        self._state = _Progress(**content["progress"])
        # A crash may have left log lines of steps that last.pt does not know; they come again.
        log = self._folder / LOG
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
        kept = [line for line in lines if _step_of(line) < self._state.step]
        with whole_file(log) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    def _footage_key(self) -> str:
        held = self._held_store.key
        return f"{self._store.key} {held} {len(self._windows)} {len(self._held)}"

    def run(self) -> FitResult:
        early = self._out_of_patience()  # a run that has stopped early is not trained further
        with (
            deferred_interrupt(self._interrupt),
            progress("training, steps", self._total, self._state.step) as bar,
            (self._folder / LOG).open("a", buffering=1, encoding="utf-8") as log,
        ):
            while self._state.epoch < self._config.epochs and not early:
                for window_numbers in self._epoch():
                    loss = self._train_step(window_numbers)
                    log.write(json.dumps(loss) + "\n")
                    self._state.step += 1
                    self._state.step_in_epoch += 1
                    bar.advance(1, f"loss {loss['loss']:.4f}")
                    if self._stop:
                        self._save_last()
                        raise Interrupted
                early = self._end_of_epoch()
                if self._stop:
                    raise Interrupted
        return FitResult(
            folder=self._folder,
            best_loss=self._state.best_loss,
            epochs=self._state.epoch,
            steps=self._state.step,
            stopped_early=early,
        )

    def _interrupt(self) -> None:
        self._stop = True

    def _epoch(self) -> Iterator[Sequence[int]]:
        """Yield the window numbers of each batch of this epoch that is still to be done."""
        order = np.random.default_rng([self._config.seed, 2, self._state.epoch]).permutation(
            len(self._windows)
        )
        batch = self._config.optimiser.batch
        for step in range(self._state.step_in_epoch, self._per_epoch):
            yield order[step * batch : (step + 1) * batch].tolist()

    def _train_step(self, numbers: Sequence[int]) -> dict[str, float | int]:
        config, state = self._config, self._state
        rng = np.random.default_rng([config.seed, 3, state.step])
        batch = self._batch(self._store, [self._windows[n] for n in numbers], rng)
        rate = learning_rate_at(config, state.step, self._per_epoch)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._model.train()
        self._optimiser.zero_grad(set_to_none=True)
        loss = self._loss(batch)
        value = float(loss.total.detach())
        if not math.isfinite(value):
            there = (self._folder / LAST).exists()
            again = f"Resume from {self._folder / LAST}" if there else "Start again"
            raise TrainingError(
                f"the loss is {value} at step {state.step}. {again} "
                "with a lower optimiser.learning_rate, or precision=fp32."
            )
        loss.total.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
        self._optimiser.step()
        return {
            "step": state.step,
            "epoch": state.epoch,
            "loss": value,
            "reconstruction": float(loss.reconstruction.detach()),
            "prediction": float(loss.prediction.detach()),
            "learning_rate": rate,
        }

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
    def _validation_loss(self) -> float:
        self._model.eval()
        total, count = 0.0, 0
        size = self._config.optimiser.batch
        for i in range(0, len(self._held), size):
            batch = self._batch(self._held_store, self._held[i : i + size], None)
            total += float(self._loss(batch).total) * len(batch.clips)
            count += len(batch.clips)
        return total / count

    def _end_of_epoch(self) -> bool:
        state = self._state
        loss = self._validation_loss()
        if not math.isfinite(loss):
            raise TrainingError(
                f"the validation loss is {loss} after epoch {state.epoch}. Start again with a "
                "lower optimiser.learning_rate, or precision=fp32."
            )
        state.epoch += 1
        state.step_in_epoch = 0
        state.epoch_losses.append(loss)
        if loss < state.best_loss:
            state.best_loss, state.epochs_without_gain = loss, 0
            content = {"model": self._model.state_dict(), "summary": self._summary()}
            save_checkpoint(self._folder / BEST, content, self._config)
        else:
            state.epochs_without_gain += 1
        self._save_last()
        return self._out_of_patience()

    def _out_of_patience(self) -> bool:
        patience = self._config.patience
        return patience is not None and self._state.epochs_without_gain >= patience

    def _save_last(self) -> None:
        content = {
            "model": self._model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "progress": vars(self._state),
            "footage": self._footage_key(),
            "summary": self._summary(),
        }
        save_checkpoint(self._folder / LAST, content, self._config)

    def _summary(self) -> dict[str, Any]:
        on = cpu_name() if self._device.type == "cpu" else torch.cuda.get_device_name(self._device)
        return {
            "videos": len(self._store.videos),
            "frames": len(self._store.frames),
            "fps": self._store.fps,
            "seconds": self._store.seconds(),
            "training_windows": len(self._windows),
            "validation_windows": len(self._held),
            "epochs": self._state.epoch,
            "steps": self._state.step,
            "validation_loss": self._state.best_loss,
            "seed": self._config.seed,
            "device": on,
            "precision": self._precision,
            "torch": str(torch.__version__),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }


def check_clip(config: TrainConfig) -> None:
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


def device_of(name: str) -> torch.device:
    """Return the device of a configuration.

    Raises:
        ConfigError: It does not exist here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("PyTorch sees no CUDA device")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device={name} cannot be used ({reason}). Use device=cpu.") from None
    return device


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


def learning_rate_at(config: TrainConfig, step: int, per_epoch: int) -> float:
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


def _step_of(line: str) -> float:
    """Return the step of a log line; infinity for half a line, which a crash may leave."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _footage(
    store: FrameStore, config: TrainConfig, validation: FrameStore | None
) -> tuple[list[Segment], list[Segment]]:
    if validation is not None:
        return store.segments, validation.segments
    return split_segments(store, config.data.validation_fraction, config.seed)


def _spread(windows: list[Window], count: int) -> list[Window]:
    if len(windows) <= count:
        return windows
    places = np.linspace(0, len(windows) - 1, count).round().astype(int)
    return [windows[i] for i in places.tolist()]
