"""How many cameras two cores bear: `vad-run site` in real time, with 8 streams and with 12.

What a site tells of its latencies counts from the start, when engine and decoders are opened. Here
each clip's latency is noted within the site's process, and only those of a stretch of time behind
the start count. Clips that were left out, or never came since their frames were lost, count as
infinitely late.

A stream brings a clip in 0.64 s, so 33 s are 51 clips: enough for a p95 of each stream, not for a
p99. The p99 is that of all streams together, of 400 clips and more.
"""

import contextlib
import itertools
import math
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from perf_models import Made
from perf_targets import STREAMS, Target
from pytest_benchmark.fixture import BenchmarkFixture

from vad_runtime.live.status import SiteStatus

FPS, HOP = 25, 16
PERIOD_S = HOP / FPS
SETTLE_S, MEASURE_S = 3.0, 33.0
BESIDE = 0.1
"""Processors that others may take before the board says so."""
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

# A site whose streams also note each clip: stream, when, latency (inf = left out).
_NOTING = """
import sys, time
from vad_runtime.cli import main
from vad_runtime.live.gauges import StreamGauges
notes = open(sys.argv[1], "w", buffering=1)
sys.argv = ["vad-run", *sys.argv[2:]]
numbers, ran, dropped = {}, StreamGauges.ran, StreamGauges.dropped
def note(gauges, latency):
    number = numbers.setdefault(gauges, len(numbers))
    notes.write(f"{number} {time.monotonic()} {latency}\\n")
def noted_ran(self, took_s, latency_s, *, missed):
    note(self, latency_s)
    ran(self, took_s, latency_s, missed=missed)
def noted_dropped(self, cause):
    note(self, "inf")
    dropped(self, cause)
StreamGauges.ran, StreamGauges.dropped = noted_ran, noted_dropped
main()
"""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What so many streams came to, the start left out."""

    latencies_ms: list[list[float]]
    """Of each stream's clips; infinite = left out, or lost."""
    target_ms: float
    busy: float
    """Share of the time in which the engine computed."""
    cores: float
    """Processors that the site took, on average."""
    others: float
    """Processors that everything else on this machine took, on average."""

    @property
    def pooled_ms(self) -> list[float]:
        """The latencies of all streams."""
        return [value for values in self.latencies_ms for value in values]

    @property
    def late(self) -> int:
        """Clips that were scored after their deadline, or not at all."""
        return sum(value > self.target_ms for value in self.pooled_ms)

    @property
    def p99_ms(self) -> float:
        """Of all streams together."""
        return percentile(self.pooled_ms, 99)

    @property
    def worst_p95_ms(self) -> float:
        """Of the stream where it is longest."""
        return max(percentile(values, 95) for values in self.latencies_ms)

    @property
    def in_time(self) -> bool:
        """Whether 99 of 100 clips, and 95 of 100 of each stream, were scored in time."""
        return max(self.p99_ms, self.worst_p95_ms) <= self.target_ms

    def as_dict(self) -> dict[str, Any]:
        """Return it for a report; a percentile that is infinite is None."""
        values = {"p99_ms": self.p99_ms, "worst_p95_ms": self.worst_p95_ms}
        return {
            "streams": len(self.latencies_ms),
            "clips": len(self.pooled_ms),
            "late": self.late,
            **{name: value if math.isfinite(value) else None for name, value in values.items()},
            "target_ms": self.target_ms,
            "busy": self.busy,
            "cores": self.cores,
            "others": self.others,
            "in_time": self.in_time,
        }


def percentile(values: list[float], q: float) -> float:
    """Return the smallest value that q % of them do not exceed; some may be infinite."""
    return sorted(values)[max(0, math.ceil(q / 100 * len(values)) - 1)]


def site_with(
    folder: Path, bundle: Path, film: Path, streams: int, settle_s: float, measure_s: float
) -> Load:
    """Run a site of so many streams for a while."""
    folder.mkdir()
    lines = [STREAM.format(i=i, film=film, hop=HOP) for i in range(streams)]
    (folder / "site.yaml").write_text(SITE.format(bundle=bundle) + "".join(lines))
    with running(folder) as process:
        url = wait_for(lambda: url_of(folder), process, folder)
        wait_for(lambda: all(one.clips for one in asked(url).streams), process, folder)
        time.sleep(settle_s)
        begun, ours, all_of_it = time.monotonic(), cpu_s(process.pid), machine_s()
        shares = []
        for _ in range(6):
            time.sleep(measure_s / 6)  # the engine's share is that of the last seconds
            shares.append(asked(url).engines[0].busy)
        ended = time.monotonic()
        ours, all_of_it = cpu_s(process.pid) - ours, machine_s() - all_of_it
        status = asked(url)
        time.sleep(2 * PERIOD_S)  # the clip behind the stretch tells whether one before it is lost
    assert len(status.streams) == streams
    assert not any(engine.errors for engine in status.engines)
    assert all(one.score is not None for one in status.streams)
    noted = (folder / "clips.txt").read_text().splitlines()
    assert len(noted) >= sum(one.latency.count for one in status.streams) > 0
    return Load(
        latencies_ms=latencies_of(noted, streams, begun, ended),
        target_ms=max(one.target_ms for one in status.streams),
        busy=sum(shares) / len(shares),
        cores=ours / (ended - begun),
        others=max(0.0, all_of_it - ours) / (ended - begun),
    )


def latencies_of(noted: list[str], streams: int, begun: float, ended: float) -> list[list[float]]:
    """Return the latencies of each stream's clips that were due in a stretch of time, ms.

    A clip is due when its last frame comes: its latency before it was noted. Between two clips that
    were scored, one is missing in each period that went by without, whether it was noted as left
    out or not.
    """
    scored: list[list[tuple[float, float]]] = [[] for _ in range(streams)]
    left_out = [0] * streams
    for line in noted:
        number, when, latency_s = (float(value) for value in line.split())
        if math.isfinite(latency_s):
            scored[int(number)].append((when - latency_s, latency_s * 1e3))
        elif begun <= when < ended:
            left_out[int(number)] += 1
    return [
        [latency_ms for due, latency_ms in mine if begun <= due < ended]
        + [math.inf] * max(missing([due for due, _ in mine], begun, ended), known)
        for mine, known in zip(scored, left_out, strict=True)
    ]


def missing(times: list[float], begun: float, ended: float) -> int:
    """Return how many clips of a stretch of time are missing among the times of those that came."""
    times = sorted(times) or [begun - PERIOD_S / 2]
    gaps = [
        one + (other - one) * place / count
        for one, other in itertools.pairwise(times)
        for count in [round((other - one) / PERIOD_S)]
        for place in range(1, count)
    ]
    # Before the first and behind the last there is no neighbour.
    most = math.ceil((ended - begun) / PERIOD_S) + 1
    gaps += [times[0] - place * PERIOD_S for place in range(1, most)]
    gaps += [times[-1] + place * PERIOD_S for place in range(1, most)]
    return sum(begun <= when < ended for when in gaps)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Any]:
    """Run the folder's site; end it as an operator would."""
    with (folder / "log.txt").open("w") as log:
        command = [sys.executable, "-c", _NOTING, folder / "clips.txt"]
        command += ["site", folder / "site.yaml"]
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
    return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")


def machine_s() -> float:
    """Return the processor time of everything on this machine so far, seconds."""
    line = Path("/proc/stat").read_text().splitlines()[0].split()
    user, nice, system, _idle, _waiting, *interrupts = map(int, line[1:8])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def test_streams_within_their_deadline(
    benchmark: BenchmarkFixture,
    board: Any,
    made_of: Callable[[str], Made],
    film: Path,
    tmp_path: Path,
    full: bool,
) -> None:
    benchmark.group = f"vad-run site, C3D int8, hop {HOP}, {FPS} fps: all runs"
    made = made_of("c3d" if full else "stae_twin")
    numbers = (6, STREAMS, 12) if full else (2,)
    settle_s, measure_s = (SETTLE_S, MEASURE_S) if full else (0.0, 1.5)
    found: list[Load] = []

    def measure() -> None:
        for streams in numbers:
            folder = tmp_path / f"site{streams}"
            found.append(site_with(folder, made.bundle.path, film, streams, settle_s, measure_s))
            if not found[-1].in_time:
                break  # more would only be later

    benchmark.pedantic(measure, rounds=1)
    rows = [
        [
            str(len(load.latencies_ms)),
            str(len(load.pooled_ms)),
            str(load.late),
            percentile(load.pooled_ms, 50),
            load.p99_ms,
            load.worst_p95_ms,
            load.target_ms,
            f"{load.busy:.0%}",
            load.cores,
            load.others,
        ]
        for load in found
    ]
    head = ["streams", "clips", "late", "p50 ms", "p99 ms", "worst stream's p95 ms"]
    head += ["deadline ms", "engine busy", "cores", "others' cores"]
    board.table(f"{made.model.name} int8, cameras of 320 x 240 at {FPS} fps", head, rows)
    if max(load.others for load in found) > BESIDE:
        board.note(f"{made.model.name}: other processes ran beside the streams: look again alone")
    board.data(loads=[load.as_dict() for load in found])
    assert all(math.isfinite(min(values)) for load in found for values in load.latencies_ms)
    if full:
        most = max((len(load.latencies_ms) for load in found if load.in_time), default=0)
        board.target(
            Target(
                name="C3D int8: streams within the deadline at p99",
                value=most,
                wanted=STREAMS,
                sense="least",
            )
        )


def load_of(*streams: list[float]) -> Load:
    """Return a load with a deadline of 640 ms."""
    return Load(latencies_ms=list(streams), target_ms=640.0, busy=0.5, cores=1.0, others=0.0)


def test_a_load_is_late_where_the_p99_of_all_its_clips_is_too_large() -> None:
    good = [20.0] * 99
    assert load_of([*good, 641.0]).in_time
    assert load_of([*good, math.inf]).in_time
    assert not load_of([*good[1:], 641.0, 641.0]).in_time
    assert not load_of([*good[1:], math.inf, math.inf]).in_time
    assert load_of([*good[1:], math.inf, 641.0]).late == 2


def test_a_load_is_late_where_one_stream_bears_all_the_losses() -> None:
    good, bad = [20.0] * 100, [*[20.0] * 94, *[math.inf] * 6]
    assert load_of(*[good] * 11, bad).p99_ms == 20.0
    assert not load_of(*[good] * 11, bad).in_time


def test_clips_of_the_start_do_not_count_and_lost_ones_do() -> None:
    noted = ["0 10.0 3.5", "1 20.12 0.02", "0 21.0 inf", "1 21.4 0.02", "0 32.0 9"]
    three_clips_s = 3 * PERIOD_S
    found = latencies_of(noted, 3, 20.0, 20.0 + three_clips_s)
    assert found == [[math.inf] * 3, [20.0, 20.0, math.inf], [math.inf] * 3]


def notes_of(streams: int, *, without: int | None = None, latency_s: float = 0.02) -> list[str]:
    """Return the notes of 60 clips of each stream, from second 0; one of each may be lost."""
    return [
        f"{stream} {0.07 * stream + place * PERIOD_S + latency_s} {latency_s}"
        for stream in range(streams)
        for place in range(60)
        if place != without
    ]


def load_from(noted: list[str]) -> Load:
    """Return the load of 8 streams in 33 seconds."""
    return load_of(*latencies_of(noted, 8, 3.0, 36.0))


@pytest.mark.parametrize("place", [5, 30, 55], ids=["at its begin", "within", "at its end"])
def test_one_clip_of_each_stream_that_never_came_is_late(place: int) -> None:
    assert load_from(notes_of(8)).late == 0
    found = load_from(notes_of(8, without=place))
    assert found.late == 8
    assert not found.in_time
    assert len(found.pooled_ms) == len(load_from(notes_of(8)).pooled_ms)


def test_a_clip_that_is_late_leaves_no_gap() -> None:
    late = [line if i % 7 else f"0 {i * PERIOD_S + 0.6} 0.6" for i, line in enumerate(notes_of(1))]
    found = latencies_of(late, 1, 3.0, 36.0)[0]
    assert max(found) == 600.0


def test_a_clip_that_was_left_out_counts_once() -> None:
    noted = [*notes_of(8, without=30), *(f"{i} {31 * PERIOD_S + 0.5} inf" for i in range(8))]
    assert load_from(noted).late == 8


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment cannot reach this machine's own ports."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
