"""A site as a whole: started, reloaded, killed and stopped, with real files, servers, signals."""

import configparser
import http.server
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import assert_one_line, moving_blob, write_video

from vad_runtime import site_commands
from vad_runtime.bundle import Bundle
from vad_runtime.cli import cli
from vad_runtime.contracts.errors import VadError
from vad_runtime.live.console import Console
from vad_runtime.live.site import LiveSite
from vad_runtime.live.site_change import SiteChange, change_between
from vad_runtime.site_check import findings
from vad_runtime.site_commands import _reload, _Watchdog, _Wishes
from vad_runtime.site_file import SiteFile, read_site
from vad_runtime.store import query

LONG_S = 30.0
"""The machine may be busy; nothing here needs more than two seconds of it."""


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two recordings of two and three seconds."""
    folder = tmp_path_factory.mktemp("footage")
    write_video(folder / "gate.mp4", moving_blob(30))
    write_video(folder / "yard.mp4", moving_blob(45, seed=1))
    return folder


class Hook:
    """A web server that takes every alert."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.marked = 0
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.bodies.append(json.loads(body))
                hook.marked += "X-Vad-Maybe-Repeated" in self.headers
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def heard(self) -> list[tuple[str, str]]:
        return [(body["event"]["id"], body["kind"]) for body in self.bodies]

    def streams(self, kind: str) -> set[str]:
        return {body["event"]["stream"] for body in self.bodies if body["kind"] == kind}


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.server.shutdown()
    hook.server.server_close()


def site_text(bundle: Bundle, footage: Path, *, loop: bool = True, hook: Hook | None = None) -> str:
    sinks = ""
    if hook is not None:
        sinks = (
            f"sinks:\n  hook: {{kind: webhook, url: '{hook.url}', secret: '${{HOOK_SECRET}}'}}\n"
        )
    return f"""\
name: depot
bundle: {bundle.path}
engine: {{threads: 1, backend: onnxruntime}}
streams:
  gate: {{source: {footage}/gate.mp4, loop: {loop}, events: {{threshold: 0.02}}}}
  yard: {{source: {footage}/yard.mp4, loop: {loop}, events: {{threshold: 0.02}}}}
media: {{clips: false}}
health: {{port: 0}}
{sinks}"""


class Running:
    """`vad-run site` as a process of its own, and its log."""

    def __init__(self, site: Path) -> None:
        self.data = site.parent / "data"
        self.log: list[str] = []
        code = "from vad_runtime.cli import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "site", str(site)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "HOOK_SECRET": "hunter2", "OMP_NUM_THREADS": "1"},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.log += []
        for line in self.process.stdout:
            self.log.append(line.rstrip("\n"))

    def signalled(self, number: int) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        code = self.process.wait(LONG_S)
        self._reader.join(LONG_S)
        return code

    def status(self) -> dict[str, Any]:
        url = (self.data / "health.url").read_text().strip()
        with urllib.request.urlopen(f"{url}/status", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def stream(self, name: str) -> dict[str, Any]:
        return next(one for one in self.status()["streams"] if one["name"] == name)

    def says(self, text: str, count: int = 1) -> None:
        """Wait until the log has so many lines with a text."""
        wait_for(lambda: sum(text in line for line in self.log) >= count, self.log)


def wait_for(what: Callable[[], bool], told: object = "") -> None:
    deadline = time.monotonic() + LONG_S
    while not what():
        assert time.monotonic() < deadline, told
        time.sleep(0.02)


@contextmanager
def running(site: Path) -> Iterator[Running]:
    process = Running(site)
    try:
        yield process
    finally:
        process.process.kill()
        process.ended()
        assert process.process.stdout is not None
        process.process.stdout.close()


def test_a_site_that_is_killed_goes_on_where_it_was_and_stops_cleanly(
    tmp_path: Path, tiny_bundle: Bundle, footage: Path, hook: Hook
) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(site_text(tiny_bundle, footage, hook=hook))
    with running(site) as first:
        wait_for(lambda: hook.streams("started") == {"gate", "yard"}, first.log)
        first.says("gate: ALARM since")
        first.signalled(signal.SIGKILL)
    before = {event.id for event in query.events(tmp_path / "data", open_only=True)}
    assert len(before) == 2
    with running(site) as second:
        # What the crash left open is ended, told, and told once.
        wait_for(lambda: before <= {i for i, kind in hook.heard() if kind == "ended"}, second.log)
        second.says("(ended by restart)", 2)
        second.says("yard: ALARM since")
        assert second.signalled(signal.SIGTERM) == 0
    assert second.log[-1].endswith("stopped")
    assert "hunter2" not in "".join(first.log + second.log)
    events = query.events(tmp_path / "data")
    assert all(event.end_s is not None for event in events)
    assert {event.ended_by for event in events if event.id in before} == {"restart"}
    told = [(event.id, kind) for event in events for kind in ("started", "ended")]
    assert set(hook.heard()) == set(told)
    assert len(hook.heard()) <= len(told) + hook.marked
    assert not (tmp_path / "data" / "health.url").exists()


def test_a_reload_touches_what_changed_and_a_mistake_changes_nothing(
    tmp_path: Path, tiny_bundle: Bundle, footage: Path
) -> None:
    site = tmp_path / "site.yaml"
    text = site_text(tiny_bundle, footage)
    site.write_text(text)
    with running(site) as process:
        process.says("status at")
        wait_for(lambda: process.stream("gate")["clips"] > 3)
        site.write_text(text.replace("loop", "lop"))
        process.process.send_signal(signal.SIGHUP)
        process.says("nothing was changed: ")
        assert "unknown key 'lop'. Did you mean 'loop'?" in process.log[-1]
        status = process.status()
        assert not status["ok"]
        assert "not followed" in status["troubles"][0]
        changed = text.replace("yard.mp4, loop: True", "yard.mp4, loop: True, hop: 3")
        site.write_text(changed)
        process.process.send_signal(signal.SIGHUP)
        process.says("reload: changed: yard")
        after = process.status()
        assert after["ok"]
        assert after["reloads"] == 1
        gate, yard = after["streams"]
        assert gate["frames"] >= status["streams"][0]["frames"]
        assert gate["state_since_s"] == status["streams"][0]["state_since_s"]
        assert (yard["hop"], yard["name"]) == (3, "yard")
        assert yard["frames"] < status["streams"][1]["frames"] + 30
        assert process.signalled(signal.SIGINT) == 130


def test_recordings_without_loop_end_the_site_when_all_is_delivered(
    tmp_path: Path, tiny_bundle: Bundle, footage: Path, hook: Hook
) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(site_text(tiny_bundle, footage, loop=False, hook=hook))
    with running(site) as process:
        assert process.ended() == 0
    assert any(line.endswith("gate: ended") for line in process.log)
    assert hook.streams("ended") == {"gate", "yard"}
    events = query.events(tmp_path / "data")
    assert len(events) == 2
    assert all((tmp_path / "data" / str(event.snapshot)).is_file() for event in events)


# -- in this process -------------------------------------------------------------------------------


def named_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vad-")]


def test_a_site_that_cannot_start_leaves_nothing_behind(
    tmp_path: Path, tiny_bundle: Bundle, footage: Path
) -> None:
    site = tmp_path / "site.yaml"
    text = site_text(tiny_bundle, footage)
    busy = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    wrong = {
        "no bundle": text.replace(str(tiny_bundle.path), "gone.vad"),
        "no recording": text.replace("yard.mp4", "gone.mp4"),
        "busy port": text.replace("port: 0", f"port: {busy.server_port}"),
        "no folder": text + "data: /dev/null/x\n",
    }
    before = named_threads()
    try:
        for name, one in wrong.items():
            site.write_text(one)
            running = LiveSite(read_site(site), say=lambda _line: None)
            with pytest.raises(VadError) as caught:
                running.start()
            assert_one_line(caught.value)
            assert named_threads() == before, name
    finally:
        busy.server_close()


def test_two_sites_cannot_share_a_data_folder_and_a_stopped_one_leaves_no_thread(
    tmp_path: Path, tiny_bundle: Bundle, footage: Path
) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(site_text(tiny_bundle, footage))
    lines: list[str] = []
    before = named_threads()
    first = LiveSite(read_site(site), say=lines.append)
    first.start()
    try:
        first._say("a part forgot to hide rtsp://viewer:hunter2@gate/1")
        assert "a part forgot to hide rtsp://***@gate/1" in lines
        with pytest.raises(VadError, match="in use by a running site"):
            LiveSite(read_site(site), say=lines.append).start()
        wait_for(lambda: any("ALARM" in line for line in lines), lines)
        assert first.alive()
        found = [
            finding.text for finding in findings(site) if "uses the data folder" in finding.text
        ]
        assert len(found) == 1
        assert not [finding for finding in findings(site) if finding.wrong]
        other = tmp_path / "other.yaml"
        other.write_text(site.read_text())
        (wrong,) = [finding.text for finding in findings(other) if finding.wrong]
        assert f"is in use by a running site (process {os.getpid()})" in wrong
    finally:
        first.stop()
        first.stop()
    assert named_threads() == before
    assert query.events(tmp_path / "data", open_only=True) == []


def test_check_lists_all_that_is_wrong(tmp_path: Path, tiny_bundle: Bundle, footage: Path) -> None:
    site = tmp_path / "site.yaml"
    text = site_text(tiny_bundle, footage)
    site.write_text(text)
    assert not [finding for finding in findings(site) if finding.wrong]
    site.write_text(
        text.replace("gate.mp4", "gone.mp4").replace("port: 0", "port: 1, host: 203.0.113.9")
        + "sinks:\n"
        "  far: {kind: webhook, url: http://127.0.0.1:9/}\n"
        "  log: {kind: jsonl, file: /dev/null/x.jsonl}\n"
        "data: /dev/null/data\n"
    )
    wrong = [finding.text for finding in findings(site, connect=True) if finding.wrong]
    parts = ["gone.mp4", "/dev/null/data", "203.0.113.9:1", "/dev/null", "127.0.0.1:9: connection"]
    assert len(wrong) == len(parts), wrong
    for line, part in zip(wrong, parts, strict=True):
        assert part in line
    site.write_text(text.replace("threads", "thrads").replace("loop", "lop"))
    assert len([finding for finding in findings(site) if finding.wrong]) == 3


def test_an_address_of_a_webhook_that_cannot_be_read_is_told_without_its_password(
    tmp_path: Path, tiny_bundle: Bundle, footage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("URL", "https://user:hunter2/x@127.0.0.1/alerts")
    site = tmp_path / "site.yaml"
    text = site_text(tiny_bundle, footage)
    site.write_text(text + "sinks:\n  far: {kind: webhook, url: '${URL}'}\n")
    (wrong,) = [finding.text for finding in findings(site, connect=True) if finding.wrong]
    assert "sinks.far.url: it cannot be read" in wrong
    assert "hunter" not in wrong


def test_a_reload_that_needs_a_missing_package_changes_nothing(
    tmp_path: Path, tiny_bundle: Bundle, footage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site.yaml"
    text = site_text(tiny_bundle, footage)
    site.write_text(text)
    running = LiveSite(read_site(site), say=lambda _line: None)
    running.start()
    try:
        site.write_text(text + "sinks:\n  house: {kind: mqtt, host: 127.0.0.1}\n")
        monkeypatch.setitem(sys.modules, "vad_runtime.sinks.mqtt", None)
        with pytest.raises(VadError, match=r"is missing\. Install it with: pip install") as caught:
            running.reload(read_site(site))
        assert_one_line(caught.value)
        assert "house" not in running.file.site.sinks
        assert running.alive()
        assert "was not followed" in running.status().troubles[0]
        # One that can be followed is: nothing is kept of a stream that is gone.
        kept = [line for line in text.splitlines(keepends=True) if "  yard:" not in line]
        site.write_text("".join(kept))
        assert running.reload(read_site(site)).removed == ["yard"]
        assert [stream.name for stream in running.status().streams] == ["gate"]
        assert running._media is not None
        assert [*running._media._streams] == ["gate"]
    finally:
        running.stop()


def test_the_watchdog_of_systemd_is_kept_quiet_during_a_long_reload(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("bundle: a.vad\nstreams: {gate: {source: a.mp4}}\n")
    lines, told = io.StringIO(), list[str]()

    class Slow:
        file = read_site(site)

        def alive(self) -> bool:
            return True

        def reload(self, new: SiteFile) -> SiteChange:
            wait_for(lambda: told.count("alive") >= 3)  # an engine that takes its time
            return change_between(self.file, new, bundles={})

    class Systemd:
        watchdog_s = 0.03

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *_: told.append(name)

    running, systemd = Slow(), Systemd()
    _reload(running, site, Console(lines, {}), systemd, _Watchdog(running, systemd))  # type: ignore[arg-type]
    assert told[0] == "reloading"
    assert told[-1] == "ready"


def test_a_second_signal_ends_the_process_at_once_without_an_abort(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_path: Path, _console: object, _notifier: object, wishes: _Wishes) -> int:
        wishes.handle(signal.SIGTERM, None)
        assert wishes.stop == signal.SIGTERM
        wishes.handle(signal.SIGTERM, None)
        raise AssertionError("it goes on")

    monkeypatch.setattr(site_commands, "_run", run)
    monkeypatch.setattr(os, "_exit", sys.exit)
    assert CliRunner().invoke(cli, ["site", str(tmp_path)]).exit_code == 130


def test_check_leaves_nothing_behind_and_names_what_would_not_work(
    tmp_path: Path, tiny_bundle: Bundle, footage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vad_runtime.sources.decoders.driver_installed", lambda: False)
    monkeypatch.setattr("vad_runtime.site_check.free_bytes", lambda _: 1e8)
    site = tmp_path / "site.yaml"
    text = site_text(tiny_bundle, footage)
    camera = "  far: {source: 'rtsp://127.0.0.1:9/1', decoder: nvdec}\nmedia:"
    sinks = "sinks:\n  log: {kind: jsonl, file: new/folder/x.jsonl}\n"
    site.write_text(text.replace("media:", camera) + sinks)
    wrong = [finding.text for finding in findings(site) if finding.wrong]
    assert wrong[0].startswith("streams.far: decoder nvdec: this machine has no NVIDIA driver")
    assert wrong[1].startswith("retention.free_gb: 0.1 GB are free")
    assert len(wrong) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["site.yaml"]
    site.write_text(text.replace("loop: True", "loop: 3").replace(str(tiny_bundle.path), "b.vad"))
    wrong = [finding.text for finding in findings(site) if finding.wrong]
    assert len(wrong) == 3
    assert "b.vad does not exist" in wrong[2]


def test_the_command_check_exits_with_1_where_anything_is_wrong(
    tmp_path: Path, tiny_bundle: Bundle, footage: Path
) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(site_text(tiny_bundle, footage))
    good = CliRunner().invoke(cli, ["check", str(site)])
    assert good.exit_code == 0, good.output
    assert all(line.startswith("ok     ") for line in good.output.splitlines())
    site.write_text(site_text(tiny_bundle, footage) + "data: /dev/null/x\n")
    bad = CliRunner().invoke(cli, ["check", str(site)])
    assert bad.exit_code == 1
    assert "wrong  /dev/null/x cannot be written" in bad.output
    failed = CliRunner().invoke(cli, ["site", str(site)])
    assert failed.exit_code == 1
    assert "stop" not in failed.output
    assert "another folder under data:" in bad.output
    assert "1 thing is wrong" in bad.output


def test_the_commands_load_no_library_of_a_site_before_they_run() -> None:
    code = (
        "import sys, vad_runtime.cli; "
        "print([m for m in ('av', 'yaml', 'rich', 'paho', 'prometheus_client', 'cv2', 'sqlite3') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_check_names_a_bundle_that_does_not_open(tmp_path: Path, footage: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(f"bundle: gone.vad\nstreams:\n  gate: {{source: {footage}/gate.mp4}}\n")
    wrong = [finding.text for finding in findings(site) if finding.wrong]
    assert len(wrong) == 1
    assert "gone.vad does not exist" in wrong[0]


def test_the_unit_for_systemd_starts_a_command_that_there_is() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.read(Path(__file__).parents[2] / "deploy" / "systemd" / "vad-edge@.service")
    service = unit["Service"]
    program, command, file = service["ExecStart"].split()
    assert Path(program).name == "vad-run"
    assert command in cli.commands
    assert file == "/etc/vad-edge/%i.yaml"
    assert service["Type"] == "notify"
    # A clean stop may take 10 s for streams, media and store each, and 5 s for alerts.
    assert int(service["TimeoutStopSec"]) >= 45
