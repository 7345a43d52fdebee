"""The case of int8_fidelity_study.py on C3D features of UCF-Crime: a MIL head alone."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from int8_fidelity_cases import (
    MIL_SETTINGS,
    ArrayFootage,
    Case,
    Scores,
    bundle_once,
    fp32_scores,
    with_threshold,
)
from int8_fidelity_fights import mil_config, trained_head

from vad_runtime.bundle import Bundle
from vad_runtime.contracts import ClipSpec, FeatureSpec
from vad_runtime.features import c3d_file_starts, scores_to_frames
from vad_runtime.labels import Interval, Labels, VideoLabels
from vad_training.data.features import FeatureSet, feature_set_from_path
from vad_training.graphs.mil import mil_head_graph
from vad_training.metrics.roc import roc_auc


def c3d_case(data: Path, work: Path, few: int | None) -> Case:
    folder = data / "ucf_crime"
    config = mil_config()
    test = feature_set_from_path(folder / "c3d_test.npz", config.features)
    train = feature_set_from_path(folder / "c3d_train.npz", config.features)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(train)).tolist()
    size = 128 if few is None else 32
    calibration = _feature_files(train.chosen(order[:size]), work / "calibration")
    check = train.chosen(order[size : 2 * size])
    target = work / "model.vad"
    if not target.exists():
        graph = mil_head_graph(
            trained_head(folder / "c3d_train.npz", work),
            FeatureSpec(segments=32, size=4096, normalise=True, made_by="c3d"),
            ClipSpec(frames=16, height=112, width=112, hop=16),
        )
        bundle_once(work, graph, [calibration])
    bundle = Bundle.open(target)
    normal = ArrayFootage([check.features[check.labels == 0]])
    bundle = with_threshold(bundle, fp32_scores(bundle, normal), 0.95)
    return Case(
        name="MIL head on C3D features",
        about=f"{MIL_SETTINGS}, trained on the C3D features of 835 UCF-Crime videos, no choice; "
        "calibrated on 96 of these, threshold and choice on 128 others; the 114 test videos",
        bundle=bundle,
        calibration=calibration,
        inputs=96,
        check=ArrayFootage(list(check.features[:, None])),
        test=ArrayFootage(list(test.features[:, None])),
        aucs={"frames": lambda scores: _c3d_auc(scores, test)},
        gate=[_feature_files(test, work / "testing")],
        labels=_c3d_labels(test),
    )


def _feature_files(videos: FeatureSet, folder: Path) -> Path:
    for name, features in zip(videos.names, videos.features, strict=True):
        file = folder / f"{name}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            np.save(file, features)
    return folder


def _truths(videos: FeatureSet) -> Iterator[tuple[str, int, list[tuple[int, int]]]]:
    assert videos.frames is not None
    assert videos.intervals is not None
    for name, frames, spans in zip(videos.names, videos.frames, videos.intervals, strict=True):
        # An annotation may run past the end of the video that the features were made of.
        yield name, int(frames), [(a, min(b, int(frames))) for a, b in spans if a < frames]


def _c3d_labels(videos: FeatureSet) -> Labels:
    return Labels(
        schema=1,
        label_set="UCF-Crime",
        fps=30.0,
        videos={
            f"{name}.mp4": VideoLabels(
                frames=frames, anomalies=[Interval(first=a, last=b - 1) for a, b in spans]
            )
            for name, frames, spans in _truths(videos)
        },
    )


def _c3d_auc(scores: Scores, videos: FeatureSet) -> float:
    """Return the micro frame AUC in steps of 17 frames, as the features were made."""
    parts, truth = [], []
    for part, (_, frames, spans) in zip(scores, _truths(videos), strict=True):
        parts.append(scores_to_frames(part, c3d_file_starts(frames), frames))
        marks = np.zeros(frames, bool)
        for first, end in spans:
            marks[first:end] = True
        truth.append(marks)
    return roc_auc(np.concatenate(parts), np.concatenate(truth))
