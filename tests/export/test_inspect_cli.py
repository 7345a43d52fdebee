"""`vad-export inspect`: what a user types and reads."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from helpers import assert_one_line
from helpers_fake_tensorrt import with_driver
from helpers_plans import (
    classic_plan,
    desktop,
    gpu,
    jetson,
    rtx_plan,
    wrapped,
    write_engine,
)
from helpers_tensorrt import build

from vad_export.commands.inspect import command
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import BackendError
from vad_runtime.engines import fit
from vad_runtime.engines.fit import Machine
from vad_runtime.engines.plan_file import sidecar_path


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Type the command as if on another machine."""

    def typed(machine: Machine, *words: object) -> Result:
        monkeypatch.setattr(fit, "this_machine", lambda device: machine)
        return CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)

    return typed


def plan_in(bundle: Path, name: str = "model.engine", **changes: Any) -> Path:
    """Put an engine for an Orin that was built from the bundle's graph into the bundle."""
    graph = Bundle.open(bundle).manifest.artefacts["fp32"]
    about = {"precision": "fp32", "source": graph.file, "source_sha256": graph.sha256, **changes}
    return write_engine(bundle / "engines", name, classic_plan(), **about)


def test_a_plan_that_fits_is_described_and_ends_with_0(on: Any, tmp_path: Path) -> None:
    plan = write_engine(
        tmp_path,
        "model.engine",
        classic_plan(),
        batches=[1, 4],
        build={"seconds": 12.34567, "peak_rss_bytes": 228507648, "tools": {"vad-edge": "0.1.0"}},
        options={"level": None, "tf32": True, "targets": [], "dla": 0},
        version_compatible=True,
        host_code=True,
    )
    result = on(jetson(), plan)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == str(plan)
    assert "TensorRT 10.3.0, 0.0 MB" in lines[1]
    text = result.output
    for words in (
        "SM 87, aarch64, the lean runtime loads it, later versions load it, carries host code",
        "Orin, driver for CUDA 12.6, Jetson Linux 36.4.0",
        "model.fp16.onnx (fp16)",
        "clip uint8 (N, 8, 32, 32, 1)",
        "score float32 (N, 8)",
        "1, 4",
        "seconds 12.35, peak rss 229 MB, vad-edge 0.1.0",
        "options    tf32, dla 0",
        "here       fits",
        "this machine: aarch64, TensorRT 10.3.0; cuda:0 Orin, SM 87; driver for CUDA 12.6; "
        "Jetson Linux 36.4.0",
    ):
        assert words in text
    assert "differs" not in text


def test_each_difference_is_a_line_and_ends_with_1(on: Any, tmp_path: Path) -> None:
    plan = write_engine(tmp_path, "model.engine", classic_plan())
    result = on(jetson(gpu=gpu(110, "Thor"), libraries={"tensorrt": "10.13.3"}), plan)
    assert result.exit_code == 1
    differs = [line for line in result.output.splitlines() if line.startswith("  differs")]
    assert len(differs) == 2
    assert "10.13.3" in differs[0]
    assert "here is SM 110 (Thor)" in differs[1]
    assert "here       does not fit" in result.output


def test_without_a_gpu_the_rest_is_compared(on: Any, tmp_path: Path) -> None:
    plan = write_engine(tmp_path, "model.engine", rtx_plan())
    result = on(desktop(gpu=None, no_gpu="No driver.", cuda=None), plan)
    assert result.exit_code == 0
    assert "no GPU here to compare with" in result.output
    assert "here       fits, as far as can be told without a GPU" in result.output
    assert on(desktop(gpu=None, libraries={"rtx": "1.4.0.76"}), plan).exit_code == 1


def test_a_bundle_shows_every_engine_in_it(on: Any, bundle_copy: Path) -> None:
    plan_in(bundle_copy, "a.engine")
    plan_in(bundle_copy, "b.engine", sms=[86])
    result = on(jetson(), bundle_copy)
    assert result.exit_code == 1
    assert "a.engine" in result.output
    assert result.output.count("differs") == 1
    assert on(jetson(), bundle_copy / "engines").output == result.output


def test_a_bundle_without_engines_says_how_to_build_one(on: Any, bundle_copy: Path) -> None:
    result = on(jetson(), bundle_copy)
    assert result.exit_code == 0
    step = f"{bundle_copy} holds no engine. Build one with: vad-export build-engine {bundle_copy}"
    assert step in result.output


def test_an_engine_of_another_graph_than_its_bundle_holds_is_stale(
    on: Any, bundle_copy: Path
) -> None:
    plan = plan_in(bundle_copy, source_sha256="cd" * 32)
    result = on(jetson(), plan)
    assert result.exit_code == 1
    assert "was built from another model.onnx" in result.output
    assert f"vad-export build-engine {bundle_copy} --precision fp32" in result.output


def test_the_command_for_a_truncated_plan_names_its_bundle(on: Any, bundle_copy: Path) -> None:
    plan = write_engine(bundle_copy / "engines", "model.engine", rtx_plan())
    plan.write_bytes(rtx_plan()[:300])
    result = on(desktop(), plan)
    assert result.exit_code == 1
    assert "cut off: 300 of its 600 bytes are there" in result.stderr
    # The sidecar is whole, and says how the plan was built.
    again = f"vad-export build-engine {bundle_copy} --precision fp16 --flavour rtx --overwrite\n"
    assert result.stderr.endswith(again)


def test_the_bundle_is_found_from_inside_its_folder(
    on: Any, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_in(bundle_copy, source_sha256="cd" * 32)
    monkeypatch.chdir(plan.parent)
    assert "was built from another model.onnx" in on(jetson(), plan.name).output


def test_a_damaged_plan_is_a_problem(on: Any, tmp_path: Path) -> None:
    plan = write_engine(tmp_path, "model.engine", classic_plan())
    plan.write_bytes(classic_plan()[:-1] + b"\0")
    result = on(jetson(), plan)
    assert result.exit_code == 1
    assert "problem    " in result.output
    assert "changed or damaged" in result.output


def test_a_plan_without_sidecar_shows_its_header(on: Any, tmp_path: Path) -> None:
    plan = write_engine(tmp_path, "model.engine", rtx_plan(sms=(86, 89), later=False))
    sidecar_path(plan).unlink()
    result = on(desktop(), plan)
    assert result.exit_code == 1
    assert "TensorRT-RTX 1.7.1.116, 0.0 MB, SM 86, 89" in result.output
    assert "has no sidecar" in result.output


def test_a_plan_of_ultralytics_is_recognised(on: Any, tmp_path: Path) -> None:
    plan = tmp_path / "yolo.engine"
    plan.write_bytes(wrapped(classic_plan(), {"task": "detect", "version": "8.3.1", "names": {}}))
    result = on(jetson(), plan)
    assert result.exit_code == 1
    assert "metadata of Ultralytics in front (task detect, version 8.3.1)" in result.output
    assert "Ultralytics wrote" in result.output


@pytest.mark.parametrize(
    ("content", "words"), [(b"not found\n", "is a text file"), (None, "does not exist")]
)
def test_what_is_no_plan_is_one_line_of_error(
    on: Any, tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "model.engine"
    if content is not None:
        path.write_bytes(content)
    result = on(jetson(), path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {path} {words}")
    assert result.stderr.count("\n") == 1


def test_one_bad_file_does_not_hide_the_others(on: Any, tmp_path: Path) -> None:
    plan = write_engine(tmp_path, "model.engine", classic_plan())
    result = on(jetson(), tmp_path / "missing.engine", plan)
    assert result.exit_code == 1
    assert "does not exist" in result.stderr
    assert "here       fits" in result.stdout


def test_a_folder_that_is_no_bundle_says_so(on: Any, tmp_path: Path) -> None:
    result = on(jetson(), tmp_path)
    assert result.exit_code == 1
    assert "is not a bundle" in result.stderr


def test_a_graph_is_called_one(on: Any, tiny_graph: Path, tmp_path: Path) -> None:
    result = on(jetson(), tiny_graph)
    assert result.exit_code == 0
    assert "an ONNX graph" in result.output
    disguised = Path(shutil.copyfile(tiny_graph, tmp_path / "model.engine"))
    refused = on(jetson(), disguised)
    assert refused.exit_code == 1
    assert "is an ONNX graph, not a plan" in refused.stderr


def test_json_holds_all_of_it(on: Any, tmp_path: Path) -> None:
    plan = write_engine(tmp_path, "model.engine", rtx_plan())
    result = on(desktop(gpu=gpu(75, "T4")), plan, tmp_path / "missing.engine", "--json")
    assert result.exit_code == 1
    assert result.stderr == ""
    found = json.loads(result.stdout)
    first, second = found["files"]
    assert first["header"]["sms"] == [80, 86, 89, 120, 121]
    assert first["sidecar"]["precision"] == "fp16"
    assert [each["field"] for each in first["differences"]] == ["SM"]
    assert first["fits"] is False
    assert "does not exist" in second["problems"][0]
    assert found["machine"]["gpu"]["name"] == "T4"
    assert found["machine"]["libraries"] == {"rtx": "1.7.1.116"}


def test_a_real_plan_is_inspected_on_this_machine(tmp_path: Path, tiny_graph: Path) -> None:
    built = build(tiny_graph)
    version = ".".join(map(str, built[24:28]))
    plan = write_engine(tmp_path, "model.engine", built, version=version)
    result = CliRunner().invoke(command, [str(plan)], catch_exceptions=False)
    assert f"TensorRT-RTX {version}" in result.output
    assert "SM 80, 86, 89, 120, 121 and later" in result.output
    assert "problem" not in result.output


@pytest.mark.parametrize("device", ["cpu", "cuda:9", "foo", ""])
def test_a_named_gpu_that_is_not_there_is_an_error(
    on: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    with_driver(monkeypatch, sm=87)
    plan = write_engine(tmp_path, "model.engine", classic_plan())
    with pytest.raises(BackendError) as error:
        on(jetson(), plan, "--device", device)
    assert_one_line(error.value, "GPU")


def test_a_graph_is_told_by_its_content(on: Any, bundle_copy: Path, tmp_path: Path) -> None:
    graph = bundle_copy / Bundle.open(bundle_copy).manifest.artefacts["fp32"].file
    assert "an ONNX graph" in on(jetson(), graph).output
    text = tmp_path / "text.onnx"
    text.write_text("no graph")
    result = on(jetson(), text)
    assert result.exit_code == 1
    assert "is a text file" in result.output
