"""What the runtime needs of CUDA, whichever Python binding gives it."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


class Graph(Protocol):
    """Work that was recorded on a stream once and is launched as one piece."""

    def launch(self, stream: int) -> None:
        """Enqueue it all on a stream.

        Raises:
            BackendError: CUDA refused.
        """

    def close(self) -> None:
        """Free it. A second call does nothing."""


class Cuda(Protocol):
    """One GPU. Addresses and streams are plain integers, as TensorRT takes them.

    Every call makes the context current on the calling thread first, so a back end may be opened on
    one thread and used on another (by one at a time). Every failure is a `BackendError` that names
    the call and CUDA's error.
    """

    @property
    def name(self) -> str:
        """Binding and version, for people: `cuda-bindings 13.5.0`."""

    @property
    def no_capture(self) -> str | None:
        """Why the last `capture` gave no graph; None if it did, or if there was none."""

    def activate(self) -> None:
        """Make the GPU's context current on this thread.

        Every other call does so itself. This one is for work that other libraries do: TensorRT
        takes whatever is current.

        Raises:
            BackendError: CUDA refused, or this object is closed.
        """

    def allocate(self, nbytes: int) -> int:
        """Return the address of `nbytes` bytes on the device; freed by `free` or `close`."""

    def free(self, address: int) -> None:
        """Free what `allocate` gave."""

    def pinned(self, nbytes: int) -> Bytes:
        """Return page-locked host memory, shape (nbytes,), uint8.

        The `Cuda` object owns it: it must not be touched after `close`.
        """

    def stream(self) -> int:
        """Return a new stream that is not the default one; destroyed by `close`."""

    def copy_in(self, address: int, host: npt.NDArray[Any], stream: int) -> None:
        """Enqueue a copy of a C-contiguous array to the device.

        It must stay as it is until the copy is done.
        """

    def copy_out(self, host: npt.NDArray[Any], address: int, stream: int) -> None:
        """Enqueue a copy from the device into a C-contiguous, writable array."""

    def copy_within(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Enqueue a copy from one place on the device to another."""

    def synchronise(self, stream: int) -> None:
        """Wait until everything on the stream is done, and raise what failed."""

    def capture(self, stream: int, enqueue: Callable[[], None]) -> Graph | None:
        """Record what `enqueue` puts on the stream, without running it.

        The capture is ended in every case; an exception of `enqueue` goes on to the caller.

        Returns:
            The graph, or None where this binding or driver cannot capture what was enqueued.
        """

    def free_memory(self) -> tuple[int, int]:
        """Return free and total bytes of the device."""

    def close(self) -> None:
        """Free everything that this object gave out. A second call does nothing."""
