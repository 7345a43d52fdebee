"""Optical flow as the I3D flow network takes it."""

from typing import Any

import cv2
import numpy as np
import pytest
from helpers import assert_one_line

import vad_training.models.backbones.flow as module
from vad_runtime.contracts import ConfigError
from vad_training.models.backbones.flow import flow_from_clip


def moving(pixels: int, frames: int = 4) -> np.ndarray:
    """A smooth random texture that moves to the right by `pixels` a frame; (T, 96, 128, 3)."""
    wide = np.random.default_rng(0).integers(0, 256, (96, 128 + pixels * frames), np.uint8)
    wide = cv2.normalize(cv2.GaussianBlur(wide, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    starts = [pixels * (frames - t) for t in range(frames)]
    gray = np.stack([wide[:, start : start + 128] for start in starts])
    return np.repeat(gray[..., None], 3, axis=3)


@pytest.mark.parametrize("method", ["dis", "farneback"])
def test_flow_is_the_motion_in_units_of_twenty_pixels(method: Any) -> None:
    flow = flow_from_clip(moving(2), method)
    assert flow.shape == (4, 96, 128, 2)
    assert flow.dtype == np.float32
    inner = flow[:, 16:-16, 16:-16]
    assert np.median(inner[..., 0]) == pytest.approx(2 / 20, abs=0.01)
    assert np.median(inner[..., 1]) == pytest.approx(0, abs=0.01)
    np.testing.assert_array_equal(flow[3], flow[2])  # there is no frame after the last


def test_long_motion_is_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLOW_LIMIT_PX", 0.5)
    flow = flow_from_clip(moving(2))
    assert np.abs(flow).max() == 1
    assert np.median(flow[..., 0]) == 1


def test_a_flow_method_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        flow_from_clip(moving(1), "tvl1")  # type: ignore[arg-type]
    assert_one_line(caught.value, "tvl1", "dis, farneback")
    with pytest.raises(ValueError, match="two frames, got 1"):
        flow_from_clip(moving(1)[:1])
