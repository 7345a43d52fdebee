"""Let freed memory stay in the process, so that large tensors stop costing page faults.

A training step of the STAE makes tensors of 134 MB and frees them again. glibc asks the kernel for
each such block (`mmap`) and gives it back at once, so every step pays hundreds of thousands of page
faults, in which the kernel clears the pages: about a third of the plain step's time.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD = -1  # the parameters of mallopt(3), from glibc's malloc.h
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next allocation of this process.

    The effect lasts until the process ends and holds for all its threads: memory once used does not
    return to the system. Call it in a process that trains on a CPU, before the first step, not in a
    long-living service. The results of a computation do not change.

    Returns:
        True if the setting was made, False where the C library is another one (macOS, Windows,
        musl); everything works there too, only slower.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    # Both are needed: without mmap all blocks come from the heap, whose top is then never trimmed.
    return bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, _NEVER))


__all__ = ["keep_freed_memory"]
