"""The chart of the effects of layers."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_one_line

from vad_calibration.fallback import Fallback
from vad_calibration.sensitivity import LayerEffect
from vad_calibration.sensitivity_chart import axis_limits, save_chart, shortened
from vad_runtime.contracts import InputError

LONG = "/model/backbone/blocks.3/multipathway_blocks.0/res_blocks.11/branch2/conv_b/Conv_$x$"


def some_effects(count: int, **changes: object) -> list[LayerEffect]:
    rng = np.random.default_rng(count)
    return [
        LayerEffect(
            layer=f"{LONG if i % 7 == 0 else 'node_Conv'}_{i}",
            effect=float(10 ** rng.uniform(-5, -0.5)),
            spearman=0.9,
            **changes,  # type: ignore[arg-type]
        )
        for i in range(count)
    ]


def picture(file: Path) -> np.ndarray:
    from matplotlib.image import imread

    return np.asarray(imread(file))[..., :3]


def pixels_of(image: np.ndarray, colour: str) -> int:
    from matplotlib.colors import to_rgb

    return int((np.abs(image - np.array(to_rgb(colour))) < 0.01).all(axis=-1).sum())


def test_the_picture_grows_with_the_number_of_layers(tmp_path: Path) -> None:
    heights = []
    for count in (1, 8, 37, 110):
        save_chart(some_effects(count), None, tmp_path / "chart.png", title="int8")
        heights.append(picture(tmp_path / "chart.png").shape[0])
    assert heights == sorted(set(heights))
    assert heights[-1] > 110 * 18


def test_layers_put_back_have_another_colour(tmp_path: Path) -> None:
    effects = some_effects(12)
    chosen = Fallback(kept=[effects[2].layer, effects[5].layer], tried=9, passed=True)
    none = Fallback(kept=[], tried=1, passed=True)
    counts = []
    for number, fallback in enumerate((None, none, chosen)):
        save_chart(effects, fallback, tmp_path / f"{number}.png", title="int8")
        counts.append(pixels_of(picture(tmp_path / f"{number}.png"), "C3"))
    assert counts[0] == 0
    assert 0 < counts[1] < 500  # the square in the legend
    assert counts[2] > counts[1] + 1000


def test_layers_measured_in_groups_have_a_paler_colour(tmp_path: Path) -> None:
    save_chart(some_effects(6), None, tmp_path / "alone.png", title="int8")
    save_chart(some_effects(6, group=4), None, tmp_path / "grouped.png", title="int8")
    assert pixels_of(picture(tmp_path / "alone.png"), "#a6c8e4") == 0
    assert pixels_of(picture(tmp_path / "grouped.png"), "#a6c8e4") > 1000


@pytest.mark.parametrize("values", [[0.0, 0.0], [math.inf], [0.0, math.inf, 1e-30, 1e3], [1.0]])
def test_effects_of_nothing_and_of_infinity_can_be_drawn(
    tmp_path: Path, values: list[float]
) -> None:
    effects = [
        LayerEffect(layer=f"L{i}", effect=value, spearman=0) for i, value in enumerate(values)
    ]
    low, high = axis_limits(effects)
    assert 0 < low < high <= low * 1.01e6
    assert all(value <= high for value in values if math.isfinite(value))
    save_chart(effects, None, tmp_path / "chart.png", title="odd")
    assert picture(tmp_path / "chart.png").std() > 0


def test_names_and_titles_that_fonts_cannot_draw_give_no_warning(tmp_path: Path) -> None:
    effects = [LayerEffect(layer="层$\\frac\n\x07", effect=0.1, spearman=1)]
    save_chart(effects, None, tmp_path / "chart.png", title="监控 $x^$ " * 40)
    assert (tmp_path / "chart.png").stat().st_size > 1000


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    short = shortened(LONG, 40)
    assert len(short) == 40
    assert short.startswith("/model/")
    assert short.endswith("branch2/conv_b/Conv_$x$")
    assert shortened("node_Conv", 40) == "node_Conv"


def test_the_file_appears_whole_and_alone(tmp_path: Path) -> None:
    save_chart(some_effects(3), None, tmp_path / "chart.png", title="int8")
    assert [path.name for path in tmp_path.iterdir()] == ["chart.png"]
    with pytest.raises(InputError) as error:
        save_chart(some_effects(3), None, tmp_path / "no" / "chart.png", title="int8")
    assert_one_line(error.value, "chart.png", "cannot be written")


def test_without_matplotlib_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError) as error:
        save_chart(some_effects(3), None, tmp_path / "chart.png", title="int8")
    assert_one_line(error.value, "matplotlib", "vad-edge[plot]")


def test_no_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no effects"):
        save_chart([], None, tmp_path / "chart.png", title="int8")
