"""How much scratch memory a build may take, and what a failed build asks for."""

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vad_runtime.contracts.errors import BackendError
from vad_runtime.cuda.driver import Gpu, free_memory, host_memory

MIB = 1 << 20
LEAST = 64 * MIB
"""Below this, no build is tried again with less."""

_MOST_WITHOUT_GPU = 4 << 30
_FREE_UNKNOWN = 1 << 30  # bytes, where Linux does not tell
_REQUESTED = re.compile(r"[Rr]equested (?:size|amount)[^0-9]{0,20}(\d+)")
_OUT_OF_MEMORY = re.compile(
    r"out ?of ?memory|bad_alloc|could not allocate|unable to allocate|allocation of \d+ bytes",
    re.IGNORECASE,
)
# Kernels are left out that want more than the limit, until none is left.
_LIMIT_TOO_SMALL = re.compile(
    r"within workspace limit|insufficient workspace|needs more scratch"
    r"|could not find any implementation for node",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The memory that a builder may take its workspace from."""

    free_bytes: int
    shared: bool
    """The processor and the GPU share it, as on a Jetson."""
    on_gpu: bool
    """A GPU's, or that of a machine without one."""
    place: str
    """For people: `of the GPU`, `of this machine`."""


def memory_for(gpu: Gpu | None) -> Memory:
    """Return what is free for a build on a GPU, or without one.

    Args:
        gpu: The GPU that kernels are timed on; None = a build of TensorRT-RTX without a GPU.
    """
    if gpu is None:
        free, _ = host_memory() or (_FREE_UNKNOWN, None)
        return Memory(free_bytes=free, shared=False, on_gpu=False, place="of this machine")
    free, _ = free_memory(gpu)
    place = "that processor and GPU share" if gpu.integrated else f"of {gpu.name}"
    return Memory(free_bytes=free, shared=gpu.integrated, on_gpu=True, place=place)


def default_workspace(memory: Memory) -> int:
    """Return the limit for a build that nobody has named one for, in bytes.

    Half of what is free, or a quarter where the GPU has no memory of its own: the weights and the
    rest of the machine need the same memory then. It is the next lower power of two, and at most
    4 GiB for a build without a GPU, since the limit decides which kernels are taken and even stands
    in the plan (seen with TensorRT-RTX 1.7.1): two builds of one graph shall be the same.
    """
    most = memory.free_bytes // (4 if memory.shared else 2)
    if not memory.on_gpu:
        most = min(most, _MOST_WITHOUT_GPU)
    return int(1 << max(most.bit_length() - 1, 20))


def workspace_bytes(asked: int | None, memory: Memory, say: Callable[[str], None]) -> int:
    """Return the limit for a build, in bytes.

    Args:
        asked: Bytes that were asked for; None = `default_workspace`.
        memory: What is free.
        say: Is told where less is given than was asked for.

    Raises:
        BackendError: Nothing is free.
    """
    if memory.free_bytes < MIB:
        raise BackendError(
            f"{memory.free_bytes} bytes {memory.place} are free, which is too little to build an "
            "engine. Stop other programs first; nvidia-smi or tegrastats lists them."
        )
    if asked is None:
        return default_workspace(memory)
    if asked > memory.free_bytes:
        say(
            f"workspace: {asked // MIB} MiB were asked for, but {memory.free_bytes // MIB} MiB "
            f"{memory.place} are free; going on with these"
        )
        return memory.free_bytes
    return asked


def second_workspace(limit: int, lines: list[str], memory: Memory) -> int | None:
    """Return the limit for one more try after a build ran out of memory; None = it is hopeless.

    TensorRT names a size where the limit was too small ("Requested size was N bytes"). It is where
    the pool first ran over, not what the build needs in the end (TensorRT-RTX 1.7.1: always 2 MiB
    more than the limit), so three quarters of what is free are given, as a power of two. Where it
    says only that no kernel fits the limit, the default is tried if that is more. Otherwise the
    machine had less than the limit, and half of it is tried.

    Args:
        limit: Of the build that failed, bytes.
        lines: What TensorRT logged.
        memory: What is free now.
    """
    text = "\n".join(lines)
    wanted = max((int(size) for size in _REQUESTED.findall(text)), default=0)
    if wanted > limit:
        most = 1 << max((memory.free_bytes * 3 // 4).bit_length() - 1, 0)
        return max(wanted, most) if wanted <= memory.free_bytes else None
    too_small = _LIMIT_TOO_SMALL.search(text) is not None
    if too_small and default_workspace(memory) > limit:
        return default_workspace(memory)
    if not too_small and _OUT_OF_MEMORY.search(text) is None:
        return None
    half = min(limit, memory.free_bytes) // 2
    return half if half >= LEAST else None


class PeakMemory:
    """Measures the largest resident memory of this process during a block.

    The counter VmHWM of /proc/self/status is set back at the start (proc(5), clear_refs); where
    that is not allowed, the peak counts from the start of the process.
    """

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    @property
    def peak_bytes(self) -> int | None:
        """Bytes since the start; None where Linux does not say."""
        try:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        except (OSError, ValueError, IndexError):
            pass
        return None
