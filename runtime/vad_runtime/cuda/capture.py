"""Records what is put on a stream as a CUDA graph, whichever binding makes the calls."""

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

from vad_runtime.contracts.errors import BackendError


class GraphCalls(Protocol):
    """The calls of the driver about graphs. Results are CUresult: 0 = success."""

    def begin(self, stream: int) -> int:
        """Call cuStreamBeginCapture, mode thread-local: other threads may allocate meanwhile."""

    def end(self, stream: int) -> tuple[int, Any]:
        """Call cuStreamEndCapture: result and graph; the graph is None where there is none."""

    def instantiate(self, graph: Any) -> tuple[int, Any]:
        """Call cuGraphInstantiate: result and executable graph."""

    def destroy_graph(self, graph: Any) -> None:
        """Call cuGraphDestroy."""

    def launch(self, program: Any, stream: int) -> int:
        """Call cuGraphLaunch."""

    def destroy(self, program: Any) -> None:
        """Call cuGraphExecDestroy."""

    def error_text(self, result: int) -> str:
        """Return name, number and meaning of a result."""


class Recorded:
    """An executable graph; see `vad_runtime.cuda.base.Graph`.

    Args:
        calls: Of the binding.
        program: What `instantiate` gave; owned from here on.
        activate: Makes the GPU's context current; raises where the `Cuda` object is closed.
        closed: Told once when this graph is closed.
    """

    def __init__(
        self,
        calls: GraphCalls,
        program: Any,
        *,
        activate: Callable[[], None],
        closed: Callable[["Recorded"], None],
    ) -> None:
        self._calls = calls
        self._program = program
        self._activate = activate
        self._closed = closed

    def launch(self, stream: int) -> None:
        """See `Graph.launch`."""
        if self._program is None:
            raise BackendError("This CUDA graph is closed. Record it again.")
        self._activate()
        result = self._calls.launch(self._program, stream)
        if result != 0:
            text = self._calls.error_text(result)
            raise BackendError(f"cuGraphLaunch failed: {text}. Try --no-cuda-graphs.")

    def close(self) -> None:
        """See `Graph.close`."""
        program, self._program = self._program, None
        if program is not None:
            with contextlib.suppress(BackendError):
                self._activate()
                self._calls.destroy(program)
            self._closed(self)


def recorded(
    calls: GraphCalls, stream: int, enqueue: Callable[[], None]
) -> tuple[Any | None, str | None]:
    """Capture what `enqueue` puts on the stream; the context must be current.

    Returns:
        An executable graph and None, or None and why there is none.
    """
    result = calls.begin(stream)
    if result != 0:
        return None, f"cuStreamBeginCapture: {calls.error_text(result)}"
    try:
        enqueue()
    except BaseException:
        # The stream must not stay in capture, or every later call on it would fail.
        _, graph = calls.end(stream)
        if graph is not None:
            calls.destroy_graph(graph)
        raise
    result, graph = calls.end(stream)
    if result != 0 or graph is None:
        return None, f"cuStreamEndCapture: {calls.error_text(result)}"
    try:
        result, program = calls.instantiate(graph)
    finally:
        calls.destroy_graph(graph)
    if result != 0:
        return None, f"cuGraphInstantiate: {calls.error_text(result)}"
    return program, None
