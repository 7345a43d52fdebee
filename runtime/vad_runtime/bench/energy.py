"""Energy per clip, from sensors that have proved that they answer and move under load."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vad_runtime.bench.conditions import ROOT
from vad_runtime.bench.nvml import NVML, BoardEnergy, board_of
from vad_runtime.bench.sensors import (
    AbsentError,
    Sensor,
    SensorError,
    find_ina3221,
    find_rapl,
    find_tegrastats,
    moves,
    probe,
)

PROOF_S = 1.5
"""How long a sensor is watched idle, and then again under load."""
_FLAT_S = 15.0
"""How long to wait for an idle power that falls no more."""
_FLAT = 0.97
"""A stretch below this share of the one before it still falls."""
_EVERY_S = 0.1


@dataclass(kw_only=True)
class Found:
    """What was looked for, and what there is."""

    sensors: list[Sensor] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """Why not, by the name of the sensor or of its kind."""
    absent: list[str] = field(default_factory=list)
    """Kinds among `refused` that this machine does not have."""


def find_sensors(
    root: Path = ROOT, *, gpu: int | None, nvml: str = NVML, tegrastats: str = "tegrastats"
) -> Found:
    """Look for every kind of sensor, and keep those that answer.

    Args:
        root: Below it are the kernel's files.
        gpu: CUDA's number of the GPU that the engine computes on; None = on none. What runs on
            another GPU is not its energy.
        nvml: The driver's library.
        tegrastats: The program.
    """
    found = Found()

    def look(kind: str, finder: Callable[[], list[Sensor]]) -> bool:
        try:
            sensors = finder()
        except SensorError as error:
            found.refused[kind] = str(error)
            if isinstance(error, AbsentError):
                found.absent.append(kind)
            return False
        answered = False
        for sensor in sensors:
            reason = probe(sensor)
            if reason is None:
                found.sensors.append(sensor)
                answered = True
            else:
                found.refused[sensor.name] = reason
                sensor.close()
        return answered

    look("RAPL", lambda: find_rapl(root))
    # tegrastats reads the same chips; it is for boards where sysfs is closed to us.
    if not look("INA3221", lambda: find_ina3221(root)):
        look("tegrastats", lambda: find_tegrastats(tegrastats))
    look("NVML", lambda: [BoardEnergy(board_of(gpu, nvml))])
    return found


def _never() -> bool:
    return False


class Meter:
    """Reads sensors ten times a second in a thread, and adds up what was used in which stretch.

    Args:
        found: Closed with the meter.
        sleep: Waits for so many seconds.
    """

    def __init__(self, found: Found, sleep: Callable[[float], object] = time.sleep) -> None:
        self._all = tuple(found.sensors)
        self._sensors = list(self._all)
        self._refused = dict(found.refused)
        self._absent = list(found.absent)
        self._sleep = sleep
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._idle_w: dict[str, float] = {}
        self._falling: set[str] = set()
        self._busy_w: dict[str, float] = {}
        self._joules: dict[str, dict[str, float]] = {}
        self._seconds: dict[str, float] = {}
        self._thread: threading.Thread | None = None
        if self._sensors:
            self._thread = threading.Thread(target=self._watch, name="vad-energy", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self._read()

    def _read(self) -> dict[str, float]:
        """Return the joules so far by sensor; drop a sensor that answers no more."""
        values = {}
        with self._lock:
            for sensor in list(self._sensors):
                try:
                    values[sensor.name] = sensor.joules()
                except SensorError as error:
                    self._drop(sensor, str(error))
        return values

    def _drop(self, sensor: Sensor, reason: str) -> None:
        self._sensors.remove(sensor)
        self._refused[sensor.name] = reason

    def rest(self, seconds: float | None = None, stopped: Callable[[], bool] = _never) -> None:
        """Take the idle power, before the first clip.

        Behind a load it would be too high: a GPU keeps its clocks for seconds, and a hot device
        takes more. Loading the engine was a load, too, so this waits until the power of one stretch
        is no lower than that of the one before.

        Args:
            seconds: How long a stretch is; None = `PROOF_S`.
            stopped: Says that Ctrl-C came.
        """
        if not self._sensors:
            return
        seconds = PROOF_S if seconds is None else seconds
        nap = partial(self._sleep, min(seconds, _EVERY_S))
        began = time.perf_counter()
        idle = self._power(nap, seconds, stopped)
        while not stopped():
            before, idle = idle, self._power(nap, seconds, stopped)
            self._falling = {
                name for name, watts in idle.items() if watts < _FLAT * before.get(name, watts)
            }
            if not self._falling or time.perf_counter() - began >= _FLAT_S:
                break
        self._idle_w = idle

    def prove(
        self,
        work: Callable[[], object],
        seconds: float | None = None,
        stopped: Callable[[], bool] = _never,
    ) -> None:
        """Keep the sensors that show more power under load than at rest.

        Args:
            work: Does a piece of the work that is to be measured.
            seconds: How long to do it; None = `PROOF_S`.
            stopped: Says that Ctrl-C came: then none is proved.
        """
        if not self._sensors:
            return
        seconds = PROOF_S if seconds is None else seconds
        self._busy_w = self._power(work, seconds, stopped)
        with self._lock:
            for sensor in list(self._sensors):
                idle, busy = self._idle_w.get(sensor.name), self._busy_w.get(sensor.name)
                reason: str | None = "the measurement ended before it was proved"
                if not stopped() and idle is not None and busy is not None:
                    reason = moves(idle, busy)
                if reason is not None:
                    self._drop(sensor, reason)

    def _power(
        self, work: Callable[[], object], seconds: float, stopped: Callable[[], bool]
    ) -> dict[str, float]:
        start, before = time.perf_counter(), self._read()
        while True:
            work()
            if time.perf_counter() - start >= seconds or stopped():
                break
        after, took_s = self._read(), time.perf_counter() - start
        return {name: (after[name] - before[name]) / took_s for name in after if name in before}

    @contextmanager
    def measuring(self, what: str) -> Iterator[None]:
        """Add the energy of a `with` block to what `what` has used."""
        if not self._sensors:
            yield
            return
        start, before = time.perf_counter(), self._read()
        try:
            yield
        finally:
            after = self._read()
            used = self._joules.setdefault(what, {})
            for name in after:
                if name in before:
                    used[name] = used.get(name, 0.0) + after[name] - before[name]
            took_s = time.perf_counter() - start
            self._seconds[what] = self._seconds.get(what, 0.0) + took_s

    def report(self, clips: dict[str, int]) -> dict[str, Any]:
        """Return joules a clip, whole and above idle, by sensor; and why others are not here.

        Args:
            clips: How many clips were done, by the names given to `measuring`.
        """
        rows = [
            {
                "sensor": sensor.name,
                "what": what,
                "clips": count,
                "joules_a_clip": self._joules[what][sensor.name] / count,
                "joules_a_clip_above_idle": (
                    self._joules[what][sensor.name]
                    - self._idle_w[sensor.name] * self._seconds[what]
                )
                / count,
                "watts": self._joules[what][sensor.name] / self._seconds[what],
                "idle_watts": self._idle_w[sensor.name],
                "idle_was_falling": sensor.name in self._falling,
                "proof_watts": self._busy_w[sensor.name],
            }
            for sensor in self._sensors
            for what, count in clips.items()
            if count and sensor.name in self._joules.get(what, {}) and sensor.name in self._busy_w
        ]
        return {"sensors": rows, "unavailable": self._refused, "absent": self._absent}

    def close(self) -> None:
        """Stop reading, and let the sensors go. A second call does nothing."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for sensor in self._all:
            sensor.close()
