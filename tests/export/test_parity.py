"""Does the exported graph decide like its checkpoint?"""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import assert_one_line, clip_spec
from onnx import numpy_helper

import vad_export.bundles as bundles
import vad_export.parity as parity
from vad_export.bundles import bundle_from_graph
from vad_export.onnx_graph import onnx_from_graph
from vad_export.parity import BF16_BUDGET, FP32_BUDGET, LEAST_COSINE, parity_report
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import BackendError, ParityError
from vad_training.checkpoint import checkpoint_from_path
from vad_training.graphs import ScoreGraph, graph_from_checkpoint
from vad_training.graphs.stae import ScoreForm, stae_graph
from vad_training.models.stae import STAE

FORM = ScoreForm(form="prediction")


@pytest.fixture(scope="module")
def graph() -> ScoreGraph:
    torch.manual_seed(0)
    return stae_graph(STAE().eval(), clip_spec(), FORM)


@pytest.fixture(scope="module")
def exported(graph: ScoreGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph as ONNX, exported once for all tests. Do not change."""
    file = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx_from_graph(graph, file)
    return file


@pytest.fixture
def exported_once(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "onnx_from_graph", lambda _, file: shutil.copyfile(exported, file))


def tampered(exported: Path, target: Path, factor: float, *, all_weights: bool = True) -> Path:
    """Multiply one weight tensor of a graph, or all, by a factor."""
    model = onnx.load(exported)
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.ndim == 5:
            weight.CopyFrom(numpy_helper.from_array(values * np.float32(factor), weight.name))
            if not all_weights:
                break
    onnx.save(model, target)
    return target


def without(patch: pytest.MonkeyPatch, *engines: str) -> None:
    """Let engines look as if they were not installed."""
    for engine in engines:
        patch.setitem(sys.modules, engine, None)
        patch.delitem(sys.modules, f"vad_runtime.backends.{engine}", raising=False)


# -- on real footage ---------------------------------------------------------------------------


@pytest.mark.usefixtures("exported_once")
def test_the_report_says_what_was_compared_and_how_far_it_is_apart(
    graph: ScoreGraph, tiny_video: Path, tmp_path: Path
) -> None:
    bundle = bundle_from_graph(graph, tmp_path / "x.vad", footage=[tiny_video])
    reopened = Bundle.open(tmp_path / "x.vad")
    assert reopened.manifest == bundle.manifest
    report = reopened.manifest.parity
    assert report is not None
    assert report["clips"] == 8
    firsts = [int(origin.removeprefix(f"{tiny_video}:")) for origin in report["clip_origins"]]
    assert firsts == sorted(set(firsts))
    assert report["score_scale"] > 0
    assert report["budget_of_scale"] == FP32_BUDGET
    assert report["engines"].keys() == {"onnxruntime fp32", "openvino fp32", "openvino bf16"}
    for name in ("onnxruntime fp32", "openvino fp32"):
        engine = report["engines"][name]
        assert engine["device"].startswith(name.split()[0])
        assert "fp32" in engine["device"]
        assert 0 <= engine["max_of_scale"] <= FP32_BUDGET
        assert engine["max_of_scale"] == engine["max_abs"] / report["score_scale"]
        assert engine["max_relative"] >= engine["max_of_scale"]
    assert isinstance(report["bf16_allowed"], bool)
    assert [f.name for f in tmp_path.iterdir()] == ["x.vad"]


@pytest.mark.usefixtures("exported_once")
def test_without_footage_noise_is_compared_and_the_report_says_so(
    graph: ScoreGraph, tmp_path: Path
) -> None:
    bundle = bundle_from_graph(graph, tmp_path / "x.vad")
    report = bundle.manifest.parity
    assert report is not None
    assert report["clip_origins"] == [f"seeded noise:{i}" for i in range(8)]


@pytest.mark.parametrize("factor", [1.01, 0.98])
def test_a_tampered_graph_is_refused_and_no_bundle_is_left(
    graph: ScoreGraph,
    exported: Path,
    tiny_video: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    factor: float,
) -> None:
    monkeypatch.setattr(bundles, "onnx_from_graph", lambda *a: tampered(exported, a[-1], factor))
    with pytest.raises(ParityError) as caught:
        bundle_from_graph(graph, tmp_path / "x.vad", footage=[tiny_video])
    assert_one_line(caught.value, "fp32 differs from PyTorch by", "budget is 1e-04")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("exported_once")
def test_an_engine_that_is_not_installed_is_noted(
    graph: ScoreGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "openvino")
    bundle = bundle_from_graph(graph, tmp_path / "x.vad")
    report = bundle.manifest.parity
    assert report is not None
    assert "not installed" in report["engines"]["openvino fp32"]["not_run"]
    assert "not installed" in report["engines"]["openvino bf16"]["not_run"]
    assert report["engines"]["onnxruntime fp32"]["max_of_scale"] <= FP32_BUDGET
    assert report["bf16_allowed"] is False


@pytest.mark.usefixtures("exported_once")
def test_without_any_engine_nothing_is_written(
    graph: ScoreGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "openvino", "onnxruntime")
    with pytest.raises(ParityError) as caught:
        bundle_from_graph(graph, tmp_path / "x.vad")
    assert_one_line(caught.value, "no engine could check", "not installed", "pip install")
    assert not list(tmp_path.iterdir())


def test_the_reference_is_computed_clip_by_clip(graph: ScoreGraph) -> None:
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (3, 16, 32, 32, 1), np.uint8)
    whole = graph.run(clips)["score"]
    assert (whole.shape, whole.dtype) == ((3, 8), np.float32)
    for i in range(3):
        alone = graph.run(clips[i : i + 1])["score"]
        np.testing.assert_array_equal(alone, whole[i : i + 1])


# -- with engines made up ----------------------------------------------------------------------

REFERENCE = {"score": np.array([[1.0, 100.0]], np.float32)}
NO_CLIPS = np.zeros((1, 2, 8, 8, 1), np.uint8)


def made_up(patch: pytest.MonkeyPatch, answers: dict[str, Any]) -> None:
    """Let each engine and precision give an answer; those without one cannot be opened."""

    def opened(_bundle: object, name: str, options: Any) -> SimpleNamespace:
        answer = answers.get(f"{name} {options.precision}")
        if answer is None:
            raise BackendError(f"no {name} {options.precision} here")
        backend = SimpleNamespace(
            infer=lambda clips: {"score": np.array([answer], np.float32)},
            close=lambda: None,
            device=name,
        )
        return SimpleNamespace(backend=backend)

    patch.setattr(parity, "open_backend", opened)


def report_of(patch: pytest.MonkeyPatch, **answers: list[float]) -> dict[str, Any]:
    made_up(patch, {name.replace("_", " "): answer for name, answer in answers.items()})
    return parity_report(SimpleNamespace(), REFERENCE, NO_CLIPS, [("a.mp4", 3)])  # type: ignore[arg-type]


def test_differences_are_measured_in_three_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_of(monkeypatch, onnxruntime_fp32=[1.0, 100.0], openvino_fp32=[1.005, 99.995])
    assert report["engines"]["onnxruntime fp32"]["max_abs"] == 0
    found = report["engines"]["openvino fp32"]
    assert found["max_abs"] == pytest.approx(0.005, rel=1e-2)
    assert found["max_of_scale"] == pytest.approx(0.00005, rel=1e-2)
    assert found["max_relative"] == pytest.approx(0.005, rel=1e-2)
    assert report["engines"]["openvino bf16"] == {"not_run": "no openvino bf16 here"}
    assert (report["score_scale"], report["clip_origins"]) == (100.0, ["a.mp4:3"])


@pytest.mark.parametrize("bad", [[1.0, 100.02], [1.02, 100.0], [1.0, float("nan")]])
@pytest.mark.parametrize("engine", ["onnxruntime_fp32", "openvino_fp32"])
def test_every_fp32_engine_must_keep_the_budget(
    monkeypatch: pytest.MonkeyPatch, engine: str, bad: list[float]
) -> None:
    good = {"onnxruntime_fp32": [1.0, 100.0], "openvino_fp32": [1.0, 100.0]}
    with pytest.raises(ParityError) as caught:
        report_of(monkeypatch, **(good | {engine: bad}))
    assert_one_line(caught.value, engine.replace("_", " "))


@pytest.mark.parametrize(
    ("bf16", "allowed"),
    [([1.0, 100.0], True), ([1.019, 101.0], True), ([1.03, 100.0], False), ([1.0, 97.0], False)],
)
def test_bf16_is_allowed_only_where_every_score_stays(
    monkeypatch: pytest.MonkeyPatch, bf16: list[float], allowed: bool
) -> None:
    assert BF16_BUDGET == 0.02
    report = report_of(monkeypatch, onnxruntime_fp32=[1.0, 100.0], openvino_bf16=bf16)
    assert report["bf16_allowed"] is allowed


def test_the_least_cosine_of_an_embedding_is_told_and_must_be_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """(3, 4) and (4, 3) have the cosine 24 / 25, whatever their lengths."""
    embeddings = np.array([[3.0, 4.0], [1.0, 0.0]], np.float32)
    reference = {"score": np.ones(2, np.float32), "embedding": embeddings}
    clips = np.zeros((2, 2, 8, 8, 1), np.uint8)

    def report(first: list[float]) -> dict[str, Any]:
        answers = iter([first, [1.0, 0.0]] * 2)

        def opened(_bundle: object, name: str, options: Any) -> SimpleNamespace:
            if options.precision != "fp32":
                raise BackendError("no bf16 here")
            backend = SimpleNamespace(
                infer=lambda _: {
                    "score": np.ones(1, np.float32),
                    "embedding": np.array([next(answers)], np.float32),
                },
                close=lambda: None,
                device=name,
            )
            return SimpleNamespace(backend=backend)

        monkeypatch.setattr(parity, "open_backend", opened)
        return parity_report(SimpleNamespace(), reference, clips, [("a", 0), ("a", 1)])  # type: ignore[arg-type]

    assert LEAST_COSINE == 0.9999
    told = report([6.0, 8.0])["engines"]
    assert told["openvino fp32"]["least_cosine"] == pytest.approx(1.0)
    with pytest.raises(ParityError) as caught:
        report([4.0, 3.0])
    assert_one_line(caught.value, "onnxruntime fp32", "cosine 0.960000", "least allowed is 0.9999")


# -- the published checkpoint ------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.slow
def test_the_published_checkpoint_keeps_its_scores_on_a_real_clip(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "_PARITY_CLIPS", 2)  # each costs seconds in PyTorch
    checkpoint = checkpoint_from_path(data / "stae" / "model_final_checkpoint.pth")
    bundle = bundle_from_graph(
        graph_from_checkpoint(checkpoint),
        tmp_path / "published.vad",
        footage=[data / "stae" / "Video20.mp4"],
    )
    report = bundle.manifest.parity
    assert report is not None
    assert report["clips"] == 2
    for engine in ("onnxruntime fp32", "openvino fp32"):
        assert report["engines"][engine]["max_of_scale"] <= 1e-4
    # The raw errors that models.md gives: normal frames median 34, this clip's maximum 297.
    assert 10 < report["score_scale"] < 600
