"""`vad-train`: what a user types and reads."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from helpers import moving_blob, write_video

import vad_training.synth as synth_module
from vad_runtime.sinks.rows import Row, RowWriter
from vad_training.checkpoint import checkpoint_from_path
from vad_training.cli import cli, main
from vad_training.config import read_config

Result = tuple[int, str, str]
VAD_TRAIN = shutil.which("vad-train", path=Path(sys.executable).parent) or "vad-train"
TINY = [
    word
    for setting in (
        *("clip.frames=8", "clip.height=32", "clip.width=32", "optimiser.batch=2"),
        *("steps_per_epoch=2", "epochs=1", "threads=1", "precision=fp32", "device=cpu"),
    )
    for word in ("--set", setting)
]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Run the command's own `main` in this process: the same way, without its second to start."""
    before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()

    def command(*words: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["vad-train", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    yield command
    signal.signal(signal.SIGTERM, before)
    torch.set_num_threads(threads)


def refused(result: Result, *parts: str) -> None:
    """Assert that a command ended with one line on stderr and exit code 1."""
    code, out, err = result
    assert code == 1, err
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err, f"{part!r} is not in: {err}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    for i in range(2):
        write_video(folder / f"{i}.mp4", moving_blob(20, height=48, width=64, seed=i))
    (folder / "bad.mp4").write_text("no video")
    return folder


# -- help and wrong command lines --------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["synth"],
        ["fit"],
        ["evaluate"],
        ["threshold"],
        ["analyse"],
        ["features"],
        ["pictures"],
        ["submission"],
        ["weights"],
        ["data"],
    ],
)
def test_the_help_of_every_command_can_be_read(run: Any, command: list[str]) -> None:
    code, out, err = run(*command, "--help")
    assert (code, err) == (0, "")
    assert " ".join(["vad-train", *command]) in out.splitlines()[0]
    assert all(len(line) <= 80 for line in out.splitlines())
    here: Any = cli
    if command:
        here = cli.get_command(click.Context(cli), command[0])
    for parameter in here.params:
        if parameter.param_type_name == "option":
            assert parameter.opts[-1] in out
    for name in cli.list_commands(click.Context(cli)) if not command else ():
        assert f"  {name} " in out


def test_the_installed_command_needs_no_torch_to_help_or_refuse() -> None:
    def typed(*words: str) -> Result:
        # An interpreter without torch stands for a quick start.
        code = (
            "import sys; sys.modules['torch'] = None; sys.argv[0] = 'vad-train'; "
            "from vad_training.cli import main; main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    code, out, err = typed("fit", "--help")
    assert (code, err) == (0, "")
    assert "Usage: vad-train fit" in out
    refused(typed("evaluate", "nothing", "--labels", "none.json"), "none.json cannot be read")


def test_an_error_of_the_installed_command_is_one_line(tmp_path: Path) -> None:
    words = [VAD_TRAIN, "fit", str(tmp_path / "none"), "-o", str(tmp_path / "run")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    refused((done.returncode, done.stdout, done.stderr), "none does not exist")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["fit"], "Missing argument 'DATA...'"),
        (["fit", "a"], "Missing option '-o'"),
        (["fit", "a", "-o", "r", "--sett", "x"], "--sett"),
        (["evaluate", "r"], "Missing option '--labels'"),
        (["synth", "s", "--seed", "-1"], "--seed"),
        (["train"], "No such command 'train'"),
    ],
)
def test_a_wrong_command_line_is_one_line_that_names_the_help(
    run: Any, words: list[str], part: str
) -> None:
    refused(run(*words), part, "--help")


# -- fit ---------------------------------------------------------------------------------------


def test_fit_trains_says_so_and_goes_on(run: Any, site: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, out, err = run("fit", site, "-o", folder, *TINY)
    assert code == 0, err
    assert out.startswith(f"{folder}: 2 steps, 1 epochs, best validation loss 0.")
    assert err.startswith("Skipped: ")
    assert "bad.mp4" in err
    assert err.count("\n") == 1
    assert checkpoint_from_path(folder).config == read_config(folder / "config.yaml")
    refused_again = run("fit", site, "-o", folder, *TINY)
    assert refused_again[0] == 1
    assert refused_again[2].splitlines()[-1].endswith("Add --resume, or name another folder.")
    code, out, _ = run("fit", site, "-o", folder, "--resume", "--set", "epochs=2")
    assert code == 0
    assert out.startswith(f"{folder}: 4 steps, 2 epochs, best validation loss 0.")


def test_fit_takes_a_file_and_footage_for_validation(run: Any, site: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("patience: 1\nepochs: 7\n")
    held = tmp_path / "held"
    held.mkdir()
    write_video(held / "v.mp4", moving_blob(16, height=48, width=64))
    (held / "broken.mp4").write_text("no video")
    words = ["fit", site / "0.mp4", site / "1.mp4", "-o", tmp_path / "run"]
    code, _, err = run(*words, "--config", tmp_path / "c.yaml", *TINY, "--validation", held)
    assert code == 0, err
    assert "broken.mp4" in err
    opened = checkpoint_from_path(tmp_path / "run")
    assert (opened.config.patience, opened.config.epochs) == (1, 1)
    assert opened.summary["validation_windows"] == 2


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("clip.colour=rgb", "gray"),
        ("clip.frames=12", "multiple of 8"),
        ("optimiser.lr=1", "lr"),
        ("epochs", "key=value"),
    ],
)
def test_fit_refuses_a_bad_setting_before_it_decodes(
    run: Any, site: Path, tmp_path: Path, setting: str, part: str
) -> None:
    refused(run("fit", site, "-o", tmp_path / "run", "--set", setting), part)
    assert not (tmp_path / "run").exists()


def test_fit_without_cuda_refuses_cuda(
    run: Any, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ["fit", site / "0.mp4", "-o", tmp_path / "run", *TINY, "--set", "device=cuda"]
    refused(run(*words), "device=cuda cannot be used", "device=cpu")


# -- evaluate and synth ------------------------------------------------------------------------


def results(folder: Path, name: str, values: list[float], offline: list[float] | None) -> None:
    folder.mkdir(parents=True)
    writer = RowWriter(folder, live=False, offline=offline is not None)
    for i, value in enumerate(values):
        row = Row(
            frame=i,
            time_s=i / 25,
            raw=value,
            score=value,
            alarm=False,
            status="scored",
            offline=offline[i] if offline else None,
        )
        writer.write(row)
    writer.close()
    (folder / "report.json").write_text(json.dumps({"source": {"name": f"/s/{name}"}}))


def labels(path: Path, label_set: str = "by hand") -> Path:
    videos = {
        "a.mp4": {"frames": 4, "anomalies": [{"kind": "run", "first": 2, "last": 3}]},
        "n.mp4": {"frames": 2, "anomalies": []},
    }
    path.write_text(json.dumps({"schema": 1, "label_set": label_set, "fps": 25, "videos": videos}))
    return path


def test_evaluate_prints_both_columns_and_what_is_left_out(run: Any, tmp_path: Path) -> None:
    results(tmp_path / "r" / "a", "a.mp4", [1, 3, 2, 4], [0.0, 0.1, 0.8, 1.0])
    results(tmp_path / "r" / "n", "n.mp4", [2.5, 0], [0.9, 0.0])
    file = labels(tmp_path / "labels.json")
    code, out, err = run("evaluate", tmp_path / "r", "--labels", file)
    assert (code, err) == (0, "")
    # Pairs of (2, 4) with (1, 3, 2.5, 0): six of eight; of (.8, 1) with (0, .1, .9, 0): seven.
    lines = out.splitlines()
    assert lines[0] == "labels: by hand; 2 videos"
    assert lines[1] == "causal    micro AUC 0.7500  macro AUC 0.7500"
    assert lines[3] == "offline   micro AUC 0.8750  macro AUC 1.0000"
    assert lines[-1] == "not in the macro mean (one class only): n.mp4"


def test_evaluate_leaves_the_offline_column_out_where_a_video_has_none(
    run: Any, tmp_path: Path
) -> None:
    results(tmp_path / "r" / "a", "a.mp4", [1, 3, 2, 4], None)
    results(tmp_path / "r" / "n", "n.mp4", [2.5, 0], [0.9, 0.0])
    code, out, _ = run("evaluate", tmp_path / "r", "--labels", labels(tmp_path / "l.json"))
    assert code == 0
    assert "causal" in out
    assert "offline" not in out


def test_evaluate_refuses_in_one_line(run: Any, tmp_path: Path) -> None:
    file = labels(tmp_path / "labels.json")
    empty = tmp_path / "r"
    empty.mkdir()
    refused(run("evaluate", empty, "--labels", file), "holds no report.json")
    refused(run("evaluate", empty, "--labels", tmp_path / "none.json"), "none.json")
    results(empty / "n", "n.mp4", [2.5, 0], None)
    code, _, err = run("evaluate", empty, "--labels", file)
    assert (code, err.count("\n")) == (1, 1)
    assert "one class only" in err
    results(empty / "a", "a.mp4", [2.5, 0], None)
    refused(run("evaluate", empty, "--labels", file), "knows 4 frames")


def test_synth_passes_every_option_on(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def draw(folder: Path, config: Any, advance: Any) -> Path:
        asked.append(config)
        advance(1)
        return folder / "labels.json"

    monkeypatch.setattr(synth_module, "synth_dataset", draw)
    words = ["--seed", "3", "--train-clips", "2", "--train-seconds", "10", "--val-clips", "1"]
    words += ["--val-seconds", "11", "--test-clips", "4", "--test-seconds", "12"]
    code, out, err = run("synth", tmp_path / "site", *words)
    assert (code, err) == (0, "")
    (config,) = asked
    assert (config.seed, config.train_clips, config.val_clips, config.test_clips) == (3, 2, 1, 4)
    seconds = (config.train_seconds, config.val_seconds, config.test_seconds)
    assert seconds == (10, 11, 12)
    frames = synth_module.total_frames(config)
    labels_file = tmp_path / "site" / "labels.json"
    assert out == f"{tmp_path / 'site'}: {frames} frames, truth in {labels_file}\n"
