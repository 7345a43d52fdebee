"""`vad-train data import`: a public data set as a table and labels; nothing is copied."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vad_runtime.contracts import InputError, SourceError
from vad_runtime.files import made_folder, whole_file
from vad_runtime.labels import Interval, Labels, VideoLabels
from vad_runtime.progress import progress
from vad_training.data.table import Entry, write_table
from vad_training.data.tools.facts import facts_of
from vad_training.data.tools.layouts import ANOMALOUS, NORMAL, Found, Layout
from vad_training.data.tools.layouts_by_class import classes, ucf_crime, ucf_sports
from vad_training.data.tools.layouts_fixed_camera import avenue, shanghaitech, ucsd

READERS: dict[str, Callable[[Path], Layout]] = {
    "ucsd": ucsd,
    "avenue": avenue,
    "shanghaitech": shanghaitech,
    "ucf-crime": ucf_crime,
    "ucf-sports": ucf_sports,
    "classes": classes,
}
"""By the name of the kind."""

TABLE, LABELS = "dataset.csv", "labels.json"


@dataclass(kw_only=True)
class Imported:
    """A data set as we keep it."""

    entries: list[Entry]
    labels: Labels | None
    """Truth of the test videos; None where the data set has none."""
    skipped: list[str]
    """One line for each video that cannot be read: which and why."""
    notes: list[str]


def import_dataset(
    kind: str,
    source: Path,
    *,
    annotations: Path | None = None,
    fps: float | None = None,
    decode: bool = False,
) -> Imported:
    """Read a data set's folder.

    The true number of frames of each labelled video comes from `facts_of`: the container's count,
    or a count by decoding where it has none. An annotation that runs past the end is cut there, and
    a note says so.

    Args:
        kind: One of `READERS`.
        source: The data set's folder.
        annotations: Folder of UCF-Crime's lists where they do not lie below `source`.
        fps: Frame rate of folders of frames, frames a second; None = the data set's usual one.
        decode: Count the frames of every video by decoding it.

    Raises:
        InputError: The folder has no known form, or no video in it can be read.
    """
    if not os.path.isdir(source):  # noqa: PTH112 - Path raises for a name that is too long
        raise InputError(f"{source} is no folder. Give the folder of the data set.")
    layout = ucf_crime(source, annotations) if kind == "ucf-crime" else READERS[kind](source)
    rate = fps or layout.fps
    entries: list[Entry] = []
    videos: dict[str, VideoLabels] = {}
    rates: Counter[float] = Counter()
    skipped: list[str] = []
    notes = [] if fps else layout.notes
    if fps:
        notes = [note for note in layout.notes if "frames/s" not in note]
    with progress("reading videos", len(layout.found)) as bar:
        for found in layout.found:
            try:
                facts = facts_of(found.source, fps=rate, decode=decode)
            except SourceError as error:
                skipped.append(str(error))
                bar.advance()
                continue
            label = found.label
            if found.anomalies is not None:
                anomalies = _within(found, facts.frames, notes)
                name = found.source.relative_to(source).as_posix()
                videos[name] = VideoLabels(frames=facts.frames, anomalies=anomalies)
                rates[round(facts.fps, 3)] += 1
                label = label or (ANOMALOUS if anomalies else NORMAL)
            entries.append(Entry(path=found.source, label=label or NORMAL, split=found.split))
            bar.advance()
    if not entries:
        why = f" First: {skipped[0]}" if skipped else f" Is it of the kind {kind}?"
        raise InputError(f"{source} holds no video that can be read.{why}")
    if len(rates) > 1:
        notes.append(
            f"the frame rates differ ({', '.join(f'{r:g}' for r in sorted(rates))}); "
            "the labels name the most frequent"
        )
    labels = None
    if videos:
        common = rates.most_common(1)[0][0]
        labels = Labels(schema=1, label_set=layout.label_set, fps=common, videos=videos)
    return Imported(entries=entries, labels=labels, skipped=skipped, notes=notes)


def write_imported(imported: Imported, folder: Path) -> list[Path]:
    """Write `dataset.csv` and, where there is truth, `labels.json`; return what was written.

    Raises:
        InputError: The folder cannot be written.
    """
    made_folder(folder)
    written = [folder / TABLE]
    if imported.labels is not None:
        with whole_file(folder / LABELS) as temporary:
            encoded = msgspec.json.encode(imported.labels)
            temporary.write_bytes(msgspec.json.format(encoded, indent=1) + b"\n")
        written.append(folder / LABELS)
    write_table(folder / TABLE, imported.entries)
    return written


def _within(found: Found, frames: int, notes: list[str]) -> list[Interval]:
    """Cut the annotation at the end of the video."""
    if found.annotated is not None and found.annotated != frames:
        notes.append(
            f"{found.source}: {frames} frames, but the annotation speaks of {found.annotated}"
        )
    cut = [
        Interval(first=i.first, last=min(i.last, frames - 1), kind=i.kind)
        for i in found.anomalies or ()
        if i.first < frames
    ]
    if cut != found.anomalies:
        notes.append(f"{found.source}: the annotation runs past frame {frames - 1} and is cut")
    return cut
