"""Which back end and precision a bundle shall run with on this machine.

Every candidate is timed, and the **most faithful** one that is allowed and meets the target wins,
not the fastest::

    fp32 > bf16 > fp16 > mixed > int8        most faithful first; where `vad-export verify` has
                                             compared them on the same clips, its figures do
    allowed   fp32        always: the export was compared with PyTorch
              bf16        where the export's check or `verify` proved it; needs no calibration
              the others  after `verify` has passed for this back end and precision
              never       what `verify` failed; int8 and mixed that are not faster than the next
                          wider precision (bf16 where it is allowed, else fp32)
    meets     95 % of the clips took no longer than the target, on the clock

The time is that of inference alone, one clip at a time. Decoding and resizing come on top.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard

from vad_export.timing import Times
from vad_export.verified import entry_of
from vad_runtime.contracts import ConfigError, Manifest, Precision

FAITHFUL: tuple[Precision, ...] = ("fp32", "bf16", "fp16", "mixed", "int8")
"""Most faithful first, where nothing was measured."""

MARGIN = 0.05
"""Share of the wider precision's median by which a quantised graph must be faster."""

Gate = Literal["passed", "not verified", "failed"]

NOT_VERIFIED: Gate = "not verified"

_QUANTISED = ("mixed", "int8")
_DIGITS = 3  # of the gate's figures; what differs less is equally faithful


@dataclass(frozen=True, kw_only=True)
class Target:
    """How long a clip may take."""

    ms: float
    """Milliseconds."""
    origin: str
    """Where it comes from, for people."""
    fps: float | None
    """Source frames a second; None = the target does not come from a hop."""
    stride: int
    """Source frames from one frame of a clip to the next; a hop is a multiple of it."""

    def hop_for(self, ms: float, fps: float) -> int:
        """Return the smallest hop in source frames that leaves `ms` for a clip.

        ``hop / fps >= ms / 1000``, and `hop` is a multiple of the stride.
        """
        # Rounded first: 40 ms at 25 fps is a hop of 1 and not, by a float's last bit, of 2.
        return max(math.ceil(round(ms * fps / 1000 / self.stride, 9)), 1) * self.stride


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How near the scores are to the reference's, from `vad-export verify`."""

    spearman: float
    """Rank correlation."""
    mean_error: float
    """Mean absolute difference as a share of the spread of the reference's scores."""
    measured_on: str = ""
    """Reference and clips; figures from others are not comparable."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A back end with a precision, timed."""

    backend: str
    precision: Precision
    times: Times
    gate: Gate
    fidelity: Fidelity | None = None
    device: str = ""
    """What really computed, as the back end says it."""

    @property
    def name(self) -> str:
        """Back end and precision, for example `openvino int8`."""
        return f"{self.backend} {self.precision}"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured, and how."""

    candidates: Sequence[Candidate]
    not_run: dict[str, str] = field(default_factory=dict)
    """Why a candidate could not be timed, by its name."""
    cpu: str
    gpu: str | None = None
    """Name of the GPU, where a candidate ran on one."""
    threads: int
    inputs: str
    """What the clips were, for people."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A candidate and whether it may be chosen."""

    candidate: Candidate
    refusal: str
    """Why it may not, in a few words; empty = it may."""
    meets: bool
    """It is fast enough."""
    times_fp32: float | None
    """How many times as fast as fp32 on the same back end, by medians; None = no fp32 there."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was chosen, or what would have to change."""

    target: Target
    measured: Measured
    judged: list[Judged]
    """Every timed candidate, the most faithful first."""
    chosen: Candidate | None
    """None = nothing that is allowed meets the target."""
    line: str
    """One line: what was chosen and why, or what would meet the target."""


def target_of(manifest: Manifest, target_ms: float | None = None) -> Target:
    """Return the time for a clip: what was asked for, or else that from clip to clip.

    Args:
        manifest: The bundle's.
        target_ms: Milliseconds; None = ``hop / fps``.

    Raises:
        ConfigError: Not a positive finite number, or none and the bundle does not know its own.
    """
    clip = manifest.clip
    fps = clip.fps if manifest.features is None else None
    if target_ms is not None:
        if not (math.isfinite(target_ms) and target_ms > 0):
            raise ConfigError(
                f"the target must be a positive number of milliseconds, got {target_ms:g}. "
                "Give another --target-ms."
            )
        # Another hop would not change what was asked for.
        return Target(ms=target_ms, origin="asked for", fps=None, stride=clip.stride)
    if fps is None:
        reason = (
            "does not say its frame rate (clip.fps)"
            if manifest.features is None
            else "takes the features of whole videos, which have no time from clip to clip"
        )
        raise ConfigError(
            f"{manifest.name} {reason}, so there is no target. Give one: --target-ms MS"
        )
    origin = f"hop {clip.hop} at {fps:g} frames a second"
    return Target(ms=1000 * clip.hop / fps, origin=origin, fps=fps, stride=clip.stride)


def gate_of(manifest: Manifest, backend: str, precision: Precision) -> tuple[Gate, Fidelity | None]:
    """Return whether the bundle's parity report lets a back end run a precision.

    What `vad-export verify` says counts before what the export's own check said; which of its
    entries count at all, `vad_export.verified.entry_of` says.
    """
    parity = manifest.parity or {}
    found = entry_of(manifest, backend, precision)
    if found.get("passed") is True:
        return "passed", _fidelity(found)
    if found.get("passed") is False:
        return "failed", _fidelity(found)
    proven = precision == "fp32" or (precision == "bf16" and parity.get("bf16_allowed") is True)
    return ("passed" if proven else "not verified"), None


def _fidelity(found: dict[str, Any]) -> Fidelity | None:
    spearman, error = found.get("spearman"), found.get("mean_of_spread")
    if not (_is_number(spearman) and _is_number(error)):
        return None
    measured_on = ", ".join(str(found.get(key)) for key in ("reference", "clips_key"))
    return Fidelity(spearman=spearman, mean_error=error, measured_on=measured_on)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def by_faithfulness(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates with the most faithful first; of equals, the faster one first.

    By precision. Those that `verify` has compared with the same reference on the same clips then
    trade places among themselves by its figures, rounded to three decimals (Spearman first, mean
    error second); fp32 does not. Without a figure a candidate keeps its place: no figure is no
    evidence.
    """
    ordered = sorted(candidates, key=_by_precision)
    groups: dict[str, list[int]] = {}
    for place, candidate in enumerate(ordered):
        if candidate.fidelity and candidate.precision != "fp32":
            groups.setdefault(candidate.fidelity.measured_on, []).append(place)
    for places in groups.values():
        ranked = sorted((ordered[place] for place in places), key=_by_figures)
        for place, candidate in zip(places, ranked, strict=True):
            ordered[place] = candidate
    return ordered


def _by_precision(candidate: Candidate) -> tuple[int, float, str]:
    rank = FAITHFUL.index(candidate.precision)
    return rank, candidate.times.median_ms, candidate.backend


def _by_figures(candidate: Candidate) -> tuple[float, float, tuple[int, float, str]]:
    found = candidate.fidelity
    assert found is not None
    spearman, error = round(found.spearman, _DIGITS), round(found.mean_error, _DIGITS)
    return -spearman, error, _by_precision(candidate)


def choose(
    measured: Measured, target: Target, *, any_precision: bool = False, bundle: str = "BUNDLE"
) -> Plan:
    """Choose the most faithful candidate that is allowed and meets the target.

    Args:
        measured: The candidates with their times.
        target: How long a clip may take.
        any_precision: Also take what has not been verified; never what failed, or is no faster.
        bundle: Name or path of the bundle, for the commands in the line.

    Returns:
        The plan; without a choice, its line says what would meet the target.
    """
    judged = []
    for candidate in by_faithfulness(measured.candidates):
        fp32 = _of(measured, candidate.backend, "fp32")
        ratio = fp32.times.median_ms / candidate.times.median_ms if fp32 else None
        judged.append(
            Judged(
                candidate=candidate,
                refusal=_refusal(candidate, measured, any_precision),
                meets=candidate.times.p95_ms <= target.ms,
                times_fp32=ratio,
            )
        )
    chosen = next((j.candidate for j in judged if j.meets and not j.refusal), None)
    line = _why(chosen, target) if chosen else _advice(judged, target, bundle)
    return Plan(target=target, measured=measured, judged=judged, chosen=chosen, line=line)


def _of(measured: Measured, backend: str, precision: Precision) -> Candidate | None:
    wanted = (backend, precision)
    return next((c for c in measured.candidates if (c.backend, c.precision) == wanted), None)


def _refusal(candidate: Candidate, measured: Measured, any_precision: bool) -> str:
    if candidate.gate == "failed":
        return "failed vad-export verify"
    if candidate.precision in _QUANTISED:
        bf16 = _of(measured, candidate.backend, "bf16")
        if bf16 and _refusal(bf16, measured, any_precision):
            bf16 = None  # it cannot be had in place of this one
        wider = bf16 or _of(measured, candidate.backend, "fp32")
        if wider and candidate.times.median_ms > (1 - MARGIN) * wider.times.median_ms:
            return f"not {100 * MARGIN:g} % faster than {wider.precision}"
    if candidate.gate == "not verified" and not any_precision:
        return NOT_VERIFIED
    return ""


def _why(chosen: Candidate, target: Target) -> str:
    unproven = " (not verified: --any-precision)" if chosen.gate == "not verified" else ""
    return (
        f"{chosen.name}{unproven} is the most faithful that is allowed and keeps 95 % of "
        f"{chosen.times.rounds} clips within {_ms(target.ms)} ({target.origin}): p95 "
        f"{_ms(chosen.times.p95_ms)}"
    )


def _advice(judged: Sequence[Judged], target: Target, bundle: str) -> str:
    """Say in one line what would meet the target."""
    limit = f"{_ms(target.ms)} a clip ({target.origin})"
    head = f"nothing that was timed is allowed, so nothing meets {limit}"
    ways = []
    allowed = [j.candidate for j in judged if not j.refusal]
    if allowed:
        fastest = min(allowed, key=lambda c: c.times.p95_ms)
        p95 = fastest.times.p95_ms
        head = (
            f"nothing that is allowed meets {limit}: the fastest, {fastest.name}, takes {_ms(p95)} "
            "(p95, inference alone)"
        )
        if target.fps is not None:
            hop = target.hop_for(p95, target.fps)
            left = 1000 * hop / target.fps
            if left > target.ms:
                ways.append(f"vad-run watch --hop {hop}, which leaves {_ms(left)}")
    waiting = next((j.candidate for j in judged if j.meets and j.refusal == NOT_VERIFIED), None)
    if waiting:
        ways.append(
            f"{waiting.name} ({_ms(waiting.times.p95_ms)}), which is not verified yet: "
            f"vad-export verify {bundle} --clips DIR"
        )
    elif not any(j.candidate.precision == "int8" for j in judged):
        ways.append(f"perhaps int8: vad-export quantise {bundle} --precision int8")
    ways.append("a smaller model or input")
    return f"{head}. What would: {'; or '.join(ways)}."


def _ms(value: float) -> str:
    return f"{value:.{1 if value >= 10 else 2}f} ms"
