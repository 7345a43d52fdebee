"""Clips drawn evenly from footage: the inputs of the parity check, later of calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts import ClipSpec, SourceError
from vad_runtime.sources import open_source
from vad_runtime.sources.prefetch import Prefetch
from vad_runtime.windows import ClipWindow, HoleRule


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
    chosen = [sources[i] for i in _evenly(len(sources), min(count, len(sources)))]
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


def _from_one(
    source: Path, spec: ClipSpec, want: int, rng: np.random.Generator
) -> list[tuple[npt.NDArray[np.uint8], int]]:
    """Reservoir-sample one clip from each of `want` stretches of a source.

    A source that does not know its length (Matroska, raw streams) is one stretch with `want` clips.
    """
    opened = open_source(source, spec, pictures=False)
    total = opened.info.frames
    stretch = max(1, (max(total or 0, spec.span) - spec.span + 1) // want)
    window = ClipWindow(spec, hop=spec.stride)
    holes = HoleRule(opened.info.fps)
    best: dict[int, tuple[npt.NDArray[np.uint8], int]] = {}
    seen: dict[int, int] = {}
    clips = 0
    for frame in Prefetch(opened):
        if holes.cause(frame) is not None:
            window.flush()
        if frame.damaged:
            continue
        clip = window.push(frame.index, frame.pixels)
        if clip is None:
            continue
        clips += 1
        if total is None:
            place = clips - 1 if clips <= want else int(rng.integers(clips))
            take = place < want
        else:
            place = min(clip.indices[0] // stretch, want - 1)
            seen[place] = seen.get(place, 0) + 1
            take = rng.random() < 1 / seen[place]
        if take:
            best[place] = (clip.pixels.copy(), clip.indices[0])
    return sorted(best.values(), key=lambda found: found[1])


def _evenly(total: int, count: int) -> list[int]:
    return [round(place) for place in np.linspace(0, total - 1, count).tolist()]
