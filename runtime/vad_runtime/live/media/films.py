"""The film of everything a stream has shown, with score and alarm drawn in, a file an hour."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from vad_runtime.contracts.errors import InputError
from vad_runtime.contracts.manifest import Scoring
from vad_runtime.detector import ScoredFrame
from vad_runtime.files import PRIVATE_FILE, private_folder
from vad_runtime.live.media.names import PART, timed_name, unused
from vad_runtime.live.media.retention import Retention
from vad_runtime.live.media.salvage import FRAGMENTED
from vad_runtime.live.media.snapshots import full_picture
from vad_runtime.sinks.overlay import OverlayWriter
from vad_runtime.sources.base import SourceInfo

_AGAIN_S = 60.0  # after a failure, nothing is tried for so long
_NEED = 64 << 20  # about what an hour of a small film takes


class HourlyFilm:
    """Writes the film of one stream; each piece appears when its hour is over.

    What a power cut or a crash leaves of a piece is kept at the next start. One thread does all of
    it.

    Args:
        folder: The data folder.
        stream: Name of the stream.
        info: What the source says about itself, asked when a piece begins.
        scoring: The threshold to draw.
        retention: What makes room on the disk.
        wall: Unix time, seconds.
    """

    def __init__(
        self,
        folder: Path,
        stream: str,
        info: Callable[[], SourceInfo],
        scoring: Scoring,
        *,
        retention: Retention,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._stream = stream
        self._info = info
        self._scoring = scoring
        self._retention = retention
        self._wall = wall
        self._writer: OverlayWriter | None = None
        self._path = folder
        self._hour = -1
        self._start_s = 0.0
        self._not_before = 0.0
        self.pieces = 0
        """How many are whole."""

    def write(self, scored: ScoredFrame) -> bool:
        """Add a frame.

        Returns:
            Whether it is in the film: after a failure nothing is tried for a minute.

        Raises:
            InputError: The film cannot be written; this piece is lost.
        """
        now = self._wall()
        if self._writer is not None and int(now // 3600) != self._hour:
            self.close()
        if self._writer is None and now < self._not_before <= now + _AGAIN_S:
            return False
        # The film's clock starts with the piece; that of the stream may have run for weeks.
        frame = scored.frame
        try:
            if self._writer is None:
                self._begin(now, scored)
            assert self._writer is not None
            shifted = dataclasses.replace(
                frame, pts_s=frame.pts_s - self._start_s, picture=partial(full_picture, frame)
            )
            self._writer.write(dataclasses.replace(scored, frame=shifted))
        except InputError:
            self._give_up(now)
            raise
        return True

    def _begin(self, now: float, scored: ScoredFrame) -> None:
        info = self._info()
        if info.width <= 0 or info.height <= 0:
            rows, columns = full_picture(scored.frame).shape[:2]
            info = dataclasses.replace(info, width=columns, height=rows)
        self._path = unused(self._folder / timed_name("films", self._stream, now, ".mp4"))
        try:
            private_folder(self._path.parent)
            # FFmpeg would make it readable for everybody; it keeps the rights of one that is there.
            self._path.with_name(self._path.name + PART).touch(PRIVATE_FILE)
        except OSError as error:
            raise InputError(
                f"{self._path} cannot be made ({error.strerror}). Check the disk."
            ) from None
        self._writer = OverlayWriter(self._path, info, self._scoring, container=FRAGMENTED)
        self._hour = int(now // 3600)
        self._start_s = scored.frame.pts_s

    def _give_up(self, now: float) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.discard()
        # The writer knows nothing of retention: the next piece finds the room that is made now.
        if self._retention.free < _NEED:
            self._retention.make_room(_NEED)
        self._not_before = now + _AGAIN_S

    def close(self) -> None:
        """Complete the piece; `write` begins another.

        Raises:
            InputError: The disk refused it; the piece is lost.
        """
        writer, self._writer = self._writer, None
        if writer is None:
            return
        writer.close()
        self._retention.took(self._path)
        self.pieces += 1
