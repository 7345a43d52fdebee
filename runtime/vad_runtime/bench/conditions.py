"""Under which conditions was measured: clocks, heat, limits of the container, other load.

Everything is read from files of Linux below a root folder, so that tests can make their own.
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vad_runtime.bench.files import number, read
from vad_runtime.bench.nvml import Board, BoardWatch, gpu_warnings
from vad_runtime.bench.throttling import Throttling, throttling

ROOT = Path("/")
NOISY_CORES = 0.1
"""Other processes that keep more cores busy than this share of ours make a run doubtful."""


# -- clocks and heat -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """What the machine says about its clocks at one moment; None and empty = it does not."""

    governors: list[str]
    current_mhz: float | None
    """Mean of all processors."""
    highest_mhz: float | None
    power_mode: str | None
    """Of a Jetson, as nvpmodel has set it."""
    hottest_c: float | None
    throttling: Throttling

    @property
    def throttled(self) -> dict[str, int]:
        """Every sign of it, by name."""
        return self.throttling.counters | self.throttling.held


def clocks(root: Path = ROOT) -> Clocks:
    """Read clocks, temperatures and signs of throttling."""
    cpus = root / "sys/devices/system/cpu"
    folders = sorted(cpus.glob("cpu[0-9]*/cpufreq"))
    now = [value for f in folders if (value := number(f / "scaling_cur_freq")) is not None]
    most = [value for f in folders if (value := number(f / "cpuinfo_max_freq")) is not None]
    heat = [
        value
        for zone in (root / "sys/class/thermal").glob("thermal_zone*")
        if (value := number(zone / "temp")) is not None
        # Jetson boards have one that always says 100 degrees.
        and not (read(zone / "type") or "").startswith("PMIC")
    ]
    return Clocks(
        governors=sorted({text for f in folders if (text := read(f / "scaling_governor"))}),
        current_mhz=sum(now) / len(now) / 1e3 if now else None,
        highest_mhz=max(most) / 1e3 if most else None,
        power_mode=read(root / "var/lib/nvpmodel/status"),
        hottest_c=max(heat) / 1e3 if heat else None,
        throttling=throttling(root),
    )


# -- limits of a container -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the control groups of this process allow; None = no limit."""

    cores: float | None
    memory_bytes: int | None
    throttled_s: float
    """For how long this process was kept waiting, so far."""


def limits(root: Path = ROOT) -> Limits:
    """Read the limits of control groups, version 2 or 1; the tightest one counts."""
    cores: list[float] = []
    memory: list[int] = []
    throttled_s = 0.0
    for group in _groups(root):
        quota = (read(group / "cpu.max") or "max").split()
        if len(quota) == 2 and quota[0].isdecimal():
            cores.append(int(quota[0]) / int(quota[1]))
        old, period = number(group / "cpu.cfs_quota_us"), number(group / "cpu.cfs_period_us")
        if old is not None and old > 0 and period:
            cores.append(old / period)
        for name in ("memory.max", "memory.limit_in_bytes"):
            most = number(group / name)
            if most is not None and most < 1 << 60:  # version 1 writes a huge number for none
                memory.append(most)
        for line in (read(group / "cpu.stat") or "").splitlines():
            key, _, value = line.partition(" ")
            if key == "throttled_usec":
                throttled_s = max(throttled_s, int(value) / 1e6)
            elif key == "throttled_time":
                throttled_s = max(throttled_s, int(value) / 1e9)
    return Limits(
        cores=min(cores, default=None),
        memory_bytes=min(memory, default=None),
        throttled_s=throttled_s,
    )


def _groups(root: Path) -> list[Path]:
    """Return the folders of this process's control groups and of those around them."""
    tree = root / "sys/fs/cgroup"
    found: dict[Path, None] = {}
    for line in (read(root / "proc/self/cgroup") or "").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        _, controllers, path = parts
        top = tree / controllers if controllers else tree
        for name in [top, *(tree / name for name in controllers.split(","))]:
            # Inside a container the path may be the host's, which is not to be seen there.
            inner = name / path.lstrip("/")
            while True:
                found[inner] = None
                if inner == name or name not in inner.parents:
                    break
                inner = inner.parent
    return [folder for folder in found if ".." not in folder.parts and folder.is_dir()]


# -- load ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Load:
    """Processor time used since the machine started and by this process, at one moment."""

    at_s: float
    machine_s: float | None
    own_s: float
    average: float | None
    """Of the last minute, as `uptime` has it."""


def load(root: Path = ROOT) -> Load:
    """Read how busy the machine is."""
    machine_s = None
    for line in (read(root / "proc/stat") or "").splitlines():
        if line.startswith("cpu "):
            ticks = [int(value) for value in line.split()[1:]]
            # user nice system idle iowait irq softirq steal; guests are within user and nice.
            busy = sum(ticks[:3]) + sum(ticks[5:8])
            machine_s = busy / os.sysconf("SC_CLK_TCK")
    first = (read(root / "proc/loadavg") or "").split()
    return Load(
        at_s=time.perf_counter(),
        machine_s=machine_s,
        own_s=time.process_time(),
        average=float(first[0]) if first else None,
    )


def other_cores(before: Load, after: Load) -> float | None:
    """Return how many cores other processes kept busy between two moments; None = unknown."""
    wall_s = after.at_s - before.at_s
    if before.machine_s is None or after.machine_s is None or wall_s <= 0:
        return None
    own_s = after.own_s - before.own_s
    return max(0.0, (after.machine_s - before.machine_s - own_s) / wall_s)


def peak_rss_bytes(root: Path = ROOT) -> int | None:
    """Return the largest resident set that this process has had.

    Not from `getrusage`, whose figure a new process takes over from the one that started it.
    """
    for line in (read(root / "proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


# -- all of it -----------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Watch:
    """Compares the conditions at the start of a measurement with those at its end."""

    threads: int
    """Cores that this process may use."""
    engine_threads: int | None = None
    """How many the engine was told to use; None = all."""
    root: Path = ROOT
    board: Board | None = None
    """The engine's GPU."""
    _clocks: Clocks = field(init=False)
    _load: Load = field(init=False)
    _limits: Limits = field(init=False)
    _gpu: BoardWatch | None = field(init=False)

    def __post_init__(self) -> None:
        """Begin."""
        self._clocks, self._load, self._limits = (
            clocks(self.root),
            load(self.root),
            limits(self.root),
        )
        self._gpu = None if self.board is None else BoardWatch(self.board)

    def close(self) -> None:
        """Stop looking at the GPU. A second call does nothing."""
        if self._gpu is not None:
            self._gpu.close()

    def report(self) -> dict[str, Any]:
        """Return the conditions, and under `warnings` a line for each that spoils figures."""
        now, busy, bounds = clocks(self.root), load(self.root), limits(self.root)
        before = self._clocks
        gpu = None if self._gpu is None else self._gpu.report()
        held, rose = before.throttling.held, now.throttling.since(before.throttling)
        waited_s = bounds.throttled_s - self._limits.throttled_s
        others = other_cores(self._load, busy)
        return {
            "governors": now.governors,
            "current_mhz": now.current_mhz,
            "current_mhz_before": before.current_mhz,
            "highest_mhz": now.highest_mhz,
            "power_mode": now.power_mode,
            "hottest_c_before": before.hottest_c,
            "hottest_c": now.hottest_c,
            "throttled": rose,
            "throttled_from_the_start": held,
            "gpu": gpu,
            "cgroup_cores": bounds.cores,
            "cgroup_memory_bytes": bounds.memory_bytes,
            "cgroup_waited_s": waited_s,
            "load_average_before": self._load.average,
            "other_cores_busy": others,
            "warnings": [
                *self._warnings(now, bounds, waited_s, others),
                *_held_back(held, rose),
                *([] if gpu is None else gpu_warnings(gpu)),
            ],
        }

    def _warnings(
        self,
        now: Clocks,
        bounds: Limits,
        waited_s: float,
        others: float | None,
    ) -> list[str]:
        lines = []
        average = self._load.average
        if others is not None and others > NOISY_CORES * self.threads:
            lines.append(
                f"the machine was not quiet: other processes kept {others:.1f} cores busy. "
                "Stop them and measure again"
            )
        elif others is None and average is not None and average > 0.5 * self.threads:
            lines.append(
                f"the machine was not quiet: load average {average:.1f} at the start. "
                "Wait and measure again"
            )
        slow = [name for name in now.governors if name not in ("performance", "schedutil")]
        if slow:
            lines.append(f"the clock's governor is {' and '.join(slow)}, which may be slow to rise")
        threads = self.engine_threads or self.threads
        if bounds.cores is not None and threads > (fit := max(1, int(bounds.cores))):
            lines.append(
                f"the control group allows {bounds.cores:g} cores, the engine may use {threads} "
                f"threads. Measure with --threads {fit}"
            )
        if waited_s > 0:
            lines.append(f"the control group kept this process waiting for {waited_s:.1f} s")
        return lines


def _held_back(held: dict[str, int], rose: dict[str, int]) -> list[str]:
    """Return a line for clocks that were held back all along, and one for what began meanwhile."""
    lines = []
    if held:
        what = ", ".join(f"{name} (state {state})" for name, state in held.items())
        lines.append(
            f"clocks were held back from the start: {what}. Cool the device and measure again"
        )
    if rose:
        what = ", ".join(f"{name} +{value}" for name, value in rose.items())
        lines.append(f"clocks were held back during the run: {what}. Cool the device")
    return lines
