"""Where the time of a clip goes in OpenVINO int8, layer by layer: docs/results/profiles.md.

    python benchmarks/profile_study.py > docs/results/profiles.md

Opens the bundles of the performance suites (perf_models.py) with the back end that `vad-run` uses
and asks OpenVINO for the time of each layer. Use a machine that does nothing else.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from math import prod
from typing import Any, NamedTuple

import numpy as np
import onnx
from perf_board import markdown
from perf_machine import load, machine_lines
from perf_models import FULL, MODELS, ROOT, Made, made
from perf_peak import highest, peak

from vad_calibration.placement import Layer as Weighted
from vad_calibration.placement import QuantiseChoice, quantisable_layers
from vad_runtime.backends.base import Options
from vad_runtime.backends.checks import usable_threads
from vad_runtime.backends.openvino import OpenVinoBackend, _core

WARM_UP = 3
SHOWN = 8
"""Layers of a table."""
LEAST = 0.005
"""Kinds with a smaller share of the time are left out."""
COLUMNS = ["ms", "of the time", "work, 1e9", "of the peak"]
WORDS = """# Where a clip's time goes

The int8 bundles of [performance.md](performance.md) in OpenVINO, batch 1, as `vad-run` opens them:
the time that the engine's own counters give for each layer, medians of {clips} clips. Counting
costs time, so the sums are larger than the latencies of that page: read the shares.

*Work* is that of the graph as it runs, multiplications and additions: an output-blocked convolution
does more than the model needs. *Of the peak* is work / time as a share of what the multipliers give
at most in int8 (loops, before and after each model), whatever the layer computes in. It may pass
100 %: products with the zeros of the padding count as work, and an engine leaves most of them out.
For a kernel of 3 x 3 x 3 they are 6 % of a clip of 16 x 56 x 56 and 25 % of one of 4 x 14 x 14.
"""


class About(NamedTuple):
    """What the engine tells of a layer: its kind, the graph's nodes behind it, its output."""

    kind: str
    names: set[str]
    shape: list[int]


class Layer(NamedTuple):
    """A layer of the engine: milliseconds, 1e9 operations."""

    name: str
    kind: str
    ms: float
    work: float


def parsed() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=FULL, default=FULL)
    parser.add_argument("--clips", type=int, default=20)
    return parser.parse_args()


def layers_of(model: Made) -> dict[str, Weighted]:
    """Return the layers with weights by name."""
    graph = onnx.load(model.bundle.path / "fp32.onnx")
    return {one.name: one for one in quantisable_layers(graph, QuantiseChoice(least_share=0))}


def work_of(layer: Weighted, shape: list[int]) -> float:
    """Return 1e9 operations of a layer whose output in the engine has this shape."""
    if layer.op in ("Gemm", "MatMul"):  # whose sizes ONNX's shape inference may not know
        return 2 * layer.weights * prod(shape[:-1]) / 1e9
    return 2 * layer.work / 1e9


def own(name: str) -> str:
    """Return the graph's name of a node that the engine has split or turned."""
    return name.split("/")[0]


def times_of(model: Made, clips: int) -> tuple[dict[str, float], dict[str, About]]:
    """Return milliseconds by layer of the engine, and what the engine tells of it."""
    _core().set_property("CPU", {"PERF_COUNT": True})
    engine: Any = OpenVinoBackend(
        model.bundle.path / "int8.onnx", model.bundle.manifest, Options(precision="int8")
    )
    seen: dict[str, list[float]] = defaultdict(list)
    clip = model.clips()[:1]
    for i in range(WARM_UP + clips):
        engine.infer(clip)
        if i >= WARM_UP:
            for one in engine._request.profiling_info:
                seen[one.node_name].append(one.real_time.total_seconds() * 1e3)
    about: dict[str, About] = {}
    for node in engine._compiled.get_runtime_model().get_ordered_ops():
        if not node.get_output_size():
            continue
        facts = node.get_rt_info()
        kind = f"{facts['layerType'].get()}, {facts['runtimePrecision'].get()}"
        names = {own(name) for name in str(facts["originalLayersNames"].get()).split(",")}
        shape = [size.get_length() for size in node.output(0).get_partial_shape()]
        about[node.get_friendly_name()] = About(kind, names, shape)
    engine.close()
    times = {name: float(np.median(values)) for name, values in seen.items()}
    return {name: ms for name, ms in times.items() if ms}, about


def chapter(key: str, clips: int) -> Iterator[str]:
    """Yield a model's table."""
    model = made(key, lambda line: print(line, file=sys.stderr))
    threads = usable_threads()
    before = peak(threads, 0.3)
    times, about = times_of(model, clips)
    int8 = highest(before, peak(threads, 0.3)).get("int8", 0.0)
    weighted = layers_of(model)
    layers = []
    for name, ms in sorted(times.items(), key=lambda item: -item[1]):
        kind, names, shape = about.get(name, About("other", set(), []))
        done = sum(work_of(weighted.pop(node), shape) for node in names & weighted.keys())
        layers.append(Layer(own(name), kind, ms, done))
    whole = sum(times.values())
    kinds: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        kinds[layer.kind].append(layer)
    yield f"## {MODELS[key].name}"
    rows = []
    for kind, mine in kinds.items():
        together = Layer(kind, kind, sum(one.ms for one in mine), sum(one.work for one in mine))
        if together.ms >= LEAST * whole:
            rows.append([kind, str(len(mine)), *told(together, whole, int8)])
    rows.sort(key=lambda row: -float(row[2]))
    yield markdown({"head": ["kind", "layers", *COLUMNS], "rows": rows})
    rows = [[one.name, one.kind, *told(one, whole, int8)] for one in layers[:SHOWN]]
    yield markdown({"head": ["layer", "kind", *COLUMNS], "rows": rows})
    lost = (
        f"; layers with weights not found by name, whose kind does more work: {len(weighted)}"
        if weighted
        else ""
    )
    yield f"{whole:.1f} ms in all; int8 peak {int8:,.0f} (1e9 operations/s){lost}."


def told(layer: Layer, whole_ms: float, int8: float) -> list[str]:
    """Return a row's figures."""
    share = f"{layer.work / layer.ms * 1e3 / int8:.0%}" if layer.work and int8 else "-"
    done = f"{layer.work:.2f}" if layer.work else "-"
    return [f"{layer.ms:.2f}", f"{layer.ms / whole_ms:.0%}", done, share]


def main() -> None:
    """Measure and print."""
    args = parsed()
    sys.path.insert(0, str(ROOT / "tests"))
    command = " ".join(["python benchmarks/profile_study.py", *sys.argv[1:]])
    print(WORDS.format(clips=args.clips))
    print(f"* Made on {date.today()} with `{command}`; before: {load()}")
    print("\n".join(f"* {one}" for one in machine_lines()))
    for key in args.models:
        for part in chapter(key, args.clips):
            print(f"\n{part}", flush=True)


if __name__ == "__main__":
    main()
