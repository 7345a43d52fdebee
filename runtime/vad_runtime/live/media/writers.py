"""One film file of an event: packets as they came, or pictures where a source has no packets."""

from collections.abc import Callable
from fractions import Fraction
from typing import Protocol

import av
import av.error
import av.logging
import cv2
import numpy as np

from vad_runtime.live.media.disk import NewFile
from vad_runtime.live.media.salvage import FRAGMENTED
from vad_runtime.live.media.template import TIME_BASE, add_stream, container_format
from vad_runtime.sinks.overlay import ENCODERS
from vad_runtime.sources.connection import PacketInfo, StreamTemplate

# As in sources/video.py, and for the same reason.
av.logging.set_level(None)
av.logging.set_libav_level(av.logging.PANIC)

_APART_S = 10.0  # times of decoding and showing that are further apart are a camera's nonsense
_BACK_S = 1.0  # B-frames step back by less

FAILURES = (OSError, av.error.FFmpegError, ValueError, OverflowError, cv2.error)
"""What a disk, FFmpeg and OpenCV raise for something that cannot be written."""


class FilmFile(Protocol):
    """A film that is being written; closing the file is left to who opened it."""

    def add(self, packet: PacketInfo) -> None:
        """Take the next packet. Raises one of `FAILURES`."""

    def close(self) -> None:
        """Write what is missing for a whole film. Raises one of `FAILURES`."""

    def abort(self) -> None:
        """Let go of it; the file is of no use then. Raises nothing."""


class RemuxedFilm:
    """A film of packets that are not decoded: MP4 where the codec fits, else Matroska.

    Args:
        file: What it is written to.
        template: What the packets are.
        title: For players.
    """

    def __init__(self, file: NewFile, template: StreamTemplate, title: str) -> None:
        self._file = file
        self._container = _opened(file, container_format(template.codec), title)
        try:
            self._stream = add_stream(self._container, template)
        except FAILURES:
            self.abort()
            raise
        self._step = round(1 / (template.fps if template.fps > 0 else 25.0) / TIME_BASE)
        self._start_s: float | None = None
        self._held: av.Packet[av.stream.Stream] | None = None

    def add(self, packet: PacketInfo) -> None:
        """See `FilmFile`."""
        decode_s = packet.dts_s
        if decode_s is None or abs(packet.pts_s - decode_s) > _APART_S:
            decode_s = self._guessed_s(packet.pts_s)
        if self._start_s is None:
            self._start_s = decode_s
        # Muxers insist: decoding times rise, and none is later than that of its picture.
        dts = round((decode_s - self._start_s) / TIME_BASE)
        if self._held is not None:
            assert self._held.dts is not None
            dts = max(dts, self._held.dts + 1)
        out = av.Packet(packet.data)
        out.stream = self._stream
        out.time_base = TIME_BASE
        out.dts = dts
        out.pts = max(dts, round((packet.pts_s - self._start_s) / TIME_BASE))
        out.is_keyframe = packet.key
        # Each is held back until the next tells how long it lasts: MP4 shows no picture that lasts
        # no time, which would be the last one.
        self._mux(dts)
        self._held = out

    def _guessed_s(self, pts_s: float) -> float:
        """Return when to decode what does not say so: a step behind the packet before.

        RTSP leaves it out of a connection's first packets; among B-frames the time of showing in
        its place would put them out of order.
        """
        if self._held is None or self._start_s is None:
            return pts_s
        assert self._held.dts is not None
        next_s = self._start_s + float((self._held.dts + self._step) * TIME_BASE)
        return min(pts_s, max(next_s, pts_s - _BACK_S))

    def _mux(self, until: int | None) -> None:
        held, self._held = self._held, None
        if held is not None:
            assert held.dts is not None
            held.duration = self._step if until is None else until - held.dts
            self._container.mux_one(held)

    def close(self) -> None:
        """See `FilmFile`."""
        self._mux(None)
        self._container.close()

    def abort(self) -> None:
        """See `FilmFile`."""
        _abandon(self._file, self._container.close)


class EncodedFilm:
    """A film of JPEGs, encoded anew: GStreamer pipelines, folders and recordings give no packets.

    Args:
        file: What it is written to.
        title: For players.
    """

    _CLOCK = Fraction(1, 1000)

    def __init__(self, file: NewFile, title: str) -> None:
        self._file = file
        self._container = _opened(file, "mp4", title)
        self._stream: av.VideoStream | None = None
        self._start_s = 0.0
        self._last = -1

    def add(self, packet: PacketInfo) -> None:
        """See `FilmFile`. A JPEG of another size is fitted to that of the first."""
        picture = cv2.imdecode(np.frombuffer(packet.data, np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            return
        if self._stream is None:
            self._start_s = packet.pts_s
            self._stream = self._new_stream(picture.shape[1] & ~1, picture.shape[0] & ~1)
        size = self._stream.width, self._stream.height
        if (picture.shape[1], picture.shape[0]) != size:
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        image = av.VideoFrame.from_ndarray(np.asarray(picture, np.uint8), format="bgr24")
        self._last = max(self._last + 1, round((packet.pts_s - self._start_s) / self._CLOCK))
        image.pts, image.time_base = self._last, self._CLOCK
        self._container.mux(self._stream.encode(image))

    def _new_stream(self, width: int, height: int) -> av.VideoStream:
        name = next((name for name, _ in ENCODERS if name in av.codecs_available), None)
        if name is None:
            raise ValueError("this PyAV has no H.264 or MPEG-4 encoder")
        # The least work that makes a film; clips are short and few.
        options = {"preset": "ultrafast", "crf": "26"} if name == "libx264" else {}
        stream = self._container.add_stream(name, rate=25, options={"bf": "0", **options})
        assert isinstance(stream, av.VideoStream)  # what those encoders make
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = self._CLOCK
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = 30  # a jump in the player lands within some seconds
        if name != "libx264":
            stream.bit_rate = max(400_000, width * height * 4)
        return stream

    def close(self) -> None:
        """See `FilmFile`."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()

    def abort(self) -> None:
        """See `FilmFile`."""
        _abandon(self._file, self._container.close)


def _opened(file: NewFile, container: str, title: str) -> "av.container.OutputContainer":
    options = FRAGMENTED if container == "mp4" else {}
    output = av.open(file, "w", format=container, options=options)
    output.metadata["title"] = title
    return output


def _abandon(file: NewFile, close: Callable[[], None]) -> None:
    file.abandon()
    try:
        close()
    except FAILURES:
        # Nothing of it is kept, so it does not matter that it cannot be completed.
        return
