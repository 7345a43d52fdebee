"""Clips drawn evenly from footage, for the parity check; the walk that calibration shares."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts import ClipSpec, SourceError
from vad_runtime.sources import FrameSource, open_source
from vad_runtime.sources.prefetch import Prefetch
from vad_runtime.windows import Clip, ClipWindow, HoleRule


@dataclass(frozen=True, kw_only=True)
class SampledClips:
    """Clips and where they come from."""

    clips: npt.NDArray[np.uint8]
    """Shape (N, T, H, W, C), uint8, C-contiguous; the caller owns it."""

    origins: list[tuple[str, int]]
    """For each clip its file's name and the number of its first source frame."""


def clips_from_footage(
    sources: Sequence[Path], spec: ClipSpec, count: int, *, seed: int = 0
) -> SampledClips:
    """Take `count` clips spread evenly over footage, by the road that `vad-run` uses.

    Each source gives about the same number, at places drawn at random from equal stretches of it;
    one that cannot be read gives none.
    Memory: the `count` clips and one window.

    Args:
        sources: Videos or folders of frames.
        spec: The clips' form; its hop is not used.
        count: How many clips, at least 1.
        seed: For the places.

    Raises:
        SourceError: No source holds a whole clip.
    """
    rng = np.random.default_rng([seed, 4])
    chosen = [sources[i] for i in evenly(len(sources), min(count, len(sources)))]
    clips: list[npt.NDArray[np.uint8]] = []
    origins: list[tuple[str, int]] = []
    unreadable: list[str] = []
    for number, source in enumerate(chosen):
        want = count // len(chosen) + (number < count % len(chosen))
        try:
            found = _from_one(source, spec, want, rng)
        except SourceError as error:
            unreadable.append(str(error))
            continue
        clips += [clip for clip, _ in found]
        origins += [(str(source), first) for _, first in found]
    if not clips:
        why = f" First reason: {unreadable[0]}" if unreadable else ""
        raise SourceError(
            f"none of the {len(chosen)} videos holds {spec.span} good frames in a row, which one "
            f"clip needs. Give longer footage.{why}"
        )
    return SampledClips(clips=np.concatenate(clips), origins=origins)


def whole_clips(source: FrameSource, spec: ClipSpec) -> Generator[Clip, None, None]:
    """Walk over every whole clip of a source, one `stride` apart; none spans a hole.

    A clip's place (`indices[0]`) depends on the file and the spec alone, so that a second walk
    finds the same clips. Close the iterator to end early.

    Args:
        source: An opened source; read once, in a thread of its own.
        spec: The clips' form; its hop is not used.

    Yields:
        Clips whose pixels are valid until the next one is asked for.

    Raises:
        SourceError: The source cannot be read.
    """
    window = ClipWindow(spec, hop=spec.stride)
    holes = HoleRule(source.info.fps)
    for frame in Prefetch(source):
        if holes.cause(frame) is not None:
            window.flush()
        if frame.damaged:
            continue
        clip = window.push(frame.index, frame.pixels)
        if clip is not None:
            yield clip


def drawn_clips(
    clips: Iterable[Clip],
    spec: ClipSpec,
    total: int | None,
    want: int,
    rng: np.random.Generator,
) -> Iterator[tuple[int, Clip]]:
    """Reservoir-sample one clip from each of `want` equal stretches of a source.

    Args:
        clips: What `whole_clips` gives.
        spec: The clips' form.
        total: Frames that the source promises. None = unknown (Matroska, raw streams): the source
            is one stretch with `want` clips.
        want: How many clips, at least 1.
        rng: For the places.

    Yields:
        A stretch's number and a clip, which takes the place of what that stretch had before.
    """
    stretch = max(1, (max(total or 0, spec.span) - spec.span + 1) // want)
    seen: dict[int, int] = {}
    for number, clip in enumerate(clips):
        if total is None:
            place = number if number < want else int(rng.integers(number + 1))
            take = place < want
        else:
            place = min(clip.indices[0] // stretch, want - 1)
            seen[place] = seen.get(place, 0) + 1
            take = rng.random() < 1 / seen[place]
        if take:
            yield place, clip


def evenly(total: int, count: int) -> list[int]:
    """Return `count` numbers of 0 to `total` - 1, as even as can be; the ends are among them."""
    return [round(place) for place in np.linspace(0, total - 1, count).tolist()]


def _from_one(
    source: Path, spec: ClipSpec, want: int, rng: np.random.Generator
) -> list[tuple[npt.NDArray[np.uint8], int]]:
    opened = open_source(source, spec, pictures=False)
    best: dict[int, tuple[npt.NDArray[np.uint8], int]] = {}
    walk = whole_clips(opened, spec)
    for place, clip in drawn_clips(walk, spec, opened.info.frames, want, rng):
        best[place] = (clip.pixels.copy(), clip.indices[0])
    return sorted(best.values(), key=lambda found: found[1])
