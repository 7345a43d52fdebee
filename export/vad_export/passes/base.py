"""Running the passes: each one is proved equal, timed, and kept only where it helps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx

from vad_export.passes.batch_norm import batch_norm
from vad_export.passes.measure import scores_of, speedups, timing_engine
from vad_export.passes.normalisation import normalisation
from vad_export.passes.output_blocking import output_blocking
from vad_export.passes.reduce_mean import reduce_mean
from vad_runtime.backends.base import Inputs
from vad_runtime.backends.checks import first_line
from vad_runtime.contracts import BackendError, ExportError, Manifest
from vad_runtime.progress import progress

PASSES: Mapping[str, Callable[[onnx.ModelProto], int]] = MappingProxyType(
    {
        "normalisation": normalisation,
        "batch_norm": batch_norm,
        "reduce_mean": reduce_mean,
        "output_blocking": output_blocking,
    }
)
"""Every pass by name, in the order in which `optimise` tries them. Each changes a model in place,
returns how many places it changed, and does nothing in a second run."""

MOST_DIFFERENCE = 1e-5
"""Largest change of a score, as a share of the largest score, that counts as rounding. One engine
that keeps to it is enough where none is beyond `MOST_ROUNDING`: a graph that computes something
else does so in every engine, while rounding hangs on how an engine adds. (ONNX Runtime 1.31 adds
the 16,384 squares of a picture one by one, and is off by 1.2e-5 then.)"""

MOST_ROUNDING = 1e-4
"""Largest change of a score in any engine, as a share of the largest score. Rounding has moved no
score by more than 1.2e-5 yet; what is off by eight times that is wrong, whatever another engine
scores."""

LEAST_SPEEDUP = 1.02
"""A pass that gains less than this is not worth a graph that differs from the exporter's."""

NEEDED = frozenset({"batch_norm", "reduce_mean"})
"""Passes that quantisation needs, so they stay wherever they are exact and are not timed: a
BatchNormalization of its own between Q/DQ layers stops them from being fused, and OpenVINO does not
compile a ReduceMean over frames behind a quantised MatMul."""


@dataclass(frozen=True, kw_only=True)
class PassReport:
    """What one pass did to a graph."""

    name: str
    places: int = 0
    """How many places it changes; 0 = it does not apply."""
    max_difference: float = 0.0
    """Largest difference of a score to the graph before every pass / the largest score."""
    speedup: float | None = None
    """Median ratio of the times before and after; None = not measured."""
    kept: bool = False
    why: str = "does not apply"
    """The figures behind `kept`, in words."""


def optimise(
    model: onnx.ModelProto,
    manifest: Manifest,
    inputs: Inputs,
    *,
    names: Sequence[str] | None = None,
    measure: bool = True,
) -> tuple[onnx.ModelProto, list[PassReport]]:
    """Apply the exact passes that help this graph on this machine.

    A pass is kept where the scores stay within `MOST_DIFFERENCE` and the graph takes less processor
    time: in OpenVINO fp32, in ONNX Runtime where OpenVINO is not installed.
    The passes in `NEEDED` are kept wherever they are exact.

    Args:
        model: fp32; left as it is.
        manifest: Describes its input and its score.
        inputs: Shape (N, …) as the manifest says, N >= 1: real clips, since equal scores on noise
            say little. All are scored, the first is timed.
        names: Passes to try, in the order of `PASSES` whatever their order here; None = all.
        measure: False keeps every pass that changes no score.

    Returns:
        The new model, and one report for each pass tried.

    Raises:
        ExportError: An unknown name, no input, or a model that does not run before any pass.
    """
    unknown = sorted(set(names or ()) - set(PASSES))
    if unknown:
        raise ExportError(f"no pass is called {unknown[0]}. Choose from: {', '.join(PASSES)}.")
    if len(inputs) == 0:
        raise ExportError("the passes cannot be proved equal without an input. Give one clip.")
    chosen = [name for name in PASSES if names is None or name in names]
    with TemporaryDirectory(prefix="vad-passes-") as folder:
        original = before = Path(folder, "original.onnx")
        after, best = Path(folder, "after.onnx"), Path(folder, "best.onnx")
        onnx.save(model, original)
        judge = _Judge(manifest=manifest, inputs=inputs, original=original, measure=measure)
        found = judge.reference("onnxruntime")
        if isinstance(found, BackendError):
            raise ExportError(f"{first_line(found)} No pass was tried.") from found
        current, reports = onnx.load(before), []
        with progress("passes", len(chosen)) as bar:
            for name in chosen:
                report = PassReport(name=name)
                if places := PASSES[name](current):
                    onnx.save(current, after)
                    report = judge.report(name, places, before, after)
                    if report.kept:
                        before = after.replace(best)
                    else:
                        current = onnx.load(before)
                reports.append(report)
                bar.advance(1, name)
    return current, reports


@dataclass(frozen=True, kw_only=True)
class _Judge:
    """Decides whether a changed graph replaces the one before it."""

    manifest: Manifest
    inputs: Inputs
    original: Path
    """The graph before every pass."""
    measure: bool
    _references: dict[str, npt.NDArray[np.float64] | BackendError] = field(default_factory=dict)

    def reference(self, engine: str) -> npt.NDArray[np.float64] | BackendError:
        """Return the original graph's scores in an engine, or why it has none; computed once."""
        if engine not in self._references:
            found: npt.NDArray[np.float64] | BackendError
            try:
                found = scores_of(self.original, self.manifest, self.inputs, engine)
            except BackendError as error:
                found = error
            self._references[engine] = found
        return self._references[engine]

    def difference(self, after: Path) -> float:
        """Return how far scores are off, / the largest score: at worst, or where that is least.

        It is the worst engine's figure where that is beyond `MOST_ROUNDING`, else the least. An
        engine that does not run the original graph says nothing about a changed one.

        Raises:
            BackendError: An engine runs the original graph and not this one.
        """
        found: list[float] = []
        for engine in dict.fromkeys(["onnxruntime", timing_engine()]):
            want = self.reference(engine)
            if isinstance(want, BackendError):
                continue
            got = scores_of(after, self.manifest, self.inputs, engine)
            scale = float(np.abs(want).max()) or 1.0
            off = float(np.abs(got - want).max()) / scale
            if not np.isfinite(off):
                raise BackendError(f"a score in {engine} is not a finite number.")
            found.append(off)
        return max(found) if max(found) > MOST_ROUNDING else min(found)

    def report(self, name: str, places: int, before: Path, after: Path) -> PassReport:
        """Compare two files; a graph that an engine refuses is a reason, not an error."""
        result = PassReport(name=name, places=places)
        try:
            onnx.checker.check_model(str(after), full_check=True)
            difference = self.difference(after)
            result = replace(result, max_difference=difference)
            if not difference <= MOST_DIFFERENCE:
                why = f"changes the scores by {difference:.1e} of the largest, more than rounding"
                return replace(result, why=why)
            if name in NEEDED or not self.measure:
                needed = "exact, and quantisation needs it" if name in NEEDED else "exact"
                return replace(result, kept=True, why=f"{needed}; not timed")
            ratios = speedups(before, after, self.manifest, self.inputs)
        except (
            BackendError,
            onnx.checker.ValidationError,
            onnx.shape_inference.InferenceError,
        ) as error:
            return replace(result, why=f"the changed graph does not run: {first_line(error)}")
        return _timed(result, ratios)


def _timed(report: PassReport, ratios: Sequence[float]) -> PassReport:
    low, speedup, high = (float(value) for value in np.percentile(ratios, [25, 50, 75]))
    kept = speedup >= LEAST_SPEEDUP
    why = (
        f"{speedup:.3f}x in {timing_engine()} fp32 (middle half of {len(ratios)} rounds {low:.3f} "
        f"to {high:.3f}), {'at least' if kept else 'below'} {LEAST_SPEEDUP}"
    )
    return replace(report, speedup=speedup, kept=kept, why=why)
