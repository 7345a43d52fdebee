"""`vad-export calibrate` and `quantise`, and `verify` behind them: what a user types and reads."""

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import write_audio, write_video
from helpers_footage import scene
from helpers_precision import bundle_of, feature_files, footage, head_bundle, network

from vad_export.cli import cli
from vad_runtime.bundle import Bundle
from vad_runtime.commands import run_command

Result = tuple[int, str, str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Run the command as its process would, in this one."""
    before = signal.getsignal(signal.SIGTERM)

    def typed(*words: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["vad-export", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            run_command(cli)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    yield typed
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle and a site's videos. Do not change."""
    folder = tmp_path_factory.mktemp("whole")
    footage(folder / "site")
    bundle_of(network(), folder / "site.vad")
    return folder


@pytest.fixture
def work(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "work"))


def one_line(result: Result, *parts: str) -> None:
    code, _, err = result
    assert code == 1
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


def test_from_footage_to_a_verified_int8_graph(run: Any, work: Path) -> None:
    bundle, site = work / "site.vad", work / "site"
    folder = work / "site.calibration"
    code, out, err = run("calibrate", bundle, "--clips", site, "--count", 6, "--threads", 1)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "ranges of 3 tensors from 6 inputs",
        f"{folder}: next, vad-export quantise {bundle} --calibration {folder}",
    ]
    assert {file.name for file in folder.iterdir()} == {
        "calibration.json",
        "sheet.png",
        "ranges.npz",
    }
    # The folder beside the bundle is found without being named.
    words = ("--precision", "int8", "--precision", "fp16", "--set", "check_clips=4")
    code, out, err = run("quantise", bundle, *words)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "ranges of 3 tensors from 6 inputs, mse"
    assert lines[2].startswith("int8: 0.0 MB, ")
    assert lines[2].endswith("% of fp32")
    assert lines[-1] == f"{bundle}: next, vad-export verify {bundle} --clips FOOTAGE"
    assert set(Bundle.open(bundle).manifest.artefacts) == {"fp32", "int8", "fp16"}
    code, out, err = run("verify", bundle, "--clips", site, "-o", work / "report")
    assert (code, err) == (0, "")
    verified = (Bundle.open(bundle).manifest.parity or {})["verified"]
    assert verified["openvino int8"]["passed"] is True
    assert verified["onnxruntime fp16"]["passed"] is True


def test_clips_can_be_chosen_without_measuring(run: Any, work: Path) -> None:
    words = ("--clips", work / "site" / "day0.mp4", "--count", 4, "--seed", 3, "--no-ranges")
    code, out, err = run("calibrate", work / "site.vad", *words, "-o", work / "mine")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith(f"{work / 'mine'}: next, ")
    assert not (work / "mine" / "ranges.npz").exists()
    assert json.loads((work / "mine" / "calibration.json").read_text())["seed"] == 3


def test_less_footage_than_asked_for_and_what_was_skipped_is_said(run: Any, work: Path) -> None:
    write_video(work / "site" / "short.mp4", scene(3, seed=9))
    words = ("--clips", work / "site", "--count", 500, "--no-ranges")
    code, out, err = run("calibrate", work / "site.vad", *words)
    assert (code, err) == (0, "")
    assert "skipped: " in out
    assert "short.mp4" in out
    assert " instead of 500: the footage holds no more that differ" in out


def test_the_bundle_that_one_stands_in_has_a_folder_too(
    run: Any, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work / "site.vad")
    code, _, err = run("calibrate", ".", "--clips", "../site", "--count", 3, "--no-ranges")
    assert (code, err) == (0, "")
    assert (work / "site.calibration" / "calibration.json").is_file()


def test_a_head_alone_takes_features(run: Any, tmp_path: Path) -> None:
    head = head_bundle(tmp_path / "head.vad")
    files = feature_files(tmp_path / "features", videos=12)
    code, out, err = run("calibrate", head.path, "--clips", files, "--count", 6)
    assert (code, err) == (0, "")
    assert out.startswith("ranges of 2 tensors from 6 inputs\n")
    assert run("quantise", head.path)[0] == 0
    assert "int8" in Bundle.open(head.path).manifest.artefacts


# -- errors ------------------------------------------------------------------------------------


def test_a_list_with_a_file_that_is_not_there_names_the_line(run: Any, work: Path) -> None:
    listing = work / "list.txt"
    listing.write_text("# mine\nsite/day0.mp4\nsite/gone.mp4\n")
    result = run("calibrate", work / "site.vad", "--clips", listing)
    one_line(result, "list.txt, line 3", "site/gone.mp4", "does not exist")
    assert not (work / "site.calibration").exists()


def test_a_list_is_relative_to_its_folder(run: Any, work: Path) -> None:
    (work / "list.txt").write_text("site/day1.mp4\n")
    words = ("--clips", work / "list.txt", "--count", 3, "--no-ranges")
    assert run("calibrate", work / "site.vad", *words)[0] == 0
    record = json.loads((work / "site.calibration" / "calibration.json").read_text())
    assert {Path(clip["file"]).name for clip in record["clips"]} == {"day1.mp4"}


def test_footage_of_broken_files_only_is_one_line(run: Any, work: Path) -> None:
    broken = work / "broken"
    broken.mkdir()
    (broken / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    write_audio(broken / "sound.wav")
    shutil.move(broken / "sound.wav", broken / "sound.mp4")
    result = run("calibrate", work / "site.vad", "--clips", broken)
    one_line(result, "none of the videos", "noise.mp4")


@pytest.mark.parametrize(
    ("clips", "words"),
    [("nowhere", ("nowhere",)), ("empty", ("empty",)), ("empty.txt", ("names no footage",))],
)
def test_no_footage_is_one_line(run: Any, work: Path, clips: str, words: tuple[str, ...]) -> None:
    (work / "empty").mkdir()
    (work / "empty.txt").write_text("\n")
    one_line(run("calibrate", work / "site.vad", "--clips", work / clips), *words)


@pytest.mark.parametrize("count", ["0", "-2", "many"])
def test_a_count_that_is_none_is_one_line(run: Any, work: Path, count: str) -> None:
    code, out, err = run("calibrate", work / "site.vad", "--clips", work / "site", "--count", count)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "--count" in err


def test_clips_of_another_size_are_one_line(run: Any, work: Path) -> None:
    assert run("calibrate", work / "site.vad", "--clips", work / "site", "--count", 3)[0] == 0
    file = work / "site.calibration" / "calibration.json"
    file.write_text(file.read_text().replace('"height": 32', '"height": 64'))
    result = run("quantise", work / "site.vad")
    one_line(result, "height 64", "height 32", "vad-export calibrate")


def test_no_calibration_is_one_line(run: Any, work: Path) -> None:
    one_line(run("quantise", work / "site.vad"), "vad-export calibrate", "--calibration")
    result = run("quantise", work / "site.vad", "--calibration", work / "nowhere")
    one_line(result, "nowhere", "vad-export calibrate")


def test_no_bundle_is_one_line(run: Any, work: Path) -> None:
    one_line(run("quantise", work / "nowhere.vad"), "nowhere.vad does not exist")
    words = ("--clips", work / "site")
    one_line(run("calibrate", work / "nowhere.vad", *words), "nowhere.vad does not exist")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("method=best", "method"),
        ("nonsense=1", "nonsense"),
        ("check_clips=1", "check_clips"),
        ("layers.ops=[Relu]", "Relu"),
        ("budget.spearman=2", "spearman"),
        ("keep=[nothing]", "no layer nothing"),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_line(
    run: Any, work: Path, setting: str, words: str
) -> None:
    if setting.startswith("keep"):
        assert run("calibrate", work / "site.vad", "--clips", work / "site", "--count", 2)[0] == 0
    one_line(run("quantise", work / "site.vad", "--set", setting), words)


def test_a_graph_with_nothing_to_quantise_or_an_operator_that_is_not_known_is_one_line(
    run: Any, work: Path
) -> None:
    words = ("--clips", work / "site", "--count", 3)
    assert run("calibrate", work / "site.vad", *words)[0] == 0
    result = run("quantise", work / "site.vad", "--set", "layers.ops=[Gemm]")
    one_line(result, "no layer of the graph can be quantised", "fp16 or bf16")
    odd = network()
    relu = next(node for node in odd.graph.node if node.op_type == "Relu")
    relu.op_type, relu.domain = "Mystery", "private"
    odd.opset_import.append(onnx.helper.make_opsetid("private", 1))
    bundle = bundle_of(odd, work / "odd.vad").path
    one_line(run("calibrate", bundle, *words), "Mystery")


def test_a_graph_that_is_quantised_already_is_one_line(run: Any, work: Path) -> None:
    words = ("--clips", work / "site", "--count", 3)
    assert run("calibrate", work / "site.vad", *words)[0] == 0
    assert run("quantise", work / "site.vad", "--set", "check_clips=4")[0] == 0
    bundle = Bundle.open(work / "site.vad")
    model = onnx.load(bundle.file(bundle.manifest.artefacts["int8"]))
    again = bundle_of(model, work / "again.vad").path
    one_line(run("calibrate", again, *words), "quantised already")


@pytest.mark.parametrize("command", ["calibrate", "quantise"])
def test_the_help_fits_a_terminal(run: Any, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "BUNDLE" in out
