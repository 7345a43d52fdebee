"""Facts about this machine and the libraries that ran, for reports."""

import importlib.metadata
import os
import platform
from pathlib import Path

from vad_runtime import __version__
from vad_runtime.backends.checks import usable_threads
from vad_runtime.contracts.errors import BackendError
from vad_runtime.cuda.driver import driver, driver_installed, l4t

_LIBRARIES = [
    "vad-edge",
    "numpy",
    "av",
    "opencv-python-headless",
    "opencv-python",
    "openvino",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "tensorrt",
    "tensorrt-rtx",
    "tensorrt-rtx-cu13-bindings",
    "tensorrt-lean-cu13-bindings",
    "tensorrt-dispatch-cu13-bindings",
    "nvidia-cublas",
    "nvidia-cublas-cu12",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "cuda-bindings",
    "pycuda",
]


def cpu_name() -> str:
    """Return the processor's name as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Return the processor's features as Linux names them (`avx512_vnni`); empty where unknown."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def machine_facts() -> dict[str, str | int]:
    """Return processor, architecture, cores, usable threads, system and Python version.

    With an NVIDIA GPU also what `gpu_facts` says.
    """
    return {
        "cpu": cpu_name(),
        "architecture": platform.machine(),
        "cores": os.cpu_count() or 1,
        "usable_threads": usable_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **gpu_facts(),
    }


def gpu_facts() -> dict[str, str]:
    """Return the GPUs, the driver, the newest CUDA that it knows and Jetson Linux.

    Empty without an NVIDIA driver, and without a GPU that it finds.
    """
    if not driver_installed():
        return {}
    try:
        found = driver()
    except BackendError:
        return {}
    names = dict.fromkeys(f"{gpu.name} (SM {gpu.sm})" for gpu in found.gpus)
    facts = {"gpu": ", ".join(names), "driver": found.kernel, "cuda": found.cuda, "l4t": l4t()}
    return {key: value for key, value in facts.items() if value is not None}


def library_versions() -> dict[str, str]:
    """Return the versions of the installed libraries that touch a score."""
    found = {"vad-edge": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
