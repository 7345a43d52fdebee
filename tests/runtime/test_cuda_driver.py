"""The driver probe: without a driver, with a fake one in subprocesses, and what Linux tells."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import assert_one_line
from helpers_cuda import output_with
from helpers_plans import gpu

from vad_runtime.contracts import BackendError, NoDriverError
from vad_runtime.cuda.driver import Driver, driver, driver_installed, free_memory, gpu_of, l4t

module: Any = importlib.import_module("vad_runtime.cuda.driver")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Forget what was probed before, for this test."""
    monkeypatch.setattr(module, "_library", None)
    monkeypatch.setattr(module, "_driver", None)
    return monkeypatch


@pytest.fixture
def no_library(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(module, "_LIBRARY", "libcuda-is-not-here.so.1")


# -- no driver ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_library")
def test_without_libcuda_one_line_says_so_and_what_to_do() -> None:
    assert not driver_installed()
    for call in (driver, lambda: gpu_of("cuda"), lambda: free_memory(gpu(89))):
        with pytest.raises(NoDriverError) as raised:
            call()
        assert_one_line(
            raised.value, "No NVIDIA driver", "libcuda-is-not-here", "--backend openvino"
        )


def test_a_library_of_that_name_that_is_no_driver_is_told_apart(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(module, "_LIBRARY", "libm.so.6")
    with pytest.raises(NoDriverError) as raised:
        driver()
    assert_one_line(raised.value, "is no NVIDIA driver", "cuInit")


def test_a_text_file_of_that_name_is_no_driver(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "libcuda.so.1"
    file.write_text("not a library")
    fresh.setattr(module, "_LIBRARY", str(file))
    assert not driver_installed()
    with pytest.raises(NoDriverError, match="No NVIDIA driver"):
        driver()


ASK = """
from vad_runtime.contracts import VadError
from vad_runtime.cuda.driver import driver, driver_installed
try:
    print(driver())
except VadError as error:
    print(driver_installed(), type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        ("34", ["CUDA_ERROR_STUB_LIBRARY", "LD_LIBRARY_PATH"]),
        ("803", ["CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "restart the machine"]),
        ("999", ["CUDA_ERROR_UNKNOWN", "nvidia-smi", "/dev/nvidia*"]),
        ("12345", ["CUDA error 12345", "nvidia-smi"]),
    ],
)
def test_a_driver_that_does_not_start_is_told_with_its_error(
    code: str, parts: list[str], libcuda: Path
) -> None:
    out = output_with(libcuda, ASK, FAKE_CUDA_INIT_ERROR=code)
    assert out.startswith("True NoDriverError The NVIDIA driver does not start: ")
    assert_one_line(Exception(out.strip()), "--backend openvino", *parts)


def test_a_driver_without_a_gpu_is_told(libcuda: Path) -> None:
    out = output_with(libcuda, ASK, FAKE_CUDA_GPUS="0")
    assert out.startswith("True NoDriverError The NVIDIA driver finds no GPU.")


def test_hidden_gpus_are_told_with_the_variable_that_hides_them(libcuda: Path) -> None:
    out = output_with(libcuda, ASK, FAKE_CUDA_GPUS="0", CUDA_VISIBLE_DEVICES="")
    assert "CUDA_VISIBLE_DEVICES=''. Unset it" in out


# -- a driver ----------------------------------------------------------------------------------


def test_what_the_driver_says_is_read(libcuda: Path) -> None:
    code = (
        "import json; from dataclasses import asdict; from vad_runtime.cuda.driver import driver\n"
        "print(json.dumps(asdict(driver()))); assert driver() is driver()"
    )
    out = output_with(
        libcuda,
        code,
        FAKE_CUDA_GPUS="2",
        FAKE_CUDA_SM="110",
        FAKE_CUDA_NAME="NVIDIA Thor",
        FAKE_CUDA_VERSION="12060",
        FAKE_CUDA_INTEGRATED="1",
        FAKE_CUDA_MEMORY="131000000000",
    )
    said = json.loads(out)
    assert said["cuda"] == "12.6"
    first, second = said["gpus"]
    assert first == {
        "index": 0,
        "name": "NVIDIA Thor",
        "sm": 110,
        "memory_bytes": 131_000_000_000,
        "integrated": True,
        "uuid": "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f",
    }
    assert (second["index"], second["uuid"][:12]) == (1, "GPU-10111213")


def test_a_failure_is_asked_again_and_a_success_is_remembered(fresh: pytest.MonkeyPatch) -> None:
    answers: list[Driver | None] = [None, Driver(cuda="13.0", kernel=None, gpus=(gpu(),))]

    def asked() -> Driver:
        answer = answers.pop(0)
        if answer is None:
            raise NoDriverError("not yet")
        return answer

    fresh.setattr(module, "_asked", asked)
    with pytest.raises(NoDriverError):
        driver()
    assert driver() is driver()


def test_a_driver_that_fails_later_in_the_probe_is_no_driver(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(module, "_LIBRARY", "libc.so.6")

    def number(*_: object) -> int:
        raise BackendError("cuDeviceGetCount failed: CUDA error 3.")

    class Library:
        def cuInit(self, flags: int) -> int:  # noqa: N802 (CUDA's name)
            return 0

    fresh.setattr(module, "_library", Library())
    fresh.setattr(module, "_number", number)
    with pytest.raises(NoDriverError, match=r"does not answer: cuDeviceGetCount failed"):
        driver()


@pytest.mark.parametrize(
    ("device", "index"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)]
)
def test_a_device_name_means_a_gpu(device: str, index: int, fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(module, "_driver", Driver(cuda="13.0", kernel=None, gpus=(gpu(), gpu(index=1))))
    assert gpu_of(device).index == index


@pytest.mark.parametrize("device", ["cpu", "gpu", "cuda:", "cuda:x", "cuda:-1", "CUDA", "0"])
def test_other_device_names_are_refused_without_asking_the_driver(device: str) -> None:
    with pytest.raises(BackendError) as raised:
        gpu_of(device)
    assert_one_line(raised.value, f"`{device}` is no GPU", "--device cuda:N")


def test_a_number_that_no_gpu_has_lists_those_that_are_there(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(module, "_driver", Driver(cuda="13.0", kernel=None, gpus=(gpu(), gpu(index=1))))
    with pytest.raises(BackendError) as raised:
        gpu_of("cuda:7")
    assert_one_line(raised.value, "no GPU cuda:7", "cuda:0 (Orin), cuda:1 (Orin)")


# -- memory ------------------------------------------------------------------------------------


def test_free_memory_comes_from_the_driver_and_leaves_no_context(libcuda: Path) -> None:
    code = (
        "import ctypes; from vad_runtime.cuda.driver import free_memory, gpu_of\n"
        "fake = ctypes.CDLL('libcuda.so.1'); gpu = gpu_of('auto'); print(free_memory(gpu))\n"
        "assert fake.fakeCount(b'contexts') == fake.fakeCount(b'depth') == 0\n"
    )
    assert output_with(libcuda, code, FAKE_CUDA_MEMORY="1000000") == "(1000000, 1000000)\n"


def test_free_memory_of_an_integrated_gpu_is_what_linux_could_give(
    fresh: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:  8000 kB\nMemFree:  10 kB\nMemAvailable:   6000 kB\nBuffers: 1 kB\n")
    fresh.setattr(module, "_MEMORY_FILE", file)
    assert free_memory(gpu(integrated=True)) == (6000 * 1024, 8000 * 1024)


# -- what Linux says ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 2025", "580.65.06"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build",
            "540.4.0",
        ),
        ("something else", None),
    ],
)
def test_the_kernel_module_version_is_read(
    text: str, version: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "version"
    file.write_text(text + "\nGCC version:  gcc version 12.3.0\n")
    monkeypatch.setattr(module, "_KERNEL_FILE", file)
    assert module._kernel() == version


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: aarch64", "36.4.0"),
        ("# R35 (release), REVISION: 5.0, GCID: 35550185, BOARD: t186ref", "35.5.0"),
        ("", None),
    ],
)
def test_the_version_of_jetson_linux_is_read(
    text: str, version: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "nv_tegra_release"
    file.write_text(text)
    monkeypatch.setattr(module, "_L4T_FILE", file)
    assert l4t() == version
    monkeypatch.setattr(module, "_L4T_FILE", tmp_path / "missing")
    assert l4t() is None


def test_the_probe_imports_no_package_for_gpus() -> None:
    code = (
        "import sys; from vad_runtime.cuda import open_cuda; import vad_runtime.cuda.driver\n"
        "heavy = {'cuda', 'pycuda', 'tensorrt', 'torch', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
