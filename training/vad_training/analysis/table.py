"""The scored clips that every analysis starts from, and their CSV."""

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts import InputError
from vad_runtime.files import whole_file

Values = npt.NDArray[np.float64]
Names = npt.NDArray[np.str_]
Mask = npt.NDArray[np.bool_]

SPLITS = ("train", "val", "test", "anomaly")
SPACES = ("embedding", "latent")
"""Where a clip is a point: the backbone's output, and the autoencoder's code of it."""

COLUMN_NAMES = {
    "video": ("video", "path_video"),
    "first_frame": ("first_frame",),
    "class": ("class", "eng_class"),
    "split": ("split", "type_dataset"),
    "error": ("error", "reconstruction_error"),
    "embedding_distance": ("embedding_distance",),
    "latent_distance": ("latent_distance",),
}
"""What a column may be called, in any case; ours first, then the names of other projects' tables.
Further columns are `embedding_distance:CLASS` and `latent_distance:CLASS`, the distance to the
centroid of CLASS. Every other column is ignored."""

_NEEDED = ("class", "split", "error")


@dataclass(frozen=True, kw_only=True)
class Space:
    """Where n clips lie in one space. Distances are Euclidean."""

    own: Values
    """Shape (n,): distance to the centroid of the clip's own class; NaN = it has none."""
    centroids: tuple[str, ...] = ()
    """Classes that have a centroid: the mean of their training clips."""
    to_centroids: Values | None = None
    """Shape (n, len(centroids))."""
    points: Values | None = None
    """Shape (n, D)."""


@dataclass(frozen=True, kw_only=True)
class ClipTable:
    """n scored clips; all arrays are equally long."""

    videos: tuple[str, ...]
    """Name of each clip's video; empty = not known."""
    first_frames: npt.NDArray[np.int64]
    """Frame of its video at which a clip starts; -1 = not known."""
    classes: Names
    splits: Names
    """One of `SPLITS`."""
    errors: Values
    """`sum((e - ê)^2)` over the embedding e and its reconstruction ê."""
    spaces: Mapping[str, Space] = field(default_factory=dict)
    """By name, see `SPACES`; a space of which nothing is known is missing."""

    def __len__(self) -> int:
        return len(self.errors)

    def rows(self, *splits: str) -> Mask:
        """Return which clips, shape (n,), belong to one of the splits."""
        return np.isin(self.splits, splits)

    @property
    def class_names(self) -> list[str]:
        """Every class: those of the training split first, then the others, each sorted."""
        trained = sorted(set(self.classes[self.rows("train")].tolist()))
        return trained + sorted(set(self.classes.tolist()) - set(trained))


def space_from_points(points: Values, classes: Names, splits: Names) -> Space:
    """Return the distances of points to the centroid of each class of the training split.

    Args:
        points: Shape (n, D).
        classes: Shape (n,).
        splits: Shape (n,).
    """
    names = tuple(sorted(set(classes[splits == "train"].tolist())))
    to_centroids = np.full((len(points), len(names)), np.nan)
    own = np.full(len(points), np.nan)
    for i, name in enumerate(names):
        centroid = points[(classes == name) & (splits == "train")].mean(axis=0)
        to_centroids[:, i] = np.linalg.norm(points - centroid, axis=1)
        own = np.where(classes == name, to_centroids[:, i], own)
    return Space(own=own, centroids=names, to_centroids=to_centroids, points=points)


def read_clip_table(file: Path) -> ClipTable:
    """Read scored clips from a CSV with the columns of `COLUMN_NAMES`.

    Class, split and error are needed. A distance may be empty.

    Raises:
        InputError: Not readable, a needed column is missing, no class, an unknown split, or no
            number.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.reader(stream))
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}). Check the path.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} is no CSV ({error}). Give a table of scored clips.") from None
    header = rows[0] if rows else []
    columns = _columns(header)
    for name in _NEEDED:
        if name not in columns:
            known = " or ".join(COLUMN_NAMES[name])
            raise InputError(f"{file} has no column {known}. Add it, or give another table.")
    reader = _Reader(file, columns, [(n, row) for n, row in enumerate(rows[1:], 2) if any(row)])
    if not reader.rows:
        raise InputError(f"{file} holds no clips. Give a table of scored clips.")
    return ClipTable(
        videos=tuple(reader.texts("video")),
        first_frames=np.array([int(x) if x else -1 for x in reader.whole("first_frame")], np.int64),
        classes=np.array(reader.classes(), np.str_),
        splits=np.array(reader.splits(), np.str_),
        errors=reader.numbers("error", may_be_empty=False),
        spaces={s: space for s in SPACES if (space := _space(reader, s, header)) is not None},
    )


def write_clip_table(file: Path, table: ClipTable) -> None:
    """Write scored clips as CSV; `read_clip_table` gives them back, without points.

    Raises:
        InputError: The file cannot be written.
    """
    columns = ["video", "first_frame", "class", "split", "error"]
    distances: list[Values] = []
    for name, space in table.spaces.items():
        columns.append(f"{name}_distance")
        distances.append(space.own)
        if space.to_centroids is not None:
            columns += [f"{name}_distance:{c}" for c in space.centroids]
            distances += list(space.to_centroids.T)
    with whole_file(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for i in range(len(table)):
            first = int(table.first_frames[i])
            writer.writerow(
                [
                    table.videos[i],
                    first if first >= 0 else "",
                    table.classes[i],
                    table.splits[i],
                    repr(float(table.errors[i])),
                    *("" if np.isnan(d[i]) else repr(float(d[i])) for d in distances),
                ]
            )


def _columns(header: Iterable[str]) -> dict[str, int]:
    """Return where each known column stands."""
    at = {name.strip().lower(): i for i, name in reversed(list(enumerate(header)))}
    found = {}
    for name, known in COLUMN_NAMES.items():
        places = [at[k] for k in known if k in at]
        if places:
            found[name] = places[0]
    return found


def _space(reader: "_Reader", name: str, header: list[str]) -> Space | None:
    """Return what the table knows of a space."""
    prefix = f"{name}_distance:"
    places = [i for i, column in enumerate(header) if column.strip().lower().startswith(prefix)]
    centroids = tuple(header[i].strip()[len(prefix) :] for i in places)
    own = reader.numbers(f"{name}_distance")
    if not places:
        return None if np.isnan(own).all() else Space(own=own)
    to = np.stack([reader.numbers_at(i, header[i], may_be_empty=False) for i in places], axis=1)
    return Space(own=own, centroids=centroids, to_centroids=to)


class _Reader:
    """Columns of a CSV; `rows` are (line number, cells)."""

    def __init__(
        self, file: Path, columns: dict[str, int], rows: list[tuple[int, list[str]]]
    ) -> None:
        self._file, self._columns, self.rows = file, columns, rows

    def texts(self, name: str) -> list[str]:
        if name not in self._columns:
            return [""] * len(self.rows)
        return [cell for _line, cell in self._cells(self._columns[name])]

    def whole(self, name: str) -> list[str]:
        """Return whole numbers, as text; empty = not known."""
        cells = self.texts(name)
        for (line, _row), cell in zip(self.rows, cells, strict=True):
            if cell and not (cell.isascii() and cell.isdigit()):
                raise self._error(line, f"{name} is {cell!r}, not a whole number. Correct it.")
        return cells

    def classes(self) -> list[str]:
        cells = self.texts("class")
        for (line, _row), cell in zip(self.rows, cells, strict=True):
            if not cell:
                raise self._error(line, "the class is empty. Correct it.")
        return cells

    def splits(self) -> list[str]:
        found = [cell.lower() for cell in self.texts("split")]
        for (line, _row), split in zip(self.rows, found, strict=True):
            if split not in SPLITS:
                raise self._error(
                    line, f"there is no split {split!r}. Use train, val, test or anomaly."
                )
        return found

    def numbers(self, name: str, *, may_be_empty: bool = True) -> Values:
        if name not in self._columns:
            return np.full(len(self.rows), np.nan)
        return self.numbers_at(self._columns[name], name, may_be_empty=may_be_empty)

    def numbers_at(self, column: int, name: str, *, may_be_empty: bool) -> Values:
        return np.array(
            [self._number(line, cell, name, may_be_empty) for line, cell in self._cells(column)],
            np.float64,
        )

    def _cells(self, column: int) -> Iterable[tuple[int, str]]:
        for line, row in self.rows:
            yield line, row[column].strip() if column < len(row) else ""

    def _number(self, line: int, cell: str, name: str, may_be_empty: bool) -> float:
        if not cell and may_be_empty:
            return math.nan
        try:
            number = float(cell)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise self._error(line, f"{name} is {cell!r}, not a finite number. Correct it.")
        return number

    def _error(self, line: int, reason: str) -> InputError:
        return InputError(f"{self._file}, line {line}: {reason}")
