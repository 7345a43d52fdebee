r"""The clip of an event: from before its start to after its end, cut from a ring of packets.

::

    K p p p K p p p K p p p K p p p K p p p      packets, K = key frame
          ^ start - pre_s                 ^ end + post_s
    `-------------- the clip -------------'      from the key frame before
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vad_runtime.live.base import EventRecord
from vad_runtime.live.media.disk import NewFile
from vad_runtime.live.media.headers import described
from vad_runtime.live.media.names import part_name
from vad_runtime.live.media.retention import Retention
from vad_runtime.live.media.template import remuxable
from vad_runtime.live.media.writers import FAILURES, EncodedFilm, FilmFile, RemuxedFilm
from vad_runtime.sources.connection import PacketInfo, StreamTemplate
from vad_runtime.sources.packets import PacketRing
from vad_runtime.sources.parameter_sets import parameter_sets

_BACK_S = 1.0  # B-frames step back by less
_FORWARD_S = 10.0  # a longer pause belongs to a camera whose clock was set
_SYNC_S = 5.0  # so often what there is of a clip is made to survive a power cut
_LATE_S = 2.0  # packets of a stream that is well are not this late


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketSource:
    """Where the packets of a clip come from."""

    ring: PacketRing
    """Cleared when the stream is connected anew."""
    template: Callable[[], StreamTemplate | None] | None
    """Says what the packets of the present connection are, or None while there is none. Without
    it the ring holds JPEGs, which are encoded."""


class Clip:
    """One event's clip, of one part as a rule.

    A new connection, another picture size or a camera whose clock was set cannot go on in the same
    file: a part 2 begins then, at its first key frame. One thread does all of it.

    Args:
        event: At its start.
        path: Path of the final file.
        source: The packets.
        begin_s: `time.monotonic()` from which on packets belong to the clip.
        retention: What makes room on the disk.
    """

    def __init__(
        self,
        event: EventRecord,
        path: Path,
        source: PacketSource,
        *,
        begin_s: float,
        retention: Retention,
    ) -> None:
        self._event = event
        self._path = path
        self._source = source
        self._begin_s = begin_s
        self._retention = retention
        self._until_s: float | None = None
        self._last: PacketInfo | None = None
        self._template: StreamTemplate | None = None
        self._sps = b""
        self._file: NewFile | None = None
        self._film: FilmFile | None = None
        self._number = 0
        self._synced_s = -math.inf
        self.cut_off = False
        """It ended early, since it had grown beyond `Retention.largest_file`."""
        self.kept: list[Path] = []
        """The parts that are whole."""

    def finish_at(self, monotonic_s: float) -> None:
        """Say up to when packets belong to the clip."""
        self._until_s = monotonic_s

    def poll(self, now_s: float) -> bool:
        """Write what has come since the last call.

        Returns:
            Whether the clip is over, so that it is to be closed.

        Raises:
            OSError, FFmpegError, ValueError: See `writers.FAILURES`; the clip is to be dropped.
        """
        packets = self._source.ring.since(
            self._begin_s if self._last is None else self._last.arrived_s
        )
        for packet in self._new(packets):
            if self._until_s is not None and packet.arrived_s > self._until_s:
                return True
            self._add(packet)
            if self.cut_off:
                return True
        if self._file is not None and now_s - self._synced_s >= _SYNC_S:
            self._synced_s = now_s
            self._file.sync()
        return self._until_s is not None and now_s > self._until_s + _LATE_S

    def _new(self, packets: list[PacketInfo]) -> list[PacketInfo]:
        last = self._last
        if last is None:
            return packets
        for place in range(len(packets) - 1, -1, -1):
            if packets[place] is last:
                return packets[place + 1 :]
        # The ring was cleared by a new connection, or went on without us for too long.
        self._end_part()
        return [packet for packet in packets if packet.arrived_s > last.arrived_s]

    def _add(self, packet: PacketInfo) -> None:
        if self._breaks(packet):
            self._end_part()
        self._last = packet
        if self._film is None:
            if not packet.key:
                return
            self._begin_part(packet)
        if self._film is None or self._file is None:
            return
        self._film.add(packet)
        self.cut_off = self._file.tell() > self._retention.largest_file

    def _breaks(self, packet: PacketInfo) -> bool:
        """Whether a packet cannot follow the one before in the same file."""
        if self._last is None or self._film is None:
            return False
        step_s = packet.pts_s - self._last.pts_s
        if not -_BACK_S <= step_s <= _FORWARD_S:
            return True
        begun = self._template
        if not packet.key or begun is None or self._source.template is None:
            return False
        now = self._source.template()
        if now is not None and not _same(begun, now):
            return True
        sps = parameter_sets(begun.codec, packet.data)[0]
        return bool(sps and self._sps) and sps != self._sps

    def _begin_part(self, key: PacketInfo) -> None:
        template = None if self._source.template is None else self._source.template()
        if self._source.template is not None and not remuxable(template):
            return
        self._number += 1
        path = self._path.parent / part_name(self._path.name, self._number)
        title = f"{self._event.stream}, event {self._event.id}"
        self._file = NewFile(path, self._retention)
        if template is None:
            self._film = EncodedFilm(self._file, title)
        else:
            self._template = template
            self._sps = parameter_sets(template.codec, key.data)[0]
            self._film = RemuxedFilm(self._file, described(template, key), title)

    def _end_part(self) -> None:
        film, self._film = self._film, None
        file, self._file = self._file, None
        if film is None or file is None:
            return
        try:
            film.close()
            file.keep()
        except FAILURES:
            film.abort()
            file.discard()
            raise
        self.kept.append(self._path.parent / part_name(self._path.name, self._number))

    def close(self) -> None:
        """Complete the clip.

        Raises:
            OSError, FFmpegError, ValueError: See `writers.FAILURES`; the last part is lost.
        """
        self._end_part()

    def drop(self) -> None:
        """Remove the part that is being written; those that are whole stay."""
        film, self._film = self._film, None
        file, self._file = self._file, None
        if film is not None:
            film.abort()
        if file is not None:
            file.discard()


def _same(one: StreamTemplate, other: StreamTemplate) -> bool:
    """Whether packets of both can follow each other in a file; a size of 0 is not yet known."""
    if (one.codec, one.extradata) != (other.codec, other.extradata):
        return False
    sizes = (one.width, other.width), (one.height, other.height)
    return all(0 in pair or pair[0] == pair[1] for pair in sizes)
