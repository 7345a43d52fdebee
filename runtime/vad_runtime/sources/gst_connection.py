"""Live sources through OpenCV: GStreamer pipelines, and USB cameras by V4L2.

pip's OpenCV has V4L2 and no GStreamer; the OpenCV of a distribution (`python3-opencv`) and of
NVIDIA's Jetson has both. Neither hands out compressed packets.
"""

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import av
import cv2
import numpy as np

from vad_runtime.contracts.errors import BackendError
from vad_runtime.sources.address import Address
from vad_runtime.sources.base import SourceInfo
from vad_runtime.sources.connection import ConnectionFailed, Image, StreamTemplate, Transport

_FALLBACK_FPS = 25.0
_SINK = "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=4 sync=false"


def _silence() -> None:
    """Keep OpenCV from printing: a line for each try, in which a pipeline's password may stand."""
    logging: Any = getattr(getattr(cv2, "utils", None), "logging", cv2)
    set_level = getattr(logging, "setLogLevel", None)  # of OpenCV 4.5 and newer
    if set_level is not None and "OPENCV_LOG_LEVEL" not in os.environ:
        set_level(0)


_silence()


class CvConnection:
    """See `Connection`. A capture of OpenCV that is open.

    Pictures carry the time at which they were read as their own (`Image.pts_s`, by
    `time.monotonic()`): OpenCV gives the position of a pipeline, and of some cameras nothing.

    Args:
        capture: `cv2.VideoCapture`, owned by this object.
        name: The address, masked.
        decoder: What to say of the decoder.
    """

    template: StreamTemplate | None = None
    undecodable = 0

    def __init__(self, capture: Any, name: str, decoder: str) -> None:
        self._capture = capture
        self._name = name
        self._lock = threading.Lock()
        self._closed = False
        self._reading = False
        self.decoder = decoder
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        self.info = SourceInfo(
            name=name,
            kind="live stream",
            codec="raw",
            width=max(0, int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))),
            height=max(0, int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))),
            fps=fps if 0 < fps < 1000 else _FALLBACK_FPS,
            frames=None,
        )

    def images(self) -> Iterator[Image]:
        """See `Connection.images`."""
        with self._lock:
            if self._closed or self._reading:
                return
            self._reading = True
        try:
            while not self._closed:
                there, pixels = self._capture.read()
                if self._closed:
                    return
                if not there or pixels is None:
                    raise ConnectionFailed(self._name, "no picture comes any more", stalled=True)
                yield Image(picture=self._picture(pixels), pts_s=time.monotonic(), key=True)
        finally:
            self._closed = True
            self._capture.release()

    def skip_to_key(self) -> None:
        """See `Connection.skip_to_key`: there are no packets, and the capture drops by itself."""

    def close(self) -> None:
        """See `Connection.close`."""
        with self._lock:
            self._closed = True
            if not self._reading:
                self._capture.release()

    def _picture(self, pixels: Any) -> av.VideoFrame:
        array = np.ascontiguousarray(pixels)
        if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3:
            return av.VideoFrame.from_ndarray(array, format="bgr24")
        if array.dtype == np.uint8 and array.ndim == 2:
            return av.VideoFrame.from_ndarray(array, format="gray")
        raise ConnectionFailed(
            self._name,
            f"the pipeline gives {array.dtype} pixels of shape {array.shape}, "
            "end it with `videoconvert ! video/x-raw,format=BGR ! appsink`",
        )


def gst_connection(
    address: Address, *, transport: Transport = "tcp", connect_s: float, stalled_s: float
) -> CvConnection:
    """Open a GStreamer pipeline, or a stream through GStreamer's own choice of elements.

    Args:
        address: A pipeline; `appsink` is added where it has none. Or a stream or USB camera.
        transport: Of RTSP, where the address is no pipeline.
        connect_s: Longest time for the first picture, seconds, where this OpenCV can be told.
        stalled_s: Longest time for every other, seconds, likewise.

    Raises:
        BackendError: This OpenCV has no GStreamer.
        ConnectionFailed: The pipeline does not start.
    """
    require_gstreamer(address)
    text = pipeline(address, transport)
    capture = cv2.VideoCapture()
    times = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        round(connect_s * 1000),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        round(stalled_s * 1000),
    ]
    # Older versions do not start with parameters that they do not know.
    if not capture.open(text, cv2.CAP_GSTREAMER, times) and not capture.open(
        text, cv2.CAP_GSTREAMER
    ):
        capture.release()
        raise ConnectionFailed(
            str(address), "the pipeline does not start; try it with gst-launch-1.0"
        )
    return CvConnection(capture, str(address), "gstreamer")


def usb_connection(address: Address) -> CvConnection:
    """Open a USB camera by V4L2, in the mode that it is in.

    OpenCV gives up on a camera that hangs after 10 s (`OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT`).

    Raises:
        ConnectionFailed: There is none, it may not be opened, or another program has it.
    """
    name = str(address)
    if not os.path.exists(address.text):  # noqa: PTH110 - Path raises in a closed folder
        raise ConnectionFailed(name, "no such camera; `ls /dev/v4l/by-id` names those that are")
    if not os.access(address.text, os.R_OK | os.W_OK):
        raise ConnectionFailed(name, "this user may not open it; add it to the group video")
    # OpenCV knows cameras by number and by /dev/videoN only; by-id is a link to one.
    capture = cv2.VideoCapture(os.path.realpath(address.text), cv2.CAP_V4L2)
    if not capture.isOpened():
        capture.release()
        raise ConnectionFailed(name, "it cannot be opened; another program may have it")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 2)  # newest pictures, not those of four frames ago
    return CvConnection(capture, name, "v4l2")


def pipeline(address: Address, transport: Transport) -> str:
    """Return the GStreamer pipeline for an address."""
    if address.kind == "gstreamer":
        has_sink = "appsink" in address.text
        return address.text if has_sink else f"{address.text.rstrip(' !')} ! {_SINK}"
    text = address.text
    if address.kind == "usb":
        return f'v4l2src device="{text}" ! decodebin ! {_SINK}'
    if transport == "tcp" and text.startswith("rtsp://"):
        text = f"rtspt{text[4:]}"  # how GStreamer writes RTSP over TCP
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'uridecodebin uri="{quoted}" ! {_SINK}'


def require_gstreamer(address: Address) -> None:
    """Raise a BackendError that names the address, where this OpenCV has no GStreamer."""
    if not _has_gstreamer():
        raise BackendError(
            f"{address} needs an OpenCV with GStreamer, which pip's never has. "
            "Use the system's (apt install python3-opencv), or decoder auto with an address."
        )


def _has_gstreamer() -> bool:
    backends = cv2.videoio_registry.getBackends()
    return cv2.CAP_GSTREAMER in backends and cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER)
