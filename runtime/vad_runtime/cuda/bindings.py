"""CUDA by NVIDIA's `cuda-bindings` (driver API, in the GPU's primary context).

The primary context is the one that PyTorch, ONNX Runtime and TensorRT use too, so memory and
streams can be shared with them.
"""

import contextlib
import ctypes
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts.errors import BackendError
from vad_runtime.cuda.base import Bytes, Graph
from vad_runtime.cuda.capture import Recorded, recorded
from vad_runtime.cuda.driver import Gpu, error_text, free_memory


class BindingsCuda:
    """One GPU; see `vad_runtime.cuda.base.Cuda`.

    Raises:
        ImportError: cuda-bindings is not installed.
        BackendError: CUDA refused to make a context.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._cu: Any = importlib.import_module("cuda.bindings.driver")
        version = importlib.import_module("cuda.bindings").__version__
        self.name = f"cuda-bindings {version}"
        self.no_capture: str | None = None
        self._gpu = gpu
        self._context: Any = None
        self._memory: set[int] = set()
        self._pinned: list[int] = []
        self._streams: list[Any] = []
        self._graphs: set[Recorded] = set()
        self._calls = _Calls(self._cu)
        self._call("cuInit", 0)
        self._device = self._call("cuDeviceGet", gpu.index)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)

    def activate(self) -> None:
        """See `Cuda.activate`."""
        if self._context is None:
            raise BackendError("This CUDA device is closed. Open the engine again.")
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, nbytes: int) -> int:
        """See `Cuda.allocate`."""
        self.activate()
        address = int(self._call("cuMemAlloc", max(nbytes, 1)))
        self._memory.add(address)
        return address

    def free(self, address: int) -> None:
        """See `Cuda.free`."""
        self.activate()
        self._memory.discard(address)
        self._call("cuMemFree", address)

    def pinned(self, nbytes: int) -> Bytes:
        """See `Cuda.pinned`."""
        self.activate()
        portable = self._cu.CU_MEMHOSTALLOC_PORTABLE
        address = int(self._call("cuMemHostAlloc", max(nbytes, 1), portable))
        self._pinned.append(address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

    def stream(self) -> int:
        """See `Cuda.stream`."""
        self.activate()
        # Work on the default stream, another library's, must not hold ours up, nor break captures.
        flag = self._cu.CUstream_flags.CU_STREAM_NON_BLOCKING
        stream = self._call("cuStreamCreate", flag)
        self._streams.append(stream)
        return int(stream)

    def copy_in(self, address: int, host: npt.NDArray[Any], stream: int) -> None:
        """See `Cuda.copy_in`."""
        self.activate()
        self._call("cuMemcpyHtoDAsync", address, host.ctypes.data, host.nbytes, stream)

    def copy_out(self, host: npt.NDArray[Any], address: int, stream: int) -> None:
        """See `Cuda.copy_out`."""
        self.activate()
        self._call("cuMemcpyDtoHAsync", host.ctypes.data, address, host.nbytes, stream)

    def copy_within(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """See `Cuda.copy_within`."""
        self.activate()
        self._call("cuMemcpyDtoDAsync", target, source, nbytes, stream)

    def synchronise(self, stream: int) -> None:
        """See `Cuda.synchronise`."""
        self.activate()
        self._call("cuStreamSynchronize", stream)

    def capture(self, stream: int, enqueue: Callable[[], None]) -> Graph | None:
        """See `Cuda.capture`."""
        self.activate()
        program, self.no_capture = recorded(self._calls, stream, enqueue)
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
        # After a fault on the GPU every call fails. Where the work was waited for it was told.
        with contextlib.suppress(BackendError):
            self.activate()
        for stream in self._streams:
            self._quietly("cuStreamSynchronize", stream)
        for graph in list(self._graphs):
            graph.close()
        for stream in self._streams:
            self._quietly("cuStreamDestroy", stream)
        for address in self._memory:
            self._quietly("cuMemFree", address)
        for address in self._pinned:
            self._quietly("cuMemFreeHost", address)
        self._quietly("cuCtxSetCurrent", None)  # or the next library here finds a dead context
        self._quietly("cuDevicePrimaryCtxRelease", self._device)
        self._context = None
        self._memory.clear()
        self._pinned.clear()
        self._streams.clear()

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call the driver and return what it gives besides the result."""
        try:
            answer = getattr(self._cu, name)(*arguments)
        except (RuntimeError, AttributeError) as error:  # this driver or binding has no such call
            raise BackendError(f"{name} failed: {error}. Update the NVIDIA driver.") from None
        if answer[0] != 0:
            text = error_text(int(answer[0]))
            raise BackendError(f"{name} failed: {text}. Check `nvidia-smi`.")
        return answer[1] if len(answer) > 1 else None

    def _quietly(self, name: str, *arguments: Any) -> None:
        with contextlib.suppress(BackendError):
            self._call(name, *arguments)


class _Calls:
    """See `vad_runtime.cuda.capture.GraphCalls`."""

    def __init__(self, cu: Any) -> None:
        self._cu = cu
        self._mode = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL

    def begin(self, stream: int) -> int:
        return int(self._cu.cuStreamBeginCapture(stream, self._mode)[0])

    def end(self, stream: int) -> tuple[int, Any]:
        result, graph = self._cu.cuStreamEndCapture(stream)
        return int(result), graph if graph is not None and int(graph) else None

    def instantiate(self, graph: Any) -> tuple[int, Any]:
        result, program = self._cu.cuGraphInstantiate(graph, 0)
        return int(result), program

    def destroy_graph(self, graph: Any) -> None:
        self._cu.cuGraphDestroy(graph)

    def launch(self, program: Any, stream: int) -> int:
        return int(self._cu.cuGraphLaunch(program, stream)[0])

    def destroy(self, program: Any) -> None:
        self._cu.cuGraphExecDestroy(program)

    def error_text(self, result: int) -> str:
        return error_text(result)
