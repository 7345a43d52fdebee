"""What a command is given, a folder or a table, as entries of a table."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vad_runtime.bundle import sha256_of_file
from vad_runtime.contracts import InputError, SourceError
from vad_runtime.progress import progress
from vad_runtime.sources import find_sources
from vad_training.data.table import Entry, entries_from_sources, read_table
from vad_training.data.tools.facts import facts_of, images_of


def entries_of(name: Path) -> list[Entry]:
    """Return a table's entries, or one for each video at or below a folder.

    Raises:
        InputError: Nothing there, no videos, or no readable table.
    """
    # os.path: for a name that is too long or lies in a closed folder Path raises.
    return entries_from_folder(name) if os.path.isdir(name) else read_table(name)  # noqa: PTH112


def entries_from_folder(folder: Path) -> list[Entry]:
    """Return one entry for each video or folder of frames; its class is the folder it lies in.

    Raises:
        InputError: No folder, nothing to read in it, or copies of `vad-train data augment`.
    """
    if not os.path.isdir(folder):  # noqa: PTH112 - see entries_of
        raise InputError(f"{folder} is no folder. Give the folder that holds the class folders.")
    return entries_from_sources(find_sources(folder))


def groups_from_options(options: Sequence[str]) -> dict[str, str]:
    """Read `NEW=OLD1,OLD2` into {old class: new class}.

    Raises:
        InputError: Another form, or a class that is grouped twice.
    """
    groups: dict[str, str] = {}
    for option in options:
        new, equals, old = option.partition("=")
        names = [name.strip() for name in old.split(",") if name.strip()]
        if not equals or not new.strip() or not names:
            raise InputError(f"{option!r} is no group. Write NEW=OLD1,OLD2.")
        for name in names:
            if name in groups:
                raise InputError(f"the class {name!r} is in two groups. Remove it from one.")
            groups[name] = new.strip()
    return groups


def grouped(entries: Sequence[Entry], groups: Mapping[str, str]) -> list[Entry]:
    """Return the entries with sub-classes renamed to their group.

    Raises:
        InputError: A group names a class that is not there.
    """
    there = sorted({entry.label for entry in entries})
    unknown = sorted(set(groups) - set(there))
    if unknown:
        raise InputError(
            f"there is no class {unknown[0]!r} to group. The classes are: {', '.join(there)}."
        )
    return [replace(entry, label=groups.get(entry.label, entry.label)) for entry in entries]


def long_enough(
    entries: Sequence[Entry], least_s: float, *, fps: float | None = None
) -> tuple[list[Entry], list[str]]:
    """Leave out what is unreadable or shorter than `least_s` seconds.

    Returns:
        The entries that stay, and one line for each that does not: which and why.
    """
    kept, dropped = [], []
    with progress("reading videos", len(entries)) as bar:
        for entry in entries:
            try:
                seconds = facts_of(entry.path, fps=fps).seconds
                if seconds >= least_s:
                    kept.append(entry)
                else:
                    dropped.append(f"{entry.path}: {seconds:.3f} s, shorter than {least_s:g} s")
            except SourceError as error:
                dropped.append(str(error))
            bar.advance()
    return kept, dropped


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of all images of a folder in order of their names.

    Raises:
        InputError: It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        files = images_of(path) if path.is_dir() else [path]
        for file in files:
            digest.update(sha256_of_file(file).encode())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Check the path.") from None
    return digest.hexdigest()


def named_targets(entries: Sequence[Entry], folder: Path) -> list[Path]:
    """Return a file `folder/CLASS/NAME.mp4` for each entry; equal names get a number."""
    taken: set[Path] = set()
    targets = []
    for entry in entries:
        # A class may have any name, and its films still lie in the folder.
        label = entry.label.replace("/", "_")
        place = folder / (f"_{label}" if label in {".", ".."} else label)
        stem = entry.path.name if entry.path.is_dir() else entry.path.stem
        target, number = place / f"{stem}.mp4", 1
        while target in taken:
            number += 1
            target = place / f"{stem}_{number}.mp4"
        taken.add(target)
        targets.append(target)
    return targets


def require_new(targets: Sequence[Path], overwrite: bool, sources: Iterable[Path] = ()) -> None:
    """Refuse to write where something lies.

    Args:
        targets: What is to be written.
        overwrite: Whether something may lie there.
        sources: What is to be read; it is never overwritten.

    Raises:
        InputError: A target is a source, or exists and may not be overwritten.
    """
    read = {source.resolve() for source in sources}
    for target in targets:
        if target.resolve() in read:
            raise InputError(
                f"{target} is one of the videos to read. Choose another output folder."
            )
    there = [target for target in targets if target.exists()]
    if there and not overwrite:
        raise InputError(
            f"{there[0]} exists already. Choose another folder, or replace it with --overwrite."
        )
