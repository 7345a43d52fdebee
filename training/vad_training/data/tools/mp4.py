"""Writes one H.264 film, frame by frame, each at its own time."""

import contextlib
import math
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import av.error
import cv2
import numpy as np

from vad_runtime.contracts import InputError
from vad_runtime.sinks.overlay import ENCODERS, FAILURES
from vad_runtime.sinks.rows import unwritable
from vad_runtime.sources import Pixels

_LEAST_CLOCK = 10_000  # ticks a second; finer than any camera's jitter
_MOST_CLOCK = 65_535  # MPEG-4 counts no further


class Mp4Writer:
    """An mp4 film without sound; H.264, or MPEG-4 where PyAV has no H.264 encoder.

    The same pictures give the same bytes on every machine with the same libraries.

    Args:
        file: Where to write.
        width: Columns of the pictures; of an odd number the last one is cut off, because the
            colour planes have half the size.
        height: Rows of the pictures, likewise.
        fps: Nominal frame rate, frames a second.

    Raises:
        InputError: No encoder, pictures of one row or column, or the file cannot be written.
    """

    def __init__(self, file: Path, width: int, height: int, fps: float) -> None:
        self._file = file
        self.width, self.height = width - width % 2, height - height % 2
        if not self.width or not self.height:
            raise InputError(f"{file}: a film of {width} x {height} is too small. Take more of it.")
        name = next((name for name, _ in ENCODERS if name in av.codecs_available), None)
        if name is None:
            raise InputError(
                "this PyAV has no H.264 or MPEG-4 encoder. "
                "Install one that has, with: pip install --force-reinstall av"
            )
        rate = Fraction(fps).limit_denominator(1001)
        # A clock on which every frame of a constant rate falls exactly.
        clock = rate.numerator * math.ceil(_LEAST_CLOCK / rate.numerator)
        self._clock = clock if clock <= _MOST_CLOCK else 60_000
        self._last = -1
        self._yuv = np.empty((self.height * 3 // 2, self.width), np.uint8)
        try:
            self._container = av.open(
                str(file), "w", format="mp4", options={"movflags": "+faststart"}
            )
        except FAILURES as error:
            raise unwritable(file, error) from None
        # Without B-frames the muxer counts the duration right. One thread: with several, x264's
        # output depends on how many.
        options = {"crf": "18", "preset": "veryfast"} if name == "libx264" else {}
        try:
            stream = self._container.add_stream(name, rate=rate, options={"bf": "0", **options})
            assert isinstance(stream, av.VideoStream)  # what those encoders make
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, "yuv420p"
            context = stream.codec_context
            context.time_base = Fraction(1, self._clock)
            context.gop_size = max(1, round(fps))
            context.thread_count = 1
            context.colorspace, context.color_range = 6, 1  # what cv2 makes below
            if name != "libx264":
                stream.bit_rate = max(800_000, round(0.3 * self.width * self.height * fps))
            self._stream = stream
        except FAILURES as error:
            self._container.close()
            raise unwritable(file, error) from None
        self._step = max(1, round(self._clock / fps))

    def __enter__(self) -> "Mp4Writer":
        return self

    def write(self, picture: Pixels, time_s: float) -> None:
        """Encode one picture.

        Args:
            picture: Shape (height, width, 3), uint8, RGB. Not kept.
            time_s: When it is shown, seconds; rising.

        Raises:
            InputError: The operating system refused the data.
        """
        whole = np.ascontiguousarray(picture[: self.height, : self.width])
        cv2.cvtColor(whole, cv2.COLOR_RGB2YUV_I420, dst=self._yuv)
        image = av.VideoFrame.from_ndarray(self._yuv, format="yuv420p")
        # Two times may fall on one tick of the clock.
        self._last = max(self._last + 1, round(time_s * self._clock))
        image.pts, image.time_base = self._last, Fraction(1, self._clock)
        image.duration = self._step
        try:
            self._container.mux(self._stream.encode(image))
        except FAILURES as error:
            raise unwritable(self._file, error) from None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Complete the film; after an error only close it, since nobody will read it.

        Raises:
            InputError: The operating system refused the data.
        """
        if kind is not None:
            with contextlib.suppress(*FAILURES):
                self._container.close()
            return
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
        except FAILURES as failure:
            raise unwritable(self._file, failure) from None
