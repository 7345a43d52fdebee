"""What any `Cuda` must do, on a real GPU as on the fake driver. Each scenario asserts.

The only work that needs no kernel is a copy on the device, so that is what streams do here.
"""

import ctypes
import threading
from collections.abc import Callable

import numpy as np

from vad_runtime.contracts import BackendError
from vad_runtime.cuda import Cuda, GraphCache
from vad_runtime.cuda.driver import check, library


class Copies:
    """Pinned memory to the device, there to another place, and back to pinned memory."""

    def __init__(self, cuda: Cuda, nbytes: int = 1000) -> None:
        self.cuda = cuda
        self.stream = cuda.stream()
        self.first, self.second = cuda.allocate(nbytes), cuda.allocate(nbytes)
        self.there, self.back = cuda.pinned(nbytes), cuda.pinned(nbytes)

    def enqueue(self) -> None:
        self.cuda.copy_in(self.first, self.there, self.stream)
        result = library().cuMemcpyDtoDAsync_v2(
            ctypes.c_uint64(self.second),
            ctypes.c_uint64(self.first),
            ctypes.c_size_t(self.there.nbytes),
            ctypes.c_void_p(self.stream),
        )
        check("cuMemcpyDtoDAsync", result)
        self.cuda.copy_out(self.back, self.second, self.stream)

    def proved(self, run: Callable[[], None], value: int) -> None:
        """Assert that `run` brings the value there and back."""
        self.there[:] = value
        self.back[:] = 255 - value
        run()
        self.cuda.synchronise(self.stream)
        assert (self.back == value).all(), (value, self.back[:8])


def refused(call: Callable[[], object], *parts: str) -> None:
    """Assert that a call raises one line with these parts."""
    try:
        call()
    except BackendError as error:
        text = str(error)
        assert "\n" not in text, text
        for part in parts:
            assert part in text, text
    else:
        raise AssertionError(f"not refused: {parts}")


def copies(cuda: Cuda) -> None:
    work = Copies(cuda)
    work.proved(work.enqueue, 7)
    shaped = work.there.view(np.float32).reshape(10, 25)
    shaped[...] = 1.5
    cuda.copy_in(work.first, shaped, work.stream)
    cuda.copy_out(work.back, work.first, work.stream)
    cuda.synchronise(work.stream)
    assert (work.back.view(np.float32) == 1.5).all()


def graph(cuda: Cuda) -> None:
    work = Copies(cuda)
    work.proved(work.enqueue, 1)
    work.back[:] = 99
    recorded = cuda.capture(work.stream, work.enqueue)
    assert recorded is not None, cuda.no_capture
    assert cuda.no_capture is None
    cuda.synchronise(work.stream)
    assert (work.back == 99).all(), "a capture must not run the work"
    stream = work.stream
    for value in range(2, 20):
        work.proved(lambda: recorded.launch(stream), value)
    recorded.close()
    recorded.close()
    refused(lambda: recorded.launch(stream), "closed")


def cache(cuda: Cuda) -> None:
    work, other = Copies(cuda), Copies(cuda, 64)
    other.stream = work.stream
    graphs = GraphCache(cuda, work.stream, limit=2)
    for value in range(6):
        work.proved(lambda: graphs.run("large", work.enqueue), value)
        other.proved(lambda: graphs.run("small", other.enqueue), value + 100)
    assert graphs.fallback is None
    assert len(graphs) == 2
    work.proved(lambda: graphs.run("third", work.enqueue), 50)
    assert len(graphs) == 2
    graphs.close()


def no_graphs(cuda: Cuda) -> None:
    """For a driver that refuses them."""
    work = Copies(cuda)
    graphs = GraphCache(cuda, work.stream)
    for value in range(4):
        work.proved(lambda: graphs.run("k", work.enqueue), value)
    assert len(graphs) == 0
    assert graphs.fallback is not None
    assert "CUDA_ERROR" in graphs.fallback
    assert graphs.fallback == cuda.no_capture


def another_thread(cuda: Cuda) -> None:
    """Opened here, used on two other threads, closed here by the caller."""
    work = Copies(cuda)
    graphs = GraphCache(cuda, work.stream)
    errors: list[BaseException] = []

    def use(value: int) -> None:
        try:
            work.proved(lambda: graphs.run("k", work.enqueue), value)
            assert (cuda.free_memory()[0]) > 0
            cuda.free(cuda.allocate(10))
            cuda.pinned(10)[:] = 1
        except BaseException as error:
            errors.append(error)

    for value in (1, 2, 3):
        thread = threading.Thread(target=use, args=(value,))
        thread.start()
        thread.join()
    assert not errors, errors
    work.proved(lambda: graphs.run("k", work.enqueue), 4)


def broken_capture(cuda: Cuda) -> None:
    """An exception, an allocation and a wait while capturing leave the stream usable."""
    work = Copies(cuda)
    for wrong, error in (
        (lambda: 1 / 0, ZeroDivisionError),
        (lambda: cuda.allocate(64), BackendError),
        (lambda: cuda.synchronise(work.stream), BackendError),
    ):

        def enqueue(wrong: Callable[[], object] = wrong) -> None:
            work.enqueue()
            wrong()

        try:
            cuda.capture(work.stream, enqueue)
        except error:
            pass
        else:
            raise AssertionError(f"no {error}")
        work.proved(work.enqueue, 9)
    recorded = cuda.capture(work.stream, work.enqueue)
    assert recorded is not None
    stream = work.stream
    work.proved(lambda: recorded.launch(stream), 10)


def too_much(cuda: Cuda) -> None:
    total = cuda.free_memory()[1]
    refused(lambda: cuda.allocate(total + (1 << 30)), "cuMemAlloc failed", "memory")
    cuda.free(cuda.allocate(0))
    assert cuda.pinned(0).shape == (0,)


def closed(cuda: Cuda) -> None:
    """Graphs that are closed after everything else are no trouble, and nothing works any more."""
    work = Copies(cuda)
    recorded = cuda.capture(work.stream, work.enqueue)
    assert recorded is not None
    cuda.close()
    cuda.close()
    recorded.close()
    refused(lambda: cuda.allocate(1), "closed")
    refused(cuda.activate, "closed")
    refused(lambda: recorded.launch(work.stream), "closed")


EVERYWHERE = (copies, graph, cache, another_thread, broken_capture, too_much, closed)
