"""I3D with its real Kinetics weights on the fight clips: from weak labels to a live score.

Ten clips of each class train the head, five others of each are watched; both are chosen by
their numbers. Neighbouring clips come from one source video, so this says that the road works;
docs/results/mil_fight.md says how well fights are told apart.
"""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from vad_export.cli import cli as vad_export
from vad_runtime.bundle import Bundle
from vad_runtime.cli import cli as vad_run
from vad_training.cli import cli as vad_train

pytestmark = [pytest.mark.data, pytest.mark.slow]

TRAINED = range(1, 51, 5)
HELD_OUT = [10, 20, 30, 40, 50]
KINDS = {"fight": "fi", "normal": "nofi"}
CONFIG = Path(__file__).parents[2] / "training" / "configs" / "mil_sultani.yaml"
QUICK = ("--no-plot", "--backend", "openvino", "--precision", "fp32")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What the tests share. Do not change."""

    features: Path
    run: Path
    videos: Path
    """Clips that were trained on; a folder for each class."""
    held_out: Path


def typed(command: Any, *words: str | Path) -> str:
    done = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def linked(folder: Path, data: Path, numbers: Iterable[int]) -> Path:
    """Return a folder of class folders with links to some of the clips."""
    for kind, prefix in KINDS.items():
        (folder / kind).mkdir(parents=True)
        for number in numbers:
            name = f"{prefix}{number:03d}.mp4"
            (folder / kind / name).symlink_to((data / "fight" / kind / name).resolve())
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, i3d_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("fight")
    videos = linked(folder / "trained", data, TRAINED)
    words = ("features", videos, "-o", folder / "features", "--hop", "16", "--device", "cpu")
    said = typed(vad_train, *words, "--backbone", "i3d", "--weights", i3d_weights)
    assert "20 videos done, 0 were there already, 0 skipped" in said
    backbone = json.dumps({"name": "i3d", "weights": str(i3d_weights)})
    # Of so few videos none is held back: the last epoch is taken.
    whole = "features.validation_fraction=0"
    settings = ("--set", f"backbone={backbone}", "--set", "device=cpu", "--set", whole)
    run = folder / "run"
    typed(vad_train, "fit", folder / "features", "-o", run, "--config", CONFIG, *settings)
    held_out = linked(folder / "held_out", data, HELD_OUT)
    return Trained(features=folder / "features", run=run, videos=videos, held_out=held_out)


def peak(folder: Path) -> float:
    return float(json.loads((folder / "report.json").read_text())["peak"]["score"])


def peaks(folder: Path, kind: str) -> list[float]:
    """Return the highest causal score of each video of a class."""
    return [peak(report.parent) for report in sorted(folder.glob(f"**/{KINDS[kind]}*/report.json"))]


def test_a_live_fight_scores_above_a_normal_scene(trained: Trained, tmp_path: Path) -> None:
    bundle = tmp_path / "live.vad"
    clip = trained.videos / "fight" / "fi001.mp4"
    said = typed(vad_export, "onnx", trained.run, "-o", bundle, "--clips", clip)
    assert "onnxruntime fp32: differs from PyTorch by at most" in said
    about = Bundle.open(bundle).manifest
    assert (about.family, about.clip.frames, about.clip.hop) == ("mil", 16, 16)

    # The first held-out clip of each class.
    for kind, name in (("fight", "fi010"), ("normal", "nofi010")):
        video = trained.held_out / kind / f"{name}.mp4"
        typed(vad_run, "watch", bundle, video, "-o", tmp_path / name, "--no-overlay", *QUICK)
    assert peak(tmp_path / "fi010") > peak(tmp_path / "nofi010")

    scored = tmp_path / "scored"
    typed(vad_run, "score", bundle, trained.held_out, "-o", scored, "--no-overlay", *QUICK)
    fights, others = peaks(scored, "fight"), peaks(scored, "normal")
    assert len(fights) == len(others) == len(HELD_OUT)
    assert np.mean(fights) > np.mean(others)
    # A stream has no other scores than a file.
    assert fights[0] == pytest.approx(peak(tmp_path / "fi010"), rel=1e-5)


def test_a_head_scores_the_features_of_videos(trained: Trained, tmp_path: Path) -> None:
    head, out = tmp_path / "head.vad", tmp_path / "scored"
    typed(
        *(vad_export, "onnx", trained.run, "-o", head, "--head-only", "--clips", trained.features)
    )
    typed(vad_run, "score", head, trained.features, "-o", out, *QUICK)
    fights, others = peaks(out, "fight"), peaks(out, "normal")
    assert len(fights) == len(others) == len(TRAINED)
    assert np.mean(fights) > np.mean(others)
    (table,) = out.glob("**/fi001/scores.csv")
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 53  # the frames of the video, not of its clips
    assert {row["status"] for row in rows} == {"scored"}
