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
    words += ["--precision", "int8", "--backend", "openvino", "--no-overlay"]
    seen: list[tuple[float, list[str]]] = []
    bare: list[tuple[float, list[str]]] = []

    def measure() -> None:
        bare.append(peak_memory(tmp_path, *words, "--no-plot"))
        seen.append(peak_memory(tmp_path, *words))

    benchmark.pedantic(measure, rounds=2 if full else 1)
    assert (tmp_path / "out" / "scores.png").exists()
    rows = read_rows(tmp_path / "out" / "scores.csv")
    assert rows
    assert any(row.status == "scored" for row in rows)
    most_mb, bare_mb = (max(mb for mb, _ in found) for found in (seen, bare))
    # Less would be no Python, NumPy, FFmpeg and OpenVINO.
    assert min(most_mb, bare_mb) > 40
    assert not any({"torch", "onnx"} & set(modules) for _, modules in seen), seen
    assert not any(modules for _, modules in bare), bare
    board.table(
        f"{made.model.name} int8: vad-run watch without a film of its own",
        ["what is written", "most memory, MB"],
        [["as it is by default, scores.png too", most_mb], ["with --no-plot", bare_mb]],
    )
    board.data(memory_mb=most_mb, memory_no_plot_mb=bare_mb)
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
