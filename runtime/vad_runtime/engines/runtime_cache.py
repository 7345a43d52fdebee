"""The kernels that TensorRT-RTX has compiled on this GPU, kept on disk from one start to the next.

A TensorRT-RTX plan holds no kernels for a certain GPU: they are compiled when the plan is loaded.
The library gives them out as bytes, which are of use only to the same plan, GPU and driver.

::

    KEY.lock     held while one process loads and compiles; others wait and then find the result
    KEY.cache    sha256 of what follows (32 bytes), what the library gave
"""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from vad_runtime.contracts.errors import InputError
from vad_runtime.files import cache_folder, whole_file

_DIGEST_BYTES = 32
_KEPT = 32  # files; each is a few MB
_STEP_S = 0.1


class RuntimeCache:
    """The cached bytes of one plan on one GPU. Made by `runtime_cache`.

    Attributes:
        data: What the file held, or None where there is none or it is damaged.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.data = _read(file)

    def keep(self, data: bytes | None) -> None:
        """Write what the library has now, if that is anything new.

        A folder that cannot be written costs time at the next start and is no error.
        """
        if not data or data == self.data:
            return
        with contextlib.suppress(InputError), whole_file(self._file) as temporary:
            temporary.write_bytes(hashlib.sha256(data).digest() + data)
        self.data = data
        _forget_old(self._file.parent)


@contextlib.contextmanager
def runtime_cache(*facts: str, wait_s: float = 300.0) -> Iterator[RuntimeCache]:
    """Open the cache that belongs to these facts, alone among the processes of this machine.

    Args:
        *facts: All that the bytes depend on: the plan's sha256, the GPU, the driver, the library.
        wait_s: How long to wait for another process that compiles the same, seconds. After that
            both compile, and the last one's result is kept.

    Yields:
        The cache; `keep` belongs inside the block.
    """
    key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]
    file = cache_folder("rtx") / f"{key}.cache"
    with _locked(file.with_suffix(".lock"), wait_s):
        yield RuntimeCache(file)


@contextlib.contextmanager
def _locked(file: Path, wait_s: float) -> Iterator[None]:
    try:
        # The cached bytes are run on the GPU: nobody else may put any there.
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:  # no place for a cache
        yield
        return
    try:
        end_s = time.monotonic() + wait_s
        while not _has_taken(handle) and time.monotonic() < end_s:
            time.sleep(_STEP_S)
        yield
    finally:
        os.close(handle)  # which gives the lock back


def _has_taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have no locks
        return True
    return True


def _read(file: Path) -> bytes | None:
    try:
        whole = file.read_bytes()
    except OSError:
        return None
    digest, data = whole[:_DIGEST_BYTES], whole[_DIGEST_BYTES:]
    return data if data and hashlib.sha256(data).digest() == digest else None


def _forget_old(folder: Path) -> None:
    """Remove the caches that were written longest ago; plans are built again and again."""
    with contextlib.suppress(OSError):
        files = sorted(folder.glob("*.cache"), key=lambda file: file.stat().st_mtime)
        for file in files[:-_KEPT]:
            file.unlink(missing_ok=True)
            file.with_suffix(".lock").unlink(missing_ok=True)
