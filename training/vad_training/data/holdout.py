"""Which videos of a table are trained on, and which only validate: nothing leaks between them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vad_runtime.contracts import ConfigError, InputError
from vad_runtime.sources import find_sources
from vad_training.data.table import Entry, Split, of_split, read_table


def split_for_training(
    entries: Sequence[Entry], classes: Sequence[str], fraction: float, seed: int
) -> list[Entry]:
    """Decide every entry's split.

    * An original and its augmentations share one split; an entry without a split takes that of its
      relatives, else `train`.
    * With `classes`, the other classes are never trained on, so all of them become `anomaly`.
    * Without any entry in `val`, a share of the training videos is drawn for it, augmentations
      along with their original. Every class keeps a video to train on.

    Args:
        entries: The table.
        classes: Classes to train on; none = all.
        fraction: Share of the original videos for validation, where the table names none.
        seed: For the draw.

    Returns:
        The entries in the same order; none has an empty split any more.

    Raises:
        ConfigError: A class that the table does not have.
        InputError: Relatives in two splits, no videos to train on, or none to spare.
    """
    have = sorted({entry.label for entry in entries})
    for name in classes:
        if name not in have:
            raise ConfigError(
                f"data.classes: the table has no class {name!r}. It has: {', '.join(have)}"
            )
    wanted = classes or have
    entries = [e if e.label in wanted else replace(e, split="anomaly") for e in entries]
    families = _families(entries)
    splits = {family: _split_of(members) for family, members in families.items()}
    if "val" not in splits.values():
        for family in _drawn(families, splits, fraction, seed):
            splits[family] = "val"
    if "train" not in splits.values():
        raise InputError("the table has no videos to train on. Set the split of some to train.")
    split_by_path: dict[Path, Split] = {
        entry.path: splits[family] for family, members in families.items() for entry in members
    }
    return [replace(entry, split=split_by_path[entry.path]) for entry in entries]


def validation_entries(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries of `val` without augmentations of originals that are in the table too."""
    paths = {entry.path for entry in entries}
    return [entry for entry in of_split(entries, "val") if entry.original not in paths]


def normal_footage(paths: Sequence[Path]) -> list[Path]:
    """Return footage for a normaliser or a threshold; of a table, the videos that only validate.

    Args:
        paths: Videos, folders of frames, folders that hold such, or tables (`.csv`) whose split
            `val` is meant.

    Raises:
        InputError: As `read_table` and `find_sources` say, or a table without a split `val`.
    """
    out: list[Path] = []
    for path in paths:
        if path.suffix.lower() != ".csv":
            out += find_sources(path)
            continue
        held_back = validation_entries(read_table(path))
        if not held_back:
            raise InputError(
                f"{path} has no videos of the split val. Split it with: vad-train data split"
            )
        out += [entry.path for entry in held_back]
    return out


def _families(entries: Sequence[Entry]) -> dict[Path, list[Entry]]:
    """Return originals with their augmentations, by the original's path."""
    parents = {entry.path: entry.original for entry in entries}
    families: dict[Path, list[Entry]] = {}
    for entry in entries:
        root, seen = entry.path, {entry.path}
        while (parent := parents.get(root)) is not None and parent not in seen:
            root = parent
            seen.add(root)
        families.setdefault(root, []).append(entry)
    return families


def _split_of(members: Sequence[Entry]) -> Split:
    decided = [entry for entry in members if entry.split]
    for entry in decided[1:]:
        if entry.split != decided[0].split:
            raise InputError(
                f"{decided[0].path} is in {decided[0].split}, but {entry.path}, made from the same "
                f"video, is in {entry.split}. Put both into one split."
            )
    return decided[0].split if decided else "train"


def _drawn(
    families: dict[Path, list[Entry]], splits: dict[Path, Split], fraction: float, seed: int
) -> list[Path]:
    candidates = [family for family in families if splits[family] == "train"]
    left: dict[str, int] = {}
    for family in candidates:
        label = families[family][0].label
        left[label] = left.get(label, 0) + 1
    count = max(1, round(len(candidates) * fraction))
    drawn: list[Path] = []
    for i in np.random.default_rng([seed, 1]).permutation(len(candidates)).tolist():
        label = families[candidates[i]][0].label
        if len(drawn) < count and left[label] > 1:
            drawn.append(candidates[i])
            left[label] -= 1
    if candidates and not drawn:
        raise InputError(
            "no class has a second video to spare for validation. Add videos, or set the split of "
            "some to val."
        )
    return drawn
