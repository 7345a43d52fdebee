"""Precomputed features through a bundle of a head: no video, no network."""

import csv
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from helpers import artefact, assert_one_line, clip_spec, manifest
from onnx import TensorProto, helper

import vad_runtime.feature_runs as feature_runs
from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Options
from vad_runtime.bundle import Bundle, write_bundle
from vad_runtime.cli import main
from vad_runtime.contracts import (
    BackendError,
    BundleError,
    FeatureSpec,
    InputError,
    Manifest,
    ScoreSpec,
    Scoring,
)
from vad_runtime.contracts.manifest import json_from_manifest, manifest_from_json
from vad_runtime.feature_runs import run_features
from vad_runtime.features import find_features
from vad_runtime.runs import RunOptions, run_source

SEGMENTS, SIZE = 4, 3
FEATURES = FeatureSpec(segments=SEGMENTS, size=SIZE, normalise=False, made_by="a test")
OPTIONS = RunOptions(live=False, offline=True, plot=False)
Result = tuple[int, str, str]


def about(**changes: Any) -> Manifest:
    """Return the manifest of a head whose score is the first number of a feature."""
    plain = msgspec.structs.replace(
        manifest(
            clip=clip_spec(frames=16, hop=16),
            score=None,
            scoring=Scoring(threshold=0.5, method="by hand"),
            artefacts={"fp32": artefact(opset=18)},
        ),
        family="mil",
        score=ScoreSpec(per="segment", form="probability", count=SEGMENTS),
        features=FEATURES,
    )
    return msgspec.structs.replace(plain, **changes)


def head(path: Path, *, segments: int = SEGMENTS, size: int = SIZE) -> Path:
    """Write a graph `features` (N, S, D) -> `score` (N, S): the first number of each feature."""
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["features", "zero", "one", "axis"], ["first"]),
            helper.make_node("Squeeze", ["first", "axis"], ["score"]),
        ],
        "head",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", segments, size])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", segments])],
        [
            helper.make_tensor(name, TensorProto.INT64, [1], [value])
            for name, value in (("zero", 0), ("one", 1), ("axis", 2))
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of a head. Do not change."""
    folder = tmp_path_factory.mktemp("head")
    return write_bundle(folder / "head.vad", about(), {"fp32": head(folder / "head.onnx")})


def write_features(path: Path, first: list[float], **more: Any) -> Path:
    """Write an npz whose features have the given first numbers."""
    features = np.zeros((len(first), SIZE), np.float32)
    features[:, 0] = first
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, features=features, **more)
    return path


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "scores.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def scored(
    bundle: Bundle, features: Path, folder: Path, options: RunOptions = OPTIONS
) -> dict[str, Any]:
    choice = open_backend(bundle, "onnxruntime", Options(threads=1))
    try:
        return run_features(bundle, choice, find_features(features)[0], folder, options)
    finally:
        choice.backend.close()


# -- the engines -------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_takes_float_features(bundle: Bundle, engine: str) -> None:
    choice = open_backend(bundle, engine, Options(threads=1))
    values = np.random.default_rng(0).normal(size=(2, SEGMENTS, SIZE)).astype(np.float32)
    values.setflags(write=False)
    score = choice.backend.infer(values)["score"]
    choice.backend.close()
    np.testing.assert_array_equal(score, values[:, :, 0])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "fake"])
@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, SEGMENTS, SIZE), np.float64),
        np.zeros((1, SEGMENTS + 1, SIZE), np.float32),
        np.zeros((SEGMENTS, SIZE), np.float32),
        np.zeros((1, 16, 32, 32, 1), np.uint8),
    ],
    ids=["float64", "a segment more", "no batch", "a clip"],
)
def test_an_engine_refuses_what_is_no_batch_of_features(
    bundle: Bundle, engine: str, wrong: Any
) -> None:
    choice = open_backend(bundle, engine, Options(threads=1))
    with pytest.raises(BackendError, match="features must be C-contiguous float32") as caught:
        choice.backend.infer(wrong)
    choice.backend.close()
    assert_one_line(caught.value, "(N, 4, 3)", str(wrong.dtype))


def test_the_fake_engine_scores_a_segment_by_its_mean_size(bundle: Bundle) -> None:
    choice = open_backend(bundle, "fake")
    values = np.array([[[3, -3, 0], [0, 0, 0], [1, 1, 1], [-6, 0, 0]]], np.float32)
    np.testing.assert_allclose(choice.backend.infer(values)["score"], [[2, 0, 1, 2]])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_graph_of_another_size_than_the_manifest_says_is_refused(
    engine: str, tmp_path: Path
) -> None:
    graph = head(tmp_path / "head.onnx", size=SIZE + 1)
    other = write_bundle(tmp_path / "x.vad", about(), {"fp32": graph})
    with pytest.raises(BackendError) as caught:
        open_backend(other, engine)
    assert_one_line(caught.value, "takes features of float32 (N, 4, 4)", "float32 (N, 4, 3)")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_graph_of_clips_in_a_bundle_of_features_is_refused(
    engine: str, tiny_graph: Path, tmp_path: Path
) -> None:
    other = write_bundle(tmp_path / "x.vad", about(), {"fp32": tiny_graph})
    with pytest.raises(BackendError, match="no single input `features`"):
        open_backend(other, engine)


# -- the manifest ------------------------------------------------------------------------------


def test_a_manifest_of_features_is_read_back_as_it_was() -> None:
    assert manifest_from_json(json_from_manifest(about()), "m") == about()
    assert (about().input_name, about().input_shape) == ("features", (SEGMENTS, SIZE))
    assert (manifest().input_name, manifest().input_shape) == ("clip", (8, 32, 32, 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"features": None},
        {"score": ScoreSpec(per="clip", form="probability")},
        {"score": ScoreSpec(per="segment", form="probability", count=SEGMENTS + 1)},
    ],
)
def test_a_manifest_that_contradicts_itself_about_features_is_refused(
    changes: dict[str, Any],
) -> None:
    tree = msgspec.to_builtins(about())
    tree |= {key: msgspec.to_builtins(value) for key, value in changes.items()}
    with pytest.raises(BundleError) as caught:
        manifest_from_json(msgspec.json.encode(tree), "manifest.json")
    assert_one_line(caught.value, "segment")


# -- a run -------------------------------------------------------------------------------------


def test_each_frame_has_the_score_of_its_segment(bundle: Bundle, tmp_path: Path) -> None:
    """Eight clips in four segments: a segment is two clips, its score their mean."""
    file = write_features(
        tmp_path / "v.npz",
        [0.0, 0.2, 0.4, 0.4, 0.9, 0.7, 0.1, 0.1],
        first_frames=np.arange(8) * 16,
        clip_span=16,
        frames=130,
        fps=10.0,
    )
    report = scored(bundle, file, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [row["frame"] for row in rows] == [str(i) for i in range(130)]
    raw = np.array([float(row["raw"]) for row in rows])
    want = np.repeat([0.1, 0.4, 0.8, 0.1], [32, 32, 32, 34])
    np.testing.assert_allclose(raw, want, atol=1e-6)
    assert float(rows[25]["time_s"]) == 2.5
    assert {row["status"] for row in rows} == {"scored"}
    assert [i for i, row in enumerate(rows) if row["alarm"] == "1"] == list(range(64, 96))
    offline = np.array([float(row["offline"]) for row in rows])
    assert (offline.min(), offline.max()) == (0.0, 1.0)
    ((start, end),) = [(e["start_frame"], e["end_frame"]) for e in report["events"]]
    assert (start, end) == (64, 95)
    assert report["peak"] == {"time_s": 6.4, "score": pytest.approx(0.8)}
    assert report["notes"] == [feature_runs.NOTE]
    assert (report["mode"], report["frames"], report["clips"]) == ("features", 130, 8)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["frames"] == 130
    assert (tmp_path / "out" / "scores.jsonl").read_text().count("\n") == 130


def test_features_are_normalised_where_the_manifest_says_so(bundle: Bundle, tmp_path: Path) -> None:
    features = np.tile(np.array([3.0, 4.0, 0.0], np.float32), (4, 1))
    np.savez(tmp_path / "v.npz", features=features, frames=64, fps=25.0)
    scored(bundle, tmp_path / "v.npz", tmp_path / "raw")
    assert {row["raw"] for row in rows_of(tmp_path / "raw")} == {"3"}
    spec = msgspec.structs.replace(FEATURES, normalise=True)
    unit = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, features=spec))
    scored(unit, tmp_path / "v.npz", tmp_path / "unit")
    raw = [float(row["raw"]) for row in rows_of(tmp_path / "unit")]
    np.testing.assert_allclose(raw, 0.6, atol=1e-6)


def test_a_file_without_frame_numbers_or_length_is_scored_and_the_report_says_how(
    bundle: Bundle, tmp_path: Path
) -> None:
    np.save(tmp_path / "v.npy", np.zeros((5, SIZE), np.float32))
    options = RunOptions(live=False, plot=False, fps=25.0)
    report = scored(bundle, tmp_path / "v.npy", tmp_path / "out", options)
    assert report["frames"] == 5 * 16
    assert any("taken for 16 frames" in note for note in report["notes"])
    assert any("80 frames were taken for the whole video" in note for note in report["notes"])


def test_a_picture_is_drawn_and_knows_the_truth_of_the_video(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    from vad_runtime.labels import Interval, Labels, VideoLabels

    seen: list[Any] = []
    real = feature_runs.save_plot

    def save_plot(*args: Any, **kwargs: Any) -> None:
        seen.append(kwargs["truth"])
        real(*args, **kwargs)

    monkeypatch.setattr(feature_runs, "save_plot", save_plot)
    file = write_features(tmp_path / "a" / "v.npz", [0.1] * 4, frames=64, fps=25.0)
    truth = VideoLabels(frames=64, anomalies=[Interval(first=3, last=5)])
    labels = Labels(schema=1, label_set="test", fps=25.0, videos={"a/v.mp4": truth})
    options = RunOptions(live=False, labels=labels)
    report = scored(bundle, file, tmp_path / "out", options)
    assert report["scores_png"] == "written"
    assert (tmp_path / "out" / "scores.png").stat().st_size > 1000
    assert [int(mask.sum()) for mask in seen] == [3]


@pytest.mark.parametrize(
    ("content", "options", "parts"),
    [
        ({"features": np.zeros((4, SIZE), np.float32)}, OPTIONS, ["no frame rate", "--fps"]),
        (
            {"features": np.zeros((4, 7), np.float32), "fps": 25.0},
            OPTIONS,
            ["features of 7 numbers", "takes 3", "a test"],
        ),
        (
            {"features": np.zeros((4, SIZE), np.float32), "fps": 25.0},
            RunOptions(live=False, hop=4),
            ["--hop is for video"],
        ),
    ],
)
def test_features_that_do_not_fit_are_one_line_and_leave_nothing(
    bundle: Bundle, tmp_path: Path, content: dict[str, Any], options: RunOptions, parts: list[str]
) -> None:
    np.savez(tmp_path / "v.npz", **content)
    with pytest.raises(InputError) as caught:
        scored(bundle, tmp_path / "v.npz", tmp_path / "out", options)
    assert_one_line(caught.value, *parts)
    assert [f.name for f in tmp_path.iterdir()] == ["v.npz"]


def test_old_results_are_replaced_only_when_asked_for(bundle: Bundle, tmp_path: Path) -> None:
    file = write_features(tmp_path / "v.npz", [0.1] * 4, frames=64, fps=25.0)
    scored(bundle, file, tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        scored(bundle, file, tmp_path / "out")
    scored(bundle, file, tmp_path / "out", RunOptions(live=False, plot=False, overwrite=True))
    assert "offline" not in rows_of(tmp_path / "out")[0]


def test_a_bundle_of_features_scores_no_video_and_one_of_clips_no_features(
    bundle: Bundle, tiny_bundle: Bundle, tiny_video: Path, tmp_path: Path
) -> None:
    choice = open_backend(bundle, "onnxruntime")
    with pytest.raises(InputError) as caught:
        run_source(bundle, choice, tiny_video, tmp_path / "out", RunOptions(live=False))
    assert_one_line(caught.value, "precomputed features", "vad-run score head.vad FEATURES")
    choice.backend.close()
    file = write_features(tmp_path / "v.npz", [0.1] * 4, frames=64, fps=25.0)
    with pytest.raises(InputError, match="scores video, not features"):
        scored(tiny_bundle, file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Run the command's own `main` in this process."""
    before = signal.getsignal(signal.SIGTERM)

    def command(*words: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["vad-run", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    yield command
    signal.signal(signal.SIGTERM, before)


def test_score_takes_a_tree_of_features(run: Any, bundle: Bundle, tmp_path: Path) -> None:
    for name in ("fight/a", "fight/b", "normal/a"):
        write_features(tmp_path / "in" / f"{name}.npz", [0.2, 0.9, 0.9, 0.2], frames=64, fps=25.0)
    words = ("--no-plot", "--backend", "onnxruntime")
    code, out, err = run("score", bundle.path, tmp_path / "in", "-o", tmp_path / "out", *words)
    assert (code, err) == (0, "")
    assert sorted(f.parent.name for f in (tmp_path / "out").rglob("report.json")) == [
        *("a", "a_2", "b"),
    ]
    assert out.count("64 frames, 4 clips, 1 alarms, peak 0.90 at 0.64 s") == 3
    assert out.count("not what a live run would give") == 3


def test_one_file_that_cannot_be_read_does_not_stop_the_others(
    run: Any, bundle: Bundle, tmp_path: Path
) -> None:
    write_features(tmp_path / "in" / "a.npz", [0.2] * 4, frames=64, fps=25.0)
    (tmp_path / "in" / "b.npz").write_text("no features")
    words = ("--no-plot", "--backend", "onnxruntime")
    code, out, err = run("score", bundle.path, tmp_path / "in", "-o", tmp_path / "out", *words)
    assert code == 1
    assert "a.npz: 64 frames" in out
    assert "b.npz" in err
    assert "1 of 2 files could not be scored" in err


def test_watch_refuses_a_bundle_of_features_in_one_line(
    run: Any, bundle: Bundle, tiny_video: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "head.vad"))
    code, out, err = run("watch", copy, tiny_video, "-o", tmp_path / "out")
    assert (code, out) == (1, "")
    assert err.startswith("Error: head.vad scores precomputed features of whole videos")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
