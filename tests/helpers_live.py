"""Streams, engines and time for the tests of live sites. Nothing here waits: time is made.

Time       `Clock`
Parts      `CameraReader` (frames by their times), `CountingBackend` (each run takes its time)
Together   `World` (streams and engines on one scorer, turned by hand), `live_manifest`
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from helpers import ListSource, clip_spec, frame, manifest

from vad_runtime.contracts import ClipSpec, Manifest, ScoreSpec, Scoring
from vad_runtime.contracts.site import Secret, StreamSettings
from vad_runtime.detector import ScoredFrame
from vad_runtime.live.base import EventChange
from vad_runtime.live.engine import Engine
from vad_runtime.live.events import EventTracker
from vad_runtime.live.scheduler import Scorer
from vad_runtime.live.stream import LiveStream
from vad_runtime.sources import Frame


@dataclass
class Clock:
    """Monotonic seconds that pass only when somebody says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class CameraReader:
    """Stands in for `Prefetch`: each item is in the queue from its time on.

    Args:
        clock: Tells which items are there.
        items: Arrival, monotonic seconds, and the frame, or what the source raises.
    """

    def __init__(self, clock: Clock, items: Sequence[tuple[float, Frame | Exception]]) -> None:
        self._clock, self._items, self._next = clock, list(items), 0
        self._times = [at for at, _ in self._items]
        self.ended = self.started = self.closed = False
        self.dropped = 0

    @property
    def waiting(self) -> int:
        return bisect_right(self._times, self._clock.now) - self._next

    @property
    def stopped(self) -> bool:
        return self.closed

    @property
    def next_s(self) -> float:
        """When the next item comes."""
        later = bisect_right(self._times, self._clock.now)
        return self._times[later] if later < len(self._times) else float("inf")

    def start(self) -> None:
        self.started = True

    def poll(self) -> Frame | None:
        if self._next < len(self._items) and self._items[self._next][0] <= self._clock.now:
            arrived_s, item = self._items[self._next]
            self._next += 1
            if isinstance(item, Exception):
                self.ended = True
                raise item
            return replace(item, arrived_s=arrived_s)
        self.ended = self.closed or self._next == len(self._items)
        return None

    def stop(self) -> None:
        self.closed = True
        del self._items[bisect_right(self._times, self._clock.now) :]
        self._times = [at for at, _ in self._items]

    def close(self, timeout_s: float = 5.0) -> bool:
        del timeout_s
        self.stop()
        return True


@dataclass
class CountingBackend:
    """Each run takes its time; a frame's score is its first pixel. Notes every clip.

    Args:
        clock: Moved on by each run.
        run_s: By the number of clips in the run, seconds.
        errors: Whether the n-th run, from 0, raises, and what.
    """

    clock: Clock
    run_s: Callable[[int], float] = lambda _count: 0.01
    errors: Callable[[int], Exception | None] = lambda _run: None
    device: str = "counting"
    runs: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    """First pixel of each frame, shape (N, T), of each run."""
    at: list[float] = field(default_factory=list)
    closed: bool = False

    def infer(self, clips: npt.NDArray[Any]) -> Mapping[str, npt.NDArray[np.float32]]:
        assert not self.closed
        assert clips.flags.c_contiguous
        number = len(self.runs)
        self.at.append(self.clock.now)
        self.clock.now += self.run_s(len(clips))
        first = clips[:, :, 0, 0, 0].copy()
        self.runs.append(first)
        error = self.errors(number)
        if error is not None:
            raise error
        return {"score": first.astype(np.float32)}

    def close(self) -> None:
        self.closed = True

    @property
    def clips(self) -> list[list[int]]:
        """The clips that were run, warm-up left out."""
        return [one.tolist() for run in self.runs for one in run if one.any()]


def live_manifest(
    *, frames: int = 4, hop: int = 4, threshold: float | None = None, **changes: Any
) -> Manifest:
    """Return a manifest of tiny frames with a score each."""
    spec: ClipSpec = clip_spec(frames=frames, hop=hop, height=2, width=2, **changes)
    return manifest(
        clip=spec,
        score=ScoreSpec(per="frame", form="first pixel", count=frames),
        scoring=Scoring(threshold=threshold),
    )


def pictures(values: Sequence[int], *, fps: float = 25.0) -> list[Frame]:
    """Return frames whose every pixel has the given value."""
    return [
        frame(i, np.full((2, 2, 1), value, np.uint8), fps=fps) for i, value in enumerate(values)
    ]


@dataclass
class World:
    """Engines and streams of a site, in a time that `run` makes."""

    clock: Clock = field(default_factory=Clock)
    said: list[str] = field(default_factory=list)
    fatal: list[Exception] = field(default_factory=list)
    scored: dict[str, list[ScoredFrame]] = field(default_factory=dict)
    changes: list[EventChange] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    streams: dict[str, LiveStream] = field(default_factory=dict)
    readers: list[CameraReader] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scorer = Scorer(on_fatal=self.fatal.append, say=self.said.append, clock=self.clock)
        self.scorer.start = lambda: None  # type: ignore[method-assign]  # turned by hand

    def engine(self, backend: CountingBackend, name: str = "site.vad", **options: Any) -> Engine:
        """Return an engine on the world's scorer."""
        options = {"scorer": self.scorer, "say": self.said.append, "clock": self.clock} | options
        return Engine(name, backend, **options)

    def camera(
        self,
        engine: Engine,
        name: str,
        items: Sequence[Frame | Exception],
        *,
        about: Manifest | None = None,
        fps: float = 25.0,
        start_s: float = 0.0,
        times: Sequence[float] | None = None,
        paced: bool = True,
        on_scored: Callable[[ScoredFrame], None] | None = None,
        **settings: Any,
    ) -> LiveStream:
        """Add a stream whose frames come at `fps` from now on, or at `times`, seconds from now."""
        about = about or live_manifest()
        plain = StreamSettings(source=Secret("camera"), **settings)
        times = [start_s + i / fps for i in range(len(items))] if times is None else times
        now = self.clock.now
        reader = CameraReader(self.clock, [(now + t, x) for t, x in zip(times, items, strict=True)])
        seen = self.scored.setdefault(name, [])
        stream = LiveStream(
            name,
            plain,
            about,
            reader,
            tracker=EventTracker("site", name, about.scoring, plain.events, "test"),
            source=ListSource([], fps=fps),
            paced=paced,
            on_change=lambda change, _scored: self.changes.append(change),
            on_scored=on_scored or seen.append,
            on_ended=lambda one: self.ended.append(one.name),
            say=self.said.append,
            clock=self.clock,
            wall=lambda: self.clock.now + 1e9,
        )
        self.streams[name] = stream
        self.readers.append(reader)
        engine.add(stream)
        return stream

    def run(self, seconds: float) -> None:
        """Let the scorer work for so long."""
        until_s = self.clock.now + seconds
        while self.clock.now < until_s:
            before, pause_s = self.clock.now, self.scorer.turn()
            if pause_s > 0 and self.clock.now == before:
                coming = min((reader.next_s for reader in self.readers), default=until_s)
                self.clock.now = min(before + pause_s, coming)
