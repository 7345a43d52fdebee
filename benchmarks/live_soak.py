"""A whole site under load for a while: deadlines, memory, threads, file handles.

    python benchmarks/live_soak.py --minutes 10 --page docs/results/live_soak.md

Eight recordings, drawn here, 320x240 at 25 frames a second, are served in real time and over and
over by `vad-run site`; an STAE in INT8 (random weights, unless --bundle names another bundle)
scores them. The site is watched from outside: its own status, and what the kernel says of it. The
exit status is 1 if anything leaked, or was late and not counted.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import msgspec
import numpy as np
import numpy.typing as npt

from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Options
from vad_runtime.bundle import Bundle, rewrite_manifest, write_bundle
from vad_runtime.contracts import Artefact, ClipSpec
from vad_runtime.detector import Detector
from vad_runtime.live.status import SiteStatus, StreamStatus
from vad_runtime.machine import library_versions, machine_facts
from vad_runtime.sources import open_source

STREAMS = 8
WIDTH, HEIGHT, FPS = 320, 240, 25
SECONDS = 30
"""Length of a recording; then it starts over, which opens its file again."""
HOP = 16
MOST_GROWTH = 0.05
"""Of the resident memory, from the end of the first minute on."""
MOST_GROWTH_COLD = 0.15
"""In a run too short for a first minute: buffers still fill, and recordings start over once."""
WARM_S = 60.0
BIN = Path(sys.executable).parent
SITE = """\
name: soak
bundle: {bundle}
engine: {{backend: {backend}, precision: {precision}}}
media: {{clips: false, snapshots: true}}
sinks:
  log: {{kind: jsonl, file: events.jsonl}}
health: {{port: 0}}
streams:
"""
STREAM = """\
  s{i}:
    source: s{i}.mp4
    loop: true
    hop: {hop}
    policy: {policy}
    events: {{merge_s: 3, cooldown_s: 5}}
"""


# -- what is served and what scores it -------------------------------------------------------------


def pictures(seed: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield a recording's pictures: squares wander over a wall; once, one of them flickers."""
    rng = np.random.default_rng(seed)
    wall = rng.integers(60, 120, (HEIGHT // 8, WIDTH // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    place = rng.uniform(0, 1, (3, 2))
    step = rng.uniform(-0.02, 0.02, (3, 2))
    colours = rng.integers(120, 255, (3, 3))
    for i in range(SECONDS * FPS):
        image = wall.copy()
        place = (place + step) % 1
        for j, (y, x) in enumerate(place):
            top, left = int(y * (HEIGHT - 50)), int(x * (WIDTH - 50))
            odd = j == 0 and seed * 60 < i < seed * 60 + 50 and i % 2
            image[top : top + 50, left : left + 50] = 0 if odd else colours[j]
        yield image


def write_recording(path: Path, seed: int) -> None:
    with av.open(str(path), "w") as out:
        options = {"preset": "ultrafast", "threads": "1", "g": str(FPS)}
        stream = out.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for image in pictures(seed):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())


def made_bundle(folder: Path, footage: Path) -> Path:
    """Export an STAE with drawn weights and add its INT8 graph, calibrated on the footage."""
    import torch

    from vad_export.calibration import choose_inputs
    from vad_export.onnx_graph import onnx_from_graph
    from vad_export.precision import quantise
    from vad_export.precision_config import PrecisionConfig
    from vad_training.graphs.stae import ScoreForm, stae_graph
    from vad_training.models.stae import STAE

    torch.manual_seed(1)
    clip = ClipSpec(frames=16, height=128, width=128, colour="gray", hop=HOP, fps=float(FPS))
    graph = stae_graph(STAE().eval(), clip, ScoreForm(form="reconstruction"))
    file, path = folder / "model.onnx", folder / "stae.vad"
    onnx_from_graph(graph, file)
    entry = Artefact(
        file="model.onnx", sha256="", bytes=0, format="onnx", precision="fp32", opset=18
    )
    about = msgspec.structs.replace(graph.manifest(), artefacts={"fp32": entry})
    fp32, made = write_bundle(path, about, {"fp32": file}), folder / "stae.calibration"
    config = PrecisionConfig(method="minmax", check_clips=2)
    choose_inputs(fp32.manifest, footage, 4, made, check=config.check_clips)
    quantise(fp32, ["int8"], made, config)
    return path


def set_threshold(path: Path, recording: Path, options: Options, backend: str) -> str:
    """Put the threshold where a few frames of each turn pass it; return what computes."""
    bundle = Bundle.open(path)
    choice = open_backend(bundle, backend, options)
    source = open_source(recording, bundle.manifest.clip, pictures=False)
    frames = Detector(bundle.manifest, choice.backend).run(source.frames(), nominal_fps=FPS)
    scores = [scored.score for scored in frames if scored.score is not None]
    choice.backend.close()
    scoring = msgspec.structs.replace(
        bundle.manifest.scoring, threshold=float(np.quantile(scores, 0.98)), method="soak"
    )
    rewrite_manifest(bundle, msgspec.structs.replace(bundle.manifest, scoring=scoring))
    return choice.line


# -- watching ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What the kernel says of the site at a moment."""

    at_s: float
    """Since the first frame was scored."""
    rss: int
    threads: int
    handles: int
    cpu_s: float


@dataclass
class Watched:
    """A run, from its first scored frame on."""

    samples: list[Sample] = field(default_factory=list)
    status: SiteStatus | None = None
    log: str = ""
    code: int | None = None
    stopped_s: float = 0.0
    events: int = 0

    def around(self, at_s: float, window_s: float) -> list[Sample]:
        """Return the samples from so long before a moment up to it."""
        return [one for one in self.samples if at_s - window_s <= one.at_s <= at_s]


def sample(pid: int, start_s: float) -> Sample:
    process = Path("/proc") / str(pid)
    status = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line
    )
    ticks = (process / "stat").read_text().rsplit(")", 1)[1].split()
    return Sample(
        at_s=time.monotonic() - start_s,
        rss=int(status["VmRSS"].split()[0]) * 1024,
        threads=int(status["Threads"]),
        handles=sum(1 for _ in (process / "fd").iterdir()),
        cpu_s=(int(ticks[11]) + int(ticks[12])) / 100,
    )


def asked(url: str) -> SiteStatus:
    with urllib.request.urlopen(f"{url}/status", timeout=20) as answer:
        return msgspec.json.decode(answer.read(), type=SiteStatus)


def run_site(folder: Path, seconds: float) -> Watched:
    """Run the site of a folder for so long and watch it."""
    watched = Watched()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [BIN / "vad-run", "site", str(folder / "site.yaml")],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        watch(process, folder, seconds, watched)
        begin_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        watched.code = process.wait(60)
        watched.stopped_s = time.monotonic() - begin_s
    finally:
        process.kill()
        process.wait()
        watched.log = (folder / "log.txt").read_text()
    lines = (folder / "events.jsonl").read_text().splitlines()
    watched.events = sum(json.loads(line)["kind"] == "ended" for line in lines)
    return watched


def watch(process: Any, folder: Path, seconds: float, watched: Watched) -> None:
    url_file = folder / "data" / "health.url"
    limit_s = time.monotonic() + 60
    start_s: float | None = None
    while start_s is None or time.monotonic() < start_s + seconds:
        if process.poll() is not None:
            raise SystemExit(f"the site has ended:\n{(folder / 'log.txt').read_text()}")
        if start_s is None and time.monotonic() > limit_s:
            raise SystemExit(f"nothing is scored:\n{(folder / 'log.txt').read_text()}")
        if start_s is None:
            if url_file.exists():
                streams = asked(url_file.read_text().strip()).streams
                if streams and all(stream.clips for stream in streams):
                    start_s = time.monotonic()
        else:
            watched.samples.append(sample(process.pid, start_s))
        time.sleep(0.5)
    watched.status = asked(url_file.read_text().strip())


# -- verdict -----------------------------------------------------------------------------------


def late(stream: StreamStatus) -> float:
    """Return the share of the clips that were scored late or left out."""
    skipped = stream.dropped.get("late clip", 0)
    return (stream.misses + skipped) / max(1, stream.clips + skipped)


def settled(watched: Watched, seconds: float) -> tuple[list[Sample], list[Sample]]:
    """Return the samples when the site has warmed up, and those at the end."""
    warm_s, window_s = min(WARM_S, seconds / 3), max(5.0, seconds / 20)
    return watched.around(warm_s + window_s, window_s), watched.around(seconds, window_s)


def findings(watched: Watched, seconds: float, most_late: float) -> list[str]:
    """Return everything that is not as it should be, a line each."""
    status = watched.status
    assert status is not None
    wrong = [f"the site says: {trouble}" for trouble in status.troubles]
    for one in status.streams:
        settled_frames = one.scored + sum(one.unscored.values())
        # A clip that waits, one that is being filled, and no more.
        if not 0 <= one.frames - settled_frames <= 4 * HOP + one.hop:
            wrong.append(f"{one.name}: {one.frames} frames, {settled_frames} of them accounted for")
        if one.frames + sum(one.dropped.values()) * HOP < 0.95 * FPS * seconds:
            wrong.append(f"{one.name}: {one.frames} frames in {seconds:.0f} s are too few")
        if set(one.dropped) - {"late clip"}:
            wrong.append(f"{one.name}: dropped {one.dropped}")
        if late(one) > most_late:
            wrong.append(f"{one.name}: {late(one):.2%} of the clips were late or left out")
        if one.dropped and f"{one.name}: behind" not in watched.log:
            wrong.append(f"{one.name}: the log does not tell of its {one.dropped}")
    warm, end = settled(watched, seconds)
    growth = growth_of(warm, end)
    if abs(growth) > (MOST_GROWTH if seconds / 3 >= WARM_S else MOST_GROWTH_COLD):
        wrong.append(f"memory changed by {growth:.1%}")
    for what in ("threads", "handles"):
        before, after = (min(getattr(one, what) for one in part) for part in (warm, end))
        if before != after:
            wrong.append(f"{what}: {before} when warm, {after} at the end")
    if any(engine.errors for engine in status.engines):
        wrong.append(f"engine: {status.engines}")
    if watched.code != 0:
        wrong.append(f"exit status {watched.code} after SIGTERM")
    if watched.events == 0:
        wrong.append("no event came: the run says little")
    return wrong


def growth_of(warm: Sequence[Sample], end: Sequence[Sample]) -> float:
    """Return by how much the resident memory grew, as a share."""
    before, after = (statistics.median(one.rss for one in part) for part in (warm, end))
    return after / before - 1


def page(watched: Watched, seconds: float, device: str, wrong: Sequence[str], command: str) -> str:
    """Return the results as Markdown."""
    status, facts = watched.status, machine_facts()
    assert status is not None
    warm, end = settled(watched, seconds)
    rows = "\n".join(
        f"| {s.name} | {s.camera_fps:.1f} | {s.clips} | {s.misses} "
        f"| {s.dropped.get('late clip', 0)} | {s.latency.p50_ms:.0f} "
        f"| {s.latency.p95_ms:.0f} | {s.latency.p99_ms:.0f} "
        f"| {s.latency.max_ms:.0f} | {s.target_ms:.0f} | {s.stages['inference'].p50_ms:.1f} "
        f"| {s.events} |"
        for s in status.streams
    )
    cpu = (end[-1].cpu_s - warm[0].cpu_s) / (end[-1].at_s - warm[0].at_s)
    verdict = "\n".join(f"* **{line}**" for line in wrong) or "* Nothing leaked, nothing uncounted."
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    first, last = warm[0].at_s, end[-1].at_s
    return f"""# Eight cameras on a small computer

`vad-run site` with {len(status.streams)} recordings of {WIDTH}x{HEIGHT} at {FPS} frames a second,
served like cameras and over and over, for {seconds / 60:.1f} minutes; hop {HOP}, policy
{status.streams[0].policy}. Times are those of one machine; the counts are what matters.

* Made on {date.today().isoformat()} with `{command}`
* {facts["cpu"]}, {facts["usable_threads"]} of {facts["cores"]} cores usable,
  Python {facts["python"]}
* Engine: {device}
* {versions}

| stream | fps | clips | late | left out | p50 ms | p95 ms | p99 ms | max ms | budget ms \
| inference p50 ms | events |
|---|---|---|---|---|---|---|---|---|---|---|---|
{rows}

Late: scored after its deadline, which is when the next clip's last frame arrives. Left out: by the
policy, counted. Milliseconds are from the arrival of a clip's last frame to its scores.

| | after {first:.0f} s | after {last:.0f} s |
|---|---|---|
| resident memory, MB | {statistics.median(s.rss for s in warm) / 1e6:.1f} \
| {statistics.median(s.rss for s in end) / 1e6:.1f} ({growth_of(warm, end):+.2%}) |
| threads | {min(s.threads for s in warm)} | {min(s.threads for s in end)} |
| file handles | {min(s.handles for s in warm)} | {min(s.handles for s in end)} |

* The engine was busy for {status.engines[0].busy:.0%} of the last seconds; the site used {cpu:.2f}
  of {facts["usable_threads"]} processors.
* {watched.events} events were written to the database and to a file of JSON lines, each with a
  snapshot; the site ended {watched.stopped_s:.1f} s after SIGTERM.
{verdict}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--bundle", type=Path, help="Instead of an STAE with random weights.")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--policy", default="drop-oldest")
    parser.add_argument("--most-late", type=float, default=0.01, help="Share of a stream's clips.")
    parser.add_argument("--page", type=Path, help="Write the results here, too.")
    given = parser.parse_args()
    with TemporaryDirectory(prefix="vad-soak-") as name:
        folder = Path(name)
        recordings = [folder / f"s{i}.mp4" for i in range(STREAMS)]
        for seed, recording in enumerate(recordings):
            write_recording(recording, seed)
        bundle = folder / "soak.vad"
        if given.bundle is None:
            made_bundle(folder, recordings[0]).rename(bundle)
        else:  # a copy, since the threshold is changed
            subprocess.run(["cp", "-r", given.bundle, bundle], check=True)
        options = Options(precision=given.precision)
        device = set_threshold(bundle, recordings[0], options, given.backend)
        text = SITE.format(bundle=bundle, backend=given.backend, precision=given.precision)
        for i in range(STREAMS):
            text += STREAM.format(i=i, hop=HOP, policy=given.policy)
        (folder / "site.yaml").write_text(text)
        seconds = given.minutes * 60
        watched = run_site(folder, seconds)
        wrong = findings(watched, seconds, given.most_late)
    words = [Path(word).name if i == 0 else word for i, word in enumerate(sys.argv)]
    command = "python benchmarks/" + " ".join(words)
    found = page(watched, seconds, device, wrong, command)
    print(found)
    if given.page is not None:
        given.page.write_text(found)
    if wrong:
        print(f"--- log of the site\n{watched.log[-4000:]}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
