"""The parity gate: does every artefact, on every back end, decide like the reference?

The reference is the fp32 graph in ONNX Runtime, which the export has compared with PyTorch, or
PyTorch itself. A candidate is one arithmetic on one back end: fp32 and bf16 compute the fp32
artefact, fp16, int8 and mixed are artefacts of their own.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import msgspec

from vad_export.gate_figures import Comparison, Figures, Threshold, WorstClip, broken_limits
from vad_export.gate_scores import opened_footage
from vad_export.precision_config import Budget
from vad_export.verified import ENGINES, decision_settings, engines_here
from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Backend, Options
from vad_runtime.bundle import Bundle, rewrite_manifest
from vad_runtime.contracts import (
    BackendError,
    ConfigError,
    InputError,
    Manifest,
    ParityError,
)
from vad_runtime.contracts.manifest import Precision
from vad_runtime.labels import Labels

CLIPS = 512
"""Clips that are scored unless more are asked for."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
REFERENCE = "onnxruntime fp32"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One arithmetic on one back end."""

    backend: str
    precision: Precision
    artefact: str
    """Short name of the artefact in the manifest."""

    @property
    def name(self) -> str:
        """As reports and the manifest call it, for example `openvino int8`."""
        return f"{self.backend} {self.precision}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was found for one candidate that could be opened."""

    candidate: Candidate
    device: str
    figures: Figures | None
    """None where scoring failed; `broken` says why."""
    worst: WorstClip | None
    broken: tuple[str, ...]
    """One text for each limit that does not hold, with its value."""

    @property
    def passed(self) -> bool:
        """Whether every limit holds."""
        return not self.broken


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """The outcome of a verification."""

    bundle: str
    reference: str
    """What computed the reference."""
    files: tuple[str, ...]
    clips: int
    """Clips (or videos' features) that each candidate scored."""
    clips_key: str
    """Which clips these are: the same key, the same stretches of the same files."""
    threshold: Threshold
    label_set: str | None
    budget: Budget
    results: tuple[Result, ...]
    not_run: dict[str, str]
    """Candidates that could not be opened here, and why."""
    unproven: tuple[str, ...]
    """Artefacts that no back end could run, though they are in the bundle."""
    notes: tuple[str, ...]

    @property
    def failed(self) -> tuple[Result, ...]:
        """The candidates beyond the budget."""
        return tuple(result for result in self.results if not result.passed)

    @property
    def passed(self) -> bool:
        """Whether something was compared, every artefact was, and all kept to the budget."""
        return bool(self.results) and not self.failed and not self.unproven


def verify(
    bundle: Bundle,
    footage: Sequence[Path],
    *,
    labels: Labels | None = None,
    budget: Budget | None = None,
    count: int = CLIPS,
    checkpoint: Path | None = None,
    backends: Sequence[str] = (),
    precisions: Sequence[Precision] = (),
) -> GateReport:
    """Score footage with the reference and with every candidate, and compare.

    Args:
        bundle: Opened; not changed, see `recorded`.
        footage: From `footage_of`; feature files where the graph takes features.
        labels: Truth; adds the AUC.
        budget: What may change; None = the default.
        count: Most clips to score, in stretches spread evenly over the footage; 0 = all.
        checkpoint: The run that was exported: PyTorch is then the reference.
        backends: Which of `ENGINES`; none = all that suit this machine (`engines_here`).
        precisions: Which of `PRECISIONS`; none = all that the bundle has artefacts for.

    Returns:
        The figures; whether they are good enough is for `require_passed`.

    Raises:
        ConfigError: A back end or precision that is not there, or nothing to compare.
        InputError: The footage, labels or checkpoint cannot be used.
        BackendError: The reference cannot be computed here.
    """
    candidates = candidates_of(bundle, backends, precisions)
    if checkpoint is None:
        candidates = [c for c in candidates if c.name != REFERENCE]
        if not candidates:
            raise ConfigError(
                f"{REFERENCE} is the reference itself. Ask for other precisions or back ends, or "
                "compare it with PyTorch: --checkpoint RUN"
            )
    with opened_footage(bundle.manifest, footage, count, labels) as opened:
        with closing(_reference(bundle, checkpoint)) as backend:
            comparison = Comparison(bundle.manifest, opened, backend, budget or Budget())
        results, not_run = [], {}
        for candidate in candidates:
            options = Options(precision=candidate.precision)
            try:
                choice = open_backend(bundle, candidate.backend, options)
            except BackendError as error:
                not_run[candidate.name] = str(error)
                continue
            with closing(choice.backend):
                results.append(_result(comparison, candidate, choice.backend))
        return GateReport(
            bundle=bundle.name,
            reference=comparison.device,
            files=tuple(opened.files),
            clips=opened.clips,
            clips_key=opened.key,
            threshold=comparison.threshold,
            label_set=labels.label_set if labels else None,
            budget=comparison.budget,
            results=tuple(results),
            not_run=not_run,
            unproven=_unproven(candidates, results),
            notes=(*opened.notes, *comparison.notes),
        )


def _result(comparison: Comparison, candidate: Candidate, backend: Backend) -> Result:
    figures, worst, device = None, None, backend.device
    try:
        figures, worst = comparison.of(backend)
        fp32 = candidate.precision == "fp32"
        broken = broken_limits(figures, comparison.budget, fp32=fp32)
    except BackendError as error:
        broken = [f"scoring failed ({str(error).rstrip('.')})"]
    return Result(
        candidate=candidate, device=device, figures=figures, worst=worst, broken=tuple(broken)
    )


def candidates_of(
    bundle: Bundle, backends: Sequence[str] = (), precisions: Sequence[Precision] = ()
) -> list[Candidate]:
    """Return what is to be compared: each artefact's precisions on each back end.

    Raises:
        ConfigError: An unknown back end or precision, or one that the bundle has no artefact for.
    """
    for name in backends:
        if name not in ENGINES:
            raise ConfigError(f"no back end is called {name!r}. Use one of: {', '.join(ENGINES)}")
    for precision in precisions:
        if precision not in PRECISIONS:
            have = ", ".join(PRECISIONS)
            raise ConfigError(f"there is no precision {precision!r}. Use one of: {have}")
        if bundle.manifest.artefact_of(precision) is None:
            raise ConfigError(
                f"{bundle.name} has no artefact for {precision} (it has: "
                f"{', '.join(bundle.manifest.artefacts)}). Make one with: vad-export quantise"
            )
    wanted = [name for name in ENGINES if name in (backends or engines_here())]
    out = []
    for precision in PRECISIONS:
        found = bundle.manifest.artefact_of(precision)
        if found is None or (precisions and precision not in precisions):
            continue
        for name in wanted:
            out.append(Candidate(backend=name, precision=precision, artefact=found[0]))
    return out


def require_passed(report: GateReport, pictures: dict[str, Path] | None = None) -> None:
    """Refuse a bundle whose artefacts do not decide like the reference.

    Args:
        report: From `verify`.
        pictures: By candidate, where the picture of its worst clip was saved.

    Raises:
        ParityError: A limit of the budget does not hold, an artefact could not be run anywhere, or
            nothing was compared.
    """
    if report.failed:
        result = report.failed[0]
        name = result.candidate.name
        text = f"{name}: {result.broken[0]}"
        if result.worst is not None:
            text += f"; worst clip {result.worst.place.file} from frame {result.worst.place.first}"
        if pictures and name in pictures:
            text += f", picture {pictures[name]}"
        others = len(report.failed) - 1
        also = f"; {others} more failed" if others else ""
        raise ParityError(f"{text}{also}. {_next_step(result)}")
    if report.unproven or not report.results:
        reasons = "; ".join(f"{name}: {why.rstrip('.')}" for name, why in report.not_run.items())
        what = f"artefact {report.unproven[0]}" if report.unproven else "nothing"
        done = "was run by no back end" if report.unproven else "could be compared"
        raise ParityError(f"{what} {done} here ({reasons}). Install another back end.")


def _next_step(result: Result) -> str:
    if result.candidate.precision == "fp32":
        return "Try another engine version, or export again."
    if result.candidate.precision == "bf16":
        return "Run this bundle with --precision fp32."
    if result.candidate.precision == "fp16":
        return (
            "Name nodes that stay in fp32: "
            "vad-export quantise --precision fp16 --set keep_fp32=[NODE,...]"
        )
    again = f"vad-export quantise --precision {result.candidate.precision} --set margin=0.5"
    return f"Calibrate on more clips, or make it again with a stricter check: {again}"


def recorded(bundle: Bundle, report: GateReport) -> Bundle:
    """Write the outcome into the manifest, as `parity["verified"]`; the rest of it is kept.

    An earlier outcome of a candidate that was not looked at this time is kept as long as its
    artefact is the same file. What was changed on disk since the bundle was opened is kept too,
    and what `outdated` names is not written.

    Args:
        bundle: As it was when it was verified.
        report: From `verify`.

    Returns:
        The bundle as it stands on disk now.

    Raises:
        BundleError: The manifest cannot be read again or written.
    """
    # Scoring takes minutes. Graphs and settings that were changed meanwhile must not be lost.
    now = Bundle.open(bundle.path, verify=False)
    gone = outdated(bundle, now, report)
    parity = dict(now.manifest.parity or {})
    artefacts = now.manifest.artefacts
    hashes = {artefact.sha256 for artefact in artefacts.values()}
    before = parity.get("verified", {})
    verified = {n: found for n, found in before.items() if found.get("artefact_sha256") in hashes}
    for result in report.results:
        if result.candidate.name in gone:
            continue
        figures = {} if result.figures is None else msgspec.to_builtins(result.figures)
        verified[result.candidate.name] = {
            "passed": result.passed,
            "broken": list(result.broken),
            **figures,
            "device": result.device,
            "artefact_sha256": artefacts[result.candidate.artefact].sha256,
            "reference": report.reference,
            "files": len(report.files),
            "clips": report.clips,
            "clips_key": report.clips_key,
            "threshold": report.threshold.value,
            "scoring": decision_settings(bundle.manifest.scoring),
            "label_set": report.label_set,
            "budget": msgspec.to_builtins(report.budget),
        }
    manifest = msgspec.structs.replace(now.manifest, parity=parity | {"verified": verified})
    return rewrite_manifest(now, manifest)


def outdated(before: Bundle, now: Bundle, report: GateReport) -> list[str]:
    """Return the candidates whose graph, or whose reference, is no longer the one compared.

    Args:
        before: The bundle as it was when it was verified.
        now: As it stands on disk.
        report: From `verify`.
    """

    def same(short: str) -> bool:
        was, held = before.manifest.artefacts[short], now.manifest.artefacts.get(short)
        return held is not None and held.sha256 == was.sha256

    reference = before.manifest.artefact_of("fp32")
    kept = reference is None or same(reference[0])
    candidates = [result.candidate for result in report.results]
    return [c.name for c in candidates if not (kept and same(c.artefact))]


def _unproven(candidates: Sequence[Candidate], results: Sequence[Result]) -> tuple[str, ...]:
    # Not bf16: a processor without it says nothing about the fp32 artefact.
    wanted = [c.artefact for c in candidates if c.precision not in ("fp32", "bf16")]
    ran = {result.candidate.artefact for result in results}
    return tuple(name for name in dict.fromkeys(wanted) if name not in ran)


def _reference(bundle: Bundle, checkpoint: Path | None) -> Backend:
    if checkpoint is None:
        return open_backend(bundle, "onnxruntime", Options(precision="fp32")).backend
    return _torch_backend(bundle.manifest, checkpoint)


def _torch_backend(manifest: Manifest, checkpoint: Path) -> Backend:
    """Return the model of a run in PyTorch, as the graph that the manifest describes."""
    from vad_training.checkpoint import checkpoint_from_path
    from vad_training.graphs import graph_from_checkpoint
    from vad_training.torch_backend import TorchBackend

    score, head = manifest.score, manifest.features is not None
    ahead = manifest.clip.frames - score.count if score.form == "lookahead" else None
    try:
        graph = graph_from_checkpoint(
            checkpoint_from_path(checkpoint),
            form=score.form,
            alpha=score.alpha,
            future_offset=ahead,
            head_only=head,
        )
    except ConfigError as error:
        raise InputError(f"{checkpoint} is not what was exported: {error}") from None
    about = graph.manifest()
    if (about.input_shape, about.score) != (manifest.input_shape, score):
        raise InputError(
            f"{checkpoint} takes {about.input_shape} and scores {about.score.form}, the bundle "
            f"{manifest.input_shape} and {score.form}. Give the run that was exported."
        )
    return TorchBackend(graph, manifest)
