"""Commands in processes of their own: how long they take, and the memory that they had at most."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# The kernel's own figure for a child (`ru_maxrss`) holds what its parent had at the fork.
_WRAPPED = """
import sys
from pathlib import Path
from vad_runtime.cli import main
note = Path(sys.argv[1])
sys.argv = ["vad-run", *sys.argv[2:]]
try:
    main()
finally:
    status = dict(x.split(":", 1) for x in Path("/proc/self/status").read_text().splitlines())
    modules = [m for m in ("torch", "onnx", "matplotlib") if m in sys.modules]
    note.write_text(status["VmHWM"].split()[0] + " " + " ".join(modules))
"""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A command that went well."""

    wall_s: float
    output: str


def ran(*command: str | Path) -> Ran:
    """Run a command; its output and how long it took.

    Raises:
        AssertionError: It failed; the message is what it said.
    """
    begun = time.perf_counter()
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    wall_s = time.perf_counter() - begun
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return Ran(wall_s=wall_s, output=done.stdout)


def vad_run(*arguments: str | Path) -> Ran:
    """Run `vad-run`, as the console script does."""
    return ran(script("vad-run"), *arguments)


def script(name: str) -> Path:
    """Return the console script beside this Python."""
    return Path(sys.executable).with_name(name)


def peak_memory(folder: Path, *arguments: str | Path) -> tuple[float, list[str]]:
    """Run `vad-run`; the memory that it held at most, MB, and which large packages it imported."""
    note = folder / "memory.txt"
    ran(sys.executable, "-c", _WRAPPED, note, *arguments)
    kilobytes, *modules = note.read_text().split()
    return int(kilobytes) * 1024 / 1e6, modules
