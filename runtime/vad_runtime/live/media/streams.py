"""What the media thread does for one stream."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vad_runtime.contracts.errors import InputError
from vad_runtime.contracts.manifest import Scoring
from vad_runtime.live.base import EventRecord
from vad_runtime.live.media.clips import Clip, PacketSource
from vad_runtime.live.media.disk import new_file
from vad_runtime.live.media.films import HourlyFilm
from vad_runtime.live.media.intake import Intake, Shot
from vad_runtime.live.media.names import media_names, peak_name
from vad_runtime.live.media.snapshots import full_picture, jpeg, snapshot
from vad_runtime.live.media.tables import ScoreTable
from vad_runtime.live.media.template import remuxable
from vad_runtime.live.media.tools import Tools
from vad_runtime.live.media.writers import FAILURES
from vad_runtime.sources.base import SourceInfo
from vad_runtime.sources.connection import PacketInfo, StreamTemplate
from vad_runtime.sources.packets import PacketRing

MOST_CLIPS = 4
"""Clips of one stream at a time: while alarms flicker, those that are open show it all."""

_LONGEST_CLIP_S = 3600.0  # the end of an event may have been lost
_FLUSH_S = 1.0
_JPEG_SIDE = 960
_JPEG_QUALITY = 80
_JPEG_RING_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Started:
    """An event has started."""

    event: EventRecord
    shot: Shot | None
    offset_s: float
    """What turns Unix seconds into those of `time.monotonic()`."""


@dataclass(frozen=True, slots=True)
class Ended:
    """An event has ended."""

    event: EventRecord
    peak: Shot | None
    """The frame of its highest score; None = that which raised the alarm."""


@dataclass(slots=True)
class _Open:
    clip: Clip
    offset_s: float
    """Of the event's start: its end counts from there, also where the clock was set since."""
    limit_s: float


class StreamMedia:
    """The clips, snapshots, film and scores of one stream.

    `intake` may be used from any thread; all else belongs to the media thread.

    Args:
        name: Name of the stream.
        tools: What it shares with the others.
        ring: Its packets, or None.
        template: Says what the packets are, or None.
        info: Says what the source is.
        scoring: The threshold to draw.
        ring_s: Seconds that a ring of pictures holds.
    """

    def __init__(
        self,
        name: str,
        tools: Tools,
        *,
        ring: PacketRing | None,
        template: Callable[[], StreamTemplate | None],
        info: Callable[[], SourceInfo],
        scoring: Scoring,
        ring_s: float,
    ) -> None:
        settings, keeps = tools.settings, tools.retention
        self._name = name
        self._tools = tools
        self._scoring = scoring
        self._ring = ring
        self._template = template
        self._had_packets = False
        self._pictures = PacketRing(ring_s, longest_bytes=_JPEG_RING_BYTES)
        self._clips: dict[str, _Open] = {}
        self._film: HourlyFilm | None = None
        self._table: ScoreTable | None = None
        if settings.overlay:
            self._film = HourlyFilm(
                tools.folder, name, info, scoring, retention=keeps, wall=tools.wall
            )
        if settings.scores != "none":
            self._table = ScoreTable(
                tools.folder, name, settings.scores, retention=keeps, wall=tools.wall
            )
        self._flushed_s = 0.0
        self.intake = Intake(
            film=settings.overlay,
            table=settings.scores != "none",
            pictures=lambda: settings.clips and not self._has_packets(),
            info=info,
        )

    @property
    def name(self) -> str:
        """Name of the stream."""
        return self._name

    @property
    def open_clips(self) -> int:
        """Clips that are being written; from any thread."""
        return len(self._clips)

    def _has_packets(self) -> bool:
        # Between two connections there is no template; that makes it no source of pictures.
        if not self._had_packets and self._ring is not None:
            self._had_packets = remuxable(self._template())
        return self._had_packets

    def obey(self, command: Started | Ended) -> None:
        """Do what the start or end of an event asks for."""
        event, settings, folder = command.event, self._tools.settings, self._tools.folder
        names = media_names(event)
        picture, clip = event.snapshot or names[0], event.clip or names[1]
        if isinstance(command, Started):
            if settings.snapshots and command.shot is not None:
                self._snapshot(folder / picture, command.shot)
            if settings.clips:
                self._begin_clip(command, folder / clip)
            return
        if settings.snapshots and command.peak is not None:
            self._snapshot(folder / peak_name(picture), command.peak)
        begun = self._clips.get(event.id)
        if begun is not None and event.end_s is not None:
            begun.clip.finish_at(event.end_s + begun.offset_s + settings.post_s)

    def _snapshot(self, path: Path, shot: Shot) -> None:
        try:
            content = snapshot(
                full_picture(shot.scored.frame),
                stream=self._name,
                unix_s=shot.unix_s,
                score=shot.scored.score,
                threshold=self._scoring.threshold,
            )
            with new_file(path, self._tools.retention) as file:
                file.write(content)
        except FAILURES as error:
            self._tools.failed(f"snapshots of {self._name}", error)
            return
        self._tools.snapshots += 1
        self._tools.wrote()

    def _begin_clip(self, command: Started, path: Path) -> None:
        if len(self._clips) >= MOST_CLIPS:
            self._tools.given_up += 1
            return
        if self._ring is not None and self._has_packets():
            source = PacketSource(ring=self._ring, template=self._template)
        else:
            source = PacketSource(ring=self._pictures, template=None)
        clip = Clip(
            command.event,
            path,
            source,
            begin_s=command.event.start_s + command.offset_s - self._tools.settings.pre_s,
            retention=self._tools.retention,
        )
        limit_s = self._tools.clock() + _LONGEST_CLIP_S
        self._clips[command.event.id] = _Open(clip, command.offset_s, limit_s)

    def work(self) -> None:
        """Write what has come since the last call."""
        self._work_on_shots()
        now = self._tools.clock()
        for event_id, begun in list(self._clips.items()):
            try:
                over = begun.clip.poll(now)
            except FAILURES as error:
                self._drop(event_id, error)
                continue
            if over or now >= begun.limit_s:
                self._finish(event_id)
        if not 0 <= now - self._flushed_s < _FLUSH_S:
            self._flushed_s = now
            self._flush_rows()

    def _work_on_shots(self) -> None:
        # Those that come meanwhile wait for the next time, so that clips get their turn.
        for _ in range(self.intake.waiting):
            item = self.intake.shot()
            if item is None:
                return
            shot, wanted = item
            try:
                if wanted:
                    self._keep_picture(shot)
                if self._film is not None:
                    self._film.write(shot.scored)
            except (InputError, *FAILURES) as error:
                self._tools.failed(f"films of {self._name}", error)
        if self._film is not None:
            self._count_films(self._film)

    def _keep_picture(self, shot: Shot) -> None:
        data = jpeg(full_picture(shot.scored.frame), longest=_JPEG_SIDE, quality=_JPEG_QUALITY)
        self._pictures.add(
            PacketInfo(
                data=data, pts_s=shot.arrived_s, dts_s=None, key=True, arrived_s=shot.arrived_s
            )
        )

    def _count_films(self, film: HourlyFilm) -> None:
        if film.pieces:
            self._tools.films += film.pieces
            film.pieces = 0
            self._tools.wrote()

    def _flush_rows(self) -> None:
        rows = self.intake.rows()
        if self._table is None or not rows:
            return
        try:
            self._table.write(rows)
        except OSError as error:
            self._tools.failed(f"scores of {self._name}", error)

    def _finish(self, event_id: str) -> None:
        clip = self._clips[event_id].clip
        try:
            clip.close()
        except FAILURES as error:
            self._drop(event_id, error)
            return
        del self._clips[event_id]
        if not clip.kept:
            nothing = ValueError("no packet came from the key frame on")
            self._tools.failed(f"clips of {self._name}", nothing)
            return
        self._tools.clips += 1
        self._tools.cut_off += clip.cut_off
        self._tools.wrote()

    def _drop(self, event_id: str, error: Exception) -> None:
        self._clips.pop(event_id).clip.drop()
        self._tools.failed(f"clips of {self._name}", error)

    def close(self) -> None:
        """Complete everything with what there is."""
        self.work()
        for event_id in list(self._clips):
            self._finish(event_id)
        self._flush_rows()
        if self._table is not None:
            self._table.close()
        if self._film is not None:
            try:
                self._film.close()
            except (InputError, *FAILURES) as error:
                self._tools.failed(f"films of {self._name}", error)
            self._count_films(self._film)
        self._tools.lost += self.intake.lost
