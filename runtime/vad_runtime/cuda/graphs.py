"""CUDA graphs of work that repeats: recorded once for each key, then launched as one piece."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

from vad_runtime.contracts.errors import VadError
from vad_runtime.cuda.base import Cuda, Graph


class GraphCache:
    """The graphs of one stream, by key; the least recently used one makes room for a new one.

    A key must tell apart whatever would make the recorded work wrong: shapes and addresses. Where
    capture does not work, the same work is enqueued directly, for ever after, and `fallback` says
    why.

    Args:
        cuda: The GPU; it must outlive this object.
        stream: A stream of it that is not the default one.
        enabled: False = never capture.
        limit: How many graphs to keep.
    """

    def __init__(self, cuda: Cuda, stream: int, *, enabled: bool = True, limit: int = 16) -> None:
        self.fallback: str | None = None if enabled else "switched off"
        self._cuda = cuda
        self._stream = stream
        self._limit = limit
        self._graphs: OrderedDict[Hashable, Graph] = OrderedDict()

    def __len__(self) -> int:
        return len(self._graphs)

    def run(self, key: Hashable, enqueue: Callable[[], None]) -> None:
        """Put the work of `key` on the stream; the caller synchronises.

        The first time it is enqueued and waited for, since libraries allocate and compile on their
        first run, which no capture allows. Only after that it is recorded.

        Args:
            key: What makes this work different from other work.
            enqueue: Puts the work on the stream. It is called twice for a new key.

        Raises:
            BackendError: CUDA refused, or what `enqueue` raises on its direct run.
        """
        self._cuda.activate()
        graph = self._graphs.get(key)
        if graph is not None:
            self._graphs.move_to_end(key)
            graph.launch(self._stream)
            return
        enqueue()
        if self.fallback is None:
            self._cuda.synchronise(self._stream)
            self._record(key, enqueue)

    def close(self) -> None:
        """Free the graphs. A second call does nothing."""
        while self._graphs:
            self._graphs.popitem()[1].close()

    def _record(self, key: Hashable, enqueue: Callable[[], None]) -> None:
        try:
            graph = self._cuda.capture(self._stream, enqueue)
        except VadError as error:
            # The same work ran a moment ago, so what it objects to is being captured.
            self.fallback = str(error)
            return
        if graph is None:
            self.fallback = self._cuda.no_capture or "this driver cannot capture it"
            return
        if len(self._graphs) >= self._limit:
            self._graphs.popitem(last=False)[1].close()  # idle: the stream was waited for
        self._graphs[key] = graph
