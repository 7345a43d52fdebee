"""The tail of a distribution: generalised Pareto distribution (GPD) over a high level.

Formulas from Coles, "An Introduction to Statistical Modeling of Extreme Values", Springer 2001,
chapter 4. For excesses ``y = peak - u > 0`` over a level u::

    P(Y > y) = (1 + xi y / sigma)^(-1 / xi)            (4.2); exp(-y / sigma) for xi = 0
    log L    = -n log sigma - (1 + 1 / xi) sum log(1 + xi y_i / sigma)                (4.10)

A level that is passed `m` times more rarely than u is (4.12, with m = N zeta_u)::

    z = u + sigma / xi (m^xi - 1)                      u + sigma log m for xi = 0
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

XI_RANGE = (-0.5, 1.0)
"""Shapes that are tried: below -0.5 maximum likelihood is not regular (Coles, section 4.3.2), and
above 1 the tail has no mean."""

_XI = np.linspace(*XI_RANGE, 301)
_HALF_CHI2_95 = 1.9207294103470622
"""Half the 0.95 quantile of chi-squared with one degree of freedom."""


@dataclass(frozen=True, kw_only=True)
class Tail:
    """A fitted GPD."""

    xi: float
    sigma: float
    u: float
    """The level over which the excesses were taken."""
    peaks: int


def fit_tail(peaks: Floats, u: float) -> Tail:
    """Fit a GPD to the excesses of independent peaks over `u` by maximum likelihood.

    The shape is searched on a grid of step 0.005; for each shape the best scale is exact.

    Args:
        peaks: Shape (n,), all >= u, not all equal to it.
        u: The level.

    Raises:
        ValueError: No peak above the level, or one below it.
    """
    excess = peaks - u
    if not len(excess) or excess.min() < 0 or excess.max() <= 0:
        raise ValueError("a tail needs peaks above its level, and none below it")
    sigma = _best_scales(excess)
    best = int(np.argmax(_log_likelihood(excess, _XI, sigma)))
    return Tail(xi=float(_XI[best]), sigma=float(sigma[best]), u=u, peaks=len(peaks))


def level_of(tail: Tail, rarer: float) -> float:
    """Return the level that is passed `rarer` (>= 1) times more rarely than the tail's `u`."""
    return tail.u + tail.sigma * float(_growth(np.array([tail.xi]), rarer)[0])


def level_interval(peaks: Floats, tail: Tail, rarer: float) -> tuple[float, float]:
    """Return the 95 % confidence interval of `level_of` by profile likelihood (Coles, 4.3.3).

    For each candidate level z the scale follows from the shape,
    ``sigma = (z - u) xi / (m^xi - 1)``, and the best shape is taken; the interval holds the levels
    whose likelihood is within half the 0.95 quantile of chi-squared. How often u itself is passed
    is taken as known, as there.

    Args:
        peaks: What the tail was fitted to.
        tail: From `fit_tail`.
        rarer: Above 1.
    """
    excess = peaks - tail.u
    best = level_of(tail, rarer) - tail.u
    growth = _growth(_XI, rarer)
    top = float(_log_likelihood(excess, np.array([tail.xi]), np.array([tail.sigma]))[0])

    def inside(z: float) -> bool:
        return float(_log_likelihood(excess, _XI, z / growth).max()) >= top - _HALF_CHI2_95

    def edge(step: float) -> float:
        """Walk away from the best level until outside, then halve the last step."""
        near, far = best, best * step
        while inside(far) and 1e-12 < far / best < 1e12:
            near, far = far, far * step
        for _ in range(40):
            middle = (near + far) / 2
            near, far = (middle, far) if inside(middle) else (near, middle)
        return near

    return tail.u + edge(0.8), tail.u + edge(1.25)


def _growth(xi: Floats, rarer: float) -> Floats:
    """Return ``(m^xi - 1) / xi``, log m for xi = 0."""
    log = np.log(rarer)
    small = np.abs(xi) < 1e-9
    safe = np.where(small, 1.0, xi)
    out: Floats = np.where(small, log, np.expm1(safe * log) / safe)
    return out


def _log_likelihood(excess: Floats, xi: Floats, sigma: Floats) -> Floats:
    """Return log L for each pair of shape and scale, shape (k,); -inf for what cannot be."""
    scaled = 1 + xi[:, None] * excess / sigma[:, None]
    possible = (scaled > 0).all(axis=1)
    logs = np.log(np.where(scaled > 0, scaled, 1.0)).sum(axis=1)
    small = np.abs(xi) < 1e-9
    safe = np.where(small, 1.0, xi)
    power = np.where(small, excess.sum() / sigma, (1 + 1 / safe) * logs)
    out: Floats = np.where(possible, -len(excess) * np.log(sigma) - power, -np.inf)
    return out


def _best_scales(excess: Floats) -> Floats:
    """Return for each shape of the grid the scale of the highest likelihood, shape (301,).

    The derivative by log sigma, ``-n + (1 + xi) sum (y / sigma) / (1 + xi y / sigma)``, falls with
    sigma, so its zero is found by halving.
    """
    xi = _XI[:, None]
    highest, mean = float(excess.max()), float(excess.mean())
    # A negative shape ends the tail at -sigma / xi, which must lie beyond the highest peak.
    low = np.log(np.maximum(-_XI * highest * (1 + 1e-9), mean * 1e-6))
    high = np.full_like(low, np.log(mean * 2 + highest * 2))
    for _ in range(45):
        middle = (low + high) / 2
        y = excess / np.exp(middle)[:, None]
        slope = -len(excess) + ((1 + xi) * y / (1 + xi * y)).sum(axis=1)
        low, high = np.where(slope > 0, middle, low), np.where(slope > 0, high, middle)
    scales: Floats = np.exp(high)
    return scales
