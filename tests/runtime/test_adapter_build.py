"""Building plans through the adapter, on fakes of every version."""

from pathlib import Path
from typing import Any

import pytest
from fake_trt_core import plan_parts
from helpers import assert_one_line
from helpers_adapter import Work, graph, library, listen
from helpers_fake_tensorrt import BUILDERS, with_driver, without_driver

from vad_runtime.contracts import BackendError, EngineTensor, ExportError, NoDriverError
from vad_runtime.engines.adapter import TensorRt
from vad_runtime.engines.plan_file import read_header

TYPED = [name for name in BUILDERS if name != "8.6.1"]
CLASSIC = [name for name in BUILDERS if name != "rtx1.7"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return graph(tmp_path)


@pytest.fixture(autouse=True)
def _driver(monkeypatch: pytest.MonkeyPatch) -> None:
    with_driver(monkeypatch)


# -- the whole path ----------------------------------------------------------------------------


@pytest.mark.parametrize("snapshot", BUILDERS)
def test_a_plan_is_built_with_each_version(snapshot: str, file: Path, tmp_path: Path) -> None:
    work = Work(library(snapshot), file)
    work.lib.set_workspace(work.config, 1 << 20)
    assert work.lib.set_flag(work.config, "TF32", False)
    plan = work.build()
    assert (plan.format, plan.ndim) == ("B", 1)
    (tmp_path / "x.engine").write_bytes(plan)
    header = read_header(tmp_path / "x.engine")
    assert work.lib.version.startswith(header.version)
    assert header.family == ("rtx" if snapshot == "rtx1.7" else "tensorrt")
    assert work.record["limits"] == {"WORKSPACE": 1 << 20}
    assert work.record["flags"] == []
    assert [list(profile["x"]) for profile in work.record["profiles"]] == [
        [[1, 3]] * 3,
        [[4, 3]] * 3,
    ]


@pytest.mark.parametrize(
    ("snapshot", "flags"),
    [("8.6.1", 1), ("10.3.0", 2), ("10.13.3.9", 2), ("11.4.0", 0), ("rtx1.7", 0)],
)
def test_networks_are_strongly_typed_where_they_can_be(
    snapshot: str, flags: int, file: Path
) -> None:
    work = Work(library(snapshot), file)
    work.build()
    assert work.record["creation"] == flags


@pytest.mark.parametrize("snapshot", BUILDERS)
def test_inputs_and_outputs_are_read_off_the_network(snapshot: str, file: Path) -> None:
    work = Work(library(snapshot), file)
    assert work.lib.tensors_of(work.network) == (
        [EngineTensor(name="x", dtype="float32", shape=[-1, 3])],
        [EngineTensor(name="y", dtype="float32", shape=[-1, 3])],
    )


NEEDED = [
    "Builder.create_network",
    "Builder.create_builder_config",
    "Builder.create_optimization_profile",
    "IBuilderConfig.add_optimization_profile",
    "IBuilderConfig.clear_flag",
    "IBuilderConfig.set_memory_pool_limit",
    "INetworkDefinition.get_input",
    "INetworkDefinition.get_output",
    "INetworkDefinition.num_inputs",
    "INetworkDefinition.num_outputs",
    "IOptimizationProfile.set_shape",
    "MemoryPoolType.WORKSPACE",
    "OnnxParser.num_errors",
]


def whole_path(lib: TensorRt, file: Path) -> None:
    work = Work(lib, file)
    lib.tensors_of(work.network)
    lib.set_workspace(work.config, 1)
    lib.set_flag(work.config, "TF32", False)
    work.build()


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("snapshot", BUILDERS)
def test_a_name_that_a_version_lacks_stops_the_path(snapshot: str, name: str, file: Path) -> None:
    with pytest.raises(AttributeError, match=name.split(".")[1]):
        whole_path(library(snapshot, without=[name]), file)


def test_a_deliberately_wrong_attribute_fails_on_every_other_version(file: Path) -> None:
    for snapshot in TYPED:
        work = Work(library(snapshot), file)
        with pytest.raises(AttributeError, match="max_workspace_size"):
            work.config.max_workspace_size = 1  # 8.x only
        with pytest.raises(AttributeError, match="FP17"):
            work.lib.trt.BuilderFlag.FP17  # noqa: B018
    with pytest.raises(AttributeError, match="progress_monitor"):
        Work(library("8.6.1"), file).config.progress_monitor  # noqa: B018


# -- the parser --------------------------------------------------------------------------------


@pytest.mark.parametrize("snapshot", BUILDERS)
@pytest.mark.parametrize("checked", [False, True])
def test_a_refused_node_is_named(snapshot: str, checked: bool, file: Path) -> None:
    lib = library(snapshot, refuse_operator="Relu")
    builder = lib.builder()
    network = lib.network(builder)
    (issue,) = lib.check(file) if checked else lib.parse(builder, network, file)
    named = snapshot != "8.6.1"  # which knows the number only
    assert issue.node == ("second" if named else "node 1")
    assert issue.operator == ("Relu" if named else "")
    assert "No importer registered" in issue.reason
    assert str(issue).startswith("Relu second: " if named else "node 1: ")


@pytest.mark.parametrize("snapshot", BUILDERS)
def test_a_graph_that_is_fine_has_no_issues(snapshot: str, file: Path) -> None:
    lib = library(snapshot)
    assert lib.check(file) == []


def test_a_check_does_not_disturb_a_build(file: Path) -> None:
    lib = library("10.3.0")
    work = Work(lib, file)
    kept = list(lib._parsed)
    assert lib.check(file) == []
    assert lib._parsed == kept  # the parser holds the weights of the network
    work.build()


@pytest.mark.parametrize("snapshot", BUILDERS)
def test_a_text_file_is_no_graph_though_the_parser_takes_it(snapshot: str, tmp_path: Path) -> None:
    lib = library(snapshot)
    builder = lib.builder()
    network = lib.network(builder)
    text = tmp_path / "notes.onnx"
    text.write_text("hello")
    (issue,) = lib.parse(builder, network, text)
    assert "notes.onnx is no ONNX graph" in str(issue)


def test_a_missing_file_is_an_issue(tmp_path: Path) -> None:
    lib = library("10.3.0")
    builder = lib.builder()
    network = lib.network(builder)
    (issue,) = lib.parse(builder, network, tmp_path / "nowhere.onnx")
    assert "cannot be found" in str(issue)
    assert issue.node == ""


# -- settings ----------------------------------------------------------------------------------


def test_a_flag_that_a_version_lacks_is_told(file: Path) -> None:
    old, new = Work(library("8.6.1"), file), Work(library("11.4.0"), file)
    assert old.lib.set_flag(old.config, "FP16")
    assert not new.lib.set_flag(new.config, "FP16")
    old.build()
    assert old.record["flags"] == ["FP16", "TF32"]


@pytest.mark.parametrize("snapshot", CLASSIC)
def test_settings_of_classic_tensorrt_reach_the_builder(snapshot: str, file: Path) -> None:
    lib = library(snapshot, dla_cores=2)
    work = Work(lib, file)
    lib.set_level(work.config, 5)
    lib.set_hardware_compatible(work.config)
    assert lib.dla_cores(work.builder) == 2
    lib.set_dla(work.config, 1)
    assert lib.set_flag(work.config, "VERSION_COMPATIBLE")
    _, _, facts, _ = plan_parts(bytes(work.build()))
    assert facts["hardware"]
    assert work.record["flags"] == ["GPU_FALLBACK", "TF32", "VERSION_COMPATIBLE"]
    assert work.record["values"]["_value_level"] == 5
    assert work.record["values"]["_value_core"] == 1
    assert work.record["values"]["_value_device"].name == "DLA"


def test_rtx_builds_for_the_gpus_that_are_named(file: Path, tmp_path: Path) -> None:
    work = Work(library("rtx1.7"), file)
    assert work.lib.known_sms() == (75, 80, 86, 89, 120, 121)
    work.lib.set_targets(work.config, [86, 120])
    (tmp_path / "x.engine").write_bytes(work.build())
    assert work.record["targets"] == ["SM86", "SM120"]
    header = read_header(tmp_path / "x.engine")
    assert (header.sms, header.later_sms) == ((86, 120), False)
    with pytest.raises(ExportError) as error:
        work.lib.set_targets(work.config, [87])
    assert_one_line(error.value, "86", "not for SM 87")


def test_only_rtx_knows_targets() -> None:
    assert library("10.3.0").known_sms() == ()


def test_a_calibrator_gives_the_ranges_of_8x(file: Path) -> None:
    work = Work(library("8.6.1"), file)
    base = work.lib.trt.IInt8EntropyCalibrator2
    read = []

    class Calibrator(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def read_calibration_cache(self) -> bytes:
            read.append(1)
            return b"cache"

    work.lib.set_flag(work.config, "INT8")
    work.lib.set_calibrator(work.config, Calibrator())
    work.build()
    assert read == [1]


def test_int8_without_a_calibrator_fails_with_the_reason(file: Path) -> None:
    work = Work(library("8.6.1"), file)
    work.lib.set_flag(work.config, "INT8")
    with pytest.raises(ExportError) as error:
        work.build()
    assert_one_line(error.value, "TensorRT 8.6.1 says", "no ranges", "vad-export quantise")


@pytest.mark.parametrize("snapshot", CLASSIC)
def test_a_timing_cache_is_kept_and_used_again(snapshot: str, file: Path) -> None:
    first = Work(library(snapshot), file)
    assert first.lib.set_timing_cache(first.config, None)
    first.build()
    data = first.lib.timing_cache_bytes(first.config)
    assert data
    again = Work(library(snapshot), file)
    assert again.lib.set_timing_cache(again.config, data)
    again.build()
    assert again.record["timing"] == data


def test_a_foreign_timing_cache_is_not_used(file: Path) -> None:
    work = Work(library("10.3.0"), file)
    assert not work.lib.set_timing_cache(work.config, b"of another version")
    work.build()
    assert work.record["timing"] == b""


def test_without_a_timing_cache_there_is_nothing_to_keep(file: Path) -> None:
    work = Work(library("10.3.0"), file)
    assert work.lib.timing_cache_bytes(work.config) is None


def test_a_profile_of_no_fixed_shape_is_refused(file: Path) -> None:
    work = Work(library("10.3.0"), file)
    with pytest.raises(ExportError) as error:
        work.lib.add_profile(work.builder, work.config, "x", (-1, 3))
    assert_one_line(error.value, "no profile for input x", "--batch")


# -- progress ----------------------------------------------------------------------------------


@pytest.mark.parametrize("snapshot", TYPED)
def test_the_progress_of_a_build_is_told(snapshot: str, file: Path) -> None:
    work, events = Work(library(snapshot), file), []  # type: tuple[Work, list[Any]]
    assert listen(work, events)
    work.build()
    assert events[0] == ("Building engine", None, 6)
    assert events[-1] == "Building engine"
    assert ("Building engine", 5) in events


def test_8x_tells_no_progress(file: Path) -> None:
    work = Work(library("8.6.1"), file)
    assert not listen(work, [])
    work.build()


def test_a_step_that_says_no_cancels(file: Path) -> None:
    work = Work(library("10.3.0"), file)
    listen(work, [], lambda *_: False)
    with pytest.raises(ExportError, match="Build canceled by user"):
        work.build()


@pytest.mark.parametrize("where", ["start", "step", "finish"])
def test_what_a_monitor_raises_comes_out_of_the_build(where: str, file: Path) -> None:
    def stop(*_: Any) -> bool:
        raise KeyboardInterrupt

    def fine(*_: Any) -> bool:
        return True

    work = Work(library("10.3.0"), file)
    calls = [stop if name == where else fine for name in ("start", "step", "finish")]
    work.lib.set_monitor(work.config, *calls)
    with pytest.raises(KeyboardInterrupt):
        work.build()
    work.lib.builder()
    fresh = Work(work.lib, file)
    assert fresh.build().nbytes > 0  # nothing of it is left


# -- failures ----------------------------------------------------------------------------------


def test_memory_that_runs_out_tells_the_size(file: Path) -> None:
    work = Work(library("10.3.0", least_workspace=1 << 20), file)
    work.lib.set_workspace(work.config, 1 << 10)
    with pytest.raises(ExportError) as error:
        work.build()
    assert_one_line(error.value, "Requested size was 1048576 bytes", "--workspace")
    work.lib.set_workspace(work.config, 1 << 20)
    assert work.build().nbytes > 0  # the same network, once more


def test_an_input_without_a_profile_is_told(file: Path) -> None:
    work = Work(library("10.3.0"), file, batches=())
    with pytest.raises(ExportError, match="no optimization profile"):
        work.build()


def test_a_failure_tells_nothing_of_earlier_ones(file: Path) -> None:
    work = Work(library("10.3.0", build_error="something new"), file)
    work.lib.logger.log(work.lib.trt.ILogger.Severity.ERROR, "Version tag does not match")
    with pytest.raises(ExportError) as error:
        work.build()
    assert_one_line(error.value, "something new")
    assert "Version tag" not in str(error.value)


@pytest.mark.parametrize("flavour", ["lean", "dispatch"])
def test_runtimes_build_nothing(flavour: str) -> None:
    lib = library("lean11.4", flavour=flavour)
    with pytest.raises(BackendError) as error:
        lib.builder()
    assert_one_line(error.value, f"TensorRT {flavour} runtime", "builds none", "pip install")


def test_a_builder_that_cannot_be_made_is_an_error() -> None:
    with pytest.raises(BackendError) as error:
        library("10.3.0", no_builder=True).builder()
    assert_one_line(error.value, "TensorRT 10.3.0 makes no builder", "driver")


def test_a_builder_that_a_driver_too_old_makes_bogus_is_not_used() -> None:
    with pytest.raises(BackendError) as error:
        library("11.4.0", bogus=True).builder()
    assert_one_line(error.value, "TensorRT 11.4.0.106 makes no builder", "cudaError 35", "driver")


@pytest.fixture
def _no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    without_driver(monkeypatch)


@pytest.mark.usefixtures("_no_driver")
def test_without_a_driver_only_rtx_builds(file: Path) -> None:
    for snapshot in CLASSIC:
        lib = library(snapshot)
        with pytest.raises(NoDriverError):
            lib.builder()
        with pytest.raises(NoDriverError):
            lib.check(file)
        assert lib.trt.fake_logger is None  # TensorRT was not called at all
    assert Work(library("rtx1.7"), file).build().nbytes > 0
