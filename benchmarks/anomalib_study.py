"""anomalib beside vad-edge: what it does with a clip, and the same graph through its inferencer.

    python benchmarks/anomalib_study.py --anomalib-python PATH --md docs/results/anomalib.md

PATH is the Python of an environment of its own, since anomalib brings half of PyTorch's world::

    python -m venv /tmp/anomalib && /tmp/anomalib/bin/pip install \
        anomalib torch torchvision openvino==VERSION onnx onnxscript pytorchvideo

with the OpenVINO of this environment: else two OpenVINOs are compared. anomalib_peer.py runs there
and answers line by line, so that both sides take turns, call by call::

    here     ours   .....   ours   .....      one process computes at a time
    there    .....  theirs  .....  theirs     each takes the time of its own calls, wall and CPU

The inferencer takes pictures. A clip goes through it as T pictures in one batch, to a graph that
turns them into the clip again; the same graph is also called without the inferencer.
"""

import argparse
import contextlib
import functools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from anomalib_page import PAGE
from anomalib_peer import F32, timed
from perf_machine import load, wall_times_count
from perf_ratios import LEAST_MOST, SURE, interval_kind, ratio

ROOT = Path(__file__).resolve().parent.parent
PAUSE_S = 0.02
GRAPHS: dict[str, tuple[str, dict[str, str]]] = {
    "int8": ("int8", {}),
    "bf16": ("fp32", {}),  # what OpenVINO takes unless it is told, where the processor has it
    "fp32": ("fp32", F32),
}
"""Of the peer: which graph, and what its inferencer is told."""
HINTS = {"bf16": "bfloat16", "fp32": "float32"}
"""What OpenVINO must say then that it computes in."""
BUSY = "The load before the run was above 1: wall times do not count."
LIMITS = {"int8": 0.15, "bf16": 0.02, "fp32": 1e-5}
"""Largest difference of a score to our fp32 / the largest score; the weights are drawn."""
OURS, THEIRS, BARE = "vad-edge", "anomalib", "the same graph, without the inferencer"


class Peer:
    """The process in anomalib's environment."""

    def __init__(self, python: Path, folder: Path) -> None:
        self._log = folder / "peer.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [str(python), str(ROOT / "benchmarks/anomalib_peer.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=folder,  # it leaves a folder `openvino_cache` wherever it stands
            )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request; return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"anomalib's side ended:\n{self._log.read_text()[-3000:]}")
        return dict(json.loads(line))

    def close(self) -> None:
        """Let it end."""
        self._process.communicate()


def adapted(source: Path, manifest: Any, file: Path) -> Path:
    """Write a bundle's graph for T pictures of 0..1 in one batch, with the score alone.

    The inferencer divides by 255, puts the channels of RGB pictures first, and leaves grey ones.
    """
    import openvino as ov
    from openvino import opset13 as ops

    model = ov.Core().read_model(str(source))
    model.reshape({manifest.input_name: [1, *manifest.input_shape]})
    clip = manifest.clip
    rgb = clip.channels == 3
    size = [clip.height, clip.width]
    shape = [clip.frames, 3, *size] if rgb else [clip.frames, *size, 1]
    pictures = ops.parameter(shape, np.float32, name="input")
    pictures.output(0).set_names({"input"})
    values = ops.transpose(pictures, [0, 2, 3, 1]) if rgb else pictures
    values = ops.unsqueeze(ops.multiply(values, np.float32(255)), np.int64(0))
    consumers = list(model.get_parameters()[0].output(0).get_target_inputs())
    for one in consumers:
        cast = one.get_node()
        assert cast.get_type_name() == "Convert", f"{source.name} begins with {cast}"
        for target in cast.output(0).get_target_inputs():
            target.replace_source_output(values.output(0))
    port = next(x for x in model.outputs if "score" in x.get_names())
    scores = port.get_node().input_value(0)
    scores.set_names({"pred_score"})
    ov.save_model(ov.Model([ops.result(scores)], [pictures]), str(file), compress_to_fp16=False)
    return file


class Answered:
    """Stands where OpenVINO's request was, and answers at once with what the last clip gave."""

    def __init__(self, request: Any, count: int) -> None:
        tensors = [request.get_output_tensor(i) for i in range(count)]
        self.get_output_tensor = tensors.__getitem__

    def set_input_tensor(self, tensor: Any) -> None:
        """Take the clip."""

    def infer(self) -> None:
        """Compute nothing."""


def compared(one: Any, theirs: Peer, folder: Path, rounds: int, say: Callable[[str], None]) -> Any:
    """Return the times of one model, a list of wall and of CPU times for each way."""
    from vad_runtime.backends import open_backend
    from vad_runtime.backends.base import Options
    from vad_runtime.backends.checks import usable_threads

    manifest, clips = one.bundle.manifest, one.clips()
    assert one.nncf is not None, "nncf was not installed when the bundle was made"
    sources = {"int8": one.nncf, "fp32": one.bundle.file(manifest.artefacts["fp32"])}
    files = {
        name: adapted(file, manifest, folder / f"{one.key}.{name}.xml")
        for name, file in sources.items()
    }
    np.save(folder / "clips.npy", clips)
    graphs = {name: [str(files[kind]), config] for name, (kind, config) in GRAPHS.items()}
    told = theirs.ask("load", clips=str(folder / "clips.npy"), graphs=graphs)
    threads = usable_threads()
    for name, properties in told.items():
        say(f"anomalib, {one.key} {name}: {properties}")
        assert properties["INFERENCE_NUM_THREADS"] == str(threads), properties
        assert HINTS.get(name, "") in properties["INFERENCE_PRECISION_HINT"], (name, properties)
    backends: dict[str, Any] = {
        name: open_backend(one.bundle, "openvino", Options(precision=name, threads=threads)).backend
        for name in ("int8", "bf16", "fp32")
    }

    def ours(name: str, clip: int) -> dict[str, Any]:
        return timed(lambda: backends[name].infer(clips[clip : clip + 1])["score"])

    ways: dict[tuple[str, str], Callable[[int], dict[str, Any]]] = {}
    for name in GRAPHS:
        ways[OURS, name] = lambda clip, n=name: ours(n, clip)
        for way, bare in ((THEIRS, False), (BARE, True)):
            ways[way, name] = lambda clip, n=name, b=bare: theirs.ask(
                "call", graph=n, clip=clip, bare=b
            )
    want = [np.array(ours("fp32", clip)["score"]) for clip in range(len(clips))]
    times: dict[tuple[str, str], list[tuple[float, float]]] = {way: [] for way in ways}
    gaps = dict.fromkeys(ways, 0.0)
    order, shuffle = list(ways), random.Random(0)
    for turn in range(-2, rounds):
        shuffle.shuffle(order)
        clip = turn % len(clips)
        for way in order:
            time.sleep(PAUSE_S)
            found = ways[way](clip)
            gap = np.abs(np.array(found["score"]) - want[clip]).max() / np.abs(want[clip]).max()
            assert gap <= LIMITS[way[1]], (one.key, way, gap)
            gaps[way] = max(gaps[way], float(gap))
            if turn >= 0:
                times[way].append((found["wall_ms"], found["cpu_ms"]))
    count = 20
    alone: dict[str, list[float]] = {THEIRS: [], OURS: []}
    backend = backends["fp32"]
    backend._request = Answered(backend._request, len(backend._names))
    for _ in range(rounds):
        found = theirs.ask("own", graph="fp32", count=count)
        alone[THEIRS].append(found["cpu_ms"] / count)
        found = timed(lambda: [backend.infer(clips[:1])["score"] for _ in range(count)][-1])
        alone[OURS].append(found["cpu_ms"] / count)
    for one_backend in backends.values():
        one_backend.close()
    return {"times": times, "gaps": gaps, "own": alone, "name": one.model.name, "told": told}


def table(found: Any, busy: list[str]) -> list[str]:
    """Return a model's table and the lines below it."""
    lines = [
        f"## {found['name']}",
        "",
        "| | precision | wall ms | CPU ms | wall / ours | CPU / ours | difference |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name in GRAPHS:
        ours = np.array(found["times"][OURS, name])
        for way in (OURS, THEIRS, BARE):
            mine = np.array(found["times"][way, name])
            wall, cpu = np.median(mine, axis=0)
            ratios = ["1" if way == OURS else str(ratio(mine[:, i], ours[:, i])) for i in range(2)]
            gap = found["gaps"][way, name]
            lines.append(
                f"| {way} | {name} | {wall:.1f} | {cpu:.1f} | {' | '.join(ratios)} | {gap:.1e} |"
            )
    sure = interval_kind(len(found["own"][OURS])) == SURE
    shares = [50, 10, 90] if sure else [50, 0, 100]
    own = {name: np.percentile(values, shares) for name, values in found["own"].items()}
    texts = {name: f"{m:.3f} ({low:.3f} to {high:.3f})" for name, (m, low, high) in own.items()}
    return [
        *lines,
        "",
        *busy,
        f"Around a model that answers at once, CPU ms a clip "
        f"({'10 to 90 %' if sure else LEAST_MOST}): anomalib's inferencer "
        f"{texts[THEIRS]}, vad-edge's back end {texts[OURS]}.",
        "",
    ]


FIRST_OURS = """
import sys
import numpy as np
from vad_runtime import Bundle
from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Options
backend = open_backend(Bundle.open(sys.argv[1]), "openvino", Options(precision="fp32")).backend
backend.infer(np.load(sys.argv[2])[:1])
"""
FIRST_THEIRS = """
import sys
sys.path.insert(0, sys.argv[3])
import numpy as np
from anomalib_peer import F32, inferencer_of
one = inferencer_of(sys.argv[1], F32)
one.predict(np.load(sys.argv[2])[0])
"""
PEAK = "\nprint(next(x for x in open('/proc/self/status') if x.startswith('VmHWM')).split()[1])\n"


def needs(one: Any, python: Path, folder: Path, count: int) -> list[str]:
    """Return the rows of what each side needs for its first score."""
    commands = {
        OURS: [sys.executable, "-c", FIRST_OURS + PEAK, str(one.bundle.path)],
        THEIRS: [str(python), "-c", FIRST_THEIRS + PEAK, str(folder / f"{one.key}.fp32.xml")],
    }
    seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for turn in range(count + 1):  # the first fills the system's cache
        for name, command in commands.items():
            before, began = os.times(), time.perf_counter()
            done = subprocess.run(
                [*command, str(folder / "clips.npy"), str(Path(__file__).resolve().parent)],
                cwd=folder,
                capture_output=True,
                text=True,
            )
            wall_s, after = time.perf_counter() - began, os.times()
            assert done.returncode == 0, done.stderr
            cpu_s = sum(after[2:4]) - sum(before[2:4])
            if turn:
                seen[name].append((wall_s, cpu_s, int(done.stdout.split()[-1]) * 1024 / 1e6))
    return [
        f"| {name} | {wall:.1f} | {cpu:.1f} | {memory:.0f} |"
        for name, values in seen.items()
        for wall, cpu, memory in [np.median(values, axis=0)]
    ]


def main() -> None:
    """Measure, print the page, write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--anomalib-python", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["c3d", "stae"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--md", type=Path)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from perf_models import made

    from vad_runtime.backends.checks import usable_threads
    from vad_runtime.machine import library_versions, machine_facts

    load_before = load()
    busy = [] if wall_times_count(load_before) else [BUSY, ""]
    say = functools.partial(print, file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        theirs = Peer(args.anomalib_python, folder)
        versions = theirs.ask("facts")
        mine = library_versions()
        wanted = mine["openvino"]
        if versions["openvino"] != wanted:
            raise SystemExit(f"anomalib's side has another OpenVINO. Install {wanted} there.")
        tried = theirs.ask("fuvas", threads=usable_threads(), folder=str(folder))
        say(f"FUVAS: {tried}")
        for way in ("export", "predict"):
            if tried[way].startswith("gave "):
                raise SystemExit(f"FUVAS's {way} works: {tried[way]}. The page says it does not.")
        tables = []
        models = [made(key, say) for key in args.models]
        for one in models:
            tables += table(compared(one, theirs, folder, args.rounds, say), busy)
        theirs.close()
        rows = needs(models[-1], args.anomalib_python, folder, args.starts)
    machine = machine_facts()
    text = PAGE.format(
        day=date.today().isoformat(),
        models=" ".join(args.models),
        rounds=args.rounds,
        starts=args.starts,
        machine=f"{machine['cpu']}, {usable_threads()} threads, Python {machine['python']}, "
        + ", ".join(f"{key} {value}" for key, value in mine.items()),
        theirs=", ".join(f"{key} {value}" for key, value in versions.items()),
        load=load_before,
        busy="".join(f"\n{line}\n" for line in busy[:1]),
        kind=interval_kind(args.rounds),
        version=versions["anomalib"],
        export=tried["export"],
        predict=tried["predict"],
        fuvas=f"{tried['wall_ms']:.0f} ms of wall time and {tried['cpu_ms']:.0f} of CPU time",
        tables="\n".join(tables),
        first=models[-1].model.name,
        needs="\n".join(rows),
    )
    if args.md:
        args.md.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
