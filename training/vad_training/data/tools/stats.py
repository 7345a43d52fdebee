"""`vad-train data stats`: what a data set consists of, as tables and pictures."""

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vad_runtime.contracts import InputError, SourceError
from vad_runtime.files import made_folder, whole_file
from vad_runtime.progress import progress
from vad_training.data.table import SPLITS, Entry
from vad_training.data.tools.facts import Facts, facts_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ticker import Locator

VIDEOS, COUNTS, SUMMARY = "videos.csv", "counts.csv", "summary.txt"
DURATIONS_PNG, COUNTS_PNG = "durations.png", "counts.png"
UNDECIDED = "(none)"
"""How a split that is not decided yet is called."""
_FACTS = [field.name for field in fields(Facts)]
_COLOURS = {
    "train": "#3b6ea5",
    "val": "#e8a33d",
    "test": "#5a9e6f",
    "anomaly": "#b5403c",
    UNDECIDED: "#8a8a8a",
}


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Facts about the videos of a data set."""

    videos: list[tuple[Entry, Facts]]
    skipped: list[str]
    """One line for each video that cannot be read: which and why."""


def stats_of(entries: Sequence[Entry], *, fps: float | None = None, decode: bool = False) -> Stats:
    """Read the facts of every video.

    Args:
        entries: The videos.
        fps: Frame rate of folders of frames, frames a second; None = 25.
        decode: Count frames by decoding all of them.

    Raises:
        InputError: None of them can be read.
    """
    videos, skipped = [], []
    with progress("reading videos", len(entries)) as bar:
        for entry in entries:
            try:
                videos.append((entry, facts_of(entry.path, fps=fps, decode=decode)))
            except SourceError as error:
                skipped.append(str(error))
            bar.advance()
    if not videos:
        raise InputError(f"none of the {len(entries)} videos can be read. First: {skipped[0]}")
    return Stats(videos=videos, skipped=skipped)


def summary_of(stats: Stats) -> str:
    """Return a summary for people, several lines."""
    facts = [fact for _, fact in stats.videos]
    seconds = np.array([fact.seconds for fact in facts])
    total_s = float(seconds.sum())
    lines = [
        f"{len(facts)} videos, {sum(fact.frames for fact in facts)} frames, "
        f"{total_s:.3f} s ({total_s / 3600:.2f} h)",
        f"duration: {seconds.min():.3f} s to {seconds.max():.3f} s, median "
        f"{np.median(seconds):.3f} s, mean {seconds.mean():.3f} s",
        "frame rates: " + _tally(f"{fact.fps:.6g}/s" for fact in facts),
        "sizes: " + _tally(f"{fact.width}x{fact.height}" for fact in facts),
        "codecs: " + _tally(fact.codec for fact in facts),
    ]
    turned = sum(fact.rotation != 0 for fact in facts)
    if turned:
        lines.append(f"rotated by their player: {turned}; vad-train data convert turns the pixels")
    splits = _splits_of(stats)
    lines.append("")
    width = max(len("class"), *(len(entry.label) for entry, _ in stats.videos))
    lines.append(f"{'class':{width}}" + "".join(f"{s:>9}" for s in splits) + f"{'all':>9}")
    for label, counts in _counts(stats):
        row = "".join(f"{counts[split]:9d}" for split in splits)
        lines.append(f"{label:{width}}{row}{sum(counts.values()):9d}")
    if stats.skipped:
        lines += ["", f"{len(stats.skipped)} videos cannot be read:", *stats.skipped]
    return "\n".join(lines) + "\n"


def write_stats(stats: Stats, folder: Path) -> list[Path]:
    """Write both tables, the summary and two pictures; return the files.

    Raises:
        InputError: The folder cannot be written.
    """
    made_folder(folder)
    _write_csv(
        folder / VIDEOS,
        ["path", "class", "split", *_FACTS],
        (
            [entry.path, entry.label, entry.split, *(getattr(fact, name) for name in _FACTS)]
            for entry, fact in stats.videos
        ),
    )
    splits = _splits_of(stats)
    _write_csv(
        folder / COUNTS,
        ["class", *splits, "all", "seconds"],
        (
            [
                label,
                *(counts[s] for s in splits),
                sum(counts.values()),
                repr(_seconds(stats, label)),
            ]
            for label, counts in _counts(stats)
        ),
    )
    with whole_file(folder / SUMMARY) as temporary:
        temporary.write_text(summary_of(stats), encoding="utf-8")
    _picture(folder / DURATIONS_PNG, 4.5, lambda axes: _draw_durations(axes, stats))
    classes = len(_counts(stats))
    _picture(folder / COUNTS_PNG, 1.4 + 0.4 * classes, lambda axes: _draw_counts(axes, stats))
    return [folder / name for name in (VIDEOS, COUNTS, SUMMARY, DURATIONS_PNG, COUNTS_PNG)]


def _tally(values: Iterable[str]) -> str:
    most = Counter(values).most_common()
    more = f" and {len(most) - 8} more" if len(most) > 8 else ""
    return ", ".join(f"{value} ({count})" for value, count in most[:8]) + more


def _counts(stats: Stats) -> list[tuple[str, Counter[str]]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for entry, _ in stats.videos:
        counts[entry.label][entry.split or UNDECIDED] += 1
    return [(label, counts[label]) for label in sorted(counts)]


def _splits_of(stats: Stats) -> list[str]:
    there = {entry.split or UNDECIDED for entry, _ in stats.videos}
    return [split for split in (*SPLITS, UNDECIDED) if split in there]


def _seconds(stats: Stats, label: str) -> float:
    return sum(fact.seconds for entry, fact in stats.videos if entry.label == label)


def _write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with whole_file(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(header)
        writer.writerows(rows)


def _picture(file: Path, height: float, draw: "Callable[[Axes], None]") -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    with whole_file(file) as temporary:
        figure.savefig(temporary, format="png")


def _whole_numbers() -> "Locator":
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True, steps=[1, 2, 5, 10])


def _draw_durations(axes: "Axes", stats: Stats) -> None:
    """Draw a histogram, stacked by split."""
    splits = _splits_of(stats)
    values = [
        [fact.seconds for entry, fact in stats.videos if (entry.split or UNDECIDED) == split]
        for split in splits
    ]
    everything = np.concatenate([np.asarray(v) for v in values])
    low, high = float(everything.min()), float(everything.max())
    if high - low < 1e-6:  # all alike: one bar, half a second wide
        low, high = low - 0.25, high + 0.25
    edges = np.linspace(low, high, min(40, max(8, round(len(everything) ** 0.5) * 2)) + 1)
    axes.hist(
        values, edges.tolist(), stacked=True, label=splits, color=[_COLOURS[s] for s in splits]
    )
    axes.set(xlabel="duration, seconds", ylabel="videos")
    axes.set_title(f"Duration of {len(everything)} videos, {everything.sum():.1f} s in all")
    axes.yaxis.set_major_locator(_whole_numbers())
    if splits != [UNDECIDED]:
        axes.legend(title="split", frameon=False)


def _draw_counts(axes: "Axes", stats: Stats) -> None:
    """Draw one horizontal bar for each class, stacked by split."""
    from vad_training.analysis.figures import shown

    rows = _counts(stats)
    places = np.arange(len(rows))
    left = np.zeros(len(rows))
    for split in _splits_of(stats):
        wide = np.array([counts[split] for _, counts in rows])
        axes.barh(places, wide, left=left, label=split, color=_COLOURS[split])
        left += wide
    for row, total in enumerate(left):
        axes.annotate(
            f"{total:.0f}", (total, row), xytext=(4, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(places, [shown(label) for label, _ in rows], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08 * float(left.max()))  # room for the totals
    axes.set(xlabel="videos")
    axes.set_title("Videos by class and split")
    axes.xaxis.set_major_locator(_whole_numbers())
    if _splits_of(stats) != [UNDECIDED]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
