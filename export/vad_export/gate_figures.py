"""Figures of the parity gate: scores against the reference's, in decisions and not in tensors."""

import math
from dataclasses import dataclass

import msgspec
import numpy as np

from vad_calibration.agreement import agreement_of, share_of
from vad_export.gate_scores import GateFootage, Place, Scores
from vad_export.parity import FP32_BUDGET
from vad_export.precision_config import Budget
from vad_runtime.backends.base import Backend
from vad_runtime.contracts import InputError, Manifest, Scoring
from vad_runtime.scoring import causal_scores
from vad_training.metrics.roc import roc_auc

QUANTILE = 0.99
"""Of the reference's scores: stands for the threshold where the manifest has none."""

FEW = 100
"""Scored frames below which a report says that they are few."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Where decisions are compared."""

    value: float
    """An alarm at or above it, in normalised units."""
    source: str
    """Where it comes from, for people."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A candidate's scores against the reference's."""

    frames: int
    """Scored frames (or segments) that were compared."""
    max_difference: float
    """Largest |difference| of a raw score, in the graph's own unit."""
    mean_difference: float
    max_of_spread: float | None
    """Largest |difference| / spread of the reference (5th to 95th percentile); None = infinite:
    the reference is constant and was not met."""
    mean_of_spread: float | None
    max_of_scale: float
    """Largest |difference| / largest |reference score|, as the export's own check has it."""
    cosine: float
    spearman: float
    """Rank correlation of the raw scores."""
    flips: int
    """Frames whose normalised, smoothed score is on the other side of the threshold."""
    flip_share: float
    flip_distance: float | None
    """Largest |reference - threshold| among the flips, normalised units; None without flips."""
    flip_of_spread: float | None
    """The same distance in raw units / spread of the reference; None = infinite, or no flips."""
    auc_reference: float | None = None
    """Micro AUC over frames of the normalised, smoothed score; None without labels."""
    auc: float | None = None

    @property
    def auc_delta(self) -> float | None:
        """AUC minus the reference's; None without labels."""
        if self.auc is None or self.auc_reference is None:
            return None
        return self.auc - self.auc_reference


@dataclass(frozen=True, kw_only=True)
class WorstClip:
    """The clip with the largest difference of a raw score."""

    place: Place
    reference: float
    """Raw score of the frame."""
    score: float
    """The candidate's."""


class Comparison:
    """The reference's scores, and how others compare with them."""

    def __init__(
        self, manifest: Manifest, footage: GateFootage, backend: Backend, budget: Budget
    ) -> None:
        self._footage, self.budget, self.device = footage, budget, backend.device
        self._scoring = manifest.scoring
        if manifest.features is not None:
            # A segment's score holds for many frames, so a filter over frames soon reaches it.
            self._scoring = msgspec.structs.replace(manifest.scoring, smoothing="none")
        self._raw = footage.scores(backend)
        self._scored = [~np.isnan(part) for part in self._raw]
        self._decided = _decided(self._raw, self._scoring)
        expected = self._joined(self._decided)
        self.threshold = _threshold(manifest.scoring, expected)
        self._auc = self._auc_of(self._decided)
        self.notes: list[str] = []
        if len(expected) < FEW:
            self.notes.append(f"{len(expected)} scored frames are few; give more footage")

    def of(self, backend: Backend) -> tuple[Figures, WorstClip]:
        """Score the footage with a candidate and compare.

        Raises:
            BackendError: It cannot score the footage, for example since a score is not finite.
        """
        raw = self._footage.scores(backend)
        figures, at = self._figures(raw)
        return figures, self._worst(raw, at)

    def _figures(self, raw: list[Scores]) -> tuple[Figures, int]:
        """Return the figures, and the number of the scored frame that differs most."""
        reference, limit = self._joined(self._raw), self.threshold.value
        found = agreement_of(reference, self._joined(raw))
        decided = _decided(raw, self._scoring)
        expected = self._joined(self._decided)
        flipped = (expected >= limit) != (self._joined(decided) >= limit)
        scale = float(np.abs(reference).max())
        distance = float(np.abs(expected[flipped] - limit).max()) if flipped.any() else None
        figures = Figures(
            frames=found.count,
            max_difference=found.max_error,
            mean_difference=found.mean_error,
            max_of_spread=_finite(found.max_of_spread),
            mean_of_spread=_finite(found.mean_of_spread),
            max_of_scale=found.max_error / scale if scale else found.max_error,
            cosine=found.cosine,
            spearman=found.spearman,
            flips=int(flipped.sum()),
            flip_share=float(flipped.mean()),
            flip_distance=distance,
            flip_of_spread=(
                None
                if distance is None
                else _finite(share_of(distance * self._scoring.scale, found.spread))
            ),
            auc_reference=self._auc,
            auc=self._auc_of(decided),
        )
        return figures, found.worst[0]

    def _joined(self, parts: list[Scores]) -> Scores:
        """Return the frames that the reference scored, of all parts one after another."""
        return np.concatenate([p[known] for p, known in zip(parts, self._scored, strict=True)])

    def _auc_of(self, decided: list[Scores]) -> float | None:
        if self._footage.truth is None:
            return None
        wide = [self._footage.widened(part, scores) for part, scores in enumerate(decided)]
        scores, truth = np.concatenate(wide), np.concatenate(self._footage.truth)
        known = ~np.isnan(scores)
        truth = truth[known]
        if truth.all() or not truth.any():
            kind = "anomalous" if truth.any() else "normal"
            raise InputError(
                f"the labels call all {len(truth)} scored frames {kind}, and an AUC needs both "
                "kinds. Score more of the footage (--count 0), or leave out --labels."
            )
        return roc_auc(scores[known], truth)

    def _worst(self, raw: list[Scores], at: int) -> WorstClip:
        ends = np.cumsum([known.sum() for known in self._scored])
        part = int(np.searchsorted(ends, at, side="right"))
        places = np.flatnonzero(self._scored[part])
        row = int(places[at - int(ends[part]) + len(places)])
        return WorstClip(
            place=self._footage.place(part, row),
            reference=float(self._raw[part][row]),
            score=float(raw[part][row]),
        )


def broken_limits(figures: Figures, budget: Budget, *, fp32: bool = False) -> list[str]:
    """Return a text with value and limit for each limit that does not hold.

    Args:
        figures: Of one candidate.
        budget: The limits.
        fp32: Hold it to the limit of the export's own check too.
    """
    out = []
    # Written so that a NaN or None, which is an infinite error, breaks its limit.
    if not figures.spearman >= budget.spearman:
        out.append(f"Spearman {figures.spearman:.5f}, the budget is at least {budget.spearman:g}")
    mean = figures.mean_of_spread
    if mean is None or not mean <= budget.mean_error:
        shown = "infinite" if mean is None else f"{100 * mean:.4g} %"
        limit = f"{100 * budget.mean_error:g} % of the spread"
        out.append(f"mean error {shown}, the budget is {limit}")
    furthest = math.inf if figures.flip_of_spread is None else figures.flip_of_spread
    if not budget.flips_hold(figures.flips, figures.frames, furthest):
        share = f"{100 * figures.flip_share:.4g} %, the budget is {100 * budget.flips:g} %"
        out.append(f"{figures.flips} of {figures.frames} decisions flip: {share}")
    delta = figures.auc_delta
    if delta is not None and not abs(delta) <= budget.auc_delta:
        out.append(f"AUC {delta:+.5f}, the budget is {budget.auc_delta:g} either way")
    if fp32 and not figures.max_of_scale <= FP32_BUDGET:
        out.append(
            f"a score differs by {figures.max_of_scale:.1e} of the scores' scale, the budget of "
            f"fp32 is {FP32_BUDGET:.0e}"
        )
    return out


def _decided(raw: list[Scores], scoring: Scoring) -> list[Scores]:
    return [causal_scores(part, scoring) for part in raw]


def _threshold(scoring: Scoring, reference: Scores) -> Threshold:
    if scoring.threshold is not None:
        return Threshold(value=scoring.threshold, source="the bundle's")
    level = float(np.quantile(reference, QUANTILE))
    return Threshold(
        value=level,
        source=f"the bundle has none: the {QUANTILE:g} quantile of the reference's scores",
    )


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if np.isfinite(value) else None
