"""Sensors of energy on fake trees of /sys, a fake tegrastats and a fake NVML."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vad_runtime.bench.energy import Meter, find_sensors
from vad_runtime.bench.report import energy_lines
from vad_runtime.bench.sensors import (
    Integral,
    SensorError,
    Unwrapped,
    find_ina3221,
    find_nvml,
    find_rapl,
    find_tegrastats,
    moves,
    rails,
)

RANGE = 262_143_328_850


def write(path: Path, text: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
    return path


def rapl(root: Path, energy_uj: int = 0, *, name: str = "package-0", folder: str = "0") -> Path:
    package = root / "sys/class/powercap" / f"intel-rapl:{folder}"
    write(package / "name", name)
    write(package / "max_energy_range_uj", RANGE)
    return write(package / "energy_uj", energy_uj)


def orin(root: Path, *, milliamperes: int = 1000) -> Path:
    chip = root / "sys/class/hwmon/hwmon3"
    write(chip / "name", "ina3221")
    for channel, label in enumerate(["VDD_IN", "VDD_CPU_GPU_CV", "NC"], start=1):
        write(chip / f"in{channel}_label", label)
        write(chip / f"in{channel}_input", 5000)
        write(chip / f"curr{channel}_input", milliamperes)
    return chip / "curr1_input"


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """Names that find neither a driver nor a program, on whatever machine this runs."""
    return {"nvml": str(tmp_path / "libnvidia-ml.so.1"), "tegrastats": "no-such-tegrastats"}


# -- RAPL ----------------------------------------------------------------------------------------


def test_a_rapl_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    file = rapl(tmp_path, RANGE - 1_000_000)
    (sensor,) = find_rapl(tmp_path)
    assert sensor.name == "RAPL package-0"
    assert sensor.joules() == 0
    write(file, 2_999_999)  # 1 J to the largest value, one step to 0, 2.999999 J on
    assert sensor.joules() == pytest.approx(4.0)


def test_a_counter_without_a_range_that_is_set_back_loses_nothing_it_had() -> None:
    counter = Unwrapped(0)
    assert [counter.add(value) for value in (5, 9, 2, 4)] == [0, 4, 4, 6]


def test_a_package_is_counted_once_and_without_its_parts(tmp_path: Path) -> None:
    rapl(tmp_path)
    rapl(tmp_path, name="core", folder="0:0")
    rapl(tmp_path, name="dram", folder="0:2")
    rapl(tmp_path, name="psys", folder="1")
    copy = tmp_path / "sys/class/powercap/intel-rapl-mmio:0"
    write(copy / "name", "package-0")
    write(copy / "energy_uj", 0)
    assert [sensor.name for sensor in find_rapl(tmp_path)] == ["RAPL package-0", "RAPL psys"]


def test_a_counter_that_only_root_may_read_is_refused_with_the_command_that_helps(
    tmp_path: Path, nowhere: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = rapl(tmp_path)
    plain = Path.read_text

    def read_text(self: Path, *args: object, **kwargs: object) -> str:
        if self == file:  # tests may run as root, to whom no file is closed
            raise PermissionError(13, "Permission denied")
        return plain(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", read_text)
    found = find_sensors(tmp_path, **nowhere)
    assert found.sensors == []
    assert f"sudo chmod a+r {file}" in found.refused["RAPL package-0"]


# -- Jetson --------------------------------------------------------------------------------------


def test_the_rails_of_a_jetson_are_volts_times_amperes(tmp_path: Path) -> None:
    orin(tmp_path, milliamperes=2000)
    sensors = find_ina3221(tmp_path)
    assert [sensor.name for sensor in sensors] == ["INA3221 VDD_IN", "INA3221 VDD_CPU_GPU_CV"]
    times = iter([0.0, 2.0])
    sensors[0]._integral = Integral(lambda: next(times))  # type: ignore[attr-defined]
    assert sensors[0].joules() == 0
    assert sensors[0].joules() == pytest.approx(20.0)  # 5 V x 2 A x 2 s


def test_the_driver_of_jetpack_4_tells_milliwatts(tmp_path: Path) -> None:
    chip = tmp_path / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    write(chip / "rail_name_0", "POM_5V_IN")
    write(chip / "in_power0_input", 3000)
    (sensor,) = find_ina3221(tmp_path)
    assert sensor.name == "INA3221 POM_5V_IN"
    times = iter([0.0, 2.0])
    sensor._integral = Integral(lambda: next(times))  # type: ignore[attr-defined]
    assert (sensor.joules(), sensor.joules()) == (0, pytest.approx(6.0))


def test_energy_from_power_is_the_area_below_it() -> None:
    times = iter([0.0, 1.0, 3.0])
    integral = Integral(lambda: next(times))
    assert [integral.add(watts) for watts in (2.0, 4.0, 8.0)] == [0.0, 3.0, 15.0]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "11-22-2026 15:00:00 RAM 2541/7772MB (lfb 3x4MB) SWAP 0/3886MB (cached 0MB) CPU "
            "[12%@1190,off,3%@729] GR3D_FREQ 0% cpu@48.2C VDD_IN 5080mW/4970mW "
            "VDD_CPU_GPU_CV 640mW/600mW VDD_SOC 1480mW/1480mW",
            {"VDD_IN": 5.08, "VDD_CPU_GPU_CV": 0.64, "VDD_SOC": 1.48},
        ),
        (
            "RAM 1903/3964MB (lfb 1x2MB) IRAM 0/252kB(lfb 252kB) CPU [7%@102,5%@102] EMC_FREQ 0% "
            "PLL@38C CPU@41.5C POM_5V_IN 2532/2532 POM_5V_GPU 124/124 POM_5V_CPU 497/497",
            {"POM_5V_IN": 2.532, "POM_5V_GPU": 0.124, "POM_5V_CPU": 0.497},
        ),
    ],
    ids=["jetpack 6", "jetpack 4"],
)
def test_a_line_of_tegrastats_is_read_without_its_memory(
    line: str, found: dict[str, float]
) -> None:
    assert rails(line) == found


@pytest.fixture
def tegrastats(tmp_path: Path) -> Path:
    """A program that tells of one rail."""
    program = tmp_path / "tegrastats"
    program.write_text(
        '#!/bin/sh\n[ "$1 $2" = "--interval 100" ] || exit 3\n'
        "while :; do echo 'RAM 1/2MB VDD_IN 4000mW/4000mW'; sleep 0.05; done\n"
    )
    program.chmod(0o755)
    return program


def test_tegrastats_is_started_and_stopped(tegrastats: Path) -> None:
    (sensor,) = find_tegrastats(str(tegrastats))
    assert sensor.name == "tegrastats VDD_IN"
    assert sensor.joules() == 0
    assert sensor.joules() > 0
    sensor.close()
    with pytest.raises(SensorError, match="stopped"):
        sensor.joules()


def test_ctrl_c_on_the_terminal_is_not_for_tegrastats(tegrastats: Path) -> None:
    (sensor,) = find_tegrastats(str(tegrastats))
    child = sensor._program._child  # type: ignore[attr-defined]
    assert os.getpgid(child.pid) != os.getpgid(0)
    sensor.close()


def test_a_tegrastats_that_tells_no_power_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "tegrastats"
    program.write_text("#!/bin/sh\necho 'RAM 1/2MB'\n")
    program.chmod(0o755)
    with pytest.raises(SensorError, match="no rail's power"):
        find_tegrastats(str(program))


# -- NVML ----------------------------------------------------------------------------------------

FAKE_NVML = """
#include <string.h>
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
  *handle = (void *)0x7f00000000000000ull; return index; }
int nvmlDeviceGetName(void *handle, char *name, unsigned size) {
  if (handle != (void *)0x7f00000000000000ull || size < 8) return 2;
  strcpy(name, "Fake 40"); return 0; }
static unsigned long long energy = 1ull << 40;
int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *mj) {
  (void)handle;
#ifdef OLD
  return 3;
#else
#ifdef FAILS
  if (energy > (1ull << 40) + 5000) return 15;
#endif
  *mj = energy; energy += 2500; return 0;
#endif
}
int nvmlDeviceGetPowerUsage(void *handle, unsigned *mw) { (void)handle; *mw = 30000; return 0; }
"""


@pytest.fixture
def nvml(tmp_path: Path) -> Callable[[str], Path]:
    """Builds a fake of the driver's library; skips without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")

    def build(define: str) -> Path:
        source, library = tmp_path / "nvml.c", tmp_path / f"libnvml{define}.so"
        source.write_text(FAKE_NVML)
        command = [compiler, "-shared", "-fPIC", f"-D{define}", "-o", library, source]
        subprocess.run(command, check=True)
        return library

    return build


def test_a_gpu_counts_its_joules(nvml: Callable[[str], Path]) -> None:
    (sensor,) = find_nvml(str(nvml("NEW")))
    assert sensor.name == "NVML GPU 0 (Fake 40)"
    assert [sensor.joules() for _ in range(3)] == [0, 2.5, 5.0]


def test_a_gpu_is_not_asked_where_the_processor_computes(
    nvml: Callable[[str], Path], tmp_path: Path
) -> None:
    names = {"nvml": str(nvml("NEW")), "tegrastats": "no-such-tegrastats"}
    assert len(find_sensors(tmp_path, **names).sensors) == 1
    found = find_sensors(tmp_path, gpu=False, **names)
    assert found.sensors == []
    assert "on the processor" in found.refused["NVML"]


def test_an_old_gpu_tells_its_power_alone(nvml: Callable[[str], Path]) -> None:
    (sensor,) = find_nvml(str(nvml("OLD")))
    times = iter([0.0, 2.0])
    sensor._integral = Integral(lambda: next(times))  # type: ignore[attr-defined]
    assert (sensor.joules(), sensor.joules()) == (0, pytest.approx(60.0))


def test_a_gpu_that_falls_off_the_bus_is_told(nvml: Callable[[str], Path]) -> None:
    (sensor,) = find_nvml(str(nvml("FAILS")))
    assert [sensor.joules() for _ in range(2)] == [0, 2.5]
    with pytest.raises(SensorError, match="no more"):
        sensor.joules()


def test_a_library_without_what_is_needed_is_refused(
    nvml: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "FAKE_NVML", "int nvmlInit_v2(void) { return 0; }")
    with pytest.raises(SensorError, match="too old or a stub"):
        find_nvml(str(nvml("STUB")))


# -- proof and sums ------------------------------------------------------------------------------


class Scripted:
    """A sensor whose energy rises as the test says."""

    def __init__(self, name: str = "scripted") -> None:
        self.name = name
        self.energy = 0.0
        self.broken = False
        self.closed = False

    def joules(self) -> float:
        if self.broken:
            raise SensorError("it fell off")
        return self.energy

    def close(self) -> None:
        self.closed = True


def meter_of(*sensors: Scripted, idle_j: float = 0.0) -> Meter:
    from vad_runtime.bench.energy import Found

    def sleep(_seconds: float) -> None:
        for sensor in sensors:
            sensor.energy += idle_j

    return Meter(Found(sensors=list(sensors)), sleep)


def test_a_machine_without_sensors_says_why_for_each_kind(
    tmp_path: Path, nowhere: dict[str, str]
) -> None:
    found = find_sensors(tmp_path, **nowhere)
    assert found.sensors == []
    assert list(found.refused) == ["RAPL", "INA3221", "tegrastats", "NVML"]
    assert str(tmp_path / "sys/class/powercap") in found.refused["RAPL"]


def test_tegrastats_is_not_asked_where_sysfs_has_the_same_rails(
    tmp_path: Path, nowhere: dict[str, str]
) -> None:
    orin(tmp_path)
    found = find_sensors(tmp_path, **nowhere)
    assert len(found.sensors) == 2
    assert "tegrastats" not in found.refused


def test_tegrastats_is_asked_where_the_rails_of_sysfs_do_not_answer(
    tmp_path: Path, nowhere: dict[str, str], tegrastats: Path
) -> None:
    orin(tmp_path)
    for file in tmp_path.glob("sys/class/hwmon/hwmon3/curr*_input"):
        write(file, "closed")
    found = find_sensors(tmp_path, nvml=nowhere["nvml"], tegrastats=str(tegrastats))
    (sensor,) = found.sensors
    sensor.close()
    assert sensor.name == "tegrastats VDD_IN"
    assert "does not answer" in found.refused["INA3221 VDD_IN"]


@pytest.mark.parametrize(
    ("idle_w", "busy_w", "why"),
    [
        (5.0, 9.0, None),
        (0.0, 9.0, None),
        (5.0, 5.0, "stands still"),
        (0.0, 0.0, "stands still"),
        (5.0, 5.05, "does not rise"),
        (5.0, 4.0, "does not rise"),
    ],
)
def test_a_sensor_is_believed_only_if_it_rises_under_load(
    idle_w: float, busy_w: float, why: str | None
) -> None:
    reason = moves(idle_w, busy_w)
    assert reason is None if why is None else why in (reason or "")


def test_a_sensor_that_stands_still_is_told_and_not_used() -> None:
    still, moving = Scripted("still"), Scripted("moving")
    meter = meter_of(still, moving)

    def work() -> None:
        moving.energy += 1

    meter.prove(work, 0.0)
    with meter.measuring("inference"):
        work()
    report = meter.report({"inference": 1})
    meter.close()
    assert [row["sensor"] for row in report["sensors"]] == ["moving"]
    assert "stands still" in report["unavailable"]["still"]
    assert still.closed
    assert moving.closed


def test_idle_power_is_taken_off_beside_the_whole_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("vad_runtime.bench.energy.time.perf_counter", lambda: now[0])
    sensor = Scripted()

    def pass_time(watts: float, seconds: float) -> None:
        now[0] += seconds
        sensor.energy += watts * seconds

    from vad_runtime.bench.energy import Found

    meter = Meter(Found(sensors=[sensor]), lambda seconds: pass_time(4.0, seconds))
    meter.prove(lambda: pass_time(10.0, 0.5), 1.0)
    with meter.measuring("inference"):
        pass_time(10.0, 2.0)
    pass_time(100.0, 1.0)  # not measured
    with meter.measuring("inference"):
        pass_time(12.0, 1.0)
    (row,) = meter.report({"inference": 4, "whole path": 0})["sensors"]
    meter.close()
    assert row["joules_a_clip"] == pytest.approx(32 / 4)
    assert row["joules_a_clip_above_idle"] == pytest.approx((32 - 4 * 3) / 4)
    assert row["watts"] == pytest.approx(32 / 3)
    assert row["idle_watts"] == pytest.approx(4)


def test_a_sensor_that_fails_on_the_way_takes_its_figures_with_it() -> None:
    sensor = Scripted()
    meter = meter_of(sensor)

    def work() -> None:
        sensor.energy += 1

    meter.prove(work, 0.0)
    with meter.measuring("inference"):
        work()
        sensor.broken = True
    report = meter.report({"inference": 1})
    meter.close()
    assert report["sensors"] == []
    assert report["unavailable"] == {"scripted": "it fell off"}


def test_a_small_energy_is_told_in_full() -> None:
    row = {"sensor": "RAPL package-0", "what": "inference", "watts": 12.0, "idle_watts": 8.0}
    row |= {"joules_a_clip": 0.000312, "joules_a_clip_above_idle": 0.000104}
    (line,) = energy_lines({"sensors": [row], "unavailable": {}})
    assert "0.000312 J a clip, 0.000104 J of it above idle" in line
