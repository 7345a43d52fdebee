"""How much memory calibration takes, by the number of clips: docs/results/calibration_memory.md.

    python benchmarks/calibration_memory_study.py VIDEO_FOLDER > docs/results/calibration_memory.md

C3D with a MIL head (random weights: the memory hangs on shapes alone) is exported as a bundle. Then
a new process for each number of clips does what `vad-export calibrate` does.

The processes report `ru_maxrss`, the largest resident set so far. A new process begins with that of
the one that started it, so this script imports nothing large before they have ended.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

MEGA = 1e6
COUNTS = [8, 64, 512]


def main() -> None:
    """Run every part in a process of its own and print the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=Path, help="Folder of real videos.")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--threads", type=int, help="For the engine.  [default: all]")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        kind, folder = args.part
        work = Path(folder)
        found = exported(work) if kind == "bundle" else calibrated(work, int(kind), args)
        (work / f"{kind}.json").write_text(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(prefix="vad-memory-") as folder:
        graph = in_process("bundle", folder)
        rows = []
        for count in args.counts:
            rows.append(in_process(str(count), folder))
            print(f"{count} clips: {rows[-1]}", file=sys.stderr, flush=True)
    print(page(args, graph, rows))


def in_process(kind: str, folder: str) -> dict[str, Any]:
    """Run a part in a new process and return what it found."""
    command = [sys.executable, __file__, *sys.argv[1:], "--part", kind, folder]
    subprocess.run(command, stdout=sys.stderr, check=True)
    found: dict[str, Any] = json.loads(Path(folder, f"{kind}.json").read_text())
    return found


def exported(work: Path) -> dict[str, Any]:
    """Write the bundle; return the tensors that are ranged and their bytes, from their shapes."""
    from math import prod

    import onnx
    from precision_parts import graph_of

    from vad_calibration.placement import Graph, activation_tensors, quantisable_layers
    from vad_export.bundles import bundle_from_graph
    from vad_export.precision_config import PrecisionConfig

    bundle = bundle_from_graph(graph_of("c3d", None), work / "c3d.vad")
    artefact = bundle.manifest.artefacts["fp32"]
    model = onnx.load(bundle.file(artefact))
    choice = PrecisionConfig().layers
    layers = quantisable_layers(model, choice)
    tensors = activation_tensors(model, layers, choice)
    graph = Graph(model)
    made = {node.name: node.output[0] for node in model.graph.node}
    around = {name for layer in layers for name in (layer.activation, made[layer.name])}

    def size(name: str) -> int:
        # One clip: the batch is the one size that is not fixed.
        return 4 * prod(length or 1 for length in graph.shapes[name])

    return {
        "model_bytes": artefact.bytes,
        "clip": list(bundle.manifest.clip.clip_shape),
        "ranged_a_clip": sum(size(name) for name in tensors),
        "around": len(around),
        "around_a_clip": sum(size(name) for name in around),
    }


def calibrated(work: Path, count: int, args: argparse.Namespace) -> dict[str, Any]:
    """Do what `vad-export calibrate` does, and say what memory it took on the way."""
    import vad_export.cli  # noqa: F401  # what the command itself imports
    from vad_calibration.histograms import BYTES
    from vad_export.calibration import choose_inputs
    from vad_export.precision import measured_ranges
    from vad_runtime.bundle import Bundle

    imported = resident_bytes()
    bundle = Bundle.open(work / "c3d.vad")
    folder = work / f"{count}.calibration"
    began = time.perf_counter()
    for line in choose_inputs(bundle.manifest, args.videos, count, folder, check=32):
        print(line, file=sys.stderr)
    chosen_s, chosen = time.perf_counter() - began, peak_bytes()
    began = time.perf_counter()
    ranges = measured_ranges(bundle, folder, threads=args.threads)
    return {
        "wanted": count,
        "clips": ranges.inputs,
        "imported": imported,
        "peak_chosen": chosen,
        "peak": peak_bytes(),
        "choose_s": chosen_s,
        "ranges_s": time.perf_counter() - began,
        "bytes_a_tensor": BYTES,
        "ranged": len(ranges.histograms),
    }


def resident_bytes() -> int:
    """Return this process's resident set now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_bytes() -> int:
    """Return the largest resident set so far; Linux counts it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def page(args: argparse.Namespace, graph: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Return the Markdown page."""
    from vad_runtime.machine import library_versions, machine_facts

    facts = machine_facts()
    threads = args.threads or facts["usable_threads"]
    more = "" if args.counts == COUNTS else f" --counts {' '.join(map(str, args.counts))}"
    more += f" --threads {args.threads}" if args.threads else ""
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    tensors, a_tensor = rows[0]["ranged"], rows[0]["bytes_a_tensor"]
    lines = [
        f"""# Memory of calibration

C3D with a MIL head, clips of {"x".join(map(str, graph["clip"]))}, chosen and ranged by what
`vad-export calibrate` calls, a new process for each row. The peak is the largest resident set of
the whole process (`ru_maxrss`); nothing is subtracted.

* Made on {date.today().isoformat()} with
  `python benchmarks/calibration_memory_study.py VIDEO_FOLDER{more}`
* {facts["cpu"]}, {threads} threads, Python {facts["python"]}, {versions}
* Random weights: memory and time hang on the shapes. The fp32 graph has
  {graph["model_bytes"] / MEGA:.0f} MB.
* {tensors} tensors are ranged, {a_tensor / 1024:.0f} KiB of counts each whatever number of clips:
  {tensors * a_tensor / MEGA:.1f} MB in all.

| clips | after imports, MB | peak after choosing, MB | **peak, MB** | choosing, ms a clip \
| ranges, ms a clip | computed: holding the ranged tensors, MB \
| computed: holding inputs and outputs of the layers, MB |
|---|---|---|---|---|---|---|---|"""
    ]
    for row in rows:
        cells = [
            str(row["clips"]) + ("" if row["clips"] == row["wanted"] else f" of {row['wanted']}"),
            f"{row['imported'] / MEGA:.0f}",
            f"{row['peak_chosen'] / MEGA:.0f}",
            f"**{row['peak'] / MEGA:.0f}**",
            f"{row['choose_s'] / row['clips'] * 1e3:.0f}",
            f"{row['ranges_s'] / row['clips'] * 1e3:.0f}",
            f"{row['clips'] * graph['ranged_a_clip'] / MEGA:,.0f}",
            f"{row['clips'] * graph['around_a_clip'] / MEGA:,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    growth = (rows[-1]["peak"] - rows[0]["peak"]) / MEGA
    more_clips = rows[-1]["clips"] - rows[0]["clips"]
    lines.append(f"""
From the first row to the last the peak changes by {growth:+.0f} MB for {more_clips} more clips.

The last two columns are computed from the tensors' shapes, not measured: what it would take to
hold float32 activations of every clip before they are binned. The {tensors} tensors that are ranged
have {graph["ranged_a_clip"] / MEGA:.0f} MB a clip; inputs and outputs of the quantised layers,
which calibrators that do not choose places first must collect, are {graph["around"]} tensors of
{graph["around_a_clip"] / MEGA:.0f} MB.

Choosing looks at several candidates for each clip that is wanted, decodes the videos they lie in
whole, and draws `sheet.png`. The time for ranges includes decoding the chosen clips again, loading
the graph and counting; both have a fixed part, which weighs most in the first row.""")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
