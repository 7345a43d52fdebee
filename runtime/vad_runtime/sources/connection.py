"""One connection to a live source: what it gives, how it fails, and who opens it.

PyAV and OpenCV are imported only when a connection is opened.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from vad_runtime.contracts.errors import SourceError
from vad_runtime.contracts.site import Decoder
from vad_runtime.sources.address import Address
from vad_runtime.sources.base import SourceInfo

if TYPE_CHECKING:
    import av

Transport = Literal["tcp", "udp"]


class ConnectionFailed(SourceError):  # noqa: N818 - it is what happened
    """There is no connection, or no longer.

    Args:
        name: The address, masked.
        reason: Why, in words for people: "connection refused", "no answer within 5 s".
        refused: The camera refuses our credentials: trying again may lock the account.
        stalled: It was connected, and nothing came any more.
    """

    def __init__(
        self, name: str, reason: str, *, refused: bool = False, stalled: bool = False
    ) -> None:
        step = "Check user and password" if refused else "Check the camera and the network"
        super().__init__(f"{name}: {reason}. {step}.")
        self.name = name
        self.reason = reason
        self.refused = refused
        self.stalled = stalled


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One decoded picture."""

    picture: "av.VideoFrame"
    """At full size; the receiver owns it."""
    pts_s: float | None
    """Presentation time by the stream's own clock, seconds from wherever it starts; None = the
    stream does not say."""
    damaged: bool = False
    """The decoder could not restore it, or the pictures that it is predicted from."""
    key: bool = False
    """It is predicted from no other."""
    lost_packets: int = 0
    """Packets since the picture before that did not decode."""
    skipped_packets: int = 0
    """Packets since the picture before that `Connection.skip_to_key` left undecoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketInfo:
    """One compressed picture, as it came."""

    data: bytes
    pts_s: float
    """By the stream's own clock, seconds; where the stream does not say, that of the packet before
    and the nominal step."""
    dts_s: float | None
    """Time of decoding by the same clock, seconds; None = unknown."""
    key: bool
    """Decoding may start here."""
    arrived_s: float
    """`time.monotonic()` at which it had been read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTemplate:
    """What a container has to know of packets that were not encoded here."""

    codec: str
    """FFmpeg's name, for example `h264`."""
    extradata: bytes | None
    """The codec's header (for H.264 SPS and PPS); None = it is in the packets."""
    width: int
    height: int
    fps: float
    """Nominal, frames a second."""
    time_base: tuple[int, int]
    """Numerator and denominator of the stream's unit of time, seconds; for MP4 and Matroska any
    other serves as well, since `PacketInfo` speaks seconds."""


class Connection(Protocol):
    """An open stream. One thread iterates over `images`, once."""

    @property
    def info(self) -> SourceInfo:
        """What the stream says of itself, with kind `live stream` and a masked name.

        The size is 0 x 0 until the stream says it, at the latest with the first picture. From any
        thread.
        """

    @property
    def decoder(self) -> str:
        """What decodes: `software h264`, `nvdec h264`, `gstreamer`. From any thread."""

    @property
    def undecodable(self) -> int:
        """Packets so far that did not decode. From any thread."""

    @property
    def template(self) -> StreamTemplate | None:
        """What a container needs for the packets. From any thread.

        None = this source has no packets, or says nothing of them yet. A change of resolution makes
        a new one.
        """

    def images(self) -> Iterator[Image]:
        """Yield pictures as they come, until the stream ends or `close` is called.

        Raises:
            ConnectionFailed: The connection broke, or nothing came for too long.
        """

    def skip_to_key(self) -> None:
        """Leave packets undecoded up to the next key frame; `on_packet` still gets them.

        From any thread. A source without packets ignores it.
        """

    def close(self) -> None:
        """End it; from any thread, as often as one likes.

        Returns at once. `images` in another thread ends with the next packet, or when the time for
        reading is over: FFmpeg cannot be woken earlier.
        """


def require_decoder(address: Address, decoder: Decoder) -> None:
    """Refuse a camera whose decoder this machine does not have; nothing is connected.

    Raises:
        BackendError: It has none.
        SourceError: A package is missing.
    """
    try:
        if address.kind == "gstreamer" or decoder == "gstreamer":
            from vad_runtime.sources.gst_connection import require_gstreamer

            require_gstreamer(address)
        elif decoder == "nvdec" and address.kind != "usb":
            from vad_runtime.sources.decoders import hardware

            hardware(decoder)
    except ModuleNotFoundError as error:
        raise _missing(error) from None


def _missing(error: ModuleNotFoundError) -> Exception:
    if (error.name or "").split(".")[0] not in ("av", "cv2"):
        return error
    return SourceError(
        f"reading cameras needs {error.name}. Install it with: pip install 'vad-edge[video]'"
    )


def open_connection(
    address: Address,
    *,
    decoder: Decoder = "auto",
    transport: Transport = "tcp",
    connect_s: float = 5.0,
    stalled_s: float = 3.0,
    on_packet: Callable[[PacketInfo], None] | None = None,
) -> Connection:
    """Connect to a camera, a stream or a GStreamer pipeline.

    Args:
        address: A live one.
        decoder: `auto` takes a hardware decoder that is there, else software.
        transport: Of RTSP. UDP loses packets where TCP waits.
        connect_s: Longest time for connecting, seconds.
        stalled_s: Longest time without a packet, seconds.
        on_packet: Called with each packet of the video, in the thread that iterates over `images`,
            before the packet is decoded.

    Raises:
        ConnectionFailed: It did not come about.
        BackendError: A decoder was asked for that this machine does not have.
        SourceError: The address is not live, or a package is missing.
    """
    if not address.live:
        raise SourceError(f"{address} is a recording and no live source. Open it as a file.")
    try:
        # Through OpenCV: pip's PyAV has no V4L2, and FFmpeg's waits for ever for a camera that
        # hangs; and FFmpeg runs no GStreamer pipelines.
        if address.kind == "usb" and decoder != "gstreamer":
            from vad_runtime.sources.gst_connection import usb_connection

            return usb_connection(address)
        if address.kind == "gstreamer" or decoder == "gstreamer":
            from vad_runtime.sources.gst_connection import gst_connection

            return gst_connection(
                address, transport=transport, connect_s=connect_s, stalled_s=stalled_s
            )
        from vad_runtime.sources.pyav_connection import PyavConnection
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    return PyavConnection(
        address,
        decoder=decoder,
        transport=transport,
        connect_s=connect_s,
        stalled_s=stalled_s,
        on_packet=on_packet,
    )
