"""What a case of int8_fidelity_study.py is: a model, its footage, and how it is evaluated.

Every case gives a bundle whose threshold comes from training footage, footage to calibrate on,
footage to choose by (training footage that nothing was calibrated on), and test footage with truth.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from vad_calibration.histograms import Method
from vad_export.bundles import bundle_from_graph
from vad_export.precision_config import Budget
from vad_export.threshold import raw_scores
from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Backend, Options
from vad_runtime.bundle import Bundle, rewrite_manifest
from vad_runtime.contracts import Manifest, Scoring
from vad_runtime.labels import Labels
from vad_training.data.store import FrameStore
from vad_training.graphs import ScoreGraph

METHODS: tuple[Method, ...] = get_args(Method)
BUDGET = Budget()

Scores = list[npt.NDArray[np.float64]]
"""A row of scores for each video; NaN where a frame has none."""

MIL_SETTINGS = "mil_sultani.yaml"


class Footage(Protocol):
    """What can be scored again and again."""

    clips: int

    def scores(self, backend: Backend) -> Scores: ...


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and all that is needed to judge an artefact of it."""

    name: str
    about: str
    bundle: Bundle
    calibration: Path
    """Footage, as `choose_inputs` takes it."""
    inputs: int
    """How many of it."""
    check: Footage
    test: Footage
    aucs: Mapping[str, Callable[[Scores], float]]
    """AUC of the test footage by each protocol, the first being the one that counts."""
    gate: Sequence[Path]
    """What the gate looks at, with `labels`."""
    labels: Labels


class StoreFootage:
    """Decoded videos, scored as `vad-run` scores a stream."""

    def __init__(self, manifest: Manifest, store: FrameStore) -> None:
        self._manifest, self.store = manifest, store
        hop, length = manifest.clip.hop, manifest.clip.frames
        self.clips = sum(1 + -(-(s.frames - length) // hop) for s in store.segments)

    def scores(self, backend: Backend) -> Scores:
        return raw_scores(self._manifest, backend, self.store, self.store.segments)


class ArrayFootage:
    """Inputs that are there already; `videos` holds one array (n, …) for each video."""

    def __init__(self, videos: Sequence[npt.NDArray[Any]]) -> None:
        self._videos = videos
        self.clips = sum(len(video) for video in videos)

    def scores(self, backend: Backend) -> Scores:
        return [backend.infer(v)["score"].astype(np.float64).reshape(-1) for v in self._videos]


def with_threshold(bundle: Bundle, normal: Scores, quantile: float) -> Bundle:
    """Set the threshold to a quantile of the scores of normal (or training) footage."""
    known = np.concatenate([part[~np.isnan(part)] for part in normal])
    scoring = Scoring(
        threshold=float(np.quantile(known, quantile)), method=f"{quantile:g} quantile, training"
    )
    return rewrite_manifest(bundle, msgspec.structs.replace(bundle.manifest, scoring=scoring))


def fp32_scores(bundle: Bundle, footage: Footage) -> Scores:
    backend = open_backend(bundle, "openvino", Options(precision="fp32")).backend
    try:
        return footage.scores(backend)
    finally:
        backend.close()


def bundle_once(work: Path, graph: ScoreGraph, footage: Sequence[Path]) -> Bundle:
    """Export a graph, or open what an earlier run exported; without the passes, whose choice
    depends on times."""
    target = work / "model.vad"
    if target.exists():
        return Bundle.open(target)
    return bundle_from_graph(graph, target, footage=footage, passes=False)
