"""How long pictures of events are kept."""

import os
from pathlib import Path
from typing import Any

import pytest

from vad_runtime.contracts.site import RetentionSettings
from vad_runtime.live.media import retention as module
from vad_runtime.live.media.disk import new_file
from vad_runtime.live.media.retention import Retention

DAY_S = 86400.0
NOW_S = 1_800_000_000.0


class Site:
    """A data folder with a disk of a given size and clocks that the test sets."""

    def __init__(self, folder: Path, *, disk: int = 10**9, **settings: Any) -> None:
        self.folder = folder
        self.disk = disk
        self.now_s = 0.0
        self.lines: list[str] = []
        self.retention = Retention(
            folder,
            RetentionSettings(**({"free_gb": 0.0} | settings)),
            say=self.lines.append,
            wall=lambda: NOW_S + self.now_s,
            monotonic=lambda: self.now_s,
            free=lambda _: self.disk - self.used,
        )

    @property
    def used(self) -> int:
        return sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file())

    def add(self, name: str, size: int = 1000, *, age_s: float = 0.0) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        os.utime(path, (NOW_S - age_s, NOW_S - age_s))
        return path

    def names(self) -> set[str]:
        return {str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()}


def test_the_oldest_files_of_all_kinds_go_first_when_the_budget_is_spent(tmp_path: Path) -> None:
    site = Site(tmp_path, clips_gb=3000 / 1e9)
    for age, name in enumerate(
        [
            "clips/d/new.mp4",
            "snapshots/d/b.jpg",
            "films/d/c.mp4",
            "scores/d/d.csv",
            "clips/e/old.mp4",
        ]
    ):
        site.add(name, age_s=age * 100)
    site.retention.tend()
    assert site.names() == {"clips/d/new.mp4", "snapshots/d/b.jpg", "films/d/c.mp4"}
    assert site.retention.kept_bytes == 3000
    assert site.retention.removed == 2
    assert not (tmp_path / "clips" / "e").exists()


def test_files_that_come_later_are_counted_without_looking_through_the_folders(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, clips_gb=5000 / 1e9)
    site.retention.tend()
    for i in range(10):
        with new_file(tmp_path / "clips" / "d" / f"{i}.mp4", site.retention) as file:
            file.write(b"x" * 1000)
        os.utime(tmp_path / "clips" / "d" / f"{i}.mp4", (i, i))
        site.retention.tend()
        assert site.used <= 5000
    assert site.names() == {f"clips/d/{i}.mp4" for i in range(5, 10)}


def test_files_older_than_the_days_go_in_any_case(tmp_path: Path) -> None:
    site = Site(tmp_path, days=2)
    site.add("clips/a/old.mp4", age_s=2.1 * DAY_S)
    site.add("clips/b/young.mp4", age_s=1.9 * DAY_S)
    site.retention.tend()
    assert site.names() == {"clips/b/young.mp4"}
    site.now_s = 0.2 * DAY_S
    site.retention.tend()
    assert site.names() == set()


def test_other_settings_count_at_once(tmp_path: Path) -> None:
    site = Site(tmp_path)
    old, new = site.add("clips/a/1.mp4", age_s=2 * DAY_S), site.add("clips/b/2.mp4")
    site.retention.tend()
    assert old.exists()
    site.retention.follow(RetentionSettings(free_gb=0.0, days=1.0))
    site.retention.tend()
    assert [old.exists(), new.exists()] == [False, True]


def test_the_database_and_files_of_others_are_never_removed(tmp_path: Path) -> None:
    site = Site(tmp_path, disk=0, clips_gb=1e-9, days=1, free_gb=1)
    kept = {"vad.db", "vad.db-wal", "clips/d/notes.txt", "other/a.mp4", "clips/d/b.mp4.part"}
    for name in [*kept, "clips/d/a.mp4"]:
        site.add(name, age_s=10 * DAY_S)
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "theirs.mp4").write_bytes(b"x")
    (tmp_path / "clips" / "link").symlink_to(outside)
    site.retention.tend()
    assert kept <= site.names()
    assert not (tmp_path / "clips" / "d" / "a.mp4").exists()
    assert (outside / "theirs.mp4").exists()


def test_a_file_that_grows_is_not_removed(tmp_path: Path) -> None:
    site = Site(tmp_path, clips_gb=1e-9, days=1)
    growing = site.add("scores/d/gate.csv", age_s=10 * DAY_S)
    site.retention.in_use.add(growing)
    site.retention.tend()
    assert growing.exists()


def test_old_files_go_while_others_fill_the_disk_and_no_more_than_needed(tmp_path: Path) -> None:
    site = Site(tmp_path, disk=20_000, free_gb=12_000 / 1e9)
    for i in range(10):
        site.add(f"clips/d/{i}.mp4", age_s=100 - i)
    site.retention.tend()
    assert site.names() == {f"clips/d/{i}.mp4" for i in range(2, 10)}
    assert site.lines == []


def test_a_disk_that_others_have_filled_is_told_once_and_its_end_too(tmp_path: Path) -> None:
    site = Site(tmp_path, disk=0, free_gb=1)
    site.add("clips/d/a.mp4")
    for _ in range(5):
        site.retention.tend()
    assert len(site.lines) == 1
    assert "nothing is left to remove" in site.lines[0]
    assert site.retention.trouble
    site.disk = 2 * 10**9
    site.retention.tend()
    assert len(site.lines) == 2
    assert site.retention.trouble == ""


def test_making_room_says_when_there_is_nothing_left(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.add("clips/d/a.mp4")
    assert site.retention.make_room(10)
    assert not site.retention.make_room(10)
    assert site.names() == set()


def test_more_files_than_are_remembered_are_removed_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_OLDEST", 3)
    site = Site(tmp_path, clips_gb=4000 / 1e9)
    for i in range(20):
        site.add(f"clips/d/{i:02}.mp4", age_s=100 - i)
    site.retention.tend()
    assert site.names() == {f"clips/d/{i}.mp4" for i in range(16, 20)}


def test_files_that_people_removed_meanwhile_do_no_harm(tmp_path: Path) -> None:
    site = Site(tmp_path, clips_gb=3000 / 1e9)
    for i in range(3):
        site.add(f"clips/d/{i}.mp4", age_s=100 - i)
    site.retention.tend()
    (tmp_path / "clips/d/0.mp4").unlink()
    site.retention.took(site.add("clips/d/3.mp4"))
    site.retention.took(site.add("clips/d/4.mp4"))
    site.retention.tend()
    assert site.used <= 3000
    assert "clips/d/4.mp4" in site.names()


def test_a_file_whose_block_fails_leaves_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path)

    def fail() -> None:
        with new_file(tmp_path / "clips" / "d" / "a.mp4", site.retention) as file:
            file.write(b"half")
            assert [p.name for p in tmp_path.rglob("*.part")] == ["a.mp4.part"]
            raise ValueError("the caller's")

    with pytest.raises(ValueError, match="the caller's"):
        fail()
    assert site.names() == set()


@pytest.mark.parametrize("settings", [{"days": 1.0}, {"clips_gb": 3000 / 1e9}])
def test_files_that_cannot_be_removed_neither_hang_nor_hide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, float]
) -> None:
    """A folder that was copied by root, with more files than one look remembers."""
    monkeypatch.setattr(module, "_OLDEST", 5)
    site = Site(tmp_path, **settings)
    for i in range(20):
        site.add(f"clips/d/{i:02}.mp4", age_s=3 * DAY_S - i)
    with monkeypatch.context() as closed:
        closed.setattr(module, "_removed", lambda _path: False)
        site.retention.tend()
        assert not site.retention.make_room(10**6)
        assert len(site.names()) == 20
        if "clips_gb" in settings:
            assert "cannot be removed" in site.retention.trouble
    site.now_s += 601.0
    site.retention.tend()
    assert len(site.names()) == (3 if "clips_gb" in settings else 0)
    assert site.retention.trouble == ""
