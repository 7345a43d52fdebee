"""What each precision costs and gains for every kind of model: docs/results/precision.md.

    python benchmarks/precision_study.py VIDEO_FOLDER --stae FILE --nncf > docs/results/precision.md

A model goes through stages, each in a process of its own, so that memory is freed and a crash loses
one stage only. What they found stands in `--work`, one JSON a stage, and `--resume` goes on there::

    prepare    export, exact passes, ranges on real clips, int8, fp16 and mixed graphs, lint
    nncf       NNCF's own post-training quantisation of the same graph with the same clips
    build:X    TensorRT-RTX builds artefact X (no GPU is needed; "built" does not say "ran")
    accuracy   every artefact in ONNX Runtime and OpenVINO against fp32 in ONNX Runtime
    one        processor time at one thread, all candidates in turns, shuffled
    all        wall time at all threads, the same

`--nncf` needs the package nncf, which this project does not depend on: pip install nncf
"""

import argparse
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from precision_stages import Part
from precision_tables import Study, document

from vad_runtime.machine import library_versions, machine_facts

MODELS = {
    "stae": "STAE",
    "c3d": "C3D + MIL",
    "r3d_18": "R3D-18 + AE",
    "r2plus1d_18": "R(2+1)D-18 + AE",
    "slowfast_r50": "SlowFast-R50 + AE",
    "timesformer": "TimeSformer + AE",
    "i3d": "I3D + MIL",
}


def parsed() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=Path, help="Folder of real videos.")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--stae", type=Path, help="A trained STAE; else random weights.")
    parser.add_argument(
        "--checkpoint", nargs="+", default=[], metavar="MODEL=FILE", help="Other trained models."
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=40, help="Most for one timing stage.")
    parser.add_argument("--clips", type=int, default=16, help="For the ranges.")
    parser.add_argument("--check", type=int, default=4, help="Others, for differences and timing.")
    parser.add_argument("--nncf", action="store_true", help="Compare with NNCF's quantisation.")
    default = Path(tempfile.gettempdir()) / "vad-precision-study"
    parser.add_argument("--work", type=Path, default=default, help="[default: %(default)s]")
    parser.add_argument("--resume", action="store_true", help="Keep what --work holds already.")
    parser.add_argument("--keep", action="store_true", help="Keep the graphs in --work too.")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run the stages that are missing, then print the tables."""
    args = parsed()
    if args.stage:
        model, _, stage = args.stage.partition("/")
        Part(args, model).run(stage)
        return
    for model in args.models:
        measured(args, model)
    parts = {MODELS[model]: Part(args, model).results() for model in args.models}
    facts = machine_facts()
    study = Study(
        command=command_of(args),
        date=date.today().isoformat(),
        device=f"{facts['cpu']}, Python {facts['python']}",
        threads=int(facts["usable_threads"]),
        versions=versions(),
        rounds=args.rounds,
        clips=args.clips,
        check=args.check,
        models=parts,
    )
    print(document(study))


def command_of(args: argparse.Namespace) -> str:
    """Return the command without this machine's paths."""
    words = ["python benchmarks/precision_study.py VIDEO_FOLDER"]
    if args.models != list(MODELS):
        words.append(f"--models {' '.join(args.models)}")
    words += ["--stae FILE"] if args.stae else []
    words += [f"--checkpoint {x.partition('=')[0]}=FILE" for x in args.checkpoint]
    words += ["--nncf"] if args.nncf else []
    words.append(f"--rounds {args.rounds} --seconds {args.seconds:g}")
    return " ".join([*words, f"--clips {args.clips} --check {args.check}"])


def versions() -> str:
    """Return the versions of everything that took part."""
    found = library_versions()
    for name in ("onnx", "nncf", "tensorrt_rtx_cu13_libs"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(f"{name} {version}" for name, version in found.items())


def measured(args: argparse.Namespace, model: str) -> None:
    """Run a model's stages, each in a new process; a stage that fails is noted and passed over."""
    part = Part(args, model)
    if not args.resume and part.folder.exists():
        shutil.rmtree(part.folder)
    part.folder.mkdir(parents=True, exist_ok=True)
    whole = True
    for stage in part.stages():
        if "result" in part.read(stage):
            continue
        began = time.perf_counter()
        part.write(stage, {"failed": "the process ended without a word"})
        name = f"{model}/{stage}"
        process = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--stage", name], stdout=sys.stderr
        )
        if process.returncode:
            part.write(stage, {"failed": f"the process ended with code {process.returncode}"})
        found = part.read(stage)
        whole = whole and "result" in found
        said = found.get("failed", "done")
        print(f"{name}: {said}, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        if stage == "prepare" and "failed" in found:
            return
    if whole and not args.keep:
        for file in part.folder.iterdir():
            if file.suffix != ".json":
                file.unlink()


if __name__ == "__main__":
    main()
