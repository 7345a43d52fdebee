"""The table of scored clips: what is read, what is refused, and distances by hand."""

from pathlib import Path

import numpy as np
import pytest
from helpers import assert_one_line

from vad_runtime.contracts import InputError
from vad_training.analysis.table import (
    ClipTable,
    read_clip_table,
    space_from_points,
    write_clip_table,
)


def written(folder: Path, text: str) -> Path:
    file = folder / "clips.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_other_projects_column_names_are_understood(tmp_path: Path) -> None:
    table = read_clip_table(
        written(
            tmp_path,
            "LABEL,ENG_CLASS,RECONSTRUCTION_ERROR,TYPE_DATASET,EMBEDDING_DISTANCE\n"
            "3,walk,1.5,TRAIN,0.25\n"
            ",run,2.5,ANOMALY,\n",
        )
    )
    assert table.classes.tolist() == ["walk", "run"]
    assert table.splits.tolist() == ["train", "anomaly"]
    assert table.errors.tolist() == [1.5, 2.5]
    assert table.videos == ("", "")
    assert table.first_frames.tolist() == [-1, -1]
    assert list(table.spaces) == ["embedding"]
    np.testing.assert_array_equal(table.spaces["embedding"].own, [0.25, np.nan])
    assert table.spaces["embedding"].to_centroids is None


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    classes, splits = np.array(["b", "a", "c"]), np.array(["train", "val", "anomaly"])
    points = np.array([[0.1, 0.2], [1 / 3, 0], [5, 5]])
    before = ClipTable(
        videos=("x,y.mp4", 'with "quotes".mp4', ""),
        first_frames=np.array([0, 16, -1]),
        classes=classes,
        splits=splits,
        errors=np.array([1 / 3, 2e-17, 1e9]),
        spaces={"latent": space_from_points(points, classes, splits)},
    )
    write_clip_table(tmp_path / "clips.csv", before)
    after = read_clip_table(tmp_path / "clips.csv")
    assert after.videos == before.videos
    for name in ("first_frames", "classes", "splits", "errors"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert after.spaces["latent"].centroids == ("b",)
    for name in ("own", "to_centroids"):
        np.testing.assert_array_equal(
            getattr(after.spaces["latent"], name), getattr(before.spaces["latent"], name)
        )
    assert after.spaces["latent"].points is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("class,split\na,train\n", "no column error or reconstruction_error"),
        ("class,split,error\n", "holds no clips"),
        ("", "no column class"),
        ("class,split,error\na,train,1\na,,1\n", "line 3: there is no split ''"),
        ("class,split,error\n,train,1\n", "line 2: the class is empty"),
        ("class,split,error\na,holdout,1\n", "line 2: there is no split 'holdout'"),
        ("class,split,error\na,train,nan\n", "line 2: error is 'nan', not a finite number"),
        ("class,split,error\na,train\n", "line 2: error is '', not a finite number"),
        ("class,split,error,first_frame\na,train,1,-4\n", "first_frame is '-4'"),
        (
            "class,split,error,latent_distance:a\na,train,1,\n",
            "latent_distance:a is '', not a finite number",
        ),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(InputError) as refused:
        read_clip_table(written(tmp_path, text))
    assert reason in str(refused.value)
    assert_one_line(refused.value)


def test_a_missing_table_and_a_picture_are_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\xff\xfe\x00")
    for name in ("nowhere.csv", "picture.csv"):
        with pytest.raises(InputError) as refused:
            read_clip_table(tmp_path / name)
        assert_one_line(refused.value)


def test_centroids_are_the_means_of_training_clips_alone() -> None:
    points = np.array([[0.0, 0.0], [2.0, 0.0], [100.0, 100.0], [1.0, 3.0], [4.0, 4.0]])
    classes = np.array(["a", "a", "a", "b", "c"])
    splits = np.array(["train", "train", "test", "train", "anomaly"])
    space = space_from_points(points, classes, splits)
    assert space.centroids == ("a", "b")
    assert space.to_centroids is not None
    # Centroid of a: (1, 0); of b: (1, 3). The last clip is (3, 4) and (3, 1) away.
    np.testing.assert_allclose(space.to_centroids[4], [5, np.sqrt(10)])
    np.testing.assert_allclose(space.to_centroids[:2, 0], [1, 1])
    np.testing.assert_allclose(space.own[3], 0)
    assert np.isnan(space.own[4])  # an anomaly has no centroid of its own


def test_classes_that_were_learnt_come_first() -> None:
    classes = np.array(["b", "z", "a", "c"])
    table = ClipTable(
        videos=("",) * 4,
        first_frames=np.full(4, -1),
        classes=classes,
        splits=np.array(["anomaly", "train", "test", "train"]),
        errors=np.ones(4),
    )
    assert table.class_names == ["c", "z", "a", "b"]
