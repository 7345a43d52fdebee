"""Plots of performance_study.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perf_models import MODELS
from perf_peers import COMPILED, EAGER, INT8, NNCF, OURS, PLAIN_ORT
from perf_ratios import ratio

_COLOURS = {"ours": "#1b6ca8", "peer": "#9aa5b1"}


def save_plots(tests: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Path]:
    """Draw what there is to draw; return the files by what they show, for a reader without them."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "vad-edge"  # the same drawing, the same file
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    clips = [test["extra_info"] for test in tests if "times" in test["extra_info"]]
    if clips:
        name = "Wall time of one clip on every engine, each model's bars beside each other"
        found[name] = _clips(clips, folder / "clips.svg")
        name = "How many times faster than PyTorch eager each engine is, with intervals and targets"
        found[name] = _ratios(clips, folder / "ratios.svg")
    loads = [test["extra_info"]["loads"] for test in tests if "loads" in test["extra_info"]]
    if loads and loads[0]:
        found["99th percentile of the latency against the number of cameras"] = _loads(
            loads[0], folder / "streams.svg"
        )
    return found


def _clips(clips: Sequence[Mapping[str, Any]], file: Path) -> Path:
    import matplotlib.pyplot as plt

    rows = (len(clips) + 1) // 2
    figure, axes = plt.subplots(rows, 2, figsize=(11, 2.6 * rows), squeeze=False)
    for axis in axes.flat[len(clips) :]:
        axis.axis("off")
    for axis, info in zip(axes.flat, clips, strict=False):
        times = sorted(info["times"].items(), key=lambda item: -item[1]["wall_ms"])
        for place, (name, one) in enumerate(times):
            wall = one["wall_ms"]
            spread = [[max(0, wall - one["p10_ms"])], [max(0, one["p90_ms"] - wall)]]
            colour = _COLOURS["ours" if name in OURS else "peer"]
            axis.barh(place, wall, color=colour, xerr=spread, ecolor="#444444", capsize=2)
            axis.text(wall, place, f"  {wall:.0f}", va="center", fontsize=7)
        axis.set_yticks(range(len(times)), [name for name, _ in times], fontsize=7)
        axis.set_title(MODELS[info["model"]].name, fontsize=9)
        axis.set_xlabel("ms, median; whiskers 10 to 90 %", fontsize=7)
        axis.margins(x=0.12)
        axis.tick_params(axis="x", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    return _saved(figure, file)


def _ratios(clips: Sequence[Mapping[str, Any]], file: Path) -> Path:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(11, 0.9 + 0.75 * len(clips)))
    shown = {INT8: "o", NNCF: "s", PLAIN_ORT: "^", COMPILED: "D"}
    labelled: set[str] = set()
    kinds: set[str] = set()
    for place, info in enumerate(clips):
        times = info["times"]
        for shift, (name, marker) in enumerate(shown.items()):
            if name not in times:
                continue
            one = ratio(times[EAGER]["walls_ms"], times[name]["walls_ms"])
            kinds.add(one.kind)
            axis.errorbar(
                one.value,
                place + 0.15 * (1.5 - shift),
                xerr=[[one.value - one.low], [one.high - one.value]],
                fmt=marker,
                capsize=3,
                color=_COLOURS["ours"] if name in OURS else f"C{shift}",
                label=None if name in labelled else name,
            )
            labelled.add(name)
        wanted = MODELS[info["model"]].eager
        if wanted is not None:
            axis.plot([wanted, wanted], [place - 0.4, place + 0.4], "k--", linewidth=1)
    axis.axvline(1, color="#bbbbbb", linewidth=1)
    axis.set_xscale("log")
    ticks = [0.5, 1, 2, 4, 8, 16, 32]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_yticks(range(len(clips)), [MODELS[info["model"]].name for info in clips])
    kind = " or ".join(sorted(kinds))
    axis.set_xlabel(f"times as fast as PyTorch eager fp32 ({kind}); dashed: target of our int8")
    axis.legend(fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return _saved(figure, file)


def _loads(loads: Sequence[Mapping[str, Any]], file: Path) -> Path:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3))
    told = [load for load in loads if load["p99_ms"] is not None]
    axis.plot(
        [load["streams"] for load in told],
        [load["p99_ms"] for load in told],
        "o-",
        color=_COLOURS["ours"],
        label="p99 of all streams together",
    )
    axis.axhline(loads[0]["target_ms"], color="k", linestyle="--", linewidth=1, label="deadline")
    axis.set_xlabel("cameras of 320 x 240 at 25 fps, C3D int8, hop 16")
    axis.set_ylabel("ms")
    axis.set_ylim(bottom=0)
    axis.set_xlim(min(counts := [load["streams"] for load in loads]) - 1, max(counts) + 1)
    for load in loads:
        if load["p99_ms"] is None:  # infinite: there is no height for it
            axis.annotate(
                "clips lost",
                (load["streams"], 1),
                (load["streams"], 0.7),
                xycoords=axis.get_xaxis_transform(),
                textcoords=axis.get_xaxis_transform(),
                arrowprops={"arrowstyle": "->"},
                ha="center",
                fontsize=8,
            )
    axis.legend(fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return _saved(figure, file)


def _saved(figure: Any, file: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
    return file
