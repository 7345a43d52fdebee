"""Sensors of power and energy: one small class for each kind, and what finds them.

======== ============================================ =====================================
kind     where                                        what it counts
======== ============================================ =====================================
RAPL     `/sys/class/powercap/*rapl*` (Intel, AMD)    joules of a processor package
INA3221  hwmon or iio in sysfs (Jetson boards)        watts of a rail
NVML     `nvml.py`                                    joules of a GPU's board, or its watts
tegra    `tegrastats`, a program of Jetson Linux      watts of a rail, where sysfs has none
======== ============================================ =====================================
"""

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from vad_runtime.bench.files import number, read

_LONGEST_WAIT_S = 3.0
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]+) (\d+)(?:mW)?/\d+(?:mW)?(?=\s|$)")
"""`VDD_IN 5080mW/4970mW` of JetPack 5 and newer, `POM_5V_IN 2532/2532` of JetPack 4; the memory's
`RAM 2541/7772MB` has another unit."""


class SensorError(Exception):
    """A sensor cannot be read; the text says why, and what helps."""


class AbsentError(SensorError):
    """This machine has no sensor of the kind: nothing that its owner could mend."""


class Sensor(Protocol):
    """Something that counts energy."""

    name: str

    def joules(self) -> float:
        """Return the energy since some fixed moment; never falls.

        Raises:
            SensorError: It does not answer.
        """

    def close(self) -> None:
        """Let go of what it holds."""


def probe(sensor: Sensor) -> str | None:
    """Return why a sensor does not answer; None = it does."""
    try:
        sensor.joules()
    except SensorError as error:
        return str(error)
    return None


def moves(idle_w: float, busy_w: float, *, least: float = 1.02) -> str | None:
    """Return why a sensor is not believed after it was read idle and busy; None = it is.

    Args:
        idle_w: Power while nothing was computed, watts.
        busy_w: Power under load.
        least: How many times as much it must be.
    """
    if busy_w == 0 or busy_w == idle_w:
        return f"it stands still ({idle_w:.2f} W idle and under load)"
    if busy_w < idle_w * least:
        return f"it does not rise under this load ({idle_w:.2f} W idle, {busy_w:.2f} W busy)"
    return None


class Integral:
    """Energy from a power that is read now and then: the trapezoids between the readings."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._last: tuple[float, float] | None = None
        self._joules = 0.0

    def add(self, watts: float) -> float:
        """Take the power of this moment; return the energy since the first one."""
        now = self._clock()
        if self._last is not None:
            self._joules += (now - self._last[0]) * (watts + self._last[1]) / 2
        self._last = (now, watts)
        return self._joules


class Unwrapped:
    """A counter that starts again at 0 behind its largest value, as one that goes on.

    Args:
        span: How many values it has; 0 = it never wraps.
    """

    def __init__(self, span: int) -> None:
        self._span = span
        self._last: int | None = None
        self._total = 0

    def add(self, value: int) -> int:
        """Take the counter's value; return how far it went since the first one."""
        if self._last is not None:
            step = value - self._last
            if step < 0:
                # A counter without a span was set back: what it lost is not known.
                step = step + self._span if self._span else 0
            self._total += step
        self._last = value
        return self._total


# -- RAPL ----------------------------------------------------------------------------------------


class Rapl:
    """A package of a processor, as the kernel's power capping framework counts it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "energy_uj"
        self.name = f"RAPL {read(folder / 'name') or folder.name}"
        self._counter = Unwrapped((number(folder / "max_energy_range_uj") or -1) + 1)

    def joules(self) -> float:
        """See `Sensor.joules`."""
        return self._counter.add(_whole(self._file)) / 1e6

    def close(self) -> None:
        """See `Sensor.close`."""


def find_rapl(root: Path) -> list[Sensor]:
    """Return the packages (and the whole platform where it is counted), or say why there are none.

    Raises:
        AbsentError: None.
    """
    tree = root / "sys/class/powercap"
    found: list[Sensor] = []
    for folder in sorted(tree.glob("*rapl:*")):
        # The parts of a package (core, uncore, dram) have names such as intel-rapl:0:1; the same
        # package may be there a second time as intel-rapl-mmio:0.
        top = re.fullmatch(r"[a-z]+-rapl:\d+", folder.name)
        if top and (read(folder / "name") or "").startswith(("package", "psys")):
            found.append(Rapl(folder))
    if not found:
        raise AbsentError(f"{tree} has no package of a processor")
    return found


def _whole(file: Path) -> int:
    try:
        return int(file.read_text())
    except PermissionError:
        raise SensorError(
            f"no permission to read {file}; until the next start: sudo chmod a+r {file}"
        ) from None
    except (OSError, ValueError) as error:
        raise SensorError(f"{file} does not answer ({error})") from None


# -- INA3221 -------------------------------------------------------------------------------------


class Ina3221:
    """A rail of a Jetson board.

    Args:
        name: The rail's.
        files: One with its power in milliwatts, or two with voltage (mV) and current (mA).
    """

    def __init__(self, name: str, files: tuple[Path, ...]) -> None:
        self.name = f"INA3221 {name}"
        self._files = files
        self._integral = Integral()

    def joules(self) -> float:
        """See `Sensor.joules`."""
        values = [_whole(file) for file in self._files]
        milliwatts = values[0] if len(values) == 1 else values[0] * values[1] / 1e3
        return self._integral.add(milliwatts / 1e3)

    def close(self) -> None:
        """See `Sensor.close`."""


def find_ina3221(root: Path) -> list[Sensor]:
    """Return the rails of a Jetson's power monitors, or say why there are none.

    Raises:
        AbsentError: None.
    """
    found: list[Sensor] = []
    for folder in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if read(folder / "name") != "ina3221":
            continue
        for channel in (1, 2, 3):
            volts, amperes = folder / f"in{channel}_input", folder / f"curr{channel}_input"
            label = read(folder / f"in{channel}_label")
            if label and label != "NC" and volts.exists() and amperes.exists():
                found.append(Ina3221(label, (volts, amperes)))
    # JetPack 4 has a driver of its own.
    for folder in sorted(root.glob("sys/bus/i2c/drivers/ina3221x/*/iio:device*")):
        for channel in (0, 1, 2):
            label, power = (
                read(folder / f"rail_name_{channel}"),
                folder / f"in_power{channel}_input",
            )
            if label and power.exists():
                found.append(Ina3221(label, (power,)))
    if not found:
        raise AbsentError("no such power monitor in sysfs, which Jetson boards have")
    return found


# -- tegrastats ----------------------------------------------------------------------------------


def rails(line: str) -> dict[str, float]:
    """Return the power of each rail in a line of tegrastats, watts."""
    return {name: int(value) / 1e3 for name, value in _RAIL.findall(line)}


class _Tegrastats:
    """The program, and the last line that it wrote."""

    def __init__(self, program: str) -> None:
        try:
            self._child = subprocess.Popen(
                [program, "--interval", "100"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
                text=True,
                # Ctrl-C on the terminal is for us: the figures up to then are still wanted.
                start_new_session=True,
            )
        except OSError as error:
            raise SensorError(f"{program} does not start ({error.strerror})") from None
        self.watts: dict[str, float] = {}
        self._said = threading.Event()
        self._reader = threading.Thread(target=self._read, name="vad-tegrastats", daemon=True)
        self._reader.start()
        self._said.wait(_LONGEST_WAIT_S)

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            found = rails(line)
            if found:
                self.watts = found
                self._said.set()
        self._said.set()

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def close(self) -> None:
        if self.alive:
            self._child.terminate()
        self._child.wait()
        self._reader.join(_LONGEST_WAIT_S)
        assert self._child.stdout is not None
        self._child.stdout.close()


class TegraRail:
    """A rail as tegrastats tells it."""

    def __init__(self, program: _Tegrastats, rail: str) -> None:
        self.name = f"tegrastats {rail}"
        self._program, self._rail = program, rail
        self._integral = Integral()

    def joules(self) -> float:
        """See `Sensor.joules`."""
        watts = self._program.watts.get(self._rail)
        if watts is None or not self._program.alive:
            raise SensorError("tegrastats has stopped")
        return self._integral.add(watts)

    def close(self) -> None:
        """See `Sensor.close`."""
        self._program.close()


def find_tegrastats(program: str = "tegrastats") -> list[Sensor]:
    """Return the rails that tegrastats tells, or say why there are none.

    Raises:
        AbsentError: There is no such program.
        SensorError: It tells none.
    """
    path = shutil.which(program)
    if path is None:
        raise AbsentError("there is no such program, which Jetson Linux has")
    running = _Tegrastats(path)
    if not running.watts:
        running.close()
        raise SensorError(f"{path} tells no rail's power; try it by hand, or with sudo")
    return [TegraRail(running, rail) for rail in running.watts]
