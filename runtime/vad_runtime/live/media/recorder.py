"""The media thread of a site: clips, snapshots, films and scores, and how long they are kept."""

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from vad_runtime.contracts.manifest import Scoring
from vad_runtime.contracts.site import MediaSettings, RetentionSettings
from vad_runtime.detector import ScoredFrame
from vad_runtime.live.base import EventChange, PartHealth
from vad_runtime.live.media.intake import Shot
from vad_runtime.live.media.retention import Retention
from vad_runtime.live.media.streams import Ended, Started, StreamMedia
from vad_runtime.live.media.tools import Tools
from vad_runtime.sources.base import SourceInfo
from vad_runtime.sources.connection import StreamTemplate
from vad_runtime.sources.packets import PacketRing

_TICK_S = 0.25  # so often new packets go into open clips
_TEND_S = 5.0  # so often the disk is looked at
_COMMANDS = 1000  # events that wait; each holds one frame at most
_LATE_S = 10.0  # a busy disk, a score that takes its time: the rings hold so much more


class MediaRecorder:
    """Keeps pictures of events, in a thread of its own.

    All methods may be called from any thread; none of them but `close` waits, and none raises.
    What the thread cannot keep up with is left out and counted.

    Args:
        data_folder: An existing folder; `clips/`, `snapshots/`, `films/` and `scores/` are made in
            it as needed. Nobody else may record there: films that an earlier run left unfinished
            are kept up to where they are whole, other unfinished files are removed.
        settings: What is kept.
        retention: For how long.
        say: Takes one line for the log, from the media thread; called at changes of state only.
        clock: Seconds of a clock that nobody sets; that of `PacketInfo.arrived_s`.
        wall: Unix time, seconds.
    """

    def __init__(
        self,
        data_folder: Path,
        settings: MediaSettings,
        retention: RetentionSettings,
        *,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._wall = wall
        self._say = say
        self._retention = Retention(data_folder, retention, say=say, wall=wall, monotonic=clock)
        self._tools = Tools(
            folder=data_folder,
            settings=settings,
            retention=self._retention,
            say=say,
            clock=clock,
            wall=wall,
        )
        self._wakes = threading.Condition()
        self._streams: dict[str, StreamMedia] = {}
        self._leaving: list[StreamMedia] = []
        self._commands: deque[tuple[StreamMedia, Started | Ended]] = deque()
        self._dropped_events = 0
        self._new_retention: RetentionSettings | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="vad-media", daemon=True)
        self._thread.start()

    def ring_s(self, min_duration_s: float = 0.0) -> float:
        """Return how many seconds a stream's ring of packets must hold for clips to be whole.

        Args:
            min_duration_s: For how long a score must stay up before its event starts.
        """
        return self._settings.pre_s + min_duration_s + _LATE_S

    def stream_opened(
        self,
        name: str,
        *,
        ring: PacketRing | None,
        template: Callable[[], StreamTemplate | None],
        info: Callable[[], SourceInfo],
        scoring: Scoring,
    ) -> None:
        """Tell of a stream; once, not with each connection.

        Args:
            name: Name of the stream.
            ring: Its packets, cleared with each new connection; None = it has none.
            template: Says what the packets of the present connection are; None = there are none.
                Clips are encoded from pictures of scored frames where there are no packets.
            info: What the source says about itself at the moment.
            scoring: The threshold to draw.
        """
        stream = StreamMedia(
            name,
            self._tools,
            ring=ring,
            template=template,
            info=info,
            scoring=scoring,
            ring_s=self.ring_s(scoring.min_duration_s),
        )
        with self._wakes:
            self._leave(name)
            self._streams[name] = stream

    def keep(self, retention: RetentionSettings) -> None:
        """Keep pictures for another while; clips that are being written go on."""
        with self._wakes:
            self._new_retention = retention
            self._wakes.notify()

    def stream_closed(self, name: str) -> None:
        """Tell that a stream was taken away: its clips, film and scores are completed."""
        with self._wakes:
            self._leave(name)
            self._wakes.notify()

    def _leave(self, name: str) -> None:
        stream = self._streams.pop(name, None)
        if stream is not None:
            self._leaving.append(stream)

    def event(self, change: EventChange, scored: ScoredFrame | None = None) -> None:
        """Tell of the start or end of an event.

        Args:
            change: Where its record names a snapshot or a clip, that is where they go; else
                `media_names` says where.
            scored: At the start, the frame that raised the alarm.
        """
        with self._wakes:
            stream = self._streams.get(change.event.stream)
            if stream is None:
                return
            if len(self._commands) >= _COMMANDS:
                self._dropped_events += 1
                stream.intake.forget(change.event.id)
                return
            if change.kind == "started":
                shot = None if scored is None else self._shot(scored)
                stream.intake.watch(change.event.id, shot)
                self._commands.append((stream, Started(change.event, shot, self._offset())))
            else:
                peak = stream.intake.forget(change.event.id)
                self._commands.append((stream, Ended(change.event, peak)))
            self._wakes.notify()

    def scored(self, stream: str, scored: ScoredFrame) -> None:
        """Tell of a settled frame, scored or not: for films, scores and the peak of an event."""
        media = self._streams.get(stream)
        if media is not None:
            media.intake.take(self._shot(scored))

    def _shot(self, scored: ScoredFrame) -> Shot:
        now, arrived = self._clock(), scored.frame.arrived_s
        if arrived is None:
            arrived = now
        return Shot(scored, arrived, self._wall() - (now - arrived))

    def _offset(self) -> float:
        """Return what turns Unix seconds of now into those of the clock that nobody sets."""
        return self._clock() - self._wall()

    def health(self) -> PartHealth:
        """Return how it is, at once."""
        tools, retention = self._tools, self._retention
        streams = list(self._streams.values())
        trouble = tools.trouble or retention.trouble
        if not self._thread.is_alive() and not self._stopping:
            trouble = "the media thread has died; restart the site and report the traceback"
        lost = sum(stream.intake.lost for stream in streams) + tools.lost
        return PartHealth(
            name="media",
            ok=not trouble,
            trouble=trouble,
            queued=len(self._commands) + sum(stream.intake.waiting for stream in streams),
            done=tools.clips + tools.snapshots + tools.films,
            dropped=self._dropped_events + tools.given_up + lost,
            details={
                "clips": float(tools.clips),
                "snapshots": float(tools.snapshots),
                "films": float(tools.films),
                "open_clips": float(sum(stream.open_clips for stream in streams)),
                "given_up": float(tools.given_up),
                "cut_off": float(tools.cut_off),
                "frames_left_out": float(lost),
                "kept_bytes": float(retention.kept_bytes),
                "removed": float(retention.removed),
                "free_bytes": float(retention.free_lately),
            },
        )

    def close(self, timeout_s: float = 10.0) -> None:
        """Complete what is open, without waiting for what would still follow, and end the thread.

        Clips that are not whole after `timeout_s` are left to the next start; see `salvage`.
        """
        with self._wakes:
            self._stopping = True
            self._wakes.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        self._tidy()
        tended_s = -_TEND_S
        while True:
            with self._wakes:
                if not (self._commands or self._stopping or self._leaving):
                    self._wakes.wait(_TICK_S)
                commands = [self._commands.popleft() for _ in range(len(self._commands))]
                leaving, self._leaving = self._leaving, []
                streams, stopping = list(self._streams.values()), self._stopping
                retention, self._new_retention = self._new_retention, None
            for stream, command in commands:
                self._contained(stream, partial(stream.obey, command))
            for stream in streams:
                self._contained(stream, stream.work)
            for stream in leaving:
                self._contained(stream, stream.close)
            now = self._clock()
            if retention is not None:
                self._retention.follow(retention)
                tended_s = now - _TEND_S
            if not tended_s <= now < tended_s + _TEND_S:
                tended_s = now
                self._retention.tend()
            if stopping:
                break
        for stream in streams:
            self._contained(stream, stream.close)

    def _tidy(self) -> None:
        kept, removed = self._retention.tidy()
        parts = [
            f"kept what is whole of {kept}" if kept else "",
            f"removed {removed} that held nothing" if removed else "",
        ]
        if kept or removed:
            done = ", ".join(part for part in parts if part)
            self._say(f"media: unfinished files of an earlier run: {done}")

    def _contained(self, stream: StreamMedia, work: Callable[[], None]) -> None:
        """Do something for one stream; a bug there costs the others nothing."""
        try:
            work()
        except Exception as error:
            self._tools.failed(f"media of {stream.name} ({type(error).__name__})", error)
