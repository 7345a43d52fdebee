"""Normaliser and threshold from normal footage alone."""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from vad_runtime.backends.base import Backend
from vad_runtime.contracts import InputError, Manifest, Scoring
from vad_runtime.detector import Detector
from vad_runtime.progress import progress
from vad_runtime.scoring import causal_scores
from vad_runtime.sources.base import Frame
from vad_training.data.store import Frames, FrameStore, Segment

Scores = npt.NDArray[np.float64]

LEAST_FRAMES = 100

SMOOTHING = Scoring(smoothing="mean", window=4, release=0.7)
"""The causal filter of `deploy`; chosen on validation sites (docs/results/deploy_recipe.md)."""


def raw_scores(
    manifest: Manifest,
    backend: Backend,
    store: FrameStore,
    segments: Sequence[Segment],
    *,
    label: str = "scoring normal footage, parts",
) -> list[Scores]:
    """Score decoded footage by the same road as `vad-run`.

    Args:
        manifest: Of the bundle that `backend` runs.
        backend: Open; stays open.
        store: The footage at model size.
        segments: Which parts of it.
        label: What the progress bar says.

    Returns:
        For each segment the raw score of every row, NaN where a row has none.
    """
    # The store holds every stride-th frame already.
    clip = manifest.clip
    dense = msgspec.structs.replace(clip, stride=1, hop=clip.hop // clip.stride)
    manifest = msgspec.structs.replace(manifest, clip=dense)
    out = []
    with progress(label, len(segments)) as bar:
        for segment in segments:
            detector = Detector(manifest, backend)
            rows = store.frames[segment.start : segment.start + segment.frames]
            settled = detector.run(_frames(rows), nominal_fps=1.0)
            out.append(np.array([np.nan if s.raw is None else s.raw for s in settled]))
            bar.advance()
    return out


def _frames(rows: Frames) -> Iterator[Frame]:
    for index, pixels in enumerate(rows):
        yield Frame(index=index, pts_s=float(index), pixels=pixels, picture=lambda: pixels)  # noqa: B023 - never called: no overlay is drawn


def require_enough_frames(frames: int) -> None:
    """Refuse so little normal footage that its quantiles mean nothing.

    Raises:
        InputError: Fewer than 100 frames.
    """
    if frames < LEAST_FRAMES:
        raise InputError(
            f"{frames} scored frames of normal footage are too few for a threshold; "
            f"{LEAST_FRAMES} are the least, several minutes are good. Give more footage."
        )


def scoring_from_normal(
    raw: Sequence[Scores],
    *,
    quantile: float = 0.999,
    smoothing: Scoring = SMOOTHING,
    margin: float = 1.1,
) -> Scoring:
    """Choose offset, scale and threshold from the scores of normal validation footage.

    0 becomes the median of normal footage, 1 its quantile; the threshold is that quantile of the
    *smoothed* score times `margin`, since a few minutes of footage never show the worst of a day.

    Args:
        raw: For each video the raw scores of its frames, NaN where there is none.
        quantile: In 0..1.
        smoothing: Whose filter, release and minimum duration are used.
        margin: Factor on the threshold.

    Raises:
        InputError: Fewer than 100 scored frames.
    """
    known = np.concatenate([scores[~np.isnan(scores)] for scores in raw])
    require_enough_frames(len(known))
    offset = float(np.median(known))
    scale = float(np.quantile(known, quantile)) - offset
    if scale <= 0:
        raise InputError(
            "the normal footage scores the same in every frame, so no threshold can be chosen. "
            "Give footage with some motion."
        )
    normalised = msgspec.structs.replace(smoothing, offset=offset, scale=scale)
    smoothed = [causal_scores(scores, normalised) for scores in raw]
    level = np.quantile(np.concatenate([s[~np.isnan(s)] for s in smoothed]), quantile)
    return msgspec.structs.replace(
        normalised,
        threshold=round(float(level) * margin, 4),
        method=(
            f"{quantile:g} quantile of the smoothed score of normal validation footage "
            f"times {margin:g}; 0 = its median, 1 = its {quantile:g} quantile before smoothing"
        ),
        evidence={"videos": len(raw), "frames": len(known), "quantile": quantile, "margin": margin},
    )
