"""All frames of the footage at model size, decoded once, in one memory-mapped array."""

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from vad_runtime.contracts import ClipSpec, InputError, SourceError
from vad_runtime.progress import progress
from vad_runtime.sources import IMAGE_SUFFIXES, find_sources, open_source
from vad_runtime.sources.prefetch import Prefetch
from vad_runtime.windows import HoleRule

Frames = npt.NDArray[np.uint8]


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """Frames of one video that follow each other without a hole."""

    video: int
    """Number of the video in `FrameStore.videos`."""
    start: int
    """First frame, as a row of the store's array."""
    frames: int


class _Index(msgspec.Struct, kw_only=True):
    key: str
    videos: list[str]
    segments: list[Segment]
    skipped: list[str]
    fps: float | None


class FrameStore:
    """Decoded frames of a set of videos.

    Attributes:
        frames: Shape (rows, H, W, C), uint8, memory-mapped, read-only; every `stride`-th frame.
        videos: Paths, as found.
        segments: Runs of rows without a hole inside.
        skipped: Lines about files that could not be used, and why.
        fps: The videos' common frame rate, frames a second; None when they differ.
        key: Changes with the footage and with whatever of the spec changes pixels.
    """

    def __init__(self, frames: Frames, index: _Index) -> None:
        self.frames = frames
        self.videos = index.videos
        self.segments = index.segments
        self.skipped = index.skipped
        self.fps = index.fps
        self.key = index.key

    def seconds(self) -> float | None:
        """Return the length of the footage in seconds; None when frame rates differ."""
        return len(self.frames) / self.fps if self.fps else None


def store_from_footage(
    names: Sequence[str | Path], spec: ClipSpec, folder: Path, *, most_frames: int | None = None
) -> FrameStore:
    """Decode footage into `folder`, or reuse what stands there for the same files and spec.

    Args:
        names: Videos, folders of frames, or folders that hold such.
        spec: Size, colour, resizer and stride.
        folder: Where `frames.raw` and `index.json` go.
        most_frames: Rows after which a video ends, at least 1; None = all of it.

    Raises:
        InputError: No footage, none of it readable or long enough, or the folder is not writable.
    """
    # A video that is named twice would land in training and in validation.
    found = (source for name in names for source in find_sources(name))
    sources = list({source.resolve(): source for source in found}.values())
    key = _key(sources, spec, most_frames)
    index_file, raw_file = folder / "index.json", folder / "frames.raw"
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        index = msgspec.json.decode(index_file.read_bytes(), type=_Index)
        rows = sum(segment.frames for segment in index.segments)
        # After a power cut the array may be shorter than its index says.
        if index.key == key and raw_file.stat().st_size == rows * math.prod(spec.frame_shape):
            return FrameStore(_mapped(raw_file, spec), index)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        index_file.unlink(missing_ok=True)
        temporary = folder / f".frames.raw.{os.getpid()}"
        try:
            with temporary.open("wb") as raw:
                index = _decoded(sources, spec, key, raw.write, most_frames)
            temporary.replace(raw_file)
        finally:
            temporary.unlink(missing_ok=True)
        # Written last: an index stands only beside a complete array.
        index_file.write_bytes(msgspec.json.encode(index))
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}). Choose another run folder."
        ) from None
    return FrameStore(_mapped(raw_file, spec), index)


def _mapped(raw_file: Path, spec: ClipSpec) -> Frames:
    flat = np.memmap(raw_file, dtype=np.uint8, mode="r")
    return flat.reshape(-1, *spec.frame_shape)


def _key(sources: Sequence[Path], spec: ClipSpec, most_frames: int | None) -> str:
    digest = hashlib.sha256()
    pixels = (*spec.frame_shape, spec.resizer, spec.interpolation, spec.stride)
    digest.update(repr(pixels).encode())
    if most_frames is not None:
        digest.update(f"{most_frames} rows a video".encode())
    for source in sources:
        files = [source]
        if source.is_dir():
            files = sorted(f for f in source.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
        for file in files:
            try:
                stat = file.stat()
            except OSError:  # a broken link; it will not decode either
                continue
            digest.update(f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _decoded(
    sources: Sequence[Path],
    spec: ClipSpec,
    key: str,
    write: Callable[[bytes], object],
    most_frames: int | None,
) -> _Index:
    videos: list[str] = []
    segments: list[Segment] = []
    skipped: list[str] = []
    rates: set[float] = set()
    row = 0
    with progress("decoding footage, videos", len(sources)) as bar:
        for source in sources:
            first, begin, position = row, row, 0
            found: list[Segment] = []
            try:
                opened = open_source(source, spec, pictures=False)
                holes = HoleRule(opened.info.fps)
                for frame in Prefetch(opened):
                    if holes.cause(frame) is not None:
                        if row > begin:
                            found.append(
                                Segment(video=len(videos), start=begin, frames=row - begin)
                            )
                        begin, position = row, 0
                    if frame.damaged:
                        continue
                    if position % spec.stride == 0:
                        write(np.ascontiguousarray(frame.pixels).tobytes())
                        row += 1
                        if row - first == most_frames:
                            break
                    position += 1
            except SourceError as error:
                skipped.append(str(error))
            if row > begin:
                found.append(Segment(video=len(videos), start=begin, frames=row - begin))
            if row > first:
                videos.append(str(source))
                segments += found
                rates.add(round(opened.info.fps, 3))
            bar.advance()
    if not any(segment.frames >= spec.frames for segment in segments):
        why = f" First reason: {skipped[0]}" if skipped else ""
        raise InputError(
            f"none of the {len(sources)} videos holds {spec.span} good frames in a row, which one "
            f"clip needs. Give longer footage.{why}"
        )
    fps = rates.pop() if len(rates) == 1 else None
    return _Index(key=key, videos=videos, segments=segments, skipped=skipped, fps=fps)
