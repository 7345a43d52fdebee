"""Finding TensorRT libraries, what they can do, and how they say what failed."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import assert_one_line
from helpers_adapter import can_of, library
from helpers_fake_tensorrt import (
    BUILDERS,
    SNAPSHOTS,
    fake_tensorrt,
    hide_tensorrt,
    install_fake,
    use_fake,
)

from vad_runtime.contracts import BackendError, ExportError
from vad_runtime.engines.adapter import FLAVOURS, Flavour, TensorRt, found, installed

ROOT = Path(__file__).parents[2]

EVERYWHERE = {"host_code_switch"}
BUILDING = EVERYWHERE | {"builder", "parser"}
CLASSIC = BUILDING | {
    "dla",
    "hardware_compatible",
    "levels",
    "timing_cache",
    "version_compatible",
}
CAN = {
    "8.6.1": CLASSIC | {"legacy_precision"},
    "10.3.0": CLASSIC | {"monitor"},
    "10.13.3.9": CLASSIC | {"monitor"},
    "11.4.0": CLASSIC | {"monitor"},
    "lean11.4": EVERYWHERE,
    "rtx1.7": BUILDING | {"monitor", "targets", "runtime_cache", "own_graphs"},
}
"""What each version can, from the table in the design's notes."""


# -- features ----------------------------------------------------------------------------------


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_features_are_found_by_names(snapshot: str) -> None:
    assert can_of(library(snapshot)) == CAN[snapshot]


@pytest.mark.parametrize(
    ("name", "feature"),
    [
        ("Builder", "builder"),
        ("OnnxParser", "parser"),
        ("IProgressMonitor", "monitor"),
        ("BuilderFlag.VERSION_COMPATIBLE", "version_compatible"),
        ("HardwareCompatibilityLevel.AMPERE_PLUS", "hardware_compatible"),
        ("IBuilderConfig.create_timing_cache", "timing_cache"),
        ("IBuilderConfig.builder_optimization_level", "levels"),
        ("Runtime.engine_host_code_allowed", "host_code_switch"),
        ("IBuilderConfig.DLA_core", "dla"),
    ],
)
def test_a_library_without_a_name_lacks_the_feature(name: str, feature: str) -> None:
    assert getattr(library("11.4.0").can, feature)
    assert not getattr(library("11.4.0", without=[name]).can, feature)


def test_a_library_knows_its_name_and_version() -> None:
    lib = library("10.13.3.9")
    assert (lib.name, lib.version, lib.major) == ("TensorRT 10.13.3.9", "10.13.3.9", 10)
    assert library("rtx1.7").name == "TensorRT-RTX 1.7.1.116"
    assert library("lean11.4").name == "TensorRT lean runtime 11.4.0.106"


# -- finding -----------------------------------------------------------------------------------


def test_a_library_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = use_fake(monkeypatch, "10.3.0")
    lib = found("tensorrt")
    assert lib.trt is trt
    assert found("tensorrt") is lib  # and with it the one logger
    assert found("tensorrt").logger is lib.logger


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_bindings"])
def test_both_import_names_are_tried(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    hide_tensorrt(monkeypatch)
    trt = fake_tensorrt("10.3.0")
    monkeypatch.setitem(sys.modules, name, trt)
    assert found("tensorrt").trt is trt


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_library_that_is_not_there_names_the_pip_line(
    monkeypatch: pytest.MonkeyPatch, flavour: Flavour
) -> None:
    hide_tensorrt(monkeypatch)
    with pytest.raises(BackendError) as error:
        found(flavour)
    assert_one_line(error.value, "is not installed", "pip install")


def package(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Make `import tensorrt` run a text."""
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    (folder / "tensorrt").mkdir()
    (folder / "tensorrt" / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("raise OSError('libnvinfer.so.10: cannot open\\nshared object file')", "libnvinfer.so.10"),
        ("raise ImportError('undefined symbol: foo')", "undefined symbol"),
        ("import a_module_that_is_not_there", "a_module_that_is_not_there"),
        ("raise RuntimeError", "RuntimeError"),
        ("version = 1", "has no Runtime"),
    ],
)
def test_a_library_that_does_not_load_gives_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, part: str
) -> None:
    hide_tensorrt(monkeypatch)
    package(tmp_path, monkeypatch, text)
    with pytest.raises(BackendError) as error:
        found("tensorrt")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    assert_one_line(error.value, "TensorRT is installed but does not load", part, "pip install")


def test_warnings_of_an_import_are_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_tensorrt(monkeypatch)
    text = "import warnings; warnings.warn('old'); Runtime = object; __version__ = '10.3.0'"
    package(tmp_path, monkeypatch, text)
    assert found("tensorrt").major == 10  # pytest would make the warning an error
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)


def test_all_libraries_are_tried_and_each_gives_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fake(monkeypatch, "rtx1.7")
    there = installed()
    assert list(there) == list(FLAVOURS)
    assert isinstance(there["rtx"], TensorRt)
    for flavour in ("tensorrt", "lean", "dispatch"):
        assert "is not installed" in str(there[flavour])


def test_importing_the_adapter_imports_no_tensorrt() -> None:
    code = (
        "import sys, vad_runtime.engines.adapter\n"
        "assert not [m for m in sys.modules if m.startswith(('tensorrt', 'cuda'))]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_fake_can_be_installed_for_a_subprocess(tmp_path: Path) -> None:
    install_fake(tmp_path, "10.3.0")
    code = (
        "from vad_runtime.engines.adapter import found, installed\n"
        "lib = found('tensorrt')\n"
        "print(lib.name, lib.trt.fake_settings.sm)\n"
        "print([name for name, one in installed().items() if not isinstance(one, str)])\n"
    )
    settings = {"PYTHONPATH": str(tmp_path), "FAKE_TENSORRT": '{"sm": 86}'}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=settings
    )
    assert done.stdout == "TensorRT 10.3.0 86\n['tensorrt']\n"


# -- what failed -------------------------------------------------------------------------------


def said(lib: TensorRt, severity: str, *lines: str) -> None:
    for line in lines:
        lib.logger.log(getattr(lib.trt.ILogger.Severity, severity), line)


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_the_logger_keeps_warnings_and_errors_on_one_line_each(snapshot: str) -> None:
    lib = library(snapshot)
    said(lib, "ERROR", "first\n  second (x In check at /_src/common/check.cpp:25)")
    said(lib, "INTERNAL_ERROR", "third")
    said(lib, "WARNING", "careful")
    said(lib, "INFO", "chatter")
    said(lib, "VERBOSE", "more chatter")
    assert lib.errors() == ["first second (x)", "third"]
    assert lib.warnings() == ["careful"]
    lib.fresh_log()
    assert lib.errors() == lib.warnings() == []


def test_the_logger_keeps_only_the_last_lines() -> None:
    lib = library("10.3.0")
    said(lib, "ERROR", *(f"line {i}" for i in range(1000)))
    assert len(lib.errors()) == 50
    assert lib.errors()[-1] == "line 999"


def test_a_known_failure_says_what_it_means_and_what_to_do() -> None:
    lib = library("10.3.0")
    said(lib, "ERROR", "Version tag does not match. Note: Current Version: 213", "it failed.")
    error = lib.failure("site.engine cannot be loaded")
    assert type(error) is BackendError
    assert_one_line(
        error,
        "site.engine cannot be loaded: TensorRT 10.3.0 says: Version tag does not match",
        "another version of TensorRT",
        "vad-export build-engine",
    )
    assert "it failed" not in str(error)  # the line that says why is enough


def test_an_unknown_failure_gives_the_last_two_lines() -> None:
    lib = library("10.3.0")
    said(lib, "ERROR", "one", "two", "three.", "three.")
    error = lib.failure("no plan", ExportError)
    assert type(error) is ExportError
    assert str(error) == "no plan: TensorRT 10.3.0 says: two; three. See: vad-run doctor"


def test_warnings_are_told_where_there_is_no_error_and_silence_is_told_too() -> None:
    lib = library("10.3.0")
    assert str(lib.failure("no plan")).startswith("no plan: TensorRT 10.3.0 says: no reason.")
    said(lib, "WARNING", "careful")
    assert_one_line(lib.failure("no plan"), "says: careful. See: vad-run doctor")


def test_long_lines_are_shortened() -> None:
    lib = library("10.3.0")
    said(lib, "ERROR", *(f"{i}" * 5000 for i in range(9)))
    assert_one_line(lib.failure("no plan"), "…")


def test_rtx_builds_without_a_driver_so_its_complaints_of_that_are_no_reason() -> None:
    lib = library("rtx1.7")
    said(lib, "ERROR", "Network must have at least one output", "x (cudaError 35: too old)")
    assert "output" in str(lib.failure("no plan", ExportError))
    assert "driver" in str(lib.failure("no engine"))  # it runs on a GPU only
    lib.fresh_log()
    said(lib, "ERROR", "x (cudaError 35: too old)")
    assert "driver" in str(lib.failure("no plan", ExportError))


def test_every_building_version_is_in_the_tests() -> None:
    assert {name for name, can in CAN.items() if "builder" in can} == set(BUILDERS)
