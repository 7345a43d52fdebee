"""The training loop of every family: resumable to the bit, interruptible at any step.

A run folder holds `config.yaml`, `log.jsonl` (a line per step), `last.pt` (everything that resuming
needs) and `best.pt` (the weights with the lowest validation loss).
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from vad_runtime.commands import Interrupted, deferred_interrupt
from vad_runtime.contracts import ConfigError, InputError, TrainingError
from vad_runtime.files import made_folder, whole_file
from vad_runtime.machine import cpu_name
from vad_runtime.progress import progress
from vad_training.checkpoint_file import read_checkpoint_file, save_checkpoint
from vad_training.config import TrainConfig, tree_from_config, yaml_from_config

LAST, BEST, LOG, CONFIG = "last.pt", "best.pt", "log.jsonl", "config.yaml"

_MAY_CHANGE = ("epochs", "patience", "device", "threads", "precision", "optimiser")
"""Keys of the configuration that a resumed run may change; of `optimiser` all but the batch."""


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """How a run ended."""

    folder: Path
    best_loss: float | None
    """Lowest validation loss; its weights are in `best.pt`. None: nothing was held back, and
    `best.pt` holds the last epoch's."""
    epochs: int
    steps: int
    stopped_early: bool


class Task(Protocol):
    """What a family brings to the loop: a model, its data and its loss."""

    @property
    def model(self) -> nn.Module:
        """Its state dict goes into the checkpoints."""

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """Over the model's parameters. A group's key `factor` multiplies the learning rate."""

    @property
    def examples(self) -> int:
        """An epoch is a permutation of the numbers 0 to `examples` - 1, in batches."""

    @property
    def key(self) -> str:
        """Identity of data and split: a run is resumed only with the same."""

    def begin_epoch(self, epoch: int) -> None:
        """Prepare an epoch (for example, unfreeze a part). Also called after a resume."""

    def train_step(self, numbers: Sequence[int], rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the loss of a batch, with its graph, under `loss`; further scalars are logged.

        Everything random comes from `rng`, which depends on the seed and the step alone, or from
        PyTorch's generator, which the loop seeds from the same.
        """

    def learning_rate(self, step: int, per_epoch: int, losses: Sequence[float]) -> float:
        """Return the rate of a step: a function of these alone, so that resuming is exact.

        Args:
            step: Number of the step in the run.
            per_epoch: Steps in an epoch.
            losses: Validation loss of each finished epoch.
        """

    def validation_loss(self) -> float | None:
        """Return what the best checkpoint is chosen by; lower is better.

        None, always: nothing is held back, so the last epoch's weights are taken.
        """

    def summary(self) -> dict[str, Any]:
        """Return what the manifest shall say of data and training; plain values."""

    def content(self) -> dict[str, Any]:
        """Return what the checkpoints shall hold beside the model; tensors and plain values."""


@dataclass(kw_only=True)
class _State:
    """The part of a run's state that is not tensors; saved in `last.pt`."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    best_loss: float = math.inf
    epochs_without_gain: int = 0
    epoch_losses: list[float] = field(default_factory=list)


def run_loop(task: Task, config: TrainConfig, folder: Path, *, resume: bool = False) -> FitResult:
    """Train until the epochs are done, patience is out, or Ctrl-C comes.

    The order of the examples and everything random depend on the seed and the step alone, so a run
    that was interrupted and resumed gives the same losses, to the bit, as one that was not (on the
    same device, with the same number of threads).

    Args:
        task: What is trained.
        config: The run's settings, kept in the folder.
        folder: The run folder; made if missing.
        resume: Go on from `last.pt`.

    Raises:
        InputError: The folder holds another run, or there is nothing to resume.
        TrainingError: The loss is not finite.
        Interrupted: Ctrl-C came; `last.pt` is saved.
    """
    return _Loop(task, config, made_folder(folder), resume).run()


def require_free_run(folder: Path) -> None:
    """Refuse a folder that holds a run, before any work is done.

    Raises:
        InputError: It does.
    """
    if (folder / LAST).exists() or (folder / BEST).exists():
        raise InputError(f"{folder} holds a run already. Add --resume, or name another folder.")


class _Loop:
    def __init__(self, task: Task, config: TrainConfig, folder: Path, resume: bool) -> None:
        self._task, self._config, self._folder = task, config, folder
        self._batch = config.optimiser.batch
        batches = math.ceil(task.examples / self._batch)
        self._per_epoch = min(config.steps_per_epoch or batches, batches)
        self._state = _State()
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
        if content.get("footage") != self._task.key:
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
        self._state = _State(**content["progress"])
        # A step that unfreezes a part changes what the optimiser holds, so it comes first.
        self._task.begin_epoch(self._state.epoch)
        self._task.model.load_state_dict(content["model"])
        self._task.optimiser.load_state_dict(content["optimiser"])
        # A crash may have left log lines of steps that last.pt does not know; they come again.
        log = self._folder / LOG
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
        kept = [line for line in lines if _step_of(line) < self._state.step]
        with whole_file(log) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    def run(self) -> FitResult:
        total = self._per_epoch * self._config.epochs
        early = self._out_of_patience()  # a run that has stopped early is not trained further
        with (
            deferred_interrupt(self._interrupt),
            progress("training, steps", total, self._state.step) as bar,
            (self._folder / LOG).open("a", buffering=1, encoding="utf-8") as log,
        ):
            while self._state.epoch < self._config.epochs and not early:
                self._task.begin_epoch(self._state.epoch)
                for numbers in self._epoch():
                    line = self._step(numbers)
                    log.write(json.dumps(line) + "\n")
                    self._state.step += 1
                    self._state.step_in_epoch += 1
                    bar.advance(1, f"loss {line['loss']:.4f}")
                    if self._stop:
                        self._save_last()
                        raise Interrupted
                early = self._end_of_epoch()
                if self._stop:
                    raise Interrupted
        return FitResult(
            folder=self._folder,
            best_loss=self._best_loss(),
            epochs=self._state.epoch,
            steps=self._state.step,
            stopped_early=early,
        )

    def _interrupt(self) -> None:
        self._stop = True

    def _epoch(self) -> Iterator[Sequence[int]]:
        """Yield the example numbers of each batch of this epoch that is still to be done."""
        order = np.random.default_rng([self._config.seed, 2, self._state.epoch]).permutation(
            self._task.examples
        )
        for step in range(self._state.step_in_epoch, self._per_epoch):
            yield order[step * self._batch : (step + 1) * self._batch].tolist()

    def _step(self, numbers: Sequence[int]) -> dict[str, float | int]:
        task, state = self._task, self._state
        rng = np.random.default_rng([self._config.seed, 3, state.step])
        # Dropout draws from PyTorch's generator; a resumed run must find it as it was.
        torch.manual_seed(
            int(np.random.default_rng([self._config.seed, 4, state.step]).integers(2**63))
        )
        rate = task.learning_rate(state.step, self._per_epoch, state.epoch_losses)
        for group in task.optimiser.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        task.optimiser.zero_grad(set_to_none=True)
        values = task.train_step(numbers, rng)
        loss = float(values["loss"].detach())
        if not math.isfinite(loss):
            there = (self._folder / LAST).exists()
            again = f"Resume from {self._folder / LAST}" if there else "Start again"
            raise TrainingError(
                f"the loss is {loss} at step {state.step}. {again} "
                "with a lower optimiser.learning_rate, or precision=fp32."
            )
        values["loss"].backward()  # type: ignore[no-untyped-call]  # torch gives it no types
        task.optimiser.step()
        return {
            "step": state.step,
            "epoch": state.epoch,
            **{name: float(value.detach()) for name, value in values.items()},
            "learning_rate": rate,
        }

    def _end_of_epoch(self) -> bool:
        state = self._state
        loss = self._task.validation_loss()
        if loss is not None and not math.isfinite(loss):
            raise TrainingError(
                f"the validation loss is {loss} after epoch {state.epoch}. Start again with a "
                "lower optimiser.learning_rate, or precision=fp32."
            )
        state.epoch += 1
        state.step_in_epoch = 0
        if loss is None:
            save_checkpoint(self._folder / BEST, self._content(), self._config)
            self._save_last()
            return False
        state.epoch_losses.append(loss)
        if loss < state.best_loss:
            state.best_loss, state.epochs_without_gain = loss, 0
            save_checkpoint(self._folder / BEST, self._content(), self._config)
        else:
            state.epochs_without_gain += 1
        self._save_last()
        return self._out_of_patience()

    def _out_of_patience(self) -> bool:
        patience = self._config.patience
        return patience is not None and self._state.epochs_without_gain >= patience

    def _best_loss(self) -> float | None:
        return self._state.best_loss if math.isfinite(self._state.best_loss) else None

    def _content(self) -> dict[str, Any]:
        return {
            **self._task.content(),
            "model": self._task.model.state_dict(),
            "summary": self._summary(),
        }

    def _save_last(self) -> None:
        content = {
            **self._content(),
            "optimiser": self._task.optimiser.state_dict(),
            "progress": vars(self._state),
            "footage": self._task.key,
        }
        save_checkpoint(self._folder / LAST, content, self._config)

    def _summary(self) -> dict[str, Any]:
        device = next(self._task.model.parameters()).device
        on = cpu_name() if device.type == "cpu" else torch.cuda.get_device_name(device)
        return {
            **self._task.summary(),
            "epochs": self._state.epoch,
            "steps": self._state.step,
            "validation_loss": self._best_loss(),
            "seed": self._config.seed,
            "device": on,
            "torch": str(torch.__version__),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }


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


def _step_of(line: str) -> float:
    """Return the step of a log line; infinity for half a line, which a crash may leave."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
