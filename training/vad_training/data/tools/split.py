"""`vad-train data split`: train, validation, test and anomaly, without leakage."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vad_runtime.contracts import InputError
from vad_runtime.progress import progress
from vad_training.data.table import Entry, Split
from vad_training.data.tools.entries import content_hash

PARTS: tuple[Split, ...] = ("train", "val", "test")


def split_entries(
    entries: Sequence[Entry],
    *,
    normal: Sequence[str] = (),
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    seed: int = 0,
) -> list[Entry]:
    """Decide every entry's split; what the table said before is forgotten.

    Each class is divided by itself (stratified). What belongs together stays together: an original
    with all its augmentations, and files with the same content. A class with enough videos gets at
    least one in each part whose fraction is not zero.

    Args:
        entries: The table.
        normal: Classes to divide; every other class gets the split `anomaly`. Empty = divide all.
        fractions: Shares of train, val and test; they add up to 1.
        seed: The same seed gives the same split; classes do not influence each other.

    Returns:
        The entries in their order.

    Raises:
        InputError: Fractions that make no sense, an unknown class, a file that cannot be read, or
            videos that belong together in different classes.
    """
    # Not `< 0` and `> 1e-6`, which let NaN through.
    if not all(f >= 0 for f in fractions) or not abs(sum(fractions) - 1) <= 1e-6:
        raise InputError(f"the fractions {fractions} do not add up to 1. Give three that do.")
    have = sorted({entry.label for entry in entries})
    unknown = sorted(set(normal) - set(have))
    if unknown:
        raise InputError(f"there is no class {unknown[0]!r}. The classes are: {', '.join(have)}.")
    by_class: dict[str, list[list[int]]] = defaultdict(list)
    for members in families(entries, _hashes(entries)):
        labels = {entries[i].label for i in members}
        if len(labels) > 1:
            one, other = (
                members[0],
                next(i for i in members if entries[i].label != entries[members[0]].label),
            )
            raise InputError(
                f"{entries[one].path} ({entries[one].label}) and {entries[other].path} "
                f"({entries[other].label}) are the same video in two classes. "
                "Find such videos with: vad-train data check"
            )
        by_class[labels.pop()].append(members)
    splits: dict[int, Split] = {}
    for label, groups in by_class.items():
        if normal and label not in normal:
            splits |= {i: "anomaly" for members in groups for i in members}
        else:
            splits |= _divided(groups, fractions, _rng(seed, label))
    return [replace(entry, split=splits[i]) for i, entry in enumerate(entries)]


def families(entries: Sequence[Entry], hashes: Mapping[Path, str]) -> list[list[int]]:
    """Return which entries belong together, as numbers, in order of their first member.

    Args:
        entries: The table.
        hashes: Content of each path; equal hashes belong together.
    """
    owner: dict[object, int] = {}
    parent = list(range(len(entries)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, entry in enumerate(entries):
        # The original may itself not be in the table; its augmentations belong together all the
        # same.
        keys: list[object] = [("path", entry.path), ("hash", hashes.get(entry.path, entry.path))]
        if entry.original is not None:
            keys.append(("path", entry.original))
        for key in keys:
            first, second = sorted((root(i), root(owner.setdefault(key, i))))
            parent[second] = first
    members: dict[int, list[int]] = defaultdict(list)
    for i in range(len(entries)):
        members[root(i)].append(i)
    return list(members.values())


def counts_table(entries: Sequence[Entry]) -> list[tuple[str, dict[str, int]]]:
    """Return for each class, in order of its name, how many entries each split has."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        counts[entry.label][entry.split] += 1
    return [(label, dict(counts[label])) for label in sorted(counts)]


def _hashes(entries: Sequence[Entry]) -> dict[Path, str]:
    hashes = {}
    with progress("comparing contents, videos", len(entries)) as bar:
        for entry in entries:
            hashes[entry.path] = content_hash(entry.path)
            bar.advance()
    return hashes


def _rng(seed: int, label: str) -> np.random.Generator:
    return np.random.default_rng([seed, *hashlib.sha256(label.encode()).digest()])


def _divided(
    groups: Sequence[list[int]], fractions: Sequence[float], rng: np.random.Generator
) -> dict[int, Split]:
    """Deal shuffled groups out, each to the part that lacks most."""
    wanted = [f * sum(len(group) for group in groups) for f in fractions]
    used = [part for part, fraction in enumerate(fractions) if fraction > 0]
    order = rng.permutation(len(groups))
    splits: dict[int, Split] = {}
    for turn, number in enumerate(order):
        if turn < len(used) and len(groups) >= len(used):
            part = used[turn]
        else:
            part = max(used, key=lambda p: wanted[p])
        wanted[part] -= len(groups[number])
        splits |= dict.fromkeys(groups[number], PARTS[part])
    return splits
