"""`scripts/demo` in its shortened form does what it says and prints where to look.

The script calls `scripts/install`, which does nothing where this environment is up to date. Where
it has never run, for example in an environment that was made by hand, these tests would install
another one behind the back of whoever runs them, so they skip.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import decoded_count, moving_blob, write_video

ROOT = Path(__file__).parents[2]
STAMP = ROOT / ".venv" / "vad-edge-install.stamp"

installed = pytest.mark.skipif(
    not STAMP.is_file() or Path(sys.prefix).resolve() != (ROOT / ".venv").resolve(),
    reason="this environment was not made by scripts/install; run it, then .venv/bin/pytest",
)


def demo(room: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run the script from another folder, as a user may."""
    return subprocess.run(
        [ROOT / "scripts" / "demo", *map(str, arguments)],
        cwd=room,
        env=os.environ | {"VAD_DEMO_DIR": str(room / "demo")},
        capture_output=True,
        text=True,
        timeout=900,
    )


def assert_named_paths_exist(said: str, room: Path) -> None:
    """Assert that the last lines name picture, overlay, report and bundle, and that these exist."""
    named = dict(re.findall(r"^  (picture|overlay|report|bundle)\s+(\S.*)$", said, re.MULTILINE))
    assert set(named) == {"picture", "overlay", "report", "bundle"}, said
    for path in named.values():
        assert Path(path).exists()
        assert Path(path).is_relative_to(room)
    frames = json.loads(Path(named["report"]).read_text())["frames"]
    assert decoded_count(Path(named["overlay"])) == frames > 0


@installed
@pytest.mark.slow
def test_the_small_demo_ends_with_an_auc_and_the_paths_of_its_results(tmp_path: Path) -> None:
    done = demo(tmp_path, "--small")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for column in ("causal", "offline"):
        (micro,) = re.findall(rf"^{column}\s+micro AUC (\d\.\d+)", done.stdout, re.MULTILINE)
        assert 0 <= float(micro) <= 1
    assert_named_paths_exist(done.stdout, tmp_path / "demo")


@installed
@pytest.mark.slow
def test_the_small_demo_takes_footage_of_ones_own(tmp_path: Path) -> None:
    # With a space in its name, as such files have; a fifth of it is held back for the threshold.
    video = write_video(tmp_path / "my site.mp4", moving_blob(640))
    done = demo(tmp_path, "--small", "--video", video)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_named_paths_exist(done.stdout, tmp_path / "demo")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--colour"], "--colour"),
        (["--video"], "--video"),
        (["--video", "missing.mp4"], "missing.mp4"),
    ],
)
def test_a_wrong_option_of_the_demo_is_said_in_one_line(
    tmp_path: Path, arguments: list[str], word: str
) -> None:
    done = demo(tmp_path, *arguments)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert word in line
    assert done.stdout == ""
    assert not (tmp_path / "demo").exists()


def test_the_demo_explains_itself(tmp_path: Path) -> None:
    done = demo(tmp_path, "--help")
    assert done.returncode == 0
    assert "--small" in done.stdout
    assert "--video" in done.stdout
    assert not (tmp_path / "demo").exists()
