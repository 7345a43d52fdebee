"""How long to wait before a lost stream is sought again."""

import random
from collections.abc import Callable

from vad_runtime.contracts.site import ReconnectSettings

WELL_S = 10.0
"""A stream that has been well for so long was no flicker: the next loss starts from the shortest
wait again, seconds."""

_MOST_DOUBLINGS = 32  # of a float that a month of tries must not make infinite


class Backoff:
    """Exponential backoff with full jitter: a uniform wait up to a ceiling that doubles.

    Full jitter spreads many clients that lost the same switch at the same moment best (M. Brooker,
    "Exponential Backoff And Jitter", AWS architecture blog, 2015).

    A camera that refuses our credentials is asked at a fixed slow pace instead, between half of
    `refused_s` and all of it: many cameras lock an account after a few wrong tries, and a full
    jitter would now and then try twice within a second.

    Not for several threads.

    Args:
        settings: The ceilings.
        uniform: Returns a number between its two arguments; `random.uniform`, but for tests.
    """

    def __init__(
        self,
        settings: ReconnectSettings,
        *,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._settings = settings
        self._uniform = uniform
        self.tries = 0
        """Waits since the last reset."""

    def wait_s(self, *, refused: bool = False) -> float:
        """Return how long to wait before the next try, seconds, and count it."""
        first_s, longest_s = self._settings.first_s, self._settings.longest_s
        doublings = min(self.tries, _MOST_DOUBLINGS)
        self.tries += 1
        if refused:
            return self._uniform(self._settings.refused_s / 2, self._settings.refused_s)
        return self._uniform(0.0, min(longest_s, first_s * 2.0**doublings))

    def ended(self, well_s: float) -> None:
        """Note that a connection has given frames for so many seconds before it was lost."""
        if well_s >= WELL_S:
            self.tries = 0
