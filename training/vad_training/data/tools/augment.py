"""`vad-train data augment`: changed copies of clips, the same change on every frame of a clip."""

import csv
import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vad_runtime.contracts import InputError, SourceError
from vad_runtime.files import made_folder, whole_file
from vad_runtime.progress import progress
from vad_runtime.sources import Pixels
from vad_training.data.table import COPIES, Entry, Split, write_table
from vad_training.data.tools import OPS
from vad_training.data.tools.entries import named_targets, require_new
from vad_training.data.tools.rewrite import rewrite

TABLE = "dataset.csv"


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """What was made."""

    table: Path
    entries: list[Entry]
    """The whole new table: what came in, and the copies."""
    made: dict[str, int]
    """Copies by class."""
    skipped: list[str]
    """One line for each copy that could not be made: which and why."""


class ClipChange:
    """A random change that is drawn once and then the same for every frame of a clip.

    Args:
        ops: What may be done, of `OPS`. Each is taken with probability one half, at least one is.
        seed: Decides everything.

    Attributes:
        ops: What is done.
    """

    def __init__(self, ops: Sequence[str], seed: Sequence[int]) -> None:
        rng = np.random.default_rng(seed)
        chosen = [op for op, taken in zip(ops, rng.random(len(ops)) < 0.5, strict=True) if taken]
        self.ops = chosen or [ops[int(rng.integers(len(ops)))]]
        self._pipeline: Any = _pipeline(self.ops, int(rng.integers(2**31)))
        self.parameters: dict[str, Any] | None = None
        """What Albumentations replays; None before the first frame."""

    def __call__(self, picture: Pixels) -> Pixels:
        """Return the changed picture.

        Args:
            picture: Shape (rows, columns, 3), uint8 RGB; all frames of the clip in one size.
        """
        if self.parameters is None:
            drawn = self._pipeline(image=picture)
            self.parameters = drawn["replay"]
            return np.asarray(drawn["image"], np.uint8)
        with warnings.catch_warnings():
            # Albumentations 2.0 rebuilds an RGBShift from settings that it does not take itself.
            warnings.filterwarnings("ignore", message=r"Argument\(s\) .* RGBShift")
            again = _albumentations().ReplayCompose.replay(self.parameters, image=picture)
        return np.asarray(again["image"], np.uint8)


def copies_of_classes(
    counts: Mapping[str, int],
    *,
    copies: int = 0,
    of_class: Mapping[str, int] | None = None,
    balance: bool = False,
) -> dict[str, int]:
    """Return how many copies each class is to get, all its videos together.

    Args:
        counts: Originals of each class.
        copies: Copies of every video.
        of_class: Other numbers of copies of every video, for some classes.
        balance: More copies for the smaller classes, until all are as large as the largest.

    Raises:
        InputError: An unknown class in `of_class`, or nothing to do.
    """
    unknown = sorted(set(of_class or {}) - set(counts))
    if unknown:
        raise InputError(
            f"there is no class {unknown[0]!r} to copy. The classes are: {', '.join(counts)}."
        )
    total = {label: n * (of_class or {}).get(label, copies) for label, n in counts.items()}
    if balance:
        largest = max(counts[label] + total[label] for label in counts)
        total = {label: largest - n for label, n in counts.items()}
    if not any(total.values()):
        raise InputError("there is nothing to copy. Ask for --copies, --copies-of or --balance.")
    return total


def augment_entries(
    entries: Sequence[Entry],
    out: Path,
    *,
    copies: int = 0,
    of_class: Mapping[str, int] | None = None,
    balance: bool = False,
    only: Sequence[Split] = ("train",),
    ops: Sequence[str] = OPS,
    seed: int = 0,
    overwrite: bool = False,
    fps: float | None = None,
) -> Augmented:
    """Write changed copies as `out/CLASS/NAME_augN.mp4`, a report, and the table with them.

    A copy has its original's class and split and names its original. Copies are never copied. What
    is done to a copy depends on the seed, its class, its name and its number, and on nothing else.

    Args:
        entries: The table.
        out: Output folder; gets `dataset.csv` (originals and copies) and `augmentations.csv`
            (what was done to each copy).
        copies: See `copies_of_classes`.
        of_class: See `copies_of_classes`.
        balance: See `copies_of_classes`.
        only: Splits to copy from. Copies in a test set would make it easier than it is.
        ops: See `ClipChange`.
        seed: Decides everything.
        overwrite: Replace what is there.
        fps: Frame rate of folders of frames, frames a second; None = 25.

    Raises:
        InputError: Nothing to copy, an output that exists, or it cannot be written.
    """
    sources = [e for e in entries if e.split in only and e.original is None]
    if not sources:
        splits = ", ".join(split or "(none)" for split in only)
        raise InputError(
            f"the table holds no original in the split {splits}. Split it first, or use --only."
        )
    by_class: dict[str, list[Entry]] = defaultdict(list)
    for entry in sources:
        by_class[entry.label].append(entry)
    total = copies_of_classes(
        {label: len(members) for label, members in sorted(by_class.items())},
        copies=copies,
        of_class=of_class,
        balance=balance,
    )
    plan = [
        (by_class[label][i % len(by_class[label])], i // len(by_class[label]))
        for label, count in total.items()
        for i in range(count)
    ]
    targets = _targets(plan, out)
    paths = [entry.path for entry in sources]
    require_new([*targets, out / TABLE, out / COPIES], overwrite, paths)
    made_folder(out)
    made: list[Entry] = []
    done: list[str] = []
    skipped: list[str] = []
    with progress("augmenting, clips", len(plan)) as bar:
        for (entry, number), target in zip(plan, targets, strict=True):
            change = ClipChange(ops, clip_seed(seed, entry, number))
            try:
                rewrite(entry.path, target, change, fps=fps)
            except SourceError as error:
                skipped.append(str(error))
            else:
                made.append(
                    Entry(path=target, label=entry.label, split=entry.split, original=entry.path)
                )
                done.append(" ".join(change.ops))
            bar.advance()
    if not made:
        raise InputError(f"none of the {len(plan)} copies could be made. First: {skipped[0]}")
    with (
        whole_file(out / COPIES) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(["path", "class", "operations"])
        for entry, what in zip(made, done, strict=True):
            writer.writerow([entry.path.relative_to(out).as_posix(), entry.label, what])
    fresh = {entry.path.resolve() for entry in made}
    table = [*(e for e in entries if e.path.resolve() not in fresh), *made]
    write_table(out / TABLE, table)
    counts = {label: sum(e.label == label for e in made) for label in total}
    return Augmented(table=out / TABLE, entries=table, made=counts, skipped=skipped)


def clip_seed(seed: int, entry: Entry, number: int) -> list[int]:
    """Return the seed of one copy."""
    name = f"{entry.label}/{entry.path.name}/{number}"
    return [seed, *hashlib.sha256(name.encode()).digest()]


def _targets(plan: Sequence[tuple[Entry, int]], out: Path) -> list[Path]:
    first = [entry for entry, number in plan if number == 0]
    bases = dict(zip((e.path for e in first), named_targets(first, out), strict=True))
    return [
        bases[entry.path].with_name(f"{bases[entry.path].stem}_aug{number}.mp4")
        for entry, number in plan
    ]


def _pipeline(ops: Sequence[str], seed: int) -> Any:
    import cv2

    albumentations = _albumentations()
    mirrored = cv2.BORDER_REFLECT_101  # black corners would tell copies from originals
    builders: dict[str, Callable[[], Any]] = {
        "grid-distortion": lambda: albumentations.GridDistortion(border_mode=mirrored, p=1),
        "rotation": lambda: albumentations.Rotate(limit=15, border_mode=mirrored, p=1),
        "rgb-shift": lambda: albumentations.RGBShift(p=1),
        "brightness-contrast": lambda: albumentations.RandomBrightnessContrast(p=1),
        "clahe": lambda: albumentations.CLAHE(p=1),
        "pixel-dropout": lambda: albumentations.PixelDropout(dropout_prob=0.02, p=1),
        "blur": lambda: albumentations.Blur(blur_limit=(3, 5), p=1),
    }
    pipeline = albumentations.ReplayCompose([builders[op]() for op in ops])
    pipeline.set_random_seed(seed)
    return pipeline


def _albumentations() -> Any:
    # It would ask a server for its newest version while it is imported.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations
