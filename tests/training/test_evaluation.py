"""AUC: by hand, against published figures, and from the files of vad-run."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from helpers import artefact, assert_one_line, manifest

from vad_runtime.bundle import Bundle
from vad_runtime.contracts import InputError, Scoring
from vad_runtime.labels import Interval, Labels, VideoLabels
from vad_runtime.sinks.rows import Row, RowWriter
from vad_training.evaluation import read_scores
from vad_training.evaluation_runs import identity_of
from vad_training.metrics import Scores, Truth
from vad_training.metrics.frames import VideoScores, auc_of
from vad_training.metrics.roc import roc_auc


def scores(*values: float) -> Scores:
    return np.array(values, np.float64)


def truth(text: str) -> Truth:
    """Return the truth of frames written as `.` (normal) and `x` (anomalous)."""
    return np.array([c == "x" for c in text], bool)


def video(name: str, values: Scores, marks: Truth, offline: Scores | None = None) -> VideoScores:
    return VideoScores(name=name, causal=values, offline=offline, truth=marks)


# -- roc_auc -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "marks", "area"),
    [
        ((0.1, 0.2, 0.8, 0.9), "..xx", 1.0),
        ((0.9, 0.8, 0.2, 0.1), "..xx", 0.0),
        ((0.1, 0.4, 0.35, 0.8), "..xx", 0.75),  # of four pairs .4 > .35 is the wrong one
        ((1, 1), ".x", 0.5),
        ((1, 1, 1, 1, 1), "x..x.", 0.5),
        ((1, 2, 2, 3), "..xx", 0.875),  # pairs: 1<2, 1<3, 2=2 (half), 2<3
        ((2, 2, 2, 1, 3), "x.x..", 0.5),  # each x: equal to one (half), above one, below one
        ((-1e300, 0, 1e300), ".x.", 0.5),
        ((float("-inf"), 0, float("inf")), "..x", 1.0),
    ],
)
def test_the_area_is_the_share_of_pairs_in_order(
    values: tuple[float, ...], marks: str, area: float
) -> None:
    assert roc_auc(scores(*values), truth(marks)) == pytest.approx(area, abs=1e-15)


def test_the_area_equals_counting_all_pairs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        n = int(rng.integers(2, 40))
        values = rng.integers(0, 6, n).astype(np.float64)  # many ties
        marks = rng.random(n) < 0.4
        marks[:2] = (True, False)
        pairs = [(p > q) + (p == q) / 2 for p, q in product(values[marks], values[~marks])]
        assert roc_auc(values, marks) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_the_area_does_not_depend_on_order_or_scale() -> None:
    rng = np.random.default_rng(1)
    values, marks = rng.normal(size=100), rng.random(100) < 0.3
    order = rng.permutation(100)
    area = roc_auc(values, marks)
    assert roc_auc(values[order], marks[order]) == area
    assert roc_auc(np.exp(values), marks) == area
    assert roc_auc(-values, marks) == pytest.approx(1 - area)


@pytest.mark.parametrize(
    ("values", "marks", "reason"),
    [
        ((1, 2), "..", "anomalous and normal"),
        ((1, 2), "xx", "anomalous and normal"),
        ((1, float("nan")), ".x", "NaN"),
        ((1, 2, 3), ".x", "equal vectors"),
        ((), "", "anomalous and normal"),
    ],
)
def test_what_has_no_area_is_refused(values: tuple[float, ...], marks: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        roc_auc(scores(*values), truth(marks))


# -- auc_of ------------------------------------------------------------------------------------


def test_micro_joins_all_frames_and_macro_averages_videos() -> None:
    videos = [
        video("a", scores(1, 2, 3, 4), truth("..xx")),  # 1.0
        video("b", scores(9, 8, 7, 6), truth("..xx")),  # 0.0
        video("c", scores(0, 0), truth("..")),
    ]
    auc = auc_of(videos, "causal")
    # 4 anomalous x 6 normal frames: a's x beat a's and c's (8 of 12), b's those too (8 of 12).
    assert auc.micro == pytest.approx(16 / 24)
    assert auc.macro == pytest.approx(0.5)
    assert auc.left_out == ["c"]


def test_videos_of_one_class_are_left_out_of_macro_and_named() -> None:
    videos = [video("n", scores(1, 2), truth("..")), video("x", scores(3, 4), truth("xx"))]
    auc = auc_of(videos, "causal")
    assert auc.micro == 1.0
    assert np.isnan(auc.macro)
    assert auc.left_out == ["n", "x"]


@pytest.mark.parametrize("marks", ["..", "xx"])
def test_one_class_in_all_videos_is_one_line(marks: str) -> None:
    videos = [video("a", scores(1, 2), truth(marks)), video("b", scores(1, 2), truth(marks))]
    with pytest.raises(InputError) as caught:
        auc_of(videos, "causal")
    assert_one_line(caught.value, "one class only")


def test_a_column_that_is_not_there_is_one_line() -> None:
    with pytest.raises(InputError) as caught:
        auc_of([video("a", scores(1, 2), truth(".x"))], "offline")
    assert_one_line(caught.value, "a has no offline column")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "scaled_micro", "micro", "macro"),
    [("UCSDped2", 0.9341, 0.6958, 0.9710), ("Avenue", 0.8099, 0.8074, 0.8532)],
)
def test_the_published_errors_of_memae_give_their_published_areas(
    data: Path, name: str, scaled_micro: float, micro: float, macro: float
) -> None:
    golden = np.load(data / "golden" / "memae_golden.npz")
    errors = golden[f"{name}_err"].astype(np.float64)
    marks = golden[f"{name}_gt"].astype(bool)
    raw, scaled, at, frame = [], [], 0, 0
    for number, frames in enumerate(golden[f"{name}_len"].tolist()):
        # A score belongs to frame 8 of its 16: the first 8 and the last 7 frames have none.
        mine = errors[at : at + frames - 15]
        labels = marks[frame + 8 : frame + frames - 7]
        low, high = mine.min(), mine.max()
        raw.append(video(f"{number}", mine, labels))
        scaled.append(video(f"{number}", mine, labels, (mine - low) / (high - low)))
        at, frame = at + frames - 15, frame + frames
    assert (at, frame) == (len(errors), len(marks))
    plain, by_video = auc_of(raw, "causal"), auc_of(scaled, "offline")
    assert round(by_video.micro, 4) == scaled_micro
    assert round(plain.micro, 4) == micro
    assert round(plain.macro, 4) == macro
    assert by_video.macro == pytest.approx(plain.macro)  # scaling a video keeps its order


# -- read_scores -------------------------------------------------------------------------------


def labels(**frames: str) -> Labels:
    """Return labels; each video is written as `.` and `x` (in one run)."""
    videos = {}
    for name, marks in frames.items():
        intervals = []
        if "x" in marks:
            intervals = [Interval(first=marks.index("x"), last=marks.rindex("x"))]
        videos[f"{name}.mp4"] = VideoLabels(frames=len(marks), anomalies=intervals)
    return Labels(schema=1, label_set="by hand", fps=25, videos=videos)


def results(
    folder: Path, name: str, values: list[float | None], offline: list[float | None] | None = None
) -> Path:
    """Write what `vad-run score` leaves behind."""
    folder.mkdir(parents=True)
    writer = RowWriter(folder, live=False, offline=offline is not None)
    for i, value in enumerate(values):
        writer.write(
            Row(
                frame=i,
                time_s=i / 25,
                raw=value,
                score=value,
                alarm=False,
                status="scored" if value is not None else "warm-up",
                offline=offline[i] if offline else None,
            )
        )
    writer.close()
    (folder / "report.json").write_text(json.dumps({"source": {"name": f"/site/{name}.mp4"}}))
    return folder


def test_results_are_joined_with_their_truth(tmp_path: Path) -> None:
    results(tmp_path / "one", "a", [0.5, 1.5, 2.5], [0.0, 0.5, 1.0])
    results(tmp_path / "deep" / "two", "b", [3.0, 4.0], [0.25, 0.75])
    videos = {Path(v.name).stem: v for v in read_scores(tmp_path, labels(a=".xx", b=".."))}
    assert videos.keys() == {"a", "b"}
    assert videos["a"].causal.tolist() == [0.5, 1.5, 2.5]
    assert videos["a"].truth.tolist() == [False, True, True]
    offline = videos["b"].offline
    assert offline is not None
    assert offline.tolist() == [0.25, 0.75]
    assert not videos["b"].truth.any()


def test_a_frame_without_a_score_takes_the_last_one_before_or_the_first_after(
    tmp_path: Path,
) -> None:
    results(tmp_path / "r", "a", [None, None, 3.0, None, 5.0, None])
    (read,) = read_scores(tmp_path, labels(a="..xx.."))
    assert read.causal.tolist() == [3, 3, 3, 3, 5, 5]
    assert read.offline is None


@pytest.mark.parametrize("marks", [".x", ".x.."])
def test_another_number_of_frames_than_labelled_is_one_line(tmp_path: Path, marks: str) -> None:
    results(tmp_path / "r", "a", [1.0, 2.0, 3.0])
    with pytest.raises(InputError) as caught:
        read_scores(tmp_path, labels(a=marks))
    assert_one_line(caught.value, "frame 2", f"by hand knows {len(marks)} frames", "a.mp4")


@pytest.mark.parametrize("file", ["a.npz", "a_rgb.npy"])
def test_scores_of_features_are_joined_with_the_video_they_were_made_of(
    tmp_path: Path, file: str
) -> None:
    folder = results(tmp_path / "r", "a", [1.0, 2.0, 3.0])
    report = {"source": {"name": f"/features/{file}", "kind": "features"}}
    (folder / "report.json").write_text(json.dumps(report))
    # The features cover whole clips: the video's tail keeps the last score, or is cut off.
    (longer,) = read_scores(tmp_path, labels(a="..xxx"))
    assert longer.causal.tolist() == [1, 2, 3, 3, 3]
    assert longer.truth.tolist() == [False, False, True, True, True]
    (shorter,) = read_scores(tmp_path, labels(a=".x"))
    assert shorter.causal.tolist() == [1, 2]
    with pytest.raises(InputError) as caught:
        read_scores(tmp_path, labels(a="." * 19 + "x"))
    assert_one_line(caught.value, "knows 20 frames")


def test_a_video_without_truth_is_one_line(tmp_path: Path) -> None:
    results(tmp_path / "r", "other", [1.0, 2.0])
    with pytest.raises(InputError) as caught:
        read_scores(tmp_path, labels(a=".x"))
    assert_one_line(caught.value, "no truth for", "other.mp4")


def test_a_video_without_any_score_is_one_line(tmp_path: Path) -> None:
    results(tmp_path / "r", "a", [None, None])
    with pytest.raises(InputError) as caught:
        read_scores(tmp_path, labels(a=".x"))
    assert_one_line(caught.value, "holds no score")


def test_two_results_of_one_video_are_one_line(tmp_path: Path) -> None:
    results(tmp_path / "fp32", "a", [1.0, 2.0])
    results(tmp_path / "bf16", "a", [1.0, 2.0])
    with pytest.raises(InputError) as caught:
        read_scores(tmp_path, labels(a=".x"))
    assert_one_line(caught.value, "two results of", "a.mp4")


def test_a_folder_without_results_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_scores(tmp_path, labels(a=".x"))
    assert_one_line(caught.value, str(tmp_path), "vad-run score")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"source": 5}', '{"source": {}}'])
def test_a_report_of_something_else_is_one_line(tmp_path: Path, text: str) -> None:
    results(tmp_path / "r", "a", [1.0, 2.0])
    (tmp_path / "r" / "report.json").write_text(text)
    with pytest.raises(InputError) as caught:
        read_scores(tmp_path, labels(a=".x"))
    assert_one_line(caught.value, "report.json is no report of vad-run")


# -- what scores depend on ---------------------------------------------------------------------


def test_the_identity_of_scores_follows_their_graph_and_settings_and_no_report() -> None:
    about = manifest(
        artefacts={
            "fp32": artefact(sha256="0" * 64),
            "int8": artefact(sha256="1" * 64, precision="int8", file="model.int8.onnx"),
        }
    )

    def identity(name: str | None = "fp32", **changes: Any) -> str:
        changed = msgspec.structs.replace(about, **changes)
        return identity_of(Bundle(Path("a.vad"), changed), name)

    assert identity("fp32") != identity("int8")
    assert identity(None) not in (identity("fp32"), identity("int8"))
    assert identity() == identity(calibration={"clips": 8}, parity={"bf16_allowed": True})
    assert identity() == identity(artefacts={"fp32": about.artefacts["fp32"]})
    assert identity() != identity(artefacts={"fp32": artefact(sha256="2" * 64)})
    assert identity() != identity(scoring=Scoring(threshold=0.25))
    assert identity() != identity(clip=msgspec.structs.replace(about.clip, hop=2))
