"""Spoiled manifests, site files, videos, databases: each is read or refused in one line."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz_inputs.py"


def fuzz(*options: str, planted: bool = False) -> "subprocess.CompletedProcess[str]":
    """Run the script; it needs the helpers of these tests and finds them itself."""
    return subprocess.run(
        [sys.executable, SCRIPT, *options],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"VAD_FUZZ_PLANTED": "1" if planted else "0"},
    )


def test_two_hundred_spoiled_inputs_give_no_traceback_no_hang_and_no_crash() -> None:
    done = fuzz("--cases", "200", "--seed", "ci")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert "200 cases in" in done.stdout
    # Whatever was spoiled, some of it could still be read and some not: both ways are taken.
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    for target in ("manifest", "site", "video"):
        _, cases, read, refused, found, *_ = rows[target]
        assert int(cases) >= 30
        assert int(read) > 0
        assert int(refused) > 0
        assert int(found) == 0


def test_the_search_finds_what_was_planted() -> None:
    """Otherwise the test above could not fail."""
    names = "traceback wordless hang crash debris chatter thread".split()  # noqa: SIM905
    chosen = [word for name in names for word in ("--target", f"planted-{name}")]
    done = fuzz("--cases", str(len(names)), "--timeout", "4", *chosen, planted=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{len(names)} findings" in done.stdout
    for words in (
        "planted-traceback:0  KeyError at",
        "planted-wordless:0  no good line: an empty message",
        "planted-hang:0  hangs for more than 4 s",
        "planted-crash:0  the process crashed (SIGSEGV)",
        "planted-debris:0  left behind: debris",
        "planted-chatter:0  chatter on stderr",
        "planted-thread:0  a thread goes on",
        "--seed 0 --only planted-crash:0",  # how to see it again
    ):
        assert words in done.stdout
