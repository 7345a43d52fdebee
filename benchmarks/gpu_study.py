"""What runs on this machine's NVIDIA GPU, how near to the CPU and how fast: docs/results/gpu.md.

    python benchmarks/gpu_study.py -o docs/results/gpu.md
    python benchmarks/gpu_study.py --bundle c3d=c3d.vad --bundle stae=stae.vad

Without `--bundle` the graphs are exported here with random weights, which needs the extra `export`;
times do not depend on weights. What is not installed, or does not run, gets a row with its reason.
Without a GPU every row says "not measured".
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any, get_args

import numpy as np

from vad_export.timing import Times, interleaved
from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Inputs, Options, Outputs
from vad_runtime.backends.checks import first_line
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import BackendError, VadError
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


def parsed() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", action="append", default=[], metavar="MODEL=BUNDLE")
    parser.add_argument("--device", default="cuda", help="[default: %(default)s]")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("-o", "--out", type=Path, help="[default: standard output]")
    return parser.parse_args()


def main() -> None:
    """Measure what can be measured and write the page."""
    args = parsed()
    with tempfile.TemporaryDirectory() as folder:
        try:
            gpu_of(args.device)
            why = ""
        except BackendError as error:
            why = str(error)
        cuda = dict.fromkeys(CUDA_ROWS, "not measured") if why else cuda_rows(args.device)
        models = {name: {} if why else model_rows(args, name, Path(folder)) for name in MODELS}
    text = page(args, why, cuda, models)
    if args.out is None:
        print(text)
    else:
        args.out.write_text(f"{text}\n", encoding="utf-8")


# -- vad_runtime.cuda --------------------------------------------------------------------------

CUDA_ROWS = (
    "package",
    "a pinned copy there and back",
    "to the GPU, from pinned memory",
    "from the GPU, to pinned memory",
    "a copy as a CUDA graph",
    "free after close",
)


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
            rows[CUDA_ROWS[5]] = f"{(before - left) / 1e6:+.0f} MB in use against the start"
    except VadError as error:
        rows.setdefault("failed", str(error))
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


def model_rows(args: argparse.Namespace, model: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Return what was found for each row of a model: `failed`, or times and differences."""
    given = dict(item.partition("=")[::2] for item in args.bundle)
    try:
        path = Path(given[model]) if model in given else made(model, folder)
        bundle = Bundle.open(path)
    except (ImportError, VadError) as error:
        return {name: {"failed": first_line(error)} for name in (*ROWS, TORCH)}
    clips = clips_of(bundle)
    rows: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        calls: dict[str, Callable[[Inputs], Outputs]] = {}
        for name, opened in openers(args, model, bundle, folder / f"{model}.plans"):
            say(f"{model}: {name}")
            try:
                start = time.perf_counter()
                call, close, device, built_s = opened()
                stack.callback(close)
                score = call(clips)["score"]
                took = time.perf_counter() - start - (built_s or 0.0)
                rows[name] = {"score": score, "open_s": took, "device": device, "built_s": built_s}
                calls[name] = call
            except Exception as error:  # whatever an engine does, the others go on
                rows[name] = {"failed": first_line(error)}
        runs = {
            name: lambda turn, c=call: c(clips[turn % CLIPS :][:1]) for name, call in calls.items()
        }
        for name, times in interleaved(runs, rounds=args.rounds, max_s=300).items():
            rows[name]["times"] = times
    return rows


def made(model: str, folder: Path) -> Path:
    """Export a model with random weights in every precision; return its bundle."""
    from engine_study import prepare

    say(f"{model}: exporting")
    work = folder / model
    work.mkdir()
    prepare(model, work)
    return work / "model.vad"


def clips_of(bundle: Bundle) -> Inputs:
    """Return clips of seeded noise of different strength, shape (CLIPS, T, H, W, C), uint8."""
    rng = np.random.default_rng(0)
    top = np.linspace(32, 255, CLIPS).astype(int).reshape(CLIPS, 1, 1, 1, 1)
    shape = (CLIPS, *bundle.manifest.input_shape)
    return rng.integers(0, top + 1, shape).astype(np.uint8)


Opened = tuple[Callable[[Inputs], Outputs], Callable[[], None], str, float | None]
"""Call, close, device, seconds of a build."""


def openers(
    args: argparse.Namespace, model: str, bundle: Bundle, plans: Path
) -> Iterator[tuple[str, Callable[[], Opened]]]:
    """Yield each row's name and what opens it."""
    for name, (backend, precision, family) in ROWS.items():

        def opened(
            backend: str = backend, precision: Precision = precision, family: str | None = family
        ) -> Opened:
            built_s, engine = None, None
            if family is not None:
                engine = plans / f"{family}-{precision}"
                built_s = build(bundle, precision, family, engine)
            device = "cpu" if backend == "onnxruntime" else args.device
            options = Options(precision=precision, device=device, engine=engine)
            found = open_backend(bundle, backend, options).backend
            return found.infer, found.close, found.device, built_s

        yield name, opened
    yield TORCH, lambda: torch_baseline(model, args.device)


def build(bundle: Bundle, precision: Precision, family: str, folder: Path) -> float:
    """Build a plan in a process of its own; return how long it took, seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "vad_export", "build-engine", str(bundle.path)]
    command += ["--precision", precision, "--flavour", family, "-o", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BackendError(f"not built: {said[-1].removeprefix('Error: ')}")
    return time.perf_counter() - start


def torch_baseline(model: str, device: str) -> Opened:
    """Return the model in PyTorch on the GPU, with random weights: only its time means something.

    Raises:
        BackendError: PyTorch finds no GPU.
    """
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
    return infer, torch.cuda.empty_cache, f"PyTorch {torch.__version__} on {name}", None


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
    where = f"{facts.get('gpu')}, driver {facts.get('driver')}, CUDA {facts.get('cuda')}"
    if why:
        where = "**No GPU on this machine, so every row says not measured.** Run it on one that has"
    lines = [
        "# On an NVIDIA GPU",
        "",
        "One clip at a time, wall time with the copies to and from the GPU, rounds in shuffled "
        "order in one process.",
        "Differences of scores are against ONNX Runtime on the CPU in fp32, on "
        f"{CLIPS} clips of noise, as a share of the largest score.",
        "",
        f"* Made on {date.today().isoformat()} with `python benchmarks/gpu_study.py`, "
        f"{args.rounds} rounds",
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
        if row["built_s"] is not None:
            cells[5] = f"{row['built_s']:.1f}"
        lines.append(f"| {' | '.join(cells)} |")
    listed = [f"* {'; '.join(names)}: {text}" for text, names in notes.items()]
    return [*lines, *(["", *listed] if listed else [])]


def say(text: str) -> None:
    """Tell on stderr what is going on."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
