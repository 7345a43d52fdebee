"""From the pictures of a camera to frames: time, holes, pace, and what is not to be scored."""

from collections.abc import Callable

from vad_runtime.contracts.clip import ClipSpec
from vad_runtime.contracts.site import StreamSettings
from vad_runtime.sources.base import BEHIND, FASTER, FROZEN, Frame, SourceStats, no_picture
from vad_runtime.sources.connection import Image
from vad_runtime.sources.pace import Pace, RateMeter
from vad_runtime.sources.resize import resized
from vad_runtime.sources.timeline import Stamp, Timeline
from vad_runtime.sources.video import DEFAULT_FPS, _Picture
from vad_runtime.sources.watchdog import FreezeWatch, LagWatch

_FPS_RANGE = (0.1, 500.0)  # cameras promise 0, 90000 and worse


class FrameMaker:
    """Turns the pictures of one camera into frames, over all its connections.

    Everything that may not be scored together with what came before gets a hole; see `LiveSource`
    for the causes. Not for several threads, but any thread may read its attributes.

    Args:
        spec: Size, colour and rate of the frames.
        settings: Of the stream.
        stats: Counted into.
        pictures: Whether `Frame.picture` will be called.
        say: Is told, once, that the camera is slower than the model's footage.
    """

    def __init__(
        self,
        spec: ClipSpec,
        settings: StreamSettings,
        stats: SourceStats,
        *,
        pictures: bool,
        say: Callable[[str], None],
    ) -> None:
        self._spec, self._stats, self._pictures, self._say = spec, stats, pictures, say
        self._freeze = FreezeWatch(settings.watchdog.frozen_s)
        self._lag = LagWatch(settings.watchdog.behind_s)
        self._timeline = Timeline(spec.fps or DEFAULT_FPS)
        self._rate = RateMeter()
        self._pace = Pace(spec.fps if settings.fps == "adapt" else None)
        self._nominal_fps = spec.fps
        self._thinned = False
        self._told_slow = False
        self._index = 0
        self._hole: str | None = None
        self.size = (0, 0)
        """Columns and rows of the last picture."""
        self.frozen = False
        """Whether the camera has been sending the same picture for too long."""
        self.behind = False
        """Whether packets are to be dropped up to the next key frame."""

    @property
    def camera_fps(self) -> float | None:
        """Measured frame rate of the camera; None = not known yet."""
        return self._rate.fps if self._rate.measured else None

    @property
    def fps(self) -> float:
        """Rate of the frames that are given, as far as it is known."""
        if self._thinned and self._nominal_fps is not None:
            return self._nominal_fps
        return self._timeline.fps

    @property
    def behind_s(self) -> float:
        """How far decoding lags behind the camera, seconds."""
        return self._lag.behind_s

    def lost(self, hole: str) -> None:
        """Note that a connection was lost: the next frame has this hole, if any was before it."""
        if self._index > 0 and self._hole != "stalled":
            self._hole = hole

    def connected(self, promised_fps: float) -> None:
        """Note that the next picture is the first one of a new connection.

        Args:
            promised_fps: As the connection says; nonsense is passed over.
        """
        low, high = _FPS_RANGE
        self._rate.expect(promised_fps if low <= promised_fps <= high else None)
        self._timeline.connected()
        self._lag.restart()
        self._adapt(changed=False)

    def frame(self, image: Image, now_s: float, waited_s: float | None) -> Frame | None:
        """Return the frame of the next picture, or None where the model has no use for it.

        Args:
            image: The picture, which the frame then owns.
            now_s: When it had been decoded, monotonic seconds.
            waited_s: How long reading has taken since the picture before, seconds; None = unknown.
        """
        stats = self._stats
        stats.undecodable_packets += image.lost_packets
        if image.skipped_packets:
            _count(stats.dropped, BEHIND, image.skipped_packets)
            self._rate.restart()  # what we leave out makes the camera no slower
        index = self._index + image.lost_packets + image.skipped_packets
        self._index = index + 1
        stamp = self._timeline.stamp(image.pts_s, now_s)
        stats.timestamps_repaired += stamp.repaired
        hole = self._cause(image, stamp)
        self._note_lag(image, stamp, now_s, waited_s)
        if hole is not None:
            self._pace.restart()
        if self._thinned and not self._pace.keep(stamp.time_s):
            _count(stats.dropped, FASTER)
            return None
        return self._made(image, index, stamp.time_s, hole, now_s)

    def _made(
        self, image: Image, index: int, time_s: float, hole: str | None, now_s: float
    ) -> Frame:
        pixels = resized(image.picture, self._spec)
        was_frozen = self.frozen
        self.frozen = self._freeze.frame(pixels, now_s)
        if self.frozen:
            self._stats.frozen += 1
            if not was_frozen:
                _count(self._stats.holes, FROZEN)
        if hole is not None:
            _count(self._stats.holes, hole)
        self._stats.frames += 1
        self._stats.damaged += image.damaged
        return Frame(
            index=index,
            pts_s=time_s,
            pixels=pixels,
            picture=_Picture(image.picture) if self._pictures else no_picture,
            hole=hole or (FROZEN if self.frozen else None),
            damaged=image.damaged or self.frozen,
            arrived_s=now_s,
        )

    def _cause(self, image: Image, stamp: Stamp) -> str | None:
        """Return why something is missing in front of a picture; the weightiest reason counts."""
        first = self.size == (0, 0)
        size, self.size = self.size, (image.picture.width, image.picture.height)
        pending, self._hole = self._hole, None
        other_rate = self._adapt(changed=self._rate.add(stamp.time_s))
        if pending is not None:
            return pending
        if size != self.size and not first:
            return "change of resolution"
        if image.skipped_packets:
            return BEHIND
        if stamp.jump is not None:
            return stamp.jump
        if image.lost_packets and not first:
            return "undecodable packet"
        return "change of frame rate" if other_rate and not first else None

    def _adapt(self, *, changed: bool) -> bool:
        """Go by the rate that is known now; return whether frames lie otherwise in time."""
        fps = self._rate.fps
        if fps is None:
            return False
        self._timeline.fps = fps
        before, self._thinned = self._thinned, self._pace.faster(fps)
        if self._rate.measured:
            self._tell_slow(fps)
        if before and self._thinned:
            return False  # both rates end up as the model's
        return changed or before != self._thinned

    def _tell_slow(self, fps: float) -> None:
        times = None if self._told_slow else self._pace.slower(fps)
        if times is None:
            return
        self._told_slow = True
        line = (
            f"the camera gives {fps:.3g} frames a second and the model was trained on "
            f"{self._nominal_fps:.3g}: moves look {times:.2g} times faster to it. "
            "Raise the camera's rate if you can."
        )
        self._stats.notes.append(line)
        self._say(line)

    def _note_lag(self, image: Image, stamp: Stamp, now_s: float, waited_s: float | None) -> None:
        if stamp.jump is not None and stamp.repaired:  # the camera's clock was set
            self._lag.restart()
        self.behind = (
            waited_s is not None
            and image.pts_s is not None
            and self._lag.frame(image.pts_s, now_s, waited_s)
        )


def _count(counts: dict[str, int], cause: str, by: int = 1) -> None:
    counts[cause] = counts.get(cause, 0) + by
