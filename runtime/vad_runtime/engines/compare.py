"""What this machine has to run plans with, and in what a plan does not go with it."""

import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vad_runtime.contracts import BackendError, EngineSidecar
from vad_runtime.engines.adapter_base import TITLES, Flavour
from vad_runtime.engines.plan_file import PlanHeader

if TYPE_CHECKING:
    from vad_runtime.cuda.driver import Gpu

AMPERE = 80
"""The first compute capability of a hardware-compatible plan, and of TensorRT-RTX unasked."""

_ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What this machine has to run plans with."""

    gpu: "Gpu | None"
    no_gpu: str = ""
    """Why there is no GPU; empty where there is one."""
    cuda: str | None = None
    """Newest CUDA version that the driver knows: `12.6`."""
    kernel: str | None = None
    """Version of the driver's kernel module: `580.65.06`."""
    l4t: str | None = None
    """Jetson Linux: `36.4.0`; None = no Jetson."""
    architecture: str
    """Of the processor: `x86_64`, `aarch64`."""
    libraries: dict[Flavour, str] = field(default_factory=dict)
    """The libraries that load, with their versions."""
    missing: dict[Flavour, str] = field(default_factory=dict)
    """The others, with the reason in one line."""


def this_machine(device: str = "auto") -> Machine:
    """Look at this machine. The libraries are imported, but no `Runtime` is made.

    Args:
        device: `auto`, `cuda` or `cuda:1`: which GPU shall run the plan.
    """
    from vad_runtime.cuda.driver import driver, gpu_of, l4t
    from vad_runtime.engines.adapter import installed

    gpu, no_gpu, cuda, kernel = None, "", None, None
    try:
        found = driver()
        cuda, kernel = found.cuda, found.kernel
        gpu = gpu_of(device)
    except BackendError as error:
        no_gpu = str(error)
    libraries: dict[Flavour, str] = {}
    missing: dict[Flavour, str] = {}
    for flavour, library in installed().items():
        if isinstance(library, str):
            missing[flavour] = library
        else:
            libraries[flavour] = library.version
    return Machine(
        gpu=gpu,
        no_gpu=no_gpu,
        cuda=cuda,
        kernel=kernel,
        l4t=l4t(),
        architecture=platform.machine(),
        libraries=libraries,
        missing=missing,
    )


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing in which a plan and this machine do not go together."""

    field: str
    """library, version, SM, architecture, CUDA or L4T; `… in the header`: it contradicts the
    sidecar."""
    plan: str
    here: str

    def __str__(self) -> str:
        return f"{self.field}: the plan {self.plan}, {self.here}"


def differences(sidecar: EngineSidecar, machine: Machine) -> list[Difference]:
    """Return in what a plan does not fit a machine; empty = it fits.

    What cannot be known is no difference: without a GPU its compute capability is not compared,
    without a driver its CUDA version is not.

    Args:
        sidecar: Of the plan.
        machine: Where it shall run.
    """
    found = _library(sidecar, machine) + _sm(sidecar, machine)
    here = _architecture(machine.architecture)
    if _architecture(sidecar.architecture) != here:
        found.append(
            Difference(
                field="architecture",
                plan=f"was built for {sidecar.architecture}",
                here=f"here is {machine.architecture}",
            )
        )
    return found + _platform(sidecar, machine)


def contradictions(sidecar: EngineSidecar, header: PlanHeader) -> list[Difference]:
    """Return what a plan's header says otherwise than its sidecar."""
    pairs: list[tuple[str, str, str]] = [("family", header.family, sidecar.family)]
    if not same_version(header.version, sidecar.version):
        pairs.append(("version", header.version, sidecar.version))
    if header.sms is not None:
        pairs.append(("SM", _sms(header.sms, header.later_sms), _sms_of(sidecar)))
    if header.size is not None:
        pairs.append(("size", str(header.offset + header.size), str(sidecar.bytes)))
    return [
        Difference(field=f"{name} in the header", plan=f"has {one}", here=f"its sidecar {other}")
        for name, one, other in pairs
        if one != other
    ]


def same_version(one: str, other: str) -> bool:
    """Compare two versions as far as both go: a Jetson's `10.3.0` is a wheel's `10.3.0.26`."""
    first, second = _numbers(one), _numbers(other)
    length = min(len(first), len(second))
    return bool(length) and first[:length] == second[:length]


def flavour_for(sidecar: EngineSidecar, machine: Machine) -> Flavour | None:
    """Return the library here that can load a plan, the most able first; None = none of them."""
    if sidecar.family == "rtx":
        return "rtx" if _loads(sidecar, machine.libraries.get("rtx")) else None
    if _loads(sidecar, machine.libraries.get("tensorrt")):
        return "tensorrt"
    if not sidecar.version_compatible:
        return None
    if _loads(sidecar, machine.libraries.get("lean")):
        return "lean"
    # The dispatch runtime has no kernels of its own: it runs the lean runtime inside the plan.
    dispatches = sidecar.host_code and _loads(sidecar, machine.libraries.get("dispatch"))
    return "dispatch" if dispatches else None


def _loads(sidecar: EngineSidecar, version: str | None) -> bool:
    if version is None:
        return False
    if same_version(sidecar.version, version):
        return True
    # What makes later versions load it is the lean runtime inside the plan. Without it the plan
    # wants the lean runtime of its own version (NvInferRuntime.h, `IRuntime::loadRuntime`).
    if not (sidecar.version_compatible and sidecar.host_code):
        return False
    built, here = _numbers(sidecar.version), _numbers(version)
    return bool(built and here) and built[0] == here[0] and here >= built


def _library(sidecar: EngineSidecar, machine: Machine) -> list[Difference]:
    if flavour_for(sidecar, machine) is not None:
        return []
    name: Flavour = "rtx" if sidecar.family == "rtx" else "tensorrt"
    candidates: list[Flavour] = [name]
    if sidecar.version_compatible and name == "tensorrt":
        candidates += ["lean", "dispatch"] if sidecar.host_code else ["lean"]
    here = [(each, machine.libraries[each]) for each in candidates if each in machine.libraries]
    if here:
        suits = " or later" if sidecar.version_compatible and sidecar.host_code else ""
        return [
            Difference(
                field="version",
                plan=f"needs {TITLES[name]} {sidecar.version}{suits}",
                here="here is " + ", ".join(f"{TITLES[each]} {version}" for each, version in here),
            )
        ]
    others = ", ".join(f"{TITLES[each]} {v}" for each, v in machine.libraries.items())
    return [
        Difference(
            field="library",
            plan=f"needs {TITLES[name]} {sidecar.version}",
            here=f"here is only {others}" if others else "here is no TensorRT",
        )
    ]


def _sm(sidecar: EngineSidecar, machine: Machine) -> list[Difference]:
    if machine.gpu is None:
        return []
    sm = machine.gpu.sm
    fits = sm in sidecar.sms
    # RTX compiles its kernels on the GPU: one that it has no bit for is worth a try.
    fits = fits or ((sidecar.hardware_compatible or sidecar.later_sms) and sm >= AMPERE)
    if fits:
        return []
    return [
        Difference(
            field="SM",
            plan=f"was built for SM {_sms_of(sidecar)}",
            here=f"here is SM {sm} ({machine.gpu.name})",
        )
    ]


def _platform(sidecar: EngineSidecar, machine: Machine) -> list[Difference]:
    """Compare what the driver and a Jetson's system software are, as far as it matters."""
    if sidecar.family == "rtx":
        return []  # nothing of the build machine is in such a plan
    found = []
    built, here = _numbers(sidecar.cuda or ""), _numbers(machine.cuda or "")
    # Within a major version of CUDA, older drivers run what newer ones do.
    if built and here and here[0] < built[0]:
        found.append(
            Difference(
                field="CUDA",
                plan=f"was built with a driver for CUDA {sidecar.cuda}",
                here=f"the driver here knows up to {machine.cuda}",
            )
        )
    # 36.4.0 and 36.4.3 share their libraries, 36.3 and 36.4 do not.
    if _numbers(sidecar.l4t or "")[:2] != _numbers(machine.l4t or "")[:2]:
        found.append(
            Difference(
                field="L4T",
                plan=f"was built on Jetson Linux {sidecar.l4t}"
                if sidecar.l4t
                else "was not built on a Jetson",
                here=f"here is Jetson Linux {machine.l4t}"
                if machine.l4t
                else "here is no Jetson Linux",
            )
        )
    return found


def notes(sidecar: EngineSidecar, machine: Machine) -> list[str]:
    """Return what does not keep a plan from running here and is worth knowing."""
    found = []
    gpu = machine.gpu
    if gpu is not None and not _sm(sidecar, machine):
        if sidecar.family == "rtx" and gpu.sm not in sidecar.sms:
            found.append(f"SM {gpu.sm} is not among the plan's targets: whether it runs is seen")
        elif sidecar.gpu is not None and sidecar.gpu != gpu.name:
            found.append(f"tuned on {sidecar.gpu}, here is {gpu.name}: building it here may gain")
    if sidecar.host_code:
        found.append("it carries code for the host, which runs only with --host-code")
    return found


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: `10.3.0.post1` -> (10, 3, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match.group().split("."))) if match else ()


def _architecture(name: str) -> str:
    return _ARCHITECTURES.get(name.lower(), name.lower())


def _sms(sms: Sequence[int], later: bool) -> str:
    return ", ".join(map(str, sorted(sms))) + (" and later" if later else "")


def _sms_of(sidecar: EngineSidecar) -> str:
    return _sms(sidecar.sms, sidecar.later_sms)
