"""Plans appear whole with their sidecars, or not at all."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import assert_one_line
from helpers_engine_bundle import names_in
from helpers_plans import classic_plan, engine_sidecar

from vad_export.engine.store import remove_leftovers, require_free_plan, write_plan
from vad_runtime.contracts import EngineSidecar, ExportError, InputError
from vad_runtime.engines.plan_file import read_sidecar, sidecar_path

PLAN = classic_plan(length=40 << 20)
"""Longer than two blocks."""


def sidecar(sha256: str) -> EngineSidecar:
    return engine_sidecar(PLAN, sha256=sha256)


def test_the_plan_is_written_as_it_is_with_its_hash(tmp_path: Path) -> None:
    plan = tmp_path / "model.engine"
    about = write_plan(plan, memoryview(PLAN), sidecar, overwrite=False)
    assert plan.read_bytes() == PLAN
    assert about.sha256 == hashlib.sha256(PLAN).hexdigest()
    assert read_sidecar(plan) == about
    assert names_in(tmp_path) == ["model.engine", "model.engine.json"]


def test_the_sidecar_gets_its_name_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    rename = Path.replace

    def note(self: Path, target: Path) -> Path:
        order.append(target.name)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", note)
    write_plan(tmp_path / "a.engine", memoryview(classic_plan()), sidecar, overwrite=False)
    assert order == ["a.engine.json", "a.engine"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    plan = tmp_path / "model.engine"
    write_plan(plan, memoryview(classic_plan()), sidecar, overwrite=False)
    before = plan.read_bytes(), sidecar_path(plan).read_bytes()

    def broken(_: str) -> EngineSidecar:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_plan(plan, memoryview(PLAN), broken, overwrite=True)
    with pytest.raises(ExportError):
        write_plan(plan, memoryview(PLAN), sidecar, overwrite=False)
    assert (plan.read_bytes(), sidecar_path(plan).read_bytes()) == before
    assert names_in(tmp_path) == ["model.engine", "model.engine.json"]


def test_a_taken_name_is_refused_also_where_it_is_a_broken_link(tmp_path: Path) -> None:
    link = tmp_path / "model.engine"
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(ExportError) as error:
        require_free_plan(link, overwrite=False)
    assert_one_line(error.value, "model.engine", "--overwrite")
    require_free_plan(link, overwrite=True)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from helpers_plans import classic_plan, engine_sidecar\n"
        "from vad_export.engine.store import write_plan\n"
        "from vad_runtime.contracts import InputError\n"
        "plan = classic_plan(length=40 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20 << 20, 20 << 20))\n"
        "try:\n"
        "    write_plan(Path(sys.argv[1]), memoryview(plan), "
        "lambda _: engine_sidecar(plan), overwrite=False)\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    here = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.engine"), here],
        capture_output=True,
        text=True,
        check=True,
    )
    assert_one_line(InputError(done.stdout.strip()), "model.engine", "File too large", "41.9 MB")
    assert names_in(tmp_path) == []


def test_what_killed_builds_left_goes_and_what_running_ones_write_stays(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = [f".a.engine.{dead.pid}.part", f".a.engine.json.{dead.pid}.part"]
    kept = [
        f".a.engine.{os.getpid()}.part",
        f".b.engine.{os.getppid()}.part",
        f".notes.txt.{dead.pid}.part",
        ".a.engine.part",
        "a.engine",
    ]
    for name in gone + kept:
        (tmp_path / name).touch()
    assert sorted(file.name for file in remove_leftovers(tmp_path)) == sorted(gone)
    assert names_in(tmp_path) == sorted(kept)


def test_a_folder_that_went_during_the_build_is_made_again(tmp_path: Path) -> None:
    plan = tmp_path / "gone" / "model.engine"
    write_plan(plan, memoryview(classic_plan()), sidecar, overwrite=False)
    assert names_in(plan.parent) == ["model.engine", "model.engine.json"]
