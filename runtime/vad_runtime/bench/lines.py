"""The report in lines for a terminal, which are Markdown and can be pasted."""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from vad_runtime.bench.latencies import ENOUGH_FOR_P99, ms_text
from vad_runtime.bench.nvml import gpu_index
from vad_runtime.bench.paths import DECODE, INFERENCE, SCORING, WHOLE, WINDOW
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
    for line in (*(words for _, words in verdicts(report)), *findings(report)):
        yield f"* {line}"
    path = report["path"]
    if path is not None:
        yield ""
        yield f"| {' | '.join(STAGE_COLUMNS)} |"
        yield "|---|---|---|---|"
        for row in stage_cells(path):
            yield f"| {' | '.join(row)} |"
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


STAGE_COLUMNS = ("stage, ms a clip", "CPU", "10-90 %", "wall")


def stage_cells(path: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row below `STAGE_COLUMNS` for each stage."""
    for name in (*STAGES, WHOLE):
        cpu, wall = (path["stages"][name][f"{kind}_ms_a_clip"] for kind in ("cpu", "wall"))
        # Decoders work in threads of their own: a difference of wall times says nothing.
        on_wall = "" if name == RESIZE else ms_text(wall["p50"])
        # One round has no spread.
        spread = f"{ms_text(cpu['p10'])}-{ms_text(cpu['p90'])}" if path["rounds"] > 1 else ""
        yield name, ms_text(cpu["p50"]), spread, on_wall


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


def verdicts(report: dict[str, Any]) -> Iterator[tuple[bool, str]]:
    """Yield a line for each question of which the answer is yes or no, and whether it is yes."""
    streams = report["streams"]
    name = "one clip's inference" if streams == 1 else f"clip of {streams} due at once"
    judged = (
        ("target", name, "latency"),
        ("target_whole_path", "whole path, last frame to score", "frame_to_score"),
    )
    for key, name, row in judged:
        if report[key] is not None:
            yield report[key]["met"], target_line(report[key], report[row], name)
    if report["period_ms"] is not None:
        yield report["streams_by_mean"] >= streams, streams_line(report)
    elif streams > 1:
        # Features have three axes, and no --source.
        video = report["inputs"]["kind"] == "noise" and len(report["input_shape"]) > 3
        hint = ". Name a video with --source" if video else ""
        yield True, f"whether {streams} streams keep up is not known: there is no frame rate{hint}"


def streams_line(report: dict[str, Any]) -> str:
    """Return whether the engine is fast enough for the streams, and for how many it is."""
    streams, carries, period_ms = (report[k] for k in ("streams", "streams_by_mean", "period_ms"))
    share = streams * report["engine"]["mean_ms"] / period_ms * 100
    need, they = ("one stream needs", "it") if streams == 1 else (f"{streams} streams need", "they")
    keep = "keeps" if streams == 1 else "keep"
    dont = "does not" if streams == 1 else "do not"
    return (
        f"{need} {share:.{0 if share >= 10 else 1}f} % of the engine: {they} "
        f"{f'{keep} up' if carries >= streams else f'{dont} keep up'}; this machine carries "
        f"{carries or 'none'} (of this hop and rate: a clip every {period_ms:.0f} ms; decoding not "
        "counted)"
    )


def findings(report: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each other thing that the tables do not say."""
    latency, cold = report["latency"], report["cold"]
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


def target_line(target: dict[str, Any], latency: dict[str, Any], name: str) -> str:
    """Return whether the target is met, and what missed it.

    Args:
        target: From `misses`.
        latency: Statistics of what is judged.
        name: What is judged.
    """
    clips = counted(latency["count"], "clip")
    verdict = "met" if target["met"] else "MISSED"
    if target["so_far"]:
        verdict += f" so far ({clips})"
    p99 = f"p99 {ms_text(latency['p99_ms'])} ms, " if latency["count"] >= ENOUGH_FOR_P99 else ""
    line = (
        f"target {target['target_ms']:g} ms, {name}: {verdict}; {target['count']} of {clips} over "
        f"it ({target['share']:.2%}), {p99}max {ms_text(latency['max_ms'])} ms"
    )
    if not target["count"]:
        return line
    line = f"{line}; longest run {target['longest_run']}"
    if not target["at_s"]:
        return line
    # Clips of several streams are due at the same moment.
    times = Counter(target["at_s"])
    first = list(times)[:_MOST_TIMES]
    digits = digits_of({*first, target["longest_run_at_s"]})
    told = [
        f"{second:.{digits}f}" + (f" ({times[second]} clips)" if times[second] > 1 else "")
        for second in first
    ]
    more = ", …" if len(times) > _MOST_TIMES else ""
    return f"{line} from {target['longest_run_at_s']:.{digits}f} s on; at {', '.join(told)}{more} s"


def digits_of(moments: Collection[float]) -> int:
    """Return how many digits behind the point tell different moments apart, 2 to 6.

    >>> digits_of([0.0, 0.0021, 0.0043])
    3
    """
    for digits in range(2, 6):
        if len({f"{second:.{digits}f}" for second in moments}) == len(moments):
            return digits
    return 6


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
    spread = f", 10-90 % {plain['p10']:.3f}-{plain['p90']:.3f}" if path["rounds"] > 1 else ""
    yield (
        f"CPU time of the whole path: {plain['p50']:.3f} x (inference alone + decode alone)"
        f"{spread}; {resized['p50']:.3f} x with resizing on the right side; "
        f"{path['own_cpu_ms_a_clip']['p50']:+.2f} ms a clip beyond that"
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
