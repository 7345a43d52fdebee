"""The configuration of a training run."""

from pathlib import Path

import pytest
from helpers import assert_one_line

from vad_runtime.contracts import ConfigError
from vad_training.config import (
    FAMILIES,
    AugmentConfig,
    StaeConfig,
    config_from_tree,
    read_config,
    tree_from_config,
    yaml_from_config,
)


def written(folder: Path, text: str) -> Path:
    file = folder / "config.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_defaults_are_the_published_recipe() -> None:
    config = read_config(None)
    clip, optimiser = config.clip, config.optimiser
    assert (clip.frames, clip.height, clip.width, clip.colour) == (16, 128, 128, "gray")
    assert clip.stride == 1
    assert (optimiser.learning_rate, optimiser.weight_decay, optimiser.batch) == (1e-4, 1e-5, 4)
    assert (optimiser.schedule, optimiser.milestones, optimiser.gamma) == ("step", (25,), 0.1)
    assert config.epochs == 40
    assert config.data.window_step == 2
    assert (config.loss.future_offset, config.loss.prediction_weights) == (16, "source")
    assert config.augment == AugmentConfig(rotation_deg=2.0, blur_sigma=1.0)
    assert (config.steps_per_epoch, config.patience) == (None, None)


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    file = written(tmp_path, "epochs: 3\nclip: {height: 64}\noptimiser:\n  milestones: [5, 9]\n")
    config = read_config(file)
    assert config.epochs == 3
    assert (config.clip.height, config.clip.width, config.clip.frames) == (64, 128, 16)
    assert config.optimiser.milestones == (5, 9)
    assert config.optimiser.learning_rate == 1e-4


@pytest.mark.parametrize("text", ["", "# only a comment\n", "{}\n"])
def test_an_empty_file_is_the_defaults(tmp_path: Path, text: str) -> None:
    assert read_config(written(tmp_path, text)) == StaeConfig()


def test_set_wins_over_the_file_and_the_last_set_over_the_first(tmp_path: Path) -> None:
    file = written(tmp_path, "epochs: 3\noptimiser: {batch: 2}\n")
    config = read_config(file, ["optimiser.batch=8", "epochs=5", "epochs=7", "patience=null"])
    assert (config.optimiser.batch, config.epochs, config.patience) == (8, 7, None)


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "1E-4"])
def test_every_way_to_write_a_number_is_a_number(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, f"optimiser:\n  learning_rate: {text}\n")
    assert read_config(file).optimiser.learning_rate == 1e-4
    assert read_config(None, [f"optimiser.learning_rate={text}"]).optimiser.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("epoch: 3\n", "epoch"),
        ("optimiser: {lr: 1e-3}\n", "lr"),
        ("clip: {heigth: 64}\n", "heigth"),
        ("augment: {rotation_deg: {x: 1}}\n", "rotation_deg"),
        ("data: 5\n", "data"),
        ("optimiser: null\n", "optimiser"),
        ("1: 2\n", "Expected `str`"),
        ("[1, 2]\n", "keys and values"),
        ("epochs: [\n", "not YAML"),
        ("seed: 2024-13-45\n", "not YAML"),
        ("a: &a [*a]\n", "not YAML"),
    ],
)
def test_a_bad_file_is_one_line_that_names_file_and_key(
    tmp_path: Path, text: str, named: str
) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    assert_one_line(caught.value, str(file), named)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("epochs", "key=value"),
        ("=3", "key=value"),
        ("epoch=3", "epoch"),
        ("optimiser.learning_rte=1", "learning_rte"),
        ("optimiser.batch.x=1", "batch"),
        ("a..b=1", "a"),
        ("epochs=0", "epochs"),
        ("epochs=true", "epochs"),
        ("epochs=1.5", "epochs"),
        ("epochs=", "epochs"),
        ("optimiser.learning_rate=0", "learning_rate"),
        ("optimiser.learning_rate=fast", "learning_rate"),
        ("optimiser.learning_rate=.nan", "learning_rate"),
        ("optimiser.learning_rate=inf", "learning_rate"),
        ("augment.rotation_deg=.inf", "rotation_deg"),
        ("augment.blur_sigma=-1", "blur_sigma"),
        ("data.validation_fraction=1", "validation_fraction"),
        ("optimiser.schedule=linear", "linear"),
        ("optimiser.milestones=[0]", "milestones"),
        ("loss.prediction_weights=mine", "mine"),
        ("clip.height=0", "height"),
        ("clip.colour=bgr", "bgr"),
        ("seed=-1", "seed"),
        ("seed=99999999999999999999999", "seed"),
        ("seed=2024-13-45", "2024-13-45"),
        ("seed=2024-01-01", "seed"),
        ("seed=[", "["),
        ("seed=&a [*a]", "&a"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(setting: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(None, [setting])
    assert_one_line(caught.value, named)


def test_a_missing_file_and_one_that_is_no_text_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(tmp_path / "nothing.yaml")
    assert_one_line(caught.value, "nothing.yaml", "No such file")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00epochs")
    with pytest.raises(ConfigError) as caught:
        read_config(binary)
    assert_one_line(caught.value, "binary.yaml")


def test_the_whole_configuration_survives_yaml_and_plain_values(tmp_path: Path) -> None:
    config = read_config(
        None,
        [
            "optimiser.learning_rate=3e-7",
            "optimiser.milestones=[2, 4]",
            "clip.fps=29.97",
            "steps_per_epoch=5",
            "device=cuda:1",
            "seed=9223372036854775807",
            "data.validation_fraction=0.123456789012345",
        ],
    )
    assert read_config(written(tmp_path, yaml_from_config(config))) == config
    assert config_from_tree(tree_from_config(config), "here") == config
    assert read_config(written(tmp_path, yaml_from_config(StaeConfig()))) == StaeConfig()


# -- families ----------------------------------------------------------------------------------

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "training" / "configs").glob("*.yaml"))


def test_there_is_a_reference_configuration_for_every_family() -> None:
    assert {read_config(file).family for file in CONFIGS} == set(FAMILIES)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_reference_configuration_loads_and_survives_being_written(
    file: Path, tmp_path: Path
) -> None:
    config = read_config(file)
    assert read_config(written(tmp_path, yaml_from_config(config))) == config


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("r2plus1d_screw", "autoencoder.hidden", (256, 128)),
        ("r2plus1d_screw", "optimiser.learning_rate", 5e-3),
        ("r2plus1d_screw", "optimiser.milestones", (5, 10, 25, 50)),
        ("r2plus1d_screw", "epochs", 50),
        ("r2plus1d_screw", "optimiser.batch", 4),
        ("timesformer_ucf_sports", "autoencoder.hidden", (512, 256, 128)),
        ("timesformer_ucf_sports", "optimiser.period", 10),
        ("timesformer_ucf_sports", "epochs", 30),
        ("timesformer_ucf_sports", "optimiser.batch", 8),
        ("mil_sultani", "optimiser.kind", "adagrad"),
        ("mil_sultani", "optimiser.learning_rate", 1e-2),
        ("mil_sultani", "loss.pairs", "all"),
        ("mil_notebook_i3d", "loss.pairs", "paired"),
        ("mil_notebook_i3d", "optimiser.milestones", (25, 50)),
        ("mil_notebook_i3d", "features.modality", "two"),
        ("stae_avenue", "optimiser.milestones", (25,)),
        ("stae_paper", "loss.prediction_weights", "paper"),
    ],
)
def test_a_reference_configuration_has_the_published_value(
    name: str, key: str, value: object
) -> None:
    found: object = read_config(next(file for file in CONFIGS if file.stem == name))
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_the_family_can_be_set_on_the_command_line() -> None:
    assert read_config(None, ["family=mil", "head.kind=topk"]).family == "mil"


@pytest.mark.parametrize("family", ["stae", "backbone-ae", "mil"])
def test_every_family_takes_the_portable_resizer(family: str) -> None:
    config = read_config(None, [f"family={family}", "clip.resizer=portable"])
    assert config.clip.resizer == "portable"


def test_an_unknown_family_is_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(None, ["family=cnn"])
    assert_one_line(caught.value, "'cnn'", "stae", "backbone-ae", "mil")


def test_a_key_of_another_family_is_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(None, ["family=mil", "augment.blur_sigma=1"])
    assert_one_line(caught.value, "augment")
