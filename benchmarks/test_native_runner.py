"""The C++ program beside the Python one: whole processes, the same film, the same rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_native import native_program
from perf_children import ran, script
from perf_models import Made
from perf_ratios import ratio, rounds
from pytest_benchmark.fixture import BenchmarkFixture

from vad_runtime.sinks.rows import read_rows


def test_the_same_film_in_cpp_and_in_python(
    benchmark: BenchmarkFixture,
    board: Any,
    made_of: Callable[[str], Made],
    film: Path,
    tmp_path: Path,
    full: bool,
) -> None:
    program = native_program("vad-run-cpp")
    words = ran(program, "--version").output
    for part in ("openvino", "ffmpeg"):
        if part not in words:
            pytest.skip(f"vad-run-cpp was built without {part}")
    benchmark.group = "whole process, STAE int8, 320 x 240 film: both programs in turn"
    made = made_of("stae" if full else "stae_twin")
    outs = {name: tmp_path / name for name in ("C++", "Python")}
    common = ["--backend", "openvino", "--precision", "int8", "--overwrite", "-o"]
    commands: dict[str, list[str | Path]] = {
        "C++": [program, *common, outs["C++"]],
        "Python": [
            script("vad-run"),
            "watch",
            "--no-overlay",
            "--no-plot",
            *common,
            outs["Python"],
        ],
    }
    calls = {
        name: (lambda words=words: ran(*words, made.bundle.path, film))
        for name, words in commands.items()
    }
    held: dict[str, Any] = {}
    count = 5 if full else 1
    benchmark.pedantic(
        lambda: held.update(rounds(calls, count=count, warm_up=1 if full else 0)), rounds=1
    )
    ours, theirs = (read_rows(out / "scores.csv") for out in outs.values())
    assert len(ours) == len(theirs) > 0
    assert [row.status for row in ours] == [row.status for row in theirs]
    # Two builds of OpenVINO and two of FFmpeg may take part.
    scores = [[row.raw or 0.0 for row in rows] for rows in (ours, theirs)]
    np.testing.assert_allclose(*scores, rtol=0.02)
    faster = ratio(held["Python"].wall_ms, held["C++"].wall_ms)
    rows = [[name, float(np.median(one.wall_ms)) / 1e3] for name, one in held.items()]
    rows[0].append(str(faster))
    rows[1].append("1")
    head = ["program", "s", f"x Python ({faster.kind})"]
    board.table(f"{made.model.name}: a film from start to end of the process", head, rows)
