"""The offline habits of papers, each under its own name.

None of them can exist in a stream: each looks at the whole video or into the future.
"""

from collections.abc import Sequence

import numpy as np

from vad_runtime.contracts import ConfigError
from vad_training.metrics import Scores

STEPS = "minmax, inverse, median=WIDTH, gaussian=SIGMA"


def minmax(scores: Scores) -> Scores:
    """Stretch one video to 0..1; a constant video becomes 0. Shape (n,), without NaN."""
    low, high = float(scores.min()), float(scores.max())
    stretched: Scores = (scores - low) / (high - low) if high > low else np.zeros_like(scores)
    return stretched


def inverse(scores: Scores) -> Scores:
    """Return ``1 - score``: regularity from anomaly, and back."""
    return 1 - scores


def median(scores: Scores, width: int) -> Scores:
    """Centred median filter whose window shrinks at the ends, shape (n,), without NaN.

    Raises:
        ValueError: An even or non-positive width.
    """
    if width < 1 or width % 2 == 0:
        raise ValueError(f"the median filter's width must be odd and positive, got {width}")
    half = min(width // 2, len(scores))  # nothing lies further away
    padded = np.pad(scores, half, constant_values=np.nan)
    filtered: Scores = np.nanmedian(
        np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1
    )
    return filtered


def gaussian(scores: Scores, sigma: float) -> Scores:
    """Centred Gaussian filter, cut at 4 sigma; at the ends the weights that are left sum to 1.

    Args:
        scores: Shape (n,), without NaN.
        sigma: Standard deviation, frames.

    Raises:
        ValueError: A sigma that is not above 0, or infinite.
    """
    if not 0 < sigma < np.inf:
        raise ValueError(f"the Gaussian's sigma must be above 0 and finite, got {sigma}")
    reach = min(int(4 * sigma + 0.5), len(scores))  # nothing lies further away
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    inside = slice(reach, reach + len(scores))
    total = np.convolve(scores, weights)[inside]
    filtered: Scores = total / np.convolve(np.ones(len(scores)), weights)[inside]
    return filtered


def offline_variant(raw: Scores, steps: Sequence[str]) -> Scores:
    """Apply named steps, one after another, to the raw scores of one video.

    Args:
        raw: Shape (n,), without NaN.
        steps: Each `minmax`, `inverse`, `median=WIDTH` (frames) or `gaussian=SIGMA` (frames).

    Raises:
        ConfigError: An unknown step, or a width or sigma that makes no sense.
    """
    out = raw
    for step in steps:
        name, _, value = step.strip().partition("=")
        try:
            if name in ("minmax", "inverse") and not value:
                out = minmax(out) if name == "minmax" else inverse(out)
            elif name == "median":
                out = median(out, int(value))
            elif name == "gaussian":
                out = gaussian(out, float(value))
            else:
                raise ValueError("there is no such step")
        except ValueError as error:
            raise ConfigError(f"offline step {step!r}: {error}. Use some of: {STEPS}") from None
    return out
