"""The report in lines for a terminal, which are Markdown and can be pasted."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from vad_runtime.bench.latencies import ENOUGH_FOR_P99, ms_text
from vad_runtime.bench.nvml import gpu_index
from vad_runtime.bench.paths import DECODE, INFERENCE, RESIZED, SCORING, WHOLE, WINDOW
from vad_runtime.words import counted

RESIZE = "resize"
STAGES = (DECODE, RESIZE, WINDOW, INFERENCE, SCORING)
"""Parts of the whole path, in its order; `resize` is what decoding and resizing takes beyond
decoding."""
_MOST_TIMES = 5


def lines_of(report: dict[str, Any]) -> Iterator[str]:
    """Yield the report: lists and tables, with empty lines between them."""
    if report["interrupted"]:
        yield early_line(report)
        yield ""
    yield f"{report['bundle']}: {report['model']} on {report['device']}"
    yield ""
    yield f"* {machine_line(report)}"
    yield f"* {conditions_line(report['conditions'])}"
    yield f"* {inputs_line(report)}"
    yield ""
    yield f"| ms | {' | '.join(COLUMNS)} | clips |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, values in rows_of(report):
        cells = [ms_text(values[key]) for key in COLUMNS.values()]
        yield f"| {name} | {' | '.join(cells)} | {values['count']} |"
    yield ""
    for line in findings(report):
        yield f"* {line}"
    path = report["path"]
    if path is not None:
        yield ""
        yield "| stage, ms a clip | CPU | 10-90 % | wall |"
        yield "|---|---|---|---|"
        for name in (*STAGES, WHOLE):
            cpu, wall = (path["stages"][name][f"{kind}_ms_a_clip"] for kind in ("cpu", "wall"))
            # Decoders work in threads of their own: a difference of wall times says nothing.
            on_wall = "" if name == RESIZE else ms_text(wall["p50"])
            spread = f"{ms_text(cpu['p10'])}-{ms_text(cpu['p90'])}"
            yield f"| {name} | {ms_text(cpu['p50'])} | {spread} | {on_wall} |"
        yield ""
        for line in path_lines(path):
            yield f"* {line}"
    for line in energy_lines(report["energy"]):
        yield f"* {line}"
    for warning in report["conditions"]["warnings"]:
        yield f"* warning: {warning}."


def early_line(report: dict[str, Any]) -> str:
    """Return why a measurement ended early."""
    if report["failure"] is None:
        return "INTERRUPTED: what was measured so far"
    return f"FAILED on the way ({report['failure'].rstrip('.')}): what was measured before"


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
    if conditions["gpu"] is not None:
        parts.append(_gpu_clock(conditions["gpu"]))
    if conditions["hottest_c"] is not None:
        parts.append(f"{conditions['hottest_c']:.0f} °C")
    cores = conditions["cgroup_cores"]
    parts.append("no limit on cores" if cores is None else f"limited to {cores:g} cores")
    others = conditions["other_cores_busy"]
    if others is not None:
        parts.append(f"other processes {others:.2f} cores")
    return f"conditions: {', '.join(parts)}"


def _gpu_clock(gpu: dict[str, Any]) -> str:
    if gpu["median_mhz"] is None:
        return "GPU's clock not told"
    most = "" if gpu["highest_mhz"] is None else f" of at most {gpu['highest_mhz']}"
    return f"GPU {gpu['median_mhz']:.0f}{most} MHz, lowest {gpu['lowest_mhz']}"


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
        on_gpu = gpu_index(report["device"]) is not None
        yield drift_line(report["drift"], None if on_gpu else report["cpu_drift"])
    answers = report["answers"]
    beside = "" if report["path"] is None else " and those of the whole path"
    yield (
        f"answers: {answers['checked']} scores, all finite and equal to the first of their clip "
        f"(largest relative difference {answers['largest_relative_difference']:.1g}, allowed "
        f"{answers['tolerance']:g}); the runs before the {counted(latency['count'], 'clip')} of "
        f"the table{beside} are among them"
    )


def target_line(target: dict[str, Any], latency: dict[str, Any]) -> str:
    """Return whether the target is met, and what missed it."""
    verdict = "met" if target["met"] else "MISSED"
    line = (
        f"target {target['target_ms']:g} ms: {verdict}; {target['count']} of "
        f"{counted(latency['count'], 'clip')} over it ({target['share']:.2%}), "
        f"p99 {ms_text(latency['p99_ms'])} ms, max {ms_text(latency['max_ms'])} ms"
    )
    if not target["count"]:
        return line
    times = moments(target["at_s"])
    told = [
        text + (f" ({count} clips)" if count > 1 else "") for text, count in times[:_MOST_TIMES]
    ]
    more = ", …" if len(times) > _MOST_TIMES else ""
    return (
        f"{line}; longest run {target['longest_run']} from {target['longest_run_at_s']:.3f} s on; "
        f"at {', '.join(told)}{more} s"
    )


def moments(seconds: Sequence[float]) -> list[tuple[str, int]]:
    """Return each moment once, with the digits that tell them apart, and how often it came.

    Clips of several streams are due at the same moment.

    >>> moments([0.0, 0.0, 0.0021, 0.0043])
    [('0.000', 2), ('0.002', 1), ('0.004', 1)]
    """
    times = Counter(seconds)
    texts: list[str] = []
    for digits in range(2, 7):
        texts = [f"{second:.{digits}f}" for second in times]
        if len(set(texts)) == len(texts):
            break
    return list(zip(texts, times.values(), strict=True))


def drift_line(drift: dict[str, Any], cpu: dict[str, Any] | None = None) -> str:
    """Return how the last third of the run compares with the first.

    Args:
        drift: Of the clips' times.
        cpu: Of their processor times, where the engine computes on the processor. A slower clock
            makes both grow; where only the times grew the clips had to wait.
    """
    line = (
        f"first third {ms_text(drift['first_third_ms'])} ms, last third "
        f"{ms_text(drift['last_third_ms'])} ms ({drift['ratio'] - 1:+.1%})"
    )
    if not drift["slower"]:
        return line
    if cpu is not None and not cpu["slower"]:
        return (
            f"{line}: clips had to wait for other processes (their processor time: "
            f"{cpu['ratio'] - 1:+.1%})"
        )
    return f"{line}: clips got slower; is the device too hot, or was it not alone?"


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
            f"idle before the first clip {row['idle_watts']:.1f} W"
            f"{', and still falling' if row['idle_was_falling'] else ''})"
        )
    if not energy["sensors"] and not energy["unavailable"]:
        yield "energy: not asked for"
    # What a machine has and does not tell can be mended; what it does not have is one line.
    absent = energy["absent"]
    for name, reason in energy["unavailable"].items():
        if name not in absent:
            yield f"energy from {name}: unavailable, because {reason}"
    if absent and len(absent) == len(energy["unavailable"]) and not energy["sensors"]:
        yield f"energy: unavailable, because there is no sensor here ({', '.join(absent)})"
