"""Bags from a tree of feature files, from a packed file, and their split."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import assert_one_line

from vad_runtime.contracts import InputError
from vad_training.config.mil import FeaturesConfig
from vad_training.data.features import (
    feature_set_from_path,
    is_normal,
    split_videos,
)

CONFIG = FeaturesConfig(segments=4)


def write_tree(folder: Path, names: list[str], dimension: int = 3) -> Path:
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.npy", rng.random((8, dimension)).astype(np.float32))
    return folder


def write_packed(file: Path, **changes: Any) -> Path:
    content: dict[str, Any] = {
        "names": np.array(["Abuse/a", "Testing_Normal/b"]),
        "features": np.arange(1, 25, dtype=np.float32).reshape(2, 4, 3),
    }
    np.savez(file, **{k: v for k, v in (content | changes).items() if v is not None})
    return file


def test_the_folder_of_a_file_says_what_its_video_is(tmp_path: Path) -> None:
    write_tree(tmp_path, ["Abuse/a", "Normal_Videos/n", "Arson/b"])
    found = feature_set_from_path(tmp_path, CONFIG)
    assert dict(zip(found.names, found.labels.tolist(), strict=True)) == {
        "Abuse/a": 1,
        "Arson/b": 1,
        "Normal_Videos/n": 0,
    }
    assert found.features.shape == (3, 4, 3)
    assert np.linalg.norm(found.features, axis=2) == pytest.approx(np.ones((3, 4)))


def test_patterns_of_normal_folders_ignore_case() -> None:
    assert is_normal("Training_Normal_Videos/Abuse", ["*normal*"])
    assert is_normal("good/x", ["GOOD", "fine"])
    assert not is_normal("goods/x", ["good"])


def test_features_of_two_lengths_are_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, ["normal/a"], 3)
    write_tree(tmp_path, ["normal/b"], 4)
    with pytest.raises(InputError) as caught:
        feature_set_from_path(tmp_path, CONFIG)
    assert_one_line(caught.value, "length 4", "of 3")


def test_features_of_two_backbones_are_refused(tmp_path: Path) -> None:
    for name, backbone in (("a", "c3d"), ("b", "r3d_18")):
        about = json.dumps({"backbone": backbone})
        np.savez(tmp_path / f"{name}.npz", features=np.ones((4, 3)), about=np.array(about))
    with pytest.raises(InputError) as caught:
        feature_set_from_path(tmp_path, CONFIG)
    assert_one_line(caught.value, "b.npz", "in another way")


def test_a_packed_file_gives_bags_lengths_and_intervals(tmp_path: Path) -> None:
    intervals = np.array([[[3, 5], [9, 9]], [[-1, -1], [-1, -1]]])
    file = write_packed(tmp_path / "x.npz", n_frames=np.array([90, 80]), intervals_1based=intervals)
    found = feature_set_from_path(file, FeaturesConfig(segments=4, normalise=False))
    assert found.labels.tolist() == [1, 0]
    assert found.features[1, 3].tolist() == [22, 23, 24]
    assert found.frames is not None
    assert found.frames.tolist() == [90, 80]
    assert found.intervals == [[(2, 5), (8, 9)], []]  # from 0, the end not included


def test_packed_bytes_are_unpacked(tmp_path: Path) -> None:
    file = write_packed(
        tmp_path / "x.npz",
        features=None,
        features_u8=np.full((2, 4, 3), 51, np.uint8),
        scale=np.array([1.0, 50.0], np.float32),
    )
    found = feature_set_from_path(file, FeaturesConfig(segments=4, normalise=False))
    assert found.features[0] == pytest.approx(np.full((4, 3), 0.04))  # (51 / 255)^2
    assert found.features[1] == pytest.approx(np.full((4, 3), 2.0))


def test_labels_of_a_packed_file_win_over_names(tmp_path: Path) -> None:
    file = write_packed(tmp_path / "x.npz", labels=np.array([0, 1]))
    assert feature_set_from_path(file, CONFIG).labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"features": np.ones((2, 5, 3))}, "(2, 5, 3), not (2, 4, D)"),
        ({"features": np.full((2, 4, 3), np.nan)}, "NaN"),
        ({"features": None}, "cannot be read"),
        ({"n_frames": np.array([1])}, "1 n_frames for 2 videos"),
        ({"labels": np.array([0, 2])}, "labels must be 0"),
        ({"labels": np.array(["x", "y"])}, "cannot be read"),
        ({"intervals_1based": np.array([1, 2])}, "cannot be read"),
        ({"names": np.array("Abuse/a")}, "cannot be read"),
        ({"about": np.array("[1]")}, "about is no JSON object"),
    ],
)
def test_a_packed_file_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError) as caught:
        feature_set_from_path(write_packed(tmp_path / "x.npz", **changes), CONFIG)
    assert_one_line(caught.value, "x.npz", reason)


def test_an_npy_under_the_name_of_an_npz_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 2)))
    with pytest.raises(InputError) as caught:
        feature_set_from_path((tmp_path / "x.npy").rename(tmp_path / "x.npz"), CONFIG)
    assert_one_line(caught.value, "x.npz", "holds no features")


def names_and_labels() -> tuple[list[str], Any]:
    names = [f"Abuse/{i}" for i in range(20)] + [f"Arson/{i}" for i in range(10)]
    names += [f"Normal/{i}" for i in range(30)]
    return names, np.array([1] * 30 + [0] * 30)


def test_every_class_gives_its_share_to_validation() -> None:
    names, labels = names_and_labels()
    training, validation = split_videos(names, labels, 0.2, seed=0)
    assert sorted(training + validation) == list(range(60))
    folders = [names[i].split("/")[0] for i in validation]
    assert {f: folders.count(f) for f in set(folders)} == {"Abuse": 4, "Arson": 2, "Normal": 6}


def test_small_classes_together_give_their_share_too() -> None:
    # 20 classes of two videos: 0.2 of each would round to none.
    names = [f"c{i}/{k}" for i in range(20) for k in range(2)] + [f"n/{i}" for i in range(10)]
    labels = np.array([1] * 40 + [0] * 10)
    _, validation = split_videos(names, labels, 0.2, seed=0)
    assert int(labels[validation].sum()) == 8
    assert len(validation) == 10


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    names, labels = names_and_labels()
    assert split_videos(names, labels, 0.2, 1) == split_videos(names, labels, 0.2, 1)
    assert split_videos(names, labels, 0.2, 1) != split_videos(names, labels, 0.2, 2)


def test_a_set_without_normal_videos_cannot_be_split() -> None:
    with pytest.raises(InputError) as caught:
        split_videos(["a", "b", "c"], np.ones(3, np.int64), 0.5, 0)
    assert_one_line(caught.value, "no normal or no anomalous", "features.normal")


def test_a_choice_of_videos_keeps_all_of_their_properties(tmp_path: Path) -> None:
    intervals = np.array([[[3, 5]], [[-1, -1]]])
    file = write_packed(tmp_path / "x.npz", n_frames=np.array([9, 8]), intervals_1based=intervals)
    found = feature_set_from_path(file, CONFIG).chosen([1])
    assert (found.names, found.labels.tolist(), found.intervals) == (
        ["Testing_Normal/b"],
        [0],
        [[]],
    )
    assert found.frames is not None
    assert found.frames.tolist() == [8]
    assert len(found) == 1


@pytest.mark.data
def test_the_real_c3d_files_are_read_as_they_are(data: Path) -> None:
    found = feature_set_from_path(data / "ucf_crime" / "c3d_test.npz", FeaturesConfig())
    assert found.features.shape == (114, 32, 4096)
    assert found.frames is not None
    assert found.intervals is not None
    assert int(found.labels.sum()) == sum(bool(marks) for marks in found.intervals)
    assert all(bool(marks) == bool(label) for marks, label in
               zip(found.intervals, found.labels, strict=True))  # fmt: skip
    assert found.intervals[0][0] == (164, 240)
