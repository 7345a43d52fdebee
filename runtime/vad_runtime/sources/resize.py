"""From a decoded frame to model size. Training, calibration and the device all call this."""

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from vad_runtime.contracts.clip import ClipSpec
from vad_runtime.contracts.errors import SourceError
from vad_runtime.sources.base import Pixels
from vad_runtime.sources.portable import (
    LARGEST,
    SAMPLES,
    Format,
    Matrix,
    PlanarImage,
    path_taken,
    resized_portably,
)

if TYPE_CHECKING:
    import av
    from av.video.plane import VideoPlane

# AVColorSpace (the numbers of ITU-T H.273) and AVColorRange. What is not here counts as BT.601.
_MATRICES: dict[int, Matrix] = {1: "bt709", 9: "bt2020", 10: "bt2020"}
_LIMITED, _FULL = 1, 2
_PLANAR: dict[str, Format] = {
    "gray": "gray",
    "rgb24": "rgb",
    "bgr24": "bgr",
    "nv12": "nv12",
    "yuv410p": "yuv",
    **{f"yuv{sizes}p": "yuv" for sizes in (411, 420, 422, 440, 444)},
    **{f"yuvj{sizes}p": "yuv" for sizes in (411, 420, 422, 440, 444)},
}


@functools.cache
def one_thread() -> dict[str, Any]:
    """Return what PyAV's `reformat` and `to_ndarray` are to be given besides.

    From 17 on each frame has a scaler of its own that starts threads of its own, which live as long
    as the frame: that takes several times as long as the work, and hundreds of threads where frames
    wait in queues.
    """
    import av

    return {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}


def resized(frame: "av.VideoFrame", spec: ClipSpec) -> Pixels:
    """Return the frame at the spec's size and colour.

    `exact` decodes to RGB at full size, converts to grey where asked (ITU-R BT.601 luma) and
    resizes with OpenCV; enlarging is bilinear in any case. `fast` lets swscale's area filter go
    straight from the decoder's planes to the model's size, which is 1.2 to 1.8 times faster and
    gives other pixels. `portable` goes from the planes too, by a rule that gives the same bytes on
    every machine (docs/portable-resizer.md).

    Args:
        frame: A decoded frame of any pixel format.
        spec: Size, colour and resizer.

    Returns:
        Shape (height, width, channels), uint8; may be a view of memory that the array keeps alive.

    Raises:
        SourceError: `exact` without OpenCV; a frame that is too large for `portable`.
    """
    if spec.resizer == "exact":
        return _exact(frame, spec)
    if spec.resizer == "portable":
        return resized_portably(planes_from_frame(frame), spec)
    target = "gray" if spec.colour == "gray" else "rgb24"
    small = frame.reformat(spec.width, spec.height, target, interpolation="AREA", **one_thread())
    plane = small.planes[0]
    # PyAV's planes speak the buffer protocol, which its type stubs do not say.
    flat: Pixels = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]
    rows = flat.reshape(spec.height, plane.line_size)[:, : spec.width * spec.channels]
    return rows.reshape(spec.frame_shape)


def resizer_line(spec: ClipSpec) -> str:
    """Return the spec's resizer for reports; of `portable` also what computes it here."""
    return f"portable: {path_taken()}" if spec.resizer == "portable" else spec.resizer


def planes_from_frame(frame: "av.VideoFrame") -> PlanarImage:
    """Return the planes of a decoded frame, without a copy where the format allows.

    Eight bits without alpha are taken as they are. Anything else (ten bits, palettes) becomes RGB
    by swscale first, so that its bytes hang on FFmpeg's version.

    Returns:
        Views of the frame's memory, which they keep alive.

    Raises:
        SourceError: The frame is larger than the rule goes.
    """
    if max(frame.width, frame.height) > LARGEST:
        raise SourceError(
            f"a picture of {frame.width} x {frame.height} is too large for the resizer portable, "
            f"which takes up to {LARGEST} each way. Scale the video down, or export the bundle "
            "again with --resizer fast."
        )
    form = frame.format.name
    kind = _PLANAR.get(form)
    if kind is None:
        frame = frame.reformat(format="rgb24", **one_thread())
        kind = "rgb"
    full = frame.color_range == _FULL or form.startswith("yuvj")
    return PlanarImage(
        format=kind,
        planes=tuple(
            _rows(plane, count) for plane, count in zip(frame.planes, SAMPLES[kind], strict=True)
        ),
        matrix=_MATRICES.get(int(frame.colorspace), "bt601"),
        full_range=frame.color_range != _LIMITED if kind == "gray" else full,
    )


def _rows(plane: "VideoPlane", samples: int) -> Pixels:
    flat: Pixels = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]
    line = plane.line_size
    rows = flat.reshape(plane.height, abs(line))[:, : plane.width * samples]
    return rows if line > 0 else rows[::-1]  # stored bottom up


def _exact(frame: "av.VideoFrame", spec: ClipSpec) -> Pixels:
    try:
        import cv2
    except ModuleNotFoundError:
        raise SourceError(
            "the exact resizer needs OpenCV. Install it with: pip install 'vad-edge[video]'"
        ) from None
    pixels = np.asarray(frame.to_ndarray(format="rgb24", **one_thread()), np.uint8)
    if spec.colour == "gray":
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
    shrinks = spec.height <= pixels.shape[0] and spec.width <= pixels.shape[1]
    area = spec.interpolation == "area" and shrinks
    small = cv2.resize(
        pixels,
        (spec.width, spec.height),
        interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR,
    )
    return np.asarray(small, np.uint8).reshape(spec.frame_shape)
