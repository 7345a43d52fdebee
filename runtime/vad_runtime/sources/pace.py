"""The camera's frame rate against the one that the model was trained on."""

from collections import deque

_TOLERANCE = 0.10
"""Rates that differ by less are the same: what cameras promise and what they keep."""
_CHANGE = 0.25
"""Rates that differ by more are another setting of the camera, not its jitter."""
_EARLY = 0.4
"""Share of a step by which a frame may come early: jitter of the camera's clock."""
_LONGEST_HOLD_S = 1.0


class Pace:
    """Leaves out frames of a camera that is faster than the model's footage, by their times.

    ::

        camera 50 fps  0 1 2 3 4 5 6 7 8        camera 37.5 fps  0 1 2 3 4 5 6 7 8
        model  25 fps  k . k . k . k . k        model    25 fps  k k . k k . k k .

    Frames are chosen on the grid of the nominal times, so their mean rate is exact and no error
    adds up. No frame is ever repeated: a slower camera's frames are all kept, and `slower` says by
    how much moves then look too fast to the model.

    Not for several threads.

    Args:
        nominal_fps: Of the footage that the model was trained on; None = every frame is kept.
    """

    def __init__(self, nominal_fps: float | None) -> None:
        self._step_s = None if nominal_fps is None else 1.0 / nominal_fps
        self._due_s: float | None = None

    def keep(self, pts_s: float) -> bool:
        """Return whether the model is to see the frame of this time, seconds; times rise."""
        if self._step_s is None:
            return True
        if self._due_s is None:
            self._due_s = pts_s + self._step_s
            return True
        if pts_s < self._due_s - self._step_s * _EARLY:
            return False
        # A frame that comes late sets the grid anew, or a slow camera's would all be "due".
        late = pts_s - self._due_s > self._step_s
        self._due_s = (pts_s if late else self._due_s) + self._step_s
        return True

    def restart(self) -> None:
        """Start the grid anew: something is missing in front of the next frame."""
        self._due_s = None

    def ratio(self, camera_fps: float) -> float:
        """Return the camera's rate as a multiple of the nominal one; 1 where there is none."""
        return 1.0 if self._step_s is None else camera_fps * self._step_s

    def faster(self, camera_fps: float) -> bool:
        """Return whether the camera gives clearly more frames than the model wants."""
        return self.ratio(camera_fps) > 1 + _TOLERANCE

    def slower(self, camera_fps: float) -> float | None:
        """Return how many times too fast moves look to the model, or None where they do not."""
        ratio = self.ratio(camera_fps)
        return 1.0 / ratio if 0 < ratio < 1 - _TOLERANCE else None


class Even:
    """Spreads out by their times pictures that come in bursts. Not for several threads."""

    def __init__(self) -> None:
        self._offset_s: float | None = None

    def wait_s(self, pts_s: float, now_s: float) -> float:
        """Return how long to wait before the picture behind this one is asked for, seconds.

        Args:
            pts_s: Time of the picture that has come, by the stream's clock.
            now_s: The present, by the monotonic clock.
        """
        offset_s = now_s - pts_s
        if self._offset_s is None or not 0 <= self._offset_s - offset_s <= _LONGEST_HOLD_S:
            self._offset_s = offset_s  # the first, one that is late, or another clock
        return self._offset_s - offset_s


class RateMeter:
    """Measures a camera's frame rate by the times of its frames, and sees it change.

    The rate is measured after `window_s` seconds. It has changed when two windows in a row agree
    with each other and not with it: one window alone may be a hiccup. Not for several threads.

    Args:
        window_s: Length of a window, seconds of the stream's own time.
    """

    def __init__(self, window_s: float = 2.0) -> None:
        self._window_s = window_s
        self._start_s: float | None = None
        self._frames = 0
        self._windows: deque[float] = deque(maxlen=2)
        self.fps: float | None = None
        """Frames a second, as measured or expected; None = not known yet."""
        self.measured = False
        """Whether `fps` was measured."""

    def expect(self, fps: float | None) -> None:
        """Start a new connection, which promises a rate; what was measured before is worth more.

        Args:
            fps: Frames a second; None = the camera promises nothing.
        """
        self.restart()
        if not self.measured:
            self.fps = fps

    def add(self, pts_s: float) -> bool:
        """Take the time of the next frame, seconds; return whether the rate has changed."""
        if self._start_s is None:
            self._start_s, self._frames = pts_s, 0
            return False
        self._frames += 1
        if pts_s - self._start_s < self._window_s:
            return False
        measured = self._frames / (pts_s - self._start_s)
        self._start_s, self._frames = pts_s, 0
        self._windows.append(measured)
        return self._judge(measured)

    def _judge(self, measured: float) -> bool:
        if self.fps is None or _same(measured, self.fps):
            self.fps, self.measured = measured, True
            return False
        before, last = self._windows[0], self._windows[-1]
        if len(self._windows) < 2 or _same(before, self.fps) or not _same(before, last):
            return False
        self.fps, self.measured = measured, True
        return True

    def restart(self) -> None:
        """Forget the window that is being measured: time is missing in it."""
        self._start_s = None
        self._windows.clear()


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= _CHANGE * max(one, other)
