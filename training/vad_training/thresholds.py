"""The operating threshold: from normal footage and a false-alarm budget, or from labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from vad_runtime.contracts import InputError, Scoring
from vad_training.metrics import Scores
from vad_training.metrics.alarms import alarm_runs, usual_step_s
from vad_training.metrics.frames import VideoScores, column_of
from vad_training.metrics.roc import pr_curve
from vad_training.tail import fit_tail, level_interval, level_of

ENOUGH_ALARMS = 10.0
"""So many alarms that the budget allows in the footage let its own quantile decide."""

LEAST_CLUSTERS = 20
"""A tail is not fitted to fewer separate peaks."""

GOOD_CLUSTERS = 50
"""Of the levels with so many separate peaks, the highest is where the tail begins."""

FAR_EXTRAPOLATION = 100.0
"""From here on a warning says that the budget lies far beyond the footage."""

_LEVELS = 40
"""How many levels are tried, from the median up to the highest frame."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Causal scores without a hole in between: the filter and the alarms start afresh behind it."""

    times_s: Scores
    """Shape (n,), rising."""
    scores: Scores
    """Shape (n,), smoothed and normalised, without NaN."""

    @property
    def seconds(self) -> float:
        """How long it lasts; the last frame lasts as long as a usual one."""
        if not len(self.times_s):
            return 0.0
        return float(self.times_s[-1] - self.times_s[0]) + usual_step_s(self.times_s)


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A threshold and the figures behind it, for the manifest."""

    value: float
    method: str
    evidence: dict[str, Any]
    warning: str | None = None

    def applied_to(self, scoring: Scoring) -> Scoring:
        """Return the scoring with this threshold; filter and durations stay."""
        return msgspec.structs.replace(
            scoring, threshold=self.value, method=self.method, evidence=self.evidence
        )


# -- normal footage and a budget -----------------------------------------------------------------


def alarms_in(stretches: Sequence[Stretch], scoring: Scoring) -> int:
    """Return how many alarms a scoring raises; hysteresis and minimum duration count."""
    return sum(len(alarm_runs(s.times_s, s.scores, scoring)) for s in stretches)


def alarm_levels(stretches: Sequence[Stretch], scoring: Scoring) -> Scores:
    """Return for each alarm that a scoring raises the highest threshold that still raises it.

    Without a minimum duration that is the alarm's peak. With one, it is the highest value from
    which the score stays above the release level for long enough. These are the declustered peaks
    of extreme-value theory: the device's own alarms are the clusters.

    Args:
        stretches: Normal footage.
        scoring: With a threshold: the level over which the clusters are formed.

    Returns:
        Shape (alarms,), each at or above the threshold.
    """
    levels = []
    for stretch in stretches:
        for first, last in alarm_runs(stretch.times_s, stretch.scores, scoring).tolist():
            times, scores = stretch.times_s[first : last + 1], stretch.scores[first : last + 1]
            if scoring.min_duration_s == 0:
                levels.append(float(scores.max()))
                continue
            base = float(scoring.threshold or 0.0)
            candidates = np.unique([base, *scores[scores >= base]])
            low, high = 0, len(candidates) - 1  # the lowest raises it; find the highest that does
            while low < high:
                middle = (low + high + 1) // 2
                tried = msgspec.structs.replace(scoring, threshold=float(candidates[middle]))
                raised = len(alarm_runs(times, scores, tried)) > 0
                low, high = (middle, high) if raised else (low, middle - 1)
            levels.append(float(candidates[low]))
    return np.array(levels)


def threshold_from_budget(
    stretches: Sequence[Stretch], scoring: Scoring, false_alarms_per_day: float
) -> Threshold:
    """Choose the threshold at which normal footage raises so many alarms a day.

    Where the budget allows ten alarms or more in the footage, the footage itself decides:
    the threshold lies between the last alarm that is allowed and the next. Beyond, peaks over a
    level: a generalised Pareto tail is fitted to the declustered peaks (`alarm_levels`), with the
    profile-likelihood interval of the threshold (Coles 2001, chapter 4; `vad_training.tail`).

    Args:
        stretches: Causal scores of normal footage that the model was not trained on.
        scoring: Its release and minimum duration count; its threshold does not.
        false_alarms_per_day: The budget, above 0.

    Raises:
        InputError: The footage is too short to say anything (the message says how much is needed),
            or its highest peaks are all equal.
    """
    seconds = sum(stretch.seconds for stretch in stretches)
    everything = np.concatenate([s.scores for s in stretches]) if stretches else np.zeros(0)
    if not len(everything) or everything.max() == everything.min():
        raise InputError(
            "the normal footage scores the same in every frame, so no threshold can be chosen. "
            "Give footage with some motion."
        )
    if not seconds:
        raise InputError("the normal footage never has two frames in a row. Give longer videos.")
    allowed = false_alarms_per_day * seconds / 86400
    evidence: dict[str, Any] = {
        "false_alarms_per_day": false_alarms_per_day,
        "hours_of_footage": round(seconds / 3600, 4),
        "frames": len(everything),
        "stretches": len(stretches),
        "alarms_allowed_in_footage": round(allowed, 6),
    }
    base = _base_level(stretches, scoring, everything, seconds, allowed)
    levels = np.sort(alarm_levels(stretches, base))[::-1]
    if allowed >= ENOUGH_ALARMS:
        if len(levels) <= math.floor(allowed):
            raise InputError(
                f"the normal footage raises at most {len(levels)} separate alarms at any "
                f"threshold, fewer than the {allowed:.0f} that {false_alarms_per_day:g} a day "
                "allow. Give a smaller --false-alarms-per-day."
            )
        value, interval = _empirical(stretches, base, levels, allowed)
        evidence |= {"rule": "empirical quantile", "threshold_95": interval}
        how = f"the footage's own quantile ({len(levels)} separate peaks)"
        warning = None
    else:
        # Never below what the footage itself says of a larger budget.
        counted, _ = _empirical(stretches, base, levels, ENOUGH_ALARMS)
        tail = fit_tail(levels, _tail_level(everything, float(base.threshold or 0.0)))
        rarer = len(levels) / allowed
        value = max(level_of(tail, rarer), counted)
        low, high = level_interval(levels, tail, rarer)
        interval = [_rounded(low), _rounded(max(high, value))]
        evidence |= {
            "rule": "generalised Pareto tail, peaks over a level",
            "clusters": len(levels),
            **{key: _rounded(getattr(tail, key)) for key in ("u", "xi", "sigma")},
            "extrapolation": round(1 / allowed, 2),
            "threshold_95": interval,
        }
        how = f"generalised Pareto tail of {len(levels)} separate peaks"
        warning = None
        if 1 / allowed > FAR_EXTRAPOLATION:
            warning = (
                f"one alarm in {_span(seconds / allowed)} is asked for, {1 / allowed:.0f} times as "
                f"long as the footage ({_span(seconds)}); give more footage to trust it"
            )
    return Threshold(
        value=_rounded(value),
        method=(
            f"{false_alarms_per_day:g} false alarms a day on {_span(seconds)} of normal footage: "
            f"{how}"
        ),
        evidence=evidence,
        warning=warning,
    )


def _base_level(
    stretches: Sequence[Stretch],
    scoring: Scoring,
    everything: Scores,
    seconds: float,
    allowed: float,
) -> Scoring:
    """Return the scoring whose threshold forms the clusters: the highest level with enough.

    Raises:
        InputError: No level has enough.
    """
    want = max(GOOD_CLUSTERS, 2 * math.ceil(allowed)) if allowed >= ENOUGH_ALARMS else GOOD_CLUSTERS
    most, best = 0, scoring
    above = np.geomspace(min(1 / len(everything), 0.5), 0.5, _LEVELS)
    for level in np.quantile(everything, 1 - above).tolist():
        tried = _at(scoring, level)
        clusters = alarms_in(stretches, tried)
        if clusters > most:
            most, best = clusters, tried
        if clusters >= want:
            return tried
    if most >= LEAST_CLUSTERS:
        return best
    need = f"about {_span(seconds * LEAST_CLUSTERS / most)}" if most else "far more"
    raise InputError(
        f"{_span(seconds)} of normal footage hold {most} separate peaks, and a threshold needs "
        f"{LEAST_CLUSTERS}. Give {need} of footage."
    )


def _empirical(
    stretches: Sequence[Stretch], base: Scoring, levels: Scores, allowed: float
) -> tuple[float, list[float]]:
    """Return the threshold that raises at most `allowed` (>= 1) alarms, and its 95 % interval.

    The interval: the number of alarms at the true threshold is Poisson with mean `allowed`; the
    levels at its 0.025 and 0.975 quantiles bound the threshold.

    Raises:
        InputError: More peaks than that are equal and the highest.
    """
    from scipy.stats import poisson

    place = math.floor(allowed)
    # One cluster may hold several alarms at a higher threshold: then a higher one is needed.
    while place > 0 and alarms_in(stretches, _at(base, _between(levels, place))) > allowed:
        place -= 1
    if place == 0:
        raise InputError(
            f"{int(np.sum(levels == levels[0]))} peaks of the normal footage all score "
            f"{levels[0]:.6g}, the highest score, so no threshold can tell them apart. "
            "Use a score that does not saturate."
        )
    few, many = (int(poisson.ppf(share, allowed)) for share in (0.025, 0.975))
    interval = [_rounded(_between(levels, many)), _rounded(_between(levels, few))]
    return _between(levels, place), interval


def _tail_level(everything: Scores, base: float) -> float:
    """Return the middle between `base` and the next lower score.

    Scores in coarse steps have many peaks at `base` itself, and a tail of excesses that are mostly
    0 would shrink to nothing.
    """
    below = everything[everything < base]
    return (base + float(below.max())) / 2 if len(below) else base


def _between(levels: Scores, count: int) -> float:
    """Return the middle between the `count`-th highest level and the next."""
    upper = levels[min(count, len(levels)) - 1]
    return float(upper + levels[min(count, len(levels) - 1)]) / 2


def _at(scoring: Scoring, threshold: float) -> Scoring:
    return msgspec.structs.replace(scoring, threshold=threshold)


# -- labels --------------------------------------------------------------------------------------


def threshold_from_labels(
    videos: Sequence[VideoScores], label_set: str, *, recall: float | None = None
) -> Threshold:
    """Choose the threshold of the best F1, or the highest one that keeps a recall, over frames.

    Args:
        videos: Their causal scores count.
        label_set: Goes into the evidence: figures on the same data are optimistic.
        recall: The floor, in 0..1; None = best F1.

    Raises:
        InputError: The labels hold one class only.
    """
    scores = np.concatenate(column_of(videos, "causal"))
    truth = np.concatenate([video.truth for video in videos])
    if truth.all() or not truth.any():
        raise InputError("the labels hold one class only, and a threshold needs both. Add videos.")
    curve = pr_curve(scores, truth)
    f1 = 2 * curve.x * curve.y / np.maximum(curve.x + curve.y, 1e-12)
    if recall is None:
        at = int(np.argmax(f1))
        rule = "best F1 over frames"
    else:
        at = int(np.argmax(curve.x >= recall - 1e-12))
        rule = f"highest threshold with a recall of {recall:g} over frames"
    # Between this score and the next lower one, so that rounding moves no frame.
    lower = curve.thresholds[at + 1] if at + 1 < len(curve.thresholds) else curve.thresholds[at]
    middle = float(curve.thresholds[at] + lower) / 2
    value = _rounded(middle) if lower < _rounded(middle) <= curve.thresholds[at] else middle
    return Threshold(
        value=value,
        method=f"{rule} of {label_set}; figures on the same data are optimistic",
        evidence={
            "label_set": label_set,
            "rule": rule,
            "videos": len(videos),
            "frames": len(scores),
            "f1": round(float(f1[at]), 6),
            "precision": round(float(curve.y[at]), 6),
            "recall": round(float(curve.x[at]), 6),
        },
        warning=f"chosen on {label_set}: do not report figures of this threshold on the same data",
    )


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _span(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            number = f"{seconds / length:.3g}"
            return "1 day" if (number, unit) == ("1", "days") else f"{number} {unit}"
    return f"{seconds:.3g} s"
