"""What a measurement says: one document for JSON and HTML, and lines for a terminal."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from vad_runtime.backends import Choice
from vad_runtime.bench.conditions import Watch, peak_rss_bytes
from vad_runtime.bench.energy import Meter
from vad_runtime.bench.latencies import ENOUGH_FOR_P99, misses, summary, thirds
from vad_runtime.bench.measure import Measured, Plan, clips_done, precision_of
from vad_runtime.bench.paths import DECODE, INFERENCE, RESIZED, SCORING, WHOLE, WINDOW, stages
from vad_runtime.bundle import Bundle
from vad_runtime.machine import library_versions, machine_facts
from vad_runtime.words import counted

SCHEMA = 1
_MOST_TIMES = 5

RESIZE = "resize"
STAGES = (DECODE, RESIZE, WINDOW, INFERENCE, SCORING)
"""Parts of the whole path, in its order; `resize` is what decoding and resizing takes beyond
decoding."""


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
    busy_s = sum(found.service_s)
    period_ms = _period_ms(bundle, plan, found)
    machine = machine_facts()
    return {
        "schema": SCHEMA,
        "kind": "vad-run bench",
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "interrupted": found.interrupted,
        "bundle": bundle.name,
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
            "source": None if found.film is None else found.film.name,
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
        "frame_to_score": summary(_ms(found.frame_to_score_s)),
        "target": None
        if plan.target_ms is None
        else misses(latency_ms, found.start_s, plan.target_ms),
        "drift": thirds(service_ms),
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
            "frame_to_score_ms": _ms(found.frame_to_score_s),
        },
    }


def _ms(seconds: Sequence[float]) -> list[float]:
    return (np.array(seconds, np.float64) * 1e3).tolist()  # type: ignore[no-any-return]


def _period_ms(bundle: Bundle, plan: Plan, found: Measured) -> float | None:
    """Return how often a clip of one stream is due, where the frame rate is known."""
    spec = bundle.manifest.clip
    fps = spec.fps if found.film is None else found.film.info.fps
    hop = plan.hop or spec.hop
    return None if fps is None or bundle.manifest.features is not None else hop / fps * 1e3


# -- lines ---------------------------------------------------------------------------------------


def lines_of(report: dict[str, Any]) -> Iterator[str]:
    """Yield the report for a terminal; its table is Markdown."""
    if report["interrupted"]:
        yield "INTERRUPTED: what was measured so far"
    yield f"{report['bundle']}: {report['model']} on {report['device']}"
    yield machine_line(report)
    yield conditions_line(report["conditions"])
    yield inputs_line(report)
    yield ""
    yield f"| ms | {' | '.join(COLUMNS)} | clips |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, values in rows_of(report):
        cells = [f"{values[key]:.2f}" for key in COLUMNS.values()]
        yield f"| {name} | {' | '.join(cells)} | {values['count']} |"
    yield ""
    yield from findings(report)
    path = report["path"]
    if path is not None:
        yield ""
        yield "| stage, ms a clip | CPU | 10-90 % | wall |"
        yield "|---|---|---|---|"
        for name in (*STAGES, WHOLE):
            cpu, wall = (path["stages"][name][f"{kind}_ms_a_clip"] for kind in ("cpu", "wall"))
            # Decoders work in threads of their own: a difference of wall times says nothing.
            on_wall = "" if name == RESIZE else f"{wall['p50']:.2f}"
            yield f"| {name} | {cpu['p50']:.2f} | {cpu['p10']:.2f}-{cpu['p90']:.2f} | {on_wall} |"
        yield ""
        yield from path_lines(path)
    yield from energy_lines(report["energy"])
    for warning in report["conditions"]["warnings"]:
        yield f"warning: {warning}."


COLUMNS = {
    "p50": "p50_ms",
    "p95": "p95_ms",
    "p99": "p99_ms",
    "max": "max_ms",
    "mean": "mean_ms",
    "p5 to p95": "spread_ms",
    "jitter": "jitter_ms",
}
"""Heads of the table of latencies, and what stands below them."""


def rows_of(report: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and statistics of each kind of latency that there is."""
    streams = report["streams"]
    if streams == 1:
        yield "inference", report["latency"]
    else:
        yield f"clip of {streams} due at once", report["latency"]
        yield "inference alone", report["engine"]
    if report["frame_to_score"]["count"]:
        yield "whole path: last frame to score", report["frame_to_score"]


def machine_line(report: dict[str, Any]) -> str:
    """Return what the machine is."""
    machine = report["machine"]
    gpu = f"; {machine['gpu']}" if "gpu" in machine else ""
    return (
        f"machine: {machine['cpu']} ({machine['architecture']}), {machine['usable_threads']} of "
        f"{machine['cores']} cores usable{gpu}; {machine['system']}"
    )


def conditions_line(conditions: dict[str, Any]) -> str:
    """Return clocks, heat, limits and other load, as far as the machine tells."""
    parts = []
    if conditions["governors"]:
        parts.append(f"governor {'/'.join(conditions['governors'])}")
    if conditions["current_mhz"] is not None:
        most = conditions["highest_mhz"]
        of = "" if most is None else f" of at most {most:.0f}"
        parts.append(f"{conditions['current_mhz']:.0f}{of} MHz")
    if conditions["power_mode"] is not None:
        parts.append(f"power mode {conditions['power_mode']}")
    if not parts:
        parts.append("clocks unknown (no cpufreq here)")
    if conditions["hottest_c"] is not None:
        parts.append(f"{conditions['hottest_c']:.0f} °C")
    cores = conditions["cgroup_cores"]
    parts.append("no limit on cores" if cores is None else f"limited to {cores:g} cores")
    others = conditions["other_cores_busy"]
    if others is not None:
        parts.append(f"other processes {others:.2f} cores")
    return f"conditions: {', '.join(parts)}"


def inputs_line(report: dict[str, Any]) -> str:
    """Return what was scored."""
    inputs, shape = report["inputs"], "x".join(map(str, report["input_shape"]))
    if inputs["kind"] == "noise":
        return (
            f"input: {counted(inputs['clips'], 'clip')} of seeded noise in turn, {shape}; no "
            "figures for decoding: those need --source VIDEO"
        )
    width, height = inputs["size"]
    return (
        f"input: {counted(inputs['clips'], 'clip')} of {inputs['source']} ({inputs['codec']}, "
        f"{width}x{height}), {shape}, hop {inputs['hop']}"
    )


def findings(report: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each thing that the tables do not say, the target first."""
    latency, cold = report["latency"], report["cold"]
    if report["target"] is not None:
        yield target_line(report["target"], latency)
    if latency["count"] < ENOUGH_FOR_P99:
        clips = counted(latency["count"], "clip")
        yield f"with {clips}, p99 is the largest; measure more with --clips"
    yield (
        f"cold: bundle {cold['bundle_ms']:.0f} ms, engine {cold['engine_ms']:.0f} ms, "
        f"first clip {cold['first_clip_ms']:.1f} ms; then "
        f"{counted(report['warm_up']['count'], 'clip')} to warm up, not in the table"
    )
    rss = report["peak_rss_bytes"]
    memory = "" if rss is None else f"; peak memory {rss / 1e6:.0f} MB"
    yield (
        f"throughput: {report['throughput_clips_a_s']:.1f} clips/s; CPU "
        f"{report['cpu_ms_a_clip']:.1f} ms a clip, {report['cores_used']:.2f} cores{memory}"
    )
    if report["period_ms"] is not None:
        busy = report["engine"]["mean_ms"] / report["period_ms"]
        yield (
            f"a stream's clip is due every {report['period_ms']:.0f} ms: one stream keeps the "
            f"engine busy for {busy:.0%} of the time"
        )
    if report["drift"] is not None:
        yield drift_line(report["drift"])
    answers = report["answers"]
    yield (
        f"answers: {answers['checked']} finite and equal to the first of their clip (largest "
        f"relative difference {answers['largest_relative_difference']:.1g}, allowed "
        f"{answers['tolerance']:g})"
    )


def target_line(target: dict[str, Any], latency: dict[str, Any]) -> str:
    """Return whether the target is met, and what missed it."""
    verdict = "met" if target["met"] else "MISSED"
    line = (
        f"target {target['target_ms']:g} ms: {verdict}; {target['count']} of "
        f"{counted(latency['count'], 'clip')} over it ({target['share']:.2%}), "
        f"p99 {latency['p99_ms']:.2f} ms, max {latency['max_ms']:.2f} ms"
    )
    if not target["count"]:
        return line
    at = ", ".join(f"{second:.2f}" for second in target["at_s"][:_MOST_TIMES])
    more = ", …" if target["count"] > _MOST_TIMES else ""
    return (
        f"{line}; longest run {target['longest_run']} from {target['longest_run_at_s']:.2f} s on; "
        f"at {at}{more} s"
    )


def drift_line(drift: dict[str, Any]) -> str:
    """Return how the last third of the run compares with the first."""
    line = (
        f"first third {drift['first_third_ms']:.2f} ms, last third {drift['last_third_ms']:.2f} ms "
        f"({drift['ratio'] - 1:+.1%})"
    )
    slower = ": clips got slower; is the device too hot, or was it not alone?"
    return line + (slower if drift["slower"] else "")


def path_lines(path: dict[str, Any]) -> Iterator[str]:
    """Yield what the whole path takes beyond its parts."""
    plain, resized = path["cpu_ratio"], path["cpu_ratio_with_resize"]
    cpu = {name: path["stages"][name]["cpu_ms_a_clip"]["p50"] for name in path["stages"]}
    own = cpu[WHOLE] - cpu[INFERENCE] - cpu[RESIZED]
    yield (
        f"CPU time of the whole path: {plain['p50']:.3f} x (inference alone + decode alone), "
        f"10-90 % {plain['p10']:.3f}-{plain['p90']:.3f}; {resized['p50']:.3f} x with resizing on "
        f"the right side; {own:+.2f} ms a clip beyond that"
    )
    yield (
        f"each stage alone, in turn, in {counted(path['rounds'], 'round')} of "
        f"{path['frames_a_round']} frames; on the whole path decoding runs beside inference; no "
        "tables and no overlay are written"
    )


def energy_lines(energy: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each sensor: what it says, or why it says nothing."""
    for row in energy["sensors"]:
        yield (
            f"energy from {row['sensor']}, {row['what']}: {row['joules_a_clip']:.3g} J a clip, "
            f"{row['joules_a_clip_above_idle']:.3g} J of it above idle ({row['watts']:.1f} W, "
            f"idle {row['idle_watts']:.1f} W)"
        )
    if not energy["sensors"] and not energy["unavailable"]:
        yield "energy: not asked for"
    for name, reason in energy["unavailable"].items():
        yield f"energy from {name}: unavailable, because {reason}"
