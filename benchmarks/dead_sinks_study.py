"""Does a slow or dead sink slow the scoring down? The same site, with healthy sinks and dead ones.

    python benchmarks/dead_sinks_study.py --page docs/results/dead_sinks.md

Recordings drawn here, served in real time by `vad-run site`, start and end an event about every
second each; an STAE in INT8 (random weights) scores them. Every event is stored, filmed, and told
by mail, webhook, MQTT and a file. Sites with healthy sinks take turns with sites of which one sink
is dead, and each of these is compared with the healthy ones before and behind it. The servers are
real, and run on the same machine. The exit status is 1 where the latency of scoring grew by more
than a tenth, or `/status` did not name what is wrong. With the defaults it takes five minutes.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from helpers_servers import Broker, HttpServer, MailServer, free_port
from live_soak import BIN, FPS, HEIGHT, WIDTH, asked, made_bundle, pictures, sample

from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Options
from vad_runtime.bundle import Bundle
from vad_runtime.detector import Detector
from vad_runtime.live.status import SiteStatus
from vad_runtime.machine import library_versions, machine_facts
from vad_runtime.sources import open_source

SECONDS = 10
"""Length of a recording."""
MOST = 1.10
DISK = 32
"""Size of the disk that is filled, MiB."""
WELL = "all well"
CASES = {
    "webhook hangs": ("hook", "no answer within"),
    "mail refused": ("office", "takes mail for no address"),
    "disk full": ("store", "full"),
    "broker down": ("house", "connection refused"),
}
"""What is dead; which part of `/status` must say so, and with which words."""
TIMES = ("latency p50", "latency p95", "inference p50", "inference p95")
CPU = "processor"
MEASURES = (*TIMES, CPU)
UNITS = dict.fromkeys(TIMES, "ms") | {CPU: "%"}
SITE = """\
name: storm
bundle: {bundle}
data: {data}
engine: {{backend: {backend}, precision: int8, threads: {threads}}}
media: {{pre_s: 1, post_s: 1}}
retention: {{free_gb: 0}}
health: {{port: 0}}
sinks:
  log: {{kind: jsonl, file: events.jsonl}}
  hook: {{kind: webhook, url: "http://127.0.0.1:{hook}/alerts", timeout_s: 2}}
  office:
    kind: mail
    host: 127.0.0.1
    port: {mail}
    tls: none
    sender: vad@example.org
    to: [guard@example.org]
    every_s: 2
  house: {{kind: mqtt, host: 127.0.0.1, port: {broker}}}
streams:
"""
STREAM = """\
  s{i}:
    source: {folder}/s{i}.mp4
    loop: true
    hop: {hop}
    events: {{threshold: {threshold}, release: 0.99}}
"""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all sites have in common."""

    folder: Path
    bundle: Path
    threshold: float
    streams: int
    hop: int
    backend: str
    threads: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Servers:
    """Ports by case; what is not in a case is healthy."""

    hook: int
    mail: int
    broker: int
    hanging: int
    refusing: int
    nobody: int

    def ports(self, case: str) -> dict[str, int]:
        return {
            "hook": self.hanging if case == "webhook hangs" else self.hook,
            "mail": self.refusing if case == "mail refused" else self.mail,
            "broker": self.nobody if case == "broker down" else self.broker,
        }


@dataclass(frozen=True, kw_only=True)
class Run:
    """One site, as it was at its end."""

    case: str
    status: SiteStatus
    processor: float
    """What the whole site used of one processor, per cent."""

    @property
    def values(self) -> dict[str, float]:
        """The measures; times in milliseconds, means over the streams, whose turns differ."""
        found = {CPU: self.processor}
        for name in TIMES:
            stage, rank = name.split()
            of = [s.latency if stage == "latency" else s.stages[stage] for s in self.status.streams]
            found[name] = statistics.fmean(getattr(one, f"{rank}_ms") for one in of)
        return found

    def trouble(self, part: str) -> str:
        return next(one.trouble for one in self.status.parts if one.name == part)


# -- the sites -----------------------------------------------------------------------------------


def write_recording(path: Path, seed: int) -> None:
    """Write pictures that are turned into their negative every other second."""
    with av.open(str(path), "w") as out:
        options = {"preset": "ultrafast", "threads": "1", "g": str(FPS)}
        stream = out.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i, image in zip(range(SECONDS * FPS), pictures(seed), strict=False):
            shown = 255 - image if (i // FPS + seed) % 2 else image
            out.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        out.mux(stream.encode())


def middle(path: Path, recording: Path, options: Options, backend: str) -> tuple[float, str]:
    """Return a score that is passed up and down all the time, and what computes."""
    bundle = Bundle.open(path)
    choice = open_backend(bundle, backend, options)
    source = open_source(recording, bundle.manifest.clip, pictures=False)
    frames = Detector(bundle.manifest, choice.backend).run(source.frames(), nominal_fps=FPS)
    scores = [scored.score for scored in frames if scored.score is not None]
    choice.backend.close()
    low, high = np.quantile(scores, [0.1, 0.9])
    return float(low + high) / 2, choice.line


@contextlib.contextmanager
def servers() -> Iterator[Servers]:
    with (
        HttpServer() as hook,
        HttpServer(manner="hang") as hanging,
        MailServer() as mail,
        MailServer() as refusing,
        Broker() as broker,
    ):
        refusing.refuse = {"RCPT": "554 we take no mail"}
        yield Servers(
            hook=hook.port,
            mail=mail.port,
            broker=broker.port,
            hanging=hanging.port,
            refusing=refusing.port,
            nobody=free_port(),
        )


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a small disk there.

    Raises:
        OSError: This user may not.
    """
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip())
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Fill a disk, as somebody else does: what is removed from it is filled at once."""
    over = threading.Event()

    def fill() -> None:
        with (folder / "ballast").open("wb", buffering=0) as file:
            while not over.wait(0.1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(1 << 16))

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def run_site(setup: Setup, case: str, ports: dict[str, int]) -> Run:
    """Run a site until each stream has been scored for so long; return what it says then."""
    with (
        TemporaryDirectory(dir=setup.folder, ignore_cleanup_errors=True) as name,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(name)
        if case == "disk full":
            stack.enter_context(small_disk(folder / "disk"))
        text = SITE.format(
            bundle=setup.bundle,
            data="disk/data" if case == "disk full" else "data",
            backend=setup.backend,
            threads=setup.threads,
            **ports,
        )
        for i in range(setup.streams):
            text += STREAM.format(
                i=i, folder=setup.folder, hop=setup.hop, threshold=setup.threshold
            )
        (folder / "site.yaml").write_text(text)
        log = stack.enter_context((folder / "log.txt").open("w"))
        process = subprocess.Popen(
            [BIN / "vad-run", "site", str(folder / "site.yaml")],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            url = scored_at(process, folder)
            if case == "disk full":
                stack.enter_context(filled(folder / "disk"))
            before = sample(process.pid, time.monotonic())
            time.sleep(setup.seconds)
            after, status = sample(process.pid, time.monotonic() - setup.seconds), asked(url)
            cpu = (after.cpu_s - before.cpu_s) / (after.at_s - before.at_s)
            return Run(case=case, status=status, processor=100 * cpu)
        finally:
            process.kill()  # a dead sink would be given some seconds for what waits
            process.wait()


def scored_at(process: "subprocess.Popen[bytes]", folder: Path) -> str:
    """Wait until every stream is scored; return where the status is served."""
    limit_s = time.monotonic() + 60
    while time.monotonic() < limit_s and process.poll() is None:
        for file in folder.glob("**/health.url"):
            streams = asked(file.read_text().strip()).streams
            if streams and all(stream.clips for stream in streams):
                return file.read_text().strip()
        time.sleep(0.1)
    raise SystemExit(f"nothing is scored:\n{(folder / 'log.txt').read_text()}")


# -- verdict -----------------------------------------------------------------------------------


def order(cases: Sequence[str], rounds: int) -> list[str]:
    """Return in which order sites run: two dead ones between two healthy ones."""
    found: list[str] = []
    for i in range(rounds):
        turned = cases if i % 2 == 0 else cases[::-1]
        for j, case in enumerate(turned):
            found += [case] if j % 2 else [WELL, case]
    return [*found, WELL]


def ratios(runs: Sequence[Run], beside: bool) -> dict[str, list[dict[str, float]]]:
    """Compare each site with the healthy ones next to it, healthy ones with the one before.

    Args:
        runs: In order.
        beside: Each dead one ran at the same time as the healthy one in front of it.
    """
    found: dict[str, list[dict[str, float]]] = {run.case: [] for run in runs}
    for i, run in enumerate(runs):
        before = [one for one in runs[:i] if one.case == WELL][-1:]
        behind = [one for one in runs[i:] if one.case == WELL][:1]
        others = before if beside or run.case == WELL else before + behind
        if others:
            found[run.case].append(
                {
                    name: run.values[name] / statistics.fmean(one.values[name] for one in others)
                    for name in MEASURES
                }
            )
    return found


def findings(
    setup: Setup, runs: Sequence[Run], compared: dict[str, list[dict[str, float]]]
) -> list[str]:
    """Return everything that is not as it should be, a line each."""
    wrong = []
    for run in runs:
        streams = run.status.streams
        if run.case == WELL:
            wrong += [f"{WELL}, but {line}" for line in run.status.troubles]
            wrong += [f"{WELL}, but {p.name} did nothing" for p in run.status.parts if not p.done]
        else:
            part, words = CASES[run.case]
            said = run.trouble(part)
            if words not in said:
                wrong.append(f"{run.case}: /status says {said!r} of {part}")
        if sum(s.events for s in streams) < 0.3 * setup.seconds * len(streams):
            wrong.append(f"{run.case}: {[s.events for s in streams]} events are no storm")
        if min(s.clips for s in streams) < 0.6 * setup.seconds * FPS / setup.hop:
            wrong.append(f"{run.case}: {[s.clips for s in streams]} clips are too few")
    for case, found in compared.items():
        for name in TIMES[:2]:
            ratio = statistics.median(one[name] for one in found)
            if case != WELL and ratio > MOST:
                wrong.append(f"{case}: {name} is {ratio:.2f} times that of a healthy site")
    return wrong


def page(
    setup: Setup,
    runs: Sequence[Run],
    compared: dict[str, list[dict[str, float]]],
    wrong: Sequence[str],
    device: str,
    command: str,
    beside: bool,
) -> str:
    facts = machine_facts()
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    well = [run.values for run in runs if run.case == WELL]
    absolute = " | ".join(
        f"{statistics.median(v[name] for v in well):.1f} {UNITS[name]} "
        f"({min(v[name] for v in well):.1f} to {max(v[name] for v in well):.1f})"
        for name in MEASURES
    )
    rows = ""
    for case, found in compared.items():
        cells = []
        for name in MEASURES:
            of = [one[name] for one in found]
            cells.append(f"{statistics.median(of):.3f} ({min(of):.2f} to {max(of):.2f})")
        name = "healthy, the one before" if case == WELL else case
        rows += f"| {name} | {len(found)} | {' | '.join(cells)} |\n"
    said = ""
    for case in CASES:
        last = [run.status.troubles for run in runs if run.case == case]
        if last:
            said += f"| {case} | {'; '.join(f'`{line}`' for line in last[-1])} |\n"
        else:
            said += f"| {case} | not run: no disk may be mounted here |\n"
    events = statistics.median(sum(s.events for s in run.status.streams) for run in runs)
    clips = statistics.median(sum(s.clips for s in run.status.streams) for run in runs)
    misses = sum(s.misses + sum(s.dropped.values()) for run in runs for s in run.status.streams)
    turns = (
        "one after another, and each\nwith a dead sink is compared with the healthy ones before "
        "and behind it"
    )
    if beside:
        turns = (
            "each with a dead\nsink at the same time as a healthy one, with which it is compared"
        )
    verdict = "\n".join(f"* **{line}**" for line in wrong) or (
        "* No dead sink makes the latency more than 10 % longer, neither p50 nor p95 (median of\n"
        "  the ratios), and `/status` names each."
    )
    return f"""# Dead sinks and the latency of scoring

`vad-run site` with {setup.streams} recordings of {WIDTH}x{HEIGHT} at {FPS} frames a second,
hop {setup.hop}, served like cameras, in a storm of alarms: about {events:.0f} events and
{clips:.0f} clips in each run of {setup.seconds:.0f} s. All events are stored, filmed with
snapshots, and told by mail, webhook, MQTT and a file of lines. {len(runs)} sites ran, {turns}.
Servers and recordings are on the same machine.

* Made on {date.today().isoformat()} with `{command}`
* {facts["cpu"]}, {facts["usable_threads"]} of {facts["cores"]} cores usable,
  Python {facts["python"]}
* Engine: {device}
* {versions}

Latency: from the arrival of a clip's last frame to its scores. Processor: what the whole site,
films and alerts included, used of one. Healthy sites, median (range):

| {" | ".join(MEASURES)} |
|---|---|---|---|---|
| {absolute} |

Compared with a healthy site, median of the ratios (range). The first row is how much healthy sites
differ from each other.

| site | ratios | {" | ".join(MEASURES)} |
|---|---|---|---|---|---|---|
{rows}
What `/status` said:

| site | |
|---|---|
{said}
* {misses} clips of {clips * len(runs):.0f} in all were late or left out.
{verdict}
"""


def measured(setup: Setup, rounds: int, beside: bool) -> list[Run]:
    cases = [*CASES]
    with TemporaryDirectory(dir=setup.folder) as name:
        try:
            with small_disk(Path(name) / "probe"):
                pass
        except OSError as error:
            print(f"no full disk is tried: {error}", file=sys.stderr)
            cases.remove("disk full")
    runs: list[Run] = []
    groups = [[WELL, case] for case in cases * rounds]
    if not beside:
        groups = [[case] for case in order(cases, rounds)]
    with servers() as these, ThreadPoolExecutor() as pool:
        for group in groups:
            running = [pool.submit(run_site, setup, case, these.ports(case)) for case in group]
            for run in (one.result() for one in running):
                runs.append(run)
                words = ", ".join(f"{n} {run.values[n]:.1f} {UNITS[n]}" for n in MEASURES)
                print(f"{run.case:15} {words}", file=sys.stderr)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="Of each site.")
    parser.add_argument(
        "--beside",
        action="store_true",
        help="Run each dead site at the same time as a healthy one, not in turn: what else the "
        "machine does then meets both.",
    )
    parser.add_argument("--streams", type=int, default=3)
    parser.add_argument("--hop", type=int, default=8)
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--threads", type=int, default=1, help="Of the engine.")
    parser.add_argument("--page", type=Path, help="Write the results here, too.")
    given = parser.parse_args()
    with TemporaryDirectory(prefix="vad-dead-") as name:
        folder = Path(name)
        for seed in range(given.streams):
            write_recording(folder / f"s{seed}.mp4", seed)
        bundle = made_bundle(folder, folder / "s0.mp4")
        options = Options(precision="int8", threads=given.threads)
        threshold, device = middle(bundle, folder / "s0.mp4", options, given.backend)
        setup = Setup(
            folder=folder,
            bundle=bundle,
            threshold=threshold,
            streams=given.streams,
            hop=given.hop,
            backend=given.backend,
            threads=given.threads,
            seconds=given.seconds,
        )
        runs = measured(setup, given.rounds, given.beside)
    compared = ratios(runs, given.beside)
    wrong = findings(setup, runs, compared)
    words = [Path(word).name if i == 0 else word for i, word in enumerate(sys.argv)]
    command = "python benchmarks/" + " ".join(words)
    found = page(setup, runs, compared, wrong, device, command, given.beside)
    print(found)
    if given.page is not None:
        given.page.write_text(found)
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
