"""When a live stream that raises no error is not well. Pure logic: all times are passed in."""

import numpy as np

from vad_runtime.sources.base import Pixels

_BUSY_SHARE = 0.2
"""Below this share of time spent waiting for the network, decoding is what takes the time."""
_MEMORY_S = 1.0


class StallWatch:
    """Says when no frame has come for too long. For one thread that notes and one that asks.

    Args:
        stalled_s: Longest time without a frame, seconds.
    """

    def __init__(self, stalled_s: float) -> None:
        self._stalled_s = stalled_s
        self._last_s: float | None = None

    def started(self, now_s: float) -> None:
        """Note that a connection was made: its first frame has the same time as any other."""
        self._last_s = now_s

    def frame(self, now_s: float) -> None:
        """Note that a frame has come."""
        self._last_s = now_s

    def ended(self) -> None:
        """Note that there is no connection, and so nothing to wait for."""
        self._last_s = None

    def left_s(self, now_s: float) -> float | None:
        """Return how long the stream may still be silent (negative = stalled), None = for ever."""
        last_s = self._last_s
        return None if last_s is None else last_s + self._stalled_s - now_s


class FreezeWatch:
    """Says when a camera sends the same picture all the time.

    Pictures are compared at model size and must be the same to the last bit. The noise of a sensor
    changes some pixel within seconds, however still the scene, since at the latest the next key
    frame codes it anew; so a real camera is never taken for frozen. What is not seen: a frozen
    sensor below a clock that the camera draws into the picture, or behind an encoder that codes
    the same picture a little differently each time.

    Not for several threads. Keeps one frame at model size.

    Args:
        frozen_s: So long may a picture stay the same, seconds.
    """

    def __init__(self, frozen_s: float) -> None:
        self._frozen_s = frozen_s
        self._pixels: Pixels | None = None
        self._since_s = 0.0

    def frame(self, pixels: Pixels, now_s: float) -> bool:
        """Take the next frame; return whether the picture is frozen.

        Args:
            pixels: At model size; kept until another picture comes, not written to.
            now_s: When it arrived, seconds.
        """
        if self._pixels is None or not np.array_equal(self._pixels, pixels):
            self._pixels, self._since_s = pixels, now_s
            return False
        return now_s - self._since_s >= self._frozen_s


class LagWatch:
    """Says when decoding lags behind the camera, so that packets are to be dropped.

    A camera gives a second of pictures a second. When decoding takes longer, what the camera has
    sent piles up in the buffers of the network, and each frame is older than the one before: the
    time of its arrival here grows faster than its own time. Two things would look the same and are
    not: a network that is slow, and a camera whose clock is. In both, reading has to wait for the
    network; so the lag counts only while reading hardly waits.

    Once behind, it stays so until half of the lag is made up.

    Not for several threads. Constant memory.

    Args:
        behind_s: Longest lag, seconds.
    """

    def __init__(self, behind_s: float) -> None:
        self._longest_s = behind_s
        self._catching_up = False
        self._waits = 1.0
        """Share of the last second or so that reading has waited for the network."""
        self._before_s: float | None = None
        self._least_s: float | None = None
        self.behind_s = 0.0
        """How far decoding lags, seconds."""

    def restart(self) -> None:
        """Start anew: with a new connection, or after a jump of the camera's clock."""
        self._catching_up = False
        self._waits, self._before_s, self._least_s = 1.0, None, None
        self.behind_s = 0.0

    def frame(self, pts_s: float, now_s: float, waited_s: float) -> bool:
        """Take a decoded frame; return whether to drop packets up to the next key frame.

        Args:
            pts_s: Its time by the stream's clock, seconds.
            now_s: When it had been decoded, by the monotonic clock, seconds.
            waited_s: How long reading has taken since the frame before, seconds.
        """
        offset_s = now_s - pts_s
        if self._before_s is not None and now_s > self._before_s:
            passed_s = now_s - self._before_s
            share = min(1.0, waited_s / passed_s)
            self._waits += (share - self._waits) * min(1.0, passed_s / _MEMORY_S)
        self._before_s = now_s
        if self._least_s is None or self._waits >= _BUSY_SHARE:
            self._least_s = offset_s  # nothing is left in the buffers: "in step" means this
        self._least_s = min(self._least_s, offset_s)
        self.behind_s = offset_s - self._least_s
        limit_s = self._longest_s / 2 if self._catching_up else self._longest_s
        self._catching_up = self.behind_s > limit_s
        return self._catching_up
