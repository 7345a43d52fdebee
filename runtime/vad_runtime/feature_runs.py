"""Precomputed features of one video through a bundle that takes features: no video, no network.

A segment's score needs the features of the whole video, so these scores are for files. For a
stream, export the same head with its backbone (`vad-export onnx` without `--head-only`).
"""

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from vad_runtime.backends import Choice
from vad_runtime.bundle import Bundle
from vad_runtime.contracts.errors import InputError
from vad_runtime.contracts.manifest import FeatureSpec
from vad_runtime.events import AlarmState, Event
from vad_runtime.features import (
    CLIP,
    FeatureFile,
    VideoFeatures,
    read_features,
    scores_to_frames,
    segment_features,
    segment_starts,
)
from vad_runtime.files import whole_file
from vad_runtime.labels import Labels, VideoLabels
from vad_runtime.machine import library_versions, machine_facts
from vad_runtime.runs import RunOptions, result_folder, whole_results
from vad_runtime.scoring import CausalScorer, offline_scores
from vad_runtime.sinks import NO_MATPLOTLIB, Row, RowWriter, plot_available, save_plot

NOTE = "each score comes from features of the whole video; it is not what a live run would give"


def run_features(
    bundle: Bundle, choice: Choice, file: FeatureFile, folder: Path, options: RunOptions
) -> dict[str, Any]:
    """Score the features of one video and write tables, picture and report into `folder`.

    There is a row for each frame, as `run_source` writes them: a segment's score holds for all of
    its frames.

    Args:
        bundle: The opened bundle, whose graph takes features.
        choice: Its open back end.
        file: From `find_features`.
        folder: Made if missing.
        options: What to write, and how; there are no pictures for an overlay.

    Returns:
        The report, as written to `report.json`.

    Raises:
        InputError: The features cannot be read or do not fit the graph, their frame rate is not
            known, or the folder cannot be written or holds results already.
    """
    spec = bundle.manifest.features
    if spec is None:
        raise InputError(f"{bundle.name} scores video, not features. Give it videos.")
    if options.hop is not None:
        raise InputError("--hop is for video; features are where they were computed. Leave it out.")
    video = read_features(file, spec.modality)
    fps = options.fps or video.fps
    if fps is None:
        raise InputError(f"{file.paths[0]} says no frame rate. Give it with --fps.")
    if video.features.shape[1] != spec.size:
        raise InputError(
            f"{file.paths[0]} holds features of {video.features.shape[1]} numbers, but "
            f"{bundle.name} takes {spec.size} (made by: {spec.made_by}). Give such features."
        )
    start = time.perf_counter()
    raw, notes = _frame_scores(video, spec, choice)
    rows, events = _rows(raw, fps, bundle, offline=options.offline)
    with (
        result_folder(folder, overwrite=options.overwrite),
        whole_results(folder) as work,
    ):
        table = RowWriter(work, live=False, offline=options.offline)
        for row in rows:
            table.write(row)
        table.close()
        no_plot = _plot(work, rows, events, bundle, file, options)
        report = {
            "schema": 1,
            "bundle": bundle.name,
            "model": bundle.manifest.name,
            "device": choice.line,
            "backend": choice.name,
            "machine": machine_facts(),
            "versions": library_versions(),
            "mode": "features",
            "source": {
                "name": str(file.paths[0]),
                "kind": "features",
                "fps": fps,
                "frames": len(rows),
                "features": len(video.features),
                "about": video.about,
            },
            "frames": len(rows),
            "frames_scored": len(rows),
            "frames_unscored": {},
            "frames_dropped": 0,
            "frames_damaged": 0,
            "notes": notes,
            "clips": len(video.features),
            "scoring": bundle.manifest.scoring,
            "peak": _peak(rows),
            "events": [asdict(event) for event in events],
            "wall_s": round(time.perf_counter() - start, 4),
            "scores_png": no_plot or "written",
        }
        with whole_file(work / "report.json") as temporary:
            text = msgspec.json.format(msgspec.json.encode(report), indent=2)
            temporary.write_bytes(text + b"\n")
    return report


def _frame_scores(
    video: VideoFeatures, spec: FeatureSpec, choice: Choice
) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Return a raw score for each frame, and what a reader should know about them."""
    notes = [NOTE]
    bag = segment_features(video.features, spec.segments, normalise=spec.normalise)
    scores = choice.backend.infer(bag[None])["score"][0]
    frames, first = video.frames, video.first_frames
    if first is None:
        first = np.arange(len(video.features), dtype=np.int64) * CLIP
        notes.append(f"the file says no frame numbers: each feature was taken for {CLIP} frames")
    if frames is None:
        frames = int(first[-1]) + (video.clip_span or CLIP)
        notes.append(f"the file says no length: {frames} frames were taken for the whole video")
    starts = segment_starts(frames, spec.segments, first_frames=first)
    return scores_to_frames(scores, starts, frames), notes


def _rows(
    raw: npt.NDArray[np.float64], fps: float, bundle: Bundle, *, offline: bool
) -> tuple[list[Row], list[Event]]:
    """Return a row for each frame and the alarms, by the same scoring as for video."""
    scorer, alarm = CausalScorer(bundle.manifest.scoring), AlarmState(bundle.manifest.scoring)
    papers = offline_scores(raw).tolist() if offline else [None] * len(raw)
    rows: list[Row] = []
    events: list[Event] = []
    for index, value in enumerate(raw.tolist()):
        time_s, score = index / fps, scorer.update(value)
        event = alarm.update(index, time_s, score)
        if event is not None:
            events.append(event)
        rows.append(
            Row(
                frame=index,
                time_s=time_s,
                raw=value,
                score=score,
                alarm=alarm.active,
                status="scored",
                offline=papers[index],
            )
        )
    last = alarm.end()
    return rows, events if last is None else [*events, last]


def _peak(rows: list[Row]) -> dict[str, float | None]:
    best = max(rows, key=lambda row: -math.inf if row.score is None else row.score)
    return {"time_s": best.time_s, "score": best.score}


def _plot(
    folder: Path,
    rows: list[Row],
    events: list[Event],
    bundle: Bundle,
    file: FeatureFile,
    options: RunOptions,
) -> str | None:
    """Draw the scores; return why not, or None."""
    if not options.plot:
        return "not asked for"
    if not plot_available():
        return NO_MATPLOTLIB
    truth = truth_of_features(options.labels, file) if options.labels else None
    save_plot(
        folder / "scores.png",
        rows,
        bundle.manifest.scoring,
        title=f"{file.name} (features) scored by {bundle.name}",
        label_set=options.labels.label_set if options.labels else None,
        truth=truth.mask() if truth is not None else None,
        events=events,
    )
    return None


def truth_of_features(labels: Labels, file: FeatureFile) -> VideoLabels | None:
    """Return the truth of the video that the features were made of: it has another suffix."""
    for suffix in {Path(name).suffix for name in labels.videos}:
        truth = labels.of(file.paths[0].with_name(Path(file.name).name + suffix))
        if truth is not None:
            return truth
    return None
