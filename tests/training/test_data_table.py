"""The table of a data set: read, written, and made of footage."""

import os
from pathlib import Path

import pytest
from helpers import assert_one_line, moving_blob, write_video

from vad_runtime.contracts import InputError
from vad_training.data.table import Entry, entries_from_paths, read_table, write_table
from vad_training.data.tools.augment import augment_entries
from vad_training.data.tools.entries import entries_of, named_targets


def test_a_table_beside_its_videos_or_elsewhere_reads_back_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tables").mkdir()
    one = tmp_path / "vi deos" / "größe, 1.mp4"
    entries = [
        Entry(path=one, label="walk", split="train"),
        Entry(path=tmp_path / "aug.mp4", label='a "b", c', split="train", original=one),
    ]
    for file in (tmp_path / "t.csv", tmp_path / "tables" / "t.csv"):
        write_table(file, entries)
        assert read_table(file) == entries
    monkeypatch.chdir(tmp_path / "tables")
    write_table(Path("relative.csv"), entries)
    resolved = [entry.path.resolve() for entry in read_table(Path("relative.csv"))]
    assert resolved == [entry.path for entry in entries]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"path;class\nx;y\n", "'path'"),
        (b"", "'path'"),
        (b"path,class\n", "no videos"),
        (b"path,class\n\xe9.mp4,y\n", "is no table"),
        (b"path,class,split\nx.mp4,y,trian\n", "line 2: there is no split 'trian'"),
        # A line of the file, as an editor counts them: not a row of the table.
        (b'path,class\n"two\nlines.mp4",y\n\n\nq.mp4,\n', "line 6: path or class is empty"),
        (b"path,class\nx.mp4,y\n./a/../x.mp4,z\n", "twice"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(tmp_path: Path, text: bytes, reason: str) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(text)
    with pytest.raises(InputError) as caught:
        read_table(file)
    assert_one_line(caught.value, "t.csv", reason)


def test_a_name_that_is_no_utf_8_is_refused_and_no_half_table_stays(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"a\xff.mp4")
    with pytest.raises(InputError) as caught:
        write_table(tmp_path / "t.csv", [Entry(path=path, label="walk")])
    assert_one_line(caught.value, "t.csv", "UTF-8", "Rename")
    str(caught.value).encode()  # it can be shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["..", "../../walk", "../../walk/sub/.."])
def test_the_class_of_a_video_is_the_folders_name_and_never_two_dots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    walk = tmp_path / "data" / "walk"
    (walk / "sub").mkdir(parents=True)
    (walk / "a.mp4").touch()
    monkeypatch.chdir(walk / "sub")
    assert [entry.label for entry in entries_from_paths([Path(name)])] == ["walk"]
    assert [entry.label for entry in entries_of(Path(name))] == ["walk"]


@pytest.mark.parametrize("label", [".", "..", "a/../../b", "/etc"])
def test_the_films_of_any_class_lie_in_the_folder(tmp_path: Path, label: str) -> None:
    (target,) = named_targets([Entry(path=Path("x.avi"), label=label)], tmp_path / "out")
    assert target.resolve().parent.parent == tmp_path / "out"


def test_a_name_that_the_system_refuses_is_one_line() -> None:
    with pytest.raises(InputError) as caught:
        entries_of(Path(300 * "a"))
    assert_one_line(caught.value, "File name too long")


def test_copies_without_their_table_are_refused_since_a_split_would_tear_them_apart(
    tmp_path: Path,
) -> None:
    (tmp_path / "raw").mkdir()
    video = write_video(tmp_path / "raw" / "a.mp4", moving_blob(8, height=32, width=32))
    made = augment_entries([Entry(path=video, label="w", split="train")], tmp_path / "m", copies=2)
    for folder in (tmp_path, tmp_path / "m", tmp_path / "m" / "w"):
        for read in (entries_of, lambda name: entries_from_paths([name])):
            with pytest.raises(InputError) as caught:
                read(folder)
            assert_one_line(caught.value, "augmented copies", "m/dataset.csv")
    assert len(entries_of(made.table)) == 3
