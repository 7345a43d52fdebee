"""Causal scores of normal footage, cut where the device starts afresh."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from vad_runtime.backends import Choice
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import InputError, VadError
from vad_runtime.detector import Detector
from vad_runtime.progress import progress
from vad_runtime.sinks.rows import read_rows
from vad_runtime.sources import find_sources, open_source
from vad_runtime.sources.base import Frame, no_picture
from vad_runtime.sources.prefetch import Prefetch
from vad_runtime.windows import HoleRule
from vad_training.metrics.alarms import usual_step_s
from vad_training.thresholds import Stretch

_NO_PIXELS = np.zeros((0, 0, 1), np.uint8)


def stretches_from_footage(
    bundle: Bundle, choice: Choice, footage: Sequence[Path]
) -> tuple[list[Stretch], list[str]]:
    """Score normal footage by the same road as `vad-run`.

    Args:
        bundle: The opened bundle.
        choice: Its open back end.
        footage: Videos, folders of frames, or folders that hold such.

    Returns:
        The stretches, and one line for each video that could not be scored.

    Raises:
        InputError: Nothing is there, or no video could be scored.
    """
    sources = [source for path in footage for source in find_sources(path)]
    stretches: list[Stretch] = []
    skipped = []
    with progress("scoring normal footage, videos", len(sources)) as bar:
        for path in sources:
            try:
                stretches += _of_video(bundle, choice, path)
            except VadError as error:
                skipped.append(str(error))
            bar.advance()
    if not stretches:
        why = skipped[0] if skipped else "no clip fits into any of them. Give longer videos."
        raise InputError(f"none of the {len(sources)} videos could be scored: {why}")
    return stretches, skipped


def _of_video(bundle: Bundle, choice: Choice, path: Path) -> list[Stretch]:
    source = open_source(path, bundle.manifest.clip, pictures=False)
    fps = source.info.fps
    detector = Detector(bundle.manifest, choice.backend)
    settled = detector.run(Prefetch(source), nominal_fps=fps)
    return _cut(((s.frame, s.score) for s in settled), fps)


def stretches_from_results(folder: Path) -> list[Stretch]:
    """Read the causal scores of `vad-run` results of normal footage below a folder.

    A hole is seen where a frame is damaged or the time jumps.

    Raises:
        InputError: No results, or results that cannot be read.
    """
    tables = sorted(report.with_name("scores.csv") for report in folder.rglob("report.json"))
    if not tables:
        raise InputError(f"{folder} holds no report.json. Run vad-run score with -o {folder}.")
    stretches = []
    for table in tables:
        rows = read_rows(table)
        step_s = usual_step_s(np.array([row.time_s for row in rows]))
        frames = (
            (
                Frame(
                    index=row.frame,
                    pts_s=row.time_s,
                    pixels=_NO_PIXELS,
                    picture=no_picture,
                    damaged=row.status == "damaged",
                ),
                row.score,
            )
            for row in rows
        )
        stretches += _cut(frames, 1 / step_s if step_s else 25.0)
    return stretches


def _cut(scored: Iterable[tuple[Frame, float | None]], fps: float) -> list[Stretch]:
    """Cut where the detector has started afresh: its own rule on the same frames."""
    holes = HoleRule(fps)
    parts: list[list[tuple[float, float]]] = [[]]
    for frame, score in scored:
        if holes.cause(frame) is not None:
            parts.append([])
        if score is not None:
            parts[-1].append((frame.pts_s, score))
    arrays = [np.array(part, np.float64) for part in parts if part]
    return [Stretch(times_s=a[:, 0], scores=a[:, 1]) for a in arrays]
