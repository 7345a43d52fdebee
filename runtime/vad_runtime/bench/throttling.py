"""Signs that clocks are held back, as Linux tells them: what counts up, and what holds now."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from vad_runtime.bench.files import number, read

_HOLDS = ("processor", "cpufreq", "devfreq", "throttle", "powerclamp")
"""Parts of the names of cooling devices that hold clocks back. Others turn a fan, dim a screen,
slow a radio down, or are an offset ("TCC Offset") that is never 0."""
_FLAGS = ("under-voltage", "frequency capped", "throttled", "too warm")
"""Bits 0 to 3 of a Raspberry Pi's firmware: now; bits 16 to 19: at some time since the start."""


@dataclass(frozen=True, kw_only=True)
class Throttling:
    """What there is to see at one moment; empty = this machine does not tell."""

    counters: dict[str, int]
    """Only rise. What they were at the start of the machine's day says nothing."""
    states: dict[str, int]
    """0 where nothing is held back."""

    @property
    def held(self) -> dict[str, int]:
        """What holds a clock back at this moment."""
        return {name: state for name, state in self.states.items() if state > 0}

    def since(self, before: "Throttling") -> dict[str, int]:
        """Return what rose since a moment before, and by how much."""
        pairs = ((self.counters, before.counters), (self.states, before.states))
        return {
            name: rise
            for now, old in pairs
            for name, value in now.items()
            if (rise := value - old.get(name, 0)) > 0
        }


def throttling(root: Path) -> Throttling:
    """Read every sign below a root folder."""
    counters: dict[str, int] = {}
    states: dict[str, int] = {}
    for kind in ("core", "package"):
        files = root.glob(
            f"sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/{kind}_throttle_count"
        )
        counts = [value for file in files if (value := number(file)) is not None]
        if counts:
            counters[f"{kind} throttled"] = sum(counts)
    for device in sorted(root.glob("sys/class/thermal/cooling_device*")):
        name, state = read(device / "type"), number(device / "cur_state")
        if name and state is not None and any(part in name.lower() for part in _HOLDS):
            # One that is switched off says -1.
            states[name] = states.get(name, 0) + max(state, 0)
    flags = read(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    with contextlib.suppress(ValueError):
        bits = int(flags or "", 16)
        for place, name in enumerate(_FLAGS):
            states[f"firmware: {name}"] = bits >> place & 1
            counters[f"firmware: {name}"] = bits >> (16 + place) & 1
    return Throttling(counters=counters, states=states)
