"""What can be said about deploy/Dockerfile.* without Docker."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from helpers_documents import ROOT, blocks_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILES = sorted((ROOT / "deploy").glob("Dockerfile.*"))
NAMES = [file.name for file in FILES]


def instructions(file: Path) -> Iterator[tuple[str, str]]:
    """Yield each instruction of a Dockerfile and its text, continued lines joined."""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word, rest.strip()


def texts(name: str, word: str) -> list[str]:
    return [text for found, text in instructions(ROOT / "deploy" / name) if found == word]


def copied(name: str) -> list[str]:
    """What is copied out of the tree; not what another stage has."""
    found = [shlex.split(text) for text in texts(name, "COPY")]
    return [part for parts in found if not parts[0].startswith("--from") for part in parts[:-1]]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path from the daemon; the last rule that fits counts."""
    result = False
    for rule in (ROOT / ".dockerignore").read_text().splitlines():
        if rule and not rule.startswith("#"):
            pattern = rule.removeprefix("!")
            parts = Path(path).parts
            # `**/x` is x at any depth; a rule for a folder holds for what is in it.
            above = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
            names = parts if pattern.startswith("**/") else above
            if any(fnmatch(name, pattern.removeprefix("**/")) for name in names):
                result = not rule.startswith("!")
    return result


def test_there_is_one_for_each_kind_of_machine() -> None:
    assert NAMES == ["Dockerfile.cpu", "Dockerfile.gpu", "Dockerfile.jetson"]


@pytest.mark.parametrize("name", NAMES)
def test_bases_come_by_argument(name: str) -> None:
    found = list(instructions(ROOT / "deploy" / name))
    assert found[0][0] == "ARG"
    assert found[0][1].split("=")[0] == "BASE"
    assert {text.split(" AS ")[0] for text in texts(name, "FROM")} == {"${BASE}"}


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_is_an_argument_of_its_stage_or_set_there(name: str) -> None:
    known = {"BASE", "PATH"}
    for word, text in instructions(ROOT / "deploy" / name):
        if word == "FROM":
            known = {"BASE", "PATH"}
        elif word in ("ARG", "ENV"):
            known.add(text.split("=")[0])
        assert set(re.findall(r"\$\{(\w+)\}", text)) <= known, text


@pytest.mark.parametrize("name", NAMES)
def test_what_is_copied_is_there_and_reaches_the_daemon(name: str) -> None:
    assert copied(name)
    for path in copied(name):
        assert (ROOT / path).exists(), path
        assert not ignored(path), path


def test_built_files_and_foreign_folders_stay_out_of_the_images() -> None:
    kept_out = [".venv", "build", ".git", "tests", "site.vad", "runtime/vad_runtime/__pycache__"]
    kept_out.append("runtime/vad_runtime/_native.cpython-311-x86_64-linux-gnu.so")
    assert [path for path in kept_out if not ignored(path)] == []
    assert not ignored("runtime/vad_runtime/cli.py")


def test_all_images_make_the_wheel_of_the_same_files() -> None:
    assert len({tuple(sorted(copied(name))) for name in NAMES}) == 1


@pytest.mark.slow
def test_what_is_copied_suffices_for_the_wheel(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    for path in copied("Dockerfile.cpu"):
        if (ROOT / path).is_dir():
            junk = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(ROOT / path, context / path, ignore=junk)
        else:
            shutil.copy(ROOT / path, context / path)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--config-settings=wheel.cmake=false", "--wheel-dir", str(tmp_path), str(context)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.glob("vad_edge-*.whl"))


@pytest.mark.parametrize("name", NAMES)
def test_the_extras_exist(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = [t.partition("=")[2] for t in texts(name, "ARG") if t.startswith("EXTRAS")]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    # Both are imported as onnxruntime, so one image must not have both.
    assert not {"gpu", "onnxruntime"} <= set(extras.split(","))


@pytest.mark.parametrize("name", NAMES)
def test_what_an_image_runs_is_run_in_the_tests_of_the_documents(name: str) -> None:
    (program,) = [json.loads(text) for text in texts(name, "ENTRYPOINT")]
    (arguments,) = [json.loads(text) for text in texts(name, "CMD")]
    started = " ".join([*program, *arguments])
    documents = [path.relative_to(ROOT) for path in ROOT.glob("docs/*.md")]
    run = [block.text for path in documents for block in blocks_of(path) if block.reason is None]
    assert any(re.search(rf"^{re.escape(started)}\b", text, re.MULTILINE) for text in run), started


def test_commands_that_the_page_shows_are_run_elsewhere() -> None:
    (block,) = blocks_of(Path("deploy/README.md"))
    commands = r"(?:vad-edge:\w+|^ +)\s*(watch|build-engine|site)\b"
    shown = set(re.findall(commands, block.text, re.M))
    assert shown == {"watch", "build-engine", "site"}
    documents = [path.relative_to(ROOT) for path in ROOT.glob("docs/*.md")]
    run = "\n".join(b.text for path in documents for b in blocks_of(path) if b.reason is None)
    for command in shown:
        assert re.search(rf"^vad-(run|export) {command}\b", run, re.MULTILINE), command
