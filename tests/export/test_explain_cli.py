import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers import assert_one_line

from vad_export.commands.explain import command
from vad_runtime.contracts import InputError

LOG = """\
[09/01/2025-10:00:00] [I] Engine loaded in 0.1 sec.
[09/01/2025-10:00:01] [E] Error[1]: [stdArchiveReader.cpp::validate] Version tag does not match.
[09/01/2025-10:00:01] [E] Error[6]: The engine plan file is not compatible
[09/01/2025-10:00:02] [E] CUDA error 35
"""


def explained(*arguments: str, given: str | bytes | None = None) -> Result:
    return CliRunner().invoke(command, list(arguments), input=given)


def test_known_lines_are_told_with_number_cause_and_remedy(tmp_path: Path) -> None:
    log = tmp_path / "trtexec.log"
    log.write_text(LOG)
    run = explained(str(log))
    assert run.exit_code == 0, run.output
    lines = run.output.splitlines()
    assert lines[0].startswith("line 2: ")
    assert "Version tag does not match" in lines[0]
    assert "another version of TensorRT" in lines[1]
    assert "vad-export build-engine" in lines[2]
    assert lines[3].startswith("line 4: ")


def test_a_log_comes_from_the_standard_input_too() -> None:
    run = explained("-", "--json", given=LOG)
    assert run.exit_code == 0, run.output
    found = json.loads(run.output)
    assert [entry["line"] for entry in found] == [2, 4]
    assert set(found[0]) == {"line", "name", "cause", "remedy"}


def test_a_log_with_nothing_known_is_an_error_that_says_so(tmp_path: Path) -> None:
    log = tmp_path / "calm.log"
    log.write_text("all is well\n")
    run = explained(str(log))
    assert isinstance(run.exception, InputError)
    assert_one_line(run.exception, str(log), "nothing known in it")


@pytest.mark.parametrize(
    ("content", "part"),
    [(None, "No such file"), (b"ftrt\0\0\0\0 cudaError 35", "no text")],
    ids=["missing", "a plan"],
)
def test_what_is_no_log_is_refused(content: bytes | None, part: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    if content is not None:
        log.write_bytes(content)
    run = explained(str(log))
    assert isinstance(run.exception, InputError)
    assert_one_line(run.exception, part)


def test_of_a_huge_log_the_end_is_read_and_lines_keep_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vad_export.commands.explain._MOST", 1000)
    log = tmp_path / "long.log"
    log.write_text("Version tag does not match\n" + "nothing\n" * 5000 + "CUDA error 35\n")
    assert [line for line in explained(str(log)).output.splitlines() if "line" in line] == [
        "line 5002: CUDA error 35"
    ]


def test_colours_of_a_terminal_are_not_printed_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\x1b[31mCUDA error 35\x1b[0m" + "x" * 500 + "\n")
    first = explained(str(log)).output.splitlines()[0]
    assert "\x1b" not in first
    assert len(first) < 200


def test_a_log_that_is_no_utf_8_is_read_all_the_same(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"caf\xe9 CUDA error 35\n")
    assert explained(str(log)).exit_code == 0
