"""What this machine can run bundles with, and why not with the rest."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from vad_runtime.backends import backend_names, open_backend
from vad_runtime.backends.base import Options
from vad_runtime.backends.registry import refusal, runs_on_gpu
from vad_runtime.bundle import Bundle
from vad_runtime.contracts.errors import BackendError, VadError
from vad_runtime.cuda.driver import driver, free_memory, host_memory
from vad_runtime.engines import fit
from vad_runtime.engines.adapter_base import TITLES
from vad_runtime.engines.plan_file import ENGINE_FOLDER, read_sidecar
from vad_runtime.machine import library_versions, machine_facts
from vad_runtime.native import native_module
from vad_runtime.sources.portable import path_taken

_GIB = 1 << 30
_NOT_A_MODEL = "fake"  # measures motion; that it runs says nothing about bundles
_LABEL = 10  # columns of "back ends"
_SEE_DRIVER = "no GPU: see above"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether one thing can be used."""

    name: str
    ok: bool
    detail: str
    """Its version, or what is known about it; where it cannot be used, why, and the next step."""


class GpuFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU that the driver finds."""

    device: str
    """As `--device` takes it: `cuda:0`."""
    name: str
    sm: int
    uuid: str
    integrated: bool
    """It shares the machine's memory."""
    memory_bytes: int
    free_bytes: int | None
    """None = the driver did not tell."""


class BundleFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle, seen from this machine."""

    path: str
    artefacts: list[Verdict]
    engines: list[Verdict]
    """TensorRT plans in its folder `engines`, and whether each fits here."""
    auto: Verdict
    """What `vad-run --backend auto` takes."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of it; `vad-run doctor --json` prints it with these keys."""

    machine: dict[str, Any]
    memory_bytes: int | None
    free_memory_bytes: int | None
    driver: str | None
    """Version of the driver's kernel module."""
    cuda: str | None
    """Newest CUDA version that the driver knows."""
    no_gpu: str
    """Why there is no GPU to use; empty where there is one."""
    l4t: str | None
    gpus: list[GpuFacts]
    tensorrt: list[Verdict]
    """The four TensorRT libraries."""
    packages: dict[str, str]
    """Versions of installed packages."""
    native: bool
    """The compiled module of vad-edge is there, and wanted."""
    portable_resizer: str
    """What computes it: `native avx512`, or `numpy` and why."""
    backends: list[Verdict]
    bundle: BundleFacts | None

    @property
    def can_run(self) -> bool:
        """Whether any back end can run a bundle."""
        return any(found.ok for found in self.backends)


def examine(bundle: Bundle | None = None, device: str = "auto") -> Report:
    """Look at this machine, and at a bundle from here.

    Libraries are imported and the driver is asked. With a bundle, its graph is loaded as `vad-run`
    would, and freed again.

    Args:
        bundle: An opened bundle, or None.
        device: As `--device` of `vad-run`: `cpu` and `cuda` ask only the back ends that compute
            there.
    """
    machine = fit.this_machine("auto" if device == "cpu" else device)
    free, total = host_memory() or (None, None)
    return Report(
        machine=dict(machine_facts()),
        memory_bytes=total,
        free_memory_bytes=free,
        driver=machine.kernel,
        cuda=machine.cuda,
        no_gpu=machine.no_gpu,
        l4t=machine.l4t,
        gpus=list(_gpus()),
        tensorrt=[
            *(
                Verdict(name=TITLES[flavour], ok=True, detail=version)
                for flavour, version in machine.libraries.items()
            ),
            *(
                Verdict(name=TITLES[flavour], ok=False, detail=reason)
                for flavour, reason in machine.missing.items()
            ),
        ],
        packages=library_versions(),
        native=native_module() is not None,
        portable_resizer=path_taken(),
        backends=[_backend(name, device) for name in _asked(device)],
        bundle=None if bundle is None else _bundle_facts(bundle, machine, device),
    )


def _gpus() -> Iterator[GpuFacts]:
    try:
        found = driver().gpus
    except BackendError:
        return  # the reason stands in Machine.no_gpu
    for gpu in found:
        free: int | None = None
        with contextlib.suppress(BackendError):
            free, _ = free_memory(gpu)
        facts = asdict(gpu)
        yield GpuFacts(device=f"cuda:{facts.pop('index')}", free_bytes=free, **facts)


def _asked(device: str) -> list[str]:
    """Return the back ends that compute on a device; `auto` = all of them."""
    names = [name for name in backend_names() if name != _NOT_A_MODEL]
    if device == "auto":
        return names
    return [name for name in names if runs_on_gpu(name) == (device != "cpu")]


def _backend(name: str, device: str) -> Verdict:
    reason = refusal(name, device)
    return Verdict(name=name, ok=reason is None, detail=reason or "")


def _bundle_facts(bundle: Bundle, machine: fit.Machine, device: str) -> BundleFacts:
    return BundleFacts(
        path=str(bundle.path),
        artefacts=[
            Verdict(name=entry.file, ok=True, detail=f"{short}, {entry.bytes / 1e6:.1f} MB")
            for short, entry in bundle.manifest.artefacts.items()
        ],
        engines=[
            _engine(bundle, plan, machine) for plan in fit.engines_of(bundle.path / ENGINE_FOLDER)
        ],
        auto=_auto(bundle, device),
    )


def _engine(bundle: Bundle, plan: Path, machine: fit.Machine) -> Verdict:
    try:
        sidecar = read_sidecar(plan, build=fit.rebuild_command(bundle.path, None, None, machine))
        rebuild = fit.rebuild_command(bundle.path, sidecar, None, machine)
        source = bundle.manifest.artefact_of(sidecar.precision)
        if source is None:
            raise BackendError(
                f"it was built from a {sidecar.precision} graph, which {bundle.name} has no more. "
                "Delete it."
            )
        found = fit.require_fit(plan, machine, source_sha256=source[1].sha256, rebuild=rebuild)
    except BackendError as error:
        return Verdict(name=plan.name, ok=False, detail=str(error).removeprefix(f"{plan} "))
    library = TITLES[found.flavour]
    so_far = "" if machine.gpu else ", as far as can be told without a GPU"
    return Verdict(name=plan.name, ok=True, detail=f"fits ({library}){so_far}")


def _auto(bundle: Bundle, device: str) -> Verdict:
    try:
        choice = open_backend(bundle, "auto", Options(device=device))
    except VadError as error:
        return Verdict(name="auto", ok=False, detail=str(error))
    choice.backend.close()
    return Verdict(name="auto", ok=True, detail=choice.line)


# -- for people --------------------------------------------------------------------------------


def lines_of(report: Report) -> list[str]:
    """Return the report as aligned lines for people."""
    rows = [*_machine_rows(report), *_gpu_rows(report)]
    rows += _verdict_rows("TensorRT", report.tensorrt)
    packages = ", ".join(f"{name} {version}" for name, version in report.packages.items())
    rows.append(("packages", packages))
    without = "not there: frame rings and the portable resizer use NumPy, with the same result"
    rows.append(("native", "there" if report.native else without))
    rows.append(("resizer", f"portable: {report.portable_resizer}"))
    rows += _verdict_rows("back ends", report.backends, report.no_gpu)
    lines = [f"{label.ljust(_LABEL)} {text}".rstrip() for label, text in rows]
    if report.bundle is not None:
        lines += ["", *_bundle_lines(report.bundle)]
    return lines


def _machine_rows(report: Report) -> Iterator[tuple[str, str]]:
    facts = report.machine
    yield (
        "machine",
        f"{facts['cpu']}, {facts['architecture']}, {facts['usable_threads']} usable threads",
    )
    yield "system", f"{facts['system']}, Python {facts['python']}"
    if report.l4t is not None:
        yield "Jetson", f"Jetson Linux {report.l4t}"
    if report.memory_bytes is not None and report.free_memory_bytes is not None:
        yield "memory", _of(report.free_memory_bytes, report.memory_bytes)


def _gpu_rows(report: Report) -> Iterator[tuple[str, str]]:
    if report.cuda is None:
        yield "driver", report.no_gpu
        return
    yield "driver", f"{report.driver or 'unknown version'}, CUDA up to {report.cuda}"
    for gpu in report.gpus:
        shared = ", shared with the processor" if gpu.integrated else ""
        memory = (
            f"{gpu.memory_bytes / _GIB:.1f} GiB, free: unknown"
            if gpu.free_bytes is None
            else _of(gpu.free_bytes, gpu.memory_bytes)
        )
        yield gpu.device, f"{gpu.name}, SM {gpu.sm}, {memory}{shared}, {gpu.uuid}"
    if report.no_gpu:  # the driver runs, but not the GPU that was asked for
        yield "", report.no_gpu


def _of(free: int, total: int) -> str:
    return f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"


def _verdict_rows(
    label: str, verdicts: Sequence[Verdict], no_gpu: str = ""
) -> Iterator[tuple[str, str]]:
    width = max(len(verdict.name) for verdict in verdicts)
    for verdict in verdicts:
        mark = "yes" if verdict.ok else "no "
        detail = _SEE_DRIVER if verdict.detail == no_gpu != "" else verdict.detail
        yield label, f"{mark} {verdict.name.ljust(width)}  {detail}".rstrip()
        label = ""


def _bundle_lines(bundle: BundleFacts) -> Iterator[str]:
    yield bundle.path
    for artefact in bundle.artefacts:
        yield f"  graph   {artefact.name}: {artefact.detail}"
    for engine in bundle.engines:
        yield f"  engine  {engine.name}: {engine.detail}"
    if not bundle.engines:
        yield f"  engine  none; with a GPU, build one with: vad-export build-engine {bundle.path}"
    yield f"  auto    {bundle.auto.detail}"
