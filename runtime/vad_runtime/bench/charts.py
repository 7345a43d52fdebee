"""Charts as inline SVG: no library, no script, readable at the width of a telephone.

Each is drawn 400 units wide, so that its text is about as large as the text around it on a small
screen; colours come from the page's style sheet, which knows light and dark.
"""

import html
import math
from collections.abc import Sequence

import numpy as np

from vad_runtime.bench.latencies import ms_text

WIDTH, HEIGHT = 400, 244
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 36, 36
_SECOND_ROW = 28
"""Above the frame are two rows of words: the name of the upright axis stands in the first."""
_MOST_POINTS = 1200
"""Of more, each column of the picture keeps its extremes, so that no outlier is lost."""


def _round_step(span: float, ticks: int) -> float:
    """Return a step of 1, 2 or 5 times a power of ten that divides `span` into about `ticks`."""
    raw = max(span, 1e-12) / ticks
    power = 10.0 ** math.floor(math.log10(raw))
    return power * next(step for step in (1, 2, 5, 10) if step * power >= raw * 0.999)


def ticks_of(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers from `low` to `high`."""
    step = _round_step(high - low, count)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


class Axes:
    """A frame to draw in, with a scale for each direction."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self._x, self._y = x, y
        self.parts: list[str] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a point in the picture."""
        across = (x - self._x[0]) / ((self._x[1] - self._x[0]) or 1)
        up = (y - self._y[0]) / ((self._y[1] - self._y[0]) or 1)
        return (
            round(_LEFT + across * (WIDTH - _LEFT - _RIGHT), 1),
            round(HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM), 1),
        )

    def grid(self, x_name: str, y_name: str) -> None:
        """Draw lines, numbers and names of the axes."""
        bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        for value in ticks_of(*self._y, 4):
            y = self.at(self._x[0], value)[1]
            self.parts.append(f'<path class="grid" d="M{_LEFT} {y}H{right}"/>')
            self.parts.append(
                f'<text x="{_LEFT - 5}" y="{y + 4}" text-anchor="end">{value:g}</text>'
            )
        for value in ticks_of(*self._x):
            x = self.at(value, self._y[0])[0]
            self.parts.append(f'<path class="grid" d="M{x} {bottom}v4"/>')
            self.parts.append(
                f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>'
            )
        middle = (_LEFT + right) / 2
        self.parts.append(
            f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{html.escape(x_name)}</text>'
        )
        self.parts.append(f'<text x="2" y="10">{html.escape(y_name)}</text>')
        self.parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')

    def level(self, y: float, words: str) -> None:
        """Draw the line of the target; its words stand above the frame, where no point is."""
        height = self.at(self._x[0], y)[1]
        right = WIDTH - _RIGHT
        self.parts.append(f'<path class="target" d="M{_LEFT} {height}H{right}"/>')
        self.parts.append(
            f'<path class="target" d="M{right - 28} 7H{right}"/>'
            f'<text class="told" x="{right - 34}" y="11" text-anchor="end">'
            f"{html.escape(words)}</text>"
        )

    def upright(self, x: float, words: str) -> None:
        """Draw the target as an upright line; its words stand above the frame."""
        place = self.at(x, self._y[0])[0]
        top = _SECOND_ROW - 10
        self.parts.append(f'<path class="target" d="M{place} {top}V{HEIGHT - _BOTTOM}"/>')
        left = place > WIDTH / 2
        self.parts.append(
            f'<text class="told" x="{place - 4 if left else place + 4}" y="{_SECOND_ROW}" '
            f'text-anchor="{"end" if left else "start"}">{html.escape(words)}</text>'
        )

    def legend(self) -> None:
        """Say what a dot and a cross are, in the row above the frame."""
        y, cross = _SECOND_ROW - 4, _LEFT + 130
        self.parts.append(_dots([(_LEFT + 4, y)], "dots") + _crosses([(cross, y)]))
        for x, words in ((_LEFT + 12, "meets the target"), (cross + 8, "over the target")):
            self.parts.append(f'<text x="{x}" y="{_SECOND_ROW}">{words}</text>')


def figure(name: str, title: str, words: str, parts: Sequence[str], height: int = HEIGHT) -> str:
    """Return an SVG with a title and a description for those who do not see it."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{html.escape(title)}</title>'
        f'<desc id="{name}-d">{html.escape(words)}</desc>{"".join(parts)}</svg>'
    )


def _dots(points: list[tuple[float, float]], kind: str) -> str:
    """Return all points as one path; a line of no length with round ends is a dot."""
    path = "".join(f"M{x} {y}h0" for x, y in points)
    return f'<path class="{kind}" d="{path}"/>' if path else ""


def _crosses(points: list[tuple[float, float]]) -> str:
    """Return points that must not be told by colour alone."""
    path = "".join(f"M{x - 3} {y - 3}l6 6m0-6l-6 6" for x, y in points)
    return f'<path class="miss" d="{path}"/>' if path else ""


def thinned(values: Sequence[float], most: int = _MOST_POINTS) -> list[int]:
    """Return which values to draw: all, or the least and largest of each of so many stretches."""
    if len(values) <= most:
        return list(range(len(values)))
    array = np.asarray(values)
    kept: set[int] = set()
    for part in np.array_split(np.arange(len(array)), most // 2):
        kept |= {int(part[array[part].argmin()]), int(part[array[part].argmax()])}
    return sorted(kept)


def over_time(due_s: Sequence[float], values_ms: Sequence[float], target_ms: float | None) -> str:
    """Draw each latency at its time, with the target and what missed it."""
    top = max(*values_ms, target_ms or 0.0) * 1.08
    axes = Axes((0.0, max(max(due_s), 1e-3)), (0.0, top))
    axes.grid("seconds since the first clip", "ms")
    late = [i for i, v in enumerate(values_ms) if target_ms is not None and v > target_ms]
    missed = set(late)
    drawn = [i for i in thinned(values_ms) if i not in missed]
    crossed = [late[i] for i in thinned([values_ms[i] for i in late])]
    axes.parts.append(_dots([axes.at(due_s[i], values_ms[i]) for i in drawn], "dots"))
    axes.parts.append(_crosses([axes.at(due_s[i], values_ms[i]) for i in crossed]))
    if target_ms is not None:
        axes.level(target_ms, f"target {target_ms:g} ms")
        axes.legend()
    told = f", {len(late)} over the target of {target_ms:g} ms" if target_ms is not None else ""
    words = (
        f"{len(values_ms)} clips in {max(due_s):.1f} s, from {ms_text(min(values_ms))} to "
        f"{ms_text(max(values_ms))} ms{told}."
    )
    return figure("time", "Latency over time", words, axes.parts)


def distribution(values_ms: Sequence[float], target_ms: float | None) -> str:
    """Draw which share of the clips took at most how long."""
    ordered = np.sort(np.asarray(values_ms, np.float64))
    low, high = float(ordered[0]), float(max(ordered[-1], target_ms or 0.0))
    low = min(low, target_ms or low)
    room = max((high - low) * 0.05, high * 0.005, 1e-6)
    axes = Axes((max(low - room, 0.0), high + room), (0.0, 100.0))
    axes.grid("ms a clip", "% of clips")
    kept = sorted({*range(0, len(ordered), max(1, len(ordered) // 400)), len(ordered) - 1})
    steps = [axes.at(float(ordered[kept[0]]), 0.0)]
    path = f"M{steps[0][0]} {steps[0][1]}"
    for i in kept:
        x, y = axes.at(float(ordered[i]), 100.0 * (i + 1) / len(ordered))
        path += f"H{x}V{y}"
    axes.parts.append(f'<path class="line" d="{path}"/>')
    if target_ms is not None:
        axes.upright(target_ms, f"target {target_ms:g} ms")
    p50, p95, p99 = np.percentile(ordered, [50, 95, 99], method="inverted_cdf").tolist()
    words = (
        f"Half of the clips within {ms_text(p50)} ms, 95 % within {ms_text(p95)}, 99 % within "
        f"{ms_text(p99)}."
    )
    return figure("ecdf", "Distribution of latency", words, axes.parts)


def bars(rows: Sequence[tuple[str, float, float | None, float | None]]) -> str:
    """Draw a bar for each stage.

    Args:
        rows: Name, middle, low and high value in milliseconds; None = no spread.
    """
    most = max(max(high or 0.0, middle, 1e-9) for _, middle, _, high in rows)
    row_height, left, right = 30, 92, 66
    scale = (WIDTH - left - right) / most
    parts = []
    for number, (name, middle, low, high) in enumerate(rows):
        y = 4 + number * row_height
        width = round(max(middle, 0.0) * scale, 1)
        right_end = left + width
        whisker = ""
        if low is not None and high is not None:
            ends = [round(left + max(value, 0.0) * scale, 1) for value in (low, high)]
            right_end = max(right_end, ends[1])
            whisker = (
                f'<path class="whisker" d="M{ends[0]} {y + 12}H{ends[1]}M{ends[0]} {y + 8}v8'
                f'M{ends[1]} {y + 8}v8"/>'
            )
        parts.append(
            f'<text x="{left - 6}" y="{y + 16}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect class="bar" x="{left}" y="{y + 3}" width="{width}" height="18" rx="2"/>'
            f"{whisker}"
            f'<text x="{right_end + 5}" y="{y + 16}">{ms_text(middle)}</text>'
        )
    words = "; ".join(f"{name} {ms_text(middle)} ms" for name, middle, _, _ in rows) + "."
    return figure(
        "stages", "Processor time a clip by stage", words, parts, 8 + row_height * len(rows)
    )
