"""The engine's GPU among several: found by its place on the bus; its energy and its clock."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers_cuda import output_with

from vad_runtime.backends import Choice, open_backend
from vad_runtime.backends.base import Inputs, Outputs
from vad_runtime.bench import energy as energy_module
from vad_runtime.bench import nvml as module
from vad_runtime.bench.command import JSON
from vad_runtime.bench.conditions import Watch
from vad_runtime.bench.energy import find_sensors
from vad_runtime.bench.lines import conditions_line
from vad_runtime.bench.nvml import BoardEnergy, board_of, gpu_index, gpu_warnings
from vad_runtime.bench.sensors import AbsentError, Integral, SensorError
from vad_runtime.bundle import Bundle
from vad_runtime.cli import cli

FAKE_NVML = """
#include <stdlib.h>
#include <string.h>
/* The order is not CUDA's: the last GPU on the bus is the first one here. */
static const char *places[] = {"00000000:03:00.0", "00000000:02:00.0", "00000000:01:00.0"};
static unsigned long long energy[3];
#define NUMBER(handle) ((int)((unsigned long long)handle >> 56) - 1)
#define HANDLE(index) ((void *)(((unsigned long long)(index) + 1) << 56))
#ifdef ONE
enum { GPUS = 1 };
#else
enum { GPUS = 3 };
#endif
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = GPUS; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
  if (index >= GPUS) return 2;
  *handle = HANDLE(index); return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *place, void **handle) {
  for (int i = 0; i < GPUS; i++)
    if (strcmp(place, places[i] + 4) == 0) { *handle = HANDLE(i); return 0; }
  return 6; }
int nvmlDeviceGetName(void *handle, char *name, unsigned size) {
  if (size < 8 || NUMBER(handle) < 0 || NUMBER(handle) >= GPUS) return 2;
  strcpy(name, "Fake 40"); name[6] += NUMBER(handle); return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *mj) {
#ifdef OLD
  (void)handle; (void)mj; return 3;
#else
  unsigned long long *mine = &energy[NUMBER(handle)];
#ifdef FAILS
  if (*mine > 5000) return 15;
#endif
  *mj = (1ull << 40) + *mine; *mine += 2500; return 0;
#endif
}
int nvmlDeviceGetPowerUsage(void *handle, unsigned *mw) { (void)handle; *mw = 30000; return 0; }
#ifndef OLD
int nvmlDeviceGetClockInfo(void *handle, unsigned kind, unsigned *mhz) {
  static unsigned turn;
  (void)handle;
  if (kind != 1) return 2;
  *mhz = 1000 + 100 * (turn++ % 4); return 0; }
int nvmlDeviceGetMaxClockInfo(void *handle, unsigned kind, unsigned *mhz) {
  (void)handle; *mhz = 1980; return kind != 1; }
#ifdef RENAMED
int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, unsigned long long *bits) {
#else
int nvmlDeviceGetCurrentClocksEventReasons(void *handle, unsigned long long *bits) {
#endif
  static unsigned turn;
  (void)handle;
  *bits = turn++ % 4 ? 0x1 : 0x1 | 0x2 | 0x4; return 0; }
#endif
"""


@pytest.fixture
def nvml(tmp_path: Path) -> Callable[[str], str]:
    """Builds a fake of the driver's library; skips without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        assert os.environ.get("VAD_REQUIRE_NATIVE") != "1", "no C compiler"
        pytest.skip("no C compiler")

    def build(define: str, code: str = FAKE_NVML) -> str:
        source, library = tmp_path / "nvml.c", tmp_path / f"libnvml{define}.so"
        source.write_text(code)
        command = [compiler, "-shared", "-fPIC", f"-D{define}", "-o", library, source]
        subprocess.run(command, check=True)
        return str(library)

    return build


@pytest.fixture
def on_bus(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Says where CUDA's GPU is."""

    def put(place: str | None) -> None:
        monkeypatch.setattr(module, "pci_bus_id", lambda _index: place)

    return put


# -- which one -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "index"),
    [
        ("tensorrt 10.13 on cuda:1 (Orin, SM 87), fp16, batch 1, CUDA graph", 1),
        ("onnxruntime 1.31 CUDA on cuda:0 (H100, SM 90), fp32, no CUDA graph", 0),
        ("openvino 2026.4.1 on cpu (AMD EPYC), fp32, 2 threads", None),
    ],
)
def test_the_number_of_the_gpu_stands_in_what_the_back_end_says(
    device: str, index: int | None
) -> None:
    assert gpu_index(device) == index


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_driver_tells_where_on_the_bus_cudas_gpu_is(libcuda: Path, index: int) -> None:
    code = f"from vad_runtime.bench.nvml import pci_bus_id; print(pci_bus_id({index}))"
    said = output_with(libcuda, code, FAKE_CUDA_GPUS="2").strip()
    assert said == (f"0000:0{index + 1}:00.0" if index < 2 else "None")


def test_only_the_engines_gpu_is_a_sensor(
    nvml: Callable[[str], str], on_bus: Callable[[str | None], None], tmp_path: Path
) -> None:
    on_bus("0000:02:00.0")
    found = find_sensors(tmp_path, gpu=0, nvml=nvml("NEW"), tegrastats="no-such-tegrastats")
    (sensor,) = found.sensors
    assert sensor.name == "NVML GPU 0000:02:00.0 (Fake 41)"
    # To probe it was one reading; the neighbours' counters have not been touched.
    assert sensor.joules() == 2.5
    on_bus("0000:01:00.0")
    assert board_of(0, nvml("NEW")).name == "NVML GPU 0000:01:00.0 (Fake 42)"


def test_one_gpu_alone_needs_no_place_on_the_bus(
    nvml: Callable[[str], str], on_bus: Callable[[str | None], None]
) -> None:
    on_bus(None)
    assert board_of(0, nvml("ONE")).name == "NVML GPU 0 (Fake 40)"


@pytest.mark.parametrize("place", [None, "0000:09:00.0"])
def test_a_gpu_among_several_is_never_guessed(
    nvml: Callable[[str], str], on_bus: Callable[[str | None], None], place: str | None
) -> None:
    on_bus(place)
    with pytest.raises(SensorError, match="which of the 3 GPUs of the driver is cuda:1"):
        board_of(1, nvml("NEW"))


def test_a_gpu_is_not_asked_where_the_processor_computes(
    nvml: Callable[[str], str], tmp_path: Path
) -> None:
    found = find_sensors(tmp_path, gpu=None, nvml=nvml("NEW"), tegrastats="no-such-tegrastats")
    assert found.sensors == []
    assert "NVML" in found.absent
    assert "computes on no GPU" in found.refused["NVML"]


def test_a_library_without_what_is_needed_is_refused(
    nvml: Callable[..., str], on_bus: Callable[[str | None], None], tmp_path: Path
) -> None:
    on_bus("0000:02:00.0")
    with pytest.raises(SensorError, match="too old or a stub"):
        board_of(0, nvml("STUB", "int nvmlInit_v2(void) { return 0; }"))
    with pytest.raises(AbsentError, match=r"there is no none\.so"):
        board_of(0, str(tmp_path / "none.so"))


# -- energy --------------------------------------------------------------------------------------


@pytest.fixture
def energy(
    nvml: Callable[[str], str], on_bus: Callable[[str | None], None]
) -> Callable[[str], BoardEnergy]:
    """Opens the GPU of a fake driver as a sensor."""
    on_bus("0000:01:00.0")
    return lambda define: BoardEnergy(board_of(0, nvml(define)))


def test_a_gpu_counts_its_joules(energy: Callable[[str], BoardEnergy]) -> None:
    sensor = energy("NEW")
    assert [sensor.joules() for _ in range(3)] == [0, 2.5, 5.0]


def test_an_old_gpu_tells_its_power_alone(energy: Callable[[str], BoardEnergy]) -> None:
    sensor = energy("OLD")
    times = iter([0.0, 2.0])
    sensor._integral = Integral(lambda: next(times))
    assert (sensor.joules(), sensor.joules()) == (0, pytest.approx(60.0))


def test_a_gpu_that_falls_off_the_bus_is_told(energy: Callable[[str], BoardEnergy]) -> None:
    sensor = energy("FAILS")
    assert [sensor.joules() for _ in range(2)] == [0, 2.5]
    with pytest.raises(SensorError, match="no more"):
        sensor.joules()


# -- clock ---------------------------------------------------------------------------------------


def report_of_eight_looks(library: str, tmp_path: Path) -> dict[str, Any]:
    watch = Watch(threads=2, root=tmp_path, board=board_of(0, library))
    assert watch._gpu is not None
    watch._gpu.close()  # the thread: the test looks itself
    for _ in range(8):
        watch._gpu.look()
    return watch.report()


@pytest.mark.parametrize("define", ["NEW", "RENAMED"])
def test_the_clock_of_the_gpu_and_what_holds_it_are_told(
    nvml: Callable[[str], str],
    on_bus: Callable[[str | None], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    define: str,
) -> None:
    on_bus("0000:01:00.0")
    monkeypatch.setattr(module, "_EVERY_S", 1e6)
    report = report_of_eight_looks(nvml(define), tmp_path)
    gpu = report["gpu"]
    assert (gpu["lowest_mhz"], gpu["median_mhz"], gpu["highest_mhz"]) == (1000, 1150, 1980)
    assert gpu["held_back"] == {"power limit": 0.25}  # idling and clocks set by hand are neither
    (line,) = report["warnings"]
    assert "the GPU's clock was held back: power limit for 25% of the time" in line
    assert "GPU 1150 of at most 1980 MHz, lowest 1000" in conditions_line(report)


def test_a_driver_that_tells_no_clock_spoils_nothing(
    nvml: Callable[[str], str],
    on_bus: Callable[[str | None], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    on_bus("0000:01:00.0")
    monkeypatch.setattr(module, "_EVERY_S", 1e6)
    report = report_of_eight_looks(nvml("OLD"), tmp_path)
    assert (report["gpu"]["median_mhz"], report["gpu"]["held_back"]) == (None, None)
    assert report["warnings"] == []
    assert "GPU's clock not told" in conditions_line(report)


def test_a_clock_that_was_held_back_for_a_moment_is_no_warning() -> None:
    assert gpu_warnings({"held_back": {"power limit": 0.04}}) == []


def test_the_thread_that_looks_at_the_gpu_ends_with_the_watch(
    nvml: Callable[[str], str],
    on_bus: Callable[[str | None], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    on_bus("0000:01:00.0")
    monkeypatch.setattr(module, "_EVERY_S", 0.001)
    watch = Watch(threads=2, root=tmp_path, board=board_of(0, nvml("NEW")))
    assert watch._gpu is not None
    while not watch._gpu._clocks:
        pass
    watch.close()
    assert not watch._gpu._thread.is_alive()


# -- the command ---------------------------------------------------------------------------------


class OnTheGpu:
    """A back end that says that it computes on the second GPU."""

    device = "fake on cuda:1 (Fake 40, SM 90), fp32"

    def __init__(self, choice: Choice) -> None:
        self._inner = choice.backend

    def infer(self, clips: Inputs) -> Outputs:
        return self._inner.infer(clips)

    def close(self) -> None:
        self._inner.close()


def test_the_command_tells_of_the_gpu_that_it_measures_and_of_no_other(
    nvml: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_bundle: Bundle,
    tmp_path: Path,
) -> None:
    def opened(*arguments: Any) -> Choice:
        choice = open_backend(*arguments)
        return replace(choice, backend=OnTheGpu(choice))

    library, real = nvml("NEW"), energy_module.find_sensors
    monkeypatch.setattr("vad_runtime.bench.command.open_backend", opened)
    monkeypatch.setattr(module, "pci_bus_id", lambda index: f"0000:0{index + 1}:00.0")
    monkeypatch.setattr(module, "board_of", lambda index: board_of(index, library))
    monkeypatch.setattr(module, "_EVERY_S", 0.001)
    monkeypatch.setattr(energy_module, "PROOF_S", 0.01)
    monkeypatch.setattr(
        energy_module,
        "find_sensors",
        lambda gpu: real(tmp_path, gpu=gpu, nvml=library, tegrastats="no-such-tegrastats"),
    )
    words = ["bench", str(tiny_bundle.path), "--clips", "50", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    report = json.loads((tmp_path / "out" / JSON).read_text())
    assert report["conditions"]["gpu"]["name"] == "NVML GPU 0000:02:00.0 (Fake 41)"
    assert report["conditions"]["gpu"]["looks"] > 0
    assert "warning: the GPU's clock was held back: power limit for" in done.output
    rows = [row["sensor"] for row in report["energy"]["sensors"]]
    told = {name for name in (*rows, *report["energy"]["unavailable"]) if "NVML" in name}
    assert told == {"NVML GPU 0000:02:00.0 (Fake 41)"}
    assert not any(thread.name == "vad-gpu-clock" for thread in threading.enumerate())
