"""`vad-train data check`: videos that cannot be used, and why."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts import InputError, SourceError
from vad_runtime.progress import progress
from vad_runtime.sources import open_source
from vad_runtime.sources.prefetch import Prefetch
from vad_runtime.windows import HoleRule
from vad_training.data.table import Entry
from vad_training.data.tools.entries import content_hash
from vad_training.data.tools.facts import SMALL

Kind = Literal["unreadable", "too short", "duplicate", "contradiction"]

MOST_KEPT = 64
"""Small pictures that are kept of a video for comparison."""
SAME_LEVELS = 16
"""Two videos of as many frames show the same where no cell of 32 x 32 differs by more grey levels
in any of the compared frames. Measured: clips of `fight` against themselves encoded again differ by
3 at most (crf 18) and 10 (crf 28), 8 after `data convert`; different clips of one fixed camera
(UCSD Ped2) by 89 at least. Two takes of an empty, still scene count as the same."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with one video."""

    kind: Kind
    entry: Entry
    line: str
    """What is wrong and with which video, for people."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The result of a check."""

    problems: list[Problem]
    clean: list[Entry]
    """The entries without a problem. An augmentation of a removed duplicate belongs to the copy
    that stays, so that a split cannot tear them apart."""


@dataclass(frozen=True, kw_only=True)
class _Look:
    frames: int
    longest: int
    """Most good frames in a row."""
    longest_s: float
    pictures: npt.NDArray[np.uint8]
    """Shape (n, 32, 32), n <= 64: frames 0, step, 2 step, ..."""


def check_entries(
    entries: Sequence[Entry],
    *,
    span: int = 31,
    least_s: float | None = None,
    fps: float | None = None,
) -> Checked:
    """Decode every video and say which cannot be used.

    * unreadable: does not open, or no frame decodes;
    * too short: fewer good frames in a row, without a hole, than one clip needs (the device's
      rule for holes) or, if `least_s` is given, fewer seconds;
    * duplicate: the same bytes as an earlier video, or the same pictures (another container, or
      encoded again). An augmentation is never a duplicate of its own original;
    * contradiction: the same video in two classes; both are named.

    Args:
        entries: The videos.
        span: Source frames that one clip needs: (frames - 1) * stride + 1.
        least_s: Least duration in seconds, instead of `span`.
        fps: Frame rate of folders of frames, frames a second; None = 25.
    """
    problems: list[Problem] = []
    by_bytes: dict[str, Entry] = {}
    by_frames: dict[int, list[tuple[Entry, _Look]]] = defaultdict(list)
    replaced: dict[Path, Path] = {}
    with progress("checking, videos", len(entries)) as bar:
        # Originals first, so that of two equal videos the original stays.
        for entry in sorted(entries, key=lambda e: e.original is not None):
            bar.advance()
            try:
                digest = content_hash(entry.path)
                look = _look(entry.path, fps)
            except InputError as error:
                problems.append(Problem(kind="unreadable", entry=entry, line=str(error)))
                continue
            if least_s is not None and look.longest_s < least_s:
                line = f"{entry.path}: {look.longest_s:.3f} s in a row, not {least_s:g} s"
                problems.append(Problem(kind="too short", entry=entry, line=line))
                continue
            if least_s is None and look.longest < span:
                line = f"{entry.path}: {look.longest} good frames in a row; a clip needs {span}"
                problems.append(Problem(kind="too short", entry=entry, line=line))
                continue
            twin, how = by_bytes.get(digest), "the same file as"
            if twin is None:
                twin, how = _same_pictures(entry, look, by_frames[look.frames]), "the same as"
            if twin is None:
                by_bytes[digest] = entry
                by_frames[look.frames].append((entry, look))
            elif twin.label == entry.label:
                replaced[entry.path] = twin.path
                line = f"{entry.path}: {how} {twin.path}"
                problems.append(Problem(kind="duplicate", entry=entry, line=line))
            else:
                line = f"{entry.path} ({entry.label}): {how} {twin.path} ({twin.label})"
                problems += [
                    Problem(kind="contradiction", entry=entry, line=line),
                    Problem(kind="contradiction", entry=twin, line=line),
                ]
    bad = {problem.entry.path for problem in problems}
    clean = [
        replace(e, original=e.original and replaced.get(e.original, e.original))
        for e in entries
        if e.path not in bad
    ]
    return Checked(problems=problems, clean=clean)


def _look(path: Path, fps: float | None) -> _Look:
    """Decode a video once.

    Raises:
        SourceError: Not readable, or no frame decodes.
    """
    source = open_source(path, SMALL, fps=fps, pictures=False)
    holes = HoleRule(source.info.fps)
    step = 1 / source.info.fps
    kept: list[npt.NDArray[np.uint8]] = []
    every = 1
    frames = run = longest = 0
    begin_s = longest_s = 0.0
    for frame in Prefetch(source):
        if holes.cause(frame) is not None:
            run = 0
        if not frame.damaged:
            begin_s = begin_s if run else frame.pts_s
            run += 1
            longest, longest_s = max(longest, run), max(longest_s, frame.pts_s - begin_s + step)
        if frames % every == 0:
            kept.append(np.array(frame.pixels[..., 0]))
            if len(kept) > MOST_KEPT:
                # Which frames stay depends on their number alone: the same in every copy.
                kept, every = kept[::2], 2 * every
        frames += 1
    if not frames:
        raise SourceError(f"{path} holds no frame that decodes. Remove it.")
    return _Look(frames=frames, longest=longest, longest_s=longest_s, pictures=np.stack(kept))


def _same_pictures(
    entry: Entry, look: _Look, others: Sequence[tuple[Entry, _Look]]
) -> Entry | None:
    for other, seen in others:
        # A weak augmentation may look like its original; it is one on purpose.
        related = entry.original is not None and entry.original in (other.path, other.original)
        if not related and picture_distance(look.pictures, seen.pictures) <= SAME_LEVELS:
            return other
    return None


def picture_distance(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> int:
    """Return the largest difference of two stacks of pictures of the same shape, grey levels."""
    return int(np.abs(one.astype(np.int16) - other).max())
