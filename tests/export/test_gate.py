"""The parity gate: what is compared, with what figures, and what is refused."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from helpers import (
    artefact,
    assert_one_line,
    clip_spec,
    frame_stream,
    manifest,
    motion_model,
    write_video,
)
from helpers_footage import scene
from onnx import numpy_helper

import vad_export.gate_scores as gate_scores
import vad_export.verified as verified_module
from vad_export.bundles import bundle_from_graph
from vad_export.gate import (
    Candidate,
    GateReport,
    Result,
    candidates_of,
    outdated,
    recorded,
    require_passed,
    verify,
)
from vad_export.gate_figures import Figures, Threshold, broken_limits
from vad_export.gate_footage import (
    clip_start,
    clips_in,
    footage_of,
    frames_a_file,
    stretches_of,
)
from vad_export.gate_report import outcome, save_pictures, table
from vad_export.gate_scores import opened_footage
from vad_export.precision_config import Budget, budget_from_settings
from vad_export.verified import entry_of
from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Options
from vad_runtime.bundle import Bundle, add_artefacts, rewrite_manifest, write_bundle
from vad_runtime.contracts import (
    Artefact,
    ConfigError,
    InputError,
    ParityError,
    Precision,
    ScoreSpec,
    Scoring,
)
from vad_runtime.detector import Detector
from vad_runtime.labels import Interval, Labels, VideoLabels
from vad_runtime.sources import open_source
from vad_training.checkpoint import checkpoint_from_path
from vad_training.checkpoint_file import save_checkpoint
from vad_training.config import MilConfig
from vad_training.config.mil import HeadConfig
from vad_training.data.store import Segment, store_from_footage
from vad_training.graphs import graph_from_checkpoint
from vad_training.models.mil import mil_head

SPEC = clip_spec(hop=4)
SCORING = Scoring(threshold=0.5, smoothing="mean", window=2, method="set by hand for tests")


def changed_model(source: Path, file: Path, *, noise: float) -> Path:
    """Write a copy of `motion_model` with noise on its weights, as a share of their spread."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.name == "weight":
            weight = numpy_helper.to_array(tensor)
            drawn = np.random.default_rng(3).normal(0, noise * weight.std(), weight.shape)
            tensor.CopyFrom(numpy_helper.from_array((weight + drawn).astype(np.float32), "weight"))
    onnx.save(model, str(file))
    return file


def bundle_with(folder: Path, scoring: Scoring = SCORING, **noise: float) -> Bundle:
    """Write a bundle with an fp32 artefact and, by precision, others with spoilt weights."""
    files = {"fp32": motion_model(folder / "fp32.onnx", SPEC)}
    artefacts: dict[str, Artefact] = {"fp32": artefact(file="fp32.onnx")}
    for precision, share in noise.items():
        name = f"{precision}.onnx"
        files[precision] = changed_model(files["fp32"], folder / name, noise=share)
        artefacts[precision] = artefact(file=name, precision=precision, made_from="fp32")
    about = manifest(clip=SPEC, scoring=scoring, artefacts=artefacts)
    return write_bundle(folder / "made.vad", about, files)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of 80 and 60 frames. Do not change."""
    folder = tmp_path_factory.mktemp("site")
    for name, frames in (("a", 80), ("b", 60)):
        write_video(folder / f"{name}.mp4", scene(frames, seed=ord(name)))
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose int8 artefact is nearly its fp32 artefact. Do not change."""
    return bundle_with(tmp_path_factory.mktemp("good"), int8=0.002)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose int8 artefact decides otherwise. Do not change."""
    return bundle_with(tmp_path_factory.mktemp("spoilt"), int8=2.0)


def labels_for(*names: str, frames: int = 80, first: int = 20, last: int = 40) -> Labels:
    """Return labels with one anomaly in each video."""
    truth = VideoLabels(frames=frames, anomalies=[Interval(first=first, last=last)])
    return Labels(schema=1, label_set="drawn", fps=15, videos=dict.fromkeys(names, truth))


def result_of(report: GateReport, name: str) -> Result:
    return next(r for r in report.results if r.candidate.name == name)


def figures_of(report: GateReport, name: str) -> Figures:
    figures = result_of(report, name).figures
    assert figures is not None
    return figures


# -- the verdict -------------------------------------------------------------------------------


def test_a_good_copy_passes_on_every_back_end(good: Bundle, site: Path) -> None:
    report = verify(good, [site])
    names = [result.candidate.name for result in report.results]
    assert names == ["openvino fp32", *_bf16(report), "openvino int8", "onnxruntime int8"]
    assert report.passed
    require_passed(report)
    for name in names:
        figures = figures_of(report, name)
        assert figures.frames == 140  # every frame of both videos
        assert figures.spearman > 0.99
        assert figures.max_difference >= figures.mean_difference >= 0
    assert figures_of(report, "openvino fp32").max_of_scale < 1e-4
    assert figures_of(report, "openvino int8").max_of_scale > 1e-4


def _bf16(report: GateReport) -> list[str]:
    """bf16 is compared where this processor has it."""
    return [] if "openvino bf16" in report.not_run else ["openvino bf16"]


def test_a_spoilt_artefact_is_refused_and_the_others_are_not(spoilt: Bundle, site: Path) -> None:
    report = verify(spoilt, [site])
    assert {r.candidate.name for r in report.failed} == {"openvino int8", "onnxruntime int8"}
    worst = result_of(report, "openvino int8").worst
    assert worst is not None
    with pytest.raises(ParityError) as raised:
        require_passed(report, {"openvino int8": Path("worst.png")})
    where = f"worst clip {worst.place.file} from frame {worst.place.first}, picture worst.png"
    assert_one_line(raised.value, "openvino int8: ", "the budget is", where, "1 more failed")


def test_the_worst_clip_is_where_the_largest_difference_is(spoilt: Bundle, site: Path) -> None:
    report = verify(spoilt, [site], backends=["onnxruntime"])
    result = result_of(report, "onnxruntime int8")
    worst, figures = result.worst, result.figures
    assert worst is not None
    assert figures is not None
    assert abs(worst.score - worst.reference) == figures.max_difference
    # Looked up by the road of vad-run, without any code of the gate.
    raw = {}
    for precision in ("fp32", "int8"):
        choice = open_backend(spoilt, "onnxruntime", Options(precision=precision))  # type: ignore[arg-type]
        source = open_source(worst.place.file, SPEC)
        detector = Detector(spoilt.manifest, choice.backend)
        raw[precision] = [s.raw for s in detector.run(source.frames(), nominal_fps=15)]
    assert raw["fp32"][worst.place.frame] == worst.reference
    assert raw["int8"][worst.place.frame] == worst.score
    assert worst.place.first <= worst.place.frame < worst.place.first + SPEC.frames
    pixels = [f.pixels.copy() for f in open_source(worst.place.file, SPEC).frames()]
    clip = pixels[worst.place.first : worst.place.first + SPEC.frames]
    assert worst.place.pixels is not None
    np.testing.assert_array_equal(worst.place.pixels, np.stack(clip))


def test_a_flip_far_from_the_threshold_is_counted_with_its_distance(
    tmp_path: Path, site: Path
) -> None:
    # The candidate gives 0 everywhere, so each frame at or above the threshold flips.
    bundle = bundle_with(tmp_path, Scoring(threshold=0.5), int8=0.0)
    model = onnx.load(bundle.path / "int8.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == "weight":
            zero = np.zeros(numpy_helper.to_array(tensor).shape, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(zero, "weight"))
    onnx.save(model, str(bundle.path / "int8.onnx"))
    choice = open_backend(bundle, "onnxruntime", Options(precision="fp32"))
    scores = []
    for name in ("a.mp4", "b.mp4"):
        frames = open_source(site / name, SPEC).frames()
        settled = Detector(bundle.manifest, choice.backend).run(frames, nominal_fps=15)
        scores += [s.score for s in settled if s.score is not None]
    level = float(np.quantile(scores, 0.8))
    scoring = Scoring(threshold=level, method="set by hand for tests")
    bundle = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, scoring=scoring))
    report = verify(bundle, [site], backends=["onnxruntime"])
    figures = figures_of(report, "onnxruntime int8")
    assert figures.flips == sum(score >= level for score in scores)
    assert figures.flip_distance == pytest.approx(max(scores) - level)
    assert figures.flip_share == figures.flips / 140
    assert figures.flip_of_spread is not None
    assert figures.mean_of_spread is not None
    spread = figures.mean_difference / figures.mean_of_spread
    assert figures.flip_of_spread == pytest.approx(figures.flip_distance / spread)  # scale 1
    assert any("decisions flip" in line for line in report.results[0].broken)


def test_without_a_threshold_decisions_are_compared_at_a_quantile_of_the_reference(
    tmp_path: Path, site: Path
) -> None:
    bundle = bundle_with(tmp_path, Scoring(), int8=0.002)
    report = verify(bundle, [site], backends=["onnxruntime"])
    assert "0.99 quantile" in report.threshold.source
    assert 0 < report.threshold.value < 1
    assert "0.99 quantile" in table(report)


def test_an_artefact_that_gives_nan_fails_with_its_reason(tmp_path: Path, site: Path) -> None:
    bundle = bundle_with(tmp_path, int8=0.0)
    motion_model(bundle.path / "int8.onnx", SPEC, answer="nan")
    report = verify(bundle, [site], precisions=["int8"], backends=["onnxruntime"])
    assert report.results[0].figures is None
    with pytest.raises(ParityError) as raised:
        require_passed(report)
    assert_one_line(raised.value, "scoring failed", "not finite")
    assert "FAILED" in table(report)


def test_each_broken_limit_is_named_with_its_value_and_a_nan_breaks_it() -> None:
    fine: dict[str, Any] = {
        "frames": 200,
        "max_difference": 0.1,
        "mean_difference": 0.01,
        "max_of_spread": 0.1,
        "mean_of_spread": 0.02,
        "max_of_scale": 1e-4,
        "cosine": 1.0,
        "spearman": 0.99,
        "flips": 2,
        "flip_share": 0.01,
        "flip_distance": 0.1,
        "flip_of_spread": 0.1,
        "auc_reference": 0.900,
        "auc": 0.900,
    }

    def broken(**changes: Any) -> list[str]:
        return broken_limits(Figures(**(fine | changes)), Budget(), fp32=True)

    assert broken() == []  # a figure equal to its limit passes
    assert broken(spearman=0.98) == ["Spearman 0.98000, the budget is at least 0.99"]
    assert broken(mean_of_spread=0.021) == ["mean error 2.1 %, the budget is 2 % of the spread"]
    assert broken(flips=3, flip_share=0.015) == [
        "3 of 200 decisions flip: 1.5 %, the budget is 1 %"
    ]
    assert broken(auc=0.906) == ["AUC +0.00600, the budget is 0.005 either way"]
    assert "1.1e-04" in broken(max_of_scale=1.1e-4)[0]
    assert len(broken(spearman=float("nan"), flips=3, flip_share=0.015, mean_of_spread=None)) == 3


def test_of_few_frames_one_flip_is_allowed_where_the_reference_could_hardly_decide() -> None:
    budget = Budget(flips=0.01, mean_error=0.02)
    assert budget.flips_hold(0, 24, 0.0)
    assert budget.flips_hold(1, 24, 0.02)
    assert not budget.flips_hold(1, 24, 0.021)
    assert not budget.flips_hold(1, 24, float("inf"))
    assert not budget.flips_hold(2, 24, 0.001)
    assert budget.flips_hold(29, 2900, 9.0)  # a share equal to its limit, however far away
    assert not Budget(flips=0.0).flips_hold(1, 24, 0.0)


# -- labels ------------------------------------------------------------------------------------


def test_the_auc_delta_appears_with_labels(spoilt: Bundle, site: Path) -> None:
    assert figures_of(verify(spoilt, [site], backends=["onnxruntime"]), "onnxruntime int8").auc is (
        None
    )
    report = verify(spoilt, [site], labels=labels_for("a.mp4"), backends=["onnxruntime"])
    figures = figures_of(report, "onnxruntime int8")
    assert figures.frames == 80  # the video without labels is left out
    assert report.notes[0] == "1 of 2 videos have no labels"
    assert figures.auc_reference is not None
    assert figures.auc is not None
    assert figures.auc_delta == figures.auc - figures.auc_reference
    assert f"{figures.auc_delta:+.5f}" in table(report)


def test_the_auc_is_that_of_the_scores_which_vad_run_gives(good: Bundle, site: Path) -> None:
    from sklearn.metrics import roc_auc_score

    report = verify(good, [site], labels=labels_for("a.mp4"), backends=["onnxruntime"])
    choice = open_backend(good, "onnxruntime", Options(precision="fp32"))
    frames = open_source(site / "a.mp4", SPEC).frames()
    settled = Detector(good.manifest, choice.backend).run(frames, nominal_fps=15)
    scores = [s.score for s in settled]
    truth = [20 <= i <= 40 for i in range(80)]
    found = figures_of(report, "onnxruntime int8").auc_reference
    assert found == pytest.approx(roc_auc_score(truth, scores))


@pytest.mark.parametrize(
    ("labels", "part"),
    [
        (labels_for("other.mp4"), "truth for none of the 2 videos"),
        (labels_for("a.mp4", frames=70), "says 70 frames"),
        (labels_for("a.mp4", first=0, last=79), "all 80 scored frames anomalous"),
    ],
)
def test_labels_that_do_not_fit_are_one_line_errors(
    good: Bundle, site: Path, labels: Labels, part: str
) -> None:
    with pytest.raises(InputError) as raised:
        verify(good, [site], labels=labels)
    assert_one_line(raised.value, part)


# -- what is compared --------------------------------------------------------------------------


def test_what_cannot_run_is_listed_with_its_reason(good: Bundle, site: Path) -> None:
    report = verify(good, [site])
    assert "no bf16 arithmetic" in report.not_run["onnxruntime bf16"]
    assert "not run: onnxruntime bf16: onnxruntime has no bf16" in table(report)


def test_an_artefact_that_no_back_end_can_load_does_not_pass(tmp_path: Path, site: Path) -> None:
    bundle = bundle_with(tmp_path, int8=0.0)
    (bundle.path / "int8.onnx").write_bytes(b"no graph")
    report = verify(bundle, [site])
    assert {"openvino int8", "onnxruntime int8"} <= set(report.not_run)
    assert not report.failed
    assert not report.passed
    with pytest.raises(ParityError) as raised:
        require_passed(verify(bundle, [site], backends=["onnxruntime"], precisions=["int8"]))
    assert_one_line(raised.value, "artefact int8 was run by no back end")


def test_a_bundle_with_fp32_alone_still_verifies_fp32_and_bf16(tiny_bundle: Bundle) -> None:
    assert [c.name for c in candidates_of(tiny_bundle)] == [
        "openvino fp32",
        "onnxruntime fp32",
        "openvino bf16",
        "onnxruntime bf16",
    ]


def test_back_ends_for_a_gpu_are_compared_where_there_is_a_driver_and_where_they_are_named(
    tiny_bundle: Bundle, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified_module, "driver_installed", lambda: True)
    names = [c.name for c in candidates_of(tiny_bundle, precisions=["fp32"])]
    assert names == [f"{engine} fp32" for engine in verified_module.ENGINES]
    assert {"tensorrt fp32", "onnxruntime-cuda fp32", "openvino fp32"} <= set(names)
    monkeypatch.setattr(verified_module, "driver_installed", lambda: False)
    named = candidates_of(tiny_bundle, ["onnxruntime-cuda", "openvino"], ["fp32"])
    assert [c.backend for c in named] == ["onnxruntime-cuda", "openvino"]
    report = verify(tiny_bundle, [site], backends=["onnxruntime-cuda", "openvino"], count=2)
    assert "driver" in report.not_run.get("onnxruntime-cuda fp32", "") or any(
        r.candidate.backend == "onnxruntime-cuda" for r in report.results
    )


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ({"backends": ["tensorflow"]}, "no back end is called 'tensorflow'"),
        ({"precisions": ["int4"]}, "no precision 'int4'"),
        ({"precisions": ["mixed"]}, "no artefact for mixed"),
        ({"precisions": ["fp32"], "backends": ["onnxruntime"]}, "--checkpoint RUN"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(
    good: Bundle, asked: dict[str, Any], part: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        verify(good, [Path("nothing here")], **asked)
    assert_one_line(raised.value, part)


# -- footage -----------------------------------------------------------------------------------


def test_footage_shorter_than_a_clip_is_a_one_line_error(good: Bundle, tmp_path: Path) -> None:
    write_video(tmp_path / "short.mp4", scene(5, seed=0))
    with pytest.raises(InputError) as raised:
        verify(good, [tmp_path])
    assert_one_line(raised.value, "8 good frames in a row", "longer footage")


def test_a_broken_file_among_good_ones_is_reported_and_skipped(
    good: Bundle, site: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    report = verify(good, [site, tmp_path], backends=["onnxruntime"])
    assert "skipped" in report.notes[0]
    assert "broken.mp4" in report.notes[0]
    assert len(report.files) == 2
    assert "broken.mp4" in table(report)


def test_footage_that_is_mostly_broken_is_refused(good: Bundle, site: Path, tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.mp4").write_bytes(b"no video")
    with pytest.raises(InputError) as raised:
        verify(good, [site, tmp_path])
    assert_one_line(raised.value, "3 of 5 files cannot be used", "0.mp4")


def test_a_list_names_footage_line_by_line(site: Path, tmp_path: Path) -> None:
    listed = tmp_path / "clips.txt"
    listed.write_text(f"# normal days\n{site / 'a.mp4'}\n\n{site}\n")
    assert footage_of(listed) == [site / "a.mp4", site / "b.mp4"]  # each once
    assert footage_of(site) == [site / "a.mp4", site / "b.mp4"]
    assert footage_of(site / "b.mp4") == [site / "b.mp4"]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"{site}/a.mp4\n\ngone.mp4\n", "clips.txt, line 3: 'gone.mp4' does not exist"),
        (b"{site}/a.mp4\n{empty}\n", "line 2: "),
        (b"# nothing\n\n", "names no footage"),
        (b"\xff\xfe\x00", "no list of paths"),
        (b"x" * 5000 + b"\n", "line 1: "),
    ],
)
def test_a_list_with_a_missing_file_names_the_line(
    site: Path, tmp_path: Path, content: bytes, part: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    filled = content.replace(b"{site}", bytes(site)).replace(b"{empty}", bytes(empty))
    (tmp_path / "clips.txt").write_bytes(filled)
    with pytest.raises(InputError) as raised:
        footage_of(tmp_path / "clips.txt")
    assert_one_line(raised.value, part)


def test_a_table_gives_its_split_val_and_a_missing_video_is_named(
    site: Path, tmp_path: Path
) -> None:
    file = tmp_path / "dataset.csv"
    lines = ["path,class,split", f"{site / 'a.mp4'},normal,train", f"{site / 'b.mp4'},normal,val"]
    file.write_text("\n".join(lines))
    assert footage_of(file) == [site / "b.mp4"]
    file.write_text("\n".join([*lines, "gone.mp4,normal,val"]))
    with pytest.raises(InputError) as raised:
        footage_of(file)
    assert_one_line(raised.value, "gone.mp4", "does not exist")


# -- stretches ---------------------------------------------------------------------------------


def test_stretches_hold_no_more_clips_than_asked_and_reach_from_end_to_end() -> None:
    segments = [
        Segment(video=i, start=1000 * i, frames=frames)
        for i, frames in enumerate((300, 5, 1000, 77))
    ]
    found = stretches_of(segments, SPEC, 64)
    assert sum(clips_in(s.frames, 8, 4) for s in found) == 64
    assert len(found) == 4
    assert found[0].start == 0
    assert found[-1].start + found[-1].frames == 3077
    for stretch in found:
        whole = segments[stretch.video]
        assert whole.start <= stretch.start
        assert stretch.start + stretch.frames <= whole.start + whole.frames
    taken = [range(s.start, s.start + s.frames) for s in found]
    assert all(a[-1] < b[0] for a, b in itertools.pairwise(taken))
    assert stretches_of(segments, SPEC, 0) == [segments[0], segments[2], segments[3]]


@pytest.mark.parametrize("seed", range(5))
def test_every_stretch_holds_a_clip_whatever_the_footage(seed: int) -> None:
    rng = np.random.default_rng(seed)
    start, segments = 0, []
    for video in range(20):
        frames = int(rng.integers(1, 60))
        segments.append(Segment(video=video, start=start, frames=frames))
        start += frames
    for count in (1, 3, 16, 50, 100):
        found = stretches_of(segments, SPEC, count)
        clips = [clips_in(s.frames, SPEC.frames, SPEC.hop) for s in found]
        assert all(clips)
        assert sum(clips) <= count
        for stretch in found:
            whole = segments[stretch.video]
            assert whole.start <= stretch.start
            assert stretch.start + stretch.frames <= whole.start + whole.frames


def test_the_count_caps_what_is_scored(good: Bundle, site: Path) -> None:
    report = verify(good, [site], count=5, backends=["onnxruntime"])
    assert report.clips == 5
    assert figures_of(report, "onnxruntime int8").frames == 8 + 4 * 4
    assert "24 scored frames are few" in report.notes[-1]


def test_of_a_long_file_only_the_beginning_is_decoded_and_the_report_says_so(
    good: Bundle, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores: list[Any] = []

    def spy(*args: Any, **options: Any) -> Any:
        stores.append(store_from_footage(*args, **options))
        return stores[-1]

    monkeypatch.setattr(gate_scores, "store_from_footage", spy)
    report = verify(good, [site / "a.mp4"], count=2, backends=["onnxruntime"])
    # A stretch of 2 clips is 12 frames.
    assert len(stores[-1].frames) == 48
    assert report.clips == 2
    assert "of 1 of 1 files only the first 48 frames were looked at" in table(report)
    whole = verify(good, [site / "a.mp4"], count=0, backends=["onnxruntime"])
    assert len(stores[-1].frames) == 80
    assert "only the first" not in table(whole)
    assert report.clips_key != whole.clips_key


@pytest.mark.parametrize(("count", "files"), [(1, 1), (16, 1), (64, 1), (64, 3), (512, 32)])
def test_what_is_decoded_of_each_file_holds_what_is_scored(count: int, files: int) -> None:
    most = frames_a_file(SPEC, count, files)
    assert most is not None
    segments = [Segment(video=i, start=i * most, frames=most) for i in range(files)]
    found = stretches_of(segments, SPEC, count)
    # A stretch that would reach into the next file ends there.
    clips = sum(clips_in(s.frames, SPEC.frames, SPEC.hop) for s in found)
    assert 0.75 * count <= clips <= count
    assert most * files <= 4 * (files + count // 16) * (15 * SPEC.hop + SPEC.frames)
    assert frames_a_file(SPEC, 0, files) is None


@pytest.mark.parametrize(
    ("score", "hop", "frames"),
    [
        (ScoreSpec(per="frame", form="x", count=8), 4, 21),
        (ScoreSpec(per="frame", form="x", first=4, count=4), 4, 23),
        (ScoreSpec(per="frame", form="x", first=6, count=1), 1, 15),
        (ScoreSpec(per="clip", form="x"), 8, 30),
        (ScoreSpec(per="frame", form="x", first=2, count=2), 6, 31),
    ],
)
def test_the_clip_of_a_frame_is_the_first_that_the_detector_scores_it_with(
    score: ScoreSpec, hop: int, frames: int
) -> None:
    spec = clip_spec(hop=hop)

    class Counting:
        device, calls = "none", 0

        def infer(self, clips: Any) -> dict[str, Any]:
            self.calls += 1
            shape = (1,) if score.per == "clip" else (1, score.count)
            return {"score": np.full(shape, self.calls - 1, np.float32)}

        def close(self) -> None: ...

    detector = Detector(manifest(clip=spec, score=score), Counting())
    settled = list(detector.run(frame_stream(spec, frames), nominal_fps=25))
    starts = [min(i * hop, frames - 8) for i in range(clips_in(frames, 8, hop))]
    assert detector.counters.clips == len(starts)
    checked = 0
    for number, found in enumerate(settled):
        if found.raw is not None:
            assert clip_start(frames, number, spec, score) == starts[int(found.raw)]
            checked += 1
    assert checked > 5


# -- report, record, budget --------------------------------------------------------------------


def test_the_record_is_in_the_manifest_and_the_rest_of_parity_is_kept(
    spoilt: Bundle, site: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(shutil.copytree(spoilt.path, tmp_path / "copy.vad"))
    old = {"passed": True, "artefact_sha256": "0" * 64}
    same = old | {"artefact_sha256": bundle.manifest.artefacts["fp32"].sha256}
    parity = {"bf16_allowed": True, "verified": {"gone int8": old, "tensorrt fp32": same}}
    bundle = rewrite_manifest(bundle, msgspec.structs.replace(bundle.manifest, parity=parity))
    report = verify(bundle, [site], backends=["onnxruntime"])
    recorded(bundle, report)
    found = Bundle.open(bundle.path).manifest.parity
    assert found is not None
    assert found["bf16_allowed"] is True
    # What belongs to a file that is no longer there is dropped, other back ends' outcome kept.
    assert set(found["verified"]) == {"tensorrt fp32", "onnxruntime int8"}
    entry = found["verified"]["onnxruntime int8"]
    assert entry["passed"] is False
    assert entry["artefact_sha256"] == bundle.manifest.artefacts["int8"].sha256
    assert entry["spearman"] == figures_of(report, "onnxruntime int8").spearman
    assert entry["budget"]["flips"] == 0.01
    assert entry["clips_key"] == report.clips_key
    assert entry["scoring"] == {
        "offset": 0.0,
        "scale": 1.0,
        "smoothing": "mean",
        "window": 2,
        "threshold": 0.5,
        "release": 0.9,
        "min_duration_s": 0.0,
    }


def copy_of(bundle: Bundle, folder: Path) -> Bundle:
    return Bundle.open(shutil.copytree(bundle.path, folder / "copy.vad"))


def test_what_was_changed_while_it_was_verified_is_kept(
    good: Bundle, site: Path, tmp_path: Path
) -> None:
    opened = copy_of(good, tmp_path)
    report = verify(opened, [site], backends=["onnxruntime"])
    half = artefact(file="model.fp16.onnx", precision="fp16", made_from="fp32")
    added = add_artefacts(opened, {"fp16": (half, opened.path / "fp32.onnx")})
    scoring = msgspec.structs.replace(SCORING, threshold=0.75)
    rewrite_manifest(added, msgspec.structs.replace(added.manifest, scoring=scoring))
    recorded(opened, report)
    now = Bundle.open(opened.path)
    assert set(now.manifest.artefacts) == {"fp32", "int8", "fp16"}
    assert now.manifest.scoring.threshold == 0.75
    assert now.manifest.parity is not None
    entry = now.manifest.parity["verified"]["onnxruntime int8"]
    # It says what it was found at, and no longer counts.
    assert entry["scoring"]["threshold"] == 0.5
    assert entry_of(now.manifest, "onnxruntime", "int8") == {}
    rewrite_manifest(now, msgspec.structs.replace(now.manifest, scoring=SCORING))
    assert entry_of(Bundle.open(opened.path).manifest, "onnxruntime", "int8") == entry


@pytest.mark.parametrize("short", ["int8", "fp32"])
def test_the_outcome_of_a_graph_that_was_replaced_meanwhile_is_not_recorded(
    good: Bundle, site: Path, tmp_path: Path, short: str
) -> None:
    opened = copy_of(good, tmp_path)
    report = verify(opened, [site], backends=["onnxruntime"])
    other = changed_model(opened.path / "fp32.onnx", tmp_path / "new.onnx", noise=0.1)
    entry = msgspec.structs.replace(opened.manifest.artefacts[short], file="new.onnx")
    add_artefacts(opened, {short: (entry, other)})
    kept = recorded(opened, report)
    assert outdated(opened, kept, report) == ["onnxruntime int8"]
    assert Bundle.open(opened.path).manifest.parity == {"verified": {}}
    assert outdated(opened, opened, report) == []


def test_the_key_tells_other_stretches_of_the_same_files_apart(
    good: Bundle, site: Path, tmp_path: Path
) -> None:
    def key(*footage: Path) -> str:
        with opened_footage(good.manifest, footage, 0) as opened:
            return opened.key

    assert key(site) == key(site / "a.mp4", site / "b.mp4")
    shutil.copy(site / "a.mp4", tmp_path / "a.mp4")
    assert key(site / "a.mp4") != key(tmp_path / "a.mp4")  # as many files and clips
    assert key(site / "a.mp4") != key(site / "b.mp4")


@pytest.mark.parametrize(
    ("precision", "part"),
    [
        ("fp16", "--precision fp16 --set keep_fp32=[NODE,...]"),
        ("int8", "Calibrate on more clips"),
        ("int8", "--precision int8 --set margin=0.5"),
        ("mixed", "--precision mixed --set margin=0.5"),
        ("bf16", "--precision fp32"),
    ],
)
def test_the_next_step_fits_the_precision(precision: Precision, part: str) -> None:
    candidate = Candidate(backend="openvino", precision=precision, artefact="x")
    result = Result(candidate=candidate, device="", figures=None, worst=None, broken=("a limit",))
    with pytest.raises(ParityError) as raised:
        require_passed(report_of(result))
    assert_one_line(raised.value, f"openvino {precision}: a limit", part)


def report_of(*results: Result, **not_run: str) -> GateReport:
    """Return a report with these results, of no footage."""
    return GateReport(
        bundle="x.vad",
        reference="none",
        files=(),
        clips=1,
        clips_key="",
        threshold=Threshold(value=1.0, source="the bundle's"),
        label_set=None,
        budget=Budget(),
        results=results,
        not_run=not_run,
        unproven=(),
        notes=(),
    )


def test_the_table_fits_a_terminal_and_the_outcome_is_json(spoilt: Bundle, site: Path) -> None:
    report = verify(spoilt, [site], labels=labels_for("a.mp4"))
    lines = table(report).splitlines()
    rows = [line for line in lines if line.startswith(("candidate", "openvino", "onnxruntime"))]
    assert max(len(line) for line in rows[:4]) <= 100
    assert sum("FAILED" in line for line in lines) == 2
    content = json.loads(msgspec.json.encode(outcome(report)))
    assert content["passed"] is False
    by_name = {entry["candidate"]: entry for entry in content["results"]}
    assert by_name["openvino int8"]["worst"]["file"] == str(site / "a.mp4")
    assert by_name["openvino int8"]["auc_delta"] is not None


def test_the_worst_clips_are_drawn_for_failures_alone(
    spoilt: Bundle, good: Bundle, site: Path, tmp_path: Path
) -> None:
    import cv2

    report = verify(spoilt, [site], backends=["onnxruntime"])
    pictures = save_pictures(tmp_path / "pictures", report)
    assert list(pictures) == ["onnxruntime int8"]
    image = cv2.imread(str(pictures["onnxruntime int8"]))
    assert image is not None
    assert image.shape[1] > 800
    body = image[image.shape[0] // 4 :]
    assert (body < 200).mean() > 0.3  # frames, and not empty paper
    assert save_pictures(tmp_path / "none", verify(good, [site], backends=["onnxruntime"])) == {}
    assert not (tmp_path / "none").exists()


def test_limits_are_read_from_settings() -> None:
    assert budget_from_settings([]) == Budget()
    assert budget_from_settings(["spearman=0.5", "flips=0"]) == Budget(spearman=0.5, flips=0.0)
    start = Budget(spearman=0.5, mean_error=1.0)
    assert budget_from_settings(["spearman=0.7"], start) == Budget(spearman=0.7, mean_error=1.0)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (["spearman"], "key=value"),
        (["colour=1"], "Choose from: spearman, auc_delta, flips, mean_error"),
        (["flips=1.5"], "flips must be 0 to 1, got 1.5"),
        (["mean_error=nan"], "mean_error"),
        (["mean_error=-1"], "mean_error must be 0 or more"),
        (["flips=many"], "flips=many"),
        (["flips=0", "flips=1"], "set twice"),
    ],
)
def test_a_limit_that_makes_no_sense_is_a_one_line_error(settings: list[str], part: str) -> None:
    with pytest.raises(ConfigError) as raised:
        budget_from_settings(settings)
    assert_one_line(raised.value, part)


def small_run(path: Path) -> Path:
    """Write the run of a head that takes features of 8 numbers."""
    torch.manual_seed(0)
    config = MilConfig(head=HeadConfig(hidden=(6, 4)))
    path.mkdir()
    save_checkpoint(path / "best.pt", {"model": mil_head(config.head, 8).state_dict()}, config)
    return path


@pytest.mark.slow
def test_a_bundle_of_features_is_verified_against_pytorch_segment_by_segment(
    tmp_path: Path,
) -> None:
    run = small_run(tmp_path / "run")
    graph = graph_from_checkpoint(checkpoint_from_path(run), head_only=True)
    bundle = bundle_from_graph(graph, tmp_path / "head.vad")
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        first = np.arange(40) * 16
        np.savez(
            tmp_path / f"{name}.npz",
            features=np.abs(rng.normal(size=(40, 8))).astype(np.float32),
            first_frames=first,
            frames=640,
        )
    (tmp_path / "list.txt").write_text("a.npz\nb.npz\nc.npz\n")
    labels = labels_for("a.mp4", "b.mp4", frames=640, first=100, last=300)
    report = verify(bundle, [tmp_path / "list.txt"], checkpoint=run, labels=labels)
    assert report.reference.startswith("PyTorch")
    figures = figures_of(report, "onnxruntime fp32")
    assert figures.frames == 2 * 32
    assert figures.auc is not None
    assert figures.max_of_scale < 1e-4
    assert report.clips == 2
    worst = result_of(report, "onnxruntime fp32").worst
    assert worst is not None
    assert worst.place.pixels is None
    assert report.passed
    (tmp_path / "list.txt").write_text("a.npz\ngone.npz\n")
    with pytest.raises(InputError) as raised:
        verify(bundle, [tmp_path / "list.txt"])
    assert_one_line(raised.value, "line 2", "gone.npz")


def test_the_run_of_another_model_is_no_reference(good: Bundle, site: Path, tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    with pytest.raises(InputError) as raised:
        verify(good, [site], checkpoint=run)
    assert_one_line(raised.value, "is not what was exported")


def test_nothing_compared_is_no_pass() -> None:
    report = report_of(**{"openvino fp32": "absent."})
    assert not report.passed
    with pytest.raises(ParityError) as raised:
        require_passed(report)
    assert_one_line(raised.value, "nothing could be compared", "openvino fp32: absent")
