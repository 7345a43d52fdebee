"""`vad-train data square`: the square part of each picture that a classifier is to see."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from vad_runtime.contracts import InputError, SourceError
from vad_runtime.files import made_folder
from vad_runtime.progress import progress
from vad_runtime.sources import Pixels
from vad_training.data.table import Entry, write_table
from vad_training.data.tools.entries import named_targets, require_new
from vad_training.data.tools.rewrite import rewrite

TABLE = "dataset.csv"


@dataclass(frozen=True, kw_only=True)
class Squared:
    """What was cropped."""

    table: Path
    entries: list[Entry]
    skipped: list[str]
    """One line for each video that could not be read: which and why."""
    notes: list[str]


def square_picture(
    picture: Pixels, *, side: int | None = None, offset: tuple[float, float] = (0.0, 0.0)
) -> Pixels:
    """Return the largest square of a picture.

    ::

        offset x  -1        0        +1       of a wide picture; y likewise of a tall one
                 [####..] [.####.] [..####]

    Args:
        picture: Shape (rows, columns, 3), uint8.
        side: Side of the result, pixels; None = the picture's shorter side.
        offset: Where the square lies, x and y, each from -1 (left, top) to 1 (right, bottom).

    Returns:
        Shape (side, side, 3), uint8; a new array.
    """
    rows, columns = picture.shape[:2]
    short = min(rows, columns)
    left = round((columns - short) * (offset[0] + 1) / 2)
    top = round((rows - short) * (offset[1] + 1) / 2)
    part = picture[top : top + short, left : left + short]
    if side is None or side == short:
        return np.array(part)
    how = cv2.INTER_AREA if side < short else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(part, (side, side), interpolation=how), np.uint8)


def square_videos(
    entries: Sequence[Entry],
    out: Path,
    *,
    side: int | None = None,
    offset: tuple[float, float] = (0.0, 0.0),
    overwrite: bool = False,
    fps: float | None = None,
) -> Squared:
    """Write the square part of every video as `out/CLASS/NAME.mp4`, and `out/dataset.csv`.

    Class, split and original of each entry are kept.

    Args:
        entries: The videos.
        out: Output folder.
        side: Side of the result, pixels; None = each picture's shorter side.
        offset: Where the square lies, x and y, each from -1 to 1.
        overwrite: Replace what is there.
        fps: Frame rate of folders of frames, frames a second; None = 25.

    Raises:
        InputError: An offset beyond -1..1, an output that exists, or nothing could be read.
    """
    if not all(-1 <= value <= 1 for value in offset):
        raise InputError(f"the offset {offset} is not within -1 and 1. Choose one that is.")
    targets = named_targets(entries, out)
    require_new([*targets, out / TABLE], overwrite, [entry.path for entry in entries])
    made_folder(out)
    moved: dict[Path, Path] = {}
    skipped: list[str] = []
    notes: list[str] = []

    def change(picture: Pixels) -> Pixels:
        return square_picture(picture, side=side, offset=offset)

    with progress("cropping, videos", len(entries)) as bar:
        for entry, target in zip(entries, targets, strict=True):
            try:
                notes += rewrite(entry.path, target, change, fps=fps).notes
                moved[entry.path] = target
            except SourceError as error:
                skipped.append(str(error))
            bar.advance()
    if not moved:
        raise InputError(f"none of the {len(entries)} videos can be read. First: {skipped[0]}")
    made = [
        replace(
            entry,
            path=moved[entry.path],
            # An original that is not among the videos still tells which clips belong together.
            original=entry.original and moved.get(entry.original, entry.original),
        )
        for entry in entries
        if entry.path in moved
    ]
    write_table(out / TABLE, made)
    return Squared(table=out / TABLE, entries=made, skipped=skipped, notes=notes)
