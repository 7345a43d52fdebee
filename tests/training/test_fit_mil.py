"""Training of the family mil: it finds the anomalous segment, and goes on to the bit."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_one_line

from vad_runtime.commands import Interrupted
from vad_runtime.contracts import ConfigError, InputError
from vad_runtime.features import c3d_file_starts, scores_to_frames, unit_length
from vad_training.checkpoint_file import read_checkpoint_file
from vad_training.config import MilConfig, read_config
from vad_training.data.features import FeatureSet, feature_set_from_path
from vad_training.fit_mil import SPLIT, MilTask, fit_mil
from vad_training.loop import BEST, LAST, LOG
from vad_training.metrics.roc import roc_auc
from vad_training.models.mil import head_from_weights

TINY = [
    "family=mil",
    "features.segments=8",
    "head.hidden=[16,8]",
    "head.top_k=2",
    "optimiser.kind=adam",
    "optimiser.batch=4",
    "epochs=6",
    "threads=1",
    "device=cpu",
    "seed=1",
]


def config(*settings: str) -> MilConfig:
    found = read_config(None, [*TINY, *settings])
    assert isinstance(found, MilConfig)
    return found


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def videos(count: int = 40, *, normal: int = 16, place: int = 7) -> FeatureSet:
    """Return noise in which one segment of each anomalous video points elsewhere."""
    rng = np.random.default_rng(0)
    features = 0.3 * rng.normal(size=(count, 8, 6)).astype(np.float32)
    features[:, :, 0] += 1
    labels = np.array([1] * (count - normal) + [0] * normal)
    features[labels == 1, place] = [0, 1, 0, 0, 0, 0]
    names = [f"{'anomaly' if label else 'normal'}/{i}" for i, label in enumerate(labels)]
    return FeatureSet(names=names, labels=labels, features=unit_length(features))


def head_of(folder: Path, settings: MilConfig) -> torch.nn.Module:
    content = read_checkpoint_file(folder / BEST)
    return head_from_weights(settings.head, content["model"], BEST)


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


@pytest.mark.parametrize("kind", ["sultani", "topk", "rtfm"])
def test_every_kind_finds_an_anomaly_in_the_last_segment(tmp_path: Path, kind: str) -> None:
    settings = config(
        f"head.kind={kind}", "epochs=30", "head.dropout=0", "optimiser.learning_rate=0.02",
        "loss.margin=5", "loss.magnitude=0.1",
    )  # fmt: skip
    data = videos(place=7)
    result = fit_mil(data, settings, tmp_path)
    assert result.best_loss == 0.0
    with torch.inference_mode():
        scores = head_of(tmp_path, settings)(torch.from_numpy(data.features)).numpy()
    assert (scores[data.labels == 1].argmax(axis=1) == 7).mean() > 0.8


def test_the_same_number_of_bags_of_each_class_is_in_a_step() -> None:
    data, seen = videos(), []
    task = MilTask(data, range(40), range(40), config("head.dropout=0"))
    real = task._bags
    task._bags = lambda numbers: seen.append(list(numbers)) or real(numbers)  # type: ignore[method-assign, func-returns-value]
    assert task.examples == 16  # the rarer class
    losses = task.train_step([0, 3, 5], np.random.default_rng(0))
    assert [int(data.labels[i]) for i in seen[0]] == [1, 1, 1, 0, 0, 0]
    assert seen[0][3:] == [24, 27, 29]  # the numbered bags of the rarer class
    assert len(set(seen[0][:3])) == 3
    assert losses["loss"].requires_grad


def test_anomalous_bags_may_be_the_rarer_class() -> None:
    task = MilTask(videos(normal=30), range(40), range(40), config())
    assert task.examples == 10
    assert torch.isfinite(task.train_step([0, 9], np.random.default_rng(0))["loss"])


def test_l2_pulls_on_weights_and_not_on_biases() -> None:
    task = MilTask(videos(), range(40), range(40), config("optimiser.weight_decay=0.5"))
    decays = {
        id(p): group["weight_decay"]
        for group in task.optimiser.param_groups
        for p in group["params"]
    }
    assert len(decays) == 6
    for name, parameter in task.model.named_parameters():
        assert decays[id(parameter)] == (0.5 if name.endswith("weight") else 0.0), name


def test_the_rate_falls_at_the_milestones() -> None:
    settings = config("optimiser.milestones=[2,4]", "optimiser.learning_rate=1")
    task = MilTask(videos(), range(40), range(40), settings)
    rates = [task.learning_rate(step, 5, ()) for step in (0, 9, 10, 19, 20)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_validation_looks_at_the_videos_kept_back_and_at_their_highest_segment() -> None:
    data = videos()
    task = MilTask(data, range(38), [0, 1, 38, 39], config())
    scores = {0: 0.9, 1: 0.2, 38: 0.5, 39: 0.1}
    task.scores = lambda numbers: np.array([[0.0, scores[i]] for i in numbers])  # type: ignore[method-assign]
    # pairs (anomalous, normal): .9 > .5, .9 > .1, .2 < .5, .2 > .1: three of four
    assert task.validation_loss() == pytest.approx(0.25)


def test_validation_videos_are_never_trained_on_and_are_named(tmp_path: Path) -> None:
    fit_mil(videos(), config("epochs=1"), tmp_path)
    split = json.loads((tmp_path / SPLIT).read_text())
    assert sorted(split["train"] + split["val"]) == sorted(videos().names)
    assert len(split["val"]) == 8  # a fifth of 24 and of 16, rounded
    assert not set(split["train"]) & set(split["val"])


def test_a_run_that_was_stopped_goes_on_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit_mil(videos(), config(), tmp_path / "whole")
    real, count = MilTask.train_step, 0

    def train_step(self: MilTask, *args: Any) -> Any:
        nonlocal count
        count += 1
        if count == 6:
            signal.raise_signal(signal.SIGINT)
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(MilTask, "train_step", train_step)
        with pytest.raises(Interrupted):
            fit_mil(videos(), config(), tmp_path / "parts")
    assert (tmp_path / "parts" / LAST).is_file()
    resumed = fit_mil(videos(), config(), tmp_path / "parts", resume=True)
    assert resumed.steps == whole.steps == 24
    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole")
    first, second = (head_of(tmp_path / name, config()).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_is_not_resumed_on_other_features(tmp_path: Path) -> None:
    fit_mil(videos(), config("epochs=1"), tmp_path)
    before = (tmp_path / SPLIT).read_text()
    with pytest.raises(InputError) as caught:
        fit_mil(videos(50, place=3), config("epochs=2"), tmp_path, resume=True)
    assert_one_line(caught.value, "last.pt")
    assert (tmp_path / SPLIT).read_text() == before  # it still says what the run was trained on


def test_a_folder_with_a_run_is_not_written_over(tmp_path: Path) -> None:
    fit_mil(videos(), config("epochs=1"), tmp_path)
    before = (tmp_path / SPLIT).read_text()
    with pytest.raises(InputError) as caught:
        fit_mil(videos(), config("seed=9"), tmp_path)
    assert_one_line(caught.value, "--resume")
    assert (tmp_path / SPLIT).read_text() == before


def test_more_top_segments_than_there_are_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        fit_mil(videos(), config("head.kind=topk", "head.top_k=9"), tmp_path)
    assert_one_line(caught.value, "head.top_k=9", "8 segments")


def test_the_checkpoint_says_what_it_was_trained_on(tmp_path: Path) -> None:
    fit_mil(videos(), config("epochs=1"), tmp_path)
    content = read_checkpoint_file(tmp_path / BEST)
    summary = content["summary"]
    assert (summary["anomalous_videos"], summary["normal_videos"]) == (19, 13)
    assert summary["dimension"] == 6
    assert content["config"]["family"] == "mil"


@pytest.mark.data
def test_real_c3d_features_rank_far_above_chance(data: Path, tmp_path: Path) -> None:
    # Fewer epochs than docs/results/mil_ucf_crime.md, which tells what longer training reaches.
    settings = read_config(
        None,
        [
            *("family=mil", "device=cpu", "threads=2", "seed=0", "epochs=12"),
            *("optimiser.kind=adam", "optimiser.learning_rate=1e-3"),
            *("head.kind=rtfm", "loss.margin=10", "loss.magnitude=1e-2"),
        ],
    )
    assert isinstance(settings, MilConfig)
    folder = data / "ucf_crime"
    fit_mil(feature_set_from_path(folder / "c3d_train.npz", settings.features), settings, tmp_path)
    test = feature_set_from_path(folder / "c3d_test.npz", settings.features)
    assert test.frames is not None
    assert test.intervals is not None
    with torch.inference_mode():
        segments = head_of(tmp_path, settings)(torch.from_numpy(test.features)).numpy()
    scores, truth = [], []
    for bag, count, intervals in zip(segments, test.frames.tolist(), test.intervals, strict=True):
        scores.append(scores_to_frames(bag, c3d_file_starts(count), count))
        truth.append(np.zeros(count, bool))
        for first, end in intervals:
            truth[-1][first:end] = True
    assert roc_auc(np.concatenate(scores), np.concatenate(truth)) >= 0.65
