"""The thread that scores: which stream's clip runs next on which engine."""

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from vad_runtime.contracts.errors import VadError
from vad_runtime.live.batching import Pick, Waiting, pick
from vad_runtime.live.contained import bug_text

if TYPE_CHECKING:
    from vad_runtime.live.engine import Engine
    from vad_runtime.live.stream import LiveStream

_LOOK_AGAIN_S = 0.25
"""So often things are looked at when nobody says anything: states, timers, hidden wishes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leaving:
    """A stream that is being taken away."""

    engine: "Engine"
    stream: "LiveStream"
    until_s: float
    """Then it is cut off, monotonic."""
    gone: threading.Event = field(default_factory=threading.Event)


class Scorer:
    """Takes frames from all streams of its engines, and runs their clips one after another.

    ::

        streams ──clips──► by deadline ──► engine.run ──scores──► streams ──► events

    On a processor all engines share one scorer: one clip runs at a time, the one whose deadline is
    first. On a GPU each engine has its own, and clips of several streams run together. It never
    waits for a disk, a network or a source. A stream that fails is given up, and the others do not
    notice.

    Every method but `turn` may be called from any thread.

    Args:
        on_fatal: Takes what ends the site, once: a late clip of a stream whose policy is `error`.
            Called in the scorer's thread, which goes on until it is closed.
        say: Takes a line for the log.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        on_fatal: Callable[[VadError], None] = lambda _error: None,
        say: Callable[[str], None] = lambda _line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_fatal, self._say, self._clock = on_fatal, say, clock
        self._engines: list[Engine] = []
        self._leaving: list[_Leaving] = []
        self._requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._fatal_told = False
        self.turned_s = clock()
        """When the last turn began, monotonic: a scorer that hangs does not move on."""
        self.error = ""
        """Why the thread has ended, if it did so by itself: a bug, and nothing is scored."""

    # -- any thread ------------------------------------------------------------------------------

    def wake(self) -> None:
        """Say that there is something to do."""
        self._wake.set()

    def attach(self, engine: "Engine") -> None:
        """Work for an engine too."""
        self._request(lambda: self._engines.append(engine))

    def detach(self, engine: "Engine", timeout_s: float = 10.0) -> bool:
        """Work for an engine no longer; return whether that is so."""

        def gone() -> None:
            if engine in self._engines:
                self._engines.remove(engine)

        return self._request_and_wait(gone, timeout_s)

    def add(self, engine: "Engine", stream: "LiveStream") -> None:
        """Take a stream of an engine.

        Raises:
            RuntimeError: The scorer is closed.
        """
        if self._closing:
            raise RuntimeError("the scorer is closed")

        def take() -> None:
            engine.streams[stream.name] = stream
            engine.warm_up(stream)

        self._request(take)
        self.start()

    def remove(
        self, engine: "Engine", streams: Sequence["LiveStream"], by: str, timeout_s: float
    ) -> bool:
        """Settle streams whose readers are stopped, and let them go; see `Engine.remove`."""
        self._refuse_own_thread()
        until_s = self._clock() + timeout_s
        leaving = [_Leaving(engine=engine, stream=s, until_s=until_s) for s in streams]

        def leave() -> None:
            for one in leaving:
                one.stream.stopping = by
            self._leaving += leaving

        self._request(leave)
        # A little more, since the thread cuts off what is left; real time, whatever `clock` is.
        deadline_s = time.monotonic() + timeout_s + 1.0
        for one in leaving:
            while not one.gone.wait(0.2):
                if not self.alive:
                    self._settle_alone()
                elif time.monotonic() > deadline_s:
                    return False
        return all(stream.settled for stream in streams)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread, once; `add` does it."""
        with self._start_lock:
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._main, name="vad-scorer", daemon=True)
                self._thread.start()

    def close(self, timeout_s: float = 5.0) -> bool:
        """End the thread, whose engines have no streams any more; return whether it has ended."""
        self._closing = True
        self.wake()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.alive

    def _request(self, wish: Callable[[], None]) -> None:
        self._requests.put(wish)
        self.wake()

    def _request_and_wait(self, wish: Callable[[], None], timeout_s: float) -> bool:
        done = threading.Event()

        def both() -> None:
            wish()
            done.set()

        self._refuse_own_thread()
        self._request(both)
        if not self.alive:
            self._settle_alone()
        return done.wait(timeout_s)

    def _refuse_own_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError("a callback of a stream may not wait for the thread that calls it")

    def _settle_alone(self) -> None:
        """Work off what is wished where no thread does: before the first stream, or after a bug."""
        with self._start_lock:
            if not self.alive:
                self._obey()
                self._let_go(at_once=True)

    # -- the scorer's thread ---------------------------------------------------------------------

    def _main(self) -> None:
        try:
            while not self._closing:
                self._wake.clear()
                pause_s = self.turn()
                if pause_s > 0:
                    self._wake.wait(pause_s)
        except BaseException as error:
            self.error = (
                f"the scorer has ended by a bug ({bug_text(error)}); nothing is scored. "
                "Restart the site."
            )
            self._say(self.error)

    def turn(self) -> float:
        """Do what is due, at most one run; return how long nothing will be, seconds.

        Called by the thread, or by a test in its place.
        """
        now = self.turned_s = self._clock()
        self._obey()
        until_s = math.inf
        best: tuple[float, float] | None = None
        chosen: tuple[Engine, list[LiveStream]] | None = None
        for engine in self._engines:
            engine.tick(now)
            for stream in list(engine.streams.values()):
                self._guarded(stream, partial(self._prepare, engine, stream))
            if engine.failed:
                continue
            waiting = _waiting(engine)
            picked = self._pick(engine, waiting)
            until_s = min(until_s, picked.until_s)
            if picked.run:
                first = next(one for one in waiting if one.item is picked.run[0])
                key = (first.urgency_s, first.since_s)
                if best is None or key < best:
                    best, chosen = key, (engine, picked.run)
        if chosen is not None:
            self._run(*chosen)
        self._let_go()
        if chosen is not None or any(map(_has_frames, self._engines)):
            return 0.0
        return min(_LOOK_AGAIN_S, max(0.001, until_s - self._clock()))

    def _prepare(self, engine: "Engine", stream: "LiveStream") -> None:
        """Bring a stream to its next clip that is worth running."""
        stream.advance()
        while stream.pending is not None:
            if engine.failed:
                if stream.pending.deadline_s == math.inf:
                    return  # a recording can wait; a camera cannot
                stream.skip("engine failed")
            elif not self._too_late(stream):
                return
            stream.advance()

    def _too_late(self, stream: "LiveStream") -> bool:
        try:
            return stream.late(self._clock())
        except VadError as error:
            if not self._fatal_told:
                self._fatal_told = True
                self._on_fatal(error)
            return False

    def _pick(
        self, engine: "Engine", waiting: Sequence[Waiting["LiveStream"]]
    ) -> Pick["LiveStream"]:
        now = self._clock()
        more = 0
        if engine.largest > 1:
            more = sum(stream.may_bring_a_clip(now) for stream in engine.streams.values())
        return pick(waiting, now, largest=engine.largest, more=more, times=engine.times)

    def _run(self, engine: "Engine", streams: list["LiveStream"]) -> None:
        clips = [stream.pending.clip for stream in streams if stream.pending is not None]
        start_s = self._clock()
        scores = engine.run(clips)
        took_s = self._clock() - start_s
        for stream, score in zip(streams, scores, strict=True):
            self._guarded(stream, partial(stream.answer, score, took_s))

    def _guarded(self, stream: "LiveStream", work: Callable[[], None]) -> None:
        """Do something for one stream; a bug that shows there costs this stream only."""
        try:
            work()
        except Exception as error:
            self._say(f"{stream.name}: given up after a bug ({bug_text(error)})")
            try:
                stream.broken(error)
            except Exception:
                stream.ended = True

    def _obey(self) -> None:
        while True:
            try:
                wish = self._requests.get_nowait()
            except queue.Empty:
                return
            wish()

    def _let_go(self, *, at_once: bool = False) -> None:
        """Let go of the leaving streams that are settled, or whose time is over."""
        for one in self._leaving.copy():
            stream = one.stream
            if not stream.ended and (at_once or self._clock() > one.until_s):
                self._guarded(stream, stream.cut_off)
            if stream.ended:
                if one.engine.streams.get(stream.name) is stream:
                    del one.engine.streams[stream.name]
                self._leaving.remove(one)
                one.gone.set()


def _has_frames(engine: "Engine") -> bool:
    return any(
        stream.pending is None and not stream.ended and stream.reader.waiting > 0
        for stream in engine.streams.values()
    )


def _waiting(engine: "Engine") -> list[Waiting["LiveStream"]]:
    found = [stream.waiting() for stream in engine.streams.values() if not stream.ended]
    return [one for one in found if one is not None]
