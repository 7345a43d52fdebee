"""What is scored: clips of seeded noise, or those of a film."""

import os
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import cast

import numpy as np

from vad_runtime.backends.base import Inputs
from vad_runtime.contracts.errors import InputError, SourceError
from vad_runtime.contracts.manifest import Manifest
from vad_runtime.detector import Detector, Scores, Steps
from vad_runtime.features import unit_length
from vad_runtime.sources import open_source
from vad_runtime.sources.address import address_from_text
from vad_runtime.sources.base import Frame, FrameSource, Pixels, SourceInfo, SourceStats
from vad_runtime.windows import Clip, HoleRule

SEED = 0
_NOISE_CLIPS = 4
MOST_CLIPS = 32
"""Clips of a film that one round goes through: enough to hide how the decoder starts."""
_BYTES = 256e6
"""What the clips and frames of a film may take."""


def noise(manifest: Manifest, count: int = _NOISE_CLIPS) -> list[Inputs]:
    """Return inputs of seeded noise, each of shape (1, …) as the graph takes it."""
    rng = np.random.default_rng(SEED)
    shape = (1, *manifest.input_shape)
    if manifest.features is None:
        return [rng.integers(0, 256, shape, np.uint8) for _ in range(count)]
    made = [rng.random(shape[1:], np.float32) for _ in range(count)]
    if manifest.features.normalise:
        made = [unit_length(one) for one in made]
    return [np.ascontiguousarray(one[None]) for one in made]


@dataclass(frozen=True, kw_only=True)
class Film:
    """The beginning of a film, as far as one round of a measurement goes."""

    name: str
    info: SourceInfo
    pixels: list[Pixels]
    """Its frames at model size."""
    clips: list[Inputs]
    """Each of shape (1, T, H, W, C), copied out of the window."""
    hop: int

    @property
    def frames(self) -> int:
        """How many frames there are."""
        return len(self.pixels)


class FirstFrames:
    """The first frames of a source, as a source."""

    def __init__(self, source: FrameSource, count: int) -> None:
        self._source, self._count = source, count

    @property
    def info(self) -> SourceInfo:
        """See `FrameSource.info`."""
        return self._source.info

    @property
    def stats(self) -> SourceStats:
        """See `FrameSource.stats`."""
        return self._source.stats

    def frames(self) -> Iterator[Frame]:
        """See `FrameSource.frames`."""
        with closing(cast(Generator[Frame, None, None], self._source.frames())) as frames:
            yield from islice(frames, self._count)


def opened(name: str, manifest: Manifest, frames: int) -> FirstFrames:
    """Open the film again for its first frames."""
    return FirstFrames(open_source(name, manifest.clip, pictures=False), frames)


def film_path(name: str) -> str:
    """Return the path of a film that can be measured with.

    Args:
        name: A video file or a folder of frames, also as `file://…`.

    Raises:
        InputError: The source is live or a pattern.
        SourceError: It does not exist.
    """
    address = address_from_text(name)
    if address.live:
        raise InputError(f"{address} has a pace of its own. Measure with a recording of it.")
    if address.kind == "glob":
        raise InputError(f"{name} is a pattern. Give one video file, or a folder of frames.")
    for path in (name, address.text):
        if os.path.exists(path):  # noqa: PTH110 - never raises
            return path
    raise SourceError(f"{name} does not exist. Check the path.")


def hop_of(manifest: Manifest, hop: int | None) -> int:
    """Return the source frames from one clip to the next.

    Args:
        manifest: Of a bundle that takes clips.
        hop: As the user gave it; None = the manifest's.

    Raises:
        InputError: It cannot be had.
    """
    try:
        return Detector(manifest, hop=hop).hop
    except ValueError as error:
        raise InputError(f"--hop: {error}. Give another.") from None


def read_film(name: str, manifest: Manifest, hop: int | None, clips: int) -> Film:
    """Read the first clips of a film.

    Args:
        name: A video file or a folder of frames.
        manifest: Of a bundle that takes clips.
        hop: Source frames from one clip to the next; None = the manifest's.
        clips: How many are wanted; a short film has fewer.

    Raises:
        InputError: The hop cannot be had, or the source is live or a pattern.
        SourceError: It cannot be read or is shorter than one clip.
    """
    name = film_path(name)
    detector = Detector(manifest, hop=hop_of(manifest, hop))
    spec = manifest.clip
    clip_bytes = int(np.prod(spec.clip_shape))
    frame_bytes = clip_bytes // spec.clip_shape[0]
    # The first clip, and then so many that each has a hop's frames more: a hop may be long.
    rest = _BYTES - clip_bytes - spec.span * frame_bytes
    clips = max(1, min(clips, 1 + int(rest // (clip_bytes + detector.hop * frame_bytes))))
    want = spec.span + (clips - 1) * detector.hop
    source = opened(name, manifest, want)
    holes = HoleRule(source.info.fps)
    pixels: list[Pixels] = []
    found: list[Inputs] = []

    def collect(steps: Steps) -> None:
        scores: Scores | None = None
        while True:
            try:
                step = steps.send(scores)
            except StopIteration:
                return
            scores = None
            if isinstance(step, Clip):
                found.append(step.pixels.copy())
                scores = unscored

    shape = (1,) if manifest.score.per == "clip" else (1, manifest.score.count)
    unscored: Scores = np.zeros(shape, np.float32)
    for frame in source.frames():
        pixels.append(frame.pixels)
        collect(detector.feed(frame, holes.cause(frame)))
    collect(detector.end())
    if not found:
        raise SourceError(
            f"{name} has {len(pixels)} frames, none of them in a row of the {spec.span} that one "
            "clip needs. Give a longer video."
        )
    return Film(name=name, info=source.info, pixels=pixels, clips=found, hop=detector.hop)
