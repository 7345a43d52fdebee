"""Chart: what quantising each layer does to the score, as a PNG."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vad_calibration.fallback import Fallback
from vad_calibration.sensitivity import LayerEffect
from vad_runtime.contracts import InputError
from vad_runtime.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, BAR_HEIGHT, FRAME_HEIGHT = 9.0, 0.2, 2.1  # inches
DOTS_PER_INCH = 100
NAME_LENGTH = 40
TITLE_LENGTH = 90
DECADES = 6
"""Effects this far below the largest are drawn as the shortest bar."""

KEPT, QUANTISED, GROUPED = "C3", "C0", "#a6c8e4"


def save_chart(
    effects: Sequence[LayerEffect], fallback: Fallback | None, file: Path, *, title: str
) -> None:
    """Draw a bar for each layer, from the first of the graph at the top, on a log axis.

    A layer without any effect has no bar, one that gives scores that are not finite a hatched bar
    over the whole width; both say so. The height grows with the number of layers.

    Args:
        effects: At least one, in the order of the graph.
        fallback: Its layers have another colour; None = no search was made.
        file: The final file, `*.png`; it appears whole or not at all.
        title: One line; a longer one is cut in its middle.

    Raises:
        InputError: matplotlib is missing, or the file cannot be written.
        ValueError: There are no effects.
    """
    if not effects:
        raise ValueError("there are no effects to draw")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        raise InputError(
            "charts need matplotlib. Install it with: pip install 'vad-edge[plot]'"
        ) from None
    height = FRAME_HEIGHT + BAR_HEIGHT * len(effects)
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(shortened(title, TITLE_LENGTH), parse_math=False, fontsize=11)
    _draw_axes(axes, effects)
    _draw_bars(axes, effects, set(fallback.kept) if fallback else set())
    _draw_legend(figure, axes, fallback)
    with whole_file(file) as part:
        figure.savefig(part, format="png", dpi=DOTS_PER_INCH)


def _draw_axes(axes: "Axes", effects: Sequence[LayerEffect]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(*axis_limits(effects))
    axes.set_ylim(len(effects) - 0.4, -0.6)  # the first layer at the top
    axes.set_yticks(
        range(len(effects)), [shortened(one.layer, NAME_LENGTH) for one in effects], fontsize=8
    )
    for name in axes.get_yticklabels():
        name.set_parse_math(False)  # a $ in a name is just a $
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=9)
    if len(effects) > 40:  # the axis at the bottom is far away
        axes.tick_params(axis="x", which="both", top=True, labeltop=True)
    axes.set_xlabel("mean |change of the score| / spread of the reference scores")
    axes.set_ylabel("layer (graph order)")
    axes.grid(axis="x", color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_bars(axes: "Axes", effects: Sequence[LayerEffect], kept: set[str]) -> None:
    low, high = axis_limits(effects)
    for row, one in enumerate(effects):
        colour = KEPT if one.layer in kept else QUANTISED if one.group == 1 else GROUPED
        if one.effect == 0:
            axes.text(low, row, " no effect", va="center", fontsize=7, color="0.4")
            continue
        finite = math.isfinite(one.effect)
        end = max(one.effect, low * 1.15) if finite else high
        axes.barh(
            row, end - low, left=low, height=0.74, color=colour, hatch=None if finite else "//"
        )
        if not finite:
            axes.text(
                math.sqrt(low * high),
                row,
                "scores are not finite",
                ha="center",
                va="center",
                fontsize=7,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            )


def _draw_legend(figure: "Figure", axes: "Axes", fallback: Fallback | None) -> None:
    from matplotlib.patches import Patch

    state = "quantised, " if fallback else ""
    entries = [Patch(color=QUANTISED, label=f"{state}measured alone")]
    grouped = any(
        bar.get_facecolor() == Patch(color=GROUPED).get_facecolor() for bar in axes.patches
    )
    if grouped:
        entries.append(Patch(color=GROUPED, label=f"{state}equal share of a group"))
    if fallback:
        verdict = "" if fallback.passed else ", budget not kept"
        label = f"put back to higher precision ({len(fallback.kept)}{verdict})"
        entries.append(Patch(color=KEPT, label=label))
    figure.legend(handles=entries, loc="outside lower center", ncols=3, frameon=False, fontsize=9)


def axis_limits(effects: Sequence[LayerEffect]) -> tuple[float, float]:
    """Return whole decades around the effects that can be drawn, `DECADES` at most."""
    shown = [one.effect for one in effects if 0 < one.effect < math.inf]
    if not shown:
        return 1e-3, 1.0
    high = math.floor(math.log10(max(shown)) + 0.02) + 1
    low = math.floor(math.log10(min(shown)) - 0.02)
    return 10.0 ** max(low, high - DECADES), 10.0**high


def shortened(name: str, length: int) -> str:
    """Return one line of at most `length` characters, the middle cut out, that fonts can draw."""
    line = " ".join(name.split())
    # DejaVu, matplotlib's own font, has every letter up to here; it warns and draws boxes beyond.
    line = "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in line)
    if len(line) <= length:
        return line
    tail = (length - 3) * 2 // 3  # ends of names differ most
    return f"{line[: length - 3 - tail]}...{line[len(line) - tail :]}"
