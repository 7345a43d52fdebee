"""Which footage the parity gate looks at: files that a user names, and stretches of them.

::

    footage   |---- video 0 ----|------ video 1 ------|-- video 2 --|
    stretches    [======]          [======]    [======]   [======]     `count` clips in all
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from vad_calibration.sampling import evenly as numbers_evenly
from vad_runtime.contracts import ClipSpec, FeatureSpec, InputError, ScoreSpec
from vad_runtime.features import FeatureFile, find_features
from vad_runtime.sources import find_sources
from vad_training.data.holdout import normal_footage
from vad_training.data.store import Segment

Item = TypeVar("Item")

LIST_SUFFIXES = frozenset([".txt", ".list", ".lst"])
STRETCH = 16
"""Least clips of a stretch: the causal filter has to settle, and a decision has neighbours."""


# -- which files -------------------------------------------------------------------------------


def footage_of(path: Path) -> list[Path]:
    """Return the videos and folders of frames that a user names by one path.

    Args:
        path: A video, a folder of frames, a folder that holds such, a table (`.csv`, of which the
            split `val` is meant), or a list (`.txt`, `.list`, `.lst`): a path on each line,
            relative to the list's folder; empty lines and those that begin with # are passed over.

    Returns:
        Each once, in order. None of them has been opened yet.

    Raises:
        InputError: Nothing is there; or a list or table that cannot be read, names nothing, or
            names something that is not there, with the number of the line.
    """
    if path.suffix.lower() in LIST_SUFFIXES and path.is_file():
        found = [source for where, named in _lines(path) for source in _below(where, named)]
    else:
        found = normal_footage([path])
        for source in found:
            if not source.exists():
                raise InputError(f"{path} names {source}, which does not exist. Correct the table.")
    return list({source.resolve(): source for source in found}.values())


def features_of(path: Path, spec: FeatureSpec) -> list[FeatureFile]:
    """Return the feature files that a user names by one path: a file, a folder, or a list.

    A `.txt` may hold the features of a video or a list of paths; numbers make it the former.

    Raises:
        InputError: As `footage_of` and `vad_runtime.features.find_features` say.
    """
    if path.suffix.lower() in LIST_SUFFIXES and path.is_file() and not _holds_numbers(path):
        return [file for _, named in _lines(path) for file in find_features(named, spec.modality)]
    return find_features(path, spec.modality)


def _lines(file: Path) -> list[tuple[str, Path]]:
    """Return place (file and line) and path of each entry of a list; every path exists."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}). Check the path.") from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is no list of paths. Write one path on each line.") from None
    out = []
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        path = file.parent / name
        if "\0" in name or not _exists(path):
            raise InputError(
                f"{file}, line {number}: {name[:200]!r} does not exist. Correct the line."
            )
        out.append((f"{file}, line {number}", path))
    if not out:
        raise InputError(f"{file} names no footage. Write one path on each line.")
    return out


def _below(where: str, named: Path) -> list[Path]:
    try:
        return find_sources(named)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file system takes
        return False


def _holds_numbers(file: Path) -> bool:
    with contextlib.suppress(OSError, UnicodeDecodeError, ValueError, IndexError):
        first = file.read_text(encoding="utf-8-sig").strip().splitlines()[0]
        float(first.replace(",", " ").split()[0])
        return True
    return False


# -- which stretches ---------------------------------------------------------------------------


def clips_in(frames: int, length: int, hop: int) -> int:
    """Return how many clips of `length` frames a run of `frames` gives; the last covers the end."""
    return 0 if frames < length else 1 + -(-(frames - length) // hop)


def stretches_of(segments: Sequence[Segment], clip: ClipSpec, count: int) -> list[Segment]:
    """Return stretches, spread evenly over the footage, that hold at most `count` clips.

    Args:
        segments: Of a store; those too short for a clip are passed over.
        clip: Of the model.
        count: Most clips; 0 = all of the footage. Below 16 there is one stretch.

    Returns:
        Parts of the segments, in order, each with one whole clip at least.
    """
    # The store holds every stride-th frame already.
    length, hop = clip.frames, clip.hop // clip.stride
    whole = [segment for segment in segments if segment.frames >= length]
    per = [clips_in(segment.frames, length, hop) for segment in whole]
    total = sum(per)
    if count == 0 or total <= count:
        return whole
    parts = max(1, count // STRETCH)
    size = count // parts
    ends = np.cumsum(per)
    out = []
    for start in np.linspace(0, total - size, parts).round().astype(int).tolist():
        at = int(np.searchsorted(ends, start, side="right"))
        segment, first = whole[at], start - int(ends[at]) + per[at]
        begin = min(first * hop, segment.frames - length)
        frames = min((min(size, per[at] - first) - 1) * hop + length, segment.frames - begin)
        out.append(Segment(video=segment.video, start=segment.start + begin, frames=frames))
    return out


def frames_a_file(clip: ClipSpec, count: int, files: int) -> int | None:
    """Return how many frames of a file are decoded: four times its share of the stretches.

    The rest is for files that are short, and so that the stretches lie apart.

    Args:
        clip: Of the model.
        count: Most clips; 0 = all, and then None is returned: no limit.
        files: How many files are decoded.
    """
    if count == 0:
        return None
    parts = max(1, count // STRETCH)
    stretch = (count // parts - 1) * (clip.hop // clip.stride) + clip.frames
    return 4 * stretch * -(-parts // files)


def clip_start(frames: int, index: int, clip: ClipSpec, score: ScoreSpec) -> int:
    """Return the row at which the clip begins that gave frame `index` of a stretch its score.

    That is the first clip that scores the frame, see `vad_runtime.detector.Detector`.

    Args:
        frames: Rows of the stretch.
        index: Row of the scored frame, from the stretch's first.
        clip: Of the model.
        score: Which rows of a clip are scored.
    """
    first, count = (0, clip.frames) if score.per == "clip" else (score.first, score.count)
    hop = clip.hop // clip.stride
    number = max(0, -(-(index - (first + count - 1)) // hop))
    return min(number * hop, frames - clip.frames)


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most `count` of the items, spread evenly, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[i] for i in numbers_evenly(len(items), count)]
