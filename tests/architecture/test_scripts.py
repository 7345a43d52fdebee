"""scripts/test runs what it should, in the right order: on stand-ins of the tools it calls."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers_order import put_slow_files_first

ROOT = Path(__file__).parents[2]
STAND_IN = """#!/usr/bin/env bash
echo "$$ ${0##*/} $*" >> "$LOG"
set -f  # the patterns are for calls, not for files
for pattern in $FAILS; do
  case "${0##*/} $*" in $pattern)
    until [[ -z $AFTER ]] || grep -q -e "$AFTER" "$LOG"; do sleep 0.05; done
    echo "stand-in fails"
    exit 3 ;;
  esac
done
for pattern in $WAITS; do
  case "${0##*/} $*" in $pattern) exec sleep 300 ;; esac
done
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with the real script and stand-ins of all that it calls. Each test has its own."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "test", tmp_path / "scripts")
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    names = ("cmake", "ctest", "python", "c++")
    for tool in (
        *(folder / n for n in names),
        *(tmp_path / "scripts" / n for n in ("install", "check")),
    ):
        tool.write_text(STAND_IN)
        tool.chmod(0o755)
    return tmp_path


def started(
    tree: Path, *, presets: str, fails: str = "none", waits: str = "none", after: str = ""
) -> "subprocess.Popen[str]":
    """Start the script in a group of its own; `fails` and `waits` are patterns of calls that do.

    What fails does so after the call `after`.
    """
    more = {"LOG": str(tree / "log"), "VAD_TEST_PRESETS": presets, "AFTER": after}
    path = f"{tree}/.venv/bin{os.pathsep}{os.environ['PATH']}"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("VAD_") and k != "CXX"}
    return subprocess.Popen(
        [tree / "scripts" / "test"],
        env={**clean, **more, "FAILS": fails, "WAITS": waits, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def calls(tree: Path) -> list[str]:
    """What was called so far, each as `PID TOOL ARGUMENTS`."""
    log = tree / "log"
    return log.read_text().splitlines() if log.exists() else []


def process_of(tree: Path, call: str) -> int:
    """Wait for a call and return its process."""
    for _ in range(600):
        for line in calls(tree):
            if call in line:
                return int(line.split()[0])
        time.sleep(0.05)
    raise AssertionError(f"{call} was not called: {calls(tree)}")


def assert_ended(process: int) -> None:
    """Assert that a process is gone, or goes within seconds."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    raise AssertionError(f"process {process} was left behind")


def test_builds_that_tests_in_python_use_are_made_before_them(tree: Path) -> None:
    run = started(tree, presets="dev dev-asan cross-arm")
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 0, said
    order = [line.partition(" ")[2] for line in calls(tree)]
    pytest_at = next(i for i, call in enumerate(order) if "pytest -n" in call)
    for preset in ("dev", "dev-asan"):
        assert order.index(f"ctest --preset {preset}") < pytest_at
    assert "ctest --preset cross-arm" in order
    assert "== ctest --preset cross-arm" in said  # its words are shown too
    assert "All passed" in said


def test_a_build_beside_the_tests_that_fails_fails_the_run(tree: Path) -> None:
    run = started(tree, presets="dev cross-arm", fails="ctest*cross-arm")
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "stand-in fails" in said
    assert said.splitlines()[-1].startswith("Not in order: the C++ builds")
    assert "All passed" not in said


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("end", ["a test fails", "interrupted"])
def test_a_run_that_ends_early_leaves_no_compiler_behind(tree: Path, end: str) -> None:
    fails, waits = ("python*pytest*", "cmake*--build*cross-arm")
    if end == "interrupted":
        fails, waits = ("none", "cmake*--build*cross-arm check*")
    building = "cmake --build --preset cross-arm"
    run = started(tree, presets="dev cross-arm", fails=fails, waits=waits, after=building)
    compiler = process_of(tree, building)
    if end == "interrupted":
        process_of(tree, "check")
        os.killpg(run.pid, signal.SIGTERM)  # as a terminal does it, and CI
    run.communicate(timeout=60)
    assert run.returncode != 0
    assert_ended(compiler)


class _Item:
    """As much of a test as its place needs."""

    def __init__(self, path: str, name: str, *, slow: bool = False) -> None:
        self.path, self.name, self.slow = Path(path), name, slow

    def get_closest_marker(self, name: str) -> object:
        return name if self.slow and name == "slow" else None


def test_files_with_slow_tests_come_first_and_keep_their_own_order() -> None:
    items = [
        _Item("a.py", "1"),
        _Item("b.py", "2", slow=True),
        _Item("c.py", "3"),
        _Item("c.py", "4", slow=True),
        _Item("c.py", "5", slow=True),
        _Item("a.py", "6"),
    ]
    put_slow_files_first(items)  # type: ignore[arg-type]
    assert [item.name for item in items] == ["3", "4", "5", "2", "1", "6"]
