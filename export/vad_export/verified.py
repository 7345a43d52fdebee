"""What a manifest keeps of a verification: `parity["verified"]`, by back end and precision."""

from typing import Any

import msgspec

from vad_runtime.backends import backend_names
from vad_runtime.backends.registry import runs_on_gpu
from vad_runtime.contracts import Manifest, Precision, Scoring
from vad_runtime.cuda.driver import driver_installed

ENGINES = tuple(name for name in backend_names() if name != "fake")
"""Back ends that can be compared and timed; `fake` runs no model."""


def engines_here() -> tuple[str, ...]:
    """Return those of `ENGINES` that are looked at where none is named.

    Those for a GPU only where an NVIDIA driver is installed: elsewhere each would be listed with
    the same reason.
    """
    gpu = driver_installed()
    return tuple(name for name in ENGINES if gpu or not runs_on_gpu(name))


def decision_settings(scoring: Scoring) -> dict[str, Any]:
    """Return what turns raw scores into decisions, as an entry keeps it: JSON values."""
    kept = msgspec.to_builtins(scoring)
    # In words and figures: where the settings come from.
    return {key: value for key, value in kept.items() if key not in ("method", "evidence")}


def entry_of(manifest: Manifest, backend: str, precision: Precision) -> dict[str, Any]:
    """Return the outcome of a back end with a precision; empty where it has none that counts.

    One that was found with another file than the present artefact, or with other settings of
    `decision_settings` than the present ones, does not count; nor does one that does not say.
    """
    verified = (manifest.parity or {}).get("verified")
    held = manifest.artefact_of(precision)
    found = verified.get(f"{backend} {precision}") if isinstance(verified, dict) else None
    if held is None or not isinstance(found, dict):
        return {}
    same_file = found.get("artefact_sha256") == held[1].sha256
    same_decisions = found.get("scoring") == decision_settings(manifest.scoring)
    return found if same_file and same_decisions else {}
