"""The table of a data set: which video belongs to which class and split."""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from vad_runtime.contracts import InputError
from vad_runtime.files import whole_file
from vad_runtime.sources import find_sources

Split = Literal["train", "val", "test", "anomaly", ""]
"""`anomaly`: a class that training never sees. Empty: not decided yet."""

SPLITS: tuple[str, ...] = get_args(Split)
COLUMNS = ("path", "class", "split", "original")
COPIES = "augmentations.csv"
"""Stands where `vad-train data augment` has written its copies."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One video, or folder of frames."""

    path: Path
    """As one can open it from here."""
    label: str
    """Its class."""
    split: Split = ""
    original: Path | None = None
    """What it was made from by augmentation; None = an original. Stays in its original's split."""


def read_table(file: Path) -> list[Entry]:
    """Read a table: CSV with the columns path, class, split, original.

    Paths are relative to the table's folder. `split` and `original` may be missing.

    Raises:
        InputError: Not readable, no such columns, an empty path, an unknown split, a path twice.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [c for c in COLUMNS[:2] if c not in (reader.fieldnames or ())]
            if missing:
                raise InputError(
                    f"{file} has no column {missing[0]!r}. Make one with: vad-train data csv"
                )
            entries = [_entry(row, reader.line_num, file) for row in reader]
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}). Check the path.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{file} is no table ({error}). Make one with vad-train data csv"
        ) from None
    seen: set[Path] = set()
    for entry in entries:
        if entry.path in seen:
            raise InputError(f"{file} names {entry.path} twice. Remove one of the lines.")
        seen.add(entry.path)
    if not entries:
        raise InputError(f"{file} holds no videos. Make one with: vad-train data csv")
    return entries


def write_table(file: Path, entries: Iterable[Entry]) -> None:
    """Write a table; it appears whole or not at all.

    Raises:
        InputError: It cannot be written.
    """
    with whole_file(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for entry in entries:
            original = "" if entry.original is None else _relative(entry.original, file)
            writer.writerow([_relative(entry.path, file), entry.label, entry.split, original])


def of_split(entries: Sequence[Entry], *splits: Split) -> list[Entry]:
    """Return the entries of some splits, in order."""
    return [entry for entry in entries if entry.split in splits]


def entries_from_paths(paths: Sequence[Path]) -> list[Entry]:
    """Return the entries of a table, or of footage: the folder's name is then the class.

    Args:
        paths: One table (`.csv`), or videos, folders of frames, or folders that hold such.

    Raises:
        InputError: A table beside something else; or as `read_table`, `find_sources` and
            `entries_from_sources` say.
    """
    if any(path.suffix.lower() == ".csv" for path in paths):
        if len(paths) > 1:
            raise InputError(f"{paths[0]}: give one table, or footage, not both.")
        return read_table(paths[0])
    found = (source for path in paths for source in find_sources(path))
    return entries_from_sources(list({source.resolve(): source for source in found}.values()))


def entries_from_sources(sources: Sequence[Path]) -> list[Entry]:
    """Return the entries of videos that no table names: the folder they lie in is their class.

    Raises:
        InputError: Copies of `vad-train data augment`: without their table nobody knows which of
            them belong together, and a split would tear them apart.
    """
    folders = [folder_of(source) for source in sources]
    for folder in dict.fromkeys(folder.parent for folder in folders):
        if (folder / COPIES).is_file():
            raise InputError(
                f"{folder} holds augmented copies, and its table alone knows their originals. "
                f"Give {folder / 'dataset.csv'}"
            )
    return [
        Entry(path=source, label=folder.name)
        for source, folder in zip(sources, folders, strict=True)
    ]


def folder_of(source: Path) -> Path:
    """Return the folder that a video lies in; its name is never `..`, as `Path.absolute` has it."""
    return Path(os.path.normpath(source.absolute())).parent


def _entry(row: dict[str, str | None], number: int, file: Path) -> Entry:
    path, label = row.get("path") or "", row.get("class") or ""
    split, original = (row.get("split") or "").strip().lower(), row.get("original") or ""
    if not path or not label:
        raise InputError(f"{file}, line {number}: path or class is empty. Correct the line.")
    if split not in SPLITS:
        raise InputError(
            f"{file}, line {number}: there is no split {split!r}. "
            "Use train, val, test, anomaly or nothing."
        )
    base = file.parent
    return Entry(
        path=Path(os.path.normpath(base / path)),
        label=label,
        split=split,  # type: ignore[arg-type]  # checked above
        original=Path(os.path.normpath(base / original)) if original else None,
    )


def _relative(path: Path, file: Path) -> str:
    return Path(os.path.relpath(path.absolute(), file.parent.absolute())).as_posix()
