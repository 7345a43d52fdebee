"""CUDA by `pycuda`, for programs that already live in a context of pycuda's.

Where the calling thread has a pycuda context on the GPU, that one is used. Otherwise it is the
GPU's primary context; `pycuda.autoinit`, which would make a context of its own, is never imported.

pycuda (2026.1) has no graphs, so these calls go to the driver directly: streams are the same there.
"""

import contextlib
import ctypes
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts.errors import BackendError
from vad_runtime.cuda.base import Bytes, Graph
from vad_runtime.cuda.capture import Recorded, recorded
from vad_runtime.cuda.driver import Gpu, check, error_text, free_memory, library

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


class PyCuda:
    """One GPU; see `vad_runtime.cuda.base.Cuda`.

    Raises:
        ImportError: pycuda is not installed or does not load.
        BackendError: CUDA refused to make a context.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._pycuda: Any = importlib.import_module("pycuda.driver")
        version = getattr(importlib.import_module("pycuda"), "VERSION_TEXT", "")
        self.name = f"pycuda {version}".strip()
        self.no_capture: str | None = None
        self._gpu = gpu
        self._driver = library()
        self._calls = _Calls(self._driver)
        self._memory: dict[int, Any] = {}
        self._pinned: list[Any] = []
        self._streams: dict[int, Any] = {}
        self._graphs: set[Recorded] = set()
        self._context: Any = None
        with _told("pycuda context"):
            self._pycuda.init()
            self._context = self._caller_context()
            self._retained = self._context is None
            if self._retained:
                self._context = self._device().retain_primary_context()
        self._handle = ctypes.c_void_p(self._context.handle)

    def activate(self) -> None:
        """See `Cuda.activate`."""
        if self._context is None:
            raise BackendError("This CUDA device is closed. Open the engine again.")
        # Not by pycuda's stack: a thread that ends while something is on it ends the process.
        check("cuCtxSetCurrent", self._driver.cuCtxSetCurrent(self._handle))

    def allocate(self, nbytes: int) -> int:
        """See `Cuda.allocate`."""
        with self._on_the_stack(), _told("cuMemAlloc"):
            block = self._pycuda.mem_alloc(max(nbytes, 1))
        self._memory[int(block)] = block
        return int(block)

    def free(self, address: int) -> None:
        """See `Cuda.free`."""
        with self._on_the_stack(), _told("cuMemFree"):
            self._memory.pop(address).free()

    def pinned(self, nbytes: int) -> Bytes:
        """See `Cuda.pinned`."""
        portable = self._pycuda.host_alloc_flags.PORTABLE
        with self._on_the_stack(), _told("cuMemHostAlloc"):
            block = self._pycuda.pagelocked_empty(max(nbytes, 1), np.uint8, mem_flags=portable)
        self._pinned.append(block)
        view: Bytes = block[:nbytes]
        return view

    def stream(self) -> int:
        """See `Cuda.stream`."""
        with self._on_the_stack(), _told("cuStreamCreate"):
            # pycuda takes the flags of cuStreamCreate as a plain number; 1 = not held up by work
            # on the default stream.
            stream = self._pycuda.Stream(1)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def copy_in(self, address: int, host: npt.NDArray[Any], stream: int) -> None:
        """See `Cuda.copy_in`."""
        self.activate()
        with _told("cuMemcpyHtoDAsync"):
            self._pycuda.memcpy_htod_async(address, host, self._streams[stream])

    def copy_out(self, host: npt.NDArray[Any], address: int, stream: int) -> None:
        """See `Cuda.copy_out`."""
        self.activate()
        with _told("cuMemcpyDtoHAsync"):
            self._pycuda.memcpy_dtoh_async(host, address, self._streams[stream])

    def copy_within(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """See `Cuda.copy_within`."""
        self.activate()
        with _told("cuMemcpyDtoDAsync"):
            self._pycuda.memcpy_dtod_async(target, source, nbytes, self._streams[stream])

    def synchronise(self, stream: int) -> None:
        """See `Cuda.synchronise`."""
        self.activate()
        with _told("cuStreamSynchronize"):
            self._streams[stream].synchronize()

    def capture(self, stream: int, enqueue: Callable[[], None]) -> Graph | None:
        """See `Cuda.capture`."""
        self.activate()
        try:
            program, self.no_capture = recorded(self._calls, stream, enqueue)
        except AttributeError as error:
            if "undefined symbol" not in str(error):
                raise
            program, self.no_capture = None, f"this driver has no CUDA graphs ({error})"
        if program is None:
            return None
        graph = Recorded(self._calls, program, activate=self.activate, closed=self._graphs.discard)
        self._graphs.add(graph)
        return graph

    def free_memory(self) -> tuple[int, int]:
        """See `Cuda.free_memory`."""
        return free_memory(self._gpu)

    def close(self) -> None:
        """See `Cuda.close`."""
        if self._context is None:
            return
        callers = self._pycuda.Context.get_current()
        # As in bindings.py: after a fault on the GPU every call fails, and it was told.
        with contextlib.suppress(BackendError), self._on_the_stack():
            self._free_all()
        if self._retained:
            with contextlib.suppress(BackendError), _told("cuDevicePrimaryCtxRelease"):
                self._context.push()
                self._context.detach()  # takes it off pycuda's stack, but it stays current
            for _ in range(2):
                self._driver.cuCtxSetCurrent(None)
        if callers is not None:
            self._driver.cuCtxSetCurrent(ctypes.c_void_p(callers.handle))
        self._context = None

    def _free_all(self) -> None:
        for stream in self._streams.values():
            with contextlib.suppress(BackendError), _told("cuStreamSynchronize"):
                stream.synchronize()
        for graph in list(self._graphs):
            graph.close()
        for block in self._pinned:
            with contextlib.suppress(BackendError), _told("cuMemFreeHost"):
                block.base.free()
        # What nobody refers to is freed by pycuda, in the context that is on its stack.
        self._pinned.clear()
        self._streams.clear()
        self._memory.clear()

    # -- contexts ------------------------------------------------------------------------------

    def _caller_context(self) -> Any:
        """Return the pycuda context of the calling thread if it is on this GPU, otherwise None."""
        context = self._pycuda.Context.get_current()
        if context is None or context.get_device() != self._device():
            return None
        return context

    def _device(self) -> Any:
        return self._pycuda.Device(self._gpu.index)

    @contextlib.contextmanager
    def _on_the_stack(self) -> Iterator[None]:
        """Have the context on top of pycuda's own stack, where its allocations look for it."""
        self.activate()
        top = self._pycuda.Context.get_current()
        if top is not None and top.handle == self._context.handle:
            yield
            return
        with _told("cuCtxPushCurrent"):
            self._context.push()
        try:
            yield
        finally:
            self._pycuda.Context.pop()


@contextlib.contextmanager
def _told(call: str) -> Iterator[None]:
    """Turn pycuda's errors into one line."""
    try:
        yield
    except BackendError:
        raise
    except Exception as error:
        if not type(error).__module__.startswith("pycuda"):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        text = reason if call in reason else f"{call} failed: {reason}"
        raise BackendError(f"{text}. Check `nvidia-smi`.") from None


class _Calls:
    """See `vad_runtime.cuda.capture.GraphCalls`; on libcuda itself."""

    def __init__(self, driver: ctypes.CDLL) -> None:
        self._driver = driver

    def begin(self, stream: int) -> int:
        return int(self._driver.cuStreamBeginCapture_v2(ctypes.c_void_p(stream), _THREAD_LOCAL))

    def end(self, stream: int) -> tuple[int, Any]:
        graph = ctypes.c_void_p()
        result = self._driver.cuStreamEndCapture(ctypes.c_void_p(stream), ctypes.byref(graph))
        return int(result), graph if graph.value else None

    def instantiate(self, graph: Any) -> tuple[int, Any]:
        program = ctypes.c_void_p()
        flags = ctypes.c_ulonglong(0)
        make = self._driver.cuGraphInstantiateWithFlags
        return int(make(ctypes.byref(program), graph, flags)), program

    def destroy_graph(self, graph: Any) -> None:
        self._driver.cuGraphDestroy(graph)

    def launch(self, program: Any, stream: int) -> int:
        return int(self._driver.cuGraphLaunch(program, ctypes.c_void_p(stream)))

    def destroy(self, program: Any) -> None:
        self._driver.cuGraphExecDestroy(program)

    def error_text(self, result: int) -> str:
        return error_text(result)
