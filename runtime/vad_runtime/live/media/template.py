"""Packets of another encoder in a container of ours: PyAV needs a stream to copy from.

PyAV makes an output stream either for an encoder, or from a stream of an open input; a stream that
only carries packets (`add_mux_stream`) gets no codec header. A camera's own input may be closed or
busy in another thread. So an input is made up: a Matroska file of a few hundred bytes that says
"one video track, this codec, this header, this size" and holds nothing else.
"""

import io
from fractions import Fraction
from typing import TYPE_CHECKING, TypeGuard

import av

from vad_runtime.sources.connection import StreamTemplate

if TYPE_CHECKING:
    from av.container import OutputContainer

TIME_BASE = Fraction(1, 90_000)

_MATROSKA = {
    "h264": b"V_MPEG4/ISO/AVC",
    "hevc": b"V_MPEGH/ISO/HEVC",
    "mpeg4": b"V_MPEG4/ISO/ASP",
    "mjpeg": b"V_MJPEG",
    "mpeg2video": b"V_MPEG2",
    "vp8": b"V_VP8",
    "vp9": b"V_VP9",
    "av1": b"V_AV1",
}
"""Codec ids of RFC 9559 and the Matroska codec mappings."""

_IN_MP4 = frozenset({"h264", "hevc", "mpeg4", "mjpeg", "mpeg2video"})


def remuxable(template: StreamTemplate | None) -> TypeGuard[StreamTemplate]:
    """Whether packets of this stream can be put in a file as they are."""
    return template is not None and template.codec in _MATROSKA


def container_format(codec: str) -> str:
    """Return FFmpeg's name of the container for a codec: `mp4` where it fits."""
    return "mp4" if codec in _IN_MP4 else "matroska"


def add_stream(output: "OutputContainer", template: StreamTemplate) -> av.VideoStream:
    """Add a stream that carries packets of the template's codec, with times in `TIME_BASE`.

    Raises:
        av.error.FFmpegError: FFmpeg refuses the header.
        ValueError: The container does not take the codec.
    """
    with av.open(io.BytesIO(_stub(template)), format="matroska") as stub:
        # opaque = take the parameters as they are; else PyAV asks for an encoder of the codec.
        stream = output.add_stream_from_template(stub.streams.video[0], opaque=True)
    assert isinstance(stream, av.VideoStream)  # as in the stub
    stream.time_base = TIME_BASE
    return stream


def _stub(template: StreamTemplate) -> bytes:
    video = _element("e0", _number("b0", template.width) + _number("ba", template.height))
    track = (
        _number("d7", 1)  # track number
        + _number("73c5", 1)  # its id
        + _number("83", 1)  # video
        + _element("86", _MATROSKA[template.codec])
        + video
    )
    if template.extradata:
        track += _element("63a2", template.extradata)
    tracks = _element("1654ae6b", _element("ae", track))
    info = _element("1549a966", _number("2ad7b1", 1_000_000))
    # FFmpeg reads on until it meets the first cluster.
    cluster = _element("1f43b675", _number("e7", 0))
    head = _element("1a45dfa3", _element("4282", b"matroska"))
    return head + _element("18538067", info + tracks + cluster)


def _element(name: str, body: bytes) -> bytes:
    """Return an EBML element with a length of eight bytes (RFC 8794, section 4)."""
    return bytes.fromhex(name) + (len(body) | 1 << 56).to_bytes(8, "big") + body


def _number(name: str, value: int) -> bytes:
    return _element(name, value.to_bytes(8, "big"))
