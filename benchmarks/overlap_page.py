"""The page of overlap_study.py: its tables, and what was decided beside the figures for it."""

from collections.abc import Iterator, Sequence

from perf_machine import machine_lines, wall_times_count

Cells = list[list[str]]
PIN_NOTE = "OpenVINO's threads: "

HEAD = ["wall ms a clip", "CPU ms a clip", "wall, x first", "CPU, x first"]
HEADS = {
    "overlap": ["model, film", "engine's threads", "decoder's threads", "ahead", *HEAD],
    "settings": ["model, film", "engine", "settings", *HEAD],
    "crowd": ["model", "engine threads", "wall ms a clip", "x pinned"],
    "handover": ["clip of", "engine", "way", "CPU us a call"],
    "layer": ["part of R(2+1)D-18's clip", "CPU time"],
}


def table(head: list[str], rows: Cells) -> list[str]:
    """Return a table as lines of Markdown."""
    return [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]


def ratios(found: dict[str, Cells], part: str, *keys: str) -> str:
    """Return what a row gains, for every model and film that was measured."""
    texts = []
    for row in found.get(part, []):
        if row[1 : 1 + len(keys)] == list(keys):
            texts.append(f"{row[0]} wall x {row[-2]}, CPU x {row[-1]}")
    return "; ".join(texts) or "not measured"


def decisions(found: dict[str, Cells]) -> list[str]:
    """Return what was decided, beside the figures that speak for or against it."""
    calls = {tuple(row[:3]): row[3] for row in found.get("handover", [])}
    ways = "; ".join(
        f"{key}, {engine}: {calls[key, engine, '`infer` of the back end']} us, "
        f"bound before {calls[key, engine, 'buffers bound before, no answer read']} us"
        for key in dict.fromkeys(row[0] for row in found.get("handover", []))
        for engine in ("OpenVINO", "ONNX Runtime")
    )
    two = "; ".join(f"{row[0]} x {row[3]}" for row in found.get("crowd", []) if row[1] == "not")
    shared = "; ".join(f"{row[0]} {row[1]}" for row in found.get("layer", [])[2:])
    return [
        "Decoding ahead stays as it is: `vad_runtime.sources.prefetch` reads every source in a "
        "thread, through a bounded queue. Against decoding between two clips, decoder's threads "
        f"left to FFmpeg: {ratios(found, 'overlap', '2', 'auto', 'yes')}; engine of one thread "
        f"(against the same first row): {ratios(found, 'overlap', '1', 'auto', 'yes')}.",
        "The decoder's threads stay FFmpeg's choice. One thread, decoded ahead: "
        f"{ratios(found, 'overlap', '2', '1', 'yes')}.",
        "OpenVINO does not pin its threads. By default it holds the calling thread on the first "
        "processor during each clip and the others on the next ones, in every process alike: two "
        "runs of one thread share one processor. Not pinned, the scores are the same; decoder "
        f"beside it: {ratios(found, 'settings', 'OpenVINO', 'not pinned')}; two processes at "
        f"once, wall: {two or 'not measured'}.",
        "ONNX Runtime stays without spinning and without affinities. Spinning: "
        f"{ratios(found, 'settings', 'ONNX Runtime', 'spinning')}; affinities: "
        f"{ratios(found, 'settings', 'ONNX Runtime', 'pinned')}.",
        "No prepared buffers. Clips are read where they lie already (the ring's memory), so that "
        f"little is left, CPU time of a call: {ways or 'not measured'}.",
        "R(2+1)D's first convolution is not shared between overlapping windows: "
        f"{shared or 'not measured'}, before the cost of keeping its output.",
    ]


def notes(
    name: str, rows: Cells, condition: str, models: Sequence[str], films: Sequence[str]
) -> Iterator[str]:
    """Yield what a part was measured under, and what is missing from it."""
    yield condition
    if PIN_NOTE not in condition:
        yield f"{PIN_NOTE}whether they were pinned was not kept."
    if not wall_times_count(condition):
        yield "The load before it was above 1, or is not known: wall times do not count."
    wanted = list(models)
    if name in ("overlap", "settings"):
        wanted = [f"{model}, {film}" for model in models for film in films]
    seen = {row[0] for row in rows}
    missing = [one for one in wanted if one not in seen]
    if missing and name != "layer":
        yield f"Not measured: {'; '.join(missing)}."


def page(
    found: dict[str, Cells],
    conditions: dict[str, str],
    models: Sequence[str],
    films: Sequence[str],
) -> str:
    """Return everything as Markdown."""
    lines = [
        "# Decoding beside the engine, and what else a run could gain",
        "",
        "`python benchmarks/overlap_study.py FOOTAGE`. int8 bundles of drawn weights, a hop of one "
        "clip, no tables "
        "and no film written. Medians; ratios within a round with their interval: of 95 %, or "
        "least to most of fewer than 6 rounds, where it says so.",
        "",
        *(f"* {line}" for line in machine_lines()),
        "",
        "Wall times and their ratios count only where the load before a part was not above 1.",
        "",
        "## Decisions",
        "",
        *(f"* {line}" for line in decisions(found)),
    ]
    for name, rows in found.items():
        lines += ["", f"## {name}", ""]
        for note in notes(name, rows, conditions[name], models, films):
            lines += [note, ""]
        lines += table(HEADS[name], rows)
    gone = [name for name in HEADS if name not in found]
    if gone:
        lines += ["", f"Parts that were not measured: {', '.join(gone)}."]
    return "\n".join(lines) + "\n"
