"""Readers of UCF-Crime's annotation, and the figures that follow from real score files."""

from pathlib import Path

import numpy as np
import pytest
from helpers import assert_one_line

from vad_runtime.contracts import InputError
from vad_runtime.features import scores_to_frames, segment_starts
from vad_runtime.labels import Labels
from vad_training.data.annotations import frame_counts, labels_from_annotation, temporal_annotation
from vad_training.metrics.frames import VideoScores, frame_metrics
from vad_training.metrics.roc import area_under

TEXT = """Abuse028_x264.mp4  Abuse  165  240  -1  -1
Explosion033_x264.mp4  Explosion  970  1350  1550  3156

Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1
"""


@pytest.fixture
def annotation(tmp_path: Path) -> Path:
    file = tmp_path / "Temporal_Anomaly_Annotation.txt"
    file.write_text(TEXT)
    return file


def test_intervals_count_from_one_with_both_ends_and_minus_one_is_none(annotation: Path) -> None:
    read = temporal_annotation(annotation)
    kind, intervals = read["Abuse028_x264.mp4"]
    assert kind == "Abuse"
    assert [(i.first, i.last, i.kind) for i in intervals] == [(164, 239, "Abuse")]
    assert [(i.first, i.last) for i in read["Explosion033_x264.mp4"][1]] == [
        (969, 1349),
        (1549, 3155),
    ]
    assert read["Normal_Videos_003_x264.mp4"] == ("Normal", [])


def test_counts_are_read_in_both_published_forms(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Abuse/Abuse028_x264.mp4|1412|[165, 240]\n")
    (tmp_path / "n.txt").write_text("Normal/Normal_Videos_003_x264.mp4 2834 -1\n\n")
    counts = frame_counts([tmp_path / "a.txt", tmp_path / "n.txt"])
    assert counts == {"Abuse/Abuse028_x264.mp4": 1412, "Normal/Normal_Videos_003_x264.mp4": 2834}


def test_an_interval_that_runs_past_the_end_is_cut_there(annotation: Path) -> None:
    counts = {"Explosion/Explosion033_x264.mp4": 3155}
    labels = labels_from_annotation(temporal_annotation(annotation), counts, label_set="UCF")
    video = labels.videos["Explosion/Explosion033_x264.mp4"]
    assert video.anomalies[1].last == 3154
    assert video.mask().sum() == (1350 - 970 + 1) + (3155 - 1550 + 1)
    assert (labels.label_set, labels.fps) == ("UCF", 30.0)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("a.mp4 Abuse 1 2 -1", "5 fields"),
        ("a.mp4 Abuse one 2 -1 -1", "line 1"),
        ("a.mp4 Abuse 9 2 -1 -1", "from 9 to 2"),
        ("a.mp4 Abuse 0 2 -1 -1", "from 0 to 2"),
        ("a.mp4 Abuse 1 2\na.mp4 Abuse 1 2", "twice"),
        ("", "no annotations"),
    ],
)
def test_a_malformed_annotation_is_one_line(tmp_path: Path, line: str, part: str) -> None:
    (tmp_path / "a.txt").write_text(line)
    with pytest.raises(InputError) as caught:
        temporal_annotation(tmp_path / "a.txt")
    assert_one_line(caught.value, part)


def test_lists_that_contradict_are_one_line(tmp_path: Path, annotation: Path) -> None:
    (tmp_path / "a.txt").write_text("x.mp4 5\nx.mp4 6\n")
    with pytest.raises(InputError) as caught:
        frame_counts([tmp_path / "a.txt"])
    assert_one_line(caught.value, "line 2", "6 frames here and 5")
    (tmp_path / "a.txt").write_text("x.mp4\n")
    with pytest.raises(InputError) as caught:
        frame_counts([tmp_path / "a.txt"])
    assert_one_line(caught.value, "line 1")
    read = temporal_annotation(annotation)
    for counts, part in (({"other.mp4": 9}, "no annotation"), ({"Abuse028_x264.mp4": 9}, "164")):
        with pytest.raises(InputError) as caught:
            labels_from_annotation(read, counts, label_set="UCF")
        assert_one_line(caught.value, part)
    with pytest.raises(InputError) as caught:
        frame_counts([tmp_path / "none.txt"])
    assert_one_line(caught.value, "cannot be read")


# -- real figures ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ucf(data: Path) -> Labels:
    folder = data / "ucf_crime"
    return labels_from_annotation(
        temporal_annotation(folder / "Temporal_Anomaly_Annotation.txt"),
        frame_counts([folder / "test_anomalyv2.txt", folder / "test_normalv2.txt"]),
        label_set="UCF-Crime Temporal_Anomaly_Annotation",
    )


@pytest.mark.data
def test_ucf_crime_has_its_published_numbers_of_frames(ucf: Labels) -> None:
    masks = [video.mask() for video in ucf.videos.values()]
    assert len(masks) == 290
    assert sum(len(mask) for mask in masks) == 1_112_032
    assert sum(int(mask.sum()) for mask in masks) == 84_343


@pytest.mark.data
def test_real_segment_scores_of_ucf_crime_give_their_known_figures(data: Path, ucf: Labels) -> None:
    golden = np.load(data / "golden" / "ucf_r2plus1d_mil_scores_290.npz")
    by_name = {Path(path).stem: truth for path, truth in ucf.videos.items()}
    theirs: list[VideoScores] = []
    ours: list[VideoScores] = []
    for name, segments in zip(golden["names"].tolist(), golden["scores"], strict=True):
        truth = by_name[name]
        # As the file's author: n // 32 frames a segment; the last score runs to the end.
        starts = np.arange(32) * (truth.frames // 32)
        for videos, begin in ((theirs, starts), (ours, segment_starts(truth.frames))):
            frames = scores_to_frames(segments, begin, truth.frames)
            videos.append(VideoScores(name=name, causal=frames, offline=None, truth=truth.mask()))
    # Whole clips of 16 frames, rounded: what the runtime does with 32 scores.
    assert round(frame_metrics(ours, "causal").auc.micro, 4) == 0.6902
    measured = frame_metrics(theirs, "causal")
    assert round(measured.auc.micro, 3) == 0.691
    assert measured.far_at_half is not None
    assert round(measured.far_at_half, 4) == 0.0008
    # The mean over pairs of videos is another number.
    assert measured.pairwise_auc is not None
    assert abs(measured.pairwise_auc - measured.auc.micro) > 0.01


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "area"),
    [
        ("6_C3D_Final_L1L2.mat", 0.7541),
        ("3_CV16_TemporalRegularity.mat", 0.5066),
        ("2_Cei_lui.mat", 0.6551),
    ],
)
def test_the_papers_roc_curves_have_their_published_areas(
    data: Path, file: str, area: float
) -> None:
    from scipy.io import loadmat

    curve = loadmat(str(data / "ucf_crime" / "paper_roc" / file))
    x, y = curve["X"].ravel().astype(float), curve["Y"].ravel().astype(float)
    assert round(area_under(x, y), 4) == area
    assert area_under(x, y) == pytest.approx(float(curve["AUC"].item()), abs=1e-6)
