"""The engine's GPU as NVIDIA's driver tells of it: energy, clocks, and what holds them back.

CUDA and the driver's management library (NVML) count GPUs in orders of their own, which
CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER change for one of them alone. Both know the place on the
PCI bus, so that is how the engine's GPU is found; what its neighbours do is none of our business.
"""

import ctypes
import re
import statistics
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from vad_runtime.bench.sensors import AbsentError, Integral, SensorError, Unwrapped
from vad_runtime.contracts.errors import BackendError

NVML = "libnvidia-ml.so.1"
_EVERY_S = 0.2
_SM_CLOCK = 1
_LEAST_SHARE = 0.05
"""A clock that is held back for less of the time than this spoils no percentile but the last."""

_REASONS = {
    0x04: "power limit",
    0x08: "hardware slowdown",
    0x20: "heat (driver)",
    0x40: "heat (hardware)",
    0x80: "external power brake",
}
"""What takes a GPU's clock down against its owner's wish. Bits from nvml.h; not among them are an
idle GPU, clocks that were set by hand, and what a display asks for."""


def gpu_index(device: str) -> int | None:
    """Return CUDA's number of the GPU in a back end's `device`; None = it computes on none.

    >>> gpu_index("tensorrt 10.3 on cuda:1 (Orin, SM 87), fp16")
    1
    """
    match = re.search(r"\bon cuda:(\d+)", device)
    return int(match[1]) if match else None


def pci_bus_id(index: int) -> str | None:
    """Return where on the PCI bus CUDA's GPU of this number is; None = the driver does not tell."""
    from vad_runtime.cuda.driver import library

    try:
        cuda = library()
        device, text = ctypes.c_int(), ctypes.create_string_buffer(32)
        code = cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), index)
        code = code or cuda.cuDeviceGetPCIBusId(text, len(text), device)
    except (BackendError, AttributeError):
        return None
    return None if code else text.value.decode(errors="replace")


class Board:
    """A GPU's board, opened in NVML."""

    def __init__(self, library: Any, handle: ctypes.c_void_p, name: str) -> None:
        self._library, self._handle = library, handle
        text = ctypes.create_string_buffer(128)
        named = not library.nvmlDeviceGetName(handle, text, ctypes.c_uint(128))
        words = text.value.decode(errors="replace")
        self.name = name + (f" ({words})" if named else "")

    def value(self, call: str, *arguments: int, wide: bool = False) -> int | None:
        """Ask for one number; None = this driver or this GPU does not tell it.

        Args:
            call: Name of the function, whose last parameter is where it writes.
            arguments: What stands between the GPU and that.
            wide: The number has 64 bits.
        """
        # A library that is older than a function has no such symbol.
        function = getattr(self._library, call, None)
        found: Any = ctypes.c_ulonglong() if wide else ctypes.c_uint()
        if function is None:
            return None
        code = function(self._handle, *map(ctypes.c_uint, arguments), ctypes.byref(found))
        return None if code else int(found.value)

    def clock_mhz(self) -> int | None:
        """Return the clock of its processors now."""
        return self.value("nvmlDeviceGetClockInfo", _SM_CLOCK)

    def highest_mhz(self) -> int | None:
        """Return the highest clock that its processors can have."""
        return self.value("nvmlDeviceGetMaxClockInfo", _SM_CLOCK)

    def held_back(self) -> list[str] | None:
        """Return what holds its clocks back now."""
        bits = self.value("nvmlDeviceGetCurrentClocksEventReasons", wide=True)
        if bits is None:  # until driver 535 it had this name
            bits = self.value("nvmlDeviceGetCurrentClocksThrottleReasons", wide=True)
        return None if bits is None else [name for bit, name in _REASONS.items() if bits & bit]


def board_of(index: int | None, library: str = NVML) -> Board:
    """Open the GPU that the engine computes on.

    Args:
        index: CUDA's number of it; None = the engine computes on no GPU of NVIDIA.
        library: Name or path of NVML.

    Raises:
        AbsentError: There is none.
        SensorError: The driver does not open it.
    """
    if index is None:
        raise AbsentError("the engine computes on no GPU of NVIDIA")
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        raise AbsentError(f"there is no {Path(library).name}, which NVIDIA's driver has") from None
    handle, count = ctypes.c_void_p(), ctypes.c_uint()
    try:
        code = nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        if code or not count.value:
            why = f"NVML error {code}" if code else "it has no GPU"
            raise SensorError(f"the NVIDIA driver does not answer ({why})")
        place = pci_bus_id(index)
        if place is not None:
            by_place = nvml.nvmlDeviceGetHandleByPciBusId_v2
            if not by_place(place.encode(), ctypes.byref(handle)):
                return Board(nvml, handle, f"NVML GPU {place}")
        # The GPU of a Jetson is on no such bus. With one GPU there is none to take it for.
        if count.value > 1:
            raise SensorError(
                f"which of the {count.value} GPUs of the driver is cuda:{index} is not known"
            )
        if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(0), ctypes.byref(handle)):
            raise SensorError("the driver does not open its GPU")
        return Board(nvml, handle, "NVML GPU 0")
    except AttributeError as error:
        raise SensorError(f"{Path(library).name} is too old or a stub ({error})") from None


class BoardEnergy:
    """What a GPU's board takes, as a sensor: joules where it counts them, otherwise its watts."""

    def __init__(self, board: Board) -> None:
        self.name = board.name
        self._board = board
        self._counts = self._millijoules() is not None  # Volta and newer
        self._counter, self._integral = Unwrapped(0), Integral()

    def _millijoules(self) -> int | None:
        return self._board.value("nvmlDeviceGetTotalEnergyConsumption", wide=True)

    def joules(self) -> float:
        """See `Sensor.joules`."""
        if self._counts:
            energy = self._millijoules()
            if energy is None:
                raise SensorError("the driver counts this GPU's energy no more")
            return self._counter.add(energy) / 1e3
        milliwatts = self._board.value("nvmlDeviceGetPowerUsage")
        if milliwatts is None:
            raise SensorError("the driver tells no power of this GPU")
        return self._integral.add(milliwatts / 1e3)

    def close(self) -> None:
        """See `Sensor.close`."""


class BoardWatch:
    """Looks at a GPU's clock five times a second, from a thread.

    Not only before and behind: a clock that is held back rises within milliseconds of the last
    clip, and an idle GPU lowers its own.

    Args:
        board: The engine's.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._clocks: list[int] = []
        self._reasons: Counter[str] = Counter()
        self._told = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vad-gpu-clock", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self.look()

    def look(self) -> None:
        """Take the clock of this moment."""
        clock, reasons = self._board.clock_mhz(), self._board.held_back()
        if clock is not None:
            self._clocks.append(clock)
        if reasons is not None:
            self._told += 1
            self._reasons.update(reasons)

    def close(self) -> None:
        """Stop looking. A second call does nothing."""
        self._stop.set()
        self._thread.join()

    def report(self) -> dict[str, Any]:
        """Stop, and return the clocks and the share of the time for each thing that held them."""
        self.close()
        clocks = sorted(self._clocks)
        return {
            "name": self._board.name,
            "highest_mhz": self._board.highest_mhz(),
            "median_mhz": statistics.median(clocks) if clocks else None,
            "lowest_mhz": clocks[0] if clocks else None,
            "looks": max(len(clocks), self._told),
            "held_back": None
            if not self._told
            else {name: count / self._told for name, count in self._reasons.items()},
        }


def gpu_warnings(gpu: dict[str, Any]) -> list[str]:
    """Return a line for what held a GPU's clock back for long enough to spoil figures."""
    shares = {
        name: share for name, share in (gpu["held_back"] or {}).items() if share >= _LEAST_SHARE
    }
    if not shares:
        return []
    what = ", ".join(f"{name} for {share:.0%} of the time" for name, share in shares.items())
    return [f"the GPU's clock was held back: {what}. Cool it, or raise its limit of power"]
