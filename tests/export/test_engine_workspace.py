"""How much scratch memory a build gets, and what happens when it was too little."""

import subprocess
import sys

import pytest
from helpers import assert_one_line
from helpers_plans import gpu

from vad_export.engine import workspace
from vad_export.engine.workspace import (
    LEAST,
    MIB,
    Memory,
    default_workspace,
    memory_for,
    second_workspace,
    workspace_bytes,
)
from vad_runtime.contracts import BackendError

GIB = 1 << 30


def memory(free: int, *, shared: bool = False, on_gpu: bool = True) -> Memory:
    return Memory(free_bytes=free, shared=shared, on_gpu=on_gpu, place="of the test")


def test_a_gpu_gives_half_and_a_jetson_a_quarter() -> None:
    assert default_workspace(memory(16 * GIB)) == 8 * GIB
    assert default_workspace(memory(16 * GIB, shared=True)) == 4 * GIB


def test_a_little_more_or_less_free_memory_gives_the_same_workspace() -> None:
    sizes = {default_workspace(memory(5 * GIB + more)) for more in range(0, GIB, 100 * MIB)}
    assert sizes == {2 * GIB}
    assert default_workspace(memory(60 * GIB, on_gpu=False)) == 4 * GIB
    assert default_workspace(memory(20 * GIB, on_gpu=False)) == 4 * GIB


def test_a_wish_is_kept_where_it_fits_and_cut_with_a_word_where_it_does_not() -> None:
    said: list[str] = []
    assert workspace_bytes(3 * GIB, memory(4 * GIB), said.append) == 3 * GIB
    assert said == []
    assert workspace_bytes(6 * GIB, memory(4 * GIB), said.append) == 4 * GIB
    assert len(said) == 1
    assert "6144 MiB" in said[0]
    assert "4096 MiB" in said[0]


def test_without_memory_nothing_is_built() -> None:
    with pytest.raises(BackendError) as error:
        workspace_bytes(None, memory(1000), lambda _: None)
    assert_one_line(error.value, "1000 bytes", "nvidia-smi")


@pytest.mark.parametrize(
    ("limit", "lines", "free", "expected"),
    [
        (GIB, ["OutOfMemory (Requested size was 2147483648 bytes.)"], 4 * GIB, 2 * GIB),
        (GIB, ["OutOfMemory (Requested size was 2147483648 bytes.)"], GIB, None),
        (4 * GIB, ["OutOfMemory (Requested size was 4299351936 bytes.)"], 23 * GIB, 16 * GIB),
        (2 * GIB, ["OutOfMemory (Requested size was 1000 bytes.)"], 4 * GIB, GIB),
        (2 * GIB, ["cuda error: out of memory"], GIB, GIB // 2),
        (MIB, ["no tactics to implement the operation within workspace limit"], 4 * GIB, 2 * GIB),
        (2 * GIB, ["Could not find any implementation for node conv1"], 4 * GIB, GIB),
        (LEAST, ["out of memory"], 4 * GIB, None),
        (GIB, ["No importer registered for op: Foo"], 4 * GIB, None),
        (GIB, [], 4 * GIB, None),
    ],
)
def test_the_second_try_follows_what_tensorrt_logged(
    limit: int, lines: list[str], free: int, expected: int | None
) -> None:
    assert second_workspace(limit, lines, memory(free)) == expected


def test_free_memory_is_the_gpus_or_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "free_memory", lambda _: (3 * GIB, 8 * GIB))
    assert memory_for(gpu(integrated=False)) == Memory(
        free_bytes=3 * GIB, shared=False, on_gpu=True, place="of Orin"
    )
    assert memory_for(gpu(integrated=True)).shared
    here = memory_for(None)
    assert not here.on_gpu
    assert here.free_bytes > 10 * MIB


def test_the_peak_counts_from_its_start() -> None:
    # In a process of its own: one that has run other tests has freed memory to give.
    code = """
from vad_export.engine.workspace import PeakMemory
block = bytearray(b"1") * (300 << 20)
first = PeakMemory().peak_bytes
del block
peak = PeakMemory()
before = peak.peak_bytes
block = bytearray(b"1") * (96 << 20)
print(first - before >> 20, peak.peak_bytes - before >> 20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fell, rose = map(int, done.stdout.split())
    assert fell > 250
    assert 80 < rose < 150
