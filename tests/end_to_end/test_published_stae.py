"""The published STAE weights, exported and run by the commands, find what their author found."""

import csv
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

BIN = Path(sys.executable).parent
PEAK = range(60, 68)
"""Frames of Video20 in which the author's curve has its maximum."""
PARITY = 1e-4


def run(*command: str | Path) -> str:
    """Run an installed command as a user would; its standard output."""
    done = subprocess.run(
        [BIN / command[0], *map(str, command[1:])], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published weights in the form of the published offline code. Do not change."""
    path = tmp_path_factory.mktemp("published") / "stae.vad"
    run(
        *("vad-export", "onnx", data / "stae" / "model_final_checkpoint.pth", "-o", path),
        *("--form", "lookahead", "--future-offset", "4", "--hop", "4", "--resizer", "exact"),
        *("--clips", data / "stae" / "Video20.mp4"),
    )
    return path


@pytest.fixture(scope="module")
def offline(bundle: Path, data: Path) -> npt.NDArray[np.float64]:
    """The offline column of Video20, NaN where a frame has none."""
    out = bundle.parent / "scores"
    video = data / "stae" / "Video20.mp4"
    run("vad-run", "score", bundle, video, "-o", out, "--no-overlay", "--no-plot")
    with (out / "scores.csv").open(newline="") as file:
        values = [row["offline"] for row in csv.DictReader(file)]
    return np.array([float(value) if value else np.nan for value in values])


@pytest.mark.data
@pytest.mark.slow
def test_the_manifest_says_that_both_engines_score_like_pytorch(bundle: Path) -> None:
    manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes())
    engines = manifest["parity"]["engines"]
    for name in ("onnxruntime fp32", "openvino fp32"):
        assert engines[name]["max_of_scale"] <= PARITY, engines[name]
    assert manifest["score"] == {
        "per": "frame",
        "form": "lookahead",
        "first": 0,
        "count": 16,
        "alpha": 1.0,
    }
    assert manifest["clip"]["frames"] == 20
    assert all("Video20.mp4" in origin for origin in manifest["parity"]["clip_origins"])


@pytest.mark.data
@pytest.mark.slow
def test_the_offline_score_peaks_where_its_author_has_the_peak(
    offline: npt.NDArray[np.float64],
) -> None:
    assert len(offline) == 238
    # The last frames are what the prediction is compared with and have no score of their own.
    assert np.flatnonzero(np.isnan(offline)).tolist() == [234, 235, 236, 237]
    assert np.nanmin(offline) >= 0
    assert np.nanmax(offline) <= 1
    assert int(np.nanargmax(offline)) in PEAK


@pytest.mark.data
@pytest.mark.slow
def test_the_offline_score_follows_the_authors_curve(
    offline: npt.NDArray[np.float64], data: Path
) -> None:
    author = np.load(data / "stae" / "video20_author_scores_ocr.npy").astype(np.float64)
    readable = ~np.isnan(author) & ~np.isnan(offline[: len(author)])
    assert readable.sum() > 150
    pearson = np.corrcoef(author[readable], offline[: len(author)][readable])[0, 1]
    assert pearson >= 0.85
