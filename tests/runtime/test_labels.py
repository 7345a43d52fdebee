"""Ground truth is read strictly and found by the tail of a path."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import assert_one_line

from vad_runtime.contracts import InputError
from vad_runtime.labels import read_labels


def content() -> dict[str, Any]:
    """Return the content of a sound labels file."""
    return {
        "schema": 1,
        "label_set": "by hand",
        "fps": 25.0,
        "videos": {
            "a.mp4": {"frames": 10, "anomalies": [{"first": 2, "last": 4}]},
            "day/a.mp4": {
                "frames": 5,
                "anomalies": [{"first": 0, "last": 0, "kind": "run"}, {"first": 3, "last": 4}],
            },
            "night/01": {"frames": 3, "anomalies": []},
        },
    }


def written(folder: Path, tree: object) -> Path:
    """Write a labels file."""
    file = folder / "labels.json"
    file.write_bytes(tree if isinstance(tree, bytes) else json.dumps(tree).encode())
    return file


def test_intervals_include_both_ends(tmp_path: Path) -> None:
    labels = read_labels(written(tmp_path, content()))
    np.testing.assert_array_equal(np.flatnonzero(labels.videos["a.mp4"].mask()), [2, 3, 4])
    np.testing.assert_array_equal(
        labels.videos["day/a.mp4"].mask(), [True, False, False, True, True]
    )
    assert not labels.videos["night/01"].mask().any()
    assert len(labels.videos["night/01"].mask()) == 3


@pytest.mark.parametrize(
    ("source", "frames"),
    [
        ("a.mp4", 10),
        ("/videos/a.mp4", 10),
        ("/videos/day/a.mp4", 5),
        ("/videos/night/01", 3),
        ("/videos/night/01/", 3),
        ("/videos/aa.mp4", None),
        ("/videos/01", None),
        ("/videos/a.mp4/b", None),
    ],
)
def test_the_longest_tail_of_the_path_decides(
    tmp_path: Path, source: str, frames: int | None
) -> None:
    found = read_labels(written(tmp_path, content())).of(source)
    assert (None if found is None else found.frames) == frames


def test_a_relative_path_is_completed_before_it_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "day").mkdir()
    monkeypatch.chdir(tmp_path / "day")
    found = read_labels(written(tmp_path, content())).of("a.mp4")
    assert found is not None
    assert found.frames == 5


@pytest.mark.parametrize(
    "interval",
    [
        {"first": -1, "last": 2},
        {"first": 5, "last": 4},
        {"first": 8, "last": 10},
        {"first": 10, "last": 10},
    ],
)
def test_an_anomaly_outside_the_video_is_refused(tmp_path: Path, interval: dict[str, int]) -> None:
    tree = content()
    tree["videos"]["a.mp4"]["anomalies"] = [interval]
    with pytest.raises(InputError) as caught:
        read_labels(written(tmp_path, tree))
    assert_one_line(caught.value, "a.mp4", "0 to 9", str(interval["first"]), str(interval["last"]))


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ([], "schemas", 1),
        ([], "fps", "25"),
        ([], "fps", 0),
        (["videos", "a.mp4"], "frames", 9.5),
        (["videos", "a.mp4"], "frames", -3),
        (["videos", "a.mp4"], "anomaly", []),
        (["videos", "a.mp4", "anomalies", 0], "end", 3),
    ],
)
def test_an_unknown_key_or_a_wrong_value_is_refused_in_one_line(
    tmp_path: Path, place: list[Any], key: str, value: object
) -> None:
    tree = content()
    node: Any = tree
    for step in place:
        node = node[step]
    node[key] = value
    file = written(tmp_path, tree)
    with pytest.raises(InputError) as caught:
        read_labels(file)
    assert_one_line(caught.value, str(file), key)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"first,last\n1,2\n", b"\xff\xfe{}", b'{"schema": 1}']
)
def test_what_is_no_labels_file_is_refused_in_one_line(tmp_path: Path, text: bytes) -> None:
    file = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_labels(file)
    assert_one_line(caught.value, str(file))


@pytest.mark.parametrize("schema", [0, 2])
def test_another_schema_is_refused(tmp_path: Path, schema: int) -> None:
    with pytest.raises(InputError, match=f"labels schema {schema}") as caught:
        read_labels(written(tmp_path, content() | {"schema": schema}))
    assert_one_line(caught.value)


def test_a_file_that_is_not_there_or_is_a_folder_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match="cannot be read") as caught:
            read_labels(path)
        assert_one_line(caught.value, str(path))
