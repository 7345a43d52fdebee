"""Decoding in a thread of its own, so that it overlaps with inference."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from vad_runtime.latency import Stage
from vad_runtime.sources.base import Frame, FrameSource, SourceInfo

DEPTH = 32
"""Frames that the queue holds where nothing else is said."""
_PICTURES_BYTES = 48 << 20
_LEAST_DEPTH = 8
_END = object()
_LONGEST_WAIT_S = 5.0
_RECHECK_S = 0.2
"""After so long both sides look whether they were told to stop."""


def depth_of(source: SourceInfo, *, pictures: bool) -> int:
    """Return how many frames of a recording should wait: fewer where each is large.

    32 pictures of 1080p are 100 MB. Half of them overlap decoding and inference as well; but a
    source with a pace of its own loses what finds the queue full, so it is to have `DEPTH`.

    Args:
        source: What is read.
        pictures: Whether frames hold their picture at full size.
    """
    if not pictures:
        return DEPTH
    picture_bytes = max(1, source.width * source.height * 3 // 2)  # 4:2:0, as nearly all video
    return max(_LEAST_DEPTH, min(DEPTH, _PICTURES_BYTES // picture_bytes))


class Prefetch:
    """Reads a source in a thread, through a bounded queue.

    ::

        source thread ──frame──► [ bounded queue ] ──frame──► caller

    Without pacing a full queue makes the thread wait: nothing is ever lost. With `realtime` each
    frame becomes available at its own time, as from a camera; with `live` the source is a camera,
    which has its own pace. In both a full queue is emptied: the frame behind it says so in `hole`,
    and `dropped` counts what was lost.

    One caller iterates over it, or calls `start` once and then `poll`, which never waits. A source
    with a method `stop`, such as a camera, is stopped with it: a read that waits for the network
    would hold the thread otherwise.

    Args:
        source: Read in the thread, and only there.
        depth: Frames the queue holds.
        realtime: Pace by the frames' times.
        live: The source paces itself and must never wait.
        stage: Receives the time that each frame took to decode and resize, seconds; in a live
            source the time that it waited for the camera is in it.
        on_item: Called in the thread when there is something to `poll`.

    Raises:
        ValueError: A depth below 1.
    """

    def __init__(
        self,
        source: FrameSource,
        *,
        depth: int = DEPTH,
        realtime: bool = False,
        live: bool = False,
        stage: Stage | None = None,
        on_item: Callable[[], None] | None = None,
    ) -> None:
        if depth < 1:
            raise ValueError(f"depth must be at least 1 frame, not {depth}")
        self._source = source
        # Compiled, and without a lock in Python for each frame; it is bounded by `_room`.
        self._queue: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._depth = depth
        self._room = threading.Event()
        # Numbers of frames: of the next one that is put into the queue, and of the next one that is
        # expected out of it.
        self._put_next = self._take_next = 0
        self._realtime = realtime
        self._lossy = realtime or live
        self._stage = stage
        self._on_item = on_item
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.ended = False
        """Whether the last frame has been given out."""
        self.dropped = 0

    def start(self) -> None:
        """Start the thread, once.

        Raises:
            RuntimeError: It was started, or stopped, before.
        """
        if self._stop.is_set() or self._thread is not None:
            raise RuntimeError("a Prefetch is read once; open the source again")
        self._thread = threading.Thread(target=self._read, name="vad-source", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Frames in the queue, about."""
        return self._queue.qsize()

    @property
    def stopped(self) -> bool:
        """Whether it was told to read no further."""
        return self._stop.is_set()

    def poll(self) -> Frame | None:
        """Return the next frame if there is one; an error of the source is raised here, once."""
        # Asked before the queue is: what the thread left behind is then in the queue for sure.
        over = self._stop.is_set() and self._thread is not None and not self._thread.is_alive()
        try:
            return self._frame(self._taken(wait=False))
        except queue.Empty:
            self.ended = self.ended or over
            return None

    def _taken(self, *, wait: bool) -> object:
        item = self._queue.get(timeout=_RECHECK_S) if wait else self._queue.get_nowait()
        # A thread that is woken for each frame costs more than the frame's way through here, so a
        # full queue is filled again when half of it is gone.
        if not self._room.is_set() and self._queue.qsize() <= self._depth // 2:
            self._room.set()
        return item

    def _frame(self, item: object) -> Frame | None:
        if isinstance(item, tuple):
            number, frame = item
            # What was thrown away is noticed here, where frames come out one behind the other.
            if number != self._take_next:
                frame = replace(frame, hole=frame.hole or "frames dropped")
            self._take_next = number + 1
            return frame  # type: ignore[no-any-return]
        self.ended = True
        if isinstance(item, BaseException):
            raise item
        return None

    def __iter__(self) -> Iterator[Frame]:
        """Yield the source's frames, once; an error of the source is raised here."""
        self.start()
        try:
            while not self.ended:
                try:
                    frame = self._frame(self._taken(wait=True))
                except queue.Empty:
                    if self._stop.is_set():
                        return
                    continue
                if frame is not None:
                    yield frame
        finally:
            self.close()

    def close(self, timeout_s: float = 5.0) -> bool:
        """Stop the source and wait for the thread; return whether it has ended.

        From any thread but the source's own, any number of times.

        Args:
            timeout_s: Longest wait, seconds. A thread that still hangs in a read is left behind
                (it is a daemon and ends with that read).
        """
        self.stop()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def stop(self) -> None:
        """End early, as if the source had ended behind the frames that are decoded already.

        Safe from a signal handler and from any thread, any number of times.
        """
        self._stop.set()
        stop_source = getattr(self._source, "stop", None)
        if stop_source is not None:
            stop_source()

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
                if self._lossy:
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
        if item.arrived_s is None:  # a recording in a camera's place has deadlines too
            item = replace(item, arrived_s=time.monotonic())
        if self._queue.qsize() < self._depth:
            self._add(item)
            return
        # The gap lies in front of what is now the oldest frame; marking the newest would let a clip
        # span it. So the whole queue goes: a consumer this far behind needs the newest frames.
        while True:
            try:
                self._queue.get_nowait()
                self.dropped += 1
            except queue.Empty:
                break
        self._add(item)

    def _add(self, item: object) -> None:
        if isinstance(item, Frame):
            item = (self._put_next, item)
            self._put_next += 1
        self._queue.put(item)
        self._tell()

    def _tell(self) -> None:
        if self._on_item is not None:
            self._on_item()

    def _put(self, item: object) -> None:
        while not self._stop.is_set():
            if self._queue.qsize() < self._depth:
                self._add(item)
                return
            self._room.clear()
            if self._queue.qsize() > self._depth // 2:  # else it was emptied in between
                self._room.wait(_RECHECK_S)
