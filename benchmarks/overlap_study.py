"""What decoding ahead, engine settings, prepared buffers and a shared first layer gain a run.

    python benchmarks/overlap_study.py FOOTAGE --md docs/results/overlap.md --json overlap.json

FOOTAGE is any real film; its first frames are encoded anew as the two films measured. Five parts,
each of which answers one question:

    overlap   decoding ahead in a thread, against decoding between two clips; decoder's threads
    settings  of OpenVINO and ONNX Runtime, while the decoder works beside them
    crowd     two processes of one thread each, as two `vad-run watch` on one machine
    handover  what a clip costs on its way into the engine and back
    layer     share of R(2+1)D's first convolution, which overlapping windows could share

Variants take turns in an order drawn anew each round; ratios are taken within a round. A variant
must give the scores of the first. Engines are asked for one clip at a time, as `vad-run` does.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from frame_path_study import write_film
from overlap_engines import first_layer, onnxruntime, openvino, pinned, pixel_graph
from overlap_page import HEADS, PIN_NOTE, Cells, page
from perf_machine import load
from perf_models import made
from perf_ratios import SURE, interval_kind, ratio, rounds

from vad_runtime.backends.base import Backend, Options
from vad_runtime.backends.onnxruntime import OnnxRuntimeBackend
from vad_runtime.backends.openvino import OpenVinoBackend, _writable
from vad_runtime.bundle import Bundle
from vad_runtime.detector import Detector
from vad_runtime.sources import open_source
from vad_runtime.sources.prefetch import Prefetch

ROOT = Path(__file__).resolve().parent.parent
FILMS = {"1080p": (1920, 1080, 64), "320x240": (320, 240, 160)}
MODELS = ("c3d", "stae")
DECODERS = {"1": 1, "2": 2, "auto": 0}
PIN, PARTITION = "ENABLE_CPU_PINNING", "TBB_PARTITIONER"
OPENVINO: dict[str, dict[str, Any]] = {
    "pinned": {PIN: True},  # its default on Linux
    "not pinned": {PIN: False},  # as the back end has it
    "pinned, partitioner auto": {PIN: True, PARTITION: "AUTO"},
    "not pinned, partitioner auto": {PIN: False, PARTITION: "AUTO"},
    "pinned, two streams": {PIN: True, "NUM_STREAMS": 2},
    "pinned, 1 thread": {PIN: True, "INFERENCE_NUM_THREADS": 1},
}
"""`SCHEDULING_CORE_TYPE` and `ENABLE_HYPER_THREADING` choose among cores that differ, or that have
two threads; where the machine has neither they change nothing, so they are not here."""
ORT: dict[str, dict[str, str]] = {
    "as it is": {},
    "spinning": {"session.intra_op.allow_spinning": "1"},
    "pinned": {"session.intra_op_thread_affinities": "2"},
}
"""ONNX Runtime takes affinities for all threads but the caller's; its processors count from 1."""
PINNED = dict.fromkeys(HEADS, "not pinned") | dict.fromkeys(("settings", "crowd"), "as rows say")
"""Of OpenVINO in each part."""


class Runs:
    """Whole runs over one film, whose scores must all be the same."""

    def __init__(self, bundle: Bundle, film: Path) -> None:
        self._bundle, self._film = bundle, film
        self._want: list[float | None] | None = None
        self.clips = 0

    def run(self, backend: Backend, *, decoder: str, ahead: bool) -> None:
        """Score the film."""
        manifest = self._bundle.manifest
        source: Any = open_source(self._film, manifest.clip, pictures=False)
        source._stream.codec_context.thread_count = DECODERS[decoder]
        frames = Prefetch(source) if ahead else source.frames()
        detector = Detector(manifest, backend, hop=manifest.clip.frames)
        found = [one.raw for one in detector.run(frames, nominal_fps=source.info.fps)]
        self.clips = detector.counters.clips
        self._want = self._want or found
        assert found == self._want, "other scores than the first run's"


def compared(calls: dict[str, Callable[[], None]], count: int, runs: Runs) -> Cells:
    """Time runs in rounds; return their names, wall and CPU ms a clip, and ratios to the first."""
    held = rounds(calls, count=count, warm_up=1, least=3, max_s=90.0)
    first = next(iter(held.values()))
    rows: Cells = []
    for name, times in held.items():
        wall, cpu = (np.median(one) / runs.clips for one in (times.wall_ms, times.cpu_ms))
        ratios = ["1", "1"]
        if times is not first:
            ratios = [ratio(times.wall_ms, first.wall_ms).told()]
            ratios.append(ratio(times.cpu_ms, first.cpu_ms).told())
        rows.append([*name.split(" | "), f"{wall:.1f}", f"{cpu:.1f}", *ratios])
        say(rows[-1])
    return rows


# -- the parts ---------------------------------------------------------------------------------


def overlap(films: dict[str, Path], args: argparse.Namespace) -> Cells:
    """Measure runs with and without decoding ahead, by threads of the decoder and the engine."""
    ways = [(2, "auto"), (2, "1"), (2, "2"), (1, "auto")]
    rows: Cells = []
    for key in args.models:
        bundle = made(key).bundle
        engines = {threads: openvino(bundle, {}, threads) for threads in (2, 1)}
        assert not any(map(pinned, engines.values()))
        for film, path in films.items():
            runs = Runs(bundle, path)
            calls = {
                f"{key}, {film} | {threads} | {decoder} | {'yes' if ahead else 'no'}": partial(
                    runs.run, engines[threads], decoder=decoder, ahead=ahead
                )
                for threads, decoder in ways
                for ahead in (False, True)
            }
            rows += compared(calls, args.rounds, runs)
        for engine in engines.values():
            engine.close()
    return rows


def settings(films: dict[str, Path], args: argparse.Namespace) -> Cells:
    """Measure whole runs, which decode ahead, with other settings of the engines."""
    rows: Cells = []
    for key in args.models:
        bundle = made(key).bundle
        groups: dict[str, dict[str, Backend]] = {
            "OpenVINO": {name: openvino(bundle, more, 2) for name, more in OPENVINO.items()},
            "ONNX Runtime": {name: onnxruntime(bundle, more, 2) for name, more in ORT.items()},
        }
        for title, engines in groups.items():
            for film, path in films.items():
                runs = Runs(bundle, path)
                calls = {
                    f"{key}, {film} | {title} | {name}": partial(
                        runs.run, engine, decoder="auto", ahead=True
                    )
                    for name, engine in engines.items()
                }
                rows += compared(calls, args.rounds, runs)
            for engine in engines.values():
                engine.close()
    return rows


CROWD = """
import sys, time
sys.path.insert(0, "benchmarks")
import numpy as np
from overlap_engines import openvino
from vad_runtime.bundle import Bundle
bundle = Bundle.open(sys.argv[1], verify=False)
engine = openvino(bundle, {"ENABLE_CPU_PINNING": sys.argv[2] == "pinned"}, 1)
count = int(sys.argv[3])
clip = np.random.default_rng(0).integers(0, 256, (1, *bundle.manifest.input_shape), np.uint8)
for _ in range(3):
    engine.infer(clip)
print("ready", flush=True)
sys.stdin.readline()
began = time.perf_counter()
for _ in range(count):
    engine.infer(clip)
print((time.perf_counter() - began) * 1e3 / count, flush=True)
"""


def crowd(args: argparse.Namespace) -> Cells:
    """Measure two processes at once, one engine thread each, pinned and not."""
    rows: Cells = []
    for key in args.models:
        bundle = made(key).bundle
        walls: dict[str, list[float]] = {"pinned": [], "not": []}
        for turn in range(args.rounds):
            for way in ("pinned", "not") if turn % 2 else ("not", "pinned"):
                walls[way].append(_two_at_once(bundle.path, way, 15))
        first = np.array(walls["pinned"])
        for way, values in walls.items():
            text = ratio(np.array(values), first).told() if way == "not" else "1"
            rows.append([key, way, f"{np.median(values):.1f}", text])
            say(rows[-1])
    return rows


def _two_at_once(bundle: Path, way: str, clips: int) -> float:
    """Return the mean wall time of a clip in two processes that start together, ms."""
    command = [sys.executable, "-c", CROWD, str(bundle), way, str(clips)]
    both = [
        subprocess.Popen(
            command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for one in both:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in both:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    return float(np.mean([float(one.communicate()[0]) for one in both]))


def handover(count: int) -> Cells:
    """Measure calls whose graph looks at one pixel: what is left is the way in and back."""
    import openvino as ov

    rows: Cells = []
    for key in MODELS:
        one = made(key)
        manifest = one.bundle.manifest
        clip = one.clips()[:1]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pixel.onnx"
            pixel_graph(file, manifest)
            plan = Options(precision="fp32", threads=2)
            ours: Any = OpenVinoBackend(file, manifest, plan)
            other: Any = OnnxRuntimeBackend(file, manifest, plan)
        assert not pinned(ours)
        request, session = ours._request, other._session
        kept = ov.Tensor(_writable(clip), shared_memory=True)
        own = ov.Tensor(np.empty_like(clip))  # OpenVINO's memory: a clip is copied into it
        binding = session.io_binding()
        binding.bind_cpu_input(manifest.input_name, clip)
        for output in session.get_outputs():
            binding.bind_output(output.name)

        def bound(r: Any = request, t: Any = kept) -> None:
            r.set_input_tensor(t)
            r.infer()

        def copied(r: Any = request, t: Any = own, c: Any = clip) -> None:
            t.data[:] = c
            r.set_input_tensor(t)
            r.infer()

        want = ours.infer(clip)["score"]
        assert np.array_equal(other.infer(clip)["score"], want)
        calls: dict[str, Callable[[], object]] = {
            "OpenVINO | `infer` of the back end": lambda o=ours, c=clip: o.infer(c),
            "OpenVINO | buffers bound before, no answer read": bound,
            "OpenVINO | clip copied in, no answer read": copied,
            "ONNX Runtime | `infer` of the back end": lambda o=other, c=clip: o.infer(c),
            "ONNX Runtime | buffers bound before, no answer read": (
                lambda s=session, b=binding: s.run_with_iobinding(b)
            ),
        }
        many = {name: _often(call, 300) for name, call in calls.items()}
        held = rounds(many, count=count * 2, warm_up=1, max_s=60.0)
        for name, times in held.items():
            per_call = times.cpu_ms / 300 * 1e3
            kind = interval_kind(len(per_call))
            low, high = np.percentile(per_call, [10, 90] if kind == SURE else [0, 100])
            spread = f"{low:.0f} to {high:.0f}, {'10 to 90 %' if kind == SURE else kind}"
            spread = f"{np.median(per_call):.0f} ({spread})"
            rows.append([key, *name.split(" | "), spread])
            say(rows[-1])
    return rows


def _often(call: Callable[[], object], count: int) -> Callable[[], None]:
    def all_of_them() -> None:
        for _ in range(count):
            call()

    return all_of_them


def layer(args: argparse.Namespace) -> Cells:
    """Measure R(2+1)D's clip, and a graph that ends behind its first layer; one thread each."""
    one = made("r2plus1d_18")
    engine = openvino(one.bundle, {}, 1)
    assert not pinned(engine)
    clip = one.clips()[:1]
    part = first_layer(one.bundle, 1)
    calls: dict[str, Callable[[], object]] = {
        "whole clip": lambda: engine.infer(clip),
        "up to its first convolution": lambda: part(clip),
    }
    held = rounds(calls, count=args.rounds * 2, warm_up=2, max_s=60.0)
    engine.close()
    rows: Cells = [[name, f"{np.median(x.cpu_ms):.1f} ms of CPU time"] for name, x in held.items()]
    whole, first = (times.cpu_ms for times in held.values())
    share = ratio(first, whole)
    kind = "" if share.kind == SURE else f", {share.kind}"
    for hop in (8, 4):
        less = [f"{100 * x * (1 - hop / 16):.1f}" for x in (share.value, share.low, share.high)]
        rows.append([f"saved at hop {hop}, at most", f"{less[0]} % ({less[1]} to {less[2]}{kind})"])
    for row in rows:
        say(row)
    return rows


def say(row: list[str]) -> None:
    """Show how far it is."""
    print(" | ".join(row), file=sys.stderr, flush=True)


def main() -> None:
    """Measure the parts asked for, print the page, write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("footage", type=Path)
    parser.add_argument(
        "--parts", nargs="*", choices=list(HEADS), default=list(HEADS), help="None: the page alone."
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--films", nargs="+", choices=list(FILMS), default=list(FILMS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--md", type=Path, help="Write the page here.")
    parser.add_argument("--json", type=Path, help="Keep tables here; parts not asked for stay.")
    args = parser.parse_args()
    began = time.perf_counter()
    found: dict[str, Cells] = {}
    conditions: dict[str, str] = {}
    if args.json and args.json.exists():
        kept = json.loads(args.json.read_text())
        found, conditions = kept["tables"], kept["conditions"]
    with tempfile.TemporaryDirectory() as folder:
        films = {name: Path(folder) / f"{name}.mp4" for name in args.films}
        for name, path in films.items():
            write_film(path, args.footage, FILMS[name], "libx264")
        parts: dict[str, Callable[[], Cells]] = {
            "overlap": lambda: overlap(films, args),
            "settings": lambda: settings(films, args),
            "crowd": lambda: crowd(args),
            "handover": lambda: handover(args.rounds),
            "layer": lambda: layer(args),
        }
        for name in args.parts:
            before = load()
            found[name] = parts[name]()
            conditions[name] = f"{date.today()}, up to {args.rounds} rounds; before: {before}; "
            conditions[name] += f"{PIN_NOTE}{PINNED[name]}"
            if args.json:
                kept = {"tables": found, "conditions": conditions}
                args.json.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    found = {name: found[name] for name in HEADS if name in found}
    text = page(found, conditions, MODELS, list(FILMS))
    print(text)
    print(f"took {time.perf_counter() - began:.0f} s", file=sys.stderr)
    if args.md:
        args.md.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
