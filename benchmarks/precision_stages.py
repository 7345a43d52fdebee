"""The stages of precision_study.py: what is done with one model."""

import argparse
import json
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from precision_parts import built, compared, graph_of, int8_layers

from vad_calibration import clips_from_footage
from vad_runtime.backends.base import Backend, Clips, Options
from vad_runtime.backends.checks import first_line
from vad_runtime.contracts import Manifest, VadError
from vad_runtime.files import whole_file
from vad_runtime.machine import machine_facts

SOURCES = 64
"""Most videos that clips are drawn from, spread evenly over the folder."""

# Candidates of the speed tables: engine, artefact's file, precision.
CANDIDATES = {
    "OpenVINO fp32": ("openvino", "fp32.onnx", "fp32"),
    "OpenVINO fp32 after passes": ("openvino", "passes.onnx", "fp32"),
    "OpenVINO bf16": ("openvino", "passes.onnx", "bf16"),
    "OpenVINO int8": ("openvino", "int8.onnx", "int8"),
    "OpenVINO int8 without ConvTranspose": ("openvino", "int8_plain.onnx", "int8"),
    "OpenVINO mixed": ("openvino", "mixed.onnx", "mixed"),
    "OpenVINO int8 by NNCF": ("openvino", "nncf.xml", "int8"),
    "ONNX Runtime fp32": ("onnxruntime", "passes.onnx", "fp32"),
    "ONNX Runtime int8": ("onnxruntime", "int8.onnx", "int8"),
}
ARTEFACTS = {
    "fp32": ("fp32.onnx", "fp32"),
    "fp32 after passes": ("passes.onnx", "fp32"),
    "fp32 computed in bf16": ("passes.onnx", "bf16"),
    "int8": ("int8.onnx", "int8"),
    "int8 without ConvTranspose": ("int8_plain.onnx", "int8"),
    "fp16": ("fp16.onnx", "fp16"),
    "mixed": ("mixed.onnx", "mixed"),
    "int8 by NNCF": ("nncf.xml", "int8"),
}


class Part:
    """One model of the study: its stages and where their results are.

    Args:
        args: The command line.
        model: A key of `MODELS`.
    """

    def __init__(self, args: argparse.Namespace, model: str) -> None:
        self.args, self.model = args, model
        self.folder: Path = args.work / model
        given = dict(item.partition("=")[::2] for item in args.checkpoint)
        if args.stae:
            given.setdefault("stae", str(args.stae))
        self.checkpoint = given.get(model)
        # What results hang on: others are measured anew.
        self.settings = {
            "videos": str(args.videos.resolve()),
            "checkpoint": self.checkpoint,
            "clips": args.clips,
            "check": args.check,
            "rounds": args.rounds,
            "seconds": args.seconds,
            "nncf": args.nncf,
        }

    def stages(self) -> Iterator[str]:
        """Yield the stages in order; which builds there are is known after the first."""
        yield "prepare"
        if self.args.nncf:
            yield "nncf"
        for file in self.read("prepare").get("result", {}).get("lint", {}):
            yield f"build:{file}"
        yield "accuracy"
        yield "one"
        if int(machine_facts()["usable_threads"]) > 1:
            yield "all"

    def _file(self, stage: str) -> Path:
        return self.folder / f"{stage.replace(':', '-')}.json"

    def read(self, stage: str) -> dict[str, Any]:
        """Return a stage's JSON; {} = not there, or of other settings."""
        try:
            found: dict[str, Any] = json.loads(self._file(stage).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if found.get("settings") == self.settings else {}

    def write(self, stage: str, found: dict[str, Any]) -> None:
        """Write a stage's JSON."""
        with whole_file(self._file(stage)) as temporary:
            temporary.write_text(json.dumps({"settings": self.settings, **found}, indent=1))

    def results(self) -> dict[str, dict[str, Any]]:
        """Return what every stage has found, by stage."""
        return {stage: self.read(stage) for stage in self.stages()}

    def run(self, stage: str) -> None:
        """Run one stage in this process."""
        name, _, what = stage.partition(":")
        work: dict[str, Callable[[], Any]] = {
            "prepare": self.prepare,
            "nncf": self.nncf,
            "build": lambda: built(self.folder / what),
            "accuracy": self.accuracy,
            "one": lambda: self.speed(1),
            "all": lambda: self.speed(int(machine_facts()["usable_threads"])),
        }
        try:
            self.write(stage, {"result": work[name]()})
        except Exception as error:  # whatever it is, the other stages go on and the table says it
            traceback.print_exc()
            self.write(stage, {"failed": first_line(error)})

    # -- graphs --------------------------------------------------------------------------------

    def clips(self, count: int, seed: int) -> Clips:
        """Return clips of the footage, shape (count, T, H, W, C)."""
        from vad_export.gate_footage import evenly, footage_of

        sources = evenly(footage_of(self.args.videos), min(SOURCES, count))
        return clips_from_footage(sources, self.manifest.clip, count, seed=seed).clips

    @property
    def manifest(self) -> Manifest:
        """What the exported graph takes and gives."""
        return msgspec.json.decode((self.folder / "manifest").read_bytes(), type=Manifest)

    def prepare(self) -> dict[str, Any]:
        """Make every graph but NNCF's."""
        import onnx

        from vad_calibration.inputs import ArrayInputs
        from vad_calibration.lint import lint_qdq
        from vad_calibration.placement import (
            QuantiseChoice,
            activation_tensors,
            quantisable_layers,
        )
        from vad_calibration.qdq import qdq_from_model
        from vad_calibration.ranges import ranges_from_inputs
        from vad_export.fp16 import fp16_from_model
        from vad_export.onnx_graph import onnx_from_graph
        from vad_export.passes import optimise
        from vad_export.precision_config import PrecisionConfig
        from vad_runtime.contracts.manifest import json_from_manifest

        # New graphs make everything else old: what later stages found, graphs of other settings.
        for file in self.folder.iterdir():
            if file.name != "prepare.json":
                file.unlink()
        began = time.perf_counter()
        graph = graph_of(self.model, self.checkpoint)
        onnx_from_graph(graph, self.folder / "fp32.onnx")
        (self.folder / "manifest").write_bytes(json_from_manifest(graph.manifest()))
        del graph
        export_s = time.perf_counter() - began
        clips = self.clips(self.args.clips, seed=0)
        np.save(self.folder / "clips.npy", clips)
        np.save(self.folder / "check.npy", self.clips(self.args.check, seed=1))
        model, reports = optimise(
            onnx.load(self.folder / "fp32.onnx"), self.manifest, clips[: self.args.check]
        )
        source = self.folder / "passes.onnx"
        onnx.save(model, source)
        config = PrecisionConfig()
        choices = {"int8": config.layers}
        if self.model == "stae":
            ops = tuple(op for op in config.layers.ops if op != "ConvTranspose")
            choices["int8_plain"] = msgspec.structs.replace(config.layers, ops=ops)
        layers = {name: quantisable_layers(model, choice) for name, choice in choices.items()}
        tensors = dict.fromkeys(
            tensor
            for name, choice in choices.items()
            for tensor in activation_tensors(model, layers[name], choice)
        )
        began = time.perf_counter()
        ranges = ranges_from_inputs(source, list(tensors), ArrayInputs(clips))
        ranges_s = time.perf_counter() - began
        limits = ranges.limits(config.method, percentile=config.percentile)
        lint = {"fp32.onnx": 0, "passes.onnx": 0}

        def saved(name: str, made: onnx.ModelProto) -> None:
            onnx.save(made, self.folder / f"{name}.onnx")
            lint[f"{name}.onnx"] = len(lint_qdq(made))

        for name, choice in choices.items():
            quantised = qdq_from_model(model, [x.name for x in layers[name]], limits, choice)
            saved(name, quantised)
            if name == "int8":
                saved("mixed", fp16_from_model(quantised).model)
        saved("fp16", fp16_from_model(model).model)
        every = QuantiseChoice(least_share=0, residual=False)
        return {
            "weights": "trained" if self.checkpoint else "random",
            "clip": list(self.manifest.clip.clip_shape),
            "export_s": export_s,
            "ranges_s_a_clip": ranges_s / ranges.inputs,
            "clips": ranges.inputs,
            "method": config.method,
            "tensors": len(tensors),
            "layers": {name: len(found) for name, found in layers.items()},
            "all_layers": len(quantisable_layers(model, every)),
            "lint": lint,
            "bytes": {name: (self.folder / name).stat().st_size for name in lint},
            "passes": [
                {
                    "name": report.name,
                    "places": report.places,
                    "difference": report.max_difference,
                    "speedup": report.speedup,
                    "kept": report.kept,
                    "why": report.why,
                }
                for report in reports
            ],
        }

    def nncf(self) -> dict[str, Any]:
        """Quantise the graph after the passes with NNCF, with its defaults."""
        try:
            import nncf
        except ImportError as error:
            raise RuntimeError(f"no nncf ({error}). Install it with: pip install nncf") from error
        import openvino as ov

        manifest, clips = self.manifest, np.load(self.folder / "clips.npy")
        model = ov.Core().read_model(str(self.folder / "passes.onnx"))
        model.reshape({manifest.input_name: [1, *manifest.input_shape]})
        kind = nncf.ModelType.TRANSFORMER if self.model == "timesformer" else None
        began = time.perf_counter()
        quantised = nncf.quantize(
            model,
            nncf.Dataset(list(clips), lambda clip: clip[None]),
            subset_size=len(clips),
            model_type=kind,
        )
        seconds = time.perf_counter() - began
        file = self.folder / "nncf.xml"
        ov.save_model(quantised, str(file), compress_to_fp16=False)
        size = file.stat().st_size + file.with_suffix(".bin").stat().st_size
        return {"seconds": seconds, "bytes": size, "version": nncf.__version__}

    # -- engines -------------------------------------------------------------------------------

    def engine(self, name: str, file: str, precision: str, threads: int | None = None) -> Backend:
        """Return a graph in an engine; the caller closes it."""
        from vad_runtime.backends.onnxruntime import OnnxRuntimeBackend
        from vad_runtime.backends.openvino import OpenVinoBackend

        maker = OpenVinoBackend if name == "openvino" else OnnxRuntimeBackend
        options = Options(precision=precision, threads=threads)  # type: ignore[arg-type]
        return maker(self.folder / file, self.manifest, options)

    def accuracy(self) -> dict[str, Any]:
        """Compare every artefact in both engines with fp32 in ONNX Runtime."""
        clips = np.load(self.folder / "check.npy")
        reference = self.engine("onnxruntime", "fp32.onnx", "fp32")
        want = reference.infer(clips)
        reference.close()
        found: dict[str, Any] = {}
        for artefact, (file, precision) in ARTEFACTS.items():
            if not (self.folder / file).exists():
                continue
            found[artefact] = {"file": file}
            for engine in ("onnxruntime", "openvino"):
                if engine == "onnxruntime" and (file.endswith(".xml") or precision == "bf16"):
                    continue
                try:
                    backend = self.engine(engine, file, precision)
                    outputs = backend.infer(clips)
                    layers = {"layers": int8_layers(backend.device)}
                    found[artefact][engine] = compared(outputs, want) | layers
                    backend.close()
                except VadError as error:
                    found[artefact][engine] = {"failed": first_line(error)}
        return found

    def speed(self, threads: int) -> dict[str, Any]:
        """Time every candidate in turns, in this process."""
        from vad_export.timing import interleaved

        clips = np.load(self.folder / "check.npy")
        engines: dict[str, Backend] = {}
        found: dict[str, Any] = {"threads": threads, "times": {}, "failed": {}, "layers": {}}
        kept = any(report["kept"] for report in self.read("prepare")["result"]["passes"])
        for name, (engine, file, precision) in CANDIDATES.items():
            if not (self.folder / file).exists() or ("after passes" in name and not kept):
                continue
            try:
                engines[name] = self.engine(engine, file, precision, threads)
            except VadError as error:
                found["failed"][name] = first_line(error)
        calls = {
            name: lambda turn, e=engine: e.infer(clips[turn % len(clips)][None])
            for name, engine in engines.items()
        }
        times = interleaved(
            calls, rounds=self.args.rounds, max_s=self.args.seconds, label=f"{threads} threads"
        )
        for name, measured_times in times.items():
            one = measured_times.cpu_ms if threads == 1 else measured_times.wall_ms
            found["times"][name] = one.tolist()
            found["layers"][name] = int8_layers(engines[name].device)
        return found
