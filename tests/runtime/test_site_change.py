"""What a reload touches, whose data folder it is, and the log: pure parts of a running site."""

import io
import os
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import assert_one_line
from helpers_store import event_record, start_of, wait_until

from vad_runtime.contracts.errors import ConfigError, InputError
from vad_runtime.live.alerts import Alerts
from vad_runtime.live.claim import DataFolder, running_site
from vad_runtime.live.console import Console
from vad_runtime.live.site_change import SiteChange, change_between
from vad_runtime.live.site_status import site_status, stream_trouble
from vad_runtime.live.status import EngineStatus, PartStatus, StreamStatus
from vad_runtime.site_file import SiteFile, read_site
from vad_runtime.store import query

SITE = """\
name: depot
bundle: a.vad
streams:
  gate: {source: "rtsp://u:${PW}@h/1"}
  yard: {source: yard.mp4, bundle: b.vad}
sinks:
  log: {kind: jsonl, file: a.jsonl}
  hook: {kind: webhook, url: "https://h/${PW}"}
"""


def site(tmp_path: Path, text: str = SITE, pw: str = "x") -> SiteFile:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    return read_site(path, environment={"PW": pw})


def change(old: SiteFile, new: SiteFile, **options: Any) -> SiteChange:
    same = {new.bundle_of(stream): ("1", "1") for stream in new.site.streams.values()}
    return change_between(old, new, bundles=options.pop("bundles", same), **options)


def test_the_same_file_changes_nothing(tmp_path: Path) -> None:
    found = change(site(tmp_path), site(tmp_path, SITE + "# a remark\n"))
    assert found.nothing
    assert found.line == "nothing changed"


def test_only_the_stream_that_changed_is_touched(tmp_path: Path) -> None:
    new = site(tmp_path, SITE.replace("bundle: b.vad", "bundle: b.vad, hop: 2"))
    found = change(site(tmp_path), new)
    assert (found.removed, found.opened, found.sinks_opened) == (["yard"], ["yard"], [])
    assert found.line == "changed: yard"


def test_a_stream_that_came_and_one_that_went_are_told_apart(tmp_path: Path) -> None:
    new = site(tmp_path, SITE.replace("  yard:", "  door:").replace("  log:", "  lines:"))
    found = change(site(tmp_path), new)
    assert (found.removed, found.opened) == (["yard"], ["door"])
    assert (found.sinks_removed, found.sinks_opened) == (["log"], ["lines"])
    assert found.line == "new: door; removed: yard; new sinks: lines; removed sinks: log"


def test_another_password_opens_what_uses_it(tmp_path: Path) -> None:
    found = change(site(tmp_path), site(tmp_path, pw="y"))
    assert found.opened == ["gate"]
    assert found.sinks_opened == ["hook"]


def test_a_bundle_that_changed_on_disk_opens_its_streams(tmp_path: Path) -> None:
    prints = {tmp_path / "a.vad": ("1", "1"), tmp_path / "b.vad": ("1", "2")}
    assert change(site(tmp_path), site(tmp_path), bundles=prints).opened == ["yard"]


def test_a_stream_that_ended_with_an_error_is_opened_again(tmp_path: Path) -> None:
    found = change(site(tmp_path), site(tmp_path), ended=frozenset(["gate"]))
    assert found.opened == found.removed == ["gate"]


@pytest.mark.parametrize("more", ["engine: {threads: 1}", "media: {pre_s: 9}"])
def test_what_all_streams_depend_on_opens_all(tmp_path: Path, more: str) -> None:
    found = change(site(tmp_path), site(tmp_path, SITE + more + "\n"))
    assert found.opened == ["gate", "yard"]
    assert found.sinks_opened == []


def test_how_much_is_kept_touches_no_stream(tmp_path: Path) -> None:
    found = change(site(tmp_path), site(tmp_path, SITE + "retention: {days: 3}\n"))
    assert (found.removed, found.opened, found.media) == ([], [], False)
    assert found.line == "retention changed"


def test_after_a_reload_new_sinks_hear_of_events_and_nothing_waits_for_those_that_are_gone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "site.yaml"
    head = "bundle: a.vad\nstreams: {gate: {source: gate.mp4}}\nsinks:\n"
    path.write_text(head + "  gone: {kind: webhook, url: 'http://127.0.0.1:9/'}\n")
    old = read_site(path)
    path.write_text(head + "  late: {kind: jsonl, file: late.jsonl}\n")
    new = read_site(path)
    lines: list[str] = []
    alerts = Alerts(old, say=lines.append, open_events=list, statuses=list)
    alerts.start()
    first, second = event_record(), event_record()
    try:
        alerts.put(start_of(first))
        wait_until(lambda: bool(query.told(old.data, [first.id])[first.id]))
        alerts.change(new, alerts.prepared(new, change_between(old, new, bundles={})))
        assert [part.name for part in alerts.parts()] == ["store", "late"]
        alerts.put(start_of(second))
        wait_until(lambda: (tmp_path / "late.jsonl").exists())
    finally:
        alerts.close(2.0)
    told = query.told(old.data, [first.id, second.id])
    assert [(row.sink, row.state) for row in told[first.id]] == [("gone", "given_up")]
    assert [(row.sink, row.state) for row in told[second.id]] == [("late", "sent")]
    assert any("no longer in the site file" in line for line in lines)


def test_health_alone_touches_no_stream(tmp_path: Path) -> None:
    found = change(site(tmp_path), site(tmp_path, SITE + "health: null\n"))
    assert found.health
    assert found.opened == []


@pytest.mark.parametrize("text", [SITE.replace("depot", "other"), SITE + "data: elsewhere\n"])
def test_name_and_data_need_a_restart(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        change(site(tmp_path), site(tmp_path, text))
    assert_one_line(caught.value, "cannot follow", "start it again")


# -- the data folder -----------------------------------------------------------------------------


def test_one_site_runs_in_a_data_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert running_site(folder) is None
    first = DataFolder(folder)
    first.write_url("http://127.0.0.1:1")
    assert running_site(folder) == f"a running site (process {os.getpid()})"
    with pytest.raises(InputError) as caught:
        DataFolder(folder)
    assert_one_line(caught.value, str(folder), f"process {os.getpid()}")
    first.release()
    first.release()
    assert running_site(folder) is None
    assert not (folder / "health.url").exists()
    DataFolder(folder).release()


def test_a_data_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as caught:
        DataFolder(tmp_path / "file" / "data")
    assert_one_line(caught.value)


# -- the log ---------------------------------------------------------------------------------------


def test_lines_of_many_threads_are_printed_whole_with_their_times() -> None:
    out = io.StringIO()
    console = Console(out, {}, wall=lambda: 0.0)
    threads = [
        threading.Thread(target=lambda i=i: [console.say(f"{i} a\n b") for _ in range(50)])
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    console.pump()
    lines = out.getvalue().splitlines()
    assert len(lines) == 200
    assert all(line[20] == " " and line[21:] in {f"{i} a b" for i in range(4)} for line in lines)


def test_what_nobody_prints_is_bounded_and_counted_and_the_journal_has_its_own_times() -> None:
    out = io.StringIO()
    console = Console(out, {"JOURNAL_STREAM": "8:1"})
    for i in range(5000):
        console.say(str(i))
    console.pump()
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["0", "1"]
    assert len(lines) == 2001
    assert lines[-1] == "3000 lines could not be printed in time"


def test_a_reader_that_left_does_not_end_the_site_but_a_closed_terminal_does() -> None:
    class Gone(io.StringIO):
        terminal = False

        def write(self, _text: str) -> int:
            raise BrokenPipeError

        def isatty(self) -> bool:
            return self.terminal

    for terminal in (False, True):
        Gone.terminal = terminal
        console = Console(Gone(), {})
        console.say("x")
        assert not console.gone
        console.pump()
        console.say("y")
        console.pump()
        assert console.gone is terminal


# -- the status ------------------------------------------------------------------------------------


def stream(**changes: Any) -> StreamStatus:
    plain = StreamStatus(name="gate", source="x", bundle="b", state="live", state_since_s=0.0)
    return msgspec.structs.replace(plain, **changes)


@pytest.mark.parametrize(
    ("changes", "trouble"),
    [
        ({}, ""),
        ({"state": "lost", "state_reason": "no route"}, "gate: lost (no route)"),
        ({"state": "frozen"}, "gate: frozen"),
        ({"state": "connecting", "state_since_s": 95.0}, ""),
        ({"state": "connecting", "state_since_s": 5.0}, "gate: still connecting"),
        ({"state": "ended"}, ""),
        ({"state": "ended", "state_reason": "unreadable"}, "gate: ended (unreadable)"),
    ],
)
def test_a_streams_trouble_is_one_line(changes: dict[str, Any], trouble: str) -> None:
    assert stream_trouble(stream(**changes), 100.0) == trouble


def test_a_site_is_well_only_where_every_part_is() -> None:
    def status(**parts: Any) -> list[str]:
        plain = {"site": "depot", "started_s": 1.0, "streams": [], "engines": [], "parts": []}
        found = site_status(**(plain | parts))
        assert found.ok == (not found.troubles)
        assert found.rss_bytes > 1e6
        return found.troubles

    assert status(streams=[stream()]) == []
    assert status(streams=[stream(state="lost")]) == ["gate: lost"]
    engine = EngineStatus(bundle="b", device="cpu", trouble="hangs")
    assert status(engines=[engine]) == ["engine of b: hangs"]
    part = PartStatus(name="hook", kind="webhook", ok=False, trouble="503 for 3 min")
    assert status(parts=[part], more=["x"]) == ["x", "hook: 503 for 3 min"]
