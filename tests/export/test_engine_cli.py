"""`vad-export build-engine` as a command."""

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers import assert_one_line
from helpers_engine_bundle import engine_bundle, head_bundle, names_in
from helpers_fake_tensorrt import use_fake

from vad_export.cli import cli
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import VadError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return engine_bundle(tmp_path_factory.mktemp("bundle"))


def run(bundle: Bundle, *options: str) -> Result:
    return CliRunner().invoke(cli, ["build-engine", str(bundle.path), *options])


def test_several_precisions_are_built_in_one_go(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake(monkeypatch, "rtx1.7")
    options = ("--precision", "fp32", "--precision", "int8", "--precision", "fp32")
    done = run(bundle, *options, "--batch", "1,4", "--sm", "86,89", "-o", str(tmp_path))
    assert done.exit_code == 0, done.output
    stems = [f"model.b1-4.t8.32.{name}.rtx1.7.1.116.sm86-89.engine" for name in ("fp32", "int8")]
    assert names_in(tmp_path) == sorted([*stems, *(f"{name}.json" for name in stems)])
    lines = done.output.splitlines()
    assert lines[0] == f"building {stems[0]} with TensorRT-RTX 1.7.1.116, SM 86 89"
    assert lines[1].startswith(f"{tmp_path / stems[0]}: ")
    shown = f"--backend tensorrt --precision int8 --engine {tmp_path}"
    assert lines[-1].endswith(f"vad-run watch {bundle.path} VIDEO {shown}")
    assert len(lines) == 5


def test_a_dry_run_builds_nothing_and_fails_on_findings(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = use_fake(monkeypatch, "rtx1.7")
    done = run(bundle, "--dry-run", "--precision", "fp16", "--precision", "int8")
    assert done.exit_code == 0, done.output
    assert done.output.count("would build") == 2
    assert done.output.endswith("nothing was found\n")
    done = run(bundle, "--dry-run", "--opt-level", "3")
    assert isinstance(done.exception, VadError)
    assert_one_line(done.exception, "1 finding")
    assert "--opt-level" in done.output
    assert not trt.fake_records.builds
    assert not (bundle.path / "engines").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--batch", "a"), "--batch a"),
        (("--batch", ""), "--batch"),
        (("--batch", "1,,4"), "--batch 1,,4"),
        (("--batch", "0"), "1 or more"),
        (("--batch", "99999999999999999999"), "below 2^31"),
        (("--batch", "2,2"), "twice"),
        (("--sm", "86,86"), "twice"),
        (("--sm", "8.6"), "--sm 8.6"),
        (("--host-code",), "--version-compatible"),
    ],
)
def test_a_wrong_option_is_one_line(
    bundle: Bundle, tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    done = run(bundle, *options, "-o", str(tmp_path))
    assert isinstance(done.exception, VadError)
    assert_one_line(done.exception, told)
    assert names_in(tmp_path) == []


def test_a_name_that_no_file_could_have_is_refused_before_the_build(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = use_fake(monkeypatch, "rtx1.7")
    done = run(bundle, "--batch", ",".join(map(str, range(1, 91))), "-o", str(tmp_path))
    assert isinstance(done.exception, VadError)
    assert_one_line(done.exception, "too long", "--batch")
    assert not trt.fake_records.builds


def test_the_next_command_can_be_typed(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake(monkeypatch, "rtx1.7")
    done = run(bundle, "-o", str(tmp_path / "a folder"))
    assert done.exit_code == 0, done.output
    typed = shlex.split(done.output.splitlines()[-1].partition("on the GPU, ")[2])
    assert typed[:3] == ["vad-run", "watch", str(bundle.path)]
    assert typed[-2:] == ["--engine", str(tmp_path / "a folder")]


def test_the_next_command_takes_what_the_bundle_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake(monkeypatch, "rtx1.7")
    done = run(head_bundle(tmp_path))
    assert done.exit_code == 0, done.output
    assert "vad-run score" in done.output.splitlines()[-1]
    assert "FEATURES" in done.output.splitlines()[-1]


def test_a_damaged_graph_is_refused_before_the_builder_sees_it(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = use_fake(monkeypatch, "rtx1.7")
    graph = bundle_copy / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[-20] ^= 1
    graph.write_bytes(content)
    done = CliRunner().invoke(cli, ["build-engine", str(bundle_copy)])
    assert isinstance(done.exception, VadError)
    assert_one_line(done.exception, "sha256")
    assert not trt.fake_records.builds
