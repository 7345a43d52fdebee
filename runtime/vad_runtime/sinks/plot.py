"""Plot: the score of one video against time, as a PNG."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts.errors import InputError
from vad_runtime.contracts.manifest import Scoring
from vad_runtime.events import Event
from vad_runtime.sinks.rows import Row, score_text, unwritable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

BINS = 2400
"""A curve keeps the lowest and the highest point of so many bins: two a pixel column."""
PEAKS = 5
PEAK_DISTANCE_S = 2.0
_AXES = (0.05, 0.181, 0.934, 0.675)
"""Left, bottom, width and height of the axes, as parts of the figure: what stands around them is as
high in every picture. matplotlib's own layouts draw everything twice to find that out."""
_LABEL_ROW = 0.955
"""Upper edge of the peaks' labels, as a part of the axes."""
_LABEL_HIGH = 0.055
_MARGIN = 5
"""Pixels that stay white beside the axes' title."""
ALARM_STRIP = 0.03
"""Height of the strip of alarms, as a part of the axes."""

AXIS_NAMES = {
    "score": "score (0 = typical normal footage)",
    "offline": "offline score\n(min-max over this video, median 17)",
}


NO_MATPLOTLIB = "matplotlib is not installed; pip install 'vad-edge[plot]'"


def plot_available() -> bool:
    """Return whether matplotlib is installed, without importing it."""
    return find_spec("matplotlib") is not None


def save_plot(
    path: Path,
    rows: Sequence[Row],
    scoring: Scoring,
    *,
    title: str,
    label_set: str | None = None,
    truth: Mask | None = None,
    column: Literal["score", "offline"] = "score",
    events: Sequence[Event] = (),
) -> None:
    """Draw the score of one video against time, 1320 x 495 pixels.

    The file carries a temporary name while it is written and replaces one that exists.

    Args:
        path: The final file, `*.png`.
        rows: The rows of one video in order of frames; None scores break the curve.
        scoring: Its threshold is drawn (not for `offline`, to which it does not apply).
        title: One line; a longer one is set smaller, then cut in its middle.
        label_set: Name of the labels, for the legend.
        truth: Shape (frames,), indexed by frame number, True = anomalous; frames beyond it are
            not labelled.
        column: Which score is drawn.
        events: Alarms for the strip at the bottom; without any it shows the rows' alarms.

    Raises:
        InputError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        raise InputError(
            "plots need matplotlib. Install it with: pip install 'vad-edge[plot]'"
        ) from None
    curve = _curve(rows, column)
    figure = Figure(figsize=(12, 4.5), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_axes(_AXES)
    threshold = scoring.threshold if column == "score" else None
    axes.set_xlim(*curve.limits)
    low, high = _heights(curve, threshold)
    axes.set_ylim(low, high)
    axes.set_xlabel("time in the video (s)")
    axes.set_ylabel(AXIS_NAMES[column])
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    top = axes.secondary_xaxis("top", functions=(curve.frame_at, curve.time_at))
    top.set_xlabel("frame")
    top.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    _draw_curve(axes, curve, threshold, column)
    _draw_spans(axes, curve, rows, truth, label_set, events)
    _draw_peaks(axes, curve, threshold)
    figure.legend(loc="lower center", ncols=4, frameon=False, borderaxespad=0.3)
    for legend in figure.legends:
        for text in legend.get_texts():
            text.set_parse_math(False)  # a $ in the name of a label set is just a $
    _fit_title(figure, title)
    _fit_left(figure, axes)
    _save(figure, path)


@dataclass(frozen=True)
class _Curve:
    """One score of one video; equally long arrays."""

    frames: Values
    times: Values
    values: Values
    """NaN = not scored."""
    holes: Mask
    """True = not scored, and not just skipped by the stride between scored frames."""
    step_s: float
    """Usual time from one frame to the next."""

    @property
    def limits(self) -> tuple[float, float]:
        if not len(self.times):
            return 0.0, 1.0
        left, right = float(self.times[0]), float(self.times[-1]) + self.step_s
        margin = 0.01 * (right - left)
        return left - margin, right + margin

    def frame_at(self, time_s: npt.ArrayLike) -> Values:
        return self._mapped(time_s, self.times, self.frames, 1 / self.step_s)

    def time_at(self, frame: npt.ArrayLike) -> Values:
        return self._mapped(frame, self.frames, self.times, self.step_s)

    @staticmethod
    def _mapped(where: npt.ArrayLike, known: Values, to: Values, slope: float) -> Values:
        """Interpolate, so that a variable frame rate is right, and go on straight at the ends."""
        at = np.asarray(where, np.float64)
        if not len(known):
            return at * slope
        inside = np.clip(at, known[0], known[-1])
        return np.interp(inside, known, to) + (at - inside) * slope


def _curve(rows: Sequence[Row], column: Literal["score", "offline"]) -> _Curve:
    scores = [row.score if column == "score" else row.offline for row in rows]
    frames = np.array([row.frame for row in rows], np.float64)
    times = np.array([row.time_s for row in rows], np.float64)
    values = np.array([np.nan if score is None else score for score in scores], np.float64)
    steps = np.diff(times) / np.maximum(np.diff(frames), 1)
    step_s = float(np.median(steps)) if len(steps) else 0.04
    skipped = np.array([row.status == "between" for row in rows], bool)
    holes = np.isnan(values) & ~skipped
    return _Curve(frames, times, values, holes, step_s if step_s > 0 else 0.04)


def _heights(curve: _Curve, threshold: float | None) -> tuple[float, float]:
    """Return the axis limits: room above the highest peak for labels, below for the alarms."""
    shown = curve.values[~np.isnan(curve.values)]
    marks = [shown.min(), shown.max()] if len(shown) else []
    marks += [] if threshold is None else [threshold]
    marks += [0.0] if not marks or min(marks) > 0 else []
    low, high = float(min(marks)), float(max(marks))
    if high <= low:
        high = low + 1.0
    room = high - low
    return low - 0.1 * room, high + 0.28 * room


def _draw_curve(axes: "Axes", curve: _Curve, threshold: float | None, column: str) -> None:
    times, values = _envelope(*_with_gaps(curve))
    axes.plot(times, values, color="C0", linewidth=1.1, label=column, zorder=3)
    holes = np.isnan(np.concatenate([[np.nan], values, [np.nan]]))
    alone = ~holes[1:-1] & holes[:-2] & holes[2:]
    axes.plot(times[alone], values[alone], ".", color="C0", markersize=5, zorder=3)
    if threshold is not None:
        name = f"threshold {score_text(threshold, threshold)} (alarm at or above)"
        axes.axhline(threshold, color="C1", linewidth=1.2, linestyle="--", label=name, zorder=2)
    if np.isnan(curve.values).all():
        what = "no frame was scored" if len(curve.values) else "no frames"
        axes.text(0.5, 0.5, what, transform=axes.transAxes, ha="center", color="0.4", fontsize=13)


def _with_gaps(curve: _Curve) -> tuple[Values, Values]:
    """Return the scored frames, with a NaN wherever the line must break.

    It breaks where frames could not be scored, and at a hole in time as the detector sees it.
    """
    known = np.flatnonzero(~np.isnan(curve.values))
    times, values = curve.times[known], curve.values[known]
    far = np.diff(times) > max(4 * curve.step_s, 0.5)
    passed = np.diff(np.cumsum(curve.holes)[known]) > 0
    breaks = np.flatnonzero(far | passed) + 1
    return np.insert(times, breaks, times[breaks]), np.insert(values, breaks, np.nan)


def _envelope(times: Values, values: Values) -> tuple[Values, Values]:
    """Thin a long curve out to the extremes of each bin, so that no peak and no gap is lost."""
    if len(values) <= 4 * BINS:
        return times, values
    keep = []
    for part in np.array_split(np.arange(len(values)), BINS):
        here = values[part]
        holes = part[np.isnan(here)]
        if len(holes) < len(part):
            keep += [part[np.nanargmin(here)], part[np.nanargmax(here)]]
        keep += [holes[0], holes[-1]] if len(holes) else []
    chosen = np.unique(keep)
    return times[chosen], values[chosen]


def _draw_spans(
    axes: "Axes",
    curve: _Curve,
    rows: Sequence[Row],
    truth: Mask | None,
    label_set: str | None,
    events: Sequence[Event],
) -> None:
    across = axes.get_xaxis_transform()
    if truth is not None:
        inside = np.array([r.frame < len(truth) and bool(truth[r.frame]) for r in rows], bool)
        name = "ground truth" + (f" ({printable(middle_cut(label_set, 48))})" if label_set else "")
        name += "" if inside.any() else ": no anomaly"
        axes.broken_barh(
            _spans(inside, curve),
            (0, 1),
            transform=across,
            facecolor="C3",
            alpha=0.16,
            linewidth=0,
            label=name,
            zorder=1,
        )
    if events:
        alarms = [(e.start_s, e.end_s - e.start_s + curve.step_s) for e in events]
    else:
        alarms = _spans(np.array([row.alarm for row in rows], bool), curve)
    if alarms:
        axes.broken_barh(
            alarms,
            (0, ALARM_STRIP),
            transform=across,
            facecolor="red",
            edgecolor="red",  # keeps an alarm visible that is narrower than a pixel
            linewidth=0.8,
            label=f"alarm ({len(alarms)})",
            zorder=4,
        )


def _spans(inside: Mask, curve: _Curve) -> list[tuple[float, float]]:
    """Return start and length in seconds of each run of True; one frame lasts one step."""
    padded = np.concatenate([[False], inside, [False]]).astype(np.int8)
    starts, ends = np.flatnonzero(np.diff(padded) == 1), np.flatnonzero(np.diff(padded) == -1)
    return [
        (float(curve.times[a]), float(curve.times[b - 1] - curve.times[a]) + curve.step_s)
        for a, b in zip(starts, ends, strict=True)
    ]


def _peaks(curve: _Curve) -> list[int]:
    """Return the rows of the highest peaks, highest first, `PEAK_DISTANCE_S` apart.

    A peak is a local maximum that nothing within half that distance exceeds, in the upper three
    quarters between the median and the maximum: the rest is the noise of a quiet video.
    """
    known = np.flatnonzero(~np.isnan(curve.values))
    if not len(known):
        return []
    times, values = curve.times[known], curve.values[known]
    # Runs of equal values count as one point, so that a plateau is one peak.
    runs = np.flatnonzero(np.concatenate([[True], np.diff(values) != 0]))
    heights = np.concatenate([[-np.inf], values[runs], [-np.inf]])
    tops = runs[(heights[1:-1] > heights[:-2]) & (heights[1:-1] > heights[2:])]
    median, highest = float(np.median(values)), float(values.max())
    if float(values.min()) == highest:
        return []
    tops = tops[values[tops] >= median + 0.25 * (highest - median)]
    found: list[int] = []
    for top in tops[np.argsort(-values[tops], kind="stable")]:
        at = times[top]
        if any(abs(at - times[other]) < PEAK_DISTANCE_S for other in found):
            continue
        near = slice(*np.searchsorted(times, [at - PEAK_DISTANCE_S / 2, at + PEAK_DISTANCE_S / 2]))
        if values[top] >= values[near].max():
            found.append(int(top))
        if len(found) == PEAKS:
            break
    return [int(known[top]) for top in found]


def _draw_peaks(axes: "Axes", curve: _Curve, threshold: float | None) -> None:
    """Mark the peaks and name them in one line above the curve, where nothing can collide."""
    chosen = sorted(_peaks(curve))
    if not chosen:
        return
    left, right = curve.limits
    low, high = axes.get_ylim()
    foot = low + (_LABEL_ROW - _LABEL_HIGH) * (high - low)
    digits = 1 if right - left > 10 else 2
    wanted = [(curve.times[i] - left) / (right - left) for i in chosen]
    for i, x in zip(chosen, _spread(wanted, 0.115), strict=True):
        time_s, value = float(curve.times[i]), float(curve.values[i])
        axes.plot([time_s], [value], "o", color="C3", markersize=4.5, zorder=5)
        # A plain line: the arrow of an annotation takes longer than the curve.
        line = [left + x * (right - left), time_s], [foot, value]
        axes.plot(*line, color="0.45", linewidth=0.7, zorder=4.5)
        axes.text(
            x,
            _LABEL_ROW,
            f"{time_s:.{digits}f} s: {score_text(value, threshold)}",
            transform=axes.transAxes,
            ha="center",
            va="top",
            fontsize=9,
            color="0.15",
            zorder=6,
        )


def _spread(wanted: list[float], apart: float) -> list[float]:
    """Move rising positions in 0..1 so that all are `apart`, and half of that from the edges."""
    at = list(wanted)
    for i in range(len(at)):
        at[i] = max(at[i], apart / 2 if i == 0 else at[i - 1] + apart)
    for i in reversed(range(len(at))):
        at[i] = min(at[i], 1 - apart / 2 if i == len(at) - 1 else at[i + 1] - apart)
    return at


def _fit_title(figure: "Figure", title: str) -> None:
    """Set the title in one line within the figure's width."""
    line = printable(" ".join(title.split()))
    middle = _AXES[0] + _AXES[2] / 2
    text = figure.text(middle, 0.99, line, parse_math=False, fontsize=12, ha="center", va="top")
    widest = 0.92 * figure.bbox.width
    for size in (12, 11, 10, 9):
        text.set_fontsize(size)
        if text.get_window_extent().width <= widest:
            return
    keep = len(line)
    while text.get_window_extent().width > widest and keep > 8:
        keep = int(keep * 0.9)
        text.set_text(middle_cut(line, keep))


def _fit_left(figure: "Figure", axes: "Axes") -> None:
    """Move the left edge of the axes to where the numbers beside it have room."""
    # Else "1e6" stands on the first number of the frames' axis.
    axes.yaxis.get_offset_text().set_x(-0.04)
    box = axes.yaxis.get_tightbbox()
    assert box is not None  # it has a label
    wide = figure.bbox.width
    left = _AXES[0] + (_MARGIN - box.x0) / wide
    axes.set_position((left, _AXES[1], _AXES[0] + _AXES[2] - left, _AXES[3]))


def middle_cut(text: str, length: int) -> str:
    """Cut the middle out: beginnings and ends of paths tell most."""
    if len(text) <= length:
        return text
    tail = (length - 3) * 2 // 3
    return f"{text[: length - 3 - tail]}...{text[len(text) - tail :]}"


def printable(text: str) -> str:
    """Replace what the font lacks; matplotlib would warn and draw boxes."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    return "".join(c if font.get_char_index(ord(c)) else "?" for c in text)


def _save(figure: "Figure", path: Path) -> None:
    part = path.with_name(path.name + ".part")
    try:
        figure.savefig(part, format="png", dpi=110)
        part.replace(path)
    except OSError as error:
        # The first failure is the one to report.
        if part.is_file():
            part.unlink()
        raise unwritable(path, error) from None
