"""Small gauges of the last seconds, in constant memory."""

from collections import deque

_LONGEST_S = 5.0


class RateGauge:
    """Frames a second over the last five seconds, by the times at which they arrived.

    Measured from the first to the last of them, so frames that come in bursts give no other rate.
    One thread adds; any thread may read.
    """

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=512)

    def add(self, time_s: float) -> None:
        """Count a frame that arrived at this monotonic time, seconds."""
        self._times.append(time_s)

    def value(self, now_s: float) -> float:
        """Return the rate; 0 where nothing has come for five seconds, or only one frame."""
        times = [time_s for time_s in self._times.copy() if time_s > now_s - _LONGEST_S]
        if len(times) < 2 or times[-1] <= times[0]:
            return 0.0
        return (len(times) - 1) / (times[-1] - times[0])


class Sparkline:
    """The largest value of each of the last seconds.

    One thread adds; any thread may read.

    Args:
        length: Seconds that are kept.
    """

    def __init__(self, length: int = 120) -> None:
        self._length = length
        self._seconds: deque[tuple[int, float]] = deque(maxlen=length)

    def add(self, time_s: float, value: float) -> None:
        """Take a value of this monotonic time, seconds; times never fall by a second or more."""
        second = int(time_s)
        if self._seconds and self._seconds[-1][0] >= second:
            last, largest = self._seconds[-1]
            self._seconds[-1] = (last, max(largest, value))
        else:
            self._seconds.append((second, value))

    def values(self, now_s: float) -> list[float | None]:
        """Return the seconds up to now, oldest first; None = nothing came in that second.

        Seconds before the first value are left out.
        """
        kept = dict(self._seconds.copy())
        now = int(now_s)
        first = max(min(kept, default=now + 1), now - self._length + 1)
        return [kept.get(second) for second in range(first, now + 1)]


class BusyGauge:
    """Share of the last ten seconds in which something was at work.

    One thread adds; any thread may read.
    """

    _SECONDS = 10

    def __init__(self, start_s: float) -> None:
        self._start_s = start_s
        self._spans: deque[tuple[float, float]] = deque(maxlen=4096)

    def add(self, start_s: float, end_s: float) -> None:
        """Take one piece of work, from and to a monotonic time, seconds."""
        self._spans.append((start_s, end_s))

    def value(self, now_s: float) -> float:
        """Return the share, 0 to 1."""
        spans = self._spans.copy()
        since = max(self._start_s, now_s - self._SECONDS)
        if len(spans) == self._spans.maxlen:  # thousands of runs a second: what is kept is shorter
            since = max(since, spans[0][0])
        worked = sum(max(0.0, end - max(start, since)) for start, end in spans)
        return min(1.0, worked / (now_s - since)) if now_s > since else 0.0
