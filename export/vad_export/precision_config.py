"""How artefacts of other precisions are made, and how far they may be from the reference."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from vad_calibration.histograms import Method
from vad_calibration.placement import QuantiseChoice
from vad_runtime.contracts import ConfigError
from vad_training.config.read import tree_from_settings


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an artefact may change before it is refused; a figure equal to its limit passes.

    Raises:
        ValueError: A limit is out of its range or not finite; the message names it.
    """

    spearman: float = 0.99
    """Least rank correlation of the raw scores with the reference's, in -1..1."""

    auc_delta: float = 0.005
    """Largest |AUC - the reference's|, micro over frames, in 0..1; looked at with labels only."""

    flips: float = 0.01
    """Largest share of the scored frames whose decision differs, in 0..1."""

    mean_error: float = 0.02
    """Largest mean |difference| of the raw scores, as a share of the spread of the reference's."""

    def part(self, share: float) -> "Budget":
        """Return a stricter budget, of which every limit allows only a share of this one's.

        Args:
            share: In 0..1.
        """
        return Budget(
            spearman=1 - (1 - self.spearman) * share,
            auc_delta=self.auc_delta * share,
            flips=self.flips * share,
            mean_error=self.mean_error * share,
        )

    def flips_hold(self, flips: int, count: int, furthest_of_spread: float) -> bool:
        """Whether so many flipped decisions are within the budget.

        Of few frames, one flip alone is more than the share that is allowed. It counts for nothing
        where the reference could hardly decide itself.

        Args:
            flips: Frames whose decision differs.
            count: Frames that were compared.
            furthest_of_spread: Largest |reference - threshold| among the flips, as a share of the
                spread of the reference's raw scores; 0 without flips.
        """
        if flips / count <= self.flips:
            return True
        # Who allows none means none.
        return flips == 1 and self.flips > 0 and furthest_of_spread <= self.mean_error

    def __post_init__(self) -> None:
        """Refuse limits that no figure can have."""
        for name, low, high in (
            ("spearman", -1.0, 1.0),
            ("auc_delta", 0.0, 1.0),
            ("flips", 0.0, 1.0),
            ("mean_error", 0.0, math.inf),
        ):
            value = getattr(self, name)
            # Written so that a NaN is refused too.
            if not (low <= value <= high and math.isfinite(value)):
                upper = f"to {high:g}" if math.isfinite(high) else "or more"
                raise ValueError(f"{name} must be {low:g} {upper}, got {value:g}")


def budget_from_settings(settings: Sequence[str], start: Budget | None = None) -> Budget:
    """Return a budget with some limits changed.

    Args:
        settings: `key=value`, for example `spearman=0.995`.
        start: The budget to change; None = the default.

    Raises:
        ConfigError: No `=`, an unknown or repeated key, or a value that is no number in its range.
    """
    values: dict[str, str] = {}
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign:
            raise ConfigError(f"budget {setting}: write it as key=value, e.g. spearman=0.99")
        if key not in Budget.__struct_fields__:
            have = ", ".join(Budget.__struct_fields__)
            raise ConfigError(f"budget {setting}: there is no limit {key!r}. Choose from: {have}")
        if key in values:
            raise ConfigError(f"budget {setting}: {key} is set twice. Set it once.")
        values[key] = text
    try:
        return msgspec.convert(
            msgspec.structs.asdict(start or Budget()) | values, Budget, strict=False
        )
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"budget {' '.join(settings)}: {error}. Give another value.") from None


class PrecisionConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How `vad-export quantise` makes INT8 and FP16 graphs."""

    method: Method = "mse"
    """How the largest magnitude that INT8 holds is chosen for each tensor, see `limit_of`."""

    percentile: Annotated[float, msgspec.Meta(gt=0, le=100)] = 99.99
    """For the method `percentile`."""

    layers: QuantiseChoice = QuantiseChoice()
    """Which layers are quantised."""

    keep: tuple[str, ...] = ()
    """Names of layers that are never quantised."""

    keep_fp32: tuple[str, ...] = ()
    """Names of nodes that stay in FP32 in `fp16` and `mixed`, beside those of the rules."""

    check_clips: Annotated[int, msgspec.Meta(ge=2)] = 32
    """Clips of the same footage, drawn anew, that decide which layers are put back."""

    search: bool = True
    """Put layers back where the budget is not met; without it such a graph is refused."""

    tries: Annotated[int, msgspec.Meta(ge=2)] = 64
    """Most variants that this search scores."""

    budget: Budget = Budget()
    """What the artefacts must keep to."""

    margin: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.75
    """Share of the budget that the check clips may use up: the gate looks at other footage."""


def read_precision_config(file: Path | None, settings: Sequence[str] = ()) -> PrecisionConfig:
    """Read a configuration.

    Args:
        file: YAML; keys it does not name keep their defaults. None = all defaults.
        settings: `key=value` with dotted keys (`budget.spearman=0.995`), values in YAML; they win.

    Raises:
        ConfigError: Unreadable, not YAML, an unknown key, or a value out of its range.
    """
    where = str(file) if file is not None else "configuration"
    try:
        return msgspec.convert(tree_from_settings(file, settings), PrecisionConfig)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"{where}: {error}. See docs/precision.md for the keys.") from None
