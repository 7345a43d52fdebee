"""`vad-run export-clips`: whole or not at all, and nothing from outside the data folder."""

import contextlib
import csv
import errno
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from helpers import assert_one_line
from helpers_store import past_event, past_events

from vad_runtime import operator_commands
from vad_runtime.contracts.errors import InputError
from vad_runtime.live import clip_export
from vad_runtime.live.claim import DataFolder
from vad_runtime.live.media import part_name, peak_name
from vad_runtime.store.database import Database


def export(*words: str | Path) -> str:
    """Run the command in this process and return what it prints."""
    done = CliRunner().invoke(
        operator_commands.export_clips, [str(word) for word in words], standalone_mode=False
    )
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return past_events(tmp_path / "data")


class Links(HTMLParser):
    """Collects what a page links to and shows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.targets += [value for name, value in attrs if name in ("href", "src") and value]


def put_media(data: Path, *names: str | None) -> None:
    for name in names:
        assert name is not None
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(f"content of {name}".encode())


def test_clips_and_pictures_are_copied_with_a_page_and_a_table(data: Path, tmp_path: Path) -> None:
    first, second = past_event(0), past_event(1, stream="yard")
    assert first.snapshot is not None
    assert first.clip is not None
    extra = [peak_name(first.snapshot), part_name(first.clip, 2)]
    put_media(data, first.snapshot, first.clip, *extra, second.snapshot)
    out = tmp_path / "for the police"
    said = export(data, "-o", out)
    assert "5 events: 5 clips and pictures" in said
    assert "7 are no longer kept or not there yet" in said
    page = (out / "index.html").read_text()
    links = Links(page)
    assert "script" not in links.tags
    assert "score of &lt;tiny&gt;.vad" in page
    for name in (first.snapshot, first.clip, *extra, second.snapshot, "events.csv"):
        assert name in links.targets
        assert (out / str(name)).is_file()
    assert all((out / target).is_file() for target in links.targets)
    assert (out / first.clip).read_bytes() == (data / first.clip).read_bytes()
    assert len(list(csv.DictReader((out / "events.csv").read_text().splitlines()))) == 5


def test_an_export_takes_the_same_filters(data: Path, tmp_path: Path) -> None:
    export(data, "-o", tmp_path / "out", "--stream", "yard")
    (row,) = csv.DictReader((tmp_path / "out" / "events.csv").read_text().splitlines())
    assert row["stream"] == "yard"
    with pytest.raises(InputError) as caught:
        export(data, "-o", tmp_path / "none", "--until", "2020-01-01")
    assert_one_line(caught.value, "no such events")
    assert not (tmp_path / "none").exists()


def test_only_an_earlier_export_is_replaced_and_only_when_asked(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export(data, "-o", out)  # an empty folder is free
    (out / "note.txt").write_text("old")
    with pytest.raises(InputError) as caught:
        export(data, "-o", out)
    assert_one_line(caught.value, "--overwrite")
    export(data, "-o", out, "--overwrite")
    assert not (out / "note.txt").exists()
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("mine")
    for place in (home, home / "letter.txt"):
        with pytest.raises(InputError) as caught:
            export(data, "-o", place, "--overwrite")
        assert_one_line(caught.value, "Name another")
    assert (home / "letter.txt").read_text() == "mine"


def test_a_disk_that_is_full_leaves_nothing_and_keeps_the_earlier_export(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_media(data, past_event(0).clip)
    out = tmp_path / "out"
    export(data, "-o", out)
    before = sorted(out.rglob("*"))

    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(InputError) as caught:
        export(data, "-o", out, "--overwrite")
    assert_one_line(caught.value, "No space left", str(out))
    assert sorted(out.rglob("*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


def test_what_retention_removes_while_it_is_copied_counts_as_missing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_media(data, past_event(0).clip, past_event(0).snapshot)
    real = shutil.copyfile

    def gone(source: Path, target: Path) -> None:
        if source.suffix == ".mp4":
            source.unlink()
        real(source, target)

    monkeypatch.setattr(shutil, "copyfile", gone)
    assert "5 events: 1 clip or picture" in export(data, "-o", tmp_path / "out")


def test_a_row_cannot_take_files_from_outside_the_data_folder(tmp_path: Path) -> None:
    """The database may be damaged, or be another's."""
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "key").write_text("secret")
    (data / "link.jpg").symlink_to(tmp_path / "key")
    os.mkfifo(data / "pipe.jpg")
    (data / "good.jpg").write_text("picture")
    names = ["../key", str(tmp_path / "key"), "link.jpg", "pipe.jpg", ".", "", "a\0b", "x" * 5000]
    rows = [msgspec.structs.replace(past_event(i), snapshot=n, clip=n) for i, n in enumerate(names)]
    assert all(clip_export.media_file(name, data) is None for name in names)
    bad = "'\"><script>"
    good = msgspec.structs.replace(
        past_event(99), snapshot="good.jpg", clip=None, id=bad, stream=bad, reason=bad
    )
    done = clip_export.export_clips(
        [*rows, good], data, tmp_path / "out", table="x", title="<b>&'\""
    )
    assert done.files == 1
    assert done.missing == 2 * len(names)
    found = {path.name for path in (tmp_path / "out").rglob("*")}
    assert found == {"index.html", "events.csv", "good.jpg"}
    page = (tmp_path / "out" / "index.html").read_text()
    assert "&lt;b&gt;&amp;" in page
    assert "script" in page
    assert not {"script", "b"} & Links(page.replace("<b>", "").replace("</b>", "")).tags


def test_database_lock_and_export_are_closed_to_others(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        mine = DataFolder(tmp_path / "site" / "data")
        mine.write_url("http://127.0.0.1:1")
        with contextlib.closing(Database(mine.folder / "vad.db")) as database:
            assert database.read("SELECT 1")
        snapshot = mine.folder / (past_event(0).snapshot or "")
        snapshot.parent.mkdir(parents=True, mode=0o750)
        snapshot.touch(0o640)
        clip_export.export_clips(
            [past_event(0)], mine.folder, tmp_path / "night", table="a\n", title="night"
        )
        mine.release()
    finally:
        os.umask(before)
    made = [path for top in ("site", "night") for path in (tmp_path / top).rglob("*")]
    modes = {path.name: path.stat().st_mode & 0o777 for path in made}
    assert {modes[name] for name in ("vad.db", "site.lock", "index.html", "events.csv")} == {0o640}
    folders = (tmp_path / "site", mine.folder, tmp_path / "night")
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o750}
