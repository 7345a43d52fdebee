"""INT8 and FP16 artefacts of a bundle, made from its fp32 graph and proved on clips."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from vad_calibration.agreement import Agreement, Scores, agreement_of
from vad_calibration.fallback import Fallback, fewest_layers_back
from vad_calibration.graph import named
from vad_calibration.lint import lint_qdq
from vad_calibration.placement import (
    Layer,
    activation_tensors,
    quantisable_layers,
    roundings,
)
from vad_calibration.qdq import qdq_from_model
from vad_calibration.ranges import Ranges, ranges_from_inputs
from vad_calibration.sensitivity import layer_effects
from vad_calibration.sensitivity_chart import save_chart
from vad_calibration.tensorrt_cache import tensorrt_cache_from_limits
from vad_export.calibration import (
    CACHE,
    CHART,
    RANGES,
    Calibration,
    calibration_from_folder,
    inputs_from_folder,
)
from vad_export.fp16 import fp16_from_model
from vad_export.opset import opset_of
from vad_export.passes.measure import loaded
from vad_export.precision_config import PrecisionConfig
from vad_runtime import __version__
from vad_runtime.backends.base import Options
from vad_runtime.bundle import Bundle, add_artefacts
from vad_runtime.contracts import (
    Artefact,
    BackendError,
    BundleError,
    ConfigError,
    ExportError,
    ParityError,
)

Target = Literal["int8", "fp16", "mixed"]

Say = Callable[[str], None]


def _silent(_line: str) -> None:
    """Take a line for people and drop it."""


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """An INT8 graph and how it came about."""

    model: onnx.ModelProto
    details: dict[str, Any]
    """For the manifest's entry: method, layers, what was put back, figures of the check."""


def quantise(
    bundle: Bundle,
    precisions: Sequence[Target],
    calibration: Path | None = None,
    config: PrecisionConfig | None = None,
    say: Say = _silent,
) -> Bundle:
    """Add artefacts of other precisions to a bundle.

    Args:
        bundle: With an fp32 artefact.
        precisions: What to make; `mixed` is INT8 where it is quantised and FP16 elsewhere.
        calibration: The calibration folder; needed for `int8` and `mixed`.
        config: How; None = the defaults.
        say: Receives a line per stage.

    Returns:
        The bundle as it stands on disk now.

    Raises:
        ConfigError: No calibration folder where one is needed.
        InputError: The folder does not fit the model, or its footage is gone.
        ExportError: No layer can be quantised, or a graph breaks a rule of `lint_qdq`.
        ParityError: The budget is not met, whatever is put back.
        BackendError: Not even the fp32 graph runs here.
    """
    config = config or PrecisionConfig()
    origin, artefact = _fp32(bundle)
    source = bundle.file(artefact)
    opened: Calibration | None = None
    if {"int8", "mixed"} & set(precisions):
        if calibration is None:
            raise ConfigError(
                "INT8 needs ranges from real clips. Choose some with vad-export calibrate and "
                "name the folder with --calibration."
            )
        opened = calibration_from_folder(calibration, bundle.manifest, check=config.check_clips)
    model = onnx.load(source)
    named(model)  # else fp16's names would hang on whether int8 is made too
    made: dict[str, tuple[onnx.ModelProto, dict[str, Any]]] = {}
    changes: dict[str, Any] = {}
    if opened is not None:
        whole = int8_from_model(bundle, model, source, opened, config, say)
        if "int8" in precisions:
            made["int8"] = (whole.model, whole.details)
        if "mixed" in precisions:
            half = fp16_from_model(whole.model, keep=config.keep_fp32)
            made["mixed"] = (
                _linted(half.model),
                whole.details | {"fp32_nodes": _by_rule(half.kept)},
            )
        changes["calibration"] = opened.about | {"method": config.method}
    if "fp16" in precisions:
        half = fp16_from_model(model, keep=config.keep_fp32)
        made["fp16"] = (half.model, {"fp32_nodes": _by_rule(half.kept)})
    return _added(bundle, origin, made, changes)


def _fp32(bundle: Bundle) -> tuple[str, Artefact]:
    found = bundle.manifest.artefact_of("fp32")
    if found is None:
        raise BundleError(f"{bundle.path} has no fp32 graph. Export it with: vad-export onnx")
    return found


def measured_ranges(
    bundle: Bundle,
    calibration: Path,
    config: PrecisionConfig | None = None,
    *,
    threads: int | None = None,
) -> Ranges:
    """Measure the ranges that `quantise` will need, and keep them in the calibration folder.

    Args:
        bundle: With an fp32 artefact.
        calibration: The calibration folder.
        config: Which layers; None = the defaults. What another choice of operators needs is
            measured anew; `keep` changes nothing here.
        threads: For ONNX Runtime; None = all that this process may use.

    Raises:
        InputError: The folder does not fit the model, or its footage is gone.
        ExportError: No layer can be quantised.
        Interrupted: Ctrl-C came; the same call goes on from there.
    """
    config = config or PrecisionConfig()
    source = bundle.file(_fp32(bundle)[1])
    model = onnx.load(source)
    tensors = _tensors(model, config)
    del model  # hundreds of megabytes that the engine needs now
    inputs = inputs_from_folder(calibration, bundle.manifest)
    return ranges_from_inputs(source, tensors, inputs, state=calibration / RANGES, threads=threads)


def _tensors(model: onnx.ModelProto, config: PrecisionConfig) -> list[str]:
    """Return the tensors of all layers, also of those to keep, so that `keep` may change later."""
    layers = quantisable_layers(model, config.layers)
    return activation_tensors(model, layers, config.layers)


def int8_from_model(
    bundle: Bundle,
    model: onnx.ModelProto,
    source: Path,
    calibration: Calibration,
    config: PrecisionConfig,
    say: Say = _silent,
) -> Quantised:
    """Return an INT8 graph that keeps the budget on the calibration's check clips.

    Args:
        bundle: For its manifest.
        model: The fp32 graph; only read.
        source: Its file.
        calibration: Inputs for the ranges and for the check.
        config: How.
        say: Receives a line per stage.

    Raises:
        ExportError: No layer can be quantised, or the graph breaks a rule.
        ParityError: The budget is not met, whatever is put back.
    """
    layers = _wanted(quantisable_layers(model, config.layers), model, config)
    ranges = ranges_from_inputs(
        source,
        _tensors(model, config),
        calibration.inputs,
        state=calibration.folder / RANGES,
    )
    limits = ranges.limits(config.method, percentile=config.percentile)
    names = [layer.name for layer in layers]
    trial = _Trial(bundle, model, limits, config, calibration)
    say(f"ranges of {len(limits)} tensors from {ranges.inputs} inputs, {config.method}")
    fallback = _searched(trial, names, config, calibration, say)
    chosen = [name for name in names if name not in set(fallback.kept)]
    whole = _linted(trial.graph(frozenset(chosen)))
    rounded = roundings(model, [x for x in layers if x.name in set(chosen)], config.layers)
    tensorrt_cache_from_limits(
        {place.tensor: limits[place.like] for place in rounded}, calibration.folder / CACHE
    )
    agreement = trial.agreement(frozenset(chosen))
    say(
        f"int8: {len(chosen)} of {len(names)} layers, Spearman {agreement.spearman:.4f}, mean "
        f"error {agreement.mean_of_spread:.2%} of the scores' spread on {len(calibration.check)} "
        "clips"
    )
    details = {
        "method": config.method,
        "ranges_key": ranges.key,
        "inputs": ranges.inputs,
        "layers": len(chosen),
        "left_alone": fallback.kept,
        "search": fallback.as_dict(),
        "check": agreement.as_dict(),
    }
    if config.method == "percentile":
        details["percentile"] = config.percentile
    return Quantised(model=whole, details=details)


def _linted(model: onnx.ModelProto) -> onnx.ModelProto:
    findings = lint_qdq(model)
    if findings:
        raise ExportError(f"the INT8 graph is not sound: {findings[0].line}. Report it as a bug.")
    return model


def _wanted(
    layers: Sequence[Layer], model: onnx.ModelProto, config: PrecisionConfig
) -> list[Layer]:
    unknown = sorted(set(config.keep) - {node.name for node in model.graph.node})
    if unknown:
        raise ConfigError(f"keep: the graph has no layer {unknown[0]}. Correct the name.")
    left = [layer for layer in layers if layer.name not in config.keep]
    if not left:
        raise ConfigError("keep names every layer, so nothing is left to quantise. Keep fewer.")
    return left


class _Trial:
    """Scores variants of a graph in which some layers are quantised."""

    def __init__(
        self,
        bundle: Bundle,
        model: onnx.ModelProto,
        limits: dict[str, float],
        config: PrecisionConfig,
        calibration: Calibration,
    ) -> None:
        self._bundle, self._model, self._limits = bundle, model, limits
        self._config, self._check = config, calibration.check
        self._known: dict[frozenset[str], Scores] = {}
        self.reference = self.scores(frozenset())
        scoring = bundle.manifest.scoring
        # Without a threshold the decision that matters is who is among the highest.
        self.threshold = (
            float(np.quantile(self.reference, 0.99))
            if scoring.threshold is None
            else scoring.offset + scoring.threshold * scoring.scale
        )

    def graph(self, layers: frozenset[str]) -> onnx.ModelProto:
        if not layers:
            return self._model
        return qdq_from_model(self._model, layers, self._limits, self._config.layers)

    def scores(self, layers: frozenset[str]) -> Scores:
        """Score the check inputs as `vad-run` would; NaN where the engine refuses the graph."""
        if layers not in self._known:
            options = Options(precision="int8" if layers else "fp32")
            with tempfile.TemporaryDirectory(prefix="vad-int8-") as folder:
                file = Path(folder) / "variant.onnx"
                onnx.save(self.graph(layers), file)
                try:
                    with closing(loaded(file, self._bundle.manifest, options)) as engine:
                        score = np.asarray(engine.infer(self._check)["score"], np.float64)
                except BackendError:
                    if not layers:
                        raise
                    score = np.full_like(self.reference, np.nan)
            self._known[layers] = score
        return self._known[layers]

    def agreement(self, layers: frozenset[str]) -> Agreement:
        return agreement_of(self.reference, self.scores(layers), self.threshold)

    def passes(self, layers: frozenset[str]) -> bool:
        return not self.broken(layers)

    def broken(self, layers: frozenset[str]) -> str:
        """Say which limits of the budget do not hold; empty = all do."""
        found = self.agreement(layers)
        budget = self._config.budget.part(self._config.margin)
        flips = found.flip_share or 0.0
        furthest = max((flip.distance for flip in found.flips), default=0.0)
        limits = {
            f"Spearman {found.spearman:.4f} (least {budget.spearman:.4g})": found.spearman
            >= budget.spearman,
            f"mean error {found.mean_of_spread:.2%} of the scores' spread (most "
            f"{budget.mean_error:.2%})": found.mean_of_spread <= budget.mean_error,
            f"{flips:.2%} of the decisions flip (most {budget.flips:.2%})": budget.flips_hold(
                len(found.flips), found.count, furthest
            ),
        }
        return ", ".join(words for words, holds in limits.items() if not holds)


def _searched(
    trial: _Trial,
    names: Sequence[str],
    config: PrecisionConfig,
    calibration: Calibration,
    say: Say,
) -> Fallback:
    """Return the layers to put back; draws the chart where any had to be."""
    everything = frozenset(names)
    (calibration.folder / CHART).unlink(missing_ok=True)  # of an earlier search
    if trial.passes(everything):
        return Fallback(kept=[], tried=1, passed=True)
    failed = f"with all {len(names)} layers in INT8: {trial.broken(everything)}"
    if not config.search:
        raise ParityError(f"{failed}. Allow the search (search=true), or use fp16 or bf16.")
    say(f"{failed}; looking for the fewest layers to put back")
    effects = layer_effects(names, trial.scores, trial.reference)
    fallback = fewest_layers_back(effects, trial.passes, budget=config.tries)
    save_chart(
        effects,
        fallback,
        calibration.folder / CHART,
        title="What quantising each layer alone does to the score",
    )
    if fallback.out_of_tries and len(fallback.kept) == len(names):
        raise ParityError(
            f"{failed}, and {config.tries} tries found no graph with INT8 layers that keeps the "
            "budget. Allow more tries (tries=…), or use fp16 or bf16."
        )
    if not fallback.passed or len(fallback.kept) == len(names):
        raise ParityError(
            f"{failed}, and no graph with INT8 layers keeps the budget. Use fp16 or bf16, "
            f"calibrate on other clips, or look at {calibration.folder / CHART}."
        )
    say(f"put back: {', '.join(fallback.kept)} ({calibration.folder / CHART})")
    return fallback


def _by_rule(kept: dict[str, str]) -> dict[str, int]:
    """Return how many nodes stayed in FP32 by each rule."""
    rules: dict[str, int] = {}
    for rule in kept.values():
        rules[rule] = rules.get(rule, 0) + 1
    return rules


def _added(
    bundle: Bundle,
    origin: str,
    made: dict[str, tuple[onnx.ModelProto, dict[str, Any]]],
    changes: dict[str, Any],
) -> Bundle:
    versions = {"vad-edge": __version__, "onnx": onnx.__version__}
    with tempfile.TemporaryDirectory(prefix="vad-precision-") as folder:
        entries = {}
        for name, (model, details) in made.items():
            file = Path(folder) / f"model.{name}.onnx"
            onnx.save(model, file)
            entries[name] = (
                Artefact(
                    file=file.name,
                    sha256="",
                    bytes=0,
                    format="onnx",
                    precision=name,  # type: ignore[arg-type]  # a key of Target
                    opset=opset_of(file),
                    tools=versions,
                    made_from=origin,
                    details=details,
                ),
                file,
            )
        return add_artefacts(bundle, entries, **changes)
