"""Splits without leakage."""

from collections import Counter
from pathlib import Path

import pytest
from helpers import assert_one_line

from vad_runtime.contracts import InputError
from vad_training.data.table import Entry
from vad_training.data.tools.split import families, split_entries


def files(folder: Path, label: str, count: int) -> list[Entry]:
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for i in range(count):
        path = folder / f"{label}{i:03}.mp4"
        path.write_text(f"{label} {i}")
        entries.append(Entry(path=path, label=label))
    return entries


def counts(entries: list[Entry], label: str) -> dict[str, int]:
    return dict(Counter(e.split for e in entries if e.label == label))


def test_each_class_is_divided_by_itself(tmp_path: Path) -> None:
    entries = files(tmp_path, "walk", 50) + files(tmp_path, "sit", 10)
    done = split_entries(entries)
    assert counts(done, "walk") == {"train": 30, "val": 10, "test": 10}
    assert counts(done, "sit") == {"train": 6, "val": 2, "test": 2}
    assert [e.path for e in done] == [e.path for e in entries]


def test_classes_that_are_not_normal_become_anomaly(tmp_path: Path) -> None:
    entries = files(tmp_path, "walk", 10) + files(tmp_path, "fall", 4)
    done = split_entries(entries, normal=["walk"], fractions=(0.5, 0.5, 0.0))
    assert counts(done, "walk") == {"train": 5, "val": 5}
    assert counts(done, "fall") == {"anomaly": 4}


def test_the_seed_decides_and_classes_do_not_influence_each_other(tmp_path: Path) -> None:
    walk, sit = files(tmp_path, "walk", 20), files(tmp_path, "sit", 20)
    assert split_entries(walk, seed=3) == split_entries(walk, seed=3)
    assert split_entries(walk, seed=3) != split_entries(walk, seed=4)
    assert split_entries(sit + walk, seed=3)[20:] == split_entries(walk, seed=3)


def test_three_videos_reach_all_three_parts(tmp_path: Path) -> None:
    assert counts(split_entries(files(tmp_path, "walk", 3)), "walk") == {
        "train": 1,
        "val": 1,
        "test": 1,
    }
    assert counts(split_entries(files(tmp_path, "walk", 1)), "walk") == {"train": 1}


def test_augmentations_stay_with_their_original(tmp_path: Path) -> None:
    originals = files(tmp_path, "walk", 12)
    copies = []
    for i, entry in enumerate(originals):
        for k in range(3):
            path = tmp_path / f"copy{i}_{k}.mp4"
            path.write_text(f"copy {i} {k}")
            copies.append(Entry(path=path, label="walk", original=entry.path))
    missing = tmp_path / "gone.mp4"  # an original that is not in the table
    for k in range(6):
        path = tmp_path / f"orphan{k}.mp4"
        path.write_text(f"orphan {k}")
        copies.append(Entry(path=path, label="walk", original=missing))
    for seed in range(5):
        done = split_entries([*copies, *originals], seed=seed)
        of = {entry.path: entry.split for entry in done}
        assert all(of[e.original] == e.split for e in done if e.original in of)
        assert len({e.split for e in done if e.original == missing}) == 1
        assert set(of.values()) == {"train", "val", "test"}


def test_equal_files_stay_together(tmp_path: Path) -> None:
    entries = files(tmp_path, "walk", 12)
    for i in range(6):
        path = tmp_path / f"again{i}.mp4"
        path.write_bytes(entries[i].path.read_bytes())
        entries.append(Entry(path=path, label="walk"))
    for seed in range(5):
        done = split_entries(entries, seed=seed)
        assert [e.split for e in done[:6]] == [e.split for e in done[12:]]


def test_equal_folders_of_frames_stay_together(tmp_path: Path) -> None:
    entries = []
    for i in range(9):
        folder = tmp_path / f"{i}"
        folder.mkdir()
        for k in range(3):
            (folder / f"{k}.png").write_text(f"{i % 5} {k}")
        entries.append(Entry(path=folder, label="walk"))
    done = split_entries(entries)
    assert [e.split for e in done[:4]] == [e.split for e in done[5:]]


def test_families_join_over_more_than_one_link() -> None:
    a, b, c, d = (Entry(path=Path(name), label="x") for name in "abcd")
    b = Entry(path=Path("b"), label="x", original=Path("a"))
    hashes = {Path("a"): "1", Path("b"): "2", Path("c"): "2", Path("d"): "4"}
    assert families([c, d, b, a], hashes) == [[0, 2, 3], [1]]


def test_the_same_video_in_two_classes_is_refused(tmp_path: Path) -> None:
    entries = files(tmp_path, "walk", 3)
    path = tmp_path / "fall.mp4"
    path.write_bytes(entries[1].path.read_bytes())
    with pytest.raises(InputError) as error:
        split_entries([*entries, Entry(path=path, label="fall")], normal=["walk"])
    assert_one_line(error.value, "walk001.mp4 (walk)", "fall.mp4 (fall)", "data check")


def test_wrong_settings_are_refused_in_one_line(tmp_path: Path) -> None:
    entries = files(tmp_path, "walk", 3)
    with pytest.raises(InputError) as error:
        split_entries(entries, fractions=(0.5, 0.2, 0.2))
    assert_one_line(error.value, "add up to 1")
    with pytest.raises(InputError) as error:
        split_entries(entries, normal=["wlak"])
    assert_one_line(error.value, "wlak", "walk")
    entries[0].path.unlink()
    with pytest.raises(InputError) as error:
        split_entries(entries)
    assert_one_line(error.value, "walk000.mp4")


@pytest.mark.parametrize("wrong", [(float("nan"), 0.5, 0.5), (1.5, -0.5, 0.0)])
def test_fractions_that_are_no_shares_are_refused(
    tmp_path: Path, wrong: tuple[float, float, float]
) -> None:
    with pytest.raises(InputError) as error:
        split_entries(files(tmp_path, "walk", 3), fractions=wrong)
    assert_one_line(error.value, "add up to 1")
