"""The memory that `vad-run watch` holds at most, in a process of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from perf_children import peak_memory
from perf_models import Made
from perf_targets import MEMORY_MB, Target
from pytest_benchmark.fixture import BenchmarkFixture

from vad_runtime.sinks.rows import read_rows


@pytest.mark.parametrize("key", ["stae", "c3d"])
def test_memory_of_watch(
    benchmark: BenchmarkFixture,
    board: Any,
    made_of: Callable[[str], Made],
    film: Path,
    tmp_path: Path,
    full: bool,
    key: str,
) -> None:
    benchmark.group = "vad-run watch of a 320 x 240 film, int8, whole process"
    if not full and key == "c3d":
        pytest.skip("the twin was run already")
    made = made_of(key if full else "stae_twin")
    words = ["watch", made.bundle.path, film, "-o", tmp_path / "out", "--overwrite"]
    words += ["--precision", "int8", "--backend", "openvino", "--no-overlay", "--no-plot"]
    seen: list[tuple[float, list[str]]] = []
    benchmark.pedantic(lambda: seen.append(peak_memory(tmp_path, *words)), rounds=2 if full else 1)
    rows = read_rows(tmp_path / "out" / "scores.csv")
    assert rows
    assert any(row.status == "scored" for row in rows)
    most_mb = max(mb for mb, _ in seen)
    # Less would be no Python, NumPy, FFmpeg and OpenVINO.
    assert most_mb > 40
    assert not any(modules for _, modules in seen), seen
    board.data(memory_mb=most_mb)
    if full:
        board.target(
            Target(
                name=f"{made.model.name}: most memory of vad-run watch",
                value=most_mb,
                wanted=MEMORY_MB[key],
                sense="most",
                unit=" MB",
            )
        )
