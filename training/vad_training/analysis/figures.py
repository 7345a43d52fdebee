"""What all pictures share: size, colours, and text that cannot break them."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from vad_training.analysis.criteria import Threshold
from vad_training.analysis.table import SPLITS

DPI = 110

# Paul Tol's "bright" scheme: told apart with any kind of colour vision.
SPLIT_COLOURS = dict(zip(SPLITS, ("#4477aa", "#66ccee", "#228833", "#ee6677"), strict=True))
SPLIT_MARKERS = dict(zip(SPLITS, ("o", "s", "^", "X"), strict=True))

Colour = tuple[float, float, float, float]


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, inches; nothing of it depends on a display."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    # tight: a legend beside the axes may be wider than the layout has foreseen.
    figure.savefig(path, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.12)


def class_colours(names: Sequence[str]) -> dict[str, Colour]:
    """Return a colour for every class; from 21 classes on they differ little."""
    if len(names) <= 10:
        return {name: colormaps["tab10"](i) for i, name in enumerate(names)}
    if len(names) <= 20:
        # The ten strong colours first, then their pale companions.
        return {name: colormaps["tab20"]((2 * i) % 20 + (i >= 10)) for i, name in enumerate(names)}
    return {name: colormaps["hsv"](i / len(names)) for i, name in enumerate(names)}


def shown(text: str, length: int = 32) -> str:
    """Return a name as a picture can show it: one line, not too long, in the font's letters."""
    font = get_font(findfont(FontProperties()))
    line = "".join(c if font.get_char_index(ord(c)) else "?" for c in " ".join(text.split()))
    if len(line) <= length:
        return line
    tail = (length - 3) // 2
    return f"{line[: length - 3 - tail]}...{line[len(line) - tail :]}"


def log_axis(axes: Axes) -> None:
    """Make the horizontal axis logarithmic, with plain numbers that do not touch each other."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    if high < 1.01 * low:  # one value: a logarithmic axis does not widen itself
        low, high = low / 1.5, high * 1.5
        axes.set_xlim(low, high)
    decades = math.log10(high / low)
    if decades < 1:
        # 1, 2 and 5 may all lie outside.
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    else:
        subs = (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=10))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_marks(axes: Axes, marks: Sequence[Threshold]) -> None:
    """Draw thresholds as vertical lines: dotted those that a user asked for."""
    for mark in marks:
        axes.axvline(
            mark.value,
            color="black",
            linestyle=":" if mark.asked else "-",
            linewidth=1.3,
            label=f"{mark.value:.7g}: {mark.source}",
        )


def side_legend(axes: Axes, handles: Sequence[Artist] = (), ncols: int = 1) -> None:
    """Put a legend to the right of the axes, its texts as they are ($ is just a $).

    Args:
        axes: Where it belongs.
        handles: What it names; none = whatever in the axes has a label.
        ncols: Columns.
    """
    legend = axes.legend(
        handles=handles or axes.get_legend_handles_labels()[0],
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=9,
        ncols=ncols,
        borderaxespad=0,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
