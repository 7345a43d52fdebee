"""The last step of a deployment: which precision meets the target on this machine."""

from collections.abc import Callable, Sequence
from pathlib import Path

from vad_calibration.clip_set import calibration_set_from_footage, write_calibration_set
from vad_export.gate import recorded, require_passed, verify
from vad_export.plan import plan, with_plan
from vad_export.plan_choice import Plan
from vad_export.precision import quantise
from vad_export.precision_config import PrecisionConfig
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import VadError

CLIPS = 64
"""Clips for the ranges; a site's footage is of one kind."""

_GATE_CLIPS = 256
_ROUNDS = 12


def fitted(
    bundle: Bundle,
    footage: Sequence[Path],
    calibration: Path,
    *,
    target_ms: float | None = None,
    int8: bool = False,
    config: PrecisionConfig | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Bundle, Plan]:
    """Plan a bundle for this machine, and make INT8 where nothing wider is fast enough.

    Args:
        bundle: With fp32; other artefacts may be there.
        footage: Normal footage for calibration and for the gate.
        calibration: Folder for the calibration set.
        target_ms: Longest time for a clip, milliseconds; None = the time from clip to clip.
        int8: Make INT8 in any case.
        config: For quantisation; None = the defaults.
        say: Receives a line per stage.

    Returns:
        The bundle as it stands on disk, and the last plan; without a choice nothing that is
        allowed meets the target, and the plan's line says what would.

    Raises:
        ConfigError: No target is given and the bundle does not know its frame rate.
        VadError: As in each of the steps.
    """
    found = plan(bundle, target_ms, rounds=_ROUNDS)
    if found.chosen is None or int8:
        say(found.line if found.chosen is None else "int8: asked for")
        bundle = _with_int8(bundle, footage, calibration, config or PrecisionConfig(), say)
        found = plan(bundle, target_ms, rounds=_ROUNDS)
    if found.chosen is not None:
        bundle = with_plan(bundle, found)
    say(found.line)
    return bundle, found


def _with_int8(
    bundle: Bundle,
    footage: Sequence[Path],
    calibration: Path,
    config: PrecisionConfig,
    say: Callable[[str], None],
) -> Bundle:
    """Add an INT8 graph and what the gate says of it; without one where it cannot be had."""
    try:
        write_calibration_set(
            calibration, calibration_set_from_footage(footage, bundle.manifest.clip, CLIPS)
        )
        bundle = quantise(bundle, ["int8"], calibration, config, say)
        report = verify(bundle, footage, budget=config.budget, count=_GATE_CLIPS)
        bundle = recorded(bundle, report)
        require_passed(report)
    except VadError as error:  # what has been trained and proved in fp32 is not lost by this
        say(f"int8: {error}")
    return bundle
