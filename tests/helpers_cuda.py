"""CUDA without a GPU, for tests.

In one process   `HostCuda`: the `Cuda` protocol on host memory, which records and checks
In a subprocess  `fake_libcuda`, `environment_with`, `output_with`: a libcuda.so.1 made with the C
                 compiler; tests/fakes/pycuda is a pycuda on top of any libcuda
In both          `put_on_stream`: for a fake library that enqueues work of its own
"""

import ctypes
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from vad_runtime.contracts import BackendError

Work = Callable[[], None]

_next_stream = itertools.count(0x5000)
_owners: dict[int, "HostCuda"] = {}


def put_on_stream(stream: int, work: Work) -> None:
    """Enqueue work on a stream of a `HostCuda`, or of the fake libcuda where one is loaded.

    While the stream is captured the work is recorded, not done. Otherwise it is done at once
    (deferred until `synchronise` by a `HostCuda(deferred=True)`); without both, at once.
    """
    owner = _owners.get(stream)
    if owner is not None:
        owner.put(stream, work)
        return
    try:
        library = ctypes.CDLL("libcuda.so.1")
        enqueue = library.fakeEnqueue
    except (OSError, AttributeError):
        work()
        return
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: work())
    if library.fakeCount(b"capturing"):
        _kept.append(function)  # the graph calls it later
    assert enqueue(ctypes.c_void_p(stream), function, None) == 0, "fakeEnqueue refused"


def require_allocated(stream: int, address: int, nbytes: int) -> None:
    """Assert that memory lies in one "device" allocation, where a `HostCuda` owns the stream.

    A real library would read or write what belongs to others.
    """
    owner = _owners.get(stream)
    if owner is not None:
        owner.view(address, nbytes)


_kept: list[Any] = []


class HostGraph:
    """What `HostCuda.capture` gives."""

    def __init__(self, cuda: "HostCuda", works: list[Work]) -> None:
        self.cuda = cuda
        self.works = works
        self.launches = 0
        self.closed = False

    def launch(self, stream: int) -> None:
        assert not self.closed, "launch of a closed graph"
        self.cuda.note(f"launch {stream:#x}")
        self.launches += 1
        for work in self.works:
            self.cuda.put(stream, work)

    def close(self) -> None:
        self.closed = True


class HostCuda:
    """The `Cuda` protocol on host memory. What a real GPU would punish fails with an assertion.

    Args:
        graphs: Whether `capture` works; otherwise it gives None, as some drivers do.
        deferred: Work waits for `synchronise`, so that a missing one shows as stale results.
        memory: Bytes that can be allocated on the "device"; more raises as CUDA does.
    """

    def __init__(
        self, *, graphs: bool = True, deferred: bool = False, memory: int = 1 << 30
    ) -> None:
        self.graphs = graphs
        self.deferred = deferred
        self.memory = memory
        self.name = "host"
        self.no_capture: str | None = None
        self.calls: list[str] = []
        """Every call of the protocol, as its name and numbers."""
        self.allocations = 0
        """How many device, pinned and stream allocations were made in all."""
        self.made: list[HostGraph] = []
        self.closed = False
        self.activations = 0
        self._device: dict[int, npt.NDArray[np.uint8]] = {}
        self._pinned: list[npt.NDArray[np.uint8]] = []
        self._waiting: dict[int, list[Work]] = {}
        self._captured: dict[int, list[Work]] = {}

    # -- for tests -----------------------------------------------------------------------------

    def note(self, call: str) -> None:
        assert not self.closed, f"{call} after close"
        self.calls.append(call)

    def put(self, stream: int, work: Work) -> None:
        """Enqueue work: recorded, deferred or done."""
        assert stream in self._waiting, f"no stream {stream:#x}"
        if stream in self._captured:
            self._captured[stream].append(work)
        elif self.deferred:
            self._waiting[stream].append(work)
        else:
            work()

    def view(self, address: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """Return "device" memory; asserts that it lies in one allocation."""
        for base, block in self._device.items():
            if base <= address and address + nbytes <= base + block.nbytes:
                return block[address - base : address - base + nbytes]
        raise AssertionError(f"{nbytes} bytes at {address:#x} were not allocated")

    @property
    def capturing(self) -> bool:
        return bool(self._captured)

    @property
    def alive(self) -> int:
        """Device allocations that were not freed."""
        return len(self._device)

    # -- the protocol --------------------------------------------------------------------------

    def activate(self) -> None:
        assert not self.closed, "activate after close"
        self.activations += 1

    def allocate(self, nbytes: int) -> int:
        self.note(f"allocate {nbytes}")
        assert not self.capturing, "allocation while capturing"
        used = sum(block.nbytes for block in self._device.values())
        if used + nbytes > self.memory:
            raise BackendError("cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY (2, out of memory).")
        block = np.full(max(nbytes, 1), 0xA5, np.uint8)  # never zero by luck
        self.allocations += 1
        self._device[block.ctypes.data] = block
        return int(block.ctypes.data)

    def free(self, address: int) -> None:
        self.note("free")
        assert address in self._device, "free of what was not allocated"
        del self._device[address]

    def pinned(self, nbytes: int) -> npt.NDArray[np.uint8]:
        self.note(f"pinned {nbytes}")
        assert not self.capturing, "allocation while capturing"
        block = np.full(nbytes, 0x5A, np.uint8)
        self.allocations += 1
        self._pinned.append(block)
        return block

    def stream(self) -> int:
        self.note("stream")
        stream = next(_next_stream)
        self.allocations += 1
        self._waiting[stream] = []
        _owners[stream] = self
        return stream

    def copy_in(self, address: int, host: npt.NDArray[Any], stream: int) -> None:
        self.note(f"copy_in {host.nbytes}")
        assert host.flags.c_contiguous, "copy_in of an array with gaps"
        target, source = self.view(address, host.nbytes), host.reshape(-1).view(np.uint8)
        self.put(stream, lambda: np.copyto(target, source))

    def copy_out(self, host: npt.NDArray[Any], address: int, stream: int) -> None:
        self.note(f"copy_out {host.nbytes}")
        assert host.flags.c_contiguous, "copy_out into an array with gaps"
        assert host.flags.writeable, "copy_out into a read-only array"
        source, target = self.view(address, host.nbytes), host.reshape(-1).view(np.uint8)
        self.put(stream, lambda: np.copyto(target, source))

    def copy_within(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self.note(f"copy_within {nbytes}")
        there, here = self.view(target, nbytes), self.view(source, nbytes)
        self.put(stream, lambda: np.copyto(there, here))

    def synchronise(self, stream: int) -> None:
        self.note(f"synchronise {stream:#x}")
        assert stream not in self._captured, "synchronise while capturing"
        works, self._waiting[stream] = self._waiting[stream], []
        for work in works:
            work()

    def capture(self, stream: int, enqueue: Callable[[], None]) -> HostGraph | None:
        self.note(f"capture {stream:#x}")
        if not self.graphs:
            self.no_capture = "the test switched graphs off"
            return None
        self._captured[stream] = []
        try:
            enqueue()
        finally:
            works = self._captured.pop(stream)
        self.no_capture = None
        graph = HostGraph(self, works)
        self.made.append(graph)
        return graph

    def free_memory(self) -> tuple[int, int]:
        self.note("free_memory")
        return self.memory - sum(block.nbytes for block in self._device.values()), self.memory

    def close(self) -> None:
        for graph in self.made:
            graph.close()
        for stream in self._waiting:
            _owners.pop(stream, None)
        self._device.clear()
        self.closed = True


# -- the fake libcuda --------------------------------------------------------------------------

_FLAGS = ["-shared", "-fPIC", "-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
_SONAME = "-Wl,-soname,libcuda.so.1"


def fake_libcuda(folder: Path) -> Path:
    """Compile tests/fakes/libcuda.c to FOLDER/libcuda.so.1 and return that file.

    Skips without a C compiler, fails without one under VAD_REQUIRE_NATIVE=1.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        assert os.environ.get("VAD_REQUIRE_NATIVE") != "1", "no C compiler"
        pytest.skip("no C compiler")
    library = folder / "libcuda.so.1"
    source = Path(__file__).parent / "fakes" / "libcuda.c"
    subprocess.run(
        [compiler, *_FLAGS, _SONAME, "-o", str(library), str(source), "-lpthread", "-ldl"],
        check=True,
    )
    return library


def environment_with(libcuda: Path, **changes: str) -> dict[str, str]:
    """Return the environment of a subprocess that shall find this libcuda, changed as asked.

    Names of changes are those of the fake's settings: `FAKE_CUDA_SM="86"`.
    """
    plain = {key: value for key, value in os.environ.items() if not key.startswith("FAKE_CUDA_")}
    plain.pop("CUDA_VISIBLE_DEVICES", None)
    paths = [str(libcuda.parent), plain.get("LD_LIBRARY_PATH", "")]
    plain["LD_LIBRARY_PATH"] = os.pathsep.join(path for path in paths if path)
    return plain | changes


def output_with(libcuda: Path, code: str, **changes: str) -> str:
    """Run Python code in a subprocess that finds this libcuda; return what it prints.

    `import cuda_scenarios` works in it, and `import pycuda` gives the one of tests/fakes.
    """
    tests = Path(__file__).parent
    environment = environment_with(libcuda, **changes)
    paths = [str(tests), str(tests / "fakes"), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
