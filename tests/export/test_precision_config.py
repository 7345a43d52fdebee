"""The configuration of `vad-export quantise`."""

from pathlib import Path

import pytest
from helpers import assert_one_line

from vad_calibration.placement import QuantiseChoice
from vad_export.precision_config import (
    Budget,
    PrecisionConfig,
    budget_from_settings,
    read_precision_config,
)
from vad_runtime.contracts import ConfigError


def test_without_a_file_and_settings_all_is_as_documented() -> None:
    config = read_precision_config(None)
    assert config == PrecisionConfig()
    assert (config.method, config.check_clips, config.search) == ("mse", 32, True)
    assert config.layers == QuantiseChoice(
        ops=("Conv", "ConvTranspose", "Gemm", "MatMul"), first=True
    )
    assert config.budget == Budget(spearman=0.99, auc_delta=0.005, flips=0.01, mean_error=0.02)


def test_a_file_sets_what_it_names_and_settings_win(tmp_path: Path) -> None:
    file = tmp_path / "precision.yaml"
    file.write_text(
        "method: percentile\npercentile: 99.9\nkeep: [head]\n"
        "layers:\n  ops: [Conv, ConvTranspose]\n  first: false\nbudget:\n  spearman: 0.995\n"
    )
    config = read_precision_config(file, ["method=entropy", "budget.flips=0.02", "tries=9"])
    assert config == PrecisionConfig(
        method="entropy",
        percentile=99.9,
        keep=("head",),
        layers=QuantiseChoice(ops=("Conv", "ConvTranspose"), first=False),
        budget=Budget(spearman=0.995, flips=0.02),
        tries=9,
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("method: best", "method"),
        ("percentile: 0", "percentile"),
        ("percentile: 101", "percentile"),
        ("check_clips: 1", "check_clips"),
        ("tries: 1", "tries"),
        ("search: perhaps", "search"),
        ("colour: red", "colour"),
        ("layers: {ops: [LSTM]}", "LSTM"),
        ("layers: {least_share: 2}", "least_share"),
        ("budget: {spearman: 1.5}", "spearman"),
        ("budget: {mean_error: .inf}", "mean_error"),
        ("budget: {mean_error: .nan}", "mean_error"),
        ("budget: {nothing: 1}", "nothing"),
    ],
)
def test_a_wrong_value_is_one_line_with_the_file_and_the_key(
    tmp_path: Path, text: str, part: str
) -> None:
    file = tmp_path / "precision.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_precision_config(file)
    assert_one_line(error.value, str(file), part)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read_precision_config(tmp_path / "missing.yaml")
    assert_one_line(error.value, "missing.yaml")
    (tmp_path / "broken.yaml").write_text("method: [")
    with pytest.raises(ConfigError) as error:
        read_precision_config(tmp_path / "broken.yaml")
    assert_one_line(error.value, "broken.yaml")


def test_settings_alone_change_the_budget() -> None:
    assert budget_from_settings([]) == Budget()
    assert budget_from_settings(["spearman=0.9", "flips=0"]) == Budget(spearman=0.9, flips=0.0)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (["spearman"], "key=value"),
        (["speed=3"], "speed"),
        (["flips=0.1", "flips=0.2"], "set twice"),
        (["flips=few"], "flips"),
        (["flips=1.5"], "flips must be 0 to 1"),
        (["mean_error=-1"], "mean_error must be 0 or more"),
        (["auc_delta=nan"], "auc_delta"),
    ],
)
def test_a_wrong_budget_is_one_line(settings: list[str], part: str) -> None:
    with pytest.raises(ConfigError) as error:
        budget_from_settings(settings)
    assert_one_line(error.value, "budget", part)
