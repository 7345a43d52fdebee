"""The training loop: it learns, can be stopped anywhere, and goes on to the bit."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from helpers import assert_one_line, moving_blob, write_video

import vad_training.fit_stae as module
from vad_runtime.commands import Interrupted
from vad_runtime.contracts import ConfigError, InputError, TrainingError
from vad_training.checkpoint import checkpoint_from_path
from vad_training.config import StaeConfig, read_config
from vad_training.data.store import FrameStore, store_from_footage
from vad_training.data.windows import split_segments, windows_of
from vad_training.fit_stae import (
    _StaeTask,
    check_clip,
    fit_stae,
    learning_rate_at,
    precision_of,
)
from vad_training.loop import BEST, CONFIG, LAST, LOG, FitResult, _Loop, device_of

# fp32 and one thread: the same sums in the same order, on whatever CPU this runs.
TINY = [
    "clip.frames=8",
    "clip.height=32",
    "clip.width=32",
    "optimiser.batch=2",
    "optimiser.learning_rate=2e-3",
    "loss.future_offset=8",
    "steps_per_epoch=4",
    "epochs=2",
    "threads=1",
    "precision=fp32",
    "device=cpu",
    "seed=3",
]


def config(*settings: str) -> StaeConfig:
    return read_config(None, [*TINY, *settings])


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Give the other tests the threads back that a run took."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    for i in range(3):
        write_video(folder / f"{i}.mp4", moving_blob(30, seed=i))
    return folder


@pytest.fixture(scope="module")
def store(site: Path, tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    return store_from_footage([site], config().clip, tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def whole(
    store: FrameStore, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FitResult, list[dict[str, Any]]]:
    """A run that nobody interrupted: two epochs of four steps. Do not change its folder."""
    folder = tmp_path_factory.mktemp("whole")
    before = torch.get_num_threads()
    result = fit_stae(store, config(), folder)
    torch.set_num_threads(before)
    return result, log_of(folder)


def log_of(folder: Path) -> list[dict[str, Any]]:
    text = (folder / LOG).read_text(encoding="utf-8")
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def weights_of(folder: Path, name: str = BEST) -> dict[str, torch.Tensor]:
    content = torch.load(folder / name, weights_only=True)
    model: dict[str, torch.Tensor] = content["model"]
    return model


def assert_same_weights(one: Path, other: Path, name: str = BEST) -> None:
    first, second = weights_of(one, name), weights_of(other, name)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def crash_at(patch: pytest.MonkeyPatch, step: int, error: Exception | None = None) -> None:
    """Let training fail at a step: with an error, or by Ctrl-C after it."""
    real = _Loop._step

    def train_step(self: _Loop, numbers: list[int]) -> dict[str, float | int]:
        if self._state.step == step:
            if error is not None:
                raise error
            signal.raise_signal(signal.SIGINT)
        return real(self, numbers)

    patch.setattr(_Loop, "_step", train_step)


# -- a run -------------------------------------------------------------------------------------


def test_a_run_leaves_config_log_and_checkpoints(
    whole: tuple[FitResult, list[dict[str, Any]]], store: FrameStore
) -> None:
    result, log = whole
    assert sorted(f.name for f in result.folder.iterdir()) == sorted([CONFIG, LOG, LAST, BEST])
    assert read_config(result.folder / CONFIG) == config()
    assert (result.epochs, result.steps, result.stopped_early) == (2, 8, False)
    assert [line["step"] for line in log] == list(range(8))
    assert [line["epoch"] for line in log] == [0] * 4 + [1] * 4
    for line in log:
        assert line["loss"] == pytest.approx(line["reconstruction"] + line["prediction"], rel=1e-6)
        assert line["learning_rate"] == 2e-3
    summary = checkpoint_from_path(result.folder).summary
    assert summary["videos"] == 3
    assert summary["frames"] == len(store.frames) == 90
    assert summary["fps"] == 15
    assert summary["validation_loss"] == result.best_loss


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    whole: tuple[FitResult, list[dict[str, Any]]], store: FrameStore, tmp_path: Path
) -> None:
    fit_stae(store, config("epochs=1"), tmp_path / "same")
    assert log_of(tmp_path / "same") == whole[1][:4]
    fit_stae(store, config("epochs=1", "steps_per_epoch=1", "seed=4"), tmp_path / "other")
    assert log_of(tmp_path / "other")[0]["loss"] != whole[1][0]["loss"]


def test_the_loss_falls(store: FrameStore, tmp_path: Path) -> None:
    settings = ["steps_per_epoch=20", "epochs=1", "augment.rotation_deg=0", "augment.blur_sigma=0"]
    fit_stae(store, config(*settings), tmp_path)
    losses = [line["loss"] for line in log_of(tmp_path)]
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4])


def test_every_window_is_seen_once_an_epoch(
    store: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = [[], []]

    def note(self: _Loop, numbers: list[int]) -> dict[str, float | int]:
        seen[self._state.epoch] += numbers
        return {"step": self._state.step, "loss": 0.0}

    monkeypatch.setattr(_Loop, "_step", note)
    monkeypatch.setattr(_StaeTask, "validation_loss", lambda self: 1.0)
    wanted = config("steps_per_epoch=null", "optimiser.batch=5", "data.window_step=1")
    result = fit_stae(store, wanted, tmp_path)
    train, _ = split_segments(store, 0.2, 3)
    count = len(windows_of(train, 8, 1))
    assert count == 46
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(count))
    assert seen[0] != seen[1]
    assert result.steps == 2 * math.ceil(count / 5)


def test_validation_footage_of_its_own_frees_all_other_footage_for_training(
    store: FrameStore, tiny_video: Path, tmp_path: Path
) -> None:
    held = store_from_footage([tiny_video], config().clip, tmp_path / "held")
    fit_stae(store, config("epochs=1", "steps_per_epoch=1"), tmp_path / "run", validation=held)
    summary = checkpoint_from_path(tmp_path / "run").summary
    assert summary["training_windows"] == len(windows_of(store.segments, 8, 2))
    assert summary["validation_windows"] == len(windows_of(held.segments, 8, 8))


# -- stop and go on ----------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 1, 3, 4, 7])
def test_an_interrupted_run_goes_on_to_the_bit(
    whole: tuple[FitResult, list[dict[str, Any]]],
    store: FrameStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    with monkeypatch.context() as patch:
        crash_at(patch, step)
        with pytest.raises(Interrupted):
            fit_stae(store, config(), tmp_path)
    assert len(log_of(tmp_path)) == step + 1  # the step that Ctrl-C met was finished
    assert (tmp_path / LAST).is_file()
    torch.manual_seed(99)  # what other code draws must not matter
    result = fit_stae(store, config(), tmp_path, resume=True)
    assert log_of(tmp_path) == whole[1]
    assert result.best_loss == whole[0].best_loss
    assert_same_weights(tmp_path, whole[0].folder)
    assert_same_weights(tmp_path, whole[0].folder, LAST)


@pytest.mark.parametrize("tail", ["", '{"step": 6, "epoch": 1, "lo', "no JSON\n", "[]\n"])
def test_after_a_crash_the_log_holds_every_step_once(
    whole: tuple[FitResult, list[dict[str, Any]]],
    store: FrameStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tail: str,
) -> None:
    with monkeypatch.context() as patch:
        crash_at(patch, 6, MemoryError())
        with pytest.raises(MemoryError):
            fit_stae(store, config(), tmp_path)
    assert len(log_of(tmp_path)) == 6  # two more than last.pt knows
    with (tmp_path / LOG).open("a", encoding="utf-8") as log:
        log.write(tail)
    fit_stae(store, config(), tmp_path, resume=True)
    assert log_of(tmp_path) == whole[1]
    assert_same_weights(tmp_path, whole[0].folder)


def test_a_real_ctrl_c_saves_and_a_new_process_ends_as_if_uninterrupted(
    site: Path, tmp_path: Path
) -> None:
    settings = [*TINY, "steps_per_epoch=12"]
    options = [part for setting in settings for part in ("--set", setting)]
    run = tmp_path / "run"
    vad_train = shutil.which("vad-train", path=Path(sys.executable).parent)
    assert vad_train is not None
    command = [vad_train, "fit", str(site), "-o", str(run)]

    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while not (run / LOG).exists() or (run / LOG).read_text().count("\n") < 3:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert (out, err) == ("", "Interrupted.\n")
    assert (run / LAST).is_file()
    stopped_after = len(log_of(run))
    assert 3 <= stopped_after < 24

    spec = read_config(run / CONFIG)
    assert spec == read_config(None, settings)
    frames = store_from_footage([site], spec.clip, run / "frames")
    assert fit_stae(frames, spec, run, resume=True).steps == 24
    fit_stae(frames, spec, tmp_path / "whole")
    assert log_of(run) == log_of(tmp_path / "whole")
    assert_same_weights(run, tmp_path / "whole")


def test_a_finished_run_resumes_to_its_result(
    whole: tuple[FitResult, list[dict[str, Any]]], store: FrameStore, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole[0].folder, tmp_path / "copy"))
    again = fit_stae(store, config(), folder, resume=True)
    assert (again.steps, again.epochs, again.best_loss) == (8, 2, whole[0].best_loss)
    assert log_of(folder) == whole[1]


def test_a_resumed_run_may_be_longer_and_slower(
    whole: tuple[FitResult, list[dict[str, Any]]], store: FrameStore, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole[0].folder, tmp_path / "copy"))
    longer = config("epochs=3", "optimiser.learning_rate=1e-5")
    assert fit_stae(store, longer, folder, resume=True).steps == 12
    log = log_of(folder)
    assert log[:8] == whole[1]
    assert {line["learning_rate"] for line in log[8:]} == {1e-5}


def test_other_footage_and_another_split_are_not_resumed(
    whole: tuple[FitResult, list[dict[str, Any]]],
    store: FrameStore,
    tiny_video: Path,
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(whole[0].folder, tmp_path / "copy"))
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    other = store_from_footage([tiny_video], config().clip, tmp_path / "frames")
    for footage, changed, held in [
        (other, config(), None),
        (store, config(), other),
        (store, config("seed=4"), None),
        (store, config("data.validation_fraction=0.6"), None),
        (store, config("data.window_step=1"), None),
    ]:
        with pytest.raises(InputError) as caught:
            fit_stae(footage, changed, folder, resume=True, validation=held)
        assert_one_line(caught.value, "was trained", "other", "new run")
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before


def test_a_run_that_is_there_is_not_overwritten(
    whole: tuple[FitResult, list[dict[str, Any]]], store: FrameStore
) -> None:
    with pytest.raises(InputError) as caught:
        fit_stae(store, config(), whole[0].folder)
    assert_one_line(caught.value, "holds a run already", "--resume")
    assert log_of(whole[0].folder) == whole[1]


def test_nothing_to_resume_is_one_line(store: FrameStore, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        fit_stae(store, config(), tmp_path, resume=True)
    assert_one_line(caught.value, LAST, "without --resume")


def test_a_damaged_last_checkpoint_is_one_line(
    whole: tuple[FitResult, list[dict[str, Any]]], store: FrameStore, tmp_path: Path
) -> None:
    content = (whole[0].folder / LAST).read_bytes()
    (tmp_path / LAST).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError) as caught:
        fit_stae(store, config(), tmp_path, resume=True)
    assert_one_line(caught.value, LAST)


# -- validation, patience, failure -------------------------------------------------------------


def scripted(patch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Let each epoch do one thing that can be seen in the weights, and have a given loss."""

    def train_step(self: _Loop, numbers: list[int]) -> dict[str, float | int]:
        with torch.no_grad():
            self._task.model.encoder[0].bias.fill_(float(self._state.epoch))
        return {"step": self._state.step, "loss": 1.0}

    patch.setattr(_Loop, "_step", train_step)
    patch.setattr(_StaeTask, "begin_epoch", lambda self, epoch: setattr(self, "epoch", epoch))
    patch.setattr(_StaeTask, "validation_loss", lambda self: losses[self.epoch])


@pytest.mark.parametrize("losses", [[5.0, 3.0, 4.0, 3.0], [1.0, 2.0, 3.0, 4.0], [4, 3, 2, 1]])
def test_best_is_the_epoch_with_the_lowest_validation_loss(
    store: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: list[float]
) -> None:
    scripted(monkeypatch, losses)
    result = fit_stae(store, config("epochs=4", "steps_per_epoch=1"), tmp_path)
    best = losses.index(min(losses))
    assert result.best_loss == min(losses)
    assert float(weights_of(tmp_path)["encoder.0.bias"][0]) == best
    assert float(weights_of(tmp_path, LAST)["encoder.0.bias"][0]) == 3
    summary = checkpoint_from_path(tmp_path).summary
    assert (summary["validation_loss"], summary["epochs"]) == (min(losses), best + 1)


def test_patience_ends_a_run_and_resuming_does_not_prolong_it(
    store: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [5.0, 4.0, 4.0, 4.5, 1.0, 0.5])
    wanted = config("epochs=6", "steps_per_epoch=1", "patience=2")
    result = fit_stae(store, wanted, tmp_path)
    assert (result.stopped_early, result.epochs, result.best_loss) == (True, 4, 4.0)
    again = fit_stae(store, wanted, tmp_path, resume=True)
    assert (again.stopped_early, again.epochs) == (True, 4)
    more = msgspec.structs.replace(wanted, patience=3)
    assert fit_stae(store, more, tmp_path, resume=True).best_loss == 0.5


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_epoch_before(
    whole: tuple[FitResult, list[dict[str, Any]]],
    store: FrameStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = module.stae_loss
    calls = 0

    def spoilt(*args: torch.Tensor) -> Any:
        nonlocal calls
        calls += torch.is_grad_enabled()
        loss = real(*args)
        return loss if calls < 7 else loss._replace(total=loss.total * math.nan)

    with monkeypatch.context() as patch:
        patch.setattr(module, "stae_loss", spoilt)
        with pytest.raises(TrainingError) as caught:
            fit_stae(store, config(), tmp_path)
    assert_one_line(caught.value, "nan at step 6", f"Resume from {tmp_path / LAST}")
    assert torch.load(tmp_path / LAST, weights_only=True)["progress"]["step"] == 4
    fit_stae(store, config(), tmp_path, resume=True)
    assert log_of(tmp_path) == whole[1]


def test_a_loss_that_is_not_finite_at_once_leaves_nothing_to_resume(
    store: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.stae_loss
    monkeypatch.setattr(
        module, "stae_loss", lambda *a: real(*a)._replace(total=torch.tensor(math.inf))
    )
    with pytest.raises(TrainingError) as caught:
        fit_stae(store, config(), tmp_path)
    assert_one_line(caught.value, "inf at step 0", "Start again")
    assert not (tmp_path / LAST).exists()


def test_a_validation_loss_that_is_not_finite_is_no_best_epoch(
    store: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [2.0, math.nan])
    with pytest.raises(TrainingError) as caught:
        fit_stae(store, config("steps_per_epoch=1"), tmp_path)
    assert_one_line(caught.value, "validation loss is nan after epoch 1")
    assert float(weights_of(tmp_path)["encoder.0.bias"][0]) == 0


def test_too_little_footage_for_two_parts_is_refused(tmp_path: Path) -> None:
    video = write_video(tmp_path / "short.mp4", moving_blob(14))
    short = store_from_footage([video], config().clip, tmp_path / "frames")
    with pytest.raises(InputError) as caught:
        fit_stae(short, config(), tmp_path / "run")
    assert_one_line(caught.value, "too little footage", "0 validation windows of 8 frames")


# -- settings ----------------------------------------------------------------------------------


def test_the_step_schedule_falls_at_its_milestones() -> None:
    published = StaeConfig()
    rates = [learning_rate_at(published, step, 10) for step in range(400)]
    assert rates[:250] == [1e-4] * 250
    assert rates[250:] == [pytest.approx(1e-5)] * 150
    twice = read_config(None, ["optimiser.milestones=[1, 3]", "optimiser.gamma=0.5"])
    by_epoch = [learning_rate_at(twice, epoch * 7 + 6, 7) for epoch in range(5)]
    assert by_epoch == [1e-4, 5e-5, 5e-5, 2.5e-5, 2.5e-5]


def test_the_cosine_schedule_warms_up_and_falls_to_two_percent() -> None:
    cosine = read_config(
        None, ["optimiser.schedule=cosine", "optimiser.learning_rate=1", "epochs=5"]
    )
    rates = [learning_rate_at(cosine, step, 40) for step in range(200)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == 1.0
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[105] == pytest.approx(0.51)
    assert 0.02 < rates[-1] < 0.021
    assert [learning_rate_at(cosine, step, 40) for step in reversed(range(200))] == rates[::-1]
    one = read_config(None, ["optimiser.schedule=cosine", "epochs=1"])
    assert learning_rate_at(one, 0, 1) == 1e-4


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("clip.colour=rgb", "gray"),
        ("clip.frames=12", "clip.frames"),
        ("clip.height=100", "clip.height"),
        ("clip.width=36", "clip.width"),
    ],
)
def test_a_clip_that_the_model_cannot_take_is_refused(
    store: FrameStore, tmp_path: Path, setting: str, named: str
) -> None:
    wrong = config(setting)
    with pytest.raises(ConfigError) as caught:
        check_clip(wrong)
    assert_one_line(caught.value, named)
    with pytest.raises(ConfigError):
        fit_stae(store, wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "warp drive"])
def test_a_device_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError) as caught:
        device_of(name)
    assert_one_line(caught.value, f"device={name}", "device=cpu")


def test_auto_is_the_cpu_without_cuda_and_precision_is_what_was_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cpu = device_of("auto")
    assert cpu.type == "cpu"
    assert precision_of("fp32", cpu) == "fp32"
    assert precision_of("bf16", cpu) == "bf16"
    assert precision_of("auto", cpu) in ("fp32", "bf16")


def test_a_run_folder_that_cannot_be_made_is_one_line(store: FrameStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as caught:
        fit_stae(store, config(), tmp_path / "file" / "run")
    assert_one_line(caught.value, "cannot be written")
