"""Decoding in a thread of its own, so that it overlaps with inference."""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

from vad_runtime.latency import Stage
from vad_runtime.sources.base import Frame, FrameSource

_END = object()
_LONGEST_WAIT_S = 5.0


class Prefetch:
    """Reads a source in a thread, through a bounded queue.

    ::

        source thread ──frame──► [ bounded queue ] ──frame──► caller

    Without pacing a full queue makes the thread wait: nothing is ever lost. With `realtime` each
    frame becomes available at its own time, as from a camera, and a full queue is emptied: the
    frame behind it says so in `hole`, and `dropped` counts what was lost.

    Args:
        source: Read in the thread, and only there.
        depth: Frames the queue holds.
        realtime: Pace by the frames' times.
        stage: Receives the time that each frame took to decode and resize, seconds.
    """

    def __init__(
        self,
        source: FrameSource,
        *,
        depth: int = 32,
        realtime: bool = False,
        stage: Stage | None = None,
    ) -> None:
        self._source = source
        self._queue: queue.Queue[object] = queue.Queue(maxsize=depth)
        self._realtime = realtime
        self._stage = stage
        self._stop = threading.Event()
        self.dropped = 0

    def __iter__(self) -> Iterator[Frame]:
        """Yield the source's frames, once; an error of the source is raised here."""
        if self._stop.is_set():
            raise RuntimeError("a Prefetch is read once; open the source again")
        thread = threading.Thread(target=self._read, name="vad-source", daemon=True)
        thread.start()
        try:
            while True:
                try:
                    item = self._queue.get(timeout=0.2)
                except queue.Empty:
                    if self._stop.is_set():
                        return
                    continue
                if item is _END:
                    return
                if isinstance(item, BaseException):
                    raise item
                assert isinstance(item, Frame)
                yield item
        finally:
            self._stop.set()
            thread.join(timeout=5)

    def stop(self) -> None:
        """End early, as if the source had ended behind the frames that are decoded already.

        Safe from a signal handler.
        """
        self._stop.set()

    def _read(self) -> None:
        try:
            start = time.perf_counter()
            before = start
            for frame in self._source.frames():
                if self._stage is not None:
                    self._stage.add(time.perf_counter() - before)
                if self._realtime:
                    wait = start + frame.pts_s - time.perf_counter()
                    if wait > _LONGEST_WAIT_S:  # a wild time stamp must not stop the watch
                        start -= wait - _LONGEST_WAIT_S
                        wait = _LONGEST_WAIT_S
                    self._stop.wait(max(0.0, wait))
                    self._offer(frame)
                else:
                    self._put(frame)
                if self._stop.is_set():
                    break
                before = time.perf_counter()
            self._put(_END)
        except BaseException as error:  # whatever it is, the caller's thread must see it
            self._put(error)

    def _offer(self, item: Frame) -> None:
        try:
            self._queue.put_nowait(item)
            return
        except queue.Full:
            pass
        # The gap lies in front of what is now the oldest frame; marking the newest would let a clip
        # span it. So the whole queue goes: a consumer this far behind needs the newest frames.
        while True:
            try:
                self._queue.get_nowait()
                self.dropped += 1
            except queue.Empty:
                break
        self._queue.put_nowait(replace(item, hole="frames dropped"))

    def _put(self, item: object) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return
            except queue.Full:
                continue
