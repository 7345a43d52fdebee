"""Is what is timed the answer? Scores must be finite, and the same for the same clip."""

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts.errors import BackendError
from vad_runtime.contracts.manifest import Precision

Scores = npt.NDArray[np.float32]

TOLERANCE: dict[Precision, float] = {
    "fp32": 1e-4,
    "bf16": 2e-2,
    "fp16": 5e-3,
    "int8": 1e-2,
    "mixed": 1e-2,
}
"""How far a score may be from that of the first run of its clip, as a share of the clip's largest.

Engines mostly repeat themselves to the bit. Threads that add up in another order change the last
bits; a rounding to fewer bits may then fall to the other side.
"""


class WrongAnswerError(BackendError):
    """What is timed is not the answer."""


class Answers:
    """Compares every answer with the first one for the same clip.

    Args:
        tolerance: From `TOLERANCE`.
        who: The back end, for the message.
    """

    def __init__(self, tolerance: float, who: str) -> None:
        self.tolerance = tolerance
        self._who = who
        self._first: dict[object, Scores] = {}
        self.checked = 0
        self.largest = 0.0
        """Largest relative difference so far."""

    def forget(self) -> None:
        """Begin anew, with other clips."""
        self._first.clear()

    def check(self, clip: object, scores: Scores) -> None:
        """Take the scores of a clip.

        Args:
            clip: Anything that names the clip.
            scores: Any shape; copied.

        Raises:
            WrongAnswerError: One of them is not finite, or another than in the clip's first run.
        """
        if not np.isfinite(scores).all():
            raise WrongAnswerError(
                f"{self._who} gave a score that is not finite, so its times mean nothing. "
                "Check the bundle with: vad-export verify"
            )
        first = self._first.setdefault(clip, scores.copy())
        size = float(np.abs(first).max())
        gap = float(np.abs(scores - first).max()) if scores.shape == first.shape else np.inf
        relative = gap / size if size > 0 else (0.0 if gap == 0 else np.inf)
        self.checked += 1
        self.largest = max(self.largest, relative)
        if relative > self.tolerance:
            raise WrongAnswerError(
                f"{self._who} gave another score for the same clip (relative difference "
                f"{relative:.2g}, allowed {self.tolerance:g}), so its times mean nothing. "
                "Try another --backend or --precision."
            )
