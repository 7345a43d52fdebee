"""RBDC and TBDC: are anomalies found where they are?

Written from Ramachandra & Jones, "Street Scene: A new dataset and evaluation protocol for video
anomaly detection", WACV 2020, section 4:

* a true region is found if a detected region of its frame overlaps it with IoU >= beta = 0.1;
* a track (the regions of one event) is found if at least alpha = 10 % of its regions are;
* a detected region is a false positive if it overlaps no true region of its frame that much;
* the curve is the share of regions (RBDC) or tracks (TBDC) found against the false positives per
  frame, over all thresholds, and the figure is the area under it from 0 to 1 false positive.

A detection may find several true regions, and several detections of one region are no fault.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vad_training.metrics import Scores
from vad_training.metrics.roc import area_under

ALPHA = 0.1
"""Share of a track's regions that must be found."""

BETA = 0.1
"""IoU from which two regions count as the same place."""

Area = npt.NDArray[np.float64] | npt.NDArray[np.bool_]
"""A box, shape (4,) float64: left, top, right, bottom in pixels, right and bottom exclusive; or a
mask, shape (H, W) bool."""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """A region that a detector reports."""

    frame: Hashable
    """Which frame of which video, for example `("01", 17)`."""
    area: Area
    score: float


@dataclass(frozen=True, kw_only=True)
class TrueRegion:
    """A region of the ground truth."""

    frame: Hashable
    area: Area
    track: Hashable
    """Which event it belongs to."""


@dataclass(frozen=True, kw_only=True)
class RegionMetrics:
    """Areas under the two curves, each 0..1."""

    rbdc: float
    tbdc: float
    regions: int
    tracks: int


def region_metrics(
    detections: Sequence[Detection], truth: Sequence[TrueRegion], frames: int
) -> RegionMetrics:
    """Return RBDC and TBDC.

    Args:
        detections: Of all frames of all videos.
        truth: Of all frames of all videos.
        frames: How many frames there are, with and without regions.

    Raises:
        ValueError: No true region or no frame.
    """
    if not truth or frames < 1:
        raise ValueError("RBDC and TBDC need true regions and frames")
    by_frame: dict[Hashable, list[int]] = {}
    for number, region in enumerate(truth):
        by_frame.setdefault(region.frame, []).append(number)
    found_at = np.full(len(truth), -np.inf)  # the strictest threshold at which a region is found
    false: list[float] = []
    for detection in detections:
        hits = [
            number
            for number in by_frame.get(detection.frame, ())
            if iou(detection.area, truth[number].area) >= BETA
        ]
        found_at[hits] = np.maximum(found_at[hits], detection.score)
        if not hits:
            false.append(detection.score)
    tracks: dict[Hashable, list[float]] = {}
    for region, score in zip(truth, found_at.tolist(), strict=True):
        tracks.setdefault(region.track, []).append(score)
    track_at = [_track_found_at(scores) for scores in tracks.values()]
    wrong = np.array(false, np.float64)
    return RegionMetrics(
        rbdc=_area(found_at, wrong, frames),
        tbdc=_area(np.array(track_at), wrong, frames),
        regions=len(truth),
        tracks=len(tracks),
    )


def iou(first: Area, second: Area) -> float:
    """Return intersection over union of two boxes, two masks, or one of each (0 if both empty)."""
    if first.dtype == bool or second.dtype == bool:
        shape = first.shape if first.dtype == bool else second.shape
        a, b = _mask(first, shape), _mask(second, shape)
        both, either = float((a & b).sum()), float((a | b).sum())
        return both / either if either else 0.0
    corner = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    both = float(np.prod(np.maximum(corner, 0)))
    either = float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2])) - both
    return both / either if either else 0.0


def _mask(area: Area, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    if area.dtype == bool:
        return area.astype(bool, copy=False)
    left, top, right, bottom = np.maximum(np.round(area).astype(int), 0).tolist()
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def _track_found_at(scores: list[float]) -> float:
    """Return the strictest threshold at which the share ALPHA of the regions is found."""
    need = int(np.ceil(ALPHA * len(scores) - 1e-9))
    return sorted(scores, reverse=True)[need - 1]


def _area(found_at: Scores, false: Scores, frames: int) -> float:
    """Return the area under share found against false positives a frame, from 0 to 1."""
    levels = np.unique(np.concatenate([found_at[np.isfinite(found_at)], false]))[::-1]
    share = np.array([0.0, *(float(np.mean(found_at >= level)) for level in levels)])
    rate = np.array([0.0, *(float(np.sum(false >= level)) / frames for level in levels)])
    # Beyond the last threshold nothing more is found; a step that crosses 1 is cut there.
    share, rate = np.append(share, share[-1]), np.append(rate, max(1.0, rate[-1]))
    inside = rate <= 1
    end = float(np.interp(1.0, rate, share))
    return area_under(np.append(rate[inside], 1.0), np.append(share[inside], end))
