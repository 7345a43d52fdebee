"""Training of backbone and autoencoder: what is trained, on which videos, and that it resumes."""

import json
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_one_line, clip_spec, moving_blob, write_video
from tiny_backbone import TINY_SPEC, TinyNetwork, tiny_config, tiny_embedder, write_site

import vad_training.autoencoder_run as run_module
import vad_training.fit_autoencoder as module
from vad_runtime.commands import Interrupted
from vad_runtime.contracts import ConfigError, InputError
from vad_training.autoencoder_run import BACKBONE, TABLE, autoencoder_from_run, load_autoencoder
from vad_training.config import StaeConfig, tree_from_config
from vad_training.config.backbone_ae import AdamConfig
from vad_training.data.clips import clips_of
from vad_training.data.holdout import split_for_training, validation_entries
from vad_training.data.store import store_from_footage
from vad_training.data.table import Entry, Split, read_table
from vad_training.embeddings import EmbeddingCache, embeddings_of
from vad_training.fit_autoencoder import _Footage, _Task, fit_autoencoder
from vad_training.loop import BEST, CONFIG, LAST, LOG, FitResult
from vad_training.models.backbones.base import ClipEmbedder, clip_of
from vad_training.schedules import scheduled_rate

SPLITS: dict[str, Split] = {
    "walk/1": "train",
    "walk/2": "train",
    "walk/3": "val",
    "run/1": "train",
    "run/2": "val",
    "fall/1": "anomaly",
}
UNFREEZE = ("unfreeze.epoch=1", "unfreeze.first_parameter=2", "epochs=3")


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """Six videos of 5 clips each. Do not change."""
    return write_site(tmp_path_factory.mktemp("site"), SPLITS)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingCache:
    return EmbeddingCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def whole(
    site: list[Entry], cache: EmbeddingCache, tmp_path_factory: pytest.TempPathFactory
) -> FitResult:
    """A run that nobody interrupted: 3 epochs of 4 steps. Do not change its folder."""
    return fit(site, tmp_path_factory.mktemp("whole"), cache)


def fit(
    entries: Sequence[Entry],
    folder: Path,
    cache: EmbeddingCache,
    *settings: str,
    resume: bool = False,
    embedder: ClipEmbedder | None = None,
) -> FitResult:
    embedder = embedder or tiny_embedder()
    before = torch.get_num_threads()
    try:
        return fit_autoencoder(
            entries, tiny_config(*settings), folder, resume=resume, cache=cache, embedder=embedder
        )
    finally:
        torch.set_num_threads(before)


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]


def content_of(folder: Path, name: str = BEST) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / name, weights_only=True)
    return content


def assert_same_weights(one: Path, other: Path, name: str) -> None:
    first, second = content_of(one, name)["model"], content_of(other, name)["model"]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def interrupt_at(patch: pytest.MonkeyPatch, step: int) -> None:
    real, seen = _Task.train_step, 0

    def train_step(self: _Task, *args: Any) -> dict[str, torch.Tensor]:
        nonlocal seen
        seen += 1
        if seen == step + 1:
            signal.raise_signal(signal.SIGINT)
        return real(self, *args)

    patch.setattr(_Task, "train_step", train_step)


# -- a run -------------------------------------------------------------------------------------


def test_a_run_leaves_everything_that_reading_it_back_needs(whole: FitResult) -> None:
    names = sorted(file.name for file in whole.folder.iterdir())
    assert names == sorted([CONFIG, LOG, LAST, BEST, BACKBONE, TABLE])
    assert (whole.epochs, whole.steps) == (3, 12)  # 15 clips in batches of 4
    assert [(e.label, e.split) for e in read_table(whole.folder / TABLE)] == [
        (key.split("/")[0], split) for key, split in SPLITS.items()
    ]
    run = autoencoder_from_run(whole.folder, embedder=tiny_embedder(seed=9))
    assert run.clip == clip_of(TINY_SPEC, tiny_config().clip)
    wanted = tiny_embedder().network.state_dict()
    found = run.model.embedder.network.state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert not run.model.training
    summary = run.summary
    assert (summary["videos"], summary["training_clips"]) == (3, 15)
    assert (summary["validation_videos"], summary["validation_clips"]) == (2, 10)
    assert (summary["fps"], summary["classes"]) == (15, ["run", "walk"])
    assert summary["backbone"] == {"name": "tiny", "trained": False}


def test_training_lowers_the_loss(site: list[Entry], cache: EmbeddingCache, tmp_path: Path) -> None:
    result = fit(site, tmp_path, cache, "epochs=40", "optimiser.schedule=constant")
    losses = [line["loss"] for line in log_of(tmp_path)]
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])
    assert result.best_loss < content_of(tmp_path, LAST)["progress"]["epoch_losses"][0]


def test_the_best_loss_is_the_mean_error_of_the_validation_clips(
    whole: FitResult, site: list[Entry], cache: EmbeddingCache
) -> None:
    run = autoencoder_from_run(whole.folder, embedder=tiny_embedder())
    held = [entry.path for entry in site if entry.split == "val"]
    videos = embeddings_of(held, run.model.embedder, run.clip, cache=cache)
    with torch.no_grad():
        errors = run.model.scores(
            torch.from_numpy(np.concatenate([v.embeddings for v in videos]))
        ).error
    assert float(errors.mean()) == pytest.approx(whole.best_loss, rel=1e-6)


def test_centroids_are_the_mean_of_each_class_of_the_training_clips(
    whole: FitResult, site: list[Entry], cache: EmbeddingCache
) -> None:
    run = autoencoder_from_run(whole.folder, embedder=tiny_embedder())
    assert run.model.classes == ("run", "walk")
    for number, label in enumerate(run.model.classes):
        paths = [e.path for e in site if e.split == "train" and e.label == label]
        videos = embeddings_of(paths, run.model.embedder, run.clip, cache=cache)
        points = torch.from_numpy(np.concatenate([video.embeddings for video in videos]))
        with torch.no_grad():
            latents = run.model.scores(points).latent
        for found, wanted in [
            (run.model.embedding_centroids[number], points.mean(dim=0)),
            (run.model.latent_centroids[number], latents.mean(dim=0)),
        ]:
            torch.testing.assert_close(found, wanted)


def test_a_frozen_backbone_does_not_drift_and_sees_each_clip_once(
    site: list[Entry], tmp_path: Path
) -> None:
    embedder = tiny_embedder()
    fit(site, tmp_path / "run", EmbeddingCache(tmp_path / "cache"), embedder=embedder)
    assert isinstance(embedder.network, TinyNetwork)
    assert embedder.network.clips == 25  # the five videos of train and val, once in three epochs
    wanted, found = tiny_embedder().state_dict(), embedder.state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_an_epoch_that_ends_with_a_lone_clip_trains_with_batch_norm(
    site: list[Entry], cache: EmbeddingCache, tmp_path: Path
) -> None:
    result = fit(site, tmp_path, cache, "optimiser.batch=7")  # 15 = 7 + 7 + 1
    assert result.steps == 9


def test_at_most_the_asked_number_of_clips_of_a_video_is_used(
    site: list[Entry], cache: EmbeddingCache, tmp_path: Path
) -> None:
    fit(site, tmp_path, cache, "data.clips_per_video=2")
    summary = content_of(tmp_path)["summary"]
    assert (summary["training_clips"], summary["validation_clips"]) == (6, 4)


# -- resuming ----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 5, 7, 10])
def test_an_interrupted_run_resumes_to_the_bit(
    whole: FitResult,
    site: list[Entry],
    cache: EmbeddingCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        with pytest.raises(Interrupted):
            fit(site, tmp_path, cache)
    assert len(log_of(tmp_path)) == step + 1
    torch.manual_seed(99)
    result = fit(site, tmp_path, cache, resume=True)
    assert log_of(tmp_path) == log_of(whole.folder)
    assert result.best_loss == whole.best_loss
    assert_same_weights(tmp_path, whole.folder, BEST)
    assert_same_weights(tmp_path, whole.folder, LAST)


def test_a_run_whose_backbone_is_trained_resumes_to_the_bit(
    site: list[Entry], cache: EmbeddingCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(site, tmp_path / "whole", cache, *UNFREEZE)
    for step in (2, 6):  # before the backbone is trained, and after
        folder = tmp_path / str(step)
        with monkeypatch.context() as patch:
            interrupt_at(patch, step)
            with pytest.raises(Interrupted):
                fit(site, folder, cache, *UNFREEZE)
        fit(site, folder, cache, *UNFREEZE, resume=True)
        assert log_of(folder) == log_of(tmp_path / "whole")
        assert_same_weights(folder, tmp_path / "whole", LAST)


def test_other_videos_and_another_split_are_not_resumed(
    whole: FitResult, site: list[Entry], cache: EmbeddingCache, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole.folder, tmp_path / "copy"))
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    swapped: list[Split] = ["train", "val", "train", "train", "val", "anomaly"]
    for entries in (
        site[1:],
        [replace(entry, split=split) for entry, split in zip(site, swapped, strict=True)],
        [replace(site[0], label="run"), *site[1:]],
    ):
        with pytest.raises(InputError) as caught:
            fit(entries, folder, cache, resume=True)
        assert_one_line(caught.value, "was trained on other footage", "new run")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_run_that_is_there_is_not_overwritten(
    whole: FitResult, site: list[Entry], cache: EmbeddingCache
) -> None:
    with pytest.raises(InputError) as caught:
        fit(site, whole.folder, cache)
    assert_one_line(caught.value, "holds a run already", "--resume")


# -- training the backbone ---------------------------------------------------------------------


def test_unfreezing_changes_only_the_parameters_from_the_index_on(
    site: list[Entry], cache: EmbeddingCache, tmp_path: Path
) -> None:
    fit(site, tmp_path, cache, *UNFREEZE)
    assert not (tmp_path / BACKBONE).exists()
    before = dict(tiny_embedder().network.named_parameters())
    after = content_of(tmp_path, LAST)["model"]
    changed = [not torch.equal(after[f"network.{name}"], before[name]) for name in before]
    # conv.weight, conv.bias | norm.weight, norm.bias, out.weight, out.bias
    assert changed == [False, False, True, True, True, True]
    for name, buffer in tiny_embedder().network.named_buffers():
        assert torch.equal(after[f"network.{name}"], buffer)  # BatchNorm stays in eval mode


def test_the_backbone_is_frozen_until_its_epoch(
    site: list[Entry], cache: EmbeddingCache, tmp_path: Path
) -> None:
    settings = ("unfreeze.epoch=1", "epochs=1")
    fit(site, tmp_path, cache, *settings)
    for name, parameter in tiny_embedder().network.named_parameters():
        assert torch.equal(content_of(tmp_path, LAST)["model"][f"network.{name}"], parameter)
    frozen = tmp_path / "frozen"
    fit(site, frozen, cache, "epochs=1")
    assert log_of(frozen) == log_of(tmp_path)


def test_the_backbone_learns_at_its_share_of_the_rate(
    site: list[Entry], cache: EmbeddingCache, tmp_path: Path
) -> None:
    fit(site, tmp_path, cache, *UNFREEZE, "unfreeze.learning_rate_factor=0.25")
    own, backbone = content_of(tmp_path, LAST)["optimiser"]["param_groups"]
    assert own["lr"] == 5e-3
    assert backbone["lr"] == 0.25 * 5e-3


def test_a_trained_backbone_is_read_back_with_centroids_of_its_own_embeddings(
    site: list[Entry], cache: EmbeddingCache, tmp_path: Path
) -> None:
    fit(site, tmp_path, cache, *UNFREEZE)
    content = content_of(tmp_path, LAST)
    model = load_autoencoder(content, tmp_path, LAST, embedder=tiny_embedder(seed=9))
    clip = clip_of(TINY_SPEC, tiny_config().clip)
    walks = [e.path for e in site if e.split == "train" and e.label == "walk"]
    pixels = np.stack([clip_ for path in walks for _, clip_ in clips_of(path, clip)])
    with torch.no_grad():
        embeddings = model.embedder(torch.from_numpy(pixels))
    torch.testing.assert_close(model.embedding_centroids[1], embeddings.mean(dim=0))
    frozen = embeddings_of(walks, tiny_embedder(), clip, cache=cache)
    assert not np.allclose(embeddings[:5].numpy(), frozen[0].embeddings, atol=1e-4)


@pytest.mark.parametrize("jump", [None, 13])
@pytest.mark.parametrize(("count", "hop"), [(24, 4), (29, 6), (7, 2), (6, 2)])
def test_clips_of_the_store_are_those_of_the_embeddings(
    tmp_path: Path, jump: int | None, count: int, hop: int
) -> None:
    spec = clip_spec(frames=4, stride=2, hop=hop, colour="rgb")
    pts = [i if jump is None or i < jump else i + 30 for i in range(count)]
    video = write_video(tmp_path / "v.mp4", moving_blob(count), pts=pts)
    other = write_video(tmp_path / "other.mp4", moving_blob(20, seed=1))
    footage = _Footage(store_from_footage([other, video], spec, tmp_path / "frames"), spec)
    for path in (video, other):
        wanted = [pixels for _, pixels in clips_of(path, spec)]
        assert len(footage._rows[path.resolve()]) == len(wanted)
        if wanted:
            found = footage.clips([(path.resolve(), i) for i in range(len(wanted))])
            assert np.array_equal(found, np.stack(wanted))


def test_an_index_beyond_the_last_parameter_is_refused(
    site: list[Entry], cache: EmbeddingCache, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        fit(site, tmp_path, cache, "unfreeze.epoch=1", "unfreeze.first_parameter=6")
    assert_one_line(caught.value, "first_parameter=6", "6 parameters")


# -- the split ---------------------------------------------------------------------------------


def entry(name: str, split: Split = "", *, label: str = "a", original: str = "") -> Entry:
    return Entry(
        path=Path(name),
        label=label,
        split=split,
        original=Path(original) if original else None,
    )


def splits_of(entries: Sequence[Entry]) -> dict[str, str]:
    return {str(e.path): e.split for e in entries}


@pytest.mark.parametrize("seed", range(8))
def test_augmentations_never_leave_their_original(seed: int) -> None:
    originals = [entry(f"{i}.mp4") for i in range(6)]
    made = [entry(f"{i}-{k}.mp4", original=f"{i}.mp4") for i in range(6) for k in range(3)]
    again = [entry(f"{i}-{k}-x.mp4", original=f"{i}-{k}.mp4") for i in range(6) for k in range(2)]
    found = split_for_training([*made, *originals, *again], (), 0.34, seed)
    by_family: dict[str, set[str]] = {}
    for item in found:
        by_family.setdefault(item.path.name[0], set()).add(item.split)
    assert sorted(map(sorted, by_family.values())) == [["train"]] * 4 + [["val"]] * 2
    held = validation_entries(found)
    assert len(held) == 2
    assert all(item.original is None for item in held)


def test_the_drawn_videos_depend_on_the_seed_alone() -> None:
    entries = [entry(f"{i}.mp4") for i in range(20)]
    draws = [split_for_training(entries, (), 0.2, seed) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert [e.split for e in draws[0]].count("val") == 4


def test_every_class_keeps_a_video_to_train_on() -> None:
    entries = [entry("x.mp4", label="rare"), *(entry(f"{i}.mp4") for i in range(3))]
    for seed in range(10):
        found = split_for_training(entries, (), 0.9, seed)
        assert {e.label for e in found if e.split == "train"} == {"rare", "a"}


def test_a_split_of_val_in_the_table_is_kept_and_nothing_is_drawn() -> None:
    entries = [entry("1", "train"), entry("2"), entry("3", "val"), entry("4", "test")]
    entries.append(entry("3-1", original="3"))
    found = split_for_training(entries, (), 0.5, 0)
    assert splits_of(found) == {"1": "train", "2": "train", "3": "val", "4": "test", "3-1": "val"}
    assert [str(e.path) for e in validation_entries(found)] == ["3"]


@pytest.mark.parametrize("split", ["val", "test", "anomaly"])
def test_an_augmentation_in_another_split_than_its_original_is_refused(split: Split) -> None:
    entries = [entry("1", split), entry("1-1", "train", original="1"), entry("2", "train")]
    with pytest.raises(InputError) as caught:
        split_for_training(entries, (), 0.5, 0)
    assert_one_line(caught.value, "1-1", split, "train", "one split")


def test_siblings_of_an_original_that_is_gone_stay_together() -> None:
    with pytest.raises(InputError):
        split_for_training(
            [entry("1-1", "train", original="1"), entry("1-2", "val", original="1")], (), 0.5, 0
        )


def test_other_classes_are_never_trained_on() -> None:
    entries = [
        *(entry(str(i), "train") for i in range(3)),
        entry("b1", "train", label="b"),
        entry("b2", "val", label="b"),
        entry("t", "test"),
    ]
    found = split_for_training(entries, ("a",), 0.3, 0)
    assert splits_of(found)["b1"] == splits_of(found)["b2"] == "anomaly"
    assert splits_of(found)["t"] == "test"
    assert {e.label for e in found if e.split in ("train", "val")} == {"a"}


def test_a_class_that_does_not_exist_is_named(
    site: list[Entry], cache: EmbeddingCache, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        fit(site, tmp_path / "run", cache, "data.classes=[swim]")
    assert_one_line(caught.value, "'swim'", "fall, run, walk")
    assert not (tmp_path / "run").exists()


def test_videos_that_cannot_be_split_are_one_line() -> None:
    with pytest.raises(InputError) as caught:
        split_for_training([entry("1"), entry("2", label="b")], (), 0.5, 0)
    assert_one_line(caught.value, "second video", "val")
    with pytest.raises(InputError) as caught:
        split_for_training([entry("1", "test"), entry("2", "val")], (), 0.5, 0)
    assert_one_line(caught.value, "no videos to train on")


# -- failure -----------------------------------------------------------------------------------


def test_skipped_videos_are_told_and_the_others_trained_on(
    site: list[Entry], cache: EmbeddingCache, tmp_path: Path
) -> None:
    short = write_video(tmp_path / "short.mp4", moving_blob(6))
    told: list[str] = []
    fit_autoencoder(
        [*site, Entry(path=short, label="walk", split="train")],
        tiny_config("epochs=1"),
        tmp_path / "run",
        cache=cache,
        embedder=tiny_embedder(),
        tell_skipped=told.append,
    )
    assert len(told) == 1
    assert "short.mp4" in told[0]
    summary = content_of(tmp_path / "run")["summary"]
    assert (summary["training_clips"], summary["skipped"]) == (15, told)


def test_no_clips_to_validate_on_is_one_line_with_a_reason(
    site: list[Entry], cache: EmbeddingCache, tmp_path: Path
) -> None:
    short = write_video(tmp_path / "short.mp4", moving_blob(6))
    entries = [site[0], Entry(path=short, label="walk", split="val")]
    with pytest.raises(InputError) as caught:
        fit(entries, tmp_path / "run", cache)
    assert_one_line(caught.value, "5 training and 0 validation clips", "short.mp4")


def test_a_video_that_is_trained_on_does_not_validate_under_another_name(
    site: list[Entry], cache: EmbeddingCache, tmp_path: Path
) -> None:
    copy = shutil.copy(site[0].path, tmp_path / "copy.mp4")
    with pytest.raises(InputError) as caught:
        fit([*site, Entry(path=copy, label="walk", split="val")], tmp_path / "run", cache)
    assert_one_line(caught.value, str(site[0].path), "copy.mp4 (val)", "data check")
    assert not list((tmp_path / "run").iterdir())


def test_a_batch_of_one_is_refused_with_batch_norm_alone(
    site: list[Entry], cache: EmbeddingCache, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        fit(site, tmp_path / "a", cache, "optimiser.batch=1")
    assert_one_line(caught.value, "optimiser.batch")
    without = ("optimiser.batch=1", "autoencoder.batch_norm=false", "epochs=1")
    assert fit(site, tmp_path / "b", cache, *without).steps == 15


def _without(name: str, content: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != name}


def test_checkpoints_that_do_not_fit_are_one_line(whole: FitResult, tmp_path: Path) -> None:
    content = content_of(whole.folder)
    model = content["model"]
    other = tree_from_config(StaeConfig())
    for wrong, part in [
        (_without("centroids", content), "centroids"),
        (_without("model", content), "no autoencoder"),
        (content | {"schema": 99}, "schema"),
        (content | {"config": other}, "family stae"),
        (content | {"model": _without("autoencoder.encoder.1.bias", model)}, "encoder.1.bias"),
        (content | {"centroids": content["centroids"] | {"classes": ["a"]}}, "centroids"),
        (content | {"model": model | {"network.conv.bias": torch.zeros(4)}}, "tiny"),
    ]:
        with pytest.raises(InputError) as caught:
            load_autoencoder(wrong, whole.folder, "best.pt", embedder=tiny_embedder())
        assert_one_line(caught.value, "best.pt", part)
    with pytest.raises(InputError) as caught:
        load_autoencoder(content, tmp_path, "best.pt", embedder=tiny_embedder())
    assert_one_line(caught.value, BACKBONE)
    with pytest.raises(InputError) as caught:
        autoencoder_from_run(tmp_path)
    assert_one_line(caught.value, "best.pt")


def test_a_backbone_of_the_registry_is_built_from_the_configuration_alone(
    site: list[Entry],
    cache: EmbeddingCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def embedder(backbone: object, frames: int | None) -> ClipEmbedder:
        asked.append((backbone, frames))
        return tiny_embedder()

    config = tiny_config("epochs=1", "backbone.random_weights=5", "clip.frames=4")
    monkeypatch.setattr(module, "embedder_from_config", embedder)
    fit_autoencoder(site, config, tmp_path, cache=cache)
    assert asked == [(config.backbone, 4)]
    monkeypatch.setattr(run_module, "spec_from_config", lambda _config: TINY_SPEC)
    run = autoencoder_from_run(tmp_path)
    assert run.config == config
    assert "random weights, seed 5" in run.summary["backbone"]["weights"]
    found, wanted = run.model.embedder.state_dict(), tiny_embedder().state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


# -- schedules ---------------------------------------------------------------------------------

LOSSES = [5.0, 4.0, 4.5, 3.9999, 4.2, 4.1, 3.0, 3.1, 3.2, 3.3, 2.9999, 2.9998, 3.5, 3.6, 3.7, 1.0]


def adam(schedule: str, **changes: Any) -> AdamConfig:
    return AdamConfig(
        learning_rate=0.02, schedule=schedule, period=3, gamma=0.3, milestones=(2, 7, 9), **changes
    )


@pytest.mark.parametrize("schedule", ["step", "multistep", "plateau", "cosine", "warm_restarts"])
def test_rates_are_those_of_pytorchs_schedulers(schedule: str) -> None:
    optimiser = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.02)
    schedulers = torch.optim.lr_scheduler
    epochs = len(LOSSES)
    scheduler: Any = {
        "step": lambda: schedulers.StepLR(optimiser, 3, 0.3),
        "multistep": lambda: schedulers.MultiStepLR(optimiser, [2, 7, 9], 0.3),
        "plateau": lambda: schedulers.ReduceLROnPlateau(optimiser, "min", 0.3, patience=3),
        "cosine": lambda: schedulers.CosineAnnealingLR(optimiser, epochs),
        "warm_restarts": lambda: schedulers.CosineAnnealingWarmRestarts(optimiser, 3),
    }[schedule]()
    wanted = []
    for loss in LOSSES:
        wanted.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step(*([loss] if schedule == "plateau" else []))
    found = [scheduled_rate(adam(schedule), e, epochs, LOSSES[:e]) for e in range(epochs)]
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert len(set(found)) > 1


def test_a_constant_rate_is_constant() -> None:
    assert {scheduled_rate(adam("constant"), e, 9, LOSSES[:e]) for e in range(9)} == {0.02}


def test_a_plateau_lowers_the_rate_where_the_loss_does_not_fall_and_only_there() -> None:
    falling = [10.0 - i for i in range(9)]
    rising = [1.0 + i for i in range(9)]
    assert scheduled_rate(adam("plateau"), 9, 9, falling) == 0.02
    rates = [scheduled_rate(adam("plateau"), e, 9, rising[:e]) for e in range(9)]
    # The first loss is the best; three more epochs are borne with, the fourth lowers the rate.
    assert rates == pytest.approx([0.02] * 5 + [0.006] * 4)


def test_a_run_lowers_its_rate_on_a_plateau_of_the_validation_loss(
    site: list[Entry], cache: EmbeddingCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([4.0, 3.0, 3.0, 3.0, 2.0, 2.0])
    monkeypatch.setattr(_Task, "validation_loss", lambda _self: next(losses))
    settings = ("optimiser.schedule=plateau", "optimiser.period=1", "steps_per_epoch=1")
    fit(site, tmp_path, cache, *settings, "epochs=6")
    rates = [line["learning_rate"] for line in log_of(tmp_path)]
    assert rates == pytest.approx([5e-3] * 4 + [5e-4] * 2)
