"""The lines above every table: processor, threads, versions, clocks, other load."""

import os
import re

from vad_runtime.backends.checks import usable_threads
from vad_runtime.bench.conditions import clocks
from vad_runtime.machine import library_versions, machine_facts
from vad_runtime.ring import FrameRing
from vad_runtime.sources.portable import path_taken


def machine_lines() -> list[str]:
    """Return what was measured on, a line each."""
    machine = machine_facts()
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    ring = "native" if FrameRing(2, (32, 32, 1)).native else "pure"
    gpu = f"; {machine['gpu']}" if "gpu" in machine else ""
    return [
        f"device: {machine['cpu']} ({machine['architecture']}), {usable_threads()} of "
        f"{machine['cores']} cores usable{gpu}",
        f"versions: python {machine['python']}, {versions}",
        clock_line(),
        f"frame ring: {ring}, portable resizer: {path_taken()}",
    ]


def clock_line() -> str:
    """Return what the machine tells of its clocks, and how busy it is."""
    state = clocks()
    governor = "/".join(state.governors) or "not told"
    now = "not told" if state.current_mhz is None else f"{state.current_mhz:.0f} MHz"
    most = "" if state.highest_mhz is None else f" of {state.highest_mhz:.0f}"
    held = ", ".join(f"{name} {count}" for name, count in state.throttled.items() if count)
    return f"clocks: governor {governor}, now {now}{most}{'; ' + held if held else ''}; {load()}"


def wall_times_count(told: str) -> bool:
    """Return whether a machine with the load that `load` told then had time for what it ran."""
    found = re.search(r"load of the last minute ([0-9.]+)", told)
    return found is not None and float(found[1]) <= 1


def load() -> str:
    """Return the number of processes that ran or waited in the last minute."""
    try:
        return f"load of the last minute {os.getloadavg()[0]:.1f}"
    except OSError:
        return "load not told"
