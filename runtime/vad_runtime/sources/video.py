"""Video files and folders of frames, decoded with PyAV straight to model size."""

import re
from collections.abc import Iterator
from pathlib import Path

import av
import av.error
import av.logging
import numpy as np
from av.stream import Disposition

from vad_runtime.contracts.clip import ClipSpec
from vad_runtime.contracts.errors import SourceError
from vad_runtime.sources.base import Frame, Pixels, SourceInfo, SourceStats, no_picture
from vad_runtime.sources.resize import one_thread, resized

# FFmpeg's own chatter about broken streams would drown ours; what matters is counted in the stats.
# It is silenced inside FFmpeg: a Python callback needs the GIL, and a decoder thread that logs
# while this thread closes its codec and holds the GIL waits for ever (seen with PyAV 18.1).
av.logging.set_level(None)
av.logging.set_libav_level(av.logging.PANIC)

DEFAULT_FPS = 25.0
"""Frame rate of a folder of frames, and of a file that names none."""

_ROUNDING_S = 1e-6  # two times that differ by less are one time, said twice
_JUMP_BACK_S = 1.0  # a step back by more is a new recording, not a muxer's slip
_DAMAGE_LASTS_S = 10.0  # streams with intra refresh have no key frames to wait for
_NOT_VIDEO = frozenset({"tty", "concat", "ffmetadata", "lavfi"})  # demuxers of text files


class _Clock:
    """Gives each frame a time that rises strictly, and says when it had to invent one."""

    def __init__(self, fps: float, stats: SourceStats) -> None:
        self._step = 1.0 / fps
        self._stats = stats
        self._start: float | None = None
        self._last: float | None = None
        self.jumped = False
        """Whether the last time said that the footage starts over."""

    @property
    def last_s(self) -> float:
        """The last time given, seconds."""
        return self._last or 0.0

    def stamp(self, pts_s: float | None) -> float:
        if self._start is None:
            self._start = pts_s if pts_s is not None else 0.0
        time_s = None if pts_s is None else pts_s - self._start
        self.jumped = False
        if self._last is not None and time_s is not None and time_s < self._last - _JUMP_BACK_S:
            self._start += time_s - self._last - self._step
            self._stats.timestamps_repaired += 1
            self._last += self._step
            self.jumped = True
            return self._last
        if self._last is not None and (time_s is None or time_s <= self._last + _ROUNDING_S):
            # Broken muxers repeat times or step back (packed B-frames in AVI): the frames are in
            # order all the same, so the nominal step is the best that can be said.
            time_s = self._last + self._step
            self._stats.timestamps_repaired += 1
        self._last = 0.0 if time_s is None else time_s
        return self._last


class VideoFile:
    """A video file of any container and codec that FFmpeg reads."""

    def __init__(self, path: Path, spec: ClipSpec, *, pictures: bool = True) -> None:
        self._spec = spec
        self._pictures = pictures
        self.stats = SourceStats()
        try:
            # Absolute, since FFmpeg would take `cam:1.mp4` for an address of the protocol `cam`.
            self._container = av.open(str(path.absolute()))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise SourceError(f"{path} is not a readable video ({reason}). Give another.") from None
        text = self._container.format.name in _NOT_VIDEO
        films = [] if text else [s for s in self._container.streams.video if not _is_cover(s)]
        if not films:
            self._container.close()
            raise SourceError(f"{path} holds no video stream. Give a video file.")
        self._stream = films[0]
        context = self._stream.codec_context
        if context is None:  # against PyAV's types
            self._container.close()
            raise SourceError(f"{path} is in no codec that FFmpeg knows. Convert it, or mend it.")
        self._stream.thread_type = "AUTO"
        rate = self._stream.guessed_rate or self._stream.average_rate
        if not context.width or not context.height:
            self._container.close()
            raise SourceError(f"{path} says nothing of its picture size. Give an intact video.")
        self.info = SourceInfo(
            name=str(path),
            kind="video file",
            codec=context.name,
            width=context.width,
            height=context.height,
            fps=float(rate) if rate else DEFAULT_FPS,
            frames=self._stream.frames or None,
        )
        self._lost = 0

    def frames(self) -> Iterator[Frame]:
        """See `FrameSource.frames`.

        A packet that does not decode is counted and passed over. From a damaged frame or such a
        packet on, every frame is damaged up to the next sound key frame: decoders flag the frame
        that they could not restore, but not those that are predicted from it.
        """
        clock = _Clock(self.info.fps, self.stats)
        size: tuple[int, int] | None = None
        damaged_from: float | None = None
        hole: str | None = None
        try:
            for packet in self._container.demux(self._stream):
                try:
                    decoded = packet.decode()
                except av.error.FFmpegError:
                    self.stats.undecodable_packets += 1
                    self._lost += 1  # as a rule a packet of video is one frame
                    hole = "undecodable packet"
                    damaged_from = clock.last_s
                    continue
                for image in decoded:
                    if size is not None and size != (image.width, image.height):
                        hole = "change of resolution"
                    size = (image.width, image.height)
                    time_s = clock.stamp(_seconds(image))
                    if clock.jumped:
                        hole = "jump back in time"
                    if image.is_corrupt:
                        damaged_from = time_s
                    elif damaged_from is not None and (
                        image.key_frame or time_s - damaged_from > _DAMAGE_LASTS_S
                    ):
                        damaged_from = None
                    yield self._frame(image, time_s, hole, damaged_from is not None)
                    hole = None
        except av.error.FFmpegError as error:
            self.stats.notes.append(f"reading stopped early: {error.strerror}")
        finally:
            self._container.close()
        if self.stats.frames == 0:
            raise SourceError(f"{self.info.name} holds no frame that decodes. Give another video.")
        promised = self.info.frames
        if promised is not None and self.stats.frames < promised:
            self.stats.notes.append(
                f"the file promises {promised} frames, {self.stats.frames} could be read"
            )

    def _frame(self, image: av.VideoFrame, time_s: float, hole: str | None, damaged: bool) -> Frame:
        index = self.stats.frames + self._lost
        self.stats.frames += 1
        self.stats.damaged += damaged
        if hole is not None:
            self.stats.holes[hole] = self.stats.holes.get(hole, 0) + 1
        return Frame(
            index=index,
            pts_s=time_s,
            pixels=resized(image, self._spec),
            picture=_Picture(image) if self._pictures else no_picture,
            hole=hole,
            damaged=damaged,
        )


def _is_cover(stream: av.VideoStream) -> bool:
    """Whether the stream is the cover picture of an album and no film."""
    return bool(stream.disposition & Disposition.attached_pic)


def _seconds(image: av.VideoFrame) -> float | None:
    if image.pts is None or image.time_base is None:
        return None
    return float(image.pts * image.time_base)


class _Picture:
    """The frame at full size; a class and not a closure, so that it holds one thing only."""

    __slots__ = ("_image",)

    def __init__(self, image: av.VideoFrame) -> None:
        self._image = image

    def __call__(self) -> Pixels:
        return np.asarray(self._image.to_ndarray(format="rgb24", **one_thread()), np.uint8)


class FrameFolder:
    """A folder of still images in natural order: `2.jpg` before `10.jpg`."""

    def __init__(
        self,
        path: Path,
        files: list[Path],
        spec: ClipSpec,
        fps: float | None,
        *,
        pictures: bool = True,
    ) -> None:
        self._spec = spec
        self._pictures = pictures
        self._files = sorted(files, key=_natural)
        self.stats = SourceStats()
        first = next((image for f in self._files if (image := _read_image(f)) is not None), None)
        if first is None:
            raise SourceError(f"{path} holds no image that decodes. Give another folder.")
        self.info = SourceInfo(
            name=str(path),
            kind="frame folder",
            codec=self._files[0].suffix.lstrip(".").lower(),
            width=first.width,
            height=first.height,
            fps=fps or spec.fps or DEFAULT_FPS,
            frames=len(self._files),
        )

    def frames(self) -> Iterator[Frame]:
        """See `FrameSource.frames`. An image that does not decode leaves a hole and is counted."""
        hole: str | None = None
        size: tuple[int, int] | None = None
        for index, file in enumerate(self._files):
            image = _read_image(file)
            if image is None:
                self.stats.undecodable_packets += 1
                hole = "undecodable image"
                continue
            if size is not None and size != (image.width, image.height):
                hole = "change of resolution"
            size = (image.width, image.height)
            self.stats.frames += 1
            if hole is not None:
                self.stats.holes[hole] = self.stats.holes.get(hole, 0) + 1
            yield Frame(
                index=index,
                pts_s=index / self.info.fps,
                pixels=resized(image, self._spec),
                picture=_Picture(image) if self._pictures else no_picture,
                hole=hole,
            )
            hole = None


def _read_image(file: Path) -> av.VideoFrame | None:
    try:
        # An open file and not its name: FFmpeg takes `%02d` in the name of an image for a pattern.
        with file.open("rb") as stream, av.open(stream) as container:
            return next(container.decode(video=0), None)
    except (av.error.FFmpegError, OSError, IndexError):
        return None


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key under which numbers count as numbers."""
    return [
        (int(part), "") if part.isdecimal() else (0, part)
        for part in re.split(r"(\d+)", path.name.lower())
    ]
