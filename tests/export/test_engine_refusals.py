"""What is refused before a builder sees it, against fakes of every TensorRT with a builder."""

from pathlib import Path
from typing import Any

import pytest
from helpers import assert_one_line
from helpers_engine_bundle import (
    build,
    engine_bundle,
    head_bundle,
    names_in,
    settings,
    use_builder,
)
from helpers_fake_tensorrt import BUILDERS, flavour_of, hide_tensorrt, use_fake

from vad_runtime.bundle import Bundle
from vad_runtime.contracts import (
    BackendError,
    ConfigError,
    ExportError,
    NoDriverError,
)

CLASSIC = tuple(name for name in BUILDERS if flavour_of(name) == "tensorrt")
MIB = 1 << 20


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return engine_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAD_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"version_compatible": True}, "--version-compatible"),
        ({"hardware_compatible": True}, "--hardware-compatible"),
        ({"level": 3}, "--opt-level"),
        ({"timing_cache": Path("timing.cache")}, "--timing-cache"),
        ({"dla": 0}, "--dla"),
    ],
)
def test_rtx_refuses_what_it_would_ignore(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    option: str,
) -> None:
    trt = use_builder(monkeypatch, "rtx1.7")
    with pytest.raises(BackendError) as error:
        build(bundle, tmp_path / "out", flavour="rtx", **changes)
    assert_one_line(error.value, "TensorRT-RTX 1.7", option, "Leave it out")
    assert not trt.fake_records.builds
    assert names_in(tmp_path / "out") == []


def test_named_gpus_are_for_rtx_and_of_its_list(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_builder(monkeypatch, "rtx1.7")
    with pytest.raises(BackendError) as error:
        build(bundle, tmp_path, sms=(86, 87))
    assert_one_line(error.value, "SM 87", "75, 80, 86, 89, 120, 121")
    use_builder(monkeypatch, "10.3.0")
    with pytest.raises(BackendError) as error:
        build(bundle, tmp_path, flavour="tensorrt", sms=(86,))
    assert_one_line(error.value, "TensorRT 10.3.0", "--sm", "rtx")


@pytest.mark.parametrize("snapshot", CLASSIC)
def test_tensorrt_without_a_driver_is_refused_before_a_builder_is_made(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: str
) -> None:
    trt = use_fake(monkeypatch, snapshot)
    made: list[object] = []
    monkeypatch.setattr(trt.Builder, "__init__", lambda self, *_: made.append(self))
    for flavour in ("tensorrt", "auto"):
        with pytest.raises(NoDriverError) as error:
            build(bundle, tmp_path / "out", flavour=flavour)
        assert_one_line(error.value, "driver", "--flavour rtx")
        assert "--backend" not in str(error.value)  # an option of vad-run
    assert not made


def test_without_any_library_the_way_to_one_is_told(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_tensorrt(monkeypatch)
    for flavour, extra in (("auto", "rtx"), ("rtx", "rtx"), ("tensorrt", "trt")):
        with pytest.raises(BackendError) as error:
            build(bundle, tmp_path, flavour=flavour)
        assert_one_line(error.value, "not installed", f"vad-edge[{extra}]")


def test_a_missing_precision_names_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_builder(monkeypatch, "rtx1.7")
    opened = engine_bundle(tmp_path, leave_out=("int8", "mixed"))
    with pytest.raises(ExportError) as error:
        build(opened, tmp_path / "out", precision="int8")
    assert_one_line(error.value, "fp32, fp16", "vad-export quantise", "--precision int8")


@pytest.mark.parametrize(
    "changes", [{"batches": ()}, {"batches": (0,)}, {"batches": (1, 1)}, {"host_code": True}]
)
def test_settings_that_no_library_could_honour_are_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as error:
        settings(tmp_path, **changes)
    assert_one_line(error.value, "--")


def test_the_dla_runs_no_3d_graph(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = use_builder(monkeypatch, "10.3.0", dla_cores=2)
    with pytest.raises(ExportError) as error:
        build(bundle, tmp_path / "out", dla=0, precision="fp16")
    assert_one_line(error.value, "DLA", "2-D", "conv3", "--dla")
    assert not trt.fake_records.builds


@pytest.mark.parametrize("snapshot", CLASSIC)
def test_the_dla_runs_no_fp32_graph(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: str
) -> None:
    trt = use_builder(monkeypatch, snapshot, dla_cores=2)
    with pytest.raises(ExportError) as error:
        build(bundle, tmp_path / "out", dla=0)
    assert_one_line(error.value, "fp32", "--precision fp16", "--dla")
    assert not trt.fake_records.builds


def test_a_graph_of_features_builds_and_goes_on_a_dla_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = use_builder(monkeypatch, "10.3.0", dla_cores=2)
    head = head_bundle(tmp_path)
    built, _ = build(head, tmp_path / "out", dla=1, precision="fp16")
    assert built.plan.name == "head.b1.s4.16.fp16.trt10.3.0.sm87.engine"
    assert 1 in trt.fake_records.builds[-1]["values"].values()
    assert "GPU_FALLBACK" in trt.fake_records.builds[-1]["flags"]
    with pytest.raises(ExportError) as error:
        build(head, tmp_path / "out", dla=2, precision="fp16", overwrite=True)
    assert_one_line(error.value, "--dla 2", "2 DLA cores")


def test_a_graph_that_the_parser_refuses_names_the_node(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_builder(monkeypatch, "10.3.0", refuse_operator="Conv")
    with pytest.raises(ExportError) as error:
        build(bundle, tmp_path / "out")
    assert_one_line(error.value, "TensorRT 10.3.0", "model.onnx", "Conv", "conv3", "--dry-run")
    assert names_in(tmp_path / "out") == []


def test_a_batch_that_is_larger_than_a_tensor_can_be_is_refused(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = use_builder(monkeypatch, "rtx1.7")
    size = 8 * 32 * 32  # one clip of the bundle
    most = (2**31 - 1) // size
    with pytest.raises(ExportError) as error:
        build(bundle, tmp_path / "out", batches=(1, most + 1))
    assert_one_line(error.value, "2^31", f"--batch {most} ")
    assert trt.fake_records.builds == []


def test_a_disk_that_is_nearly_full_is_told_before_the_build(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = use_builder(monkeypatch, "rtx1.7")
    monkeypatch.setattr("vad_export.engine.build.free_disk_bytes", lambda _: 1000)
    with pytest.raises(ExportError) as error:
        build(bundle, tmp_path / "out")
    assert_one_line(error.value, "0 MB free", "-o")
    assert not trt.fake_records.builds


def test_a_wrong_attribute_makes_the_build_fail(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = use_builder(monkeypatch, "10.3.0")
    build(bundle, tmp_path / "right")
    config = trt.Builder.create_builder_config

    def wrong(self: Any) -> Any:
        made = config(self)
        made.max_workspace_size = 1  # of TensorRT 8, gone in 10
        return made

    monkeypatch.setattr(trt.Builder, "create_builder_config", wrong)
    with pytest.raises(AttributeError, match="max_workspace_size"):
        build(bundle, tmp_path / "wrong")
