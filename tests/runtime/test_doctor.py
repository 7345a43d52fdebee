import importlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from helpers import assert_one_line
from helpers_fake_tensorrt import hide_tensorrt, use_fake, with_driver
from helpers_plans import classic_plan, write_engine

from vad_runtime import doctor
from vad_runtime.backends import backend_names
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import BackendError, ConfigError
from vad_runtime.doctor_command import doctor as command


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without an NVIDIA driver, whatever this one has."""
    module: Any = importlib.import_module("vad_runtime.cuda.driver")
    for name, value in {"_LIBRARY": "libnone.so.1", "_library": None, "_driver": None}.items():
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def orin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one GPU and TensorRT 10.3."""
    with_driver(monkeypatch, sm=87, name="Orin", integrated=True, cuda="12.6")
    monkeypatch.setattr(doctor, "free_memory", lambda gpu: (3 << 30, 8 << 30))
    use_fake(monkeypatch, "10.3.0")


def asked(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_the_processor_is_what_can_run() -> None:
    report = doctor.examine()
    found = {verdict.name: verdict for verdict in report.backends}
    assert set(found) == set(backend_names()) - {"fake"}
    assert found["onnxruntime"].ok
    assert not found["tensorrt"].ok
    assert "driver" in found["tensorrt"].detail
    assert report.can_run
    assert report.gpus == []
    assert report.cuda is None
    assert "libnone.so.1" in report.no_gpu


@pytest.mark.usefixtures("no_gpu")
def test_the_reason_why_there_is_no_gpu_is_printed_once() -> None:
    report = doctor.examine()
    text = "\n".join(doctor.lines_of(report))
    assert text.count(report.no_gpu) == 1
    assert text.count("no GPU: see above") == 3


@pytest.mark.usefixtures("no_gpu")
def test_it_says_what_computes_the_portable_resizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAD_NATIVE", "0")
    report = doctor.examine()
    assert (report.native, report.portable_resizer) == (False, "numpy (VAD_NATIVE=0)")
    assert "resizer    portable: numpy (VAD_NATIVE=0)" in doctor.lines_of(report)


@pytest.mark.usefixtures("orin")
def test_a_gpu_is_told_with_its_compute_capability_and_free_memory() -> None:
    report = doctor.examine()
    (gpu,) = report.gpus
    assert (gpu.device, gpu.name, gpu.sm, gpu.free_bytes) == ("cuda:0", "Orin", 87, 3 << 30)
    text = "\n".join(doctor.lines_of(report))
    assert "CUDA up to 12.6" in text
    assert "Orin, SM 87, 3.0 of 8.0 GiB free, shared with the processor" in text
    verdict = next(one for one in report.tensorrt if one.ok)
    assert (verdict.name, verdict.detail) == ("TensorRT", "10.3.0")


@pytest.mark.usefixtures("orin")
def test_a_driver_that_does_not_tell_its_memory_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_gpu: object) -> None:
        raise BackendError("cuMemGetInfo failed.")

    monkeypatch.setattr(doctor, "free_memory", refuse)
    report = doctor.examine()
    assert report.gpus[0].free_bytes is None
    assert any("free: unknown" in line for line in doctor.lines_of(report))


@pytest.mark.usefixtures("no_gpu")
def test_a_library_that_is_not_there_comes_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hide_tensorrt(monkeypatch)
    report = doctor.examine()
    assert [verdict.ok for verdict in report.tensorrt] == [False] * 4
    assert all("pip install" in verdict.detail for verdict in report.tensorrt)


@pytest.mark.usefixtures("no_gpu")
def test_a_machine_on_which_nothing_runs_is_an_error_with_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("openvino", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, f"vad_runtime.backends.{name}", raising=False)
    run = asked()
    assert isinstance(run.exception, BackendError)
    assert_one_line(run.exception, "no back end can run here", "pip install")
    assert "no  openvino" in run.output  # the report itself is printed all the same


@pytest.mark.usefixtures("orin")
def test_a_setting_that_makes_no_sense_is_told_and_does_not_end_the_report(
    monkeypatch: pytest.MonkeyPatch, bundle_copy: Path
) -> None:
    monkeypatch.setenv("VAD_CUDA", "nonsense")
    engine(bundle_copy, "good.engine", architecture=platform.machine())
    report = doctor.examine(Bundle.open(bundle_copy))
    found = {verdict.name: verdict for verdict in report.backends}
    assert "VAD_CUDA=nonsense" in found["tensorrt"].detail
    assert report.bundle is not None
    assert "VAD_CUDA=nonsense" in report.bundle.auto.detail
    assert report.can_run


# -- with a bundle -------------------------------------------------------------------------------


def engine(bundle: Path, name: str, **changes: Any) -> None:
    entry = Bundle.open(bundle).manifest.artefacts["fp32"]
    about: dict[str, Any] = {"precision": "fp32", "source_sha256": entry.sha256, "l4t": None}
    here = Bundle.open(bundle).path / "engines"
    write_engine(here, name, classic_plan(), **(about | changes))


@pytest.mark.usefixtures("orin")
def test_each_engine_of_a_bundle_is_said_to_fit_or_not(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    engine(bundle_copy, "good.engine")
    engine(bundle_copy, "other.engine", sms=[86])
    engine(bundle_copy, "stale.engine", source_sha256="0" * 64)
    engine(bundle_copy, "gone.engine", precision="int8")
    facts = doctor.examine(Bundle.open(bundle_copy)).bundle
    assert facts is not None
    found = {verdict.name: verdict for verdict in facts.engines}
    assert {name: verdict.ok for name, verdict in found.items()} == {
        "good.engine": True,
        "other.engine": False,
        "stale.engine": False,
        "gone.engine": False,
    }
    assert "fits (TensorRT)" in found["good.engine"].detail
    assert found["other.engine"].detail.startswith("does not fit this machine: SM")
    assert "another" in found["stale.engine"].detail
    assert "int8" in found["gone.engine"].detail


@pytest.mark.usefixtures("no_gpu")
def test_with_a_bundle_it_says_what_vad_run_would_take(bundle_copy: Path) -> None:
    run = asked(str(bundle_copy))
    assert run.exit_code == 0, run.output
    (line,) = [line for line in run.output.splitlines() if line.startswith("  auto")]
    assert "artefact fp32 (the fastest installed engine on this CPU)" in line
    assert "engine  none" in run.output


@pytest.mark.usefixtures("no_gpu")
def test_the_document_for_programs_says_the_same(bundle_copy: Path) -> None:
    run = asked(str(bundle_copy), "--json")
    assert run.exit_code == 0, run.output
    found = json.loads(run.output)
    assert found["bundle"]["path"] == str(bundle_copy)
    assert {verdict["name"] for verdict in found["backends"]} == set(backend_names()) - {"fake"}
    assert found["machine"]["usable_threads"] >= 1
    assert found["packages"]["vad-edge"]


@pytest.mark.usefixtures("no_gpu")
def test_a_device_that_nothing_could_mean_is_refused() -> None:
    run = asked("--device", "gpu0")
    assert isinstance(run.exception, ConfigError)
    assert_one_line(run.exception, "gpu0")


@pytest.mark.usefixtures("no_gpu")
def test_with_a_device_only_the_back_ends_that_compute_there_count() -> None:
    on_cpu = {verdict.name for verdict in doctor.examine(device="cpu").backends}
    on_gpu = {verdict.name for verdict in doctor.examine(device="cuda").backends}
    assert "openvino" in on_cpu - on_gpu
    assert "tensorrt" in on_gpu - on_cpu
    run = asked("--device", "cuda")
    assert isinstance(run.exception, BackendError)
    assert_one_line(run.exception, "on cuda here")


@pytest.mark.usefixtures("no_gpu")
def test_memory_that_the_system_does_not_tell_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "host_memory", lambda: None)
    report = doctor.examine()
    assert report.memory_bytes is None
    assert not any(line.startswith("memory") for line in doctor.lines_of(report))
