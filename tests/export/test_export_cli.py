"""`vad-export`: what a user types and reads."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import artefact, clip_spec, manifest, motion_model, moving_blob, write_video

import vad_export.bundles as bundles
import vad_export.deploy as deploy_module
from vad_export.cli import cli, main
from vad_runtime.backends import open_backend
from vad_runtime.bundle import Bundle, write_bundle
from vad_training.checkpoint_file import save_checkpoint
from vad_training.config import LossConfig, MilConfig, StaeConfig
from vad_training.config.mil import HeadConfig
from vad_training.graphs import ScoreGraph
from vad_training.models.mil import mil_head
from vad_training.models.stae import STAE

Result = tuple[int, str, str]
VAD_EXPORT = shutil.which("vad-export", path=Path(sys.executable).parent) or "vad-export"


def typed(*words: str | Path) -> Result:
    """Run the installed command in a process of its own."""
    done = subprocess.run(
        [VAD_EXPORT, *map(str, words)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Run the command's own `main` in this process: the same way, without its second to start."""
    before = signal.getsignal(signal.SIGTERM)

    def command(*words: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["vad-export", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    yield command
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a checkpoint of a small, untrained model. Do not change."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    torch.manual_seed(0)
    config = StaeConfig(clip=clip_spec(hop=4), loss=LossConfig(future_offset=8))
    content = {"model": STAE().state_dict(), "summary": {"frames": 99}}
    save_checkpoint(folder / "best.pt", content, config)
    return folder


@pytest.fixture(scope="module")
def trained_ahead(trained: Path) -> Path:
    """The same, trained to predict the frames 5 later."""
    content = torch.load(trained / "best.pt", weights_only=True)
    config = StaeConfig(clip=clip_spec(hop=4), loss=LossConfig(future_offset=5))
    save_checkpoint(trained.parent / "ahead.pt", {"model": content["model"]}, config)
    return trained.parent / "ahead.pt"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a small real graph in the place of the exported one; its parity is not looked at."""

    def export(graph: ScoreGraph, file: Path) -> None:
        motion_model(file, graph.clip)

    monkeypatch.setattr(bundles, "onnx_from_graph", export)
    monkeypatch.setattr(ScoreGraph, "run", lambda *a: {})
    monkeypatch.setattr(
        bundles,
        "parity_report",
        lambda *a, **k: {"engines": {"a fp32": {"max_of_scale": 2e-6}, "b": {"not_run": "no b"}}},
    )


def refused(result: Result, *parts: str) -> None:
    """Assert that a command ended with one line on stderr and exit code 1."""
    code, out, err = result
    assert code == 1, err
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    for part in parts:
        assert part in err, f"{part!r} is not in: {err}"


# -- the real thing ----------------------------------------------------------------------------


def test_a_checkpoint_becomes_a_bundle_and_can_be_set(
    run: Any, trained: Path, tiny_video: Path, tmp_path: Path
) -> None:
    target = tmp_path / "site.vad"
    words: Sequence[str | Path] = [
        *("onnx", trained, "-o", target, "--form", "both", "--alpha", "0.5", "--hop", "8"),
        *("--output", "latent", "--output", "prediction", "--clips", tiny_video),
        *("--name", "gate", "--licence", "CC0", "--resizer", "exact"),
    ]
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    *lines, last = out.splitlines()
    passes = [line for line in lines if line.startswith("pass ")]
    assert [line.split()[1] for line in passes] == [
        "normalisation:",
        "batch_norm:",
        "output_blocking:",
    ]
    assert lines[3].startswith("onnxruntime fp32: differs from PyTorch by at most ")
    assert last == f"{target}: both score, 16 frames in"
    bundle = Bundle.open(target)
    about = bundle.manifest
    assert (about.name, about.licence) == ("gate", "CC0")
    assert (about.clip.frames, about.clip.hop, about.clip.resizer) == (16, 8, "exact")
    assert (about.score.form, about.score.alpha, about.score.first) == ("both", 0.5, 8)
    assert [o.name for o in about.outputs] == ["latent", "prediction"]
    assert about.training == {"frames": 99}
    assert about.scoring.threshold is None
    backend = open_backend(bundle, "onnxruntime").backend
    answer = backend.infer(np.zeros((1, 16, 32, 32, 1), np.uint8))
    backend.close()
    assert {name: value.shape for name, value in answer.items()} == {
        "score": (1, 8),
        "latent": (1, 64, 1, 4, 4),
        "prediction": (1, 1, 8, 32, 32),
    }

    code, out, err = run("set", target, "threshold=1.5", "window=4")
    assert (code, out, err) == (0, f"{target}: threshold=1.5 window=4 (threshold 1.5)\n", "")
    assert Bundle.open(target).manifest.scoring.threshold == 1.5


def test_an_error_of_the_installed_command_is_one_line(tmp_path: Path) -> None:
    refused(typed("set", tmp_path / "none.vad", "threshold=1"), "none.vad does not exist")


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of an untrained MIL head for features of 8 numbers. Do not change."""
    folder = tmp_path_factory.mktemp("mil") / "run"
    folder.mkdir()
    torch.manual_seed(0)
    config = MilConfig(head=HeadConfig(hidden=(6, 4)))
    save_checkpoint(folder / "best.pt", {"model": mil_head(config.head, 8).state_dict()}, config)
    return folder


def test_a_head_becomes_a_bundle_that_takes_features(
    run: Any, ranked: Path, tmp_path: Path
) -> None:
    target = tmp_path / "head.vad"
    code, out, err = run("onnx", ranked, "-o", target, "--head-only")
    assert (code, err) == (0, "")
    assert out.startswith("checked on seeded noise")
    assert out.endswith(f"{target}: probability score, 32 features of 8 numbers in\n")
    about = Bundle.open(target).manifest
    assert (about.family, about.score.per, about.score.count) == ("mil", "segment", 32)
    assert about.features is not None
    assert about.features.made_by == "unknown"

    rng = np.random.default_rng(0)
    np.savez(tmp_path / "v.npz", features=rng.normal(size=(40, 8)).astype(np.float32), fps=25.0)
    words = ("--head-only", "--clips", tmp_path / "v.npz", "--overwrite")
    code, out, err = run("onnx", ranked, "-o", target, *words)
    assert (code, err) == (0, "")
    parity = Bundle.open(target).manifest.parity
    assert parity is not None
    assert (parity["clip_origins"], parity["real_clips"]) == (["v:0"], True)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ([], "does not say which backbone computed its features"),
        (["--head-only", "--form", "error"], "no score of form error. Choose from: probability"),
        (["--head-only", "--alpha", "1"], "belong to the family stae"),
        (["--head-only", "--hop", "4"], "Leave out --hop and --resizer"),
        (["--head-only", "--output", "embedding"], "a head alone has no output 'embedding'"),
        (["--head-only", "--normal", "wide.npz"], "scores no footage"),
        (["--head-only", "--clips", "wide.npz"], "wide has features of 9 numbers"),
    ],
)
def test_a_head_refuses_what_it_cannot_do_in_one_line(
    run: Any,
    ranked: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    part: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("wide.npz", features=np.zeros((4, 9), np.float32))
    refused(run("onnx", ranked, "-o", "x.vad", *options), part)
    assert [f.name for f in tmp_path.iterdir()] == ["wide.npz"]


# -- words and messages ------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], ["onnx"], ["set"], ["deploy"]])
def test_the_help_of_every_command_can_be_read(run: Any, command: list[str]) -> None:
    code, out, err = run(*command, "--help")
    assert (code, err) == (0, "")
    assert " ".join(["vad-export", *command]) in out.splitlines()[0]
    assert all(len(line) <= 80 for line in out.splitlines())
    here: Any = cli.commands[command[0]] if command else cli
    for parameter in here.params:
        if parameter.param_type_name == "option":
            assert parameter.opts[-1] in out
    for name in cli.commands if not command else ():
        assert f"  {name} " in out


def test_the_version_is_said(run: Any) -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("vad-export, version ")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["onnx"], "Missing argument 'CHECKPOINT'"),
        (["onnx", "x.pt"], "Missing option '-o'"),
        (["onnx", "x.pt", "-o", "x.vad", "--form", "sum"], "'sum' is not one of"),
        (["onnx", "x.pt", "-o", "x.vad", "--hop", "0"], "--hop"),
        (["onnx", "x.pt", "-o", "x.vad", "--quantile", "0.5"], "--quantile"),
        (["onnx", "x.pt", "-o", "x.vad", "--quantile", "99"], "--quantile"),
        (["deploy", "-o", "x.vad"], "Missing option '--normal'"),
        (["deploy", "--normal", "n", "-o", "x.vad", "--minutes", "0"], "--minutes"),
        (["deploy", "--normal", "n", "-o", "x.vad", "--form", "lookahead"], "lookahead"),
        (["set", "x.vad"], "Missing argument"),
        (["sing"], "No such command 'sing'"),
    ],
)
def test_a_wrong_command_line_is_one_line_that_names_the_help(
    run: Any, words: list[str], part: str
) -> None:
    refused(run(*words), part, "--help")


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["-o", "x"], "must end with .vad"),
        (["-o", "x.vad", "--output", "picture"], "no output 'picture'"),
        (["-o", "x.vad", "--output", "prediction"], "no output 'prediction'"),
        (["-o", "x.vad", "--clips", "nothing.mp4"], "nothing.mp4 does not exist"),
        (["-o", "x.vad", "--normal", "nothing.mp4"], "nothing.mp4 does not exist"),
    ],
)
def test_onnx_refuses_in_one_line_and_leaves_nothing(
    run: Any,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    part: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run("onnx", trained, *options), part)
    assert not list(tmp_path.iterdir())


def test_a_missing_and_a_foreign_checkpoint_are_one_line(run: Any, tmp_path: Path) -> None:
    refused(run("onnx", tmp_path / "no.pt", "-o", tmp_path / "x.vad"), "no.pt cannot be read")
    (tmp_path / "text.pt").write_text("hello")
    refused(run("onnx", tmp_path / "text.pt", "-o", tmp_path / "x.vad"), "text.pt")
    refused(run("onnx", tmp_path, "-o", tmp_path / "x.vad"), "no best.pt")


def test_a_hop_that_does_not_fit_the_stride_is_one_line(run: Any, tmp_path: Path) -> None:
    config = StaeConfig(clip=clip_spec(stride=2, hop=4))
    save_checkpoint(tmp_path / "best.pt", {"model": STAE().state_dict()}, config)
    refused(run("onnx", tmp_path, "-o", tmp_path / "x.vad", "--hop", "3"), "stride 2, got 3")
    bilinear = clip_spec(resizer="exact", interpolation="bilinear")
    save_checkpoint(tmp_path / "best.pt", {"model": STAE().state_dict()}, StaeConfig(clip=bilinear))
    refused(run("onnx", tmp_path, "-o", tmp_path / "x.vad", "--resizer", "fast"), "--resizer")


def test_a_model_of_exact_and_bilinear_can_be_exported_for_portable(
    run: Any, tiny_video: Path, tmp_path: Path
) -> None:
    bilinear = clip_spec(resizer="exact", interpolation="bilinear")
    save_checkpoint(tmp_path / "best.pt", {"model": STAE().state_dict()}, StaeConfig(clip=bilinear))
    target = tmp_path / "x.vad"
    words = ["--resizer", "portable", "--no-passes", "--clips", tiny_video]
    assert run("onnx", tmp_path, "-o", target, *words)[0] == 0
    clip = Bundle.open(target).manifest.clip
    assert (clip.resizer, clip.interpolation) == ("portable", "bilinear")


@pytest.mark.usefixtures("stand_in")
def test_lookahead_takes_its_offset_from_the_training_unless_told(
    run: Any, trained_ahead: Path, tmp_path: Path
) -> None:
    for words, frames in (([], 8 + 5), (["--future-offset", "3"], 8 + 3)):
        target = tmp_path / f"{frames}.vad"
        # The stand-in scores every frame of its clip, so it cannot be run.
        words = ["--form", "lookahead", "--no-passes", *words]
        assert run("onnx", trained_ahead, "-o", target, *words)[0] == 0
        assert Bundle.open(target).manifest.clip.frames == frames


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("form", ["prediction", "both"])
def test_a_form_that_compares_other_frames_than_were_trained_is_one_line(
    run: Any, trained_ahead: Path, tmp_path: Path, form: str
) -> None:
    result = run("onnx", trained_ahead, "-o", tmp_path / "x.vad", "--form", form)
    refused(result, f"form {form} compares with the frames 8 later", "predict those 5 later")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("stand_in")
def test_normal_footage_gives_a_threshold_and_failing_leaves_nothing(
    run: Any, trained: Path, tiny_video: Path, tmp_path: Path
) -> None:
    normal = write_video(tmp_path / "normal.mp4", moving_blob(130, height=48, width=64))
    target = tmp_path / "x.vad"
    refused(run("onnx", trained, "-o", target, "--normal", tiny_video), "too few")
    assert not target.exists()
    code, out, _ = run("onnx", trained, "-o", target, "--normal", normal, "--quantile", "0.95")
    assert code == 0
    assert "a fp32: differs from PyTorch by at most 2.0e-06 of the scores' scale" in out
    assert "b: not checked (no b)" in out
    scoring = Bundle.open(target).manifest.scoring
    assert scoring.threshold is not None
    assert scoring.evidence["quantile"] == 0.95
    refused(run("onnx", trained, "-o", target), "exists already", "--overwrite")


def test_set_says_what_it_did_and_refuses_in_one_line(run: Any, bundle_copy: Path) -> None:
    code, out, err = run("set", bundle_copy, "threshold=none", "smoothing=mean")
    assert (code, err) == (0, "")
    assert out == f"{bundle_copy}: threshold=none smoothing=mean (threshold None)\n"
    refused(run("set", bundle_copy, "treshold=1"), "treshold cannot be set")
    refused(run("set", bundle_copy, "threshold=high"), "threshold=high")
    (bundle_copy / "model.onnx").write_bytes(b"changed")
    refused(run("set", bundle_copy, "threshold=1"), "Export it again")


def test_deploy_passes_every_option_on(
    run: Any, tiny_graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []

    def deploy(*args: Any) -> Bundle:
        calls.append(args)
        args[4]("a stage")
        return write_bundle(
            tmp_path / "x.vad", manifest(artefacts={"fp32": artefact()}), {"fp32": tiny_graph}
        )

    monkeypatch.setattr(deploy_module, "deploy", deploy)
    code, out, err = run(
        *("deploy", "--normal", "a", "--normal", "b", "-o", tmp_path / "x.vad"),
        *("--minutes", "2.5", "--validation", "v", "--form", "both", "--quantile", "0.9"),
        *("--seed", "4", "--overwrite"),
    )
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "a stage",
        f"{tmp_path / 'x.vad'} is ready: vad-run watch {tmp_path / 'x.vad'} VIDEO",
    ]
    ((footage, target, folder, options, _),) = calls
    assert footage == (Path("a"), Path("b"))
    assert (target, folder) == (tmp_path / "x.vad", tmp_path / "x.run")
    assert (options.minutes, options.quantile, options.seed) == (2.5, 0.9, 4)
    assert (options.form.form, options.validation) == ("both", [Path("v")])
    assert options.overwrite is True


def test_deploy_refuses_in_one_line(run: Any, tmp_path: Path) -> None:
    refused(run("deploy", "--normal", tmp_path / "n", "-o", tmp_path / "x"), "must end with .vad")
    refused(run("deploy", "--normal", tmp_path / "n", "-o", tmp_path / "x.vad"), "does not exist")
    assert not list(tmp_path.iterdir())
