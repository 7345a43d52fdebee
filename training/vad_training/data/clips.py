"""The clips of a video, exactly as the device makes them."""

from collections.abc import Iterator
from pathlib import Path

from vad_runtime.contracts import ClipSpec
from vad_runtime.sources import Pixels, SourceInfo, open_source
from vad_runtime.sources.prefetch import Prefetch
from vad_runtime.windows import Clip, ClipWindow, HoleRule


class VideoClips:
    """An open video or folder of frames, to be read once, clip by clip.

    Attributes:
        info: What the source says about itself, its frame rate among it.
        frames: How many frames have gone by so far, lost ones counted; after the last clip, how
            many the video has.
    """

    def __init__(self, path: Path, spec: ClipSpec) -> None:
        self._source = open_source(path, spec, pictures=False)
        self._spec = spec
        self.info: SourceInfo = self._source.info
        self.frames = 0

    def __iter__(self) -> Iterator[tuple[list[int], Pixels]]:
        """Yield each clip: its source frames, and its pixels, (T, H, W, C), uint8.

        The caller owns the pixels. A clip spans no hole; the last one ends with the last frame.

        Raises:
            SourceError: Reading failed for a reason that reading on cannot mend.
        """
        window = ClipWindow(self._spec)
        holes = HoleRule(self.info.fps)
        for frame in Prefetch(self._source):
            self.frames = frame.index + 1
            if holes.cause(frame) is not None:
                yield from _copied(window.flush())
            if not frame.damaged:
                yield from _copied(window.push(frame.index, frame.pixels))
        yield from _copied(window.flush())


def clips_of(path: Path, spec: ClipSpec) -> VideoClips:
    """Open a video or folder of frames, to iterate over its clips, `spec.hop` frames apart.

    Raises:
        SourceError: Nothing there, not readable, or no frames in it.
    """
    return VideoClips(path, spec)


def _copied(clip: Clip | None) -> Iterator[tuple[list[int], Pixels]]:
    if clip is not None:
        yield clip.indices, clip.pixels[0].copy()
