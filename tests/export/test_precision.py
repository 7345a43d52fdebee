"""INT8 and FP16 artefacts of small real bundles."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from helpers import artefact, assert_one_line, clip_spec, manifest
from helpers_precision import (
    FEATURES,
    LAYERS,
    SPEC,
    bundle_of,
    feature_files,
    footage,
    head_bundle,
    network,
)

from vad_calibration import ranges as ranges_module
from vad_calibration.activations import Activations
from vad_calibration.lint import lint_qdq
from vad_calibration.placement import QuantiseChoice
from vad_calibration.ranges import read_ranges
from vad_export.calibration import CACHE, CHART, RANGES, calibration_from_folder, choose_inputs
from vad_export.precision import measured_ranges, quantise
from vad_export.precision_config import Budget, PrecisionConfig
from vad_runtime.backends.base import Options
from vad_runtime.bundle import Bundle, rewrite_manifest
from vad_runtime.commands import Interrupted
from vad_runtime.contracts import (
    BundleError,
    ConfigError,
    ExportError,
    InputError,
    ParityError,
    SourceError,
)

QUICK = PrecisionConfig(method="minmax", check_clips=6)
OUTLIER = 3000.0


def changed(**changes: Any) -> PrecisionConfig:
    return msgspec.structs.replace(QUICK, **changes)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a site's videos, a calibration of them, and two bundles. Do not change."""
    folder = tmp_path_factory.mktemp("calibrated")
    site = footage(folder / "site")
    good = bundle_of(network(), folder / "good.vad")
    bundle_of(network(outlier=OUTLIER), folder / "bad.vad")
    choose_inputs(good.manifest, site, 6, folder / "calibration", check=4)
    return folder


@pytest.fixture
def work(calibrated: Path, tmp_path: Path) -> Path:
    """The same, to be spoiled; the videos stay where they are."""
    whole = tmp_path / "work"
    return Path(shutil.copytree(calibrated, whole, ignore=shutil.ignore_patterns("site")))


def opened(work: Path, name: str = "good") -> Bundle:
    return Bundle.open(work / f"{name}.vad")


def layers_in_int8(bundle: Bundle, name: str = "int8") -> set[str]:
    graph = onnx.load(bundle.file(bundle.manifest.artefacts[name])).graph
    makers = {out: node.op_type for node in graph.node for out in node.output}
    return {
        node.name
        for node in graph.node
        if node.op_type in ("Conv", "MatMul") and makers.get(node.input[1]) == "DequantizeLinear"
    }


def scores(bundle: Bundle, name: str, inputs: np.ndarray) -> np.ndarray:
    from vad_runtime.backends.onnxruntime import OnnxRuntimeBackend

    entry = bundle.manifest.artefacts[name]
    options = Options(precision=entry.precision, threads=1)
    engine = OnnxRuntimeBackend(bundle.file(entry), bundle.manifest, options)
    return engine.infer(inputs)["score"]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each input that is run to measure ranges."""
    seen: list[int] = []
    original = Activations.of

    def spy(self: Activations, inputs: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        seen.append(len(inputs))
        return original(self, inputs)

    monkeypatch.setattr(Activations, "of", spy)
    return seen


# -- what is made ------------------------------------------------------------------------------


def test_all_three_precisions_are_added_with_how_they_came_about(work: Path) -> None:
    lines: list[str] = []
    calibration = work / "calibration"
    made = quantise(opened(work), ["int8", "fp16", "mixed"], calibration, QUICK, lines.append)
    again = Bundle.open(work / "good.vad")
    assert again.manifest == made.manifest
    entries = again.manifest.artefacts
    assert set(entries) == {"fp32", "int8", "fp16", "mixed"}
    for name in ("int8", "fp16", "mixed"):
        assert (entries[name].precision, entries[name].made_from) == (name, "fp32")
        assert set(entries[name].tools) == {"vad-edge", "onnx"}
    assert (entries["int8"].opset, entries["mixed"].opset) == (18, 19)
    assert entries["int8"].bytes < 0.4 * entries["fp32"].bytes
    assert entries["fp16"].bytes < 0.6 * entries["fp32"].bytes

    details = entries["int8"].details
    assert (details["method"], details["inputs"], details["layers"]) == ("minmax", 6, 3)
    assert details["left_alone"] == []
    assert details["search"]["tried"] == 1
    assert details["ranges_key"] == read_ranges(calibration / RANGES).key
    assert details["check"]["count"] == 6 * SPEC.frames
    assert 0.99 < details["check"]["spearman"] <= 1
    assert sum(entries["fp16"].details["fp32_nodes"].values()) > 0
    assert entries["mixed"].details["layers"] == 3

    about = again.manifest.calibration
    assert about is not None
    assert (about["kind"], about["clips"], about["videos"]) == ("clips", 6, 2)
    assert about["method"] == "minmax"
    assert (calibration / CACHE).read_text().startswith("TRT-")
    assert not (calibration / CHART).exists()
    assert lines[0] == "ranges of 3 tensors from 6 inputs, minmax"
    assert lines[1].startswith("int8: 3 of 3 layers, Spearman 0.99")


def test_the_graphs_are_sound_and_score_like_the_reference(work: Path) -> None:
    calibration = work / "calibration"
    made = quantise(opened(work), ["int8", "fp16", "mixed"], calibration, QUICK)
    check = calibration_from_folder(calibration, made.manifest, check=4).check
    reference = scores(made, "fp32", check)
    spread = np.subtract(*np.percentile(reference, [95, 5]))
    for name in ("int8", "fp16", "mixed"):
        model = onnx.load(made.file(made.manifest.artefacts[name]))
        onnx.checker.check_model(model, full_check=True)
        assert lint_qdq(model) == []
        difference = np.abs(scores(made, name, check) - reference)
        assert 0 < difference.mean() < 0.02 * spread
    assert layers_in_int8(made) == layers_in_int8(made, "mixed") == set(LAYERS)
    assert layers_in_int8(made, "fp16") == set()


def test_fp16_needs_no_calibration(work: Path) -> None:
    made = quantise(opened(work), ["fp16"])
    assert set(made.manifest.artefacts) == {"fp32", "fp16"}
    assert made.manifest.calibration is None


def test_the_same_call_gives_the_same_files(work: Path) -> None:
    first = quantise(opened(work), ["int8", "mixed"], work / "calibration", QUICK)
    second = quantise(opened(work), ["int8", "mixed"], work / "calibration", QUICK)
    for name in ("int8", "mixed"):
        before, after = (b.manifest.artefacts[name] for b in (first, second))
        assert before.sha256 == after.sha256


def test_the_percentile_is_noted_where_it_counts(work: Path) -> None:
    config = changed(method="percentile", percentile=99.9)
    made = quantise(opened(work), ["int8"], work / "calibration", config)
    details = made.manifest.artefacts["int8"].details
    assert (details["method"], details["percentile"]) == ("percentile", 99.9)


def test_layers_that_are_to_be_kept_are_kept(work: Path) -> None:
    made = quantise(opened(work), ["int8"], work / "calibration", changed(keep=("third",)))
    assert layers_in_int8(made) == {"first", "second"}
    assert made.manifest.artefacts["int8"].details["layers"] == 2


# -- what does not fit the budget --------------------------------------------------------------


def test_exactly_the_layer_that_int8_destroys_is_put_back(work: Path) -> None:
    lines: list[str] = []
    made = quantise(opened(work, "bad"), ["int8"], work / "calibration", QUICK, lines.append)
    details = made.manifest.artefacts["int8"].details
    assert details["left_alone"] == details["search"]["kept"] == ["second"]
    assert details["search"]["passed"] is True
    assert [step["passed"] for step in details["search"]["trail"]][:2] == [False, True]
    assert details["layers"] == 2
    assert layers_in_int8(made) == {"first", "third"}
    assert details["check"]["spearman"] >= QUICK.budget.spearman
    assert details["check"]["mean_of_spread"] <= QUICK.budget.mean_error
    chart = work / "calibration" / CHART
    assert chart.read_bytes()[:4] == b"\x89PNG"
    assert lines[1].startswith("with all 3 layers in INT8: Spearman 0.")
    assert lines[2] == f"put back: second ({chart})"


def test_where_the_layer_is_kept_by_name_nothing_is_searched(work: Path) -> None:
    config = changed(keep=("second",), search=False)
    made = quantise(opened(work, "bad"), ["int8"], work / "calibration", config)
    assert layers_in_int8(made) == {"first", "third"}
    assert made.manifest.artefacts["int8"].details["search"]["tried"] == 1


def test_beyond_the_budget_without_the_search_nothing_is_added(work: Path) -> None:
    bundle = opened(work, "bad")
    before = bundle.manifest
    with pytest.raises(ParityError) as error:
        quantise(bundle, ["fp16", "int8"], work / "calibration", changed(search=False))
    assert_one_line(error.value, "all 3 layers", "Spearman", "search", "fp16 or bf16")
    after = Bundle.open(bundle.path)
    assert after.manifest == before
    assert sorted(file.name for file in after.path.iterdir()) == ["manifest.json", "model.onnx"]


def test_a_budget_that_no_int8_graph_keeps_is_one_line_with_the_chart(work: Path) -> None:
    config = changed(budget=Budget(spearman=1.0, mean_error=0.0))
    with pytest.raises(ParityError) as error:
        quantise(opened(work), ["int8"], work / "calibration", config)
    assert_one_line(error.value, "no graph with INT8 layers", CHART)
    assert set(opened(work).manifest.artefacts) == {"fp32"}


# -- calibration folders -----------------------------------------------------------------------


def test_int8_without_a_calibration_folder_is_one_line(work: Path) -> None:
    for precision in ("int8", "mixed"):
        with pytest.raises(ConfigError) as error:
            quantise(opened(work), [precision])  # type: ignore[list-item]  # a Target
        assert_one_line(error.value, "vad-export calibrate", "--calibration")


def test_ranges_are_measured_once(work: Path, passes: list[int]) -> None:
    calibration = work / "calibration"
    measured_ranges(opened(work), calibration, QUICK)
    assert passes == [1] * 6
    quantise(opened(work), ["int8"], calibration, QUICK)
    # Another method or another list of layers needs no other histograms.
    quantise(opened(work), ["int8"], calibration, changed(method="mse", keep=("first",)))
    assert len(passes) == 6


def test_ranges_of_another_graph_are_not_used(work: Path, passes: list[int]) -> None:
    measured_ranges(opened(work), work / "calibration", QUICK)
    found = measured_ranges(opened(work, "bad"), work / "calibration", QUICK)
    assert len(passes) == 12
    assert found.limits("minmax")["a"] == pytest.approx(OUTLIER)


def test_interrupted_calibration_goes_on_where_it_was(
    work: Path, monkeypatch: pytest.MonkeyPatch, passes: list[int]
) -> None:
    whole = measured_ranges(opened(work), work / "calibration", QUICK)
    (work / "calibration" / RANGES).unlink()
    passes.clear()
    asked: list[Callable[[], None]] = []
    original = ranges_module.deferred_interrupt

    def caught(ask: Callable[[], None]) -> Any:
        asked.append(ask)
        return original(ask)

    add = ranges_module.MagnitudeHistogram.add
    counted: list[str] = []

    def counting(self: Any, values: np.ndarray, *, tensor: str = "") -> None:
        counted.append(tensor)
        if len(counted) == 3 * 3:  # three tensors of three inputs: Ctrl-C comes in the third
            asked[0]()
        add(self, values, tensor=tensor)

    with monkeypatch.context() as patched:
        patched.setattr(ranges_module, "deferred_interrupt", caught)
        patched.setattr(ranges_module.MagnitudeHistogram, "add", counting)
        with pytest.raises(Interrupted):
            measured_ranges(opened(work), work / "calibration", QUICK)
    assert read_ranges(work / "calibration" / RANGES).inputs == 3
    assert len(passes) == 3
    resumed = measured_ranges(opened(work), work / "calibration", QUICK)
    assert len(passes) == 6
    assert resumed == whole


def test_a_calibration_of_clips_of_another_size_is_refused(work: Path, tmp_path: Path) -> None:
    about = manifest(clip=clip_spec(height=48), artefacts={"fp32": artefact()})
    other = tmp_path / "other"
    record = msgspec.json.decode((work / "calibration" / "calibration.json").read_bytes())
    choose_inputs(about, Path(record["clips"][0]["file"]).parent, 4, other, check=4)
    for call in (
        lambda: quantise(opened(work), ["int8"], other, QUICK),
        lambda: measured_ranges(opened(work), other, QUICK),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert_one_line(error.value, "height 48", "height 32", "vad-export calibrate")


def test_a_folder_that_is_no_calibration_is_one_line(work: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError) as error:
            quantise(opened(work), ["int8"], folder, QUICK)
        assert_one_line(error.value, "calibration.json", "vad-export calibrate")


def test_footage_that_is_gone_is_one_line(work: Path, tmp_path: Path) -> None:
    site = footage(tmp_path / "gone", videos=1)
    choose_inputs(opened(work).manifest, site, 4, tmp_path / "set", check=4)
    shutil.rmtree(site)
    with pytest.raises((InputError, SourceError)) as error:
        quantise(opened(work), ["int8"], tmp_path / "set", QUICK)
    assert_one_line(error.value, "day0.mp4")
    assert set(opened(work).manifest.artefacts) == {"fp32"}


@pytest.mark.parametrize("count", [0, -1])
def test_no_clips_are_no_calibration(work: Path, calibrated: Path, count: int) -> None:
    with pytest.raises(InputError) as error:
        choose_inputs(opened(work).manifest, calibrated / "site", count, work / "empty", check=4)
    assert_one_line(error.value, f"{count} calibration clips", "at least 1")
    assert not (work / "empty").exists()


# -- graphs and bundles that cannot be quantised -----------------------------------------------


def test_a_graph_without_layers_is_one_line(work: Path, tmp_path: Path) -> None:
    config = changed(layers=QuantiseChoice(ops=("Gemm",)))
    with pytest.raises(ExportError) as error:
        quantise(opened(work), ["int8"], work / "calibration", config)
    assert_one_line(error.value, "no layer", "Gemm", "fp16 or bf16")


@pytest.mark.parametrize(
    ("keep", "words"),
    [(("fourth",), "no layer fourth"), (LAYERS, "keep names every layer")],
)
def test_keeping_what_is_not_there_or_everything_is_one_line(
    work: Path, keep: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ConfigError) as error:
        quantise(opened(work), ["int8"], work / "calibration", changed(keep=keep))
    assert_one_line(error.value, words)


def test_a_bundle_without_an_fp32_graph_is_one_line(work: Path) -> None:
    bundle = opened(work)
    entries = {"fp16": artefact(precision="fp16", **_size(bundle))}
    changed_bundle = rewrite_manifest(
        bundle, msgspec.structs.replace(bundle.manifest, artefacts=entries)
    )
    with pytest.raises(BundleError) as error:
        quantise(changed_bundle, ["fp16"])
    assert_one_line(error.value, "no fp32 graph", "vad-export onnx")


def _size(bundle: Bundle) -> dict[str, Any]:
    entry = bundle.manifest.artefacts["fp32"]
    return {"sha256": entry.sha256, "bytes": entry.bytes}


# -- heads over features -----------------------------------------------------------------------


def test_a_head_alone_is_calibrated_on_feature_files(tmp_path: Path, passes: list[int]) -> None:
    head = head_bundle(tmp_path / "head.vad")
    files = feature_files(tmp_path / "features")
    lines = choose_inputs(head.manifest, files, 8, tmp_path / "calibration", check=4)
    assert lines == []
    made = quantise(head, ["int8", "mixed"], tmp_path / "calibration", QUICK)
    assert passes == [1] * 8
    assert layers_in_int8(made) == {"hidden", "out"}
    entry = made.manifest.artefacts["int8"]
    assert entry.bytes < 0.5 * made.manifest.artefacts["fp32"].bytes
    assert entry.details["check"]["count"] == 4 * FEATURES.segments
    about = made.manifest.calibration
    assert about is not None
    assert (about["kind"], about["videos"]) == ("features", 8)
    listing = msgspec.json.decode((tmp_path / "calibration" / "features.json").read_bytes())
    assert len(listing["names"]) == 8
    # What decides is not what the ranges were measured on.
    assert set(about["check_videos"]).isdisjoint(listing["names"])
    bags = np.random.default_rng(0).normal(0, 1, (3, *made.manifest.input_shape))
    values = bags.astype(np.float32)
    assert np.abs(scores(made, "int8", values) - scores(made, "fp32", values)).max() < 0.05


def test_fewer_videos_than_asked_for_are_said(tmp_path: Path) -> None:
    head = head_bundle(tmp_path / "head.vad")
    files = feature_files(tmp_path / "features", videos=5)
    lines = choose_inputs(head.manifest, files, 8, tmp_path / "calibration", check=4)
    assert lines == ["only 4 videos instead of 8: there are no more"]


def test_features_of_another_size_or_of_one_video_only_are_one_line(tmp_path: Path) -> None:
    head = head_bundle(tmp_path / "head.vad")
    one = feature_files(tmp_path / "one", videos=1)
    with pytest.raises(InputError) as error:
        choose_inputs(head.manifest, one, 8, tmp_path / "calibration", check=4)
    assert_one_line(error.value, "one video only")
    other = tmp_path / "other"
    other.mkdir()
    for i in range(4):
        np.save(other / f"v{i}.npy", np.ones((3, 5), np.float32))
    choose_inputs(head.manifest, other, 2, tmp_path / "calibration", check=1)
    with pytest.raises(InputError) as error:
        measured_ranges(head, tmp_path / "calibration", QUICK)
    assert_one_line(error.value, "features of 5 numbers", "takes 64")


def test_feature_files_that_are_gone_are_named(tmp_path: Path) -> None:
    head = head_bundle(tmp_path / "head.vad")
    files = feature_files(tmp_path / "features", videos=6)
    choose_inputs(head.manifest, files, 4, tmp_path / "calibration", check=1)
    (files / "video3.npy").unlink()
    with pytest.raises(InputError) as error:
        quantise(head, ["int8"], tmp_path / "calibration", QUICK)
    assert_one_line(error.value, "no longer holds video3", "vad-export calibrate")


def test_a_calibration_of_clips_is_none_for_a_head(work: Path, tmp_path: Path) -> None:
    head = head_bundle(tmp_path / "head.vad")
    with pytest.raises(InputError) as error:
        quantise(head, ["int8"], work / "calibration", QUICK)
    assert_one_line(error.value, "features.json", "vad-export calibrate")
    (work / "calibration" / "features.json").write_text("{")
    with pytest.raises(InputError) as error:
        quantise(head, ["int8"], work / "calibration", QUICK)
    assert_one_line(error.value, "features.json", "vad-export calibrate")
