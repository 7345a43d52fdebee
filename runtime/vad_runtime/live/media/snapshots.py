"""JPEGs of an event: the picture as it came, with a line below that says what it is."""

from datetime import datetime

import cv2
import numpy as np

from vad_runtime.sinks.rows import score_text
from vad_runtime.sources.base import Frame, Pixels

_QUALITY = 90
_WIDEST = 1920
_NARROWEST = 480  # below, the line would not be readable
_INK, _PAPER, _ALARM = (235, 235, 235), (24, 24, 24), (60, 60, 240)  # blue, green, red


def full_picture(frame: Frame) -> Pixels:
    """Return a frame at full size, shape (rows, columns, 3), uint8 RGB.

    Where the source was opened without pictures it is what the model saw. The caller owns it.
    """
    try:
        return np.ascontiguousarray(frame.picture())
    except RuntimeError:
        pixels = frame.pixels
        wide = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
        return np.ascontiguousarray(wide)


def jpeg(picture: Pixels, *, longest: int, quality: int) -> bytes:
    """Return a picture as JPEG, made smaller where a side is longer than `longest`.

    Args:
        picture: Shape (rows, columns, 3), uint8 RGB.
        longest: Pixels.
        quality: 1 to 100.

    Raises:
        ValueError: OpenCV cannot encode it.
    """
    scale = min(1.0, longest / max(picture.shape[:2]))
    if scale < 1:
        picture = _scaled(picture, scale)
    return _encoded(np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), np.uint8), quality)


def snapshot(
    picture: Pixels, *, stream: str, unix_s: float, score: float | None, threshold: float | None
) -> bytes:
    """Return the JPEG of an alarm: the picture untouched, a line with time and score below.

    Args:
        picture: Shape (rows, columns, 3), uint8 RGB.
        stream: Name of the stream.
        unix_s: When it was taken, Unix seconds; shown in local time with its offset.
        score: Score of the frame; None = it has none.
        threshold: What the score is held against.

    Raises:
        ValueError: OpenCV cannot encode it.
    """
    columns = picture.shape[1]
    scale = min(1.0, _WIDEST / columns) if columns >= _NARROWEST else _NARROWEST / columns
    if scale != 1:
        picture = _scaled(picture, scale)
    columns = picture.shape[1]
    moment = datetime.fromtimestamp(unix_s).astimezone()
    left = f"{stream}  {moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 100_000} {moment:%z}"
    right = "no score" if score is None else f"score {score_text(score, threshold)}"
    if threshold is not None:
        right += f" / {score_text(threshold, threshold)}"
    high = max(22, columns // 32)
    strip = np.full((high, columns, 3), _PAPER, np.uint8)
    loud = score is not None and threshold is not None and score >= threshold
    _write(strip, left, right, _ALARM if loud else _INK)
    whole = np.concatenate([np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), np.uint8), strip])
    return _encoded(whole, _QUALITY)


def _write(strip: Pixels, left: str, right: str, colour: tuple[int, int, int]) -> None:
    high, columns = strip.shape[:2]
    font, margin = cv2.FONT_HERSHEY_SIMPLEX, high // 3
    one = cv2.getTextSize("0", font, 1.0, 1)[0][1]
    scale = 0.5 * high / one
    wide = [cv2.getTextSize(text, font, scale, 1)[0][0] for text in (left, right)]
    scale *= min(1.0, (columns - 3 * margin) / sum(wide))
    base = (high + round(one * scale)) // 2
    end = cv2.getTextSize(right, font, scale, 1)[0][0]
    for text, at, ink in ((left, margin, _INK), (right, columns - margin - end, colour)):
        cv2.putText(strip, text, (at, base), font, scale, ink, 1, cv2.LINE_AA)


def _scaled(picture: Pixels, scale: float) -> Pixels:
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)


def _encoded(picture: Pixels, quality: int) -> bytes:
    try:
        fine, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    except cv2.error as error:
        raise ValueError(f"no JPEG of a picture of shape {picture.shape} ({error.err})") from None
    if not fine:
        raise ValueError(f"no JPEG of a picture of shape {picture.shape}")
    return bytes(data)
