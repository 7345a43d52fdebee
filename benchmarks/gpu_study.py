"""What runs on this machine's NVIDIA GPU, how near to the CPU and how fast: docs/results/gpu.md.

    python benchmarks/gpu_study.py -o docs/results/gpu.md
    python benchmarks/gpu_study.py --bundle c3d=c3d.vad --bundle stae=stae.vad

Without `--bundle` the graphs are exported here with random weights, which needs the extra `export`;
times do not depend on weights. What is not installed, or does not run, gets a row with its reason.
Without a GPU every row says "not measured".

Each row of a GPU is opened and run in a process of its own first, so that one that crashes or hangs
takes no other with it; the row of PyTorch alone is not. `--minutes` bounds the whole, and the file
of `-o` is written after each part.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from vad_export.timing import Times, interleaved
from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Inputs, Options, Outputs
from vad_runtime.backends.checks import first_line
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import BackendError
from vad_runtime.contracts.engine import PlanFamily
from vad_runtime.contracts.manifest import Precision
from vad_runtime.cuda import open_cuda
from vad_runtime.cuda.driver import gpu_of
from vad_runtime.cuda.graphs import GraphCache
from vad_runtime.machine import library_versions, machine_facts

MODELS = {"c3d": "C3D + MIL", "stae": "STAE"}
REFERENCE = "ONNX Runtime on the CPU, fp32"
CLIPS = 4
COPY_BYTES = 64 << 20
RTX, CLASSIC = get_args(PlanFamily)[::-1]

# Row: back end, precision, family of the plan that is built for it.
ROWS: dict[str, tuple[str, Precision, str | None]] = {
    REFERENCE: ("onnxruntime", "fp32", None),
    "ONNX Runtime CUDA, fp32": ("onnxruntime-cuda", "fp32", None),
    "ONNX Runtime CUDA, fp16": ("onnxruntime-cuda", "fp16", None),
    "ONNX Runtime TensorRT, fp32": ("onnxruntime-tensorrt", "fp32", None),
    "ONNX Runtime TensorRT, fp16": ("onnxruntime-tensorrt", "fp16", None),
    "ONNX Runtime TensorRT, int8": ("onnxruntime-tensorrt", "int8", None),
    **{
        f"{name}, {precision}": ("tensorrt", precision, family)
        for name, family in (("TensorRT", CLASSIC), ("TensorRT-RTX", RTX))
        for precision in ("fp32", "fp16", "int8", "mixed")
    },
}
TORCH = "PyTorch eager on the GPU, fp32"

TIMING_S = 60.0
"""Kept for the timing of a model: no row is begun in the last of its time."""

LEAST_S = 10.0
"""What a part may take though the time is over."""


def parsed() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", action="append", default=[], metavar="MODEL=BUNDLE")
    parser.add_argument("--device", default="cuda", help="[default: %(default)s]")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument(
        "--minutes", type=float, default=7.0, help="For all of it.  [default: %(default)s]"
    )
    parser.add_argument("-o", "--out", type=Path, help="[default: standard output]")
    parser.add_argument("--probe", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--probe-cuda", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure what can be measured and write the page."""
    args = parsed()
    if args.probe:
        run_once(args.device, *args.probe)
        return
    if args.probe_cuda:
        print(json.dumps(cuda_rows(args.device)))
        return
    end = time.perf_counter() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VAD_CACHE"] = str(Path(folder) / "cache")  # so that a first start is one
        try:
            gpu_of(args.device)
            why = ""
        except BackendError as error:
            why = str(error)
        cuda = dict.fromkeys(CUDA_ROWS, "not measured") if why else cuda_found(args.device)
        models: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in MODELS}
        for place, name in enumerate(MODELS):
            if why:
                break
            save(args, page(args, why, cuda, models))
            share = (end - time.perf_counter()) / (len(MODELS) - place)
            models[name] = model_rows(args, name, Path(folder), time.perf_counter() + share)
    text = page(args, why, cuda, models)
    save(args, text)
    if args.out is None:
        print(text)


def save(args: argparse.Namespace, text: str) -> None:
    """Write what there is so far, if there is a file for it."""
    if args.out is not None:
        args.out.write_text(f"{text}\n", encoding="utf-8")


# -- vad_runtime.cuda --------------------------------------------------------------------------

CUDA_ROWS = (
    "package",
    "a pinned copy there and back",
    "to the GPU, from pinned memory",
    "from the GPU, to pinned memory",
    "a copy as a CUDA graph",
    "memory on the GPU that is left over",
)


def cuda_found(device: str) -> dict[str, str]:
    """Return `cuda_rows` of a process of its own."""
    command = [__file__, "--device", device, "--probe-cuda"]
    try:
        _, said = run_alone("did not run", command, time.perf_counter() + TIMING_S)
        found: dict[str, str] = json.loads(said)
    except (BackendError, ValueError) as error:
        return {"failed": first_line(error)}
    return found


def cuda_rows(device: str) -> dict[str, str]:
    """Return what the CUDA module did, by row; a failure stands in its row and ends it."""
    rows: dict[str, str] = {}
    try:
        with ExitStack() as stack:
            gpu = gpu_of(device)
            cuda = open_cuda(gpu)
            stack.callback(cuda.close)
            rows["package"] = cuda.name
            before = cuda.free_memory()[0]
            here, back = cuda.pinned(COPY_BYTES), cuda.pinned(COPY_BYTES)
            address, stream = cuda.allocate(COPY_BYTES), cuda.stream()
            here[:] = np.random.default_rng(0).integers(0, 256, COPY_BYTES, dtype=np.uint8)

            def there() -> None:
                cuda.copy_in(address, here, stream)

            def again() -> None:
                cuda.copy_out(back, address, stream)

            def both() -> None:
                there()
                again()

            both()
            cuda.synchronise(stream)
            same = np.array_equal(here, back)
            rows[CUDA_ROWS[1]] = f"{COPY_BYTES >> 20} MiB, {'equal' if same else 'NOT EQUAL'}"
            for row, copy in zip(CUDA_ROWS[2:4], (there, again), strict=True):
                seconds = median_s(copy, lambda: cuda.synchronise(stream))
                rows[row] = f"{COPY_BYTES / seconds / 1e9:.1f} GB/s"
            graphs = GraphCache(cuda, stream)
            stack.callback(graphs.close)
            back[:] = 0
            for turn in range(3):  # direct, captured, replayed: with new content each
                here[: 1 << 20] = turn
                graphs.run("copies", both)
                cuda.synchronise(stream)
            fits = graphs.fallback or ("equal" if np.array_equal(here, back) else "NOT EQUAL")
            rows[CUDA_ROWS[4]] = fits
            cuda.free(address)
            left = cuda.free_memory()[0]
            rows[CUDA_ROWS[5]] = f"{(before - left) / 1e6:+.0f} MB against the start"
    except Exception as error:  # whatever it is, the models go on
        rows["failed"] = first_line(error)
    return rows


def median_s(call: Callable[[], None], wait: Callable[[], None]) -> float:
    """Return the median time of a call and the wait for it, seconds."""
    took = []
    for _ in range(20):
        start = time.perf_counter()
        call()
        wait()
        took.append(time.perf_counter() - start)
    return float(np.median(took))


# -- models ------------------------------------------------------------------------------------


def model_rows(
    args: argparse.Namespace, model: str, folder: Path, until: float
) -> dict[str, dict[str, Any]]:
    """Return what was found for each row of a model: `failed`, or times and differences.

    Args:
        args: The command line.
        model: A key of `MODELS`.
        folder: For what is made on the way.
        until: When it shall be done, as `time.perf_counter` counts.
    """
    given = dict(item.partition("=")[::2] for item in args.bundle)
    rows: dict[str, dict[str, Any]] = {}
    wanted: dict[str, Callable[[], Opened]] = {TORCH: lambda: torch_baseline(model, args.device)}
    try:
        bundle = Bundle.open(Path(given[model]) if model in given else made(model, folder))
        shape = bundle.manifest.input_shape
        wanted |= openers(args, bundle, folder / f"{model}.plans", until)
    except Exception as error:  # PyTorch needs no bundle
        rows = {name: {"failed": first_line(error)} for name in ROWS}
        shape = shape_of(model)
    clips = clips_of(shape)
    with ExitStack() as stack:
        calls: dict[str, Callable[[int], None]] = {}
        for name, opened in wanted.items():
            say(f"{model}: {name}")
            try:
                if time.perf_counter() > until - TIMING_S:
                    raise BackendError("no time was left for it: give more --minutes")
                call, close, device, took = opened()
                stack.callback(close)
                rows[name] = {**took, "score": call(clips)["score"], "device": device}
                calls[name] = guarded(rows[name], call, clips)
            except Exception as error:  # whatever an engine does, the others go on
                rows[name] = {"failed": first_line(error)}
        left = max(until - time.perf_counter(), LEAST_S)
        timed = interleaved(calls, rounds=args.rounds, max_s=min(left, TIMING_S))
        for name, times in timed.items():
            if "failed" not in rows[name]:
                rows[name]["times"] = times
    return rows


def guarded(
    row: dict[str, Any], call: Callable[[Inputs], Outputs], clips: Inputs
) -> Callable[[int], None]:
    """Return what runs one clip a turn; after a failure it notes it and runs nothing more."""

    def run(turn: int) -> None:
        if "failed" in row:
            return
        try:
            call(clips[turn % CLIPS :][:1])
        except Exception as error:  # as above
            row["failed"] = first_line(error)

    return run


def shape_of(model: str) -> tuple[int, ...]:
    """Return the shape of a model's clip where there is no bundle to ask."""
    from precision_parts import graph_of

    shape: tuple[int, ...] = graph_of(model, None).manifest().input_shape
    return shape


def made(model: str, folder: Path) -> Path:
    """Export a model with random weights in every precision; return its bundle."""
    from engine_study import prepare

    say(f"{model}: exporting")
    work = folder / model
    work.mkdir()
    prepare(model, work)
    return work / "model.vad"


def clips_of(shape: tuple[int, ...]) -> Inputs:
    """Return clips of seeded noise of different strength, shape (CLIPS, T, H, W, C), uint8."""
    rng = np.random.default_rng(0)
    top = np.linspace(32, 255, CLIPS).astype(int).reshape(CLIPS, 1, 1, 1, 1)
    return rng.integers(0, top + 1, (CLIPS, *shape)).astype(np.uint8)


Opened = tuple[Callable[[Inputs], Outputs], Callable[[], None], str, dict[str, float]]
"""Call, close, device, and seconds: `open_s`, and `built_s` where something was built."""


def openers(
    args: argparse.Namespace, bundle: Bundle, plans: Path, until: float
) -> dict[str, Callable[[], Opened]]:
    """Return what opens each row."""

    def opened(backend: str, precision: Precision, family: str | None) -> Opened:
        took: dict[str, float] = {}
        engine = None
        if family is not None:
            engine = plans / f"{family}-{precision}"
            took["built_s"] = build(bundle, precision, family, engine, until)
        device = "cpu" if backend == "onnxruntime" else args.device
        if device != "cpu":
            first_s = probe(bundle, backend, precision, engine, device, until)
            if backend == "onnxruntime-tensorrt":
                took["built_s"] = first_s
        start = time.perf_counter()
        options = Options(precision=precision, device=device, engine=engine)
        found = open_backend(bundle, backend, options).backend
        took["open_s"] = time.perf_counter() - start
        return found.infer, found.close, found.device, took

    return {name: partial(opened, *row) for name, row in ROWS.items()}


def build(bundle: Bundle, precision: Precision, family: str, folder: Path, until: float) -> float:
    """Build a plan in a process of its own; return how long it took, seconds.

    Raises:
        BackendError: It was not built.
    """
    command = ["-m", "vad_export", "build-engine", str(bundle.path)]
    command += ["--precision", precision, "--flavour", family, "-o", str(folder)]
    return run_alone("not built", command, until)[0]


def probe(
    bundle: Bundle,
    backend: str,
    precision: Precision,
    engine: Path | None,
    device: str,
    until: float,
) -> float:
    """Open a row and run it once in a process of its own; return how long that took, seconds.

    Raises:
        BackendError: It did not run.
    """
    command = [__file__, "--device", device, "--probe", str(bundle.path), backend, precision]
    return run_alone("does not run", [*command, str(engine or "")], until)[0]


def run_once(device: str, bundle: str, backend: str, precision: Precision, engine: str) -> None:
    """Do what `probe` asks for; the process ends with the failure's one line."""
    opened = Bundle.open(bundle)
    options = Options(precision=precision, device=device, engine=Path(engine) if engine else None)
    try:
        found = open_backend(opened, backend, options).backend
        found.infer(clips_of(opened.manifest.input_shape)[:1])
        found.close()
    except Exception as error:  # as a row would
        sys.exit(first_line(error))


def run_alone(what: str, arguments: list[str], until: float) -> tuple[float, str]:
    """Run Python in a process of its own; return how long it took, seconds, and what it printed.

    Raises:
        BackendError: It failed, crashed or took too long: `what`, and why.
    """
    start = time.perf_counter()
    limit_s = max(until - start, LEAST_S)
    try:
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, timeout=limit_s
        )
    except subprocess.TimeoutExpired:
        raise BackendError(f"{what}: it had not ended after {limit_s:.0f} s") from None
    if done.returncode < 0:
        raise BackendError(f"{what}: ended by {signal.Signals(-done.returncode).name}")
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BackendError(f"{what}: {said[-1].removeprefix('Error: ')}")
    return time.perf_counter() - start, done.stdout


def torch_baseline(model: str, device: str) -> Opened:
    """Return the model in PyTorch on the GPU, with random weights: only its time means something.

    Raises:
        BackendError: PyTorch finds no GPU.
    """
    start = time.perf_counter()
    import torch
    from precision_parts import graph_of

    if not torch.cuda.is_available():
        raise BackendError(f"PyTorch {torch.__version__} finds no GPU")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    module = graph_of(model, None).module.eval().to(device)

    def infer(clips: Inputs) -> Outputs:
        with torch.inference_mode():
            answer = module(torch.from_numpy(np.ascontiguousarray(clips)).to(device))
            first = answer[0] if isinstance(answer, tuple | list) else answer
            return {"score": first.float().cpu().numpy()}

    name = torch.cuda.get_device_name(torch.device(device))
    took = {"open_s": time.perf_counter() - start}
    return infer, torch.cuda.empty_cache, f"PyTorch {torch.__version__} on {name}", took


# -- the page ----------------------------------------------------------------------------------


def page(
    args: argparse.Namespace,
    why: str,
    cuda: dict[str, str],
    models: dict[str, dict[str, dict[str, Any]]],
) -> str:
    """Return the whole page as Markdown."""
    facts = machine_facts()
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    where = (
        f"{facts.get('gpu')}, driver {facts.get('driver', 'of unknown version')}, "
        f"CUDA up to {facts.get('cuda')}"
    )
    if why:
        where = "**No GPU on this machine, so every row says not measured.** Run it on one that has"
    lines = [
        "# On an NVIDIA GPU",
        "",
        "One clip at a time, wall time with the copies to and from the GPU, rounds in shuffled "
        "order in one process.",
        "Differences of scores are against ONNX Runtime on the CPU in fp32, on "
        f"{CLIPS} clips of noise, as a share of the largest score.",
        "Build: `vad-export build-engine`, or the first start of ONNX Runtime's TensorRT. Open: a "
        "later start, with what the first one left in the cache.",
        "",
        f"* Made on {date.today().isoformat()} with `python benchmarks/gpu_study.py`, "
        f"at most {args.rounds} rounds",
        f"* {where}",
        f"* {facts['cpu']}, Python {facts['python']}, {versions}",
        "",
        "## `vad_runtime.cuda`",
        "",
        "| what | found |",
        "|---|---|",
        *(f"| {row} | {found} |" for row, found in cuda.items()),
    ]
    for model, rows in models.items():
        lines += ["", f"## {MODELS[model]}", "", *table(rows)]
    return "\n".join(lines)


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return a model's rows as lines of a table."""
    head = ("engine", "median ms", "10-90 %", "x CPU", "difference", "build s", "open s")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    reference = rows.get(REFERENCE, {})
    notes: dict[str, list[str]] = {}
    for name in (*ROWS, TORCH):
        row = rows.get(name, {})
        times: Times | None = row.get("times")
        if times is None:
            lines.append(f"| {name} | not measured | | | | | |")
            if "failed" in row:
                notes.setdefault(row["failed"], []).append(name)
            continue
        notes.setdefault(row["device"], []).append(name)
        spread = f"{times.percentile_ms(10):.2f}-{times.percentile_ms(90):.2f}"
        cells = [name, f"{times.median_ms:.2f}", spread, "", "", "", f"{row['open_s']:.1f}"]
        if "times" in reference:
            cells[3] = f"{reference['times'].median_ms / times.median_ms:.1f}"
        if "score" in reference and name not in (REFERENCE, TORCH):
            want = np.asarray(reference["score"], np.float64)
            cells[4] = f"{np.abs(row['score'] - want).max() / np.abs(want).max():.1e}"
        if "built_s" in row:
            cells[5] = f"{row['built_s']:.1f}"
        lines.append(f"| {' | '.join(cells)} |")
    listed = [f"* {'; '.join(names)}: {text}" for text, names in notes.items()]
    return [*lines, *(["", *listed] if listed else [])]


def say(text: str) -> None:
    """Tell on stderr what is going on."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
