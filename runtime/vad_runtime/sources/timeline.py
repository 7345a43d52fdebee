"""One time that rises strictly, out of the clocks of a camera that reconnects, jumps and lies."""

from dataclasses import dataclass

JUMP_BACK_S = 1.0
"""A step back by more is another time, not a slip of the camera, seconds."""

_ROUNDING_S = 1e-6
_CLOCK_SET_S = 10.0
"""Footage may come later or sooner than its times say by this; more is a clock that was set."""
_MOST_AHEAD = 4  # frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """The time of one frame."""

    time_s: float
    """Seconds from the source's first frame; strictly rising."""
    jump: str | None = None
    """`jump in time`, `jump back in time`, or None."""
    repaired: bool = False
    """Whether the camera's own time could not be used."""


class Timeline:
    """Gives each frame of a live source its time.

    ::

        camera's clock   7.00 7.04 7.08  (lost)  0.00 0.04    3600.0 3600.04
        timeline         0.00 0.04 0.08          2.31 2.35      2.39    2.43
                                         ^ wall time between       ^ jump in time

    Within a connection the camera's clock says how much time passes; between connections, and
    where that clock jumps or says nothing, the arrival here does. Not for several threads.

    Args:
        fps: Frame rate until `fps` is set to a better one.
    """

    def __init__(self, fps: float) -> None:
        self.fps = fps
        """Frames a second: the step where two frames have the same time, and what is a hole."""
        self._time_s: float | None = None
        self._arrived_s = 0.0
        self._pts_s: float | None = None
        self._connected = False
        self._ahead_s = 0.0
        """What steps that were made longer have added, and the next ones take back."""

    @property
    def longest_step_s(self) -> float:
        """A longer step is a hole, as by `vad_runtime.windows.HoleRule`, seconds."""
        return max(4 / self.fps, 0.5)

    def connected(self) -> None:
        """Note that the next frame is the first one of a new connection."""
        self._connected = True

    def stamp(self, pts_s: float | None, now_s: float) -> Stamp:
        """Return the time of the next frame.

        Args:
            pts_s: By the camera's clock, seconds; None = it does not say.
            now_s: When it arrived, by the monotonic clock, seconds.
        """
        before_s, arrived_s = self._pts_s, self._arrived_s
        self._pts_s, self._arrived_s = pts_s, now_s
        connected, self._connected = self._connected, False
        if self._time_s is None:
            self._time_s = 0.0
            return Stamp(time_s=0.0)
        passed_s = max(now_s - arrived_s, 0.0)
        own_s: float | None = None
        jump: str | None = None
        repaired = False
        if connected or pts_s is None or before_s is None:
            step_s = max(passed_s, _ROUNDING_S)
        else:
            own_s = pts_s - before_s
            step_s, jump, repaired = self._step(own_s, passed_s)
        if jump is None and not connected and step_s > self.longest_step_s:
            jump = "jump in time"
        if own_s is None or jump is not None:
            self._ahead_s = 0.0
        else:
            step_s = self._without_drift(own_s, step_s)
        self._time_s += step_s
        return Stamp(time_s=self._time_s, jump=jump, repaired=repaired)

    def _step(self, step_s: float, passed_s: float) -> tuple[float, str | None, bool]:
        """Return seconds from the frame before, why they are a hole, whether they are ours."""
        nominal_s = 1 / self.fps
        if step_s < -JUMP_BACK_S:
            return max(passed_s, nominal_s), "jump back in time", True
        if step_s <= _ROUNDING_S:
            return nominal_s, None, True
        if step_s > passed_s + _CLOCK_SET_S:
            return max(passed_s, nominal_s), "jump in time", True
        return step_s, None, False

    def _without_drift(self, own_s: float, step_s: float) -> float:
        """Return the step, less what repeated times before it have added: `own_s` is the camera's.

        Two frames in each tick of a coarse clock must not make its hour last longer.
        """
        if step_s > own_s:
            self._ahead_s += step_s - own_s
            if self._ahead_s > _MOST_AHEAD / self.fps:  # no tick, but a clock that was set
                self._ahead_s = 0.0
            return step_s
        back_s = min(self._ahead_s, step_s / 2)
        self._ahead_s -= back_s
        return step_s - back_s
