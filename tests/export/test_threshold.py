"""Normaliser and threshold from normal footage."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from helpers import (
    artefact,
    assert_one_line,
    clip_spec,
    manifest,
    motion_model,
    moving_blob,
    write_video,
)

from vad_export.threshold import Scores, raw_scores, scoring_from_normal
from vad_runtime.backends.base import Options
from vad_runtime.backends.onnxruntime import OnnxRuntimeBackend
from vad_runtime.contracts import ClipSpec, InputError, Manifest, ScoreSpec, Scoring
from vad_runtime.detector import Detector
from vad_runtime.sources import open_source
from vad_training.data.store import store_from_footage

PLAIN = Scoring(smoothing="none", window=1)


def ramp(count: int = 1001) -> Scores:
    """Return the scores 0, 0.1, … 100 in a shuffled order."""
    values = np.arange(count) / 10
    return np.random.default_rng(0).permutation(values)


# -- scoring_from_normal -----------------------------------------------------------------------


def test_offset_scale_and_threshold_are_those_worked_out_by_hand() -> None:
    scoring = scoring_from_normal([ramp()], quantile=0.99, smoothing=PLAIN, margin=1.2)
    assert scoring.offset == pytest.approx(50)  # the median
    assert scoring.scale == pytest.approx(49)  # 99 - 50
    assert scoring.threshold == 1.2  # the quantile is 1 by definition, times the margin
    assert scoring.method == (
        "0.99 quantile of the smoothed score of normal validation footage times 1.2; "
        "0 = its median, 1 = its 0.99 quantile before smoothing"
    )
    assert scoring.evidence == {"videos": 1, "frames": 1001, "quantile": 0.99, "margin": 1.2}


def test_the_threshold_belongs_to_the_smoothed_score() -> None:
    # One frame in ten is 8, the others 0: offset 0, scale 8, and every mean of ten is 0.1.
    raw = np.where(np.arange(300) % 10 == 0, 8.0, 0.0)
    smoothing = Scoring(smoothing="mean", window=10)
    scoring = scoring_from_normal([raw], quantile=0.95, smoothing=smoothing, margin=1.0)
    assert (scoring.offset, scoring.scale) == (0, 8)
    # Only the first frames of the run have fewer than ten in their mean: 1, 1/2, … 1/10.
    means = sorted([1 / n for n in range(1, 10)] + [0.1] * 291)
    assert scoring.threshold == round(float(np.quantile(means, 0.95)), 4)
    peaks = scoring_from_normal([raw], quantile=0.95, smoothing=PLAIN, margin=1.0)
    assert peaks.threshold == 1.0


def test_the_filter_never_runs_from_one_video_into_the_next() -> None:
    calm, busy = np.zeros(200), np.full(60, 5.0)
    smoothing = Scoring(smoothing="mean", window=50)
    apart = scoring_from_normal([calm, busy], quantile=0.9, smoothing=smoothing, margin=1.0)
    joined = scoring_from_normal(
        [np.concatenate([calm, busy])], quantile=0.9, smoothing=smoothing, margin=1.0
    )
    assert apart.threshold == 1.0  # every frame of the second video is 5 at once
    assert joined.threshold is not None
    assert joined.threshold < 1.0


def test_frames_without_a_score_do_not_count() -> None:
    full = ramp()
    holes = np.full(2 * len(full), np.nan)
    holes[::2] = full
    with_holes = scoring_from_normal([holes, np.full(5, np.nan)], smoothing=PLAIN)
    plain = scoring_from_normal([full], smoothing=PLAIN)
    assert with_holes.offset == plain.offset
    assert with_holes.scale == plain.scale
    assert with_holes.threshold == plain.threshold
    assert with_holes.evidence["frames"] == 1001


def test_the_choice_is_deterministic_and_keeps_the_rest_of_the_filter() -> None:
    smoothing = Scoring(smoothing="median", window=5, release=0.7, min_duration_s=0.4)
    one = scoring_from_normal([ramp(), ramp()], smoothing=smoothing)
    assert one == scoring_from_normal([ramp(), ramp()], smoothing=smoothing)
    kept = (one.smoothing, one.window, one.release, one.min_duration_s)
    assert kept == ("median", 5, 0.7, 0.4)


def test_scores_of_any_size_give_the_same_threshold() -> None:
    plain = scoring_from_normal([ramp()])
    for factor in (1e-6, 1e6):
        scaled = scoring_from_normal([ramp() * factor + 3 * factor])
        assert scaled.threshold == plain.threshold
        assert scaled.scale == pytest.approx(plain.scale * factor)


@pytest.mark.parametrize("raw", [[np.arange(99.0)], [np.full(500, np.nan), np.arange(50.0)]])
def test_too_few_scored_frames_are_one_line(raw: list[Scores]) -> None:
    with pytest.raises(InputError) as caught:
        scoring_from_normal(raw)
    assert_one_line(caught.value, "scored frames of normal footage are too few", "100")


def test_a_score_that_never_changes_is_one_line() -> None:
    with pytest.raises(InputError) as caught:
        scoring_from_normal([np.full(200, 7.0)])
    assert_one_line(caught.value, "the same in every frame")


# -- raw_scores --------------------------------------------------------------------------------


def backend_of(
    folder: Path, clip: ClipSpec, score: ScoreSpec
) -> tuple[Manifest, OnnxRuntimeBackend]:
    graph = motion_model(folder / "motion.onnx", clip)
    about = manifest(clip=clip, score=score, artefacts={"fp32": artefact(file=graph.name)})
    return about, OnnxRuntimeBackend(graph, about, Options(threads=1))


@pytest.mark.parametrize(
    "changes", [{}, {"hop": 3}, {"stride": 2, "hop": 4}, {"colour": "rgb", "hop": 8}]
)
def test_stored_footage_is_scored_exactly_as_vad_run_scores_it(
    tiny_video: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    clip = clip_spec(**changes)
    about, backend = backend_of(tmp_path, clip, ScoreSpec(per="frame", form="motion", count=8))
    store = store_from_footage([tiny_video], clip, tmp_path / "frames")
    (stored,) = raw_scores(about, backend, store, store.segments)
    source = open_source(tiny_video, clip)
    live = list(Detector(about, backend).run(source.frames(), nominal_fps=15))
    rows = [np.nan if s.raw is None else s.raw for s in live][:: clip.stride]
    np.testing.assert_array_equal(stored, rows)
    assert not np.isnan(stored).all()


def test_each_segment_is_scored_for_itself(tmp_path: Path) -> None:
    videos = [write_video(tmp_path / f"{i}.mp4", moving_blob(n)) for i, n in enumerate((12, 7, 20))]
    about, backend = backend_of(
        tmp_path, clip_spec(), ScoreSpec(per="frame", form="motion", count=8)
    )
    store = store_from_footage(videos, clip_spec(), tmp_path / "frames")
    raw = raw_scores(about, backend, store, store.segments)
    assert [len(scores) for scores in raw] == [12, 7, 20]
    assert np.isnan(raw[1]).all()  # shorter than a clip
    (alone,) = raw_scores(about, backend, store, store.segments[2:])
    np.testing.assert_array_equal(raw[2], alone)


def test_the_rate_of_the_clip_does_not_matter_for_stored_footage(
    tiny_video: Path, tmp_path: Path
) -> None:
    about, backend = backend_of(
        tmp_path, clip_spec(fps=1.0), ScoreSpec(per="frame", form="motion", count=8)
    )
    store = store_from_footage([tiny_video], about.clip, tmp_path / "frames")
    (slow,) = raw_scores(about, backend, store, store.segments)
    fast = msgspec.structs.replace(about, clip=clip_spec(fps=60.0))
    np.testing.assert_array_equal(slow, raw_scores(fast, backend, store, store.segments)[0])
