"""What an engine shall be, and everything that can be refused before a builder is made."""

import contextlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vad_export.engine.graph_facts import GraphFacts
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import (
    Artefact,
    BackendError,
    ConfigError,
    ExportError,
    NoDriverError,
    Precision,
)
from vad_runtime.contracts.engine import PlanFamily
from vad_runtime.cuda.driver import Gpu, driver, driver_installed, gpu_of, l4t
from vad_runtime.engines.adapter import TensorRt, found
from vad_runtime.engines.compare import AMPERE

FlavourChoice = Literal["auto", "tensorrt", "rtx"]

_MOST = 2**31 - 1  # sizes are 32-bit numbers in TensorRT 8


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What is asked for. Nothing here is ignored: what a library cannot do is refused."""

    precision: Precision | None = None
    """Of the graph; None = fp16 where the bundle has it, else fp32."""

    flavour: FlavourChoice = "auto"
    """`auto` = TensorRT where it and a GPU are there, else TensorRT-RTX."""

    batches: tuple[int, ...] = (1,)
    """Inputs that run at once, an optimisation profile each."""

    sms: tuple[int, ...] = ()
    """Compute capabilities (86, 89) to build for, TensorRT-RTX only; () = Ampere and later."""

    workspace_bytes: int | None = None
    """Scratch memory of the builder; None = a half of what is free, a quarter on a Jetson."""

    timing_cache: Path | None = None
    """File of measured kernels; None = one in the cache folder for each version and GPU."""

    version_compatible: bool = False
    """The lean runtime shall load it too, and with `host_code` later versions."""

    hardware_compatible: bool = False
    """GPUs from Ampere on shall run it."""

    host_code: bool = False
    """Put the lean runtime into a version-compatible plan; it is loaded only where allowed.

    Without it such a plan needs the version that built it: the header of TensorRT says so
    (NvInferRuntime.h, `IRuntime::loadRuntime`).
    """

    level: int | None = None
    """Optimisation level 0 .. 5; None = TensorRT's default."""

    dla: int | None = None
    """Core of the deep learning accelerator to use; None = the GPU alone."""

    tf32: bool = False
    """Let fp32 layers compute in TF32, with 10 bits of mantissa in place of 23."""

    outputs: tuple[str, ...] = ()
    """Optional outputs that the plan keeps beside `score`, which is all that vad-run reads."""

    out: Path | None = None
    """Folder for the plan; None = `engines/` in the bundle."""

    overwrite: bool = False
    """Replace a plan of the same name."""

    def __post_init__(self) -> None:
        """Refuse what no library could do."""
        if not self.batches or min(self.batches) < 1 or max(self.batches) > _MOST:
            raise ConfigError(
                f"--batch {_listed(self.batches)}: every batch is 1 or more, and below 2^31."
            )
        for option, numbers in (("--batch", self.batches), ("--sm", self.sms)):
            if len(set(numbers)) != len(numbers):
                raise ConfigError(f"{option} {_listed(numbers)} names one twice. Name each once.")
        if self.host_code and not self.version_compatible:
            raise ConfigError(
                "--host-code puts a lean runtime into the plan, which belongs to a "
                "version-compatible one. Add --version-compatible."
            )

    @property
    def options(self) -> dict[str, Any]:
        """What the sidecar keeps of it."""
        return {
            "workspace_bytes": self.workspace_bytes,
            "level": self.level,
            "dla": self.dla,
            "tf32": self.tf32,
            "targets": list(self.sms),
            "outputs": list(self.outputs),
        }


@dataclass(frozen=True, kw_only=True)
class Target:
    """The library that builds, and what it builds for."""

    lib: TensorRt
    gpu: Gpu | None
    """That kernels are timed on; None = TensorRT-RTX without one."""
    sms: tuple[int, ...]
    later_sms: bool
    cuda: str | None
    """Newest CUDA that the driver knows; None = no driver."""
    l4t: str | None

    @property
    def family(self) -> PlanFamily:
        """Whose plan it becomes."""
        return "rtx" if self.lib.flavour == "rtx" else "tensorrt"

    @property
    def line(self) -> str:
        """For people: `TensorRT-RTX 1.7.1.116, SM 80 86 89 120 121 and later`."""
        later = " and later" if self.later_sms else ""
        return f"{self.lib.name}, SM {' '.join(map(str, self.sms))}{later}"


def graph_of(bundle: Bundle, precision: Precision | None) -> tuple[str, Artefact]:
    """Return short name and entry of the graph that an engine is built from.

    Args:
        bundle: An opened bundle.
        precision: None = fp16 where there is one, else fp32.

    Raises:
        ExportError: The bundle has no graph of this precision.
    """
    if precision is None:
        best = bundle.manifest.artefact_of("fp16") or bundle.manifest.artefact_of("fp32")
        if best is not None:
            return best
        precision = "fp32"
    if precision == "bf16":
        raise ExportError(
            "bf16 is arithmetic of a CPU here, not a graph of its own. "
            "Build fp16 instead: --precision fp16"
        )
    entry = bundle.manifest.artefact_of(precision)
    if entry is not None:
        return entry
    have = ", ".join(bundle.manifest.artefacts)
    way_out = (
        "Export the bundle again."
        if precision == "fp32"
        else f"Make one with: vad-export quantise {bundle.path} --precision {precision}"
    )
    raise ExportError(f"{bundle.path} has no {precision} graph (it has: {have}). {way_out}")


def require_outputs(bundle: Bundle, settings: EngineSettings) -> None:
    """Refuse an output that the bundle's graphs do not have.

    Raises:
        ConfigError: There is none of this name.
    """
    have = [output.name for output in bundle.manifest.outputs]
    for name in settings.outputs:
        if name not in have:
            which = f"it has: {', '.join(have)}" if have else "it has none beside score"
            raise ConfigError(
                f"--output {name}: {bundle.path} has no such output ({which}). Leave it out, or "
                f"export the bundle again with --output {name}."
            )


def target_for(settings: EngineSettings) -> Target:
    """Find the library and what it shall build for. No builder is made.

    Raises:
        BackendError: No library that can build, or it cannot honour an option.
        NoDriverError: TensorRT times its kernels on a GPU, and there is none.
    """
    lib = library_for(settings)
    require_options(lib, settings)
    if lib.can.targets:
        return _rtx_target(lib, settings)
    try:
        here = driver()  # first of all: without one the bindings crash
    except NoDriverError as error:
        step = f"{lib.name} builds on a GPU; for those of PCs, --flavour rtx builds without one"
        raise NoDriverError(error.reason, step) from None
    gpu = gpu_of("auto")
    return Target(lib=lib, gpu=gpu, sms=(gpu.sm,), later_sms=False, cuda=here.cuda, l4t=l4t())


def library_for(settings: EngineSettings) -> TensorRt:
    """Find the library that shall build.

    Raises:
        BackendError: It is not installed, does not load, or only loads plans.
    """
    lib = _library(settings)
    if not (lib.can.builder and lib.can.parser):
        raise BackendError(
            f"{lib.name} loads engines and builds none. Install TensorRT itself, or "
            "TensorRT-RTX with: pip install 'vad-edge[rtx]'"
        )
    return lib


def _library(settings: EngineSettings) -> TensorRt:
    if settings.flavour != "auto":
        return found(settings.flavour)
    reasons: list[str] = []
    if driver_installed() and not settings.sms:
        try:
            return found("tensorrt")
        except BackendError as error:
            reasons.append(str(error))
    try:
        return found("rtx")
    except BackendError as error:
        reasons.append(str(error))
    if not settings.sms and not driver_installed():
        # Tell about TensorRT too where it is there: it lacks a driver, and says so itself.
        with contextlib.suppress(BackendError):
            return found("tensorrt")
    raise BackendError(" ".join(reasons))


def _rtx_target(lib: TensorRt, settings: EngineSettings) -> Target:
    gpu, cuda = None, None
    if driver_installed():
        # With a driver that finds no GPU, TensorRT-RTX builds all the same.
        with contextlib.suppress(BackendError):
            gpu, cuda = gpu_of("auto"), driver().cuda
    sms = tuple(sorted(settings.sms)) or tuple(sm for sm in lib.known_sms() if sm >= AMPERE)
    return Target(
        lib=lib,
        gpu=gpu,
        sms=sms,
        later_sms=not settings.sms,
        cuda=cuda,
        l4t=l4t() if cuda else None,
    )


def require_options(lib: TensorRt, settings: EngineSettings) -> None:
    """Refuse options that a library does not have, or has and does not heed.

    Raises:
        BackendError: Names the library, the option and the reason.
    """
    known = lib.known_sms() if lib.can.targets else ()
    unknown = [sm for sm in settings.sms if sm not in known]
    if unknown and known:
        raise BackendError(
            f"{lib.name} cannot build for SM {_listed(unknown)}. Choose from: {_listed(known)}"
        )
    if unknown:
        raise BackendError(
            f"{lib.name} builds for the GPU of this machine alone, so --sm cannot be honoured. "
            "Build there, or for several GPUs with: --flavour rtx"
        )
    is_rtx = lib.flavour == "rtx"
    rows: tuple[tuple[bool, bool, str, str], ...] = (
        (
            settings.version_compatible,
            lib.can.version_compatible,
            "--version-compatible",
            "its plans are tied to its version" if is_rtx else "it came with TensorRT 8.6",
        ),
        (
            settings.hardware_compatible,
            lib.can.hardware_compatible,
            "--hardware-compatible",
            "name the GPUs with --sm instead" if is_rtx else "it came with TensorRT 8.6",
        ),
        (
            settings.level is not None,
            lib.can.levels,
            "--opt-level",
            "it compiles its kernels on the GPU that runs them" if is_rtx else "it has no levels",
        ),
        (
            settings.timing_cache is not None,
            lib.can.timing_cache,
            "--timing-cache",
            "it times no kernels while it builds" if is_rtx else "it has no such cache",
        ),
        (
            settings.dla is not None,
            lib.can.dla,
            "--dla",
            "it runs on GPUs only" if is_rtx else "this version drives no accelerator",
        ),
    )
    for asked, able, option, reason in rows:
        if asked and not able:
            raise BackendError(
                f"{lib.name} cannot honour {option}: {reason}. Leave it out"
                + (", or build with: --flavour tensorrt" if is_rtx else ".")
            )


_MOST_ELEMENTS = (1 << 31) - 1
"""Of a tensor. With more, TensorRT-RTX 1.7.1 does not only refuse: it may end the process."""


def require_graph(facts: GraphFacts, settings: EngineSettings) -> None:
    """Refuse a graph that cannot become what is asked for.

    Raises:
        ExportError: It has other free dimensions than the batch, a fixed batch other than the one
            asked for, layers that the DLA does not run, or operators that TensorRT does not take.
    """
    problems = graph_problems(facts, settings)
    if problems:
        raise ExportError(f"{facts.file.name}: {problems[0]}")


def graph_problems(facts: GraphFacts, settings: EngineSettings) -> list[str]:
    """Return what is wrong with a graph for TensorRT, a line each; what `--dry-run` shows."""
    found_here: list[str] = []
    for one in facts.inputs:
        free = [f"{name!r} (number {i})" for i, name in enumerate(one.shape) if _free(i, name)]
        if free:
            found_here.append(
                f"the input {one.name} leaves {', '.join(free)} open, and an engine of ours fixes "
                "everything but the batch. Export the bundle again with vad-export onnx."
            )
        size = math.prod(int(n) for n in one.shape[1:]) if not free else 0
        if size * max(settings.batches) >= _MOST_ELEMENTS:
            found_here.append(
                f"a batch of {max(settings.batches)} would make the input {one.name} larger than "
                f"TensorRT's 2^31 elements. Build with --batch {_MOST_ELEMENTS // size} at most."
            )
    fixed = facts.inputs[0].shape[0] if facts.inputs and not facts.free_batch else None
    if fixed is not None and settings.batches != (fixed,):
        found_here.append(
            f"the graph is for a batch of {fixed} only. Build with --batch {fixed}, or export the "
            "bundle again with vad-export onnx."
        )
    if settings.dla is not None and (node := facts.three_dimensional) is not None:
        found_here.append(
            f"the DLA runs 2-D layers only, and {node.name} ({node.operator}) is 3-D. "
            "Leave out --dla."
        )
    found_here += [
        f"TensorRT takes no Transpose of uint8 ({node.name}). Export the bundle again with "
        "vad-export onnx, which casts first."
        for node in facts.uint8_transposes
    ]
    return found_here


def _free(place: int, dimension: int | str) -> bool:
    return place > 0 and isinstance(dimension, str)


def require_room(folder: Path, graph_bytes: int, free_bytes: Callable[[Path], int]) -> None:
    """Refuse a build whose plan would not fit on the disk, before it takes minutes.

    A plan is about as large as its graph; INT8 kernels and several targets can take twice that.

    Raises:
        ExportError: Less is free than that.
    """
    need = 2 * graph_bytes + (16 << 20)
    have = free_bytes(folder)
    if have < need:
        raise ExportError(
            f"{folder} has {have / 1e6:.0f} MB free, and the engine may take {need / 1e6:.0f} MB. "
            "Free some space, or choose another folder with -o."
        )


def free_disk_bytes(folder: Path) -> int:
    """Return what this user may still write to the disk of a folder, bytes."""
    about = os.statvfs(folder)
    return about.f_bavail * about.f_frsize


def _listed(numbers: tuple[int, ...] | list[int]) -> str:
    return ", ".join(map(str, numbers))
