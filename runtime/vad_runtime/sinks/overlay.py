r"""Overlay video: the film with score, threshold and alarm drawn on it, as an H.264 mp4.

::

    ┌─────────────────────────────────────────────┐
    │ ALARM                                       │  red border and word while the alarm is on
    │                                             │
    │░░░░░░░░░░░░░░░░░░ threshold 1.20 ░░░░░░░░░░░│
    │░ 1.34 ▐██████████████████|██    ▌░ /\_/‾‾ ░│  semi-transparent strip
    │░ score 12.34 s  frame 307       ░░ last 10 s│
    └─────────────────────────────────────────────┘
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import av.error
import cv2
import numpy as np

from vad_runtime.backends.checks import usable_threads
from vad_runtime.contracts.errors import InputError
from vad_runtime.contracts.manifest import Scoring
from vad_runtime.detector import ScoredFrame
from vad_runtime.sinks.rows import score_text, unwritable
from vad_runtime.sources.base import Pixels, SourceInfo

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom lie just outside."""

WHITE: Colour = (245, 245, 245)
GREY: Colour = (190, 190, 190)
DIM: Colour = (95, 95, 95)
GREEN: Colour = (70, 205, 95)
RED: Colour = (240, 45, 40)
BLUE: Colour = (90, 170, 255)
AMBER: Colour = (255, 205, 70)

CURVE_S = 10.0
"""Length of the scrolling curve, seconds."""
SMALLEST = (320, 240)
"""Smallest columns and rows of the film: below these the strip would not fit."""
ENCODERS = (("libx264", 90_000), ("libopenh264", 90_000), ("mpeg4", 60_000))
"""Encoders by preference, with their clock in ticks a second (MPEG-4 counts to 65535 at most)."""

_X264 = {"crf": "23", "preset": "superfast", "mbtree": "1", "rc-lookahead": "10"}
"""Looking ahead as `veryfast` does keeps its size and its quality at two thirds of the work or
less; encoding is most of what a film costs."""

FAILURES = (OSError, av.error.FFmpegError)
"""What FFmpeg raises; not all of its errors are also errors of the operating system."""

_FASTSTART = {"movflags": "+faststart"}

UNSCORED = {"warm-up": "warming up", "damaged": "damaged frame"}


@dataclass(frozen=True)
class _Layout:
    """Where everything stands on a canvas of one size; all in pixels."""

    width: int
    height: int
    picture: Box
    border: int
    text: int  # height of a small capital letter
    strip: int  # first row of the strip
    number: Box
    bar: Box
    curve: Box
    label_row: int  # baseline of the text above the bar
    foot_row: int  # baseline of the text below the bar
    curve_label: tuple[int, int, int]  # left, baseline, widest width


def _layout(columns: int, rows: int, max_side: int) -> _Layout:
    scale = min(1.0, max_side / max(columns, rows))
    if columns * scale < 480:
        # Small pictures grow, so that the text on them is worth reading.
        scale = min(640 / columns, max_side / max(columns, rows))
    wide, high = max(1, round(columns * scale)), max(1, round(rows * scale))
    width, height = _even(max(wide, SMALLEST[0])), max(high, SMALLEST[1])
    left = (width - wide) // 2
    text = max(10, round(11 * min(width / 640, height / 360)))
    border = max(4, round(min(width, height) * 0.012))
    side, gap, space = border + text, round(0.6 * text), round(1.4 * text)
    number_wide = _text_width("88.88", round(2.2 * text))
    middle, right = side + number_wide + space, width - side
    curve_wide = max(round(0.26 * width), 9 * text)
    need = _text_width("00000.00 s   frame 0000000", text)
    in_one_row = right - curve_wide - space - middle >= need
    # Too narrow for three columns: the curve gets a row of its own above the bar.
    above = 0 if in_one_row else 3 * text + gap
    block = round(2.9 * text) + gap  # label, gap, bar
    if high < SMALLEST[1]:
        # A flat picture gets its strip below it and no more margin than that.
        height = max(SMALLEST[1] // 2, min(height, high + border + text + block + above + 3 * gap))
    height = _even(height)
    foot_row = height - border - gap
    bar_bottom = foot_row - text - gap
    top = bar_bottom - block
    if in_one_row:
        curve = (right - curve_wide, top, right, bar_bottom)
        curve_label = (curve[0], foot_row, curve_wide)
        right = curve[0] - space
    else:
        curve = (middle, top - above, right, top - gap)
        curve_label = (side, top - gap - text, number_wide)
    return _Layout(
        width=width,
        height=height,
        picture=(left, 0, left + wide, min(high, height)),
        border=border,
        text=text,
        strip=top - above - gap,
        number=(side, top, side + number_wide, bar_bottom),
        bar=(middle, bar_bottom - round(1.3 * text), right, bar_bottom),
        curve=curve,
        label_row=top + text,
        foot_row=foot_row,
        curve_label=curve_label,
    )


class _Scale:
    """Full scale of bar and curve: the threshold stands at two thirds."""

    def __init__(self, threshold: float | None) -> None:
        self.threshold = threshold
        self.low, self.high = 0.0, 0.0
        if threshold is not None and threshold > 0:
            self.high = 1.5 * threshold
        elif threshold is not None:
            self.low = threshold - max(1.0, abs(threshold))
            self.high = threshold + 0.5 * (threshold - self.low)

    def take(self, score: float) -> None:
        """Without a threshold the largest score so far is the only yardstick."""
        if self.threshold is None:
            self.high = max(self.high, score)

    def part(self, score: float) -> float:
        """Return where a score lies: 0 at the low end, 1 at full scale, unbounded."""
        return (score - self.low) / (self.high - self.low) if self.high > self.low else 0.0

    def text(self, score: float) -> str:
        return score_text(score, self.threshold)

    def colour(self, score: float) -> Colour:
        if self.threshold is None:
            return BLUE
        return RED if score >= self.threshold else GREEN


class OverlayWriter:
    """Writes the overlay video of one source.

    The film keeps the frames' own times, so a variable frame rate survives. A picture narrower
    than 480 is enlarged to 640 where `max_side` allows; a very narrow or flat one gets a margin.
    It carries a temporary name until `close`, and nothing is left if there was no frame.

    Args:
        path: The final file, `*.mp4`; one that exists is replaced at `close`.
        source: Full size and frame rate of the source.
        scoring: The threshold to draw.
        max_side: Longest side of the film, pixels; at least 320.
        container: Options of FFmpeg's MP4 writer.

    Raises:
        InputError: No encoder, or the file cannot be written.
        ValueError: `max_side` below 320.
    """

    def __init__(
        self,
        path: Path,
        source: SourceInfo,
        scoring: Scoring,
        *,
        max_side: int = 960,
        container: Mapping[str, str] = _FASTSTART,
    ) -> None:
        if max_side < SMALLEST[0]:
            raise ValueError(f"max_side is {max_side}; text needs {SMALLEST[0]} pixels at least")
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._layout = _layout(source.width, source.height, max_side)
        self._scale = _Scale(scoring.threshold)
        self._canvas = np.zeros((self._layout.height, self._layout.width, 3), np.uint8)
        self._curve: deque[tuple[float, float | None]] = deque()
        self._held: float | None = None
        self._frames = 0
        self._encoder: _Encoder | None = _Encoder(
            self._part, self._layout.width, self._layout.height, source.fps, container
        )

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows of the film."""
        return self._layout.width, self._layout.height

    def write(self, scored: ScoredFrame) -> None:
        """Draw and encode the next frame. Nothing of it is kept.

        Raises:
            InputError: The operating system refused the data, for example because the disk is full.
        """
        if self._encoder is None:
            raise ValueError("the overlay video is closed")
        self._draw(scored)
        self._encoder.write(self._canvas, scored.frame.pts_s)
        self._frames += 1

    def close(self) -> None:
        """Complete the film under its final name. A second call does nothing.

        Raises:
            InputError: The operating system refused it; the temporary file is removed then.
        """
        encoder, self._encoder = self._encoder, None
        if encoder is None:
            return
        if self._frames == 0:
            encoder.abort()
            return
        encoder.close()
        try:
            self._part.replace(self._path)
        except OSError as error:
            self._part.unlink(missing_ok=True)
            raise unwritable(self._path, error) from None

    def discard(self) -> None:
        """Remove the unfinished film. After `close` it does nothing."""
        encoder, self._encoder = self._encoder, None
        if encoder is not None:
            encoder.abort()

    def _draw(self, scored: ScoredFrame) -> None:
        place, canvas, now = self._layout, self._canvas, scored.frame.pts_s
        self._place(scored.frame.picture())
        self._remember(now, scored)
        strip = canvas[place.strip :]
        cv2.convertScaleAbs(strip, dst=strip, alpha=0.24, beta=6)
        score = self._held
        if score is not None:
            self._draw_bar(score)
            number, colour = self._scale.text(score), self._scale.colour(score)
        else:
            self._draw_empty_bar(UNSCORED.get(scored.status, "not scored"))
            number, colour = "--", GREY
        left, top, right, bottom = place.number
        big = min(round(2.2 * place.text), bottom - top)
        _write(canvas, number, (left, bottom), big, colour, right - left)
        _write(canvas, "score", (left, place.foot_row), place.text, GREY, right - left)
        clock = f"{now:.2f} s   frame {scored.frame.index}"
        left, _, right, _ = place.bar
        _write(canvas, clock, (left, place.foot_row), place.text, WHITE, right - left)
        self._draw_curve(now)
        if scored.alarm:
            self._draw_alarm()

    def _place(self, picture: Pixels) -> None:
        """Fit the picture into its part of the canvas, whatever size it has become meanwhile."""
        left, top, right, bottom = self._layout.picture
        rows, columns = picture.shape[:2]
        self._canvas[:] = 0
        scale = min((right - left) / columns, (bottom - top) / rows)
        wide = min(right - left, max(1, round(columns * scale)))
        high = min(bottom - top, max(1, round(rows * scale)))
        left += (right - left - wide) // 2
        view = self._canvas[top : top + high, left : left + wide]
        if (rows, columns) == (high, wide):
            view[:] = picture
        else:
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            view[:] = cv2.resize(picture, (wide, high), interpolation=how)

    def _remember(self, now: float, scored: ScoredFrame) -> None:
        if scored.score is not None:
            self._scale.take(scored.score)
            self._held = scored.score
        elif scored.status == "between":
            # The stride skips this frame by design; blanking the number would make it flicker.
            return
        else:
            self._held = None
        self._curve.append((now, scored.score))
        while self._curve and self._curve[0][0] < now - CURVE_S:
            self._curve.popleft()

    def _draw_bar(self, score: float) -> None:
        place, canvas, threshold = self._layout, self._canvas, self._scale.threshold
        left, top, right, bottom = place.bar
        part = self._scale.part(score)
        cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), DIM, -1)
        end = left + round(min(max(part, 0.0), 1.0) * (right - left))
        if end > left:
            cv2.rectangle(canvas, (left, top), (end - 1, bottom - 1), self._scale.colour(score), -1)
        if part > 1 + 1e-9:
            # The score is off the scale: an arrow head says that the bar is cut.
            high = bottom - top
            tip, back = right - high // 4, right - high // 4 - round(0.6 * high)
            head = [(back, top + high // 5), (tip, top + high // 2), (back, bottom - 1 - high // 5)]
            cv2.fillPoly(canvas, [np.array(head, np.int32)], WHITE, cv2.LINE_AA)
        if threshold is None:
            return
        tick = left + round(self._scale.part(threshold) * (right - left))
        thick = max(2, place.text // 6)
        reach = max(2, place.text // 4)
        cv2.line(canvas, (tick, top - reach), (tick, bottom - 1 + reach), AMBER, thick)
        words = f"threshold {self._scale.text(threshold)}"
        size = _text_width(words, place.text)
        start = min(max(left, tick - size // 2), max(left, right - size))
        _write(canvas, words, (start, place.label_row), place.text, AMBER, right - start)

    def _draw_empty_bar(self, words: str) -> None:
        left, top, right, bottom = self._layout.bar
        cv2.rectangle(self._canvas, (left, top), (right - 1, bottom - 1), DIM, 1)
        at = (left, self._layout.label_row)
        _write(self._canvas, words, at, self._layout.text, GREY, right - left)

    def _draw_curve(self, now: float) -> None:
        place = self._layout
        left, top, right, bottom = place.curve
        box = self._canvas[top:bottom, left:right]  # drawing on the view clips to the box
        box //= 2
        high, wide = box.shape[:2]
        thick = max(1, round(place.text / 9))

        def row(score: float) -> float:
            # A quarter below zero stays in sight: half of the normal scores are negative.
            part = min(max(self._scale.part(score), -0.25), 1.0)
            return float(high - 1 - thick) * (1.0 - (part + 0.25) / 1.25) + thick / 2

        threshold = self._scale.threshold
        split = 0 if threshold is None else math.ceil(row(threshold))
        for run in self._runs():
            line = np.array([((t - now) / CURVE_S * wide + wide - 1, row(s)) for t, s in run])
            points = [np.round(line * 16).astype(np.int32)]  # 1/16 pixel: the curve glides
            below = BLUE if threshold is None else GREEN
            cv2.polylines(box, points, False, below, thick, cv2.LINE_AA, shift=4)
            if split > 0:
                cv2.polylines(box[:split], points, False, RED, thick, cv2.LINE_AA, shift=4)
        if threshold is not None:
            cv2.line(box, (0, split), (wide - 1, split), AMBER, 1)
        x, y, room = place.curve_label
        _write(self._canvas, f"last {CURVE_S:.0f} s", (x, y), place.text, GREY, room)

    def _runs(self) -> list[list[tuple[float, float]]]:
        """Return the stretches of the curve between holes; a lone point becomes a dot."""
        runs: list[list[tuple[float, float]]] = [[]]
        for time_s, score in self._curve:
            if score is not None:
                runs[-1].append((time_s, score))
            elif runs[-1]:
                runs.append([])
        return [run if len(run) > 1 else run * 2 for run in runs if run]

    def _draw_alarm(self) -> None:
        place, canvas, text = self._layout, self._canvas, self._layout.text
        border, cap, pad = place.border, round(1.8 * text), round(0.8 * text)
        width = _text_width("ALARM", cap)
        canvas[: border + cap + 2 * pad, : border + width + 2 * pad] = RED
        _write(canvas, "ALARM", (border + pad, border + pad + cap), cap, WHITE, width)
        canvas[:border] = canvas[-border:] = RED
        canvas[:, :border] = canvas[:, -border:] = RED


class _Encoder:
    """An mp4 file that takes RGB pictures with their times."""

    def __init__(
        self, file: Path, width: int, height: int, fps: float, container: Mapping[str, str]
    ) -> None:
        self._file = file
        name, self._clock = _available_encoder()
        self._last = -1
        self._yuv = np.empty((height * 3 // 2, width), np.uint8)
        try:
            self._container = av.open(str(file), "w", format="mp4", options=dict(container))
        except FAILURES as error:
            raise unwritable(file, error) from None
        fps = fps if math.isfinite(fps) and fps > 0 else 25.0
        # No B-frames: they save little here, and with them the muxer miscounts the duration.
        options = _X264 if name == "libx264" else {}
        rate = Fraction(fps).limit_denominator(1001)
        try:
            stream = self._container.add_stream(name, rate=rate, options={"bf": "0", **options})
            assert isinstance(stream, av.VideoStream)  # what those encoders make
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            context = stream.codec_context
            context.time_base = Fraction(1, self._clock)
            context.gop_size = max(1, round(4 * fps))  # a jump in the player lands within 4 s
            context.thread_count = min(2, usable_threads())
            # What cv2 makes below; without the tag some players would guess HD colours.
            context.colorspace, context.color_range = 6, 1
            if name != "libx264":
                stream.bit_rate = max(400_000, round(0.15 * width * height * fps))
            self._stream = stream
            self._container.start_encoding()
        except FAILURES as error:
            self.abort()
            raise unwritable(file, error) from None

    def write(self, picture: Pixels, time_s: float) -> None:
        """Encode one picture, shape (height, width, 3), RGB; it may be overwritten afterwards."""
        cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420, dst=self._yuv)
        image = av.VideoFrame.from_ndarray(self._yuv, format="yuv420p")
        # Two times may fall on one tick of the clock.
        self._last = max(self._last + 1, round(time_s * self._clock))
        image.pts, image.time_base = self._last, Fraction(1, self._clock)
        try:
            self._container.mux(self._stream.encode(image))
        except FAILURES as error:
            raise unwritable(self._file, error) from None

    def close(self) -> None:
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
        except FAILURES as error:
            self.abort()
            raise unwritable(self._file, error) from None

    def abort(self) -> None:
        try:
            self._container.close()
        except FAILURES:
            # The film is thrown away, so it does not matter that it cannot be completed.
            pass
        finally:
            self._file.unlink(missing_ok=True)


def _available_encoder() -> tuple[str, int]:
    for name, clock in ENCODERS:
        if name in av.codecs_available:
            return name, clock
    raise InputError(
        "this PyAV has no H.264 or MPEG-4 encoder. "
        "Install one that has, with: pip install --force-reinstall av"
    )


def _even(size: int) -> int:
    return size + size % 2


@lru_cache(maxsize=64)
def _font(cap: int) -> tuple[float, int]:
    """Return scale and thickness at which digits are `cap` pixels high."""
    high = cv2.getTextSize("0", cv2.FONT_HERSHEY_SIMPLEX, 4.0, 1)[0][1] / 4.0
    return cap / high, max(1, round(cap / 9))


def _text_width(text: str, cap: int) -> int:
    scale, thick = _font(cap)
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)[0][0])


def _write(
    canvas: Pixels, text: str, at: tuple[int, int], cap: int, colour: Colour, room: int
) -> None:
    """Write ASCII text from its baseline's left end, smaller where it is wider than `room`."""
    while cap > 5 and _text_width(text, cap) > room:
        cap -= 1
    scale, thick = _font(cap)
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thick, cv2.LINE_AA)
