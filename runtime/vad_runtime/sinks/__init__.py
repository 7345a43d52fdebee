"""Sinks: what a run leaves behind. Tables need nothing more; films and plots need their extras."""

from pathlib import Path
from typing import TYPE_CHECKING

from vad_runtime.contracts.errors import InputError
from vad_runtime.contracts.manifest import Scoring
from vad_runtime.sinks.plot import NO_MATPLOTLIB, plot_available, save_plot
from vad_runtime.sinks.rows import Row, RowWriter, read_rows, row_from_scored
from vad_runtime.sources.base import SourceInfo

if TYPE_CHECKING:
    from vad_runtime.sinks.overlay import OverlayWriter

__all__ = [
    "NO_MATPLOTLIB",
    "Row",
    "RowWriter",
    "open_overlay",
    "plot_available",
    "read_rows",
    "row_from_scored",
    "save_plot",
]


def open_overlay(
    path: Path, source: SourceInfo, scoring: Scoring, *, max_side: int = 960
) -> "OverlayWriter":
    """Open an overlay video; see `OverlayWriter`. PyAV and OpenCV are imported here.

    Raises:
        InputError: One of them or an encoder is missing, or the file cannot be written.
    """
    try:
        from vad_runtime.sinks.overlay import OverlayWriter
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("av", "cv2"):
            raise
        raise InputError(
            "overlay videos need PyAV and OpenCV. Install them with: pip install 'vad-edge[video]'"
        ) from None
    return OverlayWriter(path, source, scoring, max_side=max_side)
