"""Scores the labelled videos of a data set, so that they can be measured."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from vad_runtime.backends import Choice
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import InputError, VadError
from vad_runtime.contracts.manifest import json_from_manifest
from vad_runtime.files import made_folder, whole_file
from vad_runtime.labels import Labels, read_labels
from vad_runtime.progress import progress
from vad_runtime.runs import RunOptions, remove_results, run_source
from vad_runtime.sources import find_sources
from vad_training.data.table import Split, of_split, read_table
from vad_training.evaluation import STORED_OFFLINE, ScoreSet, read_video
from vad_training.metrics.frames import VideoScores

LABELS = "labels.json"
TABLE = "dataset.csv"
_KEY = "scored_by.txt"


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Videos with truth."""

    folder: Path
    labels: Labels
    sources: list[Path]
    """The videos to evaluate, in order."""
    left_out: list[str]
    """One line for each video that is not evaluated: name and reason."""


def dataset_from_folder(
    folder: Path, labels_file: Path | None = None, splits: Sequence[Split] = ("test", "anomaly")
) -> DataSet:
    """Find the labelled videos of a folder.

    With a `dataset.csv` these are its entries of some splits, otherwise everything at or below the
    folder; a video without truth is left out and named, and so is truth without a video.

    Args:
        folder: Holds videos and `labels.json`.
        labels_file: Other labels.
        splits: Which splits of the `dataset.csv`.

    Raises:
        InputError: No labels, no table that can be read, no video with truth, or one class only.
    """
    labels = read_labels(labels_file or folder / LABELS)
    table = folder / TABLE
    if table.is_file():
        candidates = [entry.path for entry in of_split(read_table(table), *splits)]
        if not candidates:
            raise InputError(
                f"{table} has no entries of the split {' or '.join(splits)}. Split it with: "
                "vad-train data split"
            )
    else:
        candidates = find_sources(folder)
    sources = [path for path in candidates if labels.of(path) is not None]
    left_out = [f"{path}: no labels" for path in candidates if labels.of(path) is None]
    if not sources:
        raise InputError(
            f"{folder} holds no video that {labels.label_set} has truth for. "
            "Give the folder that the labels belong to."
        )
    truths = [truth for path in sources if (truth := labels.of(path)) is not None]
    marks = np.concatenate([truth.mask() for truth in truths])
    if marks.all() or not marks.any():  # said now, not after hours of scoring
        raise InputError(
            f"{labels.label_set} has one class only in these {len(sources)} videos, and both are "
            "needed. Add videos."
        )
    used = {id(truth) for truth in truths}
    if not table.is_file():
        missing = [name for name, truth in labels.videos.items() if id(truth) not in used]
        left_out += [f"{name}: labelled, but not in {folder}" for name in missing]
    return DataSet(folder=folder, labels=labels, sources=sources, left_out=left_out)


def score_dataset(
    bundle: Bundle,
    choice: Choice,
    dataset: DataSet,
    out: Path,
    *,
    name: str,
    identity: str,
    steps: Sequence[str] | None = None,
) -> tuple[ScoreSet, list[str]]:
    """Score every video into a folder of its own below `out` and join it with its truth.

    Videos that the same bundle has scored there before are kept, so an interrupted evaluation goes
    on where it was stopped; results of another graph, back end or precision are replaced.

    Args:
        bundle: The opened bundle.
        choice: Its open back end.
        dataset: What to score.
        out: Folder for the results.
        name: Of the score set, for example `fp32`.
        identity: Hash of the model, see `identity_of`.
        steps: How the offline column is made, see `read_scores`.

    Returns:
        The score set, and one line for each video that could not be scored or joined.

    Raises:
        InputError: `out` cannot be written or holds results of something else, or no video could
            be scored.
    """
    _claim(made_folder(out), f"{identity} {choice.name} {choice.backend.device}\n")
    options = RunOptions(
        live=False,
        offline=True,
        overlay=False,
        plot=False,  # vad-train pictures draws them where they are wanted
        fps=dataset.labels.fps,
        labels=dataset.labels,
        overwrite=True,
    )
    videos: list[VideoScores] = []
    left_out = []
    top = os.path.commonpath([source.absolute().parent for source in dataset.sources])
    with progress(f"scoring {name}, videos", len(dataset.sources)) as bar:
        for source in dataset.sources:
            folder = out / source.absolute().relative_to(top)
            try:
                if not (folder / "report.json").is_file():
                    run_source(bundle, choice, source, folder, options)
                videos.append(read_video(folder / "report.json", dataset.labels, steps))
            except VadError as error:  # the other videos still count
                left_out.append(str(error))
            bar.advance()
    if not videos:
        raise InputError(f"none of the videos could be scored: {left_out[0]}")
    return (
        ScoreSet(
            name=name,
            videos=videos,
            scoring=bundle.manifest.scoring,
            offline=STORED_OFFLINE if steps is None else ", ".join(steps),
            device=choice.backend.device,
        ),
        left_out,
    )


def identity_of(bundle: Bundle, artefact: str | None = None) -> str:
    """Return a hash of what the scores of one artefact depend on: its sha256 and the settings.

    Reports in the manifest do not count, nor do the other artefacts: one that is added later does
    not make results worthless.

    Args:
        bundle: The opened bundle.
        artefact: Short name of the artefact that runs; None = any of them, so all count.
    """
    about = bundle.manifest
    graphs = [about.artefacts[artefact]] if artefact else list(about.artefacts.values())
    settings = msgspec.structs.replace(
        about, artefacts={}, training={}, calibration=None, parity=None, latency=None, plan=None
    )
    hashes = " ".join(graph.sha256 for graph in graphs)
    return hashlib.sha256(json_from_manifest(settings) + hashes.encode()).hexdigest()


def _claim(out: Path, key: str) -> None:
    """Remove results that another model has left, then say whose the next ones are."""
    file = out / _KEY
    if file.is_file() and file.read_text(encoding="utf-8") == key:
        return
    reports = list(out.rglob("report.json"))
    if reports and not file.is_file():
        raise InputError(
            f"{out} holds results that this command did not write. Name another folder with -o."
        )
    for report in reports:
        remove_results(report.parent)
    with whole_file(file) as temporary:
        temporary.write_text(key, encoding="utf-8")
