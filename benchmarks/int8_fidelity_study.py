"""How far INT8 moves real scores: the tables of docs/results/int8_fidelity.md.

For each model with real weights and real footage (`CASES`): every calibration
method with all default layers, the product's own road with the search for layers to put back, the
gate's verdict, and naive quantisation with what the search makes of it. The method is chosen by
what the check footage says, which is training footage; the test footage is scored once for each
graph and decides nothing.

    python benchmarks/int8_fidelity_study.py DATA --work WORK -o docs/results/int8_fidelity.md

WORK keeps features, exported models, decoded frames and each model's figures; what is there is not
made again. `--few 1` tries everything on few videos: use another WORK for that. The model
`frame-ae` needs h5py (`pip install --target FOLDER --no-deps h5py`, PYTHONPATH=FOLDER).
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from int8_fidelity_c3d import c3d_case
from int8_fidelity_cases import BUDGET, METHODS, Case, Scores
from int8_fidelity_fights import i3d_case, mc3_case
from int8_fidelity_page import document
from int8_fidelity_ped2 import ped_ae_case, stae_case
from onnx import numpy_helper

from vad_calibration.agreement import agreement_of
from vad_calibration.fallback import fewest_layers_back
from vad_calibration.placement import (
    WEIGHT_OPS,
    Layer,
    QuantiseChoice,
    activation_tensors,
    quantisable_layers,
)
from vad_calibration.qdq import qdq_from_model
from vad_calibration.ranges import Ranges, ranges_from_inputs
from vad_calibration.sensitivity import layer_effects
from vad_export.calibration import RANGES, Calibration, calibration_from_folder, choose_inputs
from vad_export.gate import verify
from vad_export.precision import quantise
from vad_export.precision_config import PrecisionConfig
from vad_runtime.backends.base import Backend, Options, PrecisionChoice
from vad_runtime.backends.openvino import OpenVinoBackend
from vad_runtime.contracts import ParityError

CASES: dict[str, Callable[[Path, Path, int | None], Case]] = {
    "stae": stae_case,
    "i3d": i3d_case,
    "mc3": mc3_case,
    "frame-ae": ped_ae_case,
    "c3d": c3d_case,
}
"""By short name: from the data folder, a work folder, and for tries how few videos, to a case."""

Rests = tuple[tuple[str, PrecisionChoice], ...]
RESTS: Rests = (("fp32", "fp32"), ("bf16", "int8"))
"""What is not quantised, and the option that makes OpenVINO compute it so."""
NAIVE = QuantiseChoice(ops=WEIGHT_OPS, least_share=0)
"""Every layer with weights, transposed convolutions and the smallest included."""
REPAIRED = ("stae", "frame-ae", "c3d")
"""Models whose naive graph is searched too; the search scores some fifty graphs."""


def main() -> None:
    """Measure what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="Folder with ped2, stae, fight, …")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repair", nargs="*", choices=CASES, default=REPAIRED)
    parser.add_argument("--few", type=int, help="For tries: about so many videos of each part.")
    parser.add_argument("--threads", type=int, help="None = all that this process may use.")
    parser.add_argument("-o", "--out", type=Path, help="Markdown; also printed.")
    args = parser.parse_args()
    results = []
    for name in args.only:
        work = args.work.resolve() / name
        work.mkdir(parents=True, exist_ok=True)
        file = work / "result.json"
        if not file.exists():
            began = time.perf_counter()
            case = CASES[name](args.data.resolve(), work, args.few)
            study = Study(
                case, work, args.threads, 4 if args.few else PrecisionConfig().check_clips
            )
            result = study.run(repair=name in args.repair)
            result["seconds"] = time.perf_counter() - began
            file.write_text(json.dumps(result, indent=1), encoding="utf-8")
        results.append(json.loads(file.read_text(encoding="utf-8")))
    text = document(results, args).replace(str(args.work.resolve()), "WORK")
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


class Study:
    """What is measured of one model."""

    def __init__(self, case: Case, work: Path, threads: int | None, clips: int) -> None:
        self._config = PrecisionConfig(check_clips=clips)
        self._case, self._work, self._threads = case, work, threads
        self._bundle = case.bundle
        self._source = case.bundle.file(case.bundle.manifest.artefacts["fp32"])
        self._model = onnx.load(self._source)
        self._rows: list[dict[str, Any]] = []
        self._seconds: dict[str, float] = {}
        with self._timed("fp32"), self._engine(self._source, "fp32") as engine:
            self._check, self._test = case.check.scores(engine), case.test.scores(engine)
        threshold = case.bundle.manifest.scoring.threshold
        assert threshold is not None
        self._threshold = threshold

    def run(self, *, repair: bool) -> dict[str, Any]:
        """Return all figures, as JSON values."""
        case = self._case
        folder = self._work / "model.calibration"
        with self._timed("calibration"):
            notes = choose_inputs(
                self._bundle.manifest,
                case.calibration,
                case.inputs,
                folder,
                check=self._config.check_clips,
            )
            calibration = calibration_from_folder(
                folder, self._bundle.manifest, check=self._config.check_clips
            )
            default = QuantiseChoice()
            layers = quantisable_layers(self._model, default)
            ranges = self._ranges(default, calibration, folder / RANGES)
        self._bf16()
        for method in METHODS:
            with self._timed(method):
                limits = ranges.limits(method)
                graph = qdq_from_model(self._model, _names(layers), limits, default)
                self._measure(f"{method}, all default layers", graph, len(layers))
        product = self._product(folder)
        verdicts = self._verdicts() if product["made"] else []
        naive = self._naive(calibration, repair=repair)
        return {
            "name": case.name,
            "about": case.about,
            "notes": notes,
            "inputs": ranges.inputs,
            "check_clips": case.check.clips,
            "test_clips": case.test.clips,
            "layers": len(layers),
            "with_weights": len(quantisable_layers(self._model, NAIVE)),
            "threshold": self._threshold,
            "aucs": {label: auc(self._test) for label, auc in case.aucs.items()},
            "rows": self._rows,
            "product": product,
            "verdicts": verdicts,
            "naive": naive,
            "took": self._seconds,
        }

    # -- steps ---------------------------------------------------------------------------------

    def _ranges(self, choice: QuantiseChoice, calibration: Calibration, state: Path) -> Ranges:
        layers = quantisable_layers(self._model, choice)
        tensors = activation_tensors(self._model, layers, choice)
        return ranges_from_inputs(
            self._source, tensors, calibration.inputs, state=state, threads=self._threads
        )

    def _bf16(self) -> None:
        with self._timed("bf16"), self._engine(self._source, "bf16") as engine:
            self._row("bf16, nothing quantised", "bf16", 0, engine)

    def _measure(
        self, label: str, graph: onnx.ModelProto, layers: int, rests: Rests = RESTS
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "variant.onnx"
            onnx.save(graph, file)
            for rest, precision in rests:
                with self._engine(file, precision) as engine:
                    self._row(label, rest, layers, engine)

    def _product(self, folder: Path) -> dict[str, Any]:
        lines: list[str] = []
        with self._timed("quantise"):
            try:
                self._bundle = quantise(self._bundle, ["int8"], folder, self._config, lines.append)
            except ParityError as error:
                return {"made": False, "said": [*lines, str(error)]}
            artefact = self._bundle.manifest.artefacts["int8"]
            details = artefact.details
            graph = onnx.load(self._bundle.file(artefact))
            label = f"vad-export quantise ({details['method']})"
            self._measure(label, graph, details["layers"])
        return {"made": True, "said": lines, "details": details}

    def _verdicts(self) -> list[dict[str, Any]]:
        case = self._case
        with self._timed("gate"):
            report = verify(
                self._bundle, case.gate, labels=case.labels, count=0, precisions=["int8"]
            )
        return [
            {
                "candidate": result.candidate.name,
                "device": result.device,
                "clips": report.clips,
                "passed": result.passed,
                "broken": list(result.broken),
                "spearman": result.figures and result.figures.spearman,
                "mean_of_spread": result.figures and result.figures.mean_of_spread,
                "flip_share": result.figures and result.figures.flip_share,
                "auc_delta": result.figures and result.figures.auc_delta,
            }
            for result in report.results
        ]

    def _naive(self, calibration: Calibration, *, repair: bool) -> dict[str, Any] | None:
        """Quantise everything the simple ways; search on the one that the check likes least."""
        layers = quantisable_layers(self._model, NAIVE)
        names = _names(layers)
        with self._timed("naive"):
            ranges = self._ranges(NAIVE, calibration, self._work / "naive_ranges.npz")
            makers: dict[str, Callable[[Collection[str]], onnx.ModelProto]] = {}
            for method in ("minmax", "entropy"):
                limits = ranges.limits(method)  # type: ignore[arg-type]  # two of METHODS
                for coarse in (False, True):
                    label = f"naive: {method}, every layer, a scale a "
                    label += "weight" if coarse else "channel"
                    makers[label] = _maker(self._model, layers, limits, coarse=coarse)
                    self._measure(label, makers[label](names), len(names), RESTS[:1])
        if not repair:
            return None
        worst = min(
            (row for row in self._rows if row["graph"] in makers and row["rest"] == "fp32"),
            key=lambda row: row["check"]["spearman"],
        )
        if worst["check"]["holds"]:
            return None
        with self._timed("search"):
            label = worst["graph"]
            return self._put_back(label, makers[label], names, calibration)

    def _put_back(
        self,
        label: str,
        made: Callable[[Collection[str]], onnx.ModelProto],
        names: list[str],
        calibration: Calibration,
    ) -> dict[str, Any]:
        known: dict[frozenset[str], npt.NDArray[np.float64]] = {}

        def scores_of(chosen: frozenset[str]) -> npt.NDArray[np.float64]:
            if chosen not in known:
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder) / "variant.onnx"
                    onnx.save(made(chosen), file)
                    with self._engine(file, "fp32") as engine:
                        score = engine.infer(calibration.check)["score"]
                        known[chosen] = np.asarray(score, np.float64)
            return known[chosen]

        reference = scores_of(frozenset())

        def passes(chosen: frozenset[str]) -> bool:
            return _figures(reference, scores_of(chosen), self._threshold)["holds"] is True

        effects = layer_effects(names, scores_of, reference)
        fallback = fewest_layers_back(effects, passes)
        left = [name for name in names if name not in set(fallback.kept)]
        if left and fallback.kept:
            self._measure(f"{label}; layers put back", made(left), len(left), RESTS[:1])
        most = sorted(effects, key=lambda found: -found.effect)[:5]
        return {
            "graph": label,
            "kept": fallback.kept,
            "of": len(names),
            "tried": fallback.tried,
            "passed": fallback.passed,
            "effects": {found.layer: found.effect for found in most},
        }

    # -- figures -------------------------------------------------------------------------------

    def _row(self, label: str, rest: str, layers: int, engine: Backend) -> None:
        """Score both kinds of footage and note how far that is from fp32."""
        check = self._case.check.scores(engine) if rest == "fp32" else None
        test = self._case.test.scores(engine)
        figures = _figures(_joined(self._test), _joined(test), self._threshold)
        deltas = {name: auc(test) - auc(self._test) for name, auc in self._case.aucs.items()}
        figures["holds"] = bool(
            figures["holds"] and all(abs(d) <= BUDGET.auc_delta for d in deltas.values())
        )
        self._rows.append(
            {
                "graph": label,
                "rest": rest,
                "layers": layers,
                "device": engine.device,
                "check": check and _figures(_joined(self._check), _joined(check), self._threshold),
                "test": figures,
                "auc_deltas": deltas,
            }
        )

    @contextmanager
    def _engine(self, file: Path, precision: PrecisionChoice) -> Iterator[Backend]:
        options = Options(precision=precision, threads=self._threads)
        engine = OpenVinoBackend(file, self._bundle.manifest, options)
        try:
            yield engine
        finally:
            engine.close()

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._seconds[what] = time.perf_counter() - began


def _names(layers: Collection[Layer]) -> list[str]:
    return [layer.name for layer in layers]


def _joined(scores: Scores) -> npt.NDArray[np.float64]:
    joined = np.concatenate(scores)
    return joined[~np.isnan(joined)]


def _figures(
    reference: npt.NDArray[np.float64], scores: npt.NDArray[np.float64], threshold: float
) -> dict[str, Any]:
    found = agreement_of(reference, scores, threshold)
    flips = found.flip_share or 0.0
    return {
        "spearman": found.spearman,
        "mean_of_spread": found.mean_of_spread,
        "max_of_spread": found.max_of_spread,
        "flips": len(found.flips),
        "count": found.count,
        "holds": bool(
            found.spearman >= BUDGET.spearman
            and found.mean_of_spread <= BUDGET.mean_error
            and flips <= BUDGET.flips
        ),
    }


def _maker(
    model: onnx.ModelProto, layers: list[Layer], limits: dict[str, float], *, coarse: bool
) -> Callable[[Collection[str]], onnx.ModelProto]:
    """Return what quantises some of the layers; `coarse`: with one scale for a whole weight."""

    def made(chosen: Collection[str]) -> onnx.ModelProto:
        graph = qdq_from_model(model, chosen, limits, NAIVE)
        if coarse:
            _one_scale_a_weight(graph, model, [x for x in layers if x.name in set(chosen)])
        return graph

    return made


def _one_scale_a_weight(
    graph: onnx.ModelProto, model: onnx.ModelProto, layers: list[Layer]
) -> None:
    """Round weights anew, every channel with the scale of the largest; in place."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    nodes = {node.name: node for node in graph.graph.node}
    for layer in layers:
        weight = numpy_helper.to_array(weights[layer.weight])
        scale = np.float32(np.abs(weight).max() / 127)
        node = nodes[f"dequantise_weight_{layer.name}"]
        rounded, scales = constants[node.input[0]], constants[node.input[1]]
        values = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
        rounded.CopyFrom(numpy_helper.from_array(values, rounded.name))
        same = np.full(scales.dims[0], scale, np.float32)
        scales.CopyFrom(numpy_helper.from_array(same, scales.name))


if __name__ == "__main__":
    main()
