"""The page of performance_study.py, from what the suites have put into pytest-benchmark's JSON."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from perf_board import markdown
from perf_models import MODELS
from perf_peers import EAGER, INT8

Test = Mapping[str, Any]

CHAPTERS = {
    "test_clip_latency": (
        "One clip",
        "Batch 1, wall time, all engines in turn in shuffled rounds, with a rest between two "
        "calls, a process for each model. *x eager* is the median over the rounds of PyTorch's "
        "time / this one, "
        "with its interval: a bootstrap's of 95 % from 6 rounds on, below that the least and the "
        "most, as each table's head says. *int8 peak* is the work of a clip a second as a "
        "share of what the multipliers gave at most in int8, whatever the engine computes in; it "
        "may pass 100 %, since products with the zeros of the padding count as work and engines "
        "leave most of them out (profiles.md). "
        "*difference* is the largest one of a score to PyTorch's, as a share of the largest score: "
        "of drawn weights it says only that the same network ran. Every engine gets the same "
        "threads; torch.compile without `freezing`.",
    ),
    "test_whole_path": (
        "From a file to rows and events",
        "`vad-run score` as it is by default (tables, report, scores.png; the film only with "
        "`--overlay`), hop 16, on a film of 104 seconds (C3D: 36). *Decode* is PyAV alone; "
        "*inference* is every sixth clip of the film, one behind the other, scaled. *A rest before "
        "each clip* is the same with 10 ms between two clips, as a run has them: the engine's "
        "threads spin for a while before they sleep, and processor time counts that. *Decode and "
        "inference at the same time* is a sixth of both, scaled, with the decoder two clips ahead "
        "at most: what the two cost a program that does nothing else. *An engine "
        "that computes nothing* rests 10 ms a clip: what is left is decoding, resizing and ours. "
        "*Our own thread* takes the frames and makes clips, scores, events and rows of them; the "
        "decoder has another. *All but decoding, resizing and the engine* is the run without "
        "scores.png less decoding and resizing, of all threads. The target of 1 ms a clip is "
        "judged by our own thread: the other figure is a difference of two large ones, so it moves "
        "with each of them, and it also holds what the decoder's thread pays for sharing the "
        "interpreter. The loop of OpenCV and PyTorch reads, resizes, keeps a list and calls the "
        "model, as the source projects do; it writes nothing, and has a short film.",
    ),
    "test_frame_path": ("From the decoder to model size", "CPU time of one thread."),
    "test_startup": ("Start-up", "Whole processes, files in the cache of the system."),
    "test_memory": (
        "Memory",
        "The most that the process held, as the kernel counts it; the target is for the default.",
    ),
    "test_streams": (
        "Cameras at once",
        "`vad-run site` with recordings that are served in real time; the start is left out. A "
        "number of streams is in time where 99 of 100 clips of all streams together, and 95 of "
        "100 of each, are scored before the next one is due; a clip that was left out counts as "
        "late. `others' cores` is what else ran on the machine.",
    ),
    "test_building": ("At the desk", "Calibration, plans for a GPU, a step of training."),
    "test_native_runner": ("The C++ program beside Python", "Whole processes."),
}
WITHOUT = (
    "anomalib's OpenVINO inferencer is measured apart, [beside vad-edge](anomalib.md), in an "
    "environment of its own: it takes pictures and refuses the answer to a clip, and anomalib "
    "exports neither of its two video models (tried with 2.7.0), so the same graph has to be "
    "rewritten for it first. Other toolkits for video models stand at the end of that page."
)


def page(
    tests: Sequence[Test],
    pictures: Mapping[str, str],
    *,
    machine: Sequence[str],
    made: str,
    command: str,
    seconds: float | None,
    busy: str,
) -> str:
    """Return the page as Markdown.

    Args:
        tests: `benchmarks` of pytest-benchmark's JSON.
        pictures: Plots by name, paths from the page.
        machine: Lines that say what was measured on.
        made: The day.
        command: What makes the page again.
        seconds: What the suites took; None = read from a file.
        busy: How much else the machine did before.
    """
    parts = [
        "# Performance",
        "**Read the ratios**: absolute times are those of one machine at one hour. Weights are "
        "drawn, seeded; times do not hang on them.",
        "\n".join(
            [
                f"* Made on {made} with `{command}`" + (f", {seconds:.0f} s" if seconds else ""),
                *(f"* {line}" for line in machine),
                f"* Before the run: {busy}",
                *peak_lines(tests),
            ]
        ),
        "## Targets",
        targets_table(tests),
        *missed(tests),
    ]
    parts += [f"![{name}]({path})" for name, path in pictures.items()]
    for module, (title, words) in CHAPTERS.items():
        mine = [test for test in tests if f"/{module}.py" in f"/{test['fullname']}"]
        if mine:
            parts += [f"## {title}", words, *chapter(mine)]
    return "\n\n".join([*parts, "## Left out", WITHOUT]) + "\n"


def peak_lines(tests: Sequence[Test]) -> Iterator[str]:
    """Yield the line about the processor's peak."""
    peaks = [test["extra_info"]["peak"] for test in tests if test["extra_info"].get("peak")]
    if peaks:
        kinds = (
            f"{kind} {min(peak[kind] for peak in peaks):,.0f} to "
            f"{max(peak[kind] for peak in peaks):,.0f}"
            for kind in peaks[0]
        )
        yield (
            "* Peak of the multipliers, all threads, 1e9 operations/s, by loops before and after "
            f"each model, from model to model: {', '.join(kinds)}"
        )


def targets_table(tests: Sequence[Test]) -> str:
    """Return every target with its figure and verdict."""
    found = [target for test in tests for target in test["extra_info"].get("targets", [])]
    rows = []
    for one in found:
        sign = "≥" if one["sense"] == "least" else "≤"
        rows.append(
            [
                one["name"],
                one["figure"],
                f"{sign} {one['wanted']:g}{one['unit']}",
                f"**{one['verdict']}**" if one["verdict"].startswith("not") else one["verdict"],
            ]
        )
    return markdown({"head": ["target", "measured", "wanted", "verdict"], "rows": rows})


def missed(tests: Sequence[Test]) -> Iterator[str]:
    """Yield how far the arithmetic of this processor would allow the missed ratios to PyTorch."""
    lines = []
    for test in tests:
        info = test["extra_info"]
        peak, gop, times = info.get("peak"), info.get("gop"), info.get("times", {})
        wanted = [
            one["wanted"]
            for one in info.get("targets", [])
            if one["verdict"][:7] == "not met" and f"int8, x {EAGER}" in one["name"]
        ]
        if not (peak and gop and wanted and "int8" in peak):
            continue
        peak_ms = gop / peak["int8"] * 1e3
        ours, eager = times[INT8]["wall_ms"], times[EAGER]["wall_ms"]
        fastest = min(times, key=lambda name: times[name]["wall_ms"])
        # Padding counts as work: an engine that leaves it out may pass the peak.
        limit_ms = min(peak_ms, times[fastest]["wall_ms"])
        reach = "within" if eager / limit_ms >= wanted[0] else "beyond"
        what = (
            "an engine that used every int8 multiplier all the time would take"
            if limit_ms == peak_ms
            else f"the fastest engine, {fastest}, passes the peak (padding counts as work):"
        )
        lines.append(
            f"* {MODELS[info['model']].name}: {what} {limit_ms:.1f} ms here, "
            f"{eager / limit_ms:.1f} times as fast as PyTorch. The target of {wanted[0]:g} is "
            f"{reach} that. PyTorch reaches {gop / eager * 1e3 / peak['fp32']:.0%} of the fp32 "
            f"peak, ours ({ours:.1f} ms) {peak_ms / ours:.0%} of the int8 peak."
        )
    if lines:
        yield "### The missed ratios to PyTorch, and the limit of this processor"
        yield "\n".join(lines)
        yield (
            "The targets were set for two processors whose multipliers together give 2,047 in int8 "
            "and 505 in fp32 (1e9 operations/s, loops that multiply in registers alone). What this "
            "machine gave stands at the top of the page. PyTorch is further from its peak, and "
            "loses less where the peak is lower, so every ratio to it is lower too. Where the time "
            "of a clip goes, layer by layer: [profiles.md](profiles.md)."
        )


def chapter(tests: Sequence[Test]) -> Iterator[str]:
    """Yield a chapter's tables: those of the board, then the plain times of the other tests."""
    plain = []
    for test in tests:
        info = test["extra_info"]
        for table in info.get("tables", []):
            yield f"**{table['title']}**"
            yield markdown(table)
        if info.get("notes"):
            yield "\n".join(f"* {note}" for note in info["notes"])
        if not info.get("tables"):
            plain.append(test)
    for group, members in itertools.groupby(
        sorted(plain, key=lambda test: test["group"] or ""), key=lambda test: test["group"]
    ):
        rows = [
            [test["name"], milliseconds(stats["median"]), milliseconds(stats["max"])]
            for test in members
            for stats in [test["stats"]]
        ]
        yield f"**{group}**"
        yield markdown({"head": ["what", "median ms", "most ms"], "rows": rows})


def milliseconds(seconds: float) -> str:
    """Return a time in milliseconds with three digits or so."""
    value = seconds * 1e3
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
