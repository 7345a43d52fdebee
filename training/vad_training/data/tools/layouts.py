"""What the readers of public data sets have in common: what they find, and helpers to find it."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts import InputError
from vad_runtime.labels import Interval
from vad_runtime.sources import find_sources
from vad_training.data.table import Split
from vad_training.data.tools.facts import images_of

NORMAL, ANOMALOUS = "normal", "anomalous"


@dataclass(frozen=True, kw_only=True)
class Found:
    """One video of a data set, not opened yet."""

    source: Path
    split: Split = ""
    label: str | None = None
    """Its class; None = normal or anomalous, as the truth says."""
    anomalies: list[Interval] | None = None
    """Anomalous frames, counted from 0; None = this video has no frame truth."""
    annotated: int | None = None
    """How many frames the annotation speaks of, where it says so."""


@dataclass(kw_only=True)
class Layout:
    """What a reader found in a data set's folder."""

    label_set: str
    """Which labels these are; evaluations print it."""
    fps: float | None = None
    """Frame rate where the data set is folders of frames, which do not say it."""
    found: list[Found] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the user should know: files that are missing, assumptions made."""


def folder_within(root: Path, *names: str) -> Path | None:
    """Return the first of `root/name` that is a folder, upper and lower case alike."""
    for name in names:
        place: Path | None = root
        for part in name.split("/"):
            place = next((c for c in visible(place) if c.name.lower() == part.lower()), None)
            if place is None or not place.is_dir():
                place = None
                break
        if place is not None:
            return place
    return None


def visible(folder: Path | None) -> list[Path]:
    """Return a folder's children in sorted order, without hidden ones (archives hold `._x`).

    Raises:
        InputError: The folder cannot be read.
    """
    if folder is None:
        return []
    try:
        return sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}). Check the path.") from None


def frame_folders(folder: Path) -> list[Path]:
    """Return the sub-folders that hold images, but for masks (`Test001_gt`)."""
    return [
        child
        for child in visible(folder)
        if child.is_dir() and not child.name.endswith("_gt") and images_of(child)
    ]


def videos_in(folder: Path) -> list[Path]:
    """Return all videos and folders of frames below a folder; none is no error."""
    try:
        return find_sources(folder)
    except InputError:
        return []


def loaded_mat(file: Path) -> dict[str, Any]:
    """Read a MATLAB file of version 7 or older.

    Raises:
        InputError: Not readable.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content: dict[str, Any] = loadmat(file)
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError, zlib.error) as error:
        raise InputError(
            f"{file} cannot be read as a MATLAB file ({error}). Copy it again."
        ) from None
    return content


def intervals_from_mat(file: Path) -> list[list[Interval]]:
    """Read the variable `gt` of `ped2.mat` and `avenue.mat`.

    For each test video a matrix of two rows, first and last anomalous frames, counted from 1, both
    included; one column for each interval.

    Raises:
        InputError: Not readable, or of another form.
    """
    content = loaded_mat(file)
    try:
        cells = np.asarray(content["gt"], object).ravel()
        return [
            [interval_from_one(int(a), int(b)) for a, b in np.reshape(cell, (2, -1)).T]
            for cell in cells
        ]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{file} does not hold intervals in a variable gt ({error}). Copy it again."
        ) from None


def interval_from_one(first: int, last: int, kind: str = "anomaly") -> Interval:
    """Return the interval of frames that are counted from 1, both ends included.

    Raises:
        ValueError: No such interval.
    """
    if not 1 <= first <= last:
        raise ValueError(f"no interval goes from {first} to {last}")
    return Interval(first=first - 1, last=last - 1, kind=kind)


def intervals_of(anomalous: npt.NDArray[np.bool_], kind: str = "anomaly") -> list[Interval]:
    """Return the runs of True.

    Args:
        anomalous: Shape (frames,).
        kind: Kind of each interval.
    """
    edges = np.flatnonzero(np.diff(np.concatenate(([False], anomalous, [False])).astype(np.int8)))
    return [
        Interval(first=int(a), last=int(b) - 1, kind=kind)
        for a, b in zip(edges[::2], edges[1::2], strict=True)
    ]


def intervals_from_masks(folder: Path) -> tuple[list[Interval], int]:
    """Read one mask image for each frame; a frame is anomalous where its mask is not empty.

    Returns:
        The intervals, and how many masks there are.

    Raises:
        InputError: A mask cannot be read.
    """
    import cv2

    anomalous = []
    for file in images_of(folder):
        mask = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise InputError(f"the mask {file} cannot be read. Copy the data set again.")
        anomalous.append(bool(mask.any()))
    return intervals_of(np.array(anomalous, bool)), len(anomalous)


def with_intervals(
    sources: Sequence[Path], truth: Sequence[list[Interval]], file: Path
) -> list[Found]:
    """Join test videos, in order of their names, with the truth that stands in the same order.

    Raises:
        InputError: Their numbers differ.
    """
    if len(sources) != len(truth):
        raise InputError(
            f"{file} speaks of {len(truth)} test videos, and {len(sources)} are there. "
            "Complete the data set."
        )
    return [
        Found(source=source, split="test", anomalies=list(anomalies))
        for source, anomalies in zip(sources, truth, strict=True)
    ]
