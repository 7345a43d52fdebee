"""The picture sheet of a calibration set."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from helpers import clip_spec, moving_blob, write_video
from matplotlib.figure import Figure

from vad_calibration import CalibrationSet, calibration_set_from_footage
from vad_calibration.sheet import MOST, save_sheet


def pixels_of(file: Path) -> np.ndarray:
    with av.open(str(file)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Every text of the sheets that are saved, with its box in pixels from the lower left."""
    found: list[tuple[str, Any]] = []
    save = Figure.savefig

    def spy(figure: Figure, *args: Any, **named: Any) -> None:
        save(figure, *args, **named)
        charts = [axes for axes in figure.axes if axes.axison]
        around = [[axes.title, axes.xaxis.label, axes.yaxis.label] for axes in charts]
        ours = [*figure.texts, *figure.axes[-1].texts, *figure.legends[0].get_texts()]
        for text in [*ours, *(text for texts in around for text in texts if text.get_text())]:
            found.append((text.get_text(), text.get_window_extent()))

    monkeypatch.setattr(Figure, "savefig", spy)
    return found


def chosen_of(video: Path, count: int, **changes: Any) -> CalibrationSet:
    return calibration_set_from_footage([video], clip_spec(**changes), count)


def test_the_sheet_is_a_picture_of_reasonable_size(
    tiny_video: Path, tmp_path: Path, texts: list[tuple[str, Any]]
) -> None:
    chosen = chosen_of(tiny_video, 12, colour="rgb")
    save_sheet(chosen, tmp_path / "sheet.png")
    picture = pixels_of(tmp_path / "sheet.png")
    assert picture.shape[1] == 1680
    assert 400 < picture.shape[0] < 800
    assert 20_000 < (tmp_path / "sheet.png").stat().st_size < 2_000_000
    shown = [text for text, _ in texts]
    assert "Calibration set: 12 clips, chosen from 48 candidates in 1 source" in shown
    for record in chosen.clips:
        assert f"tiny.mp4 @ {record.first}" in shown
        assert f"brightness {record.brightness:.0f}, motion {record.motion:.2f}" in shown


def test_of_many_clips_the_sheet_shows_some_evenly_and_says_so(
    tmp_path: Path, texts: list[tuple[str, Any]]
) -> None:
    video = write_video(tmp_path / "long.mp4", moving_blob(90))
    save_sheet(chosen_of(video, 70), tmp_path / "sheet.png")
    shown = [text for text, _ in texts]
    assert any(f"{MOST} of 70 clips" in text for text in shown)
    assert sum("long.mp4 @" in text for text in shown) == MOST
    strata = [text for text in shown if text.startswith("motion ")]
    assert strata == sorted(strata)
    assert pixels_of(tmp_path / "sheet.png").shape[0] <= 1600


@pytest.mark.parametrize("changes", [{}, {"height": 16, "width": 120}, {"height": 96, "width": 24}])
@pytest.mark.parametrize("name", ["W" * 60, "カメラ $1$ a_b^c 東"])
def test_no_text_leaves_the_sheet_or_touches_another(
    tmp_path: Path, texts: list[tuple[str, Any]], changes: dict[str, int], name: str
) -> None:
    video = write_video(tmp_path / f"{name}.mp4", moving_blob(20))
    (tmp_path / "bad.mp4").write_text("no video")
    chosen = calibration_set_from_footage([video, tmp_path / "bad.mp4"], clip_spec(**changes), 20)
    save_sheet(chosen, tmp_path / "sheet.png")
    height, width, _ = pixels_of(tmp_path / "sheet.png").shape
    assert any("Only 13 clips instead of 20" in text for text, _ in texts)
    assert any("1 source skipped" in text for text, _ in texts)
    boxes = [box for _, box in texts]
    for box in boxes:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            apart_x = one.x0 >= other.x1 or other.x0 >= one.x1
            apart_y = one.y0 >= other.y1 - 1 or other.y0 >= one.y1 - 1
            assert apart_x or apart_y


def test_one_clip_makes_a_sheet_too(tiny_video: Path, tmp_path: Path) -> None:
    save_sheet(chosen_of(tiny_video, 1, frames=1), tmp_path / "sheet.png")
    assert pixels_of(tmp_path / "sheet.png").std() > 5
