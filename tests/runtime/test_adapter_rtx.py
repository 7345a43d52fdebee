"""The adapter on the real TensorRT-RTX, which builds without a GPU and runs nothing here."""

from pathlib import Path
from typing import Any

import pytest
from helpers import assert_one_line
from helpers_adapter import Work, can_of, graph, listen
from helpers_fake_tensorrt import without_driver
from helpers_tensorrt import tensorrt_rtx

from vad_runtime.contracts import BackendError, ExportError, NoDriverError
from vad_runtime.engines.adapter import Flavour, TensorRt, found
from vad_runtime.engines.plan_file import read_header


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return graph(tmp_path)


@pytest.fixture(autouse=True)
def _no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    without_driver(monkeypatch)


@pytest.fixture
def lib() -> TensorRt:
    tensorrt_rtx()  # skips where there is none
    return found("rtx")


def test_it_builds_for_named_gpus_and_tells_its_progress(
    lib: TensorRt, file: Path, tmp_path: Path
) -> None:
    work, events = Work(lib, file), []  # type: tuple[Work, list[Any]]
    lib.set_workspace(work.config, 1 << 28)
    lib.set_flag(work.config, "TF32", False)
    lib.set_targets(work.config, [86])
    assert listen(work, events)
    (tmp_path / "x.engine").write_bytes(work.build())
    header = read_header(tmp_path / "x.engine")
    assert (header.version, header.sms, header.later_sms) == (lib.version, (86,), False)
    assert events[0] == ("Building engine", None, 6)
    assert events[-1] == "Building engine"


def test_it_names_what_it_cannot_take(lib: TensorRt, tmp_path: Path) -> None:
    bad = graph(tmp_path, "Optional")
    builder = lib.builder()
    network = lib.network(builder)
    for issues in (lib.parse(builder, network, bad), lib.check(bad)):
        (issue,) = issues
        assert (issue.node, issue.operator) == ("second", "Optional")
        assert "UNSUPPORTED_NODE" in issue.reason


def test_it_calls_a_text_no_graph(lib: TensorRt, tmp_path: Path) -> None:
    (tmp_path / "notes.onnx").write_text("hello")
    builder = lib.builder()
    network = lib.network(builder)
    (issue,) = lib.parse(builder, network, tmp_path / "notes.onnx")
    assert "no ONNX graph" in str(issue)


def test_it_stops_when_it_is_told(lib: TensorRt, file: Path) -> None:
    def stop(*_: Any) -> bool:
        raise KeyboardInterrupt

    work = Work(lib, file)
    listen(work, [], stop)
    with pytest.raises(KeyboardInterrupt):
        work.build()
    again = Work(lib, file)
    listen(again, [], lambda *_: False)
    with pytest.raises(ExportError, match="cancelled"):
        again.build()


def test_its_complaint_of_no_driver_is_not_the_reason(lib: TensorRt, file: Path) -> None:
    work = Work(lib, file, batches=())
    with pytest.raises(ExportError) as error:
        work.build()
    assert_one_line(error.value, "no optimization profile has been defined")


def test_it_makes_no_runtime_without_a_driver(lib: TensorRt) -> None:
    with pytest.raises(NoDriverError):
        lib.runtime()


@pytest.mark.parametrize("flavour", ["lean", "dispatch"])
def test_the_real_runtimes_build_nothing_and_need_a_driver(flavour: Flavour) -> None:
    try:
        lib = found(flavour)
    except BackendError as error:
        pytest.skip(str(error))
    assert can_of(lib) == {"host_code_switch"}
    with pytest.raises(NoDriverError):
        lib.runtime()  # the real one would crash the process
    with pytest.raises(BackendError, match="builds none"):
        lib.builder()
