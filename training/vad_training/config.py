"""Training configuration: YAML with strict keys, and `--set key=value` on top."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml

from vad_runtime.contracts import ClipSpec, ConfigError

_Fraction = Annotated[float, msgspec.Meta(gt=0, lt=1)]
_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Count = Annotated[int, msgspec.Meta(ge=1)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]
_Seed = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # what PyTorch's generators take


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class DataConfig(_Strict, frozen=True, kw_only=True):
    """Which windows of the footage are trained on."""

    window_step: _Count = 2
    """Clip frames from the start of one training window to the next."""
    validation_fraction: _Fraction = 0.2
    """Share of the videos (of the frames, with one video) that is kept for validation."""
    validation_windows: _Count = 64
    """At most this many windows, spread evenly, give the validation loss."""


class AugmentConfig(_Strict, frozen=True, kw_only=True):
    """Random changes, the same for every frame of a window and of its future."""

    rotation_deg: _NotNegative = 2.0
    """Rotation by up to this angle to either side, degrees."""
    blur_sigma: _NotNegative = 1.0
    """Gaussian blur with a sigma of up to this many pixels, on every other window."""


class OptimiserConfig(_Strict, frozen=True, kw_only=True):
    """Adam and its learning rate."""

    learning_rate: _Positive = 1e-4
    weight_decay: _NotNegative = 1e-5
    batch: _Count = 4
    schedule: Literal["step", "cosine"] = "step"
    """`step`: times `gamma` at each milestone. `cosine`: a short warm-up, then down to 2 %."""
    milestones: tuple[_Count, ...] = (25,)
    """Epochs, counted from 0, from which the rate is lower (`step`)."""
    gamma: _Positive = 0.1


class LossConfig(_Strict, frozen=True, kw_only=True):
    """The STAE's loss."""

    future_offset: _Count = 16
    """Clip frames from a window's start to the start of the future that it predicts."""
    prediction_weights: Literal["source", "paper"] = "source"


class TrainConfig(_Strict, frozen=True, kw_only=True):
    """Everything a run depends on, beside the footage. Defaults: the published recipe."""

    family: Literal["stae"] = "stae"
    clip: ClipSpec = ClipSpec(frames=16, hop=4, height=128, width=128, colour="gray")
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    loss: LossConfig = LossConfig()
    epochs: _Count = 40
    steps_per_epoch: _Count | None = None
    """Steps after which an epoch ends; None = when every window was seen once."""
    patience: _Count | None = None
    """Stop after this many epochs without a better validation loss; None = never."""
    seed: _Seed = 0
    device: str = "auto"
    """`auto` = the first CUDA device if there is one, else the CPU; or a PyTorch device name."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the heavy layers; weights, loss and optimiser are always float32. `auto` =
    bf16 where the device computes in it, else fp32."""
    threads: _Count | None = None
    """CPU threads; None = PyTorch's own choice."""


def read_config(file: Path | None, settings: Sequence[str] = ()) -> TrainConfig:
    """Read a configuration.

    Args:
        file: YAML; keys it does not name keep their defaults. None = all defaults.
        settings: `key=value` with dotted keys (`optimiser.batch=8`), values in YAML; they win.

    Raises:
        ConfigError: Unreadable, not YAML, an unknown key, or a value out of its range.
    """
    tree = _tree_from_file(file) if file is not None else {}
    # Defaults first, so that `clip.height=64` need not name the rest of the clip.
    merged = _merged(tree_from_config(TrainConfig()), tree)
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
        merged = _merged(merged, value)
    where = str(file) if file is not None else "configuration"
    return config_from_tree(merged, where)


def config_from_tree(tree: dict[str, Any], where: str) -> TrainConfig:
    """Return the configuration that plain dictionaries hold, checked strictly.

    Raises:
        ConfigError: An unknown key or a value out of its range; the message names it.
    """
    try:
        _refuse_infinity(tree)
        return msgspec.convert(tree, TrainConfig)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"{where}: {error}. See docs/training.md for the keys.") from None


def tree_from_config(config: TrainConfig) -> dict[str, Any]:
    """Return the configuration as plain dictionaries, complete with defaults."""
    tree: dict[str, Any] = msgspec.to_builtins(config)
    return tree


def yaml_from_config(config: TrainConfig) -> str:
    """Return the whole configuration as YAML that `read_config` reads back unchanged."""
    return yaml.safe_dump(tree_from_config(config), sort_keys=False)


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
