"""Augmentation: one change for all frames of a clip."""

import csv
from pathlib import Path

import av
import numpy as np
import pytest
from helpers import assert_one_line, decoded_count, moving_blob, write_video

from vad_runtime.contracts import InputError
from vad_training.data.table import Entry, read_table
from vad_training.data.tools import OPS
from vad_training.data.tools.augment import ClipChange, augment_entries, copies_of_classes


def pictures(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.mark.parametrize("op", OPS)
def test_every_operation_does_the_same_to_every_frame(op: str) -> None:
    image = next(moving_blob(1, height=48, width=64))
    change = ClipChange([op], [5])
    first, second, third = (change(image.copy()) for _ in range(3))
    assert not np.array_equal(first, image)
    assert np.array_equal(first, second)
    assert np.array_equal(first, third)
    assert first.shape == image.shape


def test_the_replayed_parameters_never_change() -> None:
    change = ClipChange(OPS, [1])
    images = list(moving_blob(4, height=48, width=64))
    change(images[0])
    before = repr(change.parameters)
    for image in images[1:]:
        change(image)
    assert repr(change.parameters) == before
    assert change.parameters is not None
    assert len(change.parameters["transforms"]) == len(change.ops)


def test_different_seeds_change_in_different_ways() -> None:
    image = next(moving_blob(1, height=48, width=64))
    results = [ClipChange(OPS, [seed])(image) for seed in range(8)]
    assert len({result.tobytes() for result in results}) == 8
    assert len({tuple(ClipChange(OPS, [seed]).ops) for seed in range(20)}) > 5
    assert all(ClipChange(OPS, [seed]).ops for seed in range(300))


def still(path: Path, seed: int = 0, count: int = 8) -> Path:
    image = next(moving_blob(1, height=64, width=64, seed=seed))
    return write_video(path, [image] * count)


def table_of(folder: Path, counts: dict[str, int], split: str = "train") -> list[Entry]:
    entries = []
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for i in range(count):
            path = still(folder / label / f"v{i}.mp4", seed=i)
            entries.append(Entry(path=path, label=label, split=split))  # type: ignore[arg-type]
    return entries


def test_a_still_video_stays_still(tmp_path: Path) -> None:
    entries = table_of(tmp_path / "in", {"walk": 1})
    done = augment_entries(entries, tmp_path / "out", copies=4)
    noise = np.abs(np.diff(pictures(entries[0].path).astype(int), axis=0)).mean()
    for entry in done.entries[1:]:
        film = pictures(entry.path).astype(int)
        assert len(film) == 8
        assert np.abs(np.diff(film, axis=0)).mean() < noise + 2.5  # what the codec leaves
        assert np.abs(film[0] - pictures(entries[0].path)[0]).mean() > 2.5


def test_copies_name_their_original_and_come_from_train_alone(tmp_path: Path) -> None:
    entries = table_of(tmp_path / "a", {"walk": 2}) + table_of(tmp_path / "b", {"sit": 1}, "test")
    entries.append(
        Entry(path=still(tmp_path / "c.mp4", 9), label="walk", split="train", original=Path("x"))
    )
    out = tmp_path / "out"
    done = augment_entries(entries, out, copies=2)
    assert done.made == {"walk": 4}
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.mp4")) == [
        "walk/v0_aug0.mp4",
        "walk/v0_aug1.mp4",
        "walk/v1_aug0.mp4",
        "walk/v1_aug1.mp4",
    ]
    back = read_table(out / "dataset.csv")
    assert len(back) == 4 + 4
    copies = back[4:]
    assert {(e.label, e.split) for e in copies} == {("walk", "train")}
    assert [e.original for e in copies] == [entries[i].path for i in (0, 1, 0, 1)]
    with (out / "augmentations.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4
    assert all(set(row["operations"].split()) <= set(OPS) for row in rows)


def test_the_same_seed_gives_the_same_bytes_whatever_else_is_in_the_table(tmp_path: Path) -> None:
    entries = table_of(tmp_path / "in", {"walk": 2})
    augment_entries(entries, tmp_path / "a", copies=1, seed=7)
    augment_entries(entries[1:], tmp_path / "b", copies=1, seed=7)
    augment_entries(entries, tmp_path / "c", copies=1, seed=8)
    a, b, c = ((tmp_path / x / "walk" / "v1_aug0.mp4").read_bytes() for x in "abc")
    assert a == b
    assert a != c


def test_balance_fills_every_class_up_to_the_largest(tmp_path: Path) -> None:
    assert copies_of_classes({"a": 5, "b": 2}, balance=True) == {"a": 0, "b": 3}
    assert copies_of_classes({"a": 5, "b": 2}, copies=1, balance=True) == {"a": 5, "b": 8}
    assert copies_of_classes({"a": 5, "b": 2}, copies=1, of_class={"b": 3}) == {"a": 5, "b": 6}
    entries = table_of(tmp_path / "in", {"a": 3, "b": 2, "c": 1})
    done = augment_entries(entries, tmp_path / "out", balance=True, ops=["rgb-shift"])
    assert {x: sum(e.label == x for e in done.entries) for x in "abc"} == {"a": 3, "b": 3, "c": 3}
    assert done.made == {"a": 0, "b": 1, "c": 2}


def test_a_broken_clip_is_named_and_a_repeat_needs_overwrite(tmp_path: Path) -> None:
    entries = table_of(tmp_path / "in", {"walk": 1})
    (tmp_path / "bad.mp4").write_bytes(b"bad")
    entries.append(Entry(path=tmp_path / "bad.mp4", label="walk", split="train"))
    out = tmp_path / "out"
    done = augment_entries(entries, out, copies=1)
    assert len(done.skipped) == 1
    assert "bad.mp4" in done.skipped[0]
    with pytest.raises(InputError) as error:
        augment_entries(entries, out, copies=1)
    assert_one_line(error.value, "--overwrite")
    again = augment_entries(read_table(out / "dataset.csv"), out, copies=1, overwrite=True)
    assert len(read_table(out / "dataset.csv")) == len(again.entries) == 3


def test_nothing_to_do_is_an_error(tmp_path: Path) -> None:
    entries = table_of(tmp_path / "in", {"walk": 1})
    with pytest.raises(InputError) as error:
        augment_entries(entries, tmp_path / "out")
    assert_one_line(error.value, "--copies")
    with pytest.raises(InputError) as error:
        augment_entries(entries, tmp_path / "out", copies=1, only=["val"])
    assert_one_line(error.value, "val", "--only")
    with pytest.raises(InputError) as error:
        augment_entries(entries, tmp_path / "out", copies=1, of_class={"fly": 1})
    assert_one_line(error.value, "fly")
    assert not (tmp_path / "out").exists()


def test_a_moving_video_keeps_its_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "m.mp4", moving_blob(11), fps=30)
    entry = Entry(path=path, label="walk", split="train")
    done = augment_entries([entry], tmp_path / "out", copies=1)
    assert decoded_count(done.entries[1].path) == 11
