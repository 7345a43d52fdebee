"""What the runtime itself costs: start-up, memory, and its part of the time of a clip.

    python benchmarks/overhead_study.py VIDEO --md docs/results/overhead.md --json overhead.json

VIDEO is to be a 320x240 H.264 file, of two minutes or more where the picture's share counts: the
targets are for such. The bundles are those of `pytest benchmarks`, STAE and C3D + MIL with random
weights (perf_models.py).

    help    whole process of `vad-run --help`
    start   process start to the first score of `vad-run score`
    memory  resident memory of `vad-run watch`, read every 30 ms: median of the middle, and the peak
    path    processor time of a clip: inference alone, decoding alone, the whole of `run_source`

The passes of `path` are in turns, shuffled, behind a round that is not counted; the others follow
one another. Each number is a median with its least and largest. Processor time is that of all
threads of the process; on a machine with other work it moves less than wall time does. Each variant
of `path` must give the same scores as the first.
"""

import argparse
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from perf_models import made

from vad_runtime import Bundle
from vad_runtime.machine import library_versions, machine_facts

HOP = 16
RUN = [sys.executable, "-m", "vad_runtime"]
# Runs vad-run, and prints wall time since argv[1] and processor time when the first score is there.
FIRST = """
import sys, time
import vad_runtime.detector as detector
since = float(sys.argv.pop(1))
settle = detector.Detector._settle
def settled(self, frame, raw, status):
    if raw is not None:
        detector.Detector._settle = settle
        print("FIRST", time.time() - since, time.process_time(), flush=True)
    return settle(self, frame, raw, status)
detector.Detector._settle = settled
from vad_runtime.cli import main
main()
"""
Found = dict[str, dict[str, list[float]]]


def main() -> None:
    """Measure, print the page, write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--models", nargs="+", choices=["stae", "c3d"], default=["stae", "c3d"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--md", type=Path, help="Write the page here.")
    parser.add_argument("--json", type=Path, help="Write the raw numbers here.")
    args = parser.parse_args()
    rounds = range(args.rounds)
    found: Found = {"help": {}, "start": {}, "memory": {}, "path": {}}
    load = os.getloadavg()[0]
    for _ in rounds:
        used = child([*RUN, "--help"])
        note(found["help"], "wall s", used["wall_s"])
        note(found["help"], "CPU s", used["cpu_s"])
    for model in args.models:
        bundle = made(model, lambda line: print(line, file=sys.stderr)).bundle.path
        for _ in rounds:
            start(bundle, args.video, model, found["start"])
        for _ in rounds:
            for extra in (["--overlay"], [], ["--no-plot"]):
                memory(bundle, args.video, extra, model, found["memory"])
        # A process of its own: what was measured before must not be in its memory and caches.
        path = subprocess.run(
            [
                sys.executable,
                "-c",
                PATH,
                str(bundle),
                str(args.video.absolute()),
                str(args.rounds),
                model,
            ],
            check=True,
            stdout=subprocess.PIPE,  # a traceback of the child is to be seen
            text=True,
            cwd=Path(__file__).parent,
        )
        found["path"].update(json.loads(path.stdout))
    text = page(args, found, load)
    print(text)
    if args.md:
        args.md.write_text(text, encoding="utf-8")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


PATH = """
import json, sys
from pathlib import Path
from overhead_study import path
print(json.dumps(path(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
"""


def note(table: dict[str, list[float]], name: str, value: float) -> None:
    """Add a value to a row of a table."""
    table.setdefault(name, []).append(value)


def options(hop: int = HOP) -> list[str]:
    """Return the options that every measured run has."""
    return ["--precision", "int8", "--backend", "openvino", "--hop", str(hop)]


def child(command: list[str]) -> dict[str, Any]:
    """Run a process; return its wall time, processor time and output."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    output = process.stdout.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"{shlex.join(command)} failed:\n{output}")
    wall_s = time.perf_counter() - began
    return {"wall_s": wall_s, "cpu_s": used.ru_utime + used.ru_stime, "output": output}


def start(bundle: Path, video: Path, model: str, table: dict[str, list[float]]) -> None:
    """Measure from the start of `vad-run score` to its first score."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["score", str(bundle), str(video), "-o", f"{folder}/out", *options()]
        used = child([sys.executable, "-c", FIRST, str(time.time()), *command])
    line = next(x for x in used["output"].splitlines() if x.startswith("FIRST"))
    wall_s, cpu_s = map(float, line.split()[1:])
    note(table, f"{model}: wall s", wall_s)
    note(table, f"{model}: CPU s", cpu_s)


def memory(
    bundle: Path, video: Path, extra: list[str], model: str, table: dict[str, list[float]]
) -> None:
    """Measure the resident memory of `vad-run watch`, MB of 2**20 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*RUN, "watch", str(bundle), str(video), "-o", f"{folder}/out", *options()]
        process = subprocess.Popen([*command, *extra], stdout=subprocess.DEVNULL)
        now: list[float] = []
        peak = 0.0
        while process.poll() is None:
            try:
                text = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            if "VmRSS" in lines:  # not in a process that is ending
                now.append(int(lines["VmRSS"].split()[0]) / 1024)
                peak = max(peak, int(lines["VmHWM"].split()[0]) / 1024)
            time.sleep(0.03)
        if process.wait():
            raise SystemExit(f"{shlex.join(command)} failed")
    what = " ".join(extra) or "by default"
    middle = now[len(now) // 2 : int(len(now) * 0.85)] or now
    note(table, f"{model}, {what}: steady MB", statistics.median(middle))
    note(table, f"{model}, {what}: peak MB", peak)


def path(bundle_path: Path, video: Path, rounds: int, model: str) -> dict[str, list[float]]:
    """Measure processor time in ms a clip, and the ratios of each round."""
    import av

    from vad_runtime.backends import open_backend
    from vad_runtime.backends.base import Inputs, Options, Outputs
    from vad_runtime.runs import RunOptions, run_source
    from vad_runtime.sinks import read_rows
    from vad_runtime.sources import open_source

    bundle = Bundle.open(bundle_path)
    choice = open_backend(bundle, "openvino", Options(precision="int8"))
    clip = bundle.manifest.clip
    frames = [x.pixels.copy() for x in open_source(video, clip, pictures=False).frames()]
    whole = len(frames) // clip.frames * clip.frames
    firsts = [*range(0, whole, clip.frames), *([len(frames) - clip.frames] * (whole < len(frames)))]
    clips = [np.stack(frames[i : i + clip.frames])[None] for i in firsts]
    want: list[list[float | None]] = []

    def infer() -> None:
        for pixels in clips:
            choice.backend.infer(pixels)

    def decode() -> None:
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            assert sum(1 for _ in container.decode(stream)) == len(frames)

    def decode_and_resize() -> None:
        for _ in open_source(video, clip, pictures=False).frames():
            pass

    class Instant:
        """Answers at once: what is left of a run is decoding, resizing and Python."""

        device = "none"

        def __init__(self) -> None:
            self._answer = choice.backend.infer(clips[0])

        def infer(self, _: Inputs) -> Outputs:
            return self._answer

        def close(self) -> None:
            pass

    instant = replace(choice, backend=Instant())

    def without_inference() -> None:
        settings = RunOptions(live=False, offline=True, hop=HOP, overlay=False, plot=False)
        with tempfile.TemporaryDirectory() as folder:
            run_source(bundle, instant, video, Path(folder) / "out", settings)

    def score(*, overlay: bool, plot: bool) -> Callable[[], None]:
        settings = RunOptions(live=False, offline=True, hop=HOP, overlay=overlay, plot=plot)

        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out"
                report = run_source(bundle, choice, video, out, settings)
                want.append([row.score for row in read_rows(out / "scores.csv")])
            assert report["clips"] == len(clips), "other clips than those of inference alone"
            assert want.pop() == want[0] if len(want) > 1 else True, "other scores"

        return run

    work = {
        "inference": infer,
        "decode": decode,
        "decode and resize": decode_and_resize,
        "tables and report without inference": without_inference,
        "tables and report": score(overlay=False, plot=False),
        "and scores.png": score(overlay=False, plot=True),
        "and overlay.mp4": score(overlay=True, plot=True),
    }
    found: dict[str, list[float]] = {}
    order, shuffle = list(work), random.Random(0)
    for round_number in range(rounds + 1):
        shuffle.shuffle(order)
        took = {}
        for name in order:
            began = time.process_time()
            work[name]()
            took[name] = (time.process_time() - began) * 1e3 / len(clips)
        if round_number == 0:
            continue  # imports, caches
        for name, value in took.items():
            note(found, f"{model}: {name}, ms", value)
        alone = took["inference"] + took["decode"]
        for name in list(work)[4:]:
            note(found, f"{model}: {name} / (inference + decode)", took[name] / alone)
        rest = took["tables and report without inference"] - took["decode and resize"]
        note(found, f"{model}: Python's own, ms", rest)
    choice.backend.close()
    return found


def page(args: argparse.Namespace, found: Found, load: float) -> str:
    """Return the results as Markdown."""
    facts = machine_facts()
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    commands = {
        "help": "`vad-run --help`",
        "start": f"`vad-run score BUNDLE VIDEO -o OUT {' '.join(options())}`, to the first score",
        "memory": f"`vad-run watch BUNDLE VIDEO -o OUT {' '.join(options())}`",
        "path": "one process, by turns: the back end with the clips of the file, PyAV alone, the "
        "source alone, and `vad-run score` without its start-up; processor time a clip",
    }
    lines = [
        "# What the runtime itself costs",
        "",
        f"`python benchmarks/overhead_study.py VIDEO --models {' '.join(args.models)} "
        f"--rounds {args.rounds}`, {date.today().isoformat()}. {facts['cpu']}, "
        f"{facts['usable_threads']} threads, Python {facts['python']}; {versions}. "
        f"Load of the machine before: {load:.1f}. int8 bundles of random weights, hop {HOP}, "
        "OpenVINO. Median (least to largest).",
    ]
    for name, table in found.items():
        lines += ["", f"## {name}", "", commands[name], "", "| | |", "|---|---|"]
        for row, values in table.items():
            middle, least, most = statistics.median(values), min(values), max(values)
            lines.append(f"| {row} | {middle:.3g} ({least:.3g} to {most:.3g}) |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
