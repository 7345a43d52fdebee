"""Importing the runtime costs NumPy and no more, and building engines needs no ONNX package."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "onnx", "cv2", "av", "openvino", "onnxruntime", "matplotlib", "cuda", "pycuda"}
NOT_ON_A_DEVICE = ["torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "scipy"]
"""What the machine that builds an engine may lack."""


def heavy(modules: str) -> set[str]:
    """The heavy libraries among the names that a process has imported."""
    names = set(modules.split())
    return HEAVY & names | {name for name in names if name.startswith("tensorrt")}


@pytest.mark.parametrize(
    "module",
    [
        "vad_runtime",
        "vad_runtime.cli",
        "vad_runtime.cuda.driver",
        "vad_runtime.engines.fit",
        "vad_export.cli",
    ],
)
def test_importing_a_command_imports_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert heavy(done.stdout) == set()


def test_the_help_of_vad_run_imports_no_command() -> None:
    code = (
        "import sys\n"
        "from vad_runtime.cli import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "print('MODULES', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text, _, modules = done.stdout.partition("MODULES")
    assert "score" in text
    assert "numpy" not in modules.split()
    assert not [name for name in modules.split() if name.endswith("_commands")]


def test_every_command_of_vad_run_is_where_its_table_says() -> None:
    from vad_runtime.cli import cli

    for name in cli.commands:
        context = click.Context(cli, info_name="vad-run")
        _, command, _ = cli.resolve_command(context, [name])
        assert command is not None
        assert command.name == name
        assert command.callback is not None


def test_everything_that_builds_engines_can_be_imported_without_onnx_and_torch() -> None:
    folder = ROOT / "export" / "vad_export"
    modules = [
        ".".join(path.relative_to(folder.parent).with_suffix("").parts)
        for path in sorted((folder / "engine").glob("*.py"))
    ]
    modules += [f"vad_export.commands.{name}" for name in ("build_engine", "inspect")]
    code = (
        "import importlib, sys\n"
        f"for name in {NOT_ON_A_DEVICE}: sys.modules[name] = None\n"
        f"for name in {modules}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_one_module_knows_the_native_one() -> None:
    # import-linter cannot tell: it sees Python files, and this module is none.
    package = ROOT / "runtime" / "vad_runtime"
    native = re.compile(r"^\s*(from|import)\s.*\b_native\b", re.MULTILINE)
    for_types = re.compile(r"^if TYPE_CHECKING:\n(    .*\n)+", re.MULTILINE)
    assert [
        path.relative_to(package).as_posix()
        for path in sorted(package.rglob("*.py"))
        if native.search(for_types.sub("", path.read_text(encoding="utf-8")))
    ] == ["native.py"]
