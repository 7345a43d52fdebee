"""The NVIDIA driver, asked with ctypes alone: is there one, how new is it, which GPUs does it find?

Ask here before anything of TensorRT is made. Without a driver its lean and dispatch runtimes hand
back an object that looks alive and crashes the process at the next call.
"""

import ctypes
import itertools
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vad_runtime.contracts.errors import BackendError, NoDriverError

_LIBRARY = "libcuda.so.1"
_KERNEL_FILE = Path("/proc/driver/nvidia/version")
_L4T_FILE = Path("/etc/nv_tegra_release")
_MEMORY_FILE = Path("/proc/meminfo")

# CUdevice_attribute, from cuda.h.
_INTEGRATED = 18
_SM_MAJOR = 75
_SM_MINOR = 76

_NO_DEVICE = 100
_CPU_INSTEAD = "to run on the processor, use --backend openvino --device cpu"

_CAUSES = {
    34: "libcuda.so.1 is the toolkit's stub and no driver; take its folder out of LD_LIBRARY_PATH",
    46: "another program holds the GPU alone; end that program (`nvidia-smi` lists it)",
    101: "CUDA_VISIBLE_DEVICES names a GPU that is not there; correct it",
    802: "the driver is still starting; try again in a minute, or start nvidia-fabricmanager",
    803: "kernel module and libcuda are of different versions; restart the machine",
    804: "the CUDA compatibility package does not support this GPU; remove it or update the driver",
}
"""What the user can do about a CUresult of cuInit. Numbers and meanings from cuda.h."""
_UNKNOWN_CAUSE = (
    "check `nvidia-smi`, and that this user may open /dev/nvidia* (on a Jetson: group video)"
)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU as the driver counts it."""

    index: int
    name: str
    sm: int
    """Compute capability as one number: 87 is 8.7."""
    memory_bytes: int
    """All of its memory; on an integrated GPU that is the machine's."""
    integrated: bool
    """It shares the machine's memory, as on a Jetson."""
    uuid: str
    """As `nvidia-smi -L` writes it: `GPU-xxxxxxxx-xxxx-…`."""


@dataclass(frozen=True, kw_only=True)
class Driver:
    """What the driver says about itself."""

    cuda: str
    """Newest CUDA version that it knows: `13.0`."""
    kernel: str | None
    """Version of its kernel module: `580.65.06`; None where the kernel does not tell."""
    gpus: tuple[Gpu, ...]
    """At least one."""


_lock = threading.Lock()
_library: ctypes.CDLL | None = None
_driver: Driver | None = None


def driver_installed() -> bool:
    """Return whether libcuda.so.1 can be loaded. Initialises nothing, so it is quick."""
    try:
        library()
    except NoDriverError:
        return False
    return True


def driver() -> Driver:
    """Initialise CUDA and return what the driver says; a success is remembered.

    Raises:
        NoDriverError: No driver, one that does not start, or no GPU, with what to do about it.
    """
    global _driver
    with _lock:
        if _driver is None:
            _driver = _asked()
        return _driver


def gpu_of(device: str) -> Gpu:
    """Return the GPU that `--device` means.

    Args:
        device: `cuda:N`; `cuda` and `auto` are the first one.

    Raises:
        BackendError: `cpu`, no such form, or no GPU of that number.
        NoDriverError: As `driver`.
    """
    match = re.fullmatch(r"auto|cuda(?::(\d{1,4}))?", device)
    if match is None:
        raise BackendError(f"`{device}` is no GPU. Use --device cuda or --device cuda:N.")
    gpus = driver().gpus
    index = int(match[1] or 0)
    if index >= len(gpus):
        known = ", ".join(f"cuda:{gpu.index} ({gpu.name})" for gpu in gpus)
        raise BackendError(f"There is no GPU cuda:{index} here. Use one of: {known}.")
    return gpus[index]


def free_memory(gpu: Gpu) -> tuple[int, int]:
    """Return free and total bytes that a program can get on this GPU.

    On an integrated GPU that is what Linux could give (MemAvailable): the driver's own number
    leaves out the pages that Linux would free. Otherwise the driver is asked, in a context that is
    made for it where this process has none.

    Raises:
        BackendError: The driver did not tell.
    """
    if gpu.integrated:
        known = host_memory()
        if known is not None:
            return known
    cuda = library()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    with _context(cuda, gpu.index):
        check("cuMemGetInfo", cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
    return free.value, total.value


def host_memory() -> tuple[int, int] | None:
    """Return what Linux could give to a program (MemAvailable) and all memory, in bytes.

    None where Linux does not tell.
    """
    found = dict(re.findall(r"^(MemAvailable|MemTotal):\s+(\d+) kB", _text(_MEMORY_FILE), re.M))
    if len(found) != 2:
        return None
    return int(found["MemAvailable"]) * 1024, int(found["MemTotal"]) * 1024


def l4t() -> str | None:
    """Return the version of Jetson Linux, `36.4.0`, or None where this is no Jetson."""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _text(_L4T_FILE))
    return f"{match[1]}.{match[2]}" if match else None


def check(call: str, result: int) -> None:
    """Raise unless a call of the driver succeeded.

    Raises:
        BackendError: Names the call and CUDA's error.
    """
    if result != 0:
        raise BackendError(f"{call} failed: {error_text(result)}. Check `nvidia-smi`.")


def error_text(result: int) -> str:
    """Return `CUDA_ERROR_NO_DEVICE (100, no CUDA-capable device is detected)` for a CUresult."""
    cuda = library()
    texts = []
    for call in ("cuGetErrorName", "cuGetErrorString"):
        text = ctypes.c_char_p()
        function = getattr(cuda, call, None)
        if function is None or function(result, ctypes.byref(text)) != 0 or not text.value:
            return f"CUDA error {result}"
        texts.append(text.value.decode(errors="replace"))
    return f"{texts[0]} ({result}, {texts[1]})"


def library() -> ctypes.CDLL:
    """Return libcuda.so.1, loaded.

    Raises:
        NoDriverError: It cannot be loaded.
    """
    global _library
    if _library is None:
        try:
            _library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise NoDriverError(
                f"No NVIDIA driver here ({error}). Install it (a container needs `--gpus all`)",
                _CPU_INSTEAD,
            ) from None
    return _library


# -- the probe ---------------------------------------------------------------------------------


def _asked() -> Driver:
    cuda = library()
    try:
        result = cuda.cuInit(0)
        if result not in (0, _NO_DEVICE):
            cause = _CAUSES.get(result, _UNKNOWN_CAUSE)
            raise NoDriverError(
                f"The NVIDIA driver does not start: {error_text(result)}: {cause}", _CPU_INSTEAD
            )
        count = 0 if result == _NO_DEVICE else _number(cuda, "cuDeviceGetCount")
        if count == 0:
            raise NoDriverError(_no_gpu_text(), _CPU_INSTEAD)
        version = _number(cuda, "cuDriverGetVersion")
        gpus = tuple(_gpu(cuda, index) for index in range(count))
    except AttributeError as error:
        raise NoDriverError(
            f"{_LIBRARY} is no NVIDIA driver, or one that is too old ({error}). Update the driver",
            _CPU_INSTEAD,
        ) from None
    except NoDriverError:
        raise
    except BackendError as error:
        raise NoDriverError(f"The NVIDIA driver does not answer: {error}") from None
    return Driver(cuda=f"{version // 1000}.{version % 1000 // 10}", kernel=_kernel(), gpus=gpus)


def _no_gpu_text() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return (
            f"The NVIDIA driver shows no GPU because of CUDA_VISIBLE_DEVICES={visible!r}. Unset it"
        )
    return "The NVIDIA driver finds no GPU. Check `nvidia-smi` (a container needs `--gpus all`)"


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device = _number(cuda, "cuDeviceGet", index)
    name = ctypes.create_string_buffer(256)
    check("cuDeviceGetName", cuda.cuDeviceGetName(name, len(name), device))
    memory = ctypes.c_size_t()
    check("cuDeviceTotalMem", cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
    uuid = (ctypes.c_uint8 * 16)()
    # _v2 tells the slices of one divided GPU apart; CUDA 13 has no other.
    ask: Any = getattr(cuda, "cuDeviceGetUuid_v2", None) or cuda.cuDeviceGetUuid
    check("cuDeviceGetUuid", ask(ctypes.byref(uuid), device))
    major = _number(cuda, "cuDeviceGetAttribute", _SM_MAJOR, device)
    minor = _number(cuda, "cuDeviceGetAttribute", _SM_MINOR, device)
    return Gpu(
        index=index,
        name=name.value.decode(errors="replace"),
        sm=10 * major + minor,
        memory_bytes=memory.value,
        integrated=bool(_number(cuda, "cuDeviceGetAttribute", _INTEGRATED, device)),
        uuid=_uuid_text(bytes(uuid)),
    )


def _number(cuda: ctypes.CDLL, call: str, *arguments: int) -> int:
    """Call a function whose first parameter is where it writes an int."""
    value = ctypes.c_int()
    check(call, cuda[call](ctypes.byref(value), *arguments))
    return value.value


@contextmanager
def _context(cuda: ctypes.CDLL, index: int) -> Iterator[None]:
    """Make a GPU's primary context current, and after that what was current before."""
    device = _number(cuda, "cuDeviceGet", index)
    context = ctypes.c_void_p()
    retained = cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    check("cuDevicePrimaryCtxRetain", retained)
    try:
        check("cuCtxPushCurrent", cuda.cuCtxPushCurrent_v2(context))
        try:
            yield
        finally:
            cuda.cuCtxPopCurrent_v2(ctypes.byref(context))
    finally:
        cuda.cuDevicePrimaryCtxRelease_v2(device)


def _uuid_text(raw: bytes) -> str:
    digits = raw.hex()
    cuts = (0, 8, 12, 16, 20, 32)
    return "GPU-" + "-".join(digits[a:b] for a, b in itertools.pairwise(cuts))


# -- what Linux says ---------------------------------------------------------------------------


def _kernel() -> str | None:
    match = re.search(r"Kernel Module(?: for \S+)?\s+(\d[\d.]*)", _text(_KERNEL_FILE))
    return match[1] if match else None


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
