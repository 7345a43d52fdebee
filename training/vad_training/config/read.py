"""Reading and writing configurations: YAML with strict keys, and `--set key=value` on top."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from vad_runtime.contracts import ConfigError
from vad_training.config.backbone_ae import BackboneAeConfig
from vad_training.config.mil import MilConfig
from vad_training.config.stae import StaeConfig

TrainConfig = StaeConfig | BackboneAeConfig | MilConfig
"""A run's configuration, of any family."""

FAMILIES: dict[str, type[StaeConfig] | type[BackboneAeConfig] | type[MilConfig]] = {
    "stae": StaeConfig,
    "backbone-ae": BackboneAeConfig,
    "mil": MilConfig,
}
"""Configuration class by the value of the key `family`."""


def read_config(file: Path | None, settings: Sequence[str] = ()) -> TrainConfig:
    """Read a configuration.

    Args:
        file: YAML; keys it does not name keep their defaults. None = all defaults.
        settings: `key=value` with dotted keys (`optimiser.batch=8`), values in YAML; they win.

    Raises:
        ConfigError: Unreadable, not YAML, an unknown key, or a value out of its range.
    """
    changes = tree_from_settings(file, settings)
    where = str(file) if file is not None else "configuration"
    # Defaults first, so that `clip.height=64` need not name the rest of the clip.
    defaults = tree_from_config(_family(changes, where)())
    return config_from_tree(_merged(defaults, changes), where)


def tree_from_settings(file: Path | None, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a YAML file and `key=value` settings say, as nested dictionaries.

    Args:
        file: YAML with keys and values; None = nothing.
        settings: With dotted keys, values in YAML; they win over the file.

    Raises:
        ConfigError: Unreadable, not YAML, or a setting of another form.
    """
    changes = _tree_from_file(file) if file is not None else {}
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign or not key:
            raise ConfigError(f"--set {setting}: write it as key=value, e.g. optimiser.batch=8")
        try:
            value = _number(yaml.safe_load(text))
        except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date like 2024-13-45
            raise ConfigError(f"--set {setting}: {text!r} is no YAML value. Quote it.") from None
        for part in reversed(key.split(".")):
            value = {part: value}
        changes = _merged(changes, value)
    return changes


def config_from_tree(tree: dict[str, Any], where: str) -> TrainConfig:
    """Return the configuration that plain dictionaries hold, checked strictly.

    Raises:
        ConfigError: An unknown key or a value out of its range; the message names it.
    """
    try:
        _refuse_infinity(tree)
        config: TrainConfig = msgspec.convert(tree, _family(tree, where))
        return config
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"{where}: {error}. See docs/training.md for the keys.") from None


def tree_from_config(config: TrainConfig) -> dict[str, Any]:
    """Return the configuration as plain dictionaries, complete with defaults."""
    tree: dict[str, Any] = msgspec.to_builtins(config)
    return tree


def yaml_from_config(config: TrainConfig) -> str:
    """Return the whole configuration as YAML that `read_config` reads back unchanged."""
    return yaml.safe_dump(tree_from_config(config), sort_keys=False)


def _family(
    tree: dict[str, Any], where: str
) -> type[StaeConfig] | type[BackboneAeConfig] | type[MilConfig]:
    name = tree.get("family", "stae")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ConfigError(
            f"{where}: there is no family {name!r}. Choose from: {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]


def _tree_from_file(file: Path) -> dict[str, Any]:
    try:
        tree = _number(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"{file} cannot be read ({reason}). Check the path.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{file} is not YAML ({reason}). See docs/training.md.") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} must hold keys and values. See docs/training.md.")
    return tree


def _refuse_infinity(tree: dict[str, Any], above: str = "") -> None:
    for key, value in tree.items():
        if isinstance(value, dict):
            _refuse_infinity(value, f"{above}{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{above}{key} must be finite, got {value}")


def _number(value: Any) -> Any:
    """Turn YAML 1.1's text `1e-4` into the number that everybody means."""
    if isinstance(value, dict):
        return {key: _number(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_number(item) for item in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _merged(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in top.items():
        old = out.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            out[key] = _merged(old, value)
        else:
            out[key] = value
    return out
