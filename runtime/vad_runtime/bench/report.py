"""What a measurement says: one document, from which the JSON, the lines and the page are made."""

import os
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from vad_runtime.backends import Choice
from vad_runtime.bench.conditions import Watch, peak_rss_bytes
from vad_runtime.bench.energy import Meter
from vad_runtime.bench.latencies import ENOUGH_FOR_P99, misses, summary, thirds
from vad_runtime.bench.measure import Measured, Plan, clips_done, precision_of
from vad_runtime.bench.paths import stages
from vad_runtime.bundle import Bundle
from vad_runtime.machine import library_versions, machine_facts

SCHEMA = 1


def report_of(
    bundle: Bundle, choice: Choice, plan: Plan, found: Measured, watch: Watch, meter: Meter
) -> dict[str, Any]:
    """Return everything that was measured, for `bench.json`; times in milliseconds.

    Args:
        bundle: What was measured.
        choice: Its back end.
        plan: What was asked for.
        found: At least one clip.
        watch: The conditions since the start.
        meter: The sensors of energy.
    """
    # First of all: what a long report takes is neither the bundle's memory nor others' load.
    peak_bytes, conditions = peak_rss_bytes(), watch.report()
    latency_ms, service_ms = _ms(found.latency_s), _ms(found.service_s)
    to_score_ms = _ms(found.frame_to_score_s)
    busy_s = sum(found.service_s)
    period_ms = _period_ms(bundle, plan, found)
    machine = machine_facts()
    return {
        "schema": SCHEMA,
        "kind": "vad-run bench",
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "interrupted": found.interrupted,
        "failure": None if found.failure is None else str(found.failure),
        "bundle": _unicode(bundle.name),
        "model": bundle.manifest.name,
        "device": choice.line,
        "backend": choice.name,
        "precision": precision_of(choice, bundle),
        "input_shape": [1, *bundle.manifest.input_shape],
        "machine": machine,
        "versions": library_versions(),
        "conditions": conditions,
        "inputs": {
            "kind": "noise" if found.film is None else "film",
            "clips": found.inputs,
            "source": None if found.film is None else _unicode(found.film.name),
            "codec": None if found.film is None else found.film.info.codec,
            "size": None if found.film is None else [found.film.info.width, found.film.info.height],
            "hop": None if found.film is None else found.film.hop,
        },
        "cold": {
            "bundle_ms": found.cold.bundle_s * 1e3,
            "engine_ms": found.cold.engine_s * 1e3,
            "first_clip_ms": found.cold.first_clip_s * 1e3,
        },
        "warm_up": summary(_ms(found.warm_up_s)),
        "streams": plan.streams,
        "latency": summary(latency_ms),
        "engine": summary(service_ms),
        "frame_to_score": summary(to_score_ms),
        "target": _target(plan, found, latency_ms, found.start_s),
        "target_whole_path": _target(plan, found, to_score_ms, None),
        "drift": thirds(service_ms, found.start_s),
        "cpu_drift": thirds(_ms(found.cpu_s), found.start_s),
        "throughput_clips_a_s": len(service_ms) / busy_s,
        "period_ms": period_ms,
        "streams_by_mean": None
        if period_ms is None
        else int(period_ms * len(service_ms) / busy_s / 1e3),
        "cpu_ms_a_clip": sum(found.cpu_s) / len(found.cpu_s) * 1e3,
        "cores_used": sum(found.cpu_s) / busy_s,
        "peak_rss_bytes": peak_bytes,
        "answers": {
            "checked": found.answers.checked,
            "largest_relative_difference": found.answers.largest,
            "tolerance": found.answers.tolerance,
        },
        "path": None
        if found.film is None or not found.rounds
        else stages(found.rounds, found.film),
        "energy": meter.report(clips_done(found)),
        "raw": {
            "warm_up_ms": _ms(found.warm_up_s),
            "due_s": found.start_s.tolist(),
            "latency_ms": latency_ms,
            "engine_ms": service_ms,
            "cpu_ms": _ms(found.cpu_s),
            "frame_to_score_ms": to_score_ms,
        },
    }


def _ms(seconds: Sequence[float]) -> list[float]:
    return (np.array(seconds, np.float64) * 1e3).tolist()  # type: ignore[no-any-return]


def _target(
    plan: Plan, found: Measured, values_ms: list[float], starts_s: Sequence[float] | None
) -> dict[str, Any] | None:
    """Judge latencies by the target; None = there is none, or nothing to judge."""
    if plan.target_ms is None or not values_ms:
        return None
    so_far = found.interrupted or len(values_ms) < ENOUGH_FOR_P99
    return misses(values_ms, starts_s, plan.target_ms) | {"so_far": so_far}


def _unicode(name: str) -> str:
    """Return a file's name so that it can be written as JSON; Linux takes any bytes for one."""
    return os.fsencode(name).decode(errors="replace")


def _period_ms(bundle: Bundle, plan: Plan, found: Measured) -> float | None:
    """Return how often a clip of one stream is due, where the frame rate is known."""
    spec = bundle.manifest.clip
    fps = spec.fps if found.film is None else found.film.info.fps
    hop = plan.hop or spec.hop
    return None if fps is None or bundle.manifest.features is not None else hop / fps * 1e3
