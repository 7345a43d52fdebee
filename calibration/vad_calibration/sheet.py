"""The picture sheet of a calibration set: which clips stand for the footage."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vad_calibration.sampling import evenly
from vad_calibration.statistics import MOTION_SCALE, STATISTICS, Thumbnail
from vad_runtime.contracts import InputError
from vad_runtime.files import whole_file
from vad_runtime.sinks.plot import middle_cut, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vad_calibration.clip_set import CalibrationSet, ClipRecord

MOST = 64
"""So many clips fit on a sheet; of more, evenly chosen ones are shown."""

_DPI = 100
_COLUMNS = 8
_WIDTH = 1680
_MARGIN = 24
_PICTURE = 94
"""Largest height and width of one of a clip's two pictures, pixels."""
_GAP = 18
"""Free pixels between clips."""
_TEXT = 46
"""Height of the three lines under a clip, pixels."""
_TITLE = 100
_HISTOGRAM = 190
_CELL = (_WIDTH - 2 * _MARGIN + _GAP) / _COLUMNS - _GAP
"""Width of a clip, pixels."""
_FILE_POINTS = 8.5

_GREY = "0.35"
_CHOSEN = "#c2410c"


def save_sheet(chosen: "CalibrationSet", file: Path) -> None:
    """Draw the clips of a set with their numbers, and what of the footage they cover.

    1680 pixels wide; the height follows from the number of clips, 1600 pixels at most.

    Raises:
        InputError: matplotlib is missing, or the file cannot be written.
        SourceError: See `CalibrationSet.thumbnails`.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        raise InputError(
            "picture sheets need matplotlib. Install it with: pip install 'vad-edge[plot]'"
        ) from None
    cells = _shown(chosen)
    pictures = _Pictures.of(cells[0].thumbnail)
    rows = -(-len(cells) // _COLUMNS)
    top = _TITLE + _HISTOGRAM
    height = top + rows * pictures.step + _MARGIN
    figure = Figure(figsize=(_WIDTH / _DPI, height / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    _draw_title(figure, chosen, len(cells), height)
    _draw_coverage(figure, chosen, height)
    axes = figure.add_axes((0, 0, 1, 1), zorder=-1)
    axes.set_axis_off()
    for number, cell in enumerate(cells):
        left = _MARGIN + number % _COLUMNS * (_CELL + _GAP)
        _draw_cell(axes, cell, pictures, left, top + number // _COLUMNS * pictures.step)
    # Behind the pictures, which set limits of their own: one unit is one pixel, from the top left.
    axes.set(xlim=(0, _WIDTH), ylim=(height, 0), aspect="auto")
    with whole_file(file) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)


@dataclass(frozen=True)
class _Cell:
    record: "ClipRecord"
    thumbnail: Thumbnail


@dataclass(frozen=True)
class _Pictures:
    """Size of each of the two pictures of a clip on the sheet, pixels."""

    width: float
    height: float

    @classmethod
    def of(cls, thumbnail: Thumbnail) -> "_Pictures":
        rows, columns = thumbnail.motion.shape
        scale = _PICTURE / max(rows, columns)
        return cls(columns * scale, rows * scale)

    @property
    def step(self) -> float:
        return self.height + _TEXT + _GAP


def _shown(chosen: "CalibrationSet") -> list[_Cell]:
    """Return the clips for the sheet by stratum, still and dark ones first."""
    cells = [_Cell(*pair) for pair in zip(chosen.clips, chosen.thumbnails, strict=True)]
    cells.sort(key=lambda cell: (cell.record.stratum, cell.record.motion))
    return [cells[i] for i in evenly(len(cells), min(len(cells), MOST))]


def _draw_title(figure: "Figure", chosen: "CalibrationSet", shown: int, height: float) -> None:
    total = len(chosen.clips)
    some = f"{shown} of " if shown < total else ""
    spec = chosen.clip
    title = (
        f"Calibration set: {some}{_many(total, 'clip')}, chosen from "
        f"{_many(chosen.candidates, 'candidate')} in {_many(chosen.sources, 'source')}"
    )
    notes = [
        f"{_many(spec.frames, 'frame')} of {spec.width} x {spec.height} {spec.colour}, "
        f"stride {spec.stride}"
    ]
    if chosen.shortfall is not None:
        notes.append(chosen.shortfall[0].upper() + chosen.shortfall[1:])
    if chosen.skipped:
        notes.append(f"{_many(len(chosen.skipped), 'source')} skipped")
    legend = (
        "Left: the middle frame. Right: mean |difference| of neighbouring frames, black 0 to "
        f"yellow {255 // MOTION_SCALE} grey levels. Below: file @ first frame; mean grey level, "
        "mean |difference|; stratum."
    )
    for line, y, size, colour in (
        (title, 32, 15, "black"),
        (". ".join(notes) + ".", 56, 10, _GREY),
        (legend, 76, 10, _GREY),
    ):
        figure.text(_MARGIN / _WIDTH, 1 - y / height, line, fontsize=size, color=colour)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _draw_coverage(figure: "Figure", chosen: "CalibrationSet", height: float) -> None:
    """Draw histograms as shares, so that few chosen and many candidates can be compared."""
    pitch = (_WIDTH - 2 * _MARGIN + _GAP) / len(STATISTICS)
    for number, (name, unit) in enumerate(STATISTICS.items()):
        left, bottom = _MARGIN + 34 + number * pitch, height - _TITLE - _HISTOGRAM + 68
        box = (left / _WIDTH, bottom / height, (pitch - 34 - _GAP) / _WIDTH, 96 / height)
        axes = figure.add_axes(box)
        histogram = chosen.coverage[name]
        edges = np.array(histogram.edges)
        grey: dict[str, Any] = {"color": "0.8", "fill": True, "label": "candidates"}
        line: dict[str, Any] = {"color": _CHOSEN, "linewidth": 1.6, "label": "chosen"}
        for counts, style in ((histogram.candidates, grey), (histogram.chosen, line)):
            axes.stairs(100 * np.array(counts) / max(1, sum(counts)), edges, **style)
        axes.set_title(name, fontsize=10, loc="left", pad=4)
        axes.set_xlabel(unit, fontsize=8, labelpad=2)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=8, length=3)
        axes.locator_params(nbins=4)
        axes.spines[["top", "right"]].set_visible(False)
        if number == 0:
            axes.set_ylabel("clips (%)", fontsize=8, labelpad=2)
        axes.ticklabel_format(axis="x", useOffset=False)
    # Outside the axes: any bin may be full.
    corner = (1 - _MARGIN / _WIDTH, 1 - 40 / height)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="upper right",
        bbox_to_anchor=corner,
        ncols=2,
        fontsize=10,
        frameon=False,
        borderaxespad=0,
        borderpad=0,
    )


def _draw_cell(axes: "Axes", cell: _Cell, pictures: _Pictures, left: float, top: float) -> None:
    bottom = top + pictures.height
    middle = cell.thumbnail.middle
    for image, colours, x in (
        (middle if middle.shape[2] == 3 else middle[:, :, 0], "gray", left),
        (cell.thumbnail.motion, "inferno", left + pictures.width + 2),
    ):
        box = (x, x + pictures.width, bottom, top)
        axes.imshow(image, cmap=colours, vmin=0, vmax=255, extent=box, interpolation="bicubic")
    record = cell.record
    lines = (
        (_file_line(axes, record), "black", _FILE_POINTS),
        (f"brightness {record.brightness:.0f}, motion {record.motion:.2f}", "black", 8),
        (record.stratum, "0.5", 8),
    )
    for number, (line, colour, size) in enumerate(lines):
        y = bottom + 4 + number * 14
        axes.text(left, y, line, fontsize=size, color=colour, va="top", parse_math=False)


def _file_line(axes: "Axes", record: "ClipRecord") -> str:
    """Return file and first frame, the file's name cut until both fit under the pictures."""
    name, place = printable(Path(record.file).name), f" @ {record.first}"
    text = axes.text(0, 0, name + place, fontsize=_FILE_POINTS, parse_math=False)
    length = len(name)
    while text.get_window_extent().width > _CELL and length > 4:
        length -= 1
        text.set_text(middle_cut(name, length) + place)
    line = text.get_text()
    text.remove()
    return line
