"""Time per clip and score differences of the back ends, interleaved in one run.

    python benchmarks/backends_study.py BUNDLE CHECKPOINT CLIPS > docs/results/backends.md

BUNDLE is the export of CHECKPOINT with `--form reconstruction`; CLIPS is a real video.
"""

import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

from vad_calibration import clips_from_footage
from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Options
from vad_runtime.bundle import Bundle
from vad_runtime.machine import library_versions, machine_facts
from vad_training.checkpoint import checkpoint_from_path
from vad_training.graphs import graph_from_checkpoint

ROUNDS = 15
RUNS = (("openvino", "bf16"), ("openvino", "fp32"), ("onnxruntime", "fp32"))


def main() -> None:
    bundle = Bundle.open(sys.argv[1])
    graph = graph_from_checkpoint(checkpoint_from_path(Path(sys.argv[2])), form="reconstruction")
    spec = bundle.manifest.clip
    clips = clips_from_footage([Path(sys.argv[3])], spec, 8).clips
    facts = machine_facts()
    torch.set_num_threads(int(facts["usable_threads"]))
    reference = graph.run(clips)["score"]
    runs = {}
    for name, precision in RUNS:
        choice = open_backend(bundle, name, Options(precision=precision))  # type: ignore[arg-type]
        runs[f"{name} {precision}"] = lambda c, b=choice.backend: b.infer(c)["score"]
    runs["PyTorch eager fp32"] = lambda c: graph.run(c)["score"]
    times: dict[str, list[float]] = {name: [] for name in runs}
    gaps: dict[str, float] = dict.fromkeys(runs, 0.0)
    rng = np.random.default_rng(0)
    for turn in range(ROUNDS + 1):  # the first round warms up
        for name in rng.permutation(list(runs)):
            clip = clips[turn % len(clips)][None]
            start = time.perf_counter()
            score = runs[name](clip)
            took = time.perf_counter() - start
            want = reference[turn % len(clips)]
            gaps[name] = max(gaps[name], float((np.abs(score[0] - want) / want).max()))
            if turn:
                times[name].append(took * 1e3)
    slow = np.median(times["PyTorch eager fp32"])
    versions = ", ".join(f"{k} {v}" for k, v in library_versions().items())
    print(f"""# Back ends on a CPU

The STAE, reconstruction form, one clip of {spec.frames}x{spec.height}x{spec.width} grey frames,
wall time, {ROUNDS} rounds in shuffled order in one process. Read the ratios.

* Made on {date.today().isoformat()} with
  `python benchmarks/backends_study.py BUNDLE CHECKPOINT VIDEO`
* {facts["cpu"]}, {facts["usable_threads"]} threads, Python {facts["python"]}, {versions}

| engine | median ms | 10-90 % | x PyTorch | largest relative difference of a score |
|---|---|---|---|---|""")
    for name, values in times.items():
        low, middle, high = np.percentile(values, [10, 50, 90])
        print(
            f"| {name} | {middle:.1f} | {low:.1f}-{high:.1f} | {slow / middle:.1f} "
            f"| {gaps[name]:.1e} |"
        )
    print("""
So `--backend auto` prefers OpenVINO, and takes bf16 only where the bundle's parity report, measured
at export on real clips, stays within 2 %. An engine asked for by name computes in fp32.""")


if __name__ == "__main__":
    main()
