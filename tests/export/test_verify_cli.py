"""`vad-export verify`: what a user types and reads."""

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from helpers import artefact, clip_spec, manifest, motion_model, write_video
from helpers_footage import scene
from onnx import numpy_helper

import vad_export.gate as gate
from vad_export.commands.verify import command
from vad_runtime.bundle import Bundle, rewrite_manifest, write_bundle
from vad_runtime.commands import run_command
from vad_runtime.contracts import Scoring

Result = tuple[int, str, str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Run the command as its process would, in this one."""
    before = signal.getsignal(signal.SIGTERM)

    def typed(*words: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["vad-export verify", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            run_command(command)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    yield typed
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    write_video(folder / "day.mp4", scene(70, seed=1))
    return folder


def bundle_with_int8(folder: Path, factor: float) -> Path:
    """Write a bundle whose int8 artefact has its weights multiplied."""
    spec = clip_spec(hop=4)
    plain = motion_model(folder / "fp32.onnx", spec)
    model = onnx.load(plain)
    for tensor in model.graph.initializer:
        if tensor.name == "weight":
            weight = numpy_helper.to_array(tensor)
            weight = np.asarray(weight * factor, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(weight, "weight"))
    onnx.save(model, str(folder / "int8.onnx"))
    about = manifest(
        clip=spec,
        scoring=Scoring(threshold=0.5, method="set by hand for tests"),
        artefacts={
            "fp32": artefact(file="fp32.onnx"),
            "int8": artefact(file="int8.onnx", precision="int8", made_from="fp32"),
        },
    )
    files = {"fp32": plain, "int8": folder / "int8.onnx"}
    return write_bundle(folder / "site.vad", about, files).path


def parity(bundle: Path) -> dict[str, Any]:
    return dict(Bundle.open(bundle).manifest.parity or {})


def test_a_good_copy_passes_and_the_exit_code_is_0(run: Any, site: Path, tmp_path: Path) -> None:
    bundle = bundle_with_int8(tmp_path, 1.0001)
    out_folder = tmp_path / "report"
    code, out, err = run(bundle, "--clips", site, "-o", out_folder)
    assert (code, err) == (0, "")
    assert "onnxruntime int8" in out
    assert "FAILED" not in out
    assert json.loads((out_folder / "verify.json").read_text())["passed"] is True
    assert (out_folder / "verify.md").read_text().startswith("# Parity of site.vad: passed")
    assert sorted(file.name for file in out_folder.iterdir()) == ["verify.json", "verify.md"]
    assert parity(bundle)["verified"]["openvino int8"]["passed"] is True


def test_a_spoilt_one_exits_1_names_the_worst_clip_and_leaves_its_picture(
    run: Any, site: Path, tmp_path: Path
) -> None:
    bundle = bundle_with_int8(tmp_path, 0.3)
    opened = Bundle.open(bundle)
    before = {"bf16_allowed": False, "clips": 8}
    rewrite_manifest(opened, msgspec.structs.replace(opened.manifest, parity=before))
    code, out, err = run(bundle, "--clips", site, "--backend", "onnxruntime")
    assert code == 1
    picture = tmp_path / "site.verify" / "worst_onnxruntime_int8.png"
    assert picture.is_file()
    assert err.count("\n") == 1
    for part in ("Error: onnxruntime int8: ", "the budget is", f"{site}/day.mp4", str(picture)):
        assert part in err
    assert "FAILED" in out  # the table comes all the same
    kept = parity(bundle)
    assert kept["verified"]["onnxruntime int8"]["passed"] is False
    assert {name: kept[name] for name in before} == before


def test_a_wider_budget_lets_it_pass_and_nothing_is_recorded_on_request(
    run: Any, site: Path, tmp_path: Path
) -> None:
    bundle = bundle_with_int8(tmp_path, 0.9)
    words = (bundle, "--clips", site, "--backend", "onnxruntime", "--no-record")
    assert run(*words)[0] == 1
    limits = ["mean_error=9", "spearman=0.1", "flips=1"]
    wide = [word for limit in limits for word in ("--budget", limit)]
    code, out, err = run(*words, *wide)
    assert (code, err) == (0, "")
    assert "mean error 9, Spearman 0.1, flips 1" in out
    assert parity(bundle) == {}


def test_the_budget_of_a_configuration_counts_and_a_limit_on_the_line_wins(
    run: Any, site: Path, tmp_path: Path
) -> None:
    bundle = bundle_with_int8(tmp_path, 0.9)
    file = tmp_path / "precision.yaml"
    file.write_text("margin: 0.5\nbudget:\n  mean_error: 9\n  spearman: 0.1\n  flips: 1\n")
    words = (bundle, "--clips", site, "--backend", "onnxruntime", "--no-record", "--config", file)
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    assert "mean error 9, Spearman 0.1, flips 1" in out
    code, out, err = run(*words, "--budget", "mean_error=0.001")
    assert code == 1
    assert "mean error 0.001, Spearman 0.1, flips 1" in out
    assert "the budget is 0.1 % of the spread" in err


def test_a_graph_that_was_replaced_meanwhile_is_said_not_to_be_recorded(
    run: Any, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundle_with_int8(tmp_path, 1.0001)
    compare = gate.verify

    def meanwhile(opened: Bundle, *args: Any, **options: Any) -> gate.GateReport:
        report = compare(opened, *args, **options)
        manifest = opened.manifest
        fp32 = {"fp32": manifest.artefacts["fp32"]}
        rewrite_manifest(opened, msgspec.structs.replace(manifest, artefacts=fp32))
        return report

    monkeypatch.setattr(gate, "verify", meanwhile)
    code, out, err = run(bundle, "--clips", site, "--backend", "onnxruntime")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("onnxruntime int8: not recorded")
    assert parity(bundle) == {"verified": {}}


def test_the_auc_is_in_the_table_with_labels(run: Any, site: Path, tmp_path: Path) -> None:
    bundle = bundle_with_int8(tmp_path, 1.0001)
    labels = tmp_path / "labels.json"
    anomalies = [{"first": 20, "last": 40}]
    videos = {"day.mp4": {"frames": 70, "anomalies": anomalies}}
    content = {"schema": 1, "label_set": "drawn", "fps": 15, "videos": videos}
    labels.write_text(json.dumps(content))
    code, out, _ = run(bundle, "--clips", site, "--labels", labels, "--precision", "int8")
    assert code == 0
    assert "labels drawn" in out
    assert "+0.0000" in out or "-0.0000" in out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--clips", "{tmp}/gone"], "gone does not exist"),
        (["--clips", "{tmp}/list.txt"], "list.txt, line 2: 'gone.mp4' does not exist"),
        (["--clips", "{tmp}/short.mp4"], "8 good frames in a row"),
        (["--clips", "{site}", "--budget", "flips"], "key=value"),
        (["--clips", "{site}", "--config", "{tmp}/gone.yaml"], "gone.yaml"),
        (["--clips", "{site}", "--precision", "fp16"], "no artefact for fp16"),
        (["--clips", "{site}", "--backend", "tpu"], "no back end is called 'tpu'"),
        (["--clips", "{site}", "--labels", "{tmp}/gone.json"], "gone.json cannot be read"),
        (["--clips", "{site}", "--checkpoint", "{tmp}/gone"], "gone"),
        ([], "Missing option '--clips'"),
        (["--clips", "{site}", "--count", "-1"], "--count"),
    ],
)
def test_what_cannot_be_used_is_a_one_line_error(
    run: Any, site: Path, tmp_path: Path, words: list[str], part: str
) -> None:
    bundle = bundle_with_int8(tmp_path, 1.0)
    (tmp_path / "list.txt").write_text("site/day.mp4\ngone.mp4\n")
    write_video(tmp_path / "short.mp4", scene(5, seed=1))
    filled = [word.replace("{tmp}", str(tmp_path)).replace("{site}", str(site)) for word in words]
    code, _, err = run(bundle, *filled)
    assert code == 1
    assert err.startswith("Error: ")
    assert err.count("\n") == 1, err
    assert part in err
    shutil.rmtree(bundle)
