"""Raw scores to scores an operator can use: causal for streams, per-video for papers."""

from collections import deque

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts.manifest import Scoring

Scores = npt.NDArray[np.float64]

_AT_ONCE = 4096
"""Windows that are sorted together."""


class CausalScorer:
    """Normalises and smooths with nothing but the past: ``filter((raw - offset) / scale)``.

    Args:
        scoring: Offset, scale and filter of the manifest.
    """

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring
        self._recent: deque[float] = deque(maxlen=scoring.window)

    def update(self, raw: float) -> float:
        """Take the next raw score and return its normalised, smoothed value."""
        self._recent.append((raw - self._scoring.offset) / self._scoring.scale)
        if self._scoring.smoothing == "mean":
            # `np.mean` to the bit, at a third of its time: it takes a deque element by element.
            return float(np.add.reduce(np.array(tuple(self._recent))) / len(self._recent))
        if self._scoring.smoothing == "median":
            return float(np.median(self._recent))
        return self._recent[-1]

    def reset(self) -> None:
        """Forget the past, at a hole."""
        self._recent.clear()


def causal_scores(raw: Scores, scoring: Scoring) -> Scores:
    """Return `CausalScorer`'s values for a sequence without holes, shape (n,).

    A NaN is a frame that was not scored (context, or between two strides): it stays NaN, and the
    filter goes on behind it, as in a live run.
    """
    scorer = CausalScorer(scoring)
    out = np.full(len(raw), np.nan)
    for i, value in enumerate(raw):
        if not np.isnan(value):
            out[i] = scorer.update(float(value))
    return out


class ClipMean:
    """The mean score of each frame over all clips that cover it (the papers' way; not causal)."""

    def __init__(self) -> None:
        self._sum: dict[int, float] = {}
        self._count: dict[int, int] = {}

    def add(self, indices: list[int], scores: npt.NDArray[np.float32]) -> None:
        """Take the scores, shape (n,), of the frames `indices` from one clip."""
        for index, score in zip(indices, scores.tolist(), strict=True):
            self._sum[index] = self._sum.get(index, 0.0) + score
            self._count[index] = self._count.get(index, 0) + 1

    def values(self, frames: int) -> Scores:
        """Return the means for frames 0 to `frames` - 1, NaN where no clip covers a frame."""
        out = np.full(frames, np.nan)
        for index, total in self._sum.items():
            if index < frames:
                out[index] = total / self._count[index]
        return out


def offline_scores(raw: Scores, *, median: int = 17) -> Scores:
    """Min-max over the video, then a centred median filter: the score that papers report.

    It looks into the future and stretches every video to 0..1, so it cannot exist in a stream.
    Near the ends the filter's window shrinks (zero padding would make the curve dip). NaN stays
    NaN and is passed over.

    Args:
        raw: Shape (n,), raw score of each frame of one video.
        median: Width of the filter, frames; odd.

    Returns:
        Shape (n,), in 0..1; a constant video gives 0.

    Raises:
        ValueError: An even or non-positive width.
    """
    if median < 1 or median % 2 == 0:
        raise ValueError(f"the median filter's width must be odd and positive, got {median}")
    known = raw[~np.isnan(raw)]
    if not len(known):
        return np.array(raw)
    low, high = float(known.min()), float(known.max())
    scaled: Scores = (raw - low) / (high - low) if high > low else raw * 0.0
    out = _running_median(scaled, median)
    out[np.isnan(raw)] = np.nan
    return out


def _running_median(values: Scores, width: int) -> Scores:
    """Return the median of the known values in a centred window of `width` around each value.

    One sort of a table of windows: `np.nanmedian`, window by window, took longer than all else that
    is ours in a film.
    """
    padded = np.pad(values, width // 2, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    out = np.full(len(values), np.nan)
    for start in range(0, len(values), _AT_ONCE):  # a day of footage must not be one table
        part = np.sort(windows[start : start + _AT_ONCE], axis=1)  # NaN goes to the end
        known = np.count_nonzero(~np.isnan(part), axis=1)
        rows = np.flatnonzero(known)
        low, high = part[rows, (known[rows] - 1) // 2], part[rows, known[rows] // 2]
        out[start + rows] = (low + high) / 2
    return out
