"""A training run as a back end."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import clip_spec, frame_stream

from vad_runtime.contracts import BackendError, ConfigError
from vad_runtime.detector import Detector
from vad_training.checkpoint_file import save_checkpoint
from vad_training.config import LossConfig, MilConfig, StaeConfig
from vad_training.config.mil import HeadConfig
from vad_training.models.mil import mil_head
from vad_training.models.stae import STAE
from vad_training.torch_backend import open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a small, untrained STAE. Do not change."""
    folder = tmp_path_factory.mktemp("runs") / "gate"
    folder.mkdir()
    torch.manual_seed(0)
    config = StaeConfig(clip=clip_spec(hop=4), loss=LossConfig(future_offset=8))
    save_checkpoint(folder / "best.pt", {"model": STAE().state_dict()}, config)
    return folder


def test_a_run_scores_a_stream_by_the_devices_road(run: Path) -> None:
    manifest, backend = open_run(run)
    assert (manifest.name, manifest.family, manifest.artefacts) == ("gate", "stae", {})
    assert backend.device.startswith(f"PyTorch {torch.__version__} on cpu (")
    assert ", fp32, " in backend.device
    frames = frame_stream(manifest.clip, 12)
    rows = list(Detector(manifest, backend).run(frames, nominal_fps=25.0))
    assert [row.status for row in rows] == ["scored"] * 12
    clip = np.stack([frame.pixels for frame in frames[:8]])[None]
    want = backend.infer(clip)["score"][0]
    assert [row.raw for row in rows[:8]] == pytest.approx(want.tolist())
    backend.close()


def test_another_form_can_be_asked_for(run: Path) -> None:
    manifest, backend = open_run(run, form="prediction")
    assert (manifest.clip.frames, manifest.score.first) == (16, 8)
    assert backend.infer(np.zeros((2, 16, 32, 32, 1), np.uint8))["score"].shape == (2, 8)
    with pytest.raises(ConfigError, match="no score of form error"):
        open_run(run, form="error")


def test_a_head_without_a_backbone_takes_features(tmp_path: Path) -> None:
    config = MilConfig(head=HeadConfig(hidden=(4, 3)))
    content = {"model": mil_head(config.head, 5).state_dict()}
    save_checkpoint(tmp_path / "best.pt", content, config)
    manifest, backend = open_run(tmp_path)
    assert manifest.features is not None
    assert manifest.input_shape == (32, 5)
    score = backend.infer(np.zeros((1, 32, 5), np.float32))["score"]
    assert score.shape == (1, 32)


def test_wrong_clips_and_a_closed_run_are_plain_errors(run: Path) -> None:
    _, backend = open_run(run)
    with pytest.raises(BackendError, match="clips must be C-contiguous uint8"):
        backend.infer(np.zeros((1, 8, 32, 32, 1), np.float32))
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="was closed"):
        backend.infer(np.zeros((1, 8, 32, 32, 1), np.uint8))
