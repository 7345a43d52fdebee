"""Streams over the network through PyAV: RTSP, HTTP (MJPEG, MPEG-TS, HLS), RTMP, UDP, SRT.

Measured on loopback with a camera of 25 frames a second (FFmpeg 8.0): the first picture comes
0.35 s after the call, of which 0.3 s go to finding the frame rate. The option `nobuffer`, which
many recipes name, drops what was read meanwhile, and with it the key frame: the first picture then
comes a whole group of pictures later.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import av
import av.error

from vad_runtime.contracts.errors import BackendError
from vad_runtime.contracts.site import Decoder
from vad_runtime.sources.address import Address
from vad_runtime.sources.base import SourceInfo
from vad_runtime.sources.connection import (
    ConnectionFailed,
    Image,
    PacketInfo,
    StreamTemplate,
    Transport,
)
from vad_runtime.sources.decoders import hardware
from vad_runtime.sources.failures import reason_of, refuses
from vad_runtime.sources.h264_loss import H264Loss
from vad_runtime.sources.pace import Even
from vad_runtime.sources.packet_times import PacketTimes
from vad_runtime.sources.parameter_sets import parameter_sets

# As in video.py, which says why: FFmpeg's own chatter, silenced inside FFmpeg.
av.logging.set_level(None)
av.logging.set_libav_level(av.logging.PANIC)

DEFAULT_FPS = 25.0
"""Nominal frame rate of a stream that names none."""

_UNTIMED = frozenset({"mpjpeg", "mjpeg", "jpeg_pipe", "image2pipe", "h264", "hevc", "mpegvideo"})
"""Formats without times: FFmpeg counts 25 a second there, whatever comes."""
_IN_BURSTS = frozenset({"hls", "hls,applehttp", "dash"})
"""Formats that bring a segment of some seconds at once, and then nothing for as long."""
_NOT_VIDEO = frozenset({"tty", "concat", "ffmetadata", "lavfi"})  # demuxers of text files
_DAMAGE_LASTS_S = 10.0  # streams with intra refresh have no key frames to wait for
_NO_PICTURE_S = 20.0  # packets, but none gives a picture; groups of pictures may last 10 s
_FASTEST = 240  # frames a second; cameras that do not know theirs say 90000
_LARGE = 1920 * 1088
_NO_DECODER = (
    RuntimeError,
    NotImplementedError,
    av.error.PermissionError,
    av.error.ExternalError,
    av.error.UnknownError,
    av.error.MemoryError,
)
"""What PyAV raises where a hardware decoder does not start; a network has other errors."""


class PyavConnection:
    """See `Connection`. Arguments as `open_connection`."""

    def __init__(
        self,
        address: Address,
        *,
        decoder: Decoder = "auto",
        transport: Transport = "tcp",
        connect_s: float = 5.0,
        stalled_s: float = 3.0,
        on_packet: Callable[[PacketInfo], None] | None = None,
    ) -> None:
        self._name = str(address)
        self._stalled_s = stalled_s
        self._on_packet = on_packet
        self._lock = threading.Lock()
        self._closed = False
        self._woken = threading.Event()
        self._reading = False
        self._skip = False
        self.undecodable = 0
        """Packets that did not decode."""
        self._container = _opened(address, decoder, transport, connect_s, stalled_s)
        try:
            self._stream = self._video_stream()
            context = self._stream.codec_context
            self._prepare(context)
            self.info = SourceInfo(
                name=self._name,
                kind="live stream",
                codec=context.name,
                width=context.width,
                height=context.height,
                fps=_rate(self._stream),
                frames=None,
            )
            on_gpu = bool(getattr(context, "is_hwaccel", False))
            self.decoder = f"{'nvdec' if on_gpu else 'software'} {context.name}"
            if decoder == "nvdec" and not on_gpu:
                raise BackendError(
                    f"{self._name}: nvdec does not decode {context.name}. "
                    "Use decoder auto, or another codec in the camera."
                )
            self.template = self._template(context.extradata)
            self._untimed = self._container.format.name in _UNTIMED
            self._even = Even() if self._container.format.name in _IN_BURSTS else None
            is_h264 = context.name == "h264"
            self._loss = H264Loss(context.extradata) if is_h264 else None
        except BaseException:
            self._container.close()
            raise

    def images(self) -> Iterator[Image]:
        """See `Connection.images`.

        From a damaged picture, a packet that does not decode or a lost packet on, all are damaged
        up to the next sound key frame.
        """
        with self._lock:
            if self._closed or self._reading:
                return
            self._reading = True
        try:
            yield from self._images()
        except av.error.FFmpegError as error:
            if self._closed:
                return
            stalled = isinstance(error, av.error.ExitError | av.error.TimeoutError)
            reason = reason_of(error, self._stalled_s)
            if stalled:
                reason = f"nothing came for {self._stalled_s:g} s"
            raise ConnectionFailed(
                self._name, reason, refused=refuses(error), stalled=stalled
            ) from None
        finally:
            self._closed = True
            self._container.close()

    def _images(self) -> Iterator[Image]:
        damage = _Damage()
        times = PacketTimes(self.info.fps, self._on_packet)
        lost = skipped = 0
        last_video = last_image = time.monotonic()
        packets = self._container.demux()
        while True:
            asked = time.monotonic()
            packet = next(packets, None)
            now = time.monotonic()
            if packet is None or self._closed:
                return
            if now - asked >= self._stalled_s:
                # At its time-out FFmpeg first gives out the half of a picture that it has.
                raise self._stalled(f"nothing came for {self._stalled_s:g} s")
            if packet.stream_index != self._stream.index:
                if now - last_video > self._stalled_s:
                    raise self._stalled(f"no video came for {self._stalled_s:g} s")
                continue
            last_video = now
            if packet.size:
                data = bytes(packet)
                self._note(packet, data, now, times)
                # Asked for each packet, so that it knows the one before.
                missing = self._loss and self._loss.lost_before(data, key=packet.is_keyframe)
                if self._skip:
                    self._skip = skipped == 0 or not packet.is_keyframe
                    if self._skip:
                        skipped += 1
                        # Pictures that the decoder still holds come out behind this, with others
                        # missing between them: B-frames, or large pictures decoded in parallel.
                        damage.start(_seconds(packet), now)
                        continue
                elif missing:
                    damage.start(_seconds(packet), now)
                if packet.is_corrupt:  # MPEG-TS counts its packets; the decoder hides the hole
                    damage.start(_seconds(packet), now, keys_too=True)
            try:
                pictures = packet.decode()
            except av.error.FFmpegError:
                lost += 1
                self.undecodable += 1
                damage.start(_seconds(packet), now)
                pictures = []
            for picture in pictures:
                last_image = now
                self._resize(picture)
                pts_s = now if self._untimed else _seconds(picture)
                yield Image(
                    picture=picture,
                    pts_s=pts_s,
                    damaged=damage.holds(picture, now),
                    key=picture.key_frame,
                    lost_packets=lost,
                    skipped_packets=skipped,
                )
                lost = skipped = 0
                if self._even is not None and pts_s is not None:
                    self._woken.wait(self._even.wait_s(pts_s, time.monotonic()))
            if now - last_image > max(_NO_PICTURE_S, self._stalled_s):
                raise self._stalled(f"no packet gave a picture for {now - last_image:.0f} s")

    def skip_to_key(self) -> None:
        """See `Connection.skip_to_key`; the next packet is left out in any case."""
        self._skip = True

    def close(self) -> None:
        """See `Connection.close`."""
        with self._lock:
            self._closed = True
            self._woken.set()
            if not self._reading:
                self._container.close()

    def _stalled(self, reason: str) -> ConnectionFailed:
        return ConnectionFailed(self._name, reason, stalled=True)

    def _video_stream(self) -> Any:
        films = list(self._container.streams.video)
        if not films or self._container.format.name in _NOT_VIDEO:
            raise ConnectionFailed(self._name, "no video in the stream")
        # A codec that FFmpeg does not know has no context.
        known = [film for film in films if film.codec_context is not None]
        if not known:
            raise ConnectionFailed(self._name, "video of an unknown codec")
        return known[0]

    def _prepare(self, context: Any) -> None:
        """Decode without delay: frames in parallel would each hold one back."""
        for stream in self._container.streams:
            if stream.index != self._stream.index and hasattr(stream, "discard"):
                stream.discard = "all"
        if context.width * context.height > _LARGE:
            context.thread_type, context.thread_count = "FRAME", 2
        else:
            context.thread_type, context.thread_count = "SLICE", 1

    def _template(self, extradata: bytes | None) -> StreamTemplate | None:
        if self.info.codec == "rawvideo" or not self.info.width:
            return None
        base = self._stream.time_base
        return StreamTemplate(
            codec=self.info.codec,
            extradata=bytes(extradata) if extradata else None,
            width=self.info.width,
            height=self.info.height,
            fps=self.info.fps,
            time_base=(base.numerator, base.denominator) if base else (1, 90000),
        )

    def _note(self, packet: Any, data: bytes, now: float, times: PacketTimes) -> None:
        if self._on_packet is None:
            return
        template = self.template
        if template is not None and template.extradata is None and packet.is_keyframe:
            sets = parameter_sets(template.codec, data)[1]
            if sets:
                self.template = replace(template, extradata=sets)
        times.give(
            PacketInfo(
                data=data,
                pts_s=0.0,
                dts_s=None,
                key=packet.is_keyframe,
                arrived_s=now,
            ),
            now if self._untimed else _seconds(packet),
            None if self._untimed or packet.dts is None else float(packet.dts * packet.time_base),
        )

    def _resize(self, picture: av.VideoFrame) -> None:
        if (picture.width, picture.height) == (self.info.width, self.info.height):
            return
        known = self.info.width > 0
        self.info = replace(self.info, width=picture.width, height=picture.height)
        # A header of before would describe the old pictures: the new one is in the packets.
        extradata = None if known else self._stream.codec_context.extradata
        self.template = self._template(extradata)


def _rate(stream: Any) -> float:
    """Return the nominal rate; FFmpeg's guess, doubled for fields, is the last resort."""
    rates = (stream.average_rate, stream.codec_context.framerate, stream.guessed_rate)
    sane = (float(rate) for rate in rates if rate and 0 < rate <= _FASTEST)
    return next(sane, DEFAULT_FPS)


class _Damage:
    """Whether pictures are still predicted from one that was lost or damaged."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._pts_s: float | None = None

    def start(self, pts_s: float | None, now: float, *, keys_too: bool = False) -> None:
        """Note what is missing in front of a time; `keys_too` = in the picture of that time."""
        self._since_s, self._pts_s = now, pts_s
        if keys_too and pts_s is not None:
            self._pts_s = pts_s + 1e-6

    def holds(self, picture: av.VideoFrame, now: float) -> bool:
        pts_s = _seconds(picture)
        if picture.is_corrupt:
            self.start(pts_s, now)
        elif self._since_s is not None:
            # Pictures come out later than their packets went in: a key frame from before says
            # nothing of what was lost behind it.
            behind = pts_s is None or self._pts_s is None or pts_s >= self._pts_s
            if (picture.key_frame and behind) or now - self._since_s > _DAMAGE_LASTS_S:
                self._since_s = None
        return self._since_s is not None


def _seconds(item: Any) -> float | None:
    """Return the time of a packet or picture by the stream's clock, seconds."""
    if item.pts is None or item.time_base is None:
        return None
    return float(item.pts * item.time_base)


def _opened(
    address: Address, decoder: Decoder, transport: Transport, connect_s: float, stalled_s: float
) -> Any:
    accel = hardware(decoder)
    options = stream_options(address, transport, max(connect_s, stalled_s))
    while True:
        start = time.monotonic()
        try:
            return av.open(
                address.text,
                options=options,
                timeout=(connect_s, stalled_s),
                **({} if accel is None else {"hwaccel": accel}),
            )
        except (av.error.FFmpegError, RuntimeError, NotImplementedError) as error:
            if accel is None or not isinstance(error, _NO_DECODER):
                if not isinstance(error, av.error.FFmpegError):
                    raise
                took_s = time.monotonic() - start
                reason = reason_of(error, connect_s, address, took_s=took_s)
                raise ConnectionFailed(str(address), reason, refused=refuses(error)) from None
            if decoder == "nvdec":
                raise BackendError(
                    f"{address}: NVIDIA's decoder does not start for this stream. Use decoder auto."
                ) from None
        except ValueError as error:  # an address that PyAV cannot hand on
            raise ConnectionFailed(str(address), f"no usable address ({error})") from None
        accel = None  # auto: once more, in software


def stream_options(address: Address, transport: Transport, longest_s: float) -> dict[str, str]:
    """Return FFmpeg's options for a stream; each is meant for its protocol.

    Args:
        address: A stream.
        transport: Of RTSP.
        longest_s: Longest wait for the network, seconds: a second guard behind PyAV's.
    """
    microseconds = str(round(longest_s * 1e6))
    options = {
        "analyzeduration": "500000",
        "fpsprobesize": "0",  # the rate comes from times alone, not from 20 pictures
    }
    scheme = address.text.partition(":")[0]
    if scheme in ("rtsp", "rtsps"):
        options |= {
            "rtsp_transport": transport,
            "allowed_media_types": "video",
            "timeout": microseconds,
        }
        if transport == "udp":
            options["buffer_size"] = str(1 << 20)  # a key frame comes as one burst
    elif scheme in ("http", "https"):
        options |= {"rw_timeout": microseconds, "live_start_index": "-1"}
    elif scheme == "udp":
        options |= {"overrun_nonfatal": "1", "fifo_size": "20000", "timeout": microseconds}
    return options
