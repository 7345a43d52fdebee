"""Builds against fakes of every TensorRT that has a builder."""

import hashlib
import platform
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import assert_one_line
from helpers_engine_bundle import (
    LIMIT,
    build,
    engine_bundle,
    names_in,
    two_output_bundle,
    use_builder,
)
from helpers_fake_tensorrt import BUILDERS, flavour_of, with_driver

from vad_calibration.tensorrt_cache import tensorrt_cache_text
from vad_export.engine.build import engine_from_bundle
from vad_export.engine.settings import EngineSettings
from vad_export.engine.workspace import Memory
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import (
    BackendError,
    ConfigError,
    ExportError,
    InputError,
    Precision,
)
from vad_runtime.engines.plan_file import read_header, read_sidecar

CLASSIC = tuple(name for name in BUILDERS if flavour_of(name) == "tensorrt")
MIB = 1 << 20


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return engine_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAD_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "mixed"])
@pytest.mark.parametrize("snapshot", BUILDERS)
def test_every_version_builds_every_precision(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    snapshot: str,
    precision: Precision,
) -> None:
    trt = use_builder(monkeypatch, snapshot)
    if (snapshot, precision) == ("8.6.1", "mixed"):
        with pytest.raises(BackendError) as error:
            build(bundle, tmp_path / "out", precision=precision)
        assert_one_line(error.value, "TensorRT 8.6.1", "mixed", "fp16")
        return
    built, _ = build(bundle, tmp_path / "out", precision=precision, batches=(1, 4))
    entry = bundle.manifest.artefacts[precision]
    about = read_sidecar(built.plan)
    assert about == built.sidecar
    assert about.sha256 == hashlib.sha256(built.plan.read_bytes()).hexdigest()
    assert about.bytes == built.plan.stat().st_size
    assert (about.source, about.source_sha256) == (entry.file, entry.sha256)
    assert (about.precision, about.batches) == (precision, [1, 4])
    assert (about.file, about.architecture) == (built.plan.name, platform.machine())
    assert [(t.name, t.dtype, t.shape) for t in about.inputs] == [
        ("clip", "uint8", [-1, 8, 32, 32, 1])
    ]
    assert [(t.name, t.dtype) for t in about.outputs] == [("score", "float32")]
    assert about.build["layers"] > 5
    assert about.build["tries"] == 1
    header = read_header(built.plan)
    assert header.family == about.family
    assert about.version.startswith(header.version) or header.version.startswith(about.version)
    one = trt.fake_records.builds[-1]
    assert len(one["profiles"]) == 2
    assert one["profiles"][1]["clip"] == [[4, 8, 32, 32, 1]] * 3
    assert "TF32" not in one["flags"]  # an fp32 engine computes in fp32
    assert names_in(tmp_path / "out") == [built.plan.name, f"{built.plan.name}.json"]


def test_the_plan_says_where_it_fits(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_builder(monkeypatch, "10.3.0")
    built, _ = build(bundle, tmp_path, precision="fp16")
    assert built.plan.name == "model.b1.t8.32.fp16.trt10.3.0.sm87.engine"
    about = built.sidecar
    assert (about.sms, about.gpu, about.cuda) == ([87], "Orin", "12.6")
    use_builder(monkeypatch, "rtx1.7")
    built, _ = build(bundle, tmp_path, precision="int8", sms=(86, 89), flavour="rtx")
    assert built.plan.name == "model.b1.t8.32.int8.rtx1.7.1.116.sm86-89.engine"
    assert (built.sidecar.sms, built.sidecar.later_sms) == ([86, 89], False)
    assert read_header(built.plan).sms == (86, 89)


def test_rtx_for_other_gpus_than_the_one_that_is_here_is_told(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_builder(monkeypatch, "rtx1.7")
    with_driver(monkeypatch, sm=87, name="Orin", integrated=True)
    _, said = build(bundle, tmp_path)
    assert any("Orin" in line and "may not run here" in line for line in said)
    with_driver(monkeypatch, sm=86, name="A2", integrated=True)
    _, said = build(bundle, tmp_path, overwrite=True)
    assert not any("may not run here" in line for line in said)


def test_the_types_of_the_graph_count_and_flags_only_below_10(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for snapshot in BUILDERS:
        trt = use_builder(monkeypatch, snapshot)
        for precision in ("fp16", "int8"):
            build(bundle, tmp_path / snapshot, precision=precision)
            flags = set(trt.fake_records.builds[-1]["flags"])
            assert flags & {"FP16", "INT8"} == ({precision.upper()} if "8.6" in snapshot else set())


def test_below_10_int8_takes_the_fp32_graph_and_the_ranges_of_the_int8_one(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = use_builder(monkeypatch, "8.6.1")
    built, _ = build(bundle, tmp_path / "out", precision="int8")
    calibrator = trt.fake_records.builds[-1]["calibrator"]
    expected = tensorrt_cache_text(dict.fromkeys(("scaled", "ncthw"), LIMIT))
    assert sorted(calibrator.read_calibration_cache().decode().splitlines()) == sorted(
        expected.splitlines()
    )
    assert b"QuantizeLinear" not in built.plan.read_bytes()
    assert built.sidecar.source == "model.int8.onnx"
    assert built.sidecar.options["graph"] == "model.onnx"


def test_what_a_calibrator_could_not_do_stops_a_build_that_seems_fine(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_builder(monkeypatch, "8.6.1")
    failed = SimpleNamespace(failure=InputError("the ranges are gone"))
    monkeypatch.setattr("vad_export.engine.build.set_legacy_precision", lambda *_: failed)
    with pytest.raises(ExportError) as error:
        build(bundle, tmp_path / "out")
    assert_one_line(error.value, "model.onnx", "the ranges are gone")
    assert names_in(tmp_path / "out") == []


def test_fp16_is_the_default_where_the_bundle_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_builder(monkeypatch, "rtx1.7")
    for leave_out, precision in (((), "fp16"), (("fp16",), "fp32")):
        folder = tmp_path / precision
        folder.mkdir()
        opened = engine_bundle(folder, leave_out=leave_out)
        built, _ = build(opened, folder, precision=None)
        assert built.sidecar.precision == precision


def test_without_a_folder_it_goes_into_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_builder(monkeypatch, "rtx1.7")
    opened = engine_bundle(tmp_path)
    built = engine_from_bundle(opened, EngineSettings(), lambda _: None)
    assert built.plan.parent == opened.path / "engines"
    Bundle.open(opened.path)  # it is still a bundle


@pytest.mark.parametrize("snapshot", CLASSIC)
def test_options_reach_the_builder_and_the_sidecar(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: str
) -> None:
    trt = use_builder(monkeypatch, snapshot)
    built, _ = build(
        bundle,
        tmp_path / "out",
        level=5,
        tf32=True,
        version_compatible=True,
        hardware_compatible=True,
        workspace_bytes=100 * MIB,
    )
    one = trt.fake_records.builds[-1]
    assert {"TF32", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"} <= set(one["flags"])
    assert one["limits"] == {"WORKSPACE": 100 * MIB}
    assert 5 in one["values"].values()
    about = built.sidecar
    assert (about.version_compatible, about.hardware_compatible, about.host_code) == (
        True,
        True,
        False,
    )
    assert about.options["level"] == 5
    assert about.options["tf32"] is True
    assert about.build["workspace_bytes"] == 100 * MIB
    carrying, _ = build(bundle, tmp_path / "2", version_compatible=True, host_code=True)
    assert carrying.sidecar.host_code
    assert "EXCLUDE_LEAN_RUNTIME" not in trt.fake_records.builds[-1]["flags"]


@pytest.mark.parametrize("snapshot", BUILDERS)
def test_a_plan_gives_the_score_alone_unless_more_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: str
) -> None:
    two = two_output_bundle(tmp_path)
    use_builder(monkeypatch, snapshot)
    built, _ = build(two, tmp_path / "one")
    assert [tensor.name for tensor in built.sidecar.outputs] == ["score"]
    built, _ = build(two, tmp_path / "both", outputs=("embedding",))
    assert [tensor.name for tensor in built.sidecar.outputs] == ["score", "embedding"]
    assert built.sidecar.options["outputs"] == ["embedding"]
    with pytest.raises(ConfigError) as error:
        build(two, tmp_path / "none", outputs=("latent",))
    assert_one_line(error.value, "--output latent", "embedding", "two.vad")


def test_too_small_a_workspace_is_tried_once_more_with_most_of_what_is_free(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = use_builder(monkeypatch, "rtx1.7", least_workspace=96 * MIB)
    free = Memory(free_bytes=1 << 30, shared=False, on_gpu=False, place="here")
    monkeypatch.setattr("vad_export.engine.build.memory_for", lambda _: free)
    built, said = build(bundle, tmp_path / "out", workspace_bytes=64 * MIB)
    limits = [one["limits"]["WORKSPACE"] for one in trt.fake_records.builds]
    assert limits == [64 * MIB, 512 * MIB]
    assert built.sidecar.build["tries"] == 2
    assert built.sidecar.build["workspace_bytes"] == 512 * MIB
    assert built.sidecar.options["workspace_bytes"] == 64 * MIB
    assert any("64 MiB" in line and "512 MiB" in line for line in said)


def test_out_of_memory_twice_is_one_line(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = use_builder(monkeypatch, "10.3.0", build_error="Error Code 2: OutOfMemory (no more)")
    with pytest.raises(ExportError) as error:
        build(bundle, tmp_path / "out", workspace_bytes=256 * MIB)
    assert_one_line(error.value, "OutOfMemory", "--batch")
    limits = [one["limits"]["WORKSPACE"] for one in trt.fake_records.builds]
    assert limits == [256 * MIB, 128 * MIB]
    assert names_in(tmp_path / "out") == []


def test_another_failure_is_not_tried_again(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = use_builder(monkeypatch, "11.4.0", build_error="Error Code 9: something else")
    with pytest.raises(ExportError) as error:
        build(bundle, tmp_path / "out")
    assert_one_line(error.value, "model.onnx", "something else", "TensorRT 11.4")
    assert len(trt.fake_records.builds) == 1


def test_a_name_that_is_taken_is_left_alone_or_replaced(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = use_builder(monkeypatch, "rtx1.7")
    built, _ = build(bundle, tmp_path / "out")
    before = built.plan.read_bytes()
    with pytest.raises(ExportError) as error:
        build(bundle, tmp_path / "out")
    assert_one_line(error.value, built.plan.name, "--overwrite", "-o")
    assert len(trt.fake_records.builds) == 1
    trt.fake_settings.padding = 10
    again, _ = build(bundle, tmp_path / "out", overwrite=True)
    assert again.plan == built.plan
    assert len(again.plan.read_bytes()) == len(before) + 10
    assert names_in(tmp_path / "out") == [built.plan.name, f"{built.plan.name}.json"]


def test_the_timing_cache_is_kept_and_used_again(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = use_builder(monkeypatch, "10.3.0")
    build(bundle, tmp_path / "1")
    (kept,) = (tmp_path / "cache" / "tensorrt").iterdir()
    assert kept.name == "timing.10.3.0.sm87.Orin.cache"
    build(bundle, tmp_path / "2")
    assert trt.fake_records.builds[-1]["timing"] == kept.read_bytes()
    mine = tmp_path / "mine" / "timing.cache"
    build(bundle, tmp_path / "3", timing_cache=mine)
    assert trt.fake_records.builds[-1]["timing"] == b""
    assert mine.read_bytes() == kept.read_bytes()


def test_a_foreign_timing_cache_is_told_and_starts_anew(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_builder(monkeypatch, "10.3.0")
    mine = tmp_path / "timing.cache"
    mine.write_bytes(b"of another GPU")
    _, said = build(bundle, tmp_path / "out", timing_cache=mine)
    assert any(str(mine) in line and "anew" in line for line in said)
    assert b"10.3.0" in mine.read_bytes()
    with pytest.raises(InputError) as error:
        build(bundle, tmp_path / "2", timing_cache=tmp_path)
    assert_one_line(error.value, "--timing-cache")


def test_a_timing_cache_that_cannot_be_kept_does_not_cost_the_engine(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_builder(monkeypatch, "10.3.0")
    monkeypatch.setenv("VAD_CACHE", "/proc/nowhere")
    built, said = build(bundle, tmp_path / "out")
    assert built.plan.is_file()
    assert any("timing cache was not kept" in line for line in said)
