"""A curve of scores in one line of text."""

import math
from collections.abc import Sequence

LEVELS = "▁▂▃▄▅▆▇█"
ASCII_LEVELS = "_.:-=+*#"
NONE = "·"
ASCII_NONE = " "
OVER = 6
"""From this level on a score is at or over the threshold: the last two of the eight."""


def sparkline(
    values: Sequence[float | None],
    *,
    width: int,
    threshold: float | None = None,
    ascii_only: bool = False,
) -> str:
    """Draw scores, the newest on the right, padded with blanks on the left.

    With a threshold the scale is fixed by it, so that lines of several streams can be compared and
    the mark needs no colour: six levels lie below the threshold, `▇` is at or over it, `█` by half
    of it or more. Without one the largest value is the full height.

    Args:
        values: Scores, oldest first; None = no score.
        width: Characters; several values share one, which shows the largest of them.
        threshold: The alarm's threshold, in the unit of the scores.
        ascii_only: Draw with ASCII characters, for terminals that know no others.

    Returns:
        `width` characters.

    Raises:
        ValueError: A width below 1.
    """
    if width < 1:
        raise ValueError(f"a curve needs a width of 1 at least, got {width}")
    levels, none = (ASCII_LEVELS, ASCII_NONE) if ascii_only else (LEVELS, NONE)
    known = [v if v is not None and math.isfinite(v) else None for v in values]
    share = max(math.ceil(len(known) / width), 1)
    # Counted from the newest, so that the right end is whole.
    ends = range(len(known), 0, -share)
    cells = [_largest(known[max(end - share, 0) : end]) for end in ends][::-1]
    there = [cell for cell in cells if cell is not None]
    low = min([0.0, *there])
    drawn = "".join(
        none if cell is None else levels[_level(cell, low, max([0.0, *there]), threshold)]
        for cell in cells
    )
    return drawn.rjust(width)


def _largest(values: Sequence[float | None]) -> float | None:
    return max((v for v in values if v is not None), default=None)


def _level(value: float, low: float, high: float, threshold: float | None) -> int:
    if threshold is None:
        return min(int(8 * (value - low) / (high - low)), 7) if high > low else 0
    if value >= threshold:
        # A threshold below everything that was seen leaves no scale to measure the excess by.
        return 7 if value >= threshold + max(threshold - low, 0.0) / 2 else OVER
    return min(int(OVER * (value - low) / (threshold - low)), OVER - 1)
