"""One pass over footage: clips at random places, of which only a description is kept."""

import hashlib
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vad_calibration.sampling import drawn_clips, evenly, whole_clips
from vad_calibration.statistics import ClipStatistics, Thumbnail, described
from vad_runtime.contracts import ClipSpec, SourceError
from vad_runtime.progress import Progress, progress
from vad_runtime.sources import open_source
from vad_runtime.windows import Clip

PER_CLIP = 4
"""So many candidates are looked at for each clip that is wanted."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A clip that could be chosen; its pixels are not kept."""

    file: str
    first: int
    """Number of its first source frame."""
    sha256: str
    """Of the pixels, shape (T, H, W, C), uint8, C order."""
    statistics: ClipStatistics
    thumbnail: Thumbnail


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The candidates of some footage."""

    found: list[Candidate]
    """In order of file and first frame, no two with equal pixels."""
    sources: int
    """How many sources gave at least one."""
    skipped: list[str]
    """Why a source gave none, one line each."""


@dataclass(frozen=True, kw_only=True)
class _Visit:
    """A source that opens, and how many candidates it shall give."""

    path: Path
    total: int | None
    want: int
    seed: list[int]


def candidates_from_footage(
    sources: Sequence[Path], spec: ClipSpec, count: int, *, seed: int = 0
) -> Candidates:
    """Decode footage once and describe about `PER_CLIP` times `count` clips of it.

    Sources give equally many, at seeded random places of equal stretches; what a short one cannot
    give falls to the others. With more sources than candidates, sources spread evenly over the
    list give one each. A source that cannot be read is skipped.
    Memory: one clip's pixels, a window of decoded frames, and about 20 KB a candidate.

    Args:
        sources: Videos or folders of frames, in any order; doubles count once.
        spec: The clips' form; its hop is not used.
        count: How many clips will be chosen, at least 1.
        seed: For the places.
    """
    # FFmpeg and a later run from elsewhere both need whole paths; os.path does not follow links.
    paths = sorted({os.path.abspath(source) for source in sources})  # noqa: PTH100
    total = PER_CLIP * count
    visited = [paths[i] for i in evenly(len(paths), min(total, len(paths)))]
    skipped: list[str] = []
    visits = _planned(visited, spec, total, seed, skipped)
    found: dict[str, Candidate] = {}
    gave = 0
    lengths = [visit.total or 0 for visit in visits]
    with progress("looking at clips", sum(lengths) if all(lengths) else None) as bar:
        for visit in visits:
            try:
                new = _from_one(visit, spec, bar)
            except SourceError as error:
                skipped.append(str(error))
                continue
            gave += 1
            for candidate in new:
                found.setdefault(candidate.sha256, candidate)
    return Candidates(found=list(found.values()), sources=gave, skipped=skipped)


def _planned(
    paths: list[str], spec: ClipSpec, total: int, seed: int, skipped: list[str]
) -> list[_Visit]:
    """Open every source for its length and share the candidates out."""
    lengths: dict[int, int | None] = {}
    for number, path in enumerate(paths):
        try:
            lengths[number] = open_source(path, spec, pictures=False).info.frames
        except SourceError as error:
            skipped.append(str(error))
    room = [total if n is None else max(1, n - spec.span + 1) for n in lengths.values()]
    return [
        # The number in the sorted list, so that a source's places do not hang on its neighbours.
        _Visit(path=Path(paths[number]), total=length, want=want, seed=[seed, 5, number])
        for (number, length), want in zip(lengths.items(), _shares(room, total), strict=True)
    ]


def _shares(room: list[int], total: int) -> list[int]:
    """Share `total` out equally; who has too little room takes what there is, at least 1."""
    shares = [0] * len(room)
    left = total
    for position, i in enumerate(sorted(range(len(room)), key=lambda i: room[i])):
        others = len(room) - position
        shares[i] = max(1, min(room[i], -(-left // others)))
        left -= shares[i]
    return shares


def _from_one(visit: _Visit, spec: ClipSpec, bar: Progress) -> list[Candidate]:
    opened = open_source(visit.path, spec, pictures=False)
    best: dict[int, Candidate] = {}
    # Only the last draw of a stretch counts, and describing costs more than a copy.
    held: tuple[int, int, npt.NDArray[np.uint8]] | None = None
    with closing(_counted(whole_clips(opened, spec), bar, visit.total)) as walk:
        rng = np.random.default_rng(visit.seed)
        for place, clip in drawn_clips(walk, spec, visit.total, visit.want, rng):
            if held is not None and held[0] != place:
                best[held[0]] = _candidate(visit.path, held[1], held[2])
            held = (place, clip.indices[0], clip.pixels[0].copy())
    if held is None:
        raise SourceError(
            f"{visit.path} does not hold {spec.span} good frames in a row, which one clip needs. "
            "Give longer footage."
        )
    best[held[0]] = _candidate(visit.path, held[1], held[2])
    return sorted(best.values(), key=lambda candidate: candidate.first)


def _candidate(path: Path, first: int, pixels: npt.NDArray[np.uint8]) -> Candidate:
    statistics, thumbnail = described(pixels)
    return Candidate(
        file=str(path),
        first=first,
        sha256=sha256_of(pixels),
        statistics=statistics,
        thumbnail=thumbnail,
    )


def sha256_of(pixels: npt.NDArray[np.uint8]) -> str:
    """Return the SHA-256, hexadecimal, of a C-contiguous array's bytes."""
    return hashlib.sha256(pixels.data).hexdigest()


def _counted(
    clips: Iterator[Clip], bar: Progress, total: int | None
) -> Generator[Clip, None, None]:
    """Pass clips on and count their source frames; at the end, all that the source promised."""
    done = 0
    try:
        for clip in clips:
            yield clip
            seen = clip.indices[-1] + 1
            bar.advance(seen - done)
            done = seen
    finally:
        bar.advance(max(0, (total or 0) - done))
