"""Ctrl-C, SIGTERM and kill -9 on the installed `vad-run`: what they leave is whole."""

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import decoded_count, moving_blob, write_video

from vad_runtime.bundle import Bundle

BIN = Path(sys.executable).parent
PATIENCE_S = 120.0
FPS = 15

pytestmark = pytest.mark.usefixtures("ctrl_c")


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 seconds of video, more than any test here watches. Do not change."""
    return write_video(tmp_path_factory.mktemp("long") / "long.mp4", moving_blob(40 * FPS))


def stopped(
    arguments: list[str | Path], number: signal.Signals, when: Callable[[], bool]
) -> "subprocess.CompletedProcess[str]":
    """Start `vad-run`, send it a signal once `when` is true, and wait for its end."""
    child = subprocess.Popen(
        [BIN / "vad-run", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not when():
            if child.poll() is not None or time.monotonic() > deadline:
                child.kill()
                out, err = child.communicate()
                pytest.fail(f"ended before it could be interrupted: {child.returncode} {out}{err}")
            time.sleep(0.02)
        child.send_signal(number)
        out, err = child.communicate(timeout=PATIENCE_S)
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    return subprocess.CompletedProcess(child.args, child.returncode, out, err)


def row_count(file: Path) -> int:
    """Count the rows that a `scores.csv` has already, without its header."""
    return file.read_bytes().count(b"\n") - 1 if file.exists() else 0


def whole_rows(folder: Path) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """Return the rows of both tables after checking that each is complete."""
    text = (folder / "scores.csv").read_text()
    lines = (folder / "scores.jsonl").read_text()
    assert text.endswith("\n")
    assert lines.endswith("\n")
    table = list(csv.DictReader(text.splitlines(), strict=True))
    objects = [json.loads(line) for line in lines.splitlines()]
    for row in table:
        assert None not in row
        assert all(row[key] is not None for key in row)
        assert row["status"] in ("scored", "warm-up", "context")
        float(row["time_s"])
    for numbers in ([int(row["frame"]) for row in table], [row["frame"] for row in objects]):
        assert numbers == list(range(len(numbers)))
    return table, objects


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_watch_leaves_everything_complete_up_to_there(
    tiny_bundle: Bundle, long_video: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    done = stopped(
        ["watch", tiny_bundle.path, long_video, "-o", out, "--realtime", "--overlay"],
        number,
        lambda: row_count(out / "scores.csv") >= 20,
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.split() == ["Interrupted."]
    table, objects = whole_rows(out)
    assert 20 <= len(table) < 40 * FPS
    assert len(objects) == len(table)
    report = json.loads((out / "report.json").read_text())
    assert report["interrupted"] is True
    assert report["frames"] == len(table)
    assert report["frames"] == report["frames_scored"] + sum(report["frames_unscored"].values())
    assert decoded_count(out / "overlay.mp4") == len(table)
    assert sorted(file.name for file in out.iterdir()) == [
        "overlay.mp4",
        "report.json",
        "scores.csv",
        "scores.jsonl",
        "scores.png",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_score_leaves_nothing(
    tiny_bundle: Bundle, long_video: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    done = stopped(
        ["score", tiny_bundle.path, long_video, "-o", out, "--overlay"],
        number,
        lambda: out.is_dir() and any(file.stat().st_size > 0 for file in out.rglob("*overlay*")),
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.split() == ["Interrupted."]
    assert not out.exists() or not any(out.iterdir()), sorted(out.iterdir())


def test_a_killed_watch_leaves_whole_rows(
    tiny_bundle: Bundle, long_video: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = stopped(
        ["watch", tiny_bundle.path, long_video, "-o", out, "--realtime"],
        signal.SIGKILL,
        lambda: row_count(out / "scores.csv") >= 20,
    )
    assert done.returncode == -signal.SIGKILL
    table, objects = whole_rows(out)
    assert len(table) >= 20
    # The two tables are written one after the other.
    assert len(table) - len(objects) in (0, 1)
    assert not (out / "report.json").exists()
