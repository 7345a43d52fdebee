"""Checks and statistics of a data set."""

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import moving_blob, write_video

from vad_runtime.contracts import InputError
from vad_training.data.table import Entry
from vad_training.data.tools.check import check_entries
from vad_training.data.tools.rewrite import rewrite
from vad_training.data.tools.stats import stats_of, summary_of, write_stats


def clip(path: Path, count: int = 40, seed: int = 0, **options: object) -> Entry:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, moving_blob(count, height=48, width=64, seed=seed), **options)  # type: ignore[arg-type]
    return Entry(path=path, label="walk")


def kinds(entries: list[Entry], **options: float) -> dict[str, str]:
    checked = check_entries(entries, **options)  # type: ignore[arg-type]
    left = {entry.path for entry in checked.clean}
    bad = {problem.entry.path.name: problem.kind for problem in checked.problems}
    assert {entry.path.name for entry in entries if entry.path not in left} == set(bad)
    assert all(problem.entry.path.name in problem.line for problem in checked.problems[:1])
    return bad


def test_unreadable_and_too_short_videos_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    entries = [
        clip(tmp_path / "long.mp4", 31),
        clip(tmp_path / "short.mp4", 30, seed=1),
        Entry(path=tmp_path / "broken.mp4", label="walk"),
        Entry(path=tmp_path / "gone.mp4", label="walk"),
    ]
    assert kinds(entries, span=31) == {
        "short.mp4": "too short",
        "broken.mp4": "unreadable",
        "gone.mp4": "unreadable",
    }
    assert kinds(entries[:2], span=30) == {}


def test_seconds_may_be_asked_for_instead_of_frames(tmp_path: Path) -> None:
    entries = [clip(tmp_path / "a.mp4", 30), clip(tmp_path / "b.mp4", 29, seed=1)]
    assert kinds(entries, least_s=1.99) == {"b.mp4": "too short"}


def test_a_hole_makes_two_short_pieces(tmp_path: Path) -> None:
    whole = clip(tmp_path / "whole.mp4", 40)
    torn = clip(tmp_path / "torn.mp4", 40, seed=1, pts=[*range(20), *range(60, 80)])
    assert kinds([whole, torn], span=31) == {"torn.mp4": "too short"}
    assert kinds([whole, torn], span=20) == {}
    assert kinds([torn], least_s=1.4) == {"torn.mp4": "too short"}


def test_copies_are_found_in_another_container_and_encoded_again(tmp_path: Path) -> None:
    one = clip(tmp_path / "one.mp4")
    (tmp_path / "bytes.mp4").write_bytes(one.path.read_bytes())
    rewrite(one.path, tmp_path / "again.mp4")
    other = clip(tmp_path / "other.mp4", seed=1)
    names = ["bytes.mp4", "again.mp4"]
    entries = [one, other, *(Entry(path=tmp_path / name, label="walk") for name in names)]
    assert kinds(entries) == dict.fromkeys(names, "duplicate")
    lines = [problem.line for problem in check_entries(entries).problems]
    assert "the same file as" in lines[0]
    assert all("one.mp4" in line for line in lines)


def test_a_small_thing_that_moves_elsewhere_is_no_duplicate(tmp_path: Path) -> None:
    entries = []
    for name, row in (("up", 10), ("down", 80)):
        images = []
        for i in range(40):
            image = np.full((120, 160, 3), 128, np.uint8)
            image[row : row + 12, 3 * i : 3 * i + 8] = 20
            images.append(image)
        write_video(tmp_path / f"{name}.mp4", images)
        entries.append(Entry(path=tmp_path / f"{name}.mp4", label="walk"))
    assert kinds(entries) == {}


def test_the_same_video_in_two_classes_is_removed_from_both(tmp_path: Path) -> None:
    one = clip(tmp_path / "one.mp4")
    (tmp_path / "two.mp4").write_bytes(one.path.read_bytes())
    two = Entry(path=tmp_path / "two.mp4", label="fall")
    assert kinds([one, two]) == {"one.mp4": "contradiction", "two.mp4": "contradiction"}


def test_an_augmentation_is_no_duplicate_and_follows_the_copy_that_stays(tmp_path: Path) -> None:
    one = clip(tmp_path / "one.mp4")
    (tmp_path / "two.mp4").write_bytes(one.path.read_bytes())
    rewrite(one.path, tmp_path / "aug.mp4")
    two = Entry(path=tmp_path / "two.mp4", label="walk")
    weak = Entry(path=tmp_path / "aug.mp4", label="walk", original=one.path)
    assert kinds([weak, one]) == {}
    strong = clip(tmp_path / "strong.mp4", seed=5)
    strong = Entry(path=strong.path, label="walk", original=two.path)
    checked = check_entries([strong, one, two])
    assert [entry.path.name for entry in checked.clean] == ["strong.mp4", "one.mp4"]
    assert checked.clean[0].original == one.path


def test_durations_are_exact_and_not_whole_seconds(tmp_path: Path) -> None:
    entries = [
        clip(tmp_path / "a.mp4", 29),
        Entry(path=clip(tmp_path / "b.mkv", 44, 1).path, label="sit", split="train"),
        Entry(path=tmp_path / "gone.mp4", label="sit"),
    ]
    stats = stats_of(entries)
    assert [facts.seconds for _, facts in stats.videos] == pytest.approx(
        [29 / 15, 44 / 15], abs=2e-3
    )
    assert len(stats.skipped) == 1
    out = tmp_path / "stats"
    files = write_stats(stats, out)
    with (out / "videos.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[0]["seconds"]) == stats.videos[0][1].seconds
    assert [(r["frames"], r["counted"], r["codec"], r["width"]) for r in rows] == [
        ("29", "False", "h264", "64"),
        ("44", "True", "h264", "64"),
    ]
    with (out / "counts.csv").open() as stream:
        counts = list(csv.DictReader(stream))
    assert [(r["class"], r["train"], r["(none)"], r["all"]) for r in counts] == [
        ("sit", "1", "0", "1"),
        ("walk", "0", "1", "1"),
    ]
    text = summary_of(stats)
    assert text == (out / "summary.txt").read_text()
    assert "2 videos, 73 frames" in text
    assert "gone.mp4" in text
    for file in files:
        if file.suffix == ".png":
            picture = cv2.imread(str(file))
            assert picture is not None
            assert picture.std() > 10


def test_a_class_of_any_name_has_its_statistics_drawn(tmp_path: Path) -> None:
    video = clip(tmp_path / "a.mp4").path
    names = ("$", "\\foo{$x", "日本", "walk")
    # Formulas that cannot be read raise; a letter that the font lacks is a warning.
    files = write_stats(stats_of([Entry(path=video, label=name) for name in names]), tmp_path / "o")
    assert all(file.is_file() for file in files)


def test_without_a_readable_video_there_are_no_statistics(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.mp4"):
        stats_of([Entry(path=tmp_path / "gone.mp4", label="x")])


def test_looking_at_the_help_loads_no_heavy_library() -> None:
    code = (
        "import sys, vad_training.commands.data; "
        "print([m for m in ('torch', 'av', 'cv2', 'albumentations', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.data
def test_the_clips_of_one_real_camera_are_no_duplicates(data: Path) -> None:
    folders = sorted((data / "ped2" / "training" / "frames").iterdir())[:6]
    entries = [Entry(path=folder, label="normal") for folder in folders]
    assert check_entries(entries).problems == []
