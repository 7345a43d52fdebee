"""Whether a plan fits this machine, decided before any TensorRT sees it.

Given a plan of another version, another GPU or another graph, TensorRT says little or runs it
wrongly. The plan's header and sidecar hold all that is needed to know that beforehand.
"""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vad_runtime.bundle import sha256_of_file
from vad_runtime.contracts import BackendError, EngineSidecar, Precision
from vad_runtime.engines.adapter_base import Flavour
from vad_runtime.engines.compare import (
    AMPERE,
    Difference,
    Machine,
    contradictions,
    differences,
    flavour_for,
    notes,
    same_version,
    this_machine,
)
from vad_runtime.engines.plan_file import TARGETS, PlanHeader, read_header, read_sidecar

__all__ = [
    "Difference",
    "Fit",
    "Machine",
    "contradictions",
    "differences",
    "engines_of",
    "find_engine",
    "flavour_for",
    "notes",
    "rebuild_command",
    "require_fit",
    "require_whole",
    "same_version",
    "this_machine",
]

_TOLD = 2  # reasons in one line


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A plan that fits, with what was read of it."""

    plan: Path
    header: PlanHeader
    sidecar: EngineSidecar
    flavour: Flavour
    """The library that shall load it."""


def require_fit(
    plan: str | Path, machine: Machine, *, source_sha256: str | None, rebuild: str
) -> Fit:
    """Check that a plan is whole, is the bundle's, and fits this machine.

    Args:
        plan: The plan; its sidecar lies beside it.
        machine: Where it shall run.
        source_sha256: Of the graph in the bundle that it should have been built from; None = the
            plan stands alone.
        rebuild: The command that builds it again (see `rebuild_command`).

    Raises:
        BackendError: One line that says which of these it is: what `read_header` and `read_sidecar`
            refuse, another size, another content, a header that contradicts the sidecar, another
            graph, no library for it, or the fields in which plan and machine differ.
    """
    path = Path(plan)
    header = read_header(path, build=rebuild)
    sidecar = read_sidecar(path, header=header, build=rebuild)
    require_whole(path, header, sidecar, rebuild)
    return _require_suits(path, header, sidecar, machine, source_sha256, rebuild)


def require_whole(path: Path, header: PlanHeader, sidecar: EngineSidecar, rebuild: str) -> None:
    """Check that a plan is byte for byte the one that its sidecar speaks of.

    Args:
        path: The plan.
        header: What `read_header` gave.
        sidecar: What `read_sidecar` gave.
        rebuild: The command that builds it again.

    Raises:
        BackendError: Another size, another content, or a header that contradicts the sidecar.
    """
    again = f"Copy it again, or build it with: {rebuild}"
    try:
        size = path.stat().st_size
        # Hashed only where the size is right: a large plan takes a second.
        digest = sha256_of_file(path) if size == sidecar.bytes else None
    except OSError as error:
        raise BackendError(f"{path} cannot be read ({error.strerror}). Check its rights.") from None
    if digest is None:
        what = "was cut off" if size < sidecar.bytes else "was changed"
        raise BackendError(
            f"{path} {what}: it has {size} bytes, its sidecar says {sidecar.bytes}. {again}"
        )
    if digest != sidecar.sha256:
        raise BackendError(
            f"{path} was changed or damaged: its sha256 is not the one in its sidecar. {again}"
        )
    wrong = contradictions(sidecar, header)
    if wrong:
        raise BackendError(f"{path} and its sidecar disagree ({_listed(wrong)}). {again}")


def _require_suits(
    path: Path,
    header: PlanHeader,
    sidecar: EngineSidecar,
    machine: Machine,
    source_sha256: str | None,
    rebuild: str,
) -> Fit:
    if source_sha256 is not None and sidecar.source_sha256 != source_sha256:
        raise BackendError(
            f"{path} was built from another {sidecar.source} than the bundle holds now. "
            f"Build it again with: {rebuild}"
        )
    found = differences(sidecar, machine)
    if found:
        step = f"Build it here with: {rebuild}"
        if not {"tensorrt", "rtx"} & set(machine.libraries):  # lean and dispatch build nothing
            step = f"Build one that fits on a machine with TensorRT: {rebuild}"
        if not machine.libraries:
            step = machine.missing.get(_builder_of(sidecar), step)
        raise BackendError(f"{path} does not fit this machine: {_listed(found)}. {step}")
    flavour = flavour_for(sidecar, machine)
    assert flavour is not None, "a library was found, or there is a difference"
    return Fit(plan=path, header=header, sidecar=sidecar, flavour=flavour)


def engines_of(folder: str | Path) -> list[Path]:
    """Return the plans in a folder by name; none where there is no folder."""
    try:
        return sorted(
            path
            for path in Path(folder).iterdir()
            if path.suffix == ".engine" and not path.name.startswith(".")
        )
    except OSError:
        return []


def find_engine(
    folder: str | Path,
    precision: Precision,
    source_sha256: str,
    machine: Machine,
    rebuild: str,
) -> Fit:
    """Return the plan in a folder that fits best.

    A plan of exactly the library that is here comes before one that is compatible with it,
    TensorRT's before TensorRT-RTX's, a plan tuned for this GPU before one for many, and of
    two such the one built last.

    Args:
        folder: A bundle's `engines`.
        precision: Which plans are looked at.
        source_sha256: Of the bundle's graph of that precision.
        machine: Where it shall run.
        rebuild: The command that builds one.

    Raises:
        BackendError: No plan of this precision, or none that fits: then why each does not.
    """
    plans = engines_of(folder)
    if not plans:
        raise BackendError(f"{folder} holds no engine. Build one with: {rebuild}")
    reasons: list[str] = []
    ranked: list[tuple[tuple[int, ...], str, Path]] = []
    others: set[str] = set()
    for plan in plans:
        try:
            header = read_header(plan, build=rebuild)
            sidecar = read_sidecar(plan, header=header, build=rebuild)
            if sidecar.precision != precision:
                others.add(sidecar.precision)
                continue
            fit = _require_suits(plan, header, sidecar, machine, source_sha256, rebuild)
        except BackendError as error:
            reasons.append(str(error))
            continue
        ranked.append((_rank(fit, machine), sidecar.created, plan))
    newest_first = sorted(ranked, key=lambda item: item[1], reverse=True)
    for _, _, plan in sorted(newest_first, key=lambda item: item[0]):
        try:
            return require_fit(plan, machine, source_sha256=source_sha256, rebuild=rebuild)
        except BackendError as error:  # damaged: only now was all of it read
            reasons.append(str(error))
    if len(reasons) == 1:
        raise BackendError(reasons[0])
    if not reasons:
        have = ", ".join(sorted(others))
        raise BackendError(
            f"{folder} holds no {precision} engine, but {have}. Build one with: {rebuild}"
        )
    raise BackendError(_none_of(Path(folder), reasons, rebuild))


def _none_of(folder: Path, reasons: list[str], rebuild: str) -> str:
    """Return one line of readable length about several plans."""
    # Without the folder's name and the command, which every reason holds.
    short = [reason.replace(f"{folder}{os.sep}", "").partition(". ")[0] for reason in reasons]
    told = "; ".join(short[:_TOLD])
    if len(short) > _TOLD:
        told += f"; and {len(short) - _TOLD} more"
    each = shlex.join(["vad-export", "inspect", str(folder)])
    return f"none of {len(short)} engines fits ({each}): {told}. Build one with: {rebuild}"


def _rank(fit: Fit, machine: Machine) -> tuple[int, ...]:
    """Return numbers that sort fits, the best first."""
    order = ("tensorrt", "rtx", "lean", "dispatch")
    exact = same_version(fit.sidecar.version, machine.libraries[fit.flavour])
    for_many = fit.sidecar.hardware_compatible or fit.sidecar.later_sms
    tuned_here = machine.gpu is not None and fit.sidecar.gpu == machine.gpu.name
    return (
        order.index(fit.flavour),
        not exact,
        fit.sidecar.version_compatible,
        for_many,
        not tuned_here,
    )


def rebuild_command(
    bundle: str | Path,
    sidecar: EngineSidecar | None,
    precision: Precision | None,
    machine: Machine | None = None,
) -> str:
    """Return the command that builds an engine, with the settings that the old one had.

    The targets of the old one are left out, so that it is built for this machine. So are settings
    that the library here has not, where the machine is given.

    Args:
        bundle: Path of the bundle.
        sidecar: Of the engine to replace; None = there is none.
        precision: None = that of the sidecar, else the command's own choice.
        machine: Where it shall be built and run; None = that is not known.
    """
    words = ["vad-export", "build-engine", str(bundle)]
    wanted = precision or (sidecar.precision if sidecar else None)
    if wanted:
        words += ["--precision", wanted]
    if sidecar is not None and sidecar.batches != [1]:
        words += ["--batch", ",".join(map(str, sidecar.batches))]
    libraries = None if machine is None else machine.libraries
    if sidecar is not None and (libraries is None or _builder_of(sidecar) in libraries):
        words += _kept_options(sidecar)
    if machine is not None and machine.gpu is not None and "tensorrt" not in machine.libraries:
        sm = machine.gpu.sm
        # TensorRT-RTX leaves the oldest GPUs that it knows out, unless they are named.
        if sm in TARGETS and sm < AMPERE:
            words += ["--sm", str(sm)]
    if sidecar is not None:
        words.append("--overwrite")
    return shlex.join(words)


def _builder_of(sidecar: EngineSidecar) -> Flavour:
    return "rtx" if sidecar.family == "rtx" else "tensorrt"


def _kept_options(sidecar: EngineSidecar) -> list[str]:
    words = ["--flavour", "rtx"] if sidecar.family == "rtx" else []
    switches = (
        ("--version-compatible", sidecar.version_compatible),
        ("--host-code", sidecar.host_code),
        ("--hardware-compatible", sidecar.hardware_compatible),
        ("--tf32", sidecar.options.get("tf32") is True),
    )
    words += [name for name, on in switches if on]
    for name, key in (("--opt-level", "level"), ("--dla", "dla")):
        value = sidecar.options.get(key)
        if isinstance(value, int):
            words += [name, str(value)]
    for tensor in sidecar.outputs:
        if tensor.name != "score":
            words += ["--output", tensor.name]
    return words


def _listed(found: Sequence[Difference]) -> str:
    return "; ".join(map(str, found))
