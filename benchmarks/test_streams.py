"""How many cameras two cores bear: `vad-run site` in real time, more streams each time."""

import contextlib
import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from perf_children import script
from perf_models import Made
from perf_targets import STREAMS, Target
from pytest_benchmark.fixture import BenchmarkFixture

from vad_runtime.live.status import SiteStatus

FPS, HOP = 25, 16
SITE = """\
name: benchmark
bundle: {bundle}
engine: {{backend: openvino, precision: int8}}
media: {{clips: false, snapshots: false}}
sinks:
  log: {{kind: jsonl, file: events.jsonl}}
health: {{port: 0}}
streams:
"""
STREAM = "  s{i}: {{source: {film}, loop: true, hop: {hop}, policy: drop-oldest}}\n"


@dataclass(frozen=True, kw_only=True)
class Load:
    """What so many streams came to."""

    streams: int
    clips: int
    late: int
    """Scored after their deadline, or left out."""
    p99_ms: float
    """Of the stream where it is longest."""
    target_ms: float
    busy: float
    cores: float

    @property
    def in_time(self) -> bool:
        """Whether 99 of 100 clips of every stream were scored before the next one was due."""
        return self.p99_ms <= self.target_ms and self.late <= 0.01 * (self.clips + self.late)


def site_with(folder: Path, bundle: Path, film: Path, streams: int, seconds: float) -> Load:
    """Run a site of so many streams and ask it how it went."""
    folder.mkdir()
    lines = [STREAM.format(i=i, film=film, hop=HOP) for i in range(streams)]
    (folder / "site.yaml").write_text(SITE.format(bundle=bundle) + "".join(lines))
    with running(folder) as process:
        url = wait_for(lambda: url_of(folder), process, folder)
        wait_for(lambda: all(one.clips for one in asked(url).streams), process, folder)
        before, begun = cpu_s(process.pid), time.monotonic()
        time.sleep(seconds)
        cores = (cpu_s(process.pid) - before) / (time.monotonic() - begun)
        status = asked(url)
    assert len(status.streams) == streams
    assert not any(engine.errors for engine in status.engines)
    assert all(one.score is not None for one in status.streams)
    left_out = sum(one.dropped.get("late clip", 0) for one in status.streams)
    return Load(
        streams=streams,
        clips=sum(one.clips for one in status.streams),
        late=left_out + sum(one.misses for one in status.streams),
        p99_ms=max(one.latency.p99_ms for one in status.streams),
        target_ms=max(one.target_ms for one in status.streams),
        busy=status.engines[0].busy,
        cores=cores,
    )


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Any]:
    """Run the folder's site; end it as an operator would."""
    with (folder / "log.txt").open("w") as log:
        command = [script("vad-run"), "site", folder / "site.yaml"]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (folder / "log.txt").read_text()
    finally:
        process.kill()
        process.wait()


def wait_for(ready: Callable[[], Any], process: Any, folder: Path) -> Any:
    """Ask again and again; return the first answer that counts as true."""
    limit_s = time.monotonic() + 60
    while time.monotonic() < limit_s and process.poll() is None:
        found = ready()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"the site does not run:\n{(folder / 'log.txt').read_text()}")


def url_of(folder: Path) -> str:
    """Return where the site tells its state; empty = not yet."""
    file = folder / "data" / "health.url"
    return file.read_text().strip() if file.exists() else ""


def asked(url: str) -> SiteStatus:
    """Return the site's status."""
    with urllib.request.urlopen(f"{url}/status", timeout=20) as answer:
        return msgspec.json.decode(answer.read(), type=SiteStatus)


def cpu_s(pid: int) -> float:
    """Return the processor time of a process so far, seconds."""
    ticks = Path("/proc", str(pid), "stat").read_text().rsplit(")", 1)[1].split()
    return (int(ticks[11]) + int(ticks[12])) / 100


def test_streams_within_their_deadline(
    benchmark: BenchmarkFixture,
    board: Any,
    made_of: Callable[[str], Made],
    film: Path,
    tmp_path: Path,
    full: bool,
) -> None:
    """Stops at the first number that is too many."""
    benchmark.group = f"vad-run site, C3D int8, hop {HOP}, {FPS} fps: all runs"
    made = made_of("c3d" if full else "stae_twin")
    found: list[Load] = []

    def measure() -> None:
        for streams in (4, 8, 10, 12) if full else (2,):
            folder = tmp_path / f"site{streams}"
            seconds = 15.0 if full else 0.5
            found.append(site_with(folder, made.bundle.path, film, streams, seconds))
            if not found[-1].in_time:
                break

    benchmark.pedantic(measure, rounds=1)
    rows = [
        [
            str(load.streams),
            str(load.clips),
            str(load.late),
            load.p99_ms,
            load.target_ms,
            f"{load.busy:.0%}",
            load.cores,
        ]
        for load in found
    ]
    head = ["streams", "clips", "late", "p99 ms", "deadline ms", "engine busy", "cores"]
    board.table(f"{made.model.name} int8, cameras of 320 x 240 at {FPS} fps", head, rows)
    board.data(loads=[json.loads(msgspec.json.encode(load)) for load in found])
    assert found[0].clips > 0
    if full:
        most = max((load.streams for load in found if load.in_time), default=0)
        board.target(
            Target(
                name="C3D int8: streams within the deadline at p99",
                value=most,
                wanted=STREAMS,
                sense="least",
            )
        )


def test_a_load_is_late_where_its_p99_or_its_losses_are_too_large() -> None:
    plain = {"streams": 8, "clips": 100, "target_ms": 640.0, "busy": 0.5, "cores": 1.0}
    assert Load(late=1, p99_ms=639.0, **plain).in_time  # type: ignore[arg-type]
    assert not Load(late=1, p99_ms=641.0, **plain).in_time  # type: ignore[arg-type]
    assert not Load(late=2, p99_ms=10.0, **plain).in_time  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment cannot reach this machine's own ports."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
