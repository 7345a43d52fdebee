"""Running the passes: proved equal, timed, kept only where it helps."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers import artefact, assert_one_line, clip_spec, manifest
from helpers_passes import Node, conv, drawn, of_clips, run

from vad_export.onnx_graph import onnx_from_graph
from vad_export.passes import LEAST_SPEEDUP, PASSES, PassReport, base, optimise
from vad_export.passes.base import MOST_ROUNDING
from vad_runtime.backends.base import Inputs
from vad_runtime.contracts import BackendError, ExportError, Manifest, ScoreSpec
from vad_training.graphs.stae import ScoreForm, stae_graph
from vad_training.models.stae import STAE

CLIP = clip_spec(frames=4, height=6, width=8, colour="rgb")
ABOUT = manifest(clip=CLIP, score=ScoreSpec(per="clip", form="test"))
CLIPS = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 8, 3), np.uint8)


def scored() -> onnx.ModelProto:
    """Return a model in which normalisation, batch_norm and output_blocking find something."""
    nodes: list[Node] = [
        ("Div", ["x", "by"], "a", {}),
        conv("a", output="b", pads=[1] * 6),
        ("BatchNormalization", ["b", *"gtmv"], "c", {}),
        conv("c", output="d", weight="last", pads=[1] * 6),
        ("ReduceMean", ["d", "axes"], "score", {"keepdims": 0}),
    ]
    values = {
        "by": np.float32(255),
        "w": drawn(8, 3, 3, 3, 3),
        **{name: drawn(8) for name in "gtm"},
        "v": np.exp(drawn(8)),
        "last": drawn(1, 8, 3, 3, 3),
        "axes": np.array([1, 2, 3, 4]),
    }
    return of_clips(nodes, values, outputs=("score",), rank=1)


def timed(monkeypatch: pytest.MonkeyPatch, *ratios: float) -> None:
    """Let each timing in turn be one of the ratios."""
    answers = iter(ratios)
    monkeypatch.setattr(base, "speedups", lambda *_: [next(answers)] * 5)


def test_without_timing_every_exact_pass_is_kept_and_the_model_given_stays() -> None:
    model = scored()
    before = model.SerializeToString(deterministic=True)
    new, reports = optimise(model, ABOUT, CLIPS, measure=False)
    assert model.SerializeToString(deterministic=True) == before
    assert [r.name for r in reports] == list(PASSES)
    found = {r.name: (r.places, r.kept) for r in reports}
    assert found.pop("reduce_mean") == (0, False)
    assert set(found.values()) == {(1, True)}
    assert all(r.speedup is None and r.max_difference < 1e-6 for r in reports)
    assert [n.op_type for n in new.graph.node].count("BatchNormalization") == 0
    np.testing.assert_allclose(run(new)[0], run(model)[0], rtol=1e-5)


def test_a_pass_is_kept_only_where_it_is_faster_and_the_next_starts_from_what_was_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed(monkeypatch, LEAST_SPEEDUP - 0.001, LEAST_SPEEDUP)
    new, reports = optimise(scored(), ABOUT, CLIPS)
    kept = {r.name: r.kept for r in reports}
    # BatchNorm is not timed: quantisation needs it gone.
    assert kept == {
        "normalisation": False,
        "batch_norm": True,
        "reduce_mean": False,
        "output_blocking": True,
    }
    operators = [n.op_type for n in new.graph.node]
    assert "Div" in operators
    assert "BatchNormalization" not in operators
    assert operators.count("Reshape") == 2
    assert "1.019x in openvino" in reports[0].why


def test_a_needed_pass_stays_wherever_it_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch)  # nothing may be timed
    new, [report] = optimise(scored(), ABOUT, CLIPS, names=["batch_norm"])
    assert (report.kept, report.speedup) == (True, None)
    assert "BatchNormalization" not in [n.op_type for n in new.graph.node]


def spoilt(scale: float) -> Callable[[onnx.ModelProto], int]:
    """Return a pass that multiplies a weight."""

    def change(model: onnx.ModelProto) -> int:
        tensor = next(t for t in model.graph.initializer if t.name == "last")
        value = onnx.numpy_helper.to_array(tensor) * np.float32(scale)
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, "last"))
        return 1

    return change


def answered(
    monkeypatch: pytest.MonkeyPatch,
    onnxruntime: tuple[float | None, float | None],
    openvino: tuple[float | None, float | None],
) -> PassReport:
    """Report on a pass that two engines score so, before and after; None = it does not run."""
    scores = {"onnxruntime": onnxruntime, "openvino": openvino}

    def answer(file: Path, _about: Manifest, _inputs: Inputs, engine: str) -> np.ndarray:
        score = scores[engine][file.name == "after.onnx"]
        if score is None:
            raise BackendError(f"{engine} does not load it.")
        return np.array([score])

    monkeypatch.setattr(base, "timing_engine", lambda: "openvino")
    monkeypatch.setattr(base, "scores_of", answer)
    _, [report] = optimise(scored(), ABOUT, CLIPS, names=["output_blocking"], measure=False)
    return report


def test_one_engine_that_scores_the_same_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """How an engine adds is its own affair; a graph that is wrong is wrong in all of them."""
    report = answered(monkeypatch, (1.0, 1.00002), (1.00002, 1.000021))
    assert report.kept, report.why
    assert report.max_difference == pytest.approx(1e-6, rel=0.01)
    report = answered(monkeypatch, (1.0, 1.00002), (1.00002, 1.0))
    assert not report.kept
    assert "changes the scores by 2.0e-05" in report.why


@pytest.mark.parametrize("swapped", [False, True])
def test_no_engine_may_be_off_by_more_than_rounding_ever_is(
    monkeypatch: pytest.MonkeyPatch, swapped: bool
) -> None:
    same = (1.0, 1.0)
    for off, kept in ((0.9 * MOST_ROUNDING, True), (1.5 * MOST_ROUNDING, False)):
        engines = (same, (1.0, 1 + off))
        report = answered(monkeypatch, *(engines[::-1] if swapped else engines))
        assert report.kept is kept, report.why
    assert "changes the scores by 1.5e-04" in report.why
    assert report.max_difference == pytest.approx(1.5e-4)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_score_that_is_no_number_is_never_the_same(
    monkeypatch: pytest.MonkeyPatch, broken: float, swapped: bool
) -> None:
    engines = ((1.0, 1.0), (1.0, broken))
    report = answered(monkeypatch, *(engines[::-1] if swapped else engines))
    assert not report.kept
    assert "not a finite number" in report.why
    assert not re.search(r"\b(inf|nan)\b", report.why)
    assert np.isfinite(report.max_difference)


def test_an_engine_that_does_not_run_the_original_graph_has_no_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report = answered(monkeypatch, (1.0, 1.0), (None, None))
    assert report.kept, report.why
    report = answered(monkeypatch, (1.0, 1.00002), (None, 1.0))
    assert "changes the scores by 2.0e-05" in report.why
    report = answered(monkeypatch, (1.0, 1.0), (1.0, None))
    assert not report.kept
    assert report.why == "the changed graph does not run: openvino does not load it."


@pytest.mark.parametrize(
    ("scale", "reason"), [(1.001, "changes the scores by 1.0e-03"), (np.nan, "does not run")]
)
def test_a_pass_that_changes_the_scores_is_refused_without_being_timed(
    monkeypatch: pytest.MonkeyPatch, scale: float, reason: str
) -> None:
    monkeypatch.setattr(base, "PASSES", {"spoilt": spoilt(scale)})
    timed(monkeypatch)
    new, [report] = optimise(scored(), ABOUT, CLIPS)
    assert not report.kept
    assert report.speedup is None
    assert reason in report.why
    assert "\n" not in report.why
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in new.graph.initializer}
    original = {t.name: onnx.numpy_helper.to_array(t) for t in scored().graph.initializer}
    assert weights["last"].shape == original["last"].shape
    assert np.isfinite(weights["last"]).all()


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_the_engine_that_gave_the_times_is_named(
    monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setattr("vad_export.passes.measure.find_spec", lambda name: engine == name or None)
    monkeypatch.setattr("vad_export.passes.measure._MOST_ROUNDS", 5)
    _, [report] = optimise(scored(), ABOUT, CLIPS, names=["output_blocking"])
    assert report.speedup is not None
    assert report.speedup > 0
    assert f"in {engine} fp32" in report.why
    assert "of 5 rounds" in report.why


@pytest.mark.parametrize(
    ("names", "inputs", "part"),
    [
        (["fold"], CLIPS, "no pass is called fold"),
        (None, CLIPS[:0], "Give one clip"),
        (None, CLIPS[:, :3].copy(), "No pass was tried"),
    ],
)
def test_what_cannot_be_judged_is_an_error_of_one_line(
    names: list[str] | None, inputs: Inputs, part: str
) -> None:
    with pytest.raises(ExportError) as error:
        optimise(scored(), ABOUT, inputs, names=names)
    assert_one_line(error.value, part)


# -- a real graph ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stae(tmp_path_factory: pytest.TempPathFactory) -> tuple[onnx.ModelProto, Manifest]:
    """The exported STAE of 16 grey 64 x 64 frames with drawn weights."""
    torch.manual_seed(0)
    clip = clip_spec(frames=16, height=64, width=64)
    file: Path = tmp_path_factory.mktemp("stae") / "model.onnx"
    graph = stae_graph(STAE().eval(), clip, ScoreForm(form="reconstruction"))
    onnx_from_graph(graph, file)
    score = ScoreSpec(per="frame", form="reconstruction", count=16)
    return onnx.load(file), manifest(clip=clip, score=score, artefacts={"fp32": artefact()})


@pytest.mark.slow
def test_the_stae_scores_the_same_without_a_convolution_to_one_channel(
    stae: tuple[onnx.ModelProto, Manifest],
) -> None:
    model, about = stae
    clips = np.random.default_rng(0).integers(0, 256, (2, *about.input_shape), np.uint8)
    new, reports = optimise(model, about, clips, names=["normalisation", "output_blocking"])
    blocking = reports[-1]
    # 4,096 squares added up one by one and in blocks.
    assert all(r.places == 1 and r.max_difference <= 5e-6 for r in reports)
    assert blocking.kept, blocking.why
    outputs = {t.name: t.dims[0] for t in new.graph.initializer if t.dims}
    sizes = [outputs[n.input[1]] for n in new.graph.node if n.op_type == "Conv"]
    assert sizes
    assert min(sizes) >= 12
