"""Sensors of energy on fake trees of /sys and a fake tegrastats."""

import os
from pathlib import Path
from typing import Any

import pytest

from vad_runtime.bench.energy import Found, Meter, find_sensors
from vad_runtime.bench.lines import energy_lines
from vad_runtime.bench.sensors import (
    Integral,
    SensorError,
    Unwrapped,
    find_ina3221,
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
    found = find_sensors(tmp_path, gpu=0, **nowhere)
    assert found.sensors == []
    assert f"sudo chmod a+r {file}" in found.refused["RAPL package-0"]
    assert found.absent == ["INA3221", "tegrastats", "NVML"]


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
    def sleep(_seconds: float) -> None:
        for sensor in sensors:
            sensor.energy += idle_j

    return Meter(Found(sensors=list(sensors)), sleep)


def test_a_machine_without_sensors_says_why_for_each_kind(
    tmp_path: Path, nowhere: dict[str, str]
) -> None:
    found = find_sensors(tmp_path, gpu=0, **nowhere)
    assert found.sensors == []
    assert list(found.refused) == ["RAPL", "INA3221", "tegrastats", "NVML"]
    assert found.absent == list(found.refused)
    assert str(tmp_path / "sys/class/powercap") in found.refused["RAPL"]


def test_tegrastats_is_not_asked_where_sysfs_has_the_same_rails(
    tmp_path: Path, nowhere: dict[str, str]
) -> None:
    orin(tmp_path)
    found = find_sensors(tmp_path, gpu=0, **nowhere)
    assert len(found.sensors) == 2
    assert "tegrastats" not in found.refused


def test_tegrastats_is_asked_where_the_rails_of_sysfs_do_not_answer(
    tmp_path: Path, nowhere: dict[str, str], tegrastats: Path
) -> None:
    orin(tmp_path)
    for file in tmp_path.glob("sys/class/hwmon/hwmon3/curr*_input"):
        write(file, "closed")
    found = find_sensors(tmp_path, gpu=0, nvml=nowhere["nvml"], tegrastats=str(tegrastats))
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

    meter.rest(0.0)
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

    meter = Meter(Found(sensors=[sensor]), lambda seconds: pass_time(4.0, seconds))
    meter.rest(1.0)
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

    meter.rest(0.0)
    meter.prove(work, 0.0)
    with meter.measuring("inference"):
        work()
        sensor.broken = True
    report = meter.report({"inference": 1})
    meter.close()
    assert report["sensors"] == []
    assert report["unavailable"] == {"scripted": "it fell off"}


class Cooling:
    """A machine whose idle power falls from second to second, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *idle_w: float) -> None:
        self.now_s = 0.0
        self.sensor = Scripted()
        self._idle_w = iter(idle_w)
        self.last_w = 0.0
        monkeypatch.setattr("vad_runtime.bench.energy.time.perf_counter", lambda: self.now_s)
        monkeypatch.setattr("vad_runtime.bench.energy._EVERY_S", 1.0)
        self.meter = Meter(Found(sensors=[self.sensor]), lambda _: self.second())

    def second(self, watts: float | None = None) -> None:
        if watts is None:
            watts = self.last_w = next(self._idle_w, self.last_w * 0.9)
        self.now_s += 1.0
        self.sensor.energy += watts

    def row(self) -> dict[str, Any]:
        self.meter.rest(1.0)
        self.meter.prove(lambda: self.second(100.0), 1.0)
        with self.meter.measuring("inference"):
            self.second(100.0)
        (row,) = self.meter.report({"inference": 1})["sensors"]
        self.meter.close()
        return row  # type: ignore[no-any-return]


def test_the_idle_power_is_taken_when_it_falls_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Cooling(monkeypatch, 60.0, 45.0, 30.0, 29.5, 5.0).row()
    assert row["idle_watts"] == pytest.approx(29.5)
    assert row["idle_was_falling"] is False
    assert row["joules_a_clip_above_idle"] == pytest.approx(70.5)


def test_an_idle_power_that_never_stops_to_fall_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cooling = Cooling(monkeypatch, 60.0)
    row = cooling.row()
    assert cooling.now_s < 20
    assert row["idle_was_falling"] is True
    (line,) = energy_lines({"sensors": [row], "unavailable": {}, "absent": []})
    assert line.endswith("and still falling)")


def test_ctrl_c_cuts_the_proof_short_and_nothing_is_proved() -> None:
    sensor = Scripted()
    meter = meter_of(sensor)
    meter.rest(1e9, stopped=lambda: True)
    meter.prove(lambda: None, 1e9, stopped=lambda: True)
    report = meter.report({"inference": 1})
    meter.close()
    assert report["sensors"] == []
    assert "before it was proved" in report["unavailable"]["scripted"]


def test_a_small_energy_is_told_in_full() -> None:
    row = {"sensor": "RAPL package-0", "what": "inference", "watts": 12.0, "idle_watts": 8.0}
    row |= {"joules_a_clip": 0.000312, "joules_a_clip_above_idle": 0.000104}
    row |= {"idle_was_falling": False}
    (line,) = energy_lines({"sensors": [row], "unavailable": {}, "absent": []})
    assert "0.000312 J a clip, 0.000104 J of it above idle" in line


def test_what_can_be_mended_is_told_and_what_is_not_here_is_one_line() -> None:
    absent = {"INA3221": "none", "tegrastats": "none"}
    closed = {"RAPL package-0": "no permission to read it"}
    energy = {"sensors": [], "unavailable": absent, "absent": list(absent)}
    (line,) = energy_lines(energy)
    assert line == "energy: unavailable, because there is no sensor here (INA3221, tegrastats)"
    (line,) = energy_lines(energy | {"unavailable": closed | absent})
    assert line == "energy from RAPL package-0: unavailable, because no permission to read it"
