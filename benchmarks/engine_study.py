"""What TensorRT-RTX makes of every kind of model in every precision: docs/results/engines.md.

    python benchmarks/engine_study.py > docs/results/engines.md

No GPU is needed, and none is used: the table says what was built, never how fast it runs. Every
model goes through stages. What they found stands in `--work`, one JSON a stage, and `--resume` goes
on there::

    prepare    in a new process: export, exact passes, int8, fp16 and mixed graphs, one bundle
    build-P    `vad-export build-engine` for precision P, `--builds` times, each time in a new
               process
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from precision_parts import graph_of
from precision_study import MODELS

from vad_runtime.bundle import sha256_of_file
from vad_runtime.contracts.engine import sidecar_from_json
from vad_runtime.contracts.manifest import Precision
from vad_runtime.files import whole_file
from vad_runtime.machine import library_versions, machine_facts

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "mixed")
MEGA = 1e6

Stages = Mapping[str, dict[str, Any]]
"""What each stage of a model has found: `result` or `failed`."""


def parsed() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), metavar="P"
    )
    parser.add_argument(
        "--builds", type=int, default=3, help="Of each graph.  [default: %(default)s]"
    )
    default = Path(tempfile.gettempdir()) / "vad-engine-study"
    parser.add_argument("--work", type=Path, default=default, help="[default: %(default)s]")
    parser.add_argument("--resume", action="store_true", help="Keep what --work holds already.")
    parser.add_argument("--keep", action="store_true", help="Keep bundles and plans in --work too.")
    parser.add_argument("--prepare", choices=MODELS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run the stages that are missing, then print the page."""
    args = parsed()
    if args.prepare:
        prepared = prepare(args.prepare, args.work / args.prepare)
        write(args.work / args.prepare / "prepare.json", {"result": prepared})
        return
    for model in args.models:
        measure(args, model)
    print(document(args, {model: found_of(args, model) for model in args.models}))


# -- stages ----------------------------------------------------------------------------------------


def write(file: Path, found: dict[str, Any]) -> None:
    """Write what a stage has found."""
    with whole_file(file) as temporary:
        temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")


def read(file: Path) -> dict[str, Any]:
    """Return what a stage has found; {} where it has not run."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def found_of(args: argparse.Namespace, model: str) -> Stages:
    """Return what every stage of a model has found."""
    stages = ["prepare", *(f"build-{precision}" for precision in args.precisions)]
    return {stage: read(args.work / model / f"{stage}.json") for stage in stages}


def measure(args: argparse.Namespace, model: str) -> None:
    """Run the stages of a model that are missing; one that fails is noted and passed over."""
    folder = args.work / model
    if not args.resume and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not all("result" in found for found in found_of(args, model).values()):
        stage(folder, "prepare", lambda: run_prepare(args, model))
    if "result" not in read(folder / "prepare.json"):
        return
    for precision in args.precisions:
        name = f"build-{precision}"
        stage(folder, name, lambda p=precision: builds_of(folder, p, args.builds))
    if not args.keep:
        shutil.rmtree(folder / "model.vad", ignore_errors=True)


def stage(folder: Path, name: str, work: Any) -> None:
    """Run one stage unless its result stands there, and tell how it went."""
    done = read(folder / f"{name}.json")
    if "result" in done and (name != "prepare" or (folder / "model.vad").exists()):
        return
    began = time.perf_counter()
    try:
        result = work()
        if result is not None:
            write(folder / f"{name}.json", {"result": result})
        said = "done"
    except RuntimeError as error:
        said = str(error)
        write(folder / f"{name}.json", {"failed": said})
    seconds = time.perf_counter() - began
    print(f"{folder.name}/{name}: {said}, {seconds:.0f} s", file=sys.stderr, flush=True)


def run_prepare(args: argparse.Namespace, model: str) -> None:
    """Make a model's bundle in a new process, so that PyTorch's memory is gone before the builds.

    Raises:
        RuntimeError: It ended with an error.
    """
    command = [sys.executable, __file__, "--work", str(args.work), "--prepare", model]
    code = subprocess.run(command, stdout=sys.stderr).returncode
    if code:
        raise RuntimeError(f"the process ended with code {code}")


def prepare(model: str, folder: Path) -> dict[str, Any]:
    """Export a model with random weights and write a bundle with a graph of each precision.

    Sizes of graphs and plans, and whether they can be built, depend neither on the weights nor on
    the ranges, so both come from a generator with a seed.
    """
    import msgspec
    import numpy as np
    import onnx

    from vad_calibration.inputs import ArrayInputs
    from vad_calibration.placement import activation_tensors, quantisable_layers
    from vad_calibration.qdq import qdq_from_model
    from vad_calibration.ranges import ranges_from_inputs
    from vad_export.fp16 import fp16_from_model
    from vad_export.onnx_graph import onnx_from_graph
    from vad_export.passes import optimise
    from vad_export.precision_config import PrecisionConfig
    from vad_runtime.bundle import write_bundle
    from vad_runtime.contracts.manifest import Artefact

    graph = graph_of(model, None)
    manifest = graph.manifest()
    shape = manifest.clip.clip_shape
    clips = np.random.default_rng(0).integers(0, 256, (1, *shape), dtype=np.uint8)
    files: dict[str, Path] = {name: folder / f"{name}.onnx" for name in PRECISIONS}
    onnx_from_graph(graph, files["fp32"])
    del graph
    fp32, _ = optimise(onnx.load(files["fp32"]), manifest, clips, measure=False)
    onnx.save(fp32, files["fp32"])
    config = PrecisionConfig()
    layers = quantisable_layers(fp32, config.layers)
    tensors = activation_tensors(fp32, layers, config.layers)
    ranges = ranges_from_inputs(files["fp32"], list(tensors), ArrayInputs(clips))
    limits = ranges.limits(config.method, percentile=config.percentile)
    int8 = qdq_from_model(fp32, [layer.name for layer in layers], limits, config.layers)
    onnx.save(int8, files["int8"])
    onnx.save(fp16_from_model(int8).model, files["mixed"])
    onnx.save(fp16_from_model(fp32).model, files["fp16"])
    artefacts = {
        name: Artefact(file=f"{name}.onnx", sha256="", bytes=0, format="onnx", precision=name)
        for name in PRECISIONS
    }
    manifest = msgspec.structs.replace(manifest, name=model, artefacts=artefacts)
    write_bundle(folder / "model.vad", manifest, files, overwrite=True)
    sizes = {name: file.stat().st_size for name, file in files.items()}
    for file in files.values():
        file.unlink()
    return {"clip": list(shape), "bytes": sizes, "layers": len(layers)}


def builds_of(folder: Path, precision: str, count: int) -> dict[str, Any]:
    """Build one graph several times.

    Raises:
        RuntimeError: A build failed; its one line.
    """
    return {"builds": [build(folder, precision) for _ in range(count)]}


def build(folder: Path, precision: str) -> dict[str, Any]:
    """Run `vad-export build-engine` in a new process and return what came of it.

    Raises:
        RuntimeError: It failed; its one line.
    """
    plans = folder / "plans"
    shutil.rmtree(plans, ignore_errors=True)
    command = [sys.executable, "-m", "vad_export", "build-engine", str(folder / "model.vad")]
    command += ["--flavour", "rtx", "--precision", precision, "-o", str(plans)]
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        # Of this child alone, which `getrusage(RUSAGE_CHILDREN)` does not tell.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        said.seek(0)
        lines = [line for line in said.read().splitlines() if line.strip()]
    if process.returncode:
        raise RuntimeError(lines[-1] if lines else f"ended with code {process.returncode}")
    (plan,) = plans.glob("*.engine")
    sidecar = sidecar_from_json(plan.with_name(f"{plan.name}.json").read_bytes(), plan.name)
    found = {
        "name": plan.name,
        # In pieces: what this process once held would count as its next child's peak.
        "sha256": sha256_of_file(plan),
        "bytes": plan.stat().st_size,
        "seconds": sidecar.build.get("seconds", seconds),
        "command_seconds": seconds,
        "peak_bytes": usage.ru_maxrss * 1024,
        "layers": sidecar.build.get("layers"),
        "version": sidecar.version,
        "sms": sidecar.sms,
        "later_sms": sidecar.later_sms,
    }
    shutil.rmtree(plans)
    return found


# -- page ------------------------------------------------------------------------------------------

TEXT = """\
# Engines: what TensorRT-RTX builds

Every kind of model in every precision, built with `vad-export build-engine` on a machine without a
GPU. **Built, and no more: nothing of it ran**, so there is no latency here, and an INT8 graph that
was built is no proof of an INT8 kernel.

* Made on {date} with `{command}`
* {device}, {versions}
* Batch 1, {targets}. Weights are random and INT8 ranges come
  from noise (both seeded): sizes, and whether a graph can be built, depend on neither.
* Graph and plan: megabytes (10^6 bytes). Build: seconds inside TensorRT, median of all builds of
  the graph. Command: `vad-export build-engine` from start to end. Peak: the most memory that its
  process held, its libraries included.
* Identical: how many plans of one graph, each built by a process of its own, are the same bytes.
  The plans give the score alone, as `build-engine` does unless it is told otherwise. With several
  outputs TensorRT-RTX lays these out by where they happen to lie in memory, so that one of two
  forms comes out.
"""
HEAD = (
    "| model | clip | precision | graph, MB | plan, MB | plan / graph | build, s | command, s "
    "| peak, MB | identical |"
)


def document(args: argparse.Namespace, models: Mapping[str, Stages]) -> str:
    """Return the page."""
    every = [x for stages in models.values() for found in stages.values() for x in builds(found)]
    facts = machine_facts()
    took_part = ("vad-edge", "numpy", "onnxruntime", "torch")
    versions = {name: x for name, x in library_versions().items() if name in took_part}
    if every:
        versions["TensorRT-RTX"] = every[0]["version"]
    command = ["python benchmarks/engine_study.py"]
    if args.models != list(MODELS):
        command.append(f"--models {' '.join(args.models)}")
    if args.precisions != list(PRECISIONS):
        command.append(f"--precisions {' '.join(args.precisions)}")
    text = TEXT.format(
        date=date.today().isoformat(),
        command=" ".join(command),
        device=f"{facts['cpu']}, Python {facts['python']}, {facts['usable_threads']} threads",
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
        targets="; ".join(sorted({targets_of(x) for x in every})) or "no plan",
    )
    table = [HEAD, "|---" * (HEAD.count("|") - 1) + "|"]
    table += [f"| {' | '.join(row)} |" for row in rows(models)]
    return "\n".join([text, *table])


def targets_of(found: Mapping[str, Any]) -> str:
    """Return the GPUs that a plan was built for, for people."""
    return f"for SM {', '.join(map(str, found['sms']))}{' and later' * found['later_sms']}"


def builds(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the builds of a stage; none for other stages and after a failure."""
    listed: list[dict[str, Any]] = found.get("result", {}).get("builds", [])
    return listed


def rows(models: Mapping[str, Stages]) -> Iterator[list[str]]:
    """Yield a row for each graph."""
    for model, stages in models.items():
        prepared = stages["prepare"].get("result", {})
        clip = "x".join(map(str, prepared.get("clip", []))) or "-"
        for name, found in stages.items():
            if name == "prepare":
                continue
            precision = name.partition("-")[2]
            graph = prepared.get("bytes", {}).get(precision)
            row = [MODELS[model], clip, precision, f"{graph / MEGA:.1f}" if graph else "-"]
            if builds(found):
                yield [*row, *measured(builds(found), graph)]
            else:
                why = found.get("failed") or stages["prepare"].get("failed") or "not run"
                yield [*row, f"no: {' '.join(why.split()).replace('|', '/')[:200]}", *["-"] * 5]


def measured(found: list[dict[str, Any]], graph: int) -> list[str]:
    """Return the cells of a graph that was built."""
    forms = len({x["sha256"] for x in found})
    size = found[0]["bytes"]
    return [
        f"{size / MEGA:.1f}",
        f"{size / graph:.2f}",
        f"{median(x['seconds'] for x in found):.1f}",
        f"{median(x['command_seconds'] for x in found):.1f}",
        f"{max(x['peak_bytes'] for x in found) / MEGA:.0f}",
        f"{len(found)} of {len(found)}" if forms == 1 else f"{forms} forms in {len(found)}",
    ]


def median(values: Iterator[float]) -> float:
    """Return the middle value, of an even number the mean of the two."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return (ordered[half] + ordered[~half]) / 2


if __name__ == "__main__":
    main()
