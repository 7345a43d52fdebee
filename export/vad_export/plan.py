"""Measure a bundle's back ends and precisions on this machine, and keep what was chosen.

How the choice is made: `vad_export.plan_choice`.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vad_export.plan_choice import (
    FAITHFUL,
    Candidate,
    Judged,
    Measured,
    Plan,
    choose,
    gate_of,
    target_of,
)
from vad_export.timing import interleaved
from vad_export.verified import ENGINES, engines_here
from vad_runtime.backends import backend_names, open_backend
from vad_runtime.backends.base import Backend, Inputs, Options
from vad_runtime.backends.checks import usable_threads
from vad_runtime.backends.registry import runs_on_gpu
from vad_runtime.bundle import Bundle, rewrite_manifest
from vad_runtime.contracts import (
    BackendError,
    BundleError,
    FeatureSpec,
    Manifest,
    PlanChoice,
    Precision,
)
from vad_runtime.cuda.driver import gpu_of
from vad_runtime.features import read_fitting_features, segments_for
from vad_runtime.machine import cpu_name, library_versions, machine_facts

WHAT = "wall time of inference alone, one clip at a time; decoding and resizing come on top"

_CLIPS = 4  # more change nothing: the time does not depend on what is in a clip


def plan(
    bundle: Bundle,
    target_ms: float | None = None,
    *,
    clips: Path | None = None,
    backends: Sequence[str] = (),
    threads: int | None = None,
    rounds: int = 30,
    max_s: float = 120.0,
    any_precision: bool = False,
) -> Plan:
    """Choose back end and precision of a bundle for this machine; the bundle stays as it is.

    Args:
        bundle: An opened bundle.
        target_ms: How long a clip may take, milliseconds; None = the time from clip to clip of
            the bundle, ``hop / fps``.
        clips: Footage, as `footage_of` takes it, to time on (where the graph takes features, these,
            as `features_of` does); None = seeded noise.
        backends: Back ends to measure; none = all that are installed, those for a GPU only where
            there is an NVIDIA driver.
        threads: Processor threads for a clip; None = all that this process may use.
        rounds: How often each candidate is timed, at least 5.
        max_s: When the timing ends at the latest, seconds, unless five rounds take longer.
        any_precision: Also choose what `vad-export verify` has not looked at.

    Returns:
        The plan. Without a choice, nothing that is allowed meets the target, and its line says
        what would.

    Raises:
        ConfigError: The target is no positive finite number, or none is given and the bundle does
            not know its frame rate.
        InputError: The clips cannot be read.
        BackendError: Not one candidate could be timed.
    """
    target = target_of(bundle.manifest, target_ms)
    inputs, origin = _inputs(bundle.manifest, clips)
    found = measure(
        bundle, inputs, origin, backends=backends, threads=threads, rounds=rounds, max_s=max_s
    )
    return choose(found, target, any_precision=any_precision, bundle=str(bundle.path))


def measure(
    bundle: Bundle,
    inputs: Inputs,
    origin: str,
    *,
    backends: Sequence[str] = (),
    threads: int | None = None,
    rounds: int = 30,
    max_s: float = 120.0,
) -> Measured:
    """Time every candidate, all of them loaded at once and interleaved.

    Memory: each holds its own copy of the weights.

    Args:
        bundle: An opened bundle.
        inputs: Shape (N, …), as the graph takes them; round i takes input ``i % N``.
        origin: What they are, for people.
        backends: As in `plan`.
        threads: As in `plan`.
        rounds: As in `plan`.
        max_s: As in `plan`.

    Raises:
        BackendError: Not one candidate could be timed.
    """
    opened: dict[str, tuple[str, Precision, Backend]] = {}
    not_run: dict[str, str] = {}
    with ExitStack() as stack:
        for backend, precision in _runs(bundle.manifest, backends or engines_here()):
            name = f"{backend} {precision}"
            try:
                options = Options(precision=precision, threads=threads)
                engine = open_backend(bundle, backend, options).backend
                stack.callback(engine.close)
                # Each clip once: an fp16 graph may overflow on one of them.
                engine.infer(inputs)
            except BackendError as error:
                not_run[name] = str(error)
                continue
            opened[name] = (backend, precision, engine)
        if not opened:
            reasons = "; ".join(dict.fromkeys(reason.rstrip(".") for reason in not_run.values()))
            raise BackendError(f"nothing can run {bundle.name} here: {reasons}.")
        calls = {name: _call(engine, inputs) for name, (_, _, engine) in opened.items()}
        times = interleaved(calls, rounds=rounds, max_s=max_s, label="timing, rounds")
        candidates = []
        for name, (backend, precision, engine) in opened.items():
            gate, fidelity = gate_of(bundle.manifest, backend, precision)
            candidates.append(
                Candidate(
                    backend=backend,
                    precision=precision,
                    times=times[name],
                    gate=gate,
                    fidelity=fidelity,
                    device=engine.device,
                )
            )
    return Measured(
        candidates=candidates,
        not_run=not_run,
        cpu=cpu_name(),
        gpu=gpu_of("auto").name if any(runs_on_gpu(c.backend) for c in candidates) else None,
        threads=threads or usable_threads(),
        inputs=origin,
    )


def _runs(manifest: Manifest, backends: Sequence[str]) -> list[tuple[str, Precision]]:
    """Return back ends and precisions that the bundle has an artefact for."""
    unknown = [name for name in backends if name not in backend_names()]
    if unknown:
        raise BackendError(
            f"no back end is called {unknown[0]!r}. Use one or more of: {', '.join(ENGINES)}"
        )
    have = [precision for precision in FAITHFUL if manifest.artefact_of(precision) is not None]
    return [(name, precision) for name in dict.fromkeys(backends) for precision in have]


def _call(engine: Backend, inputs: Inputs) -> Callable[[int], object]:
    return lambda turn: engine.infer(inputs[turn % len(inputs) :][:1])


def _inputs(manifest: Manifest, footage: Path | None) -> tuple[Inputs, str]:
    """Return inputs to time on, shape (N, …), and what they are."""
    spec = manifest.features
    if footage is not None and spec is not None:
        return _features(spec, footage)
    if footage is not None:
        from vad_calibration import clips_from_footage
        from vad_export.gate_footage import footage_of

        sample = clips_from_footage(footage_of(footage), manifest.clip, _CLIPS)
        return sample.clips, f"{len(sample.clips)} clips of {footage.name}"
    rng = np.random.default_rng(0)
    shape = (_CLIPS, *manifest.input_shape)
    noise = f"{_CLIPS} inputs of seeded noise (the time does not depend on the content)"
    if spec is None:
        return rng.integers(0, 256, shape, dtype=np.uint8), noise
    drawn = np.abs(rng.standard_normal(shape, np.float32))
    if spec.normalise:
        drawn /= np.linalg.norm(drawn, axis=2, keepdims=True)
    return drawn, noise


def _features(spec: FeatureSpec, footage: Path) -> tuple[Inputs, str]:
    from vad_export.gate_footage import features_of

    videos = features_of(footage, spec)[:_CLIPS]
    parts = [segments_for(read_fitting_features(video, spec), spec) for video in videos]
    return np.stack(parts), f"features of {len(parts)} videos of {footage.name}"


def with_plan(bundle: Bundle, plan: Plan) -> Bundle:
    """Write a plan and what was measured into the bundle's manifest.

    Args:
        bundle: As it was when it was measured.
        plan: One with a choice.

    Raises:
        BundleError: The bundle's artefacts have changed since, or it cannot be written.
    """
    # Timing takes minutes. Settings that were changed meanwhile must not be lost.
    now = Bundle.open(bundle.path, verify=False)
    if now.manifest.artefacts != bundle.manifest.artefacts:
        raise BundleError(f"{bundle.path} has changed while it was timed. Plan it again.")
    manifest = msgspec.structs.replace(
        now.manifest, plan=plan_choice(plan), latency=latency_report(plan)
    )
    return rewrite_manifest(now, manifest)


def plan_choice(plan: Plan) -> PlanChoice:
    """Return what the manifest keeps of the choice."""
    assert plan.chosen is not None
    gpu = plan.measured.gpu if runs_on_gpu(plan.chosen.backend) else None
    return PlanChoice(
        backend=plan.chosen.backend,
        precision=plan.chosen.precision,
        target_ms=plan.target.ms,
        median_ms=plan.chosen.times.median_ms,
        p95_ms=plan.chosen.times.p95_ms,
        cpu=gpu or plan.measured.cpu,
        threads=plan.measured.threads,
        why=plan.line,
    )


def latency_report(plan: Plan) -> dict[str, Any]:
    """Return all measurements for the manifest; times in milliseconds, to a microsecond."""
    return {
        "what": WHAT,
        "target_ms": plan.target.ms,
        "target_from": plan.target.origin,
        "machine": machine_facts(),
        "versions": library_versions(),
        "threads": plan.measured.threads,
        "inputs": plan.measured.inputs,
        "candidates": {j.candidate.name: _times_report(j) for j in plan.judged},
        "not_run": dict(plan.measured.not_run),
    }


def _times_report(judged: Judged) -> dict[str, Any]:
    times = judged.candidate.times
    return {
        "median_ms": round(times.median_ms, 3),
        "p10_ms": round(times.percentile_ms(10), 3),
        "p90_ms": round(times.percentile_ms(90), 3),
        "p95_ms": round(times.p95_ms, 3),
        "cpu_median_ms": round(times.cpu_median_ms, 3),
        "rounds": times.rounds,
        "device": judged.candidate.device,
        "meets": judged.meets,
        "refused": judged.refusal or None,
    }
