"""What a frame costs on its way into a clip: decode, resize, ring."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from helpers import moving_blob, write_video
from pytest_benchmark.fixture import BenchmarkFixture

from vad_runtime.contracts import BackendError, ClipSpec
from vad_runtime.ring import FrameRing
from vad_runtime.sources import open_source

FRAMES = 24
SIZES = {"1080p": (1080, 1920), "320x240": (240, 320)}
SPEC = ClipSpec(frames=16, height=128, width=128, colour="gray")

Pixels = npt.NDArray[np.uint8]
Resizer = Literal["exact", "fast"]


@pytest.fixture(scope="module")
def video_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the H.264 clip of a size, drawn when first asked for."""
    folder = tmp_path_factory.mktemp("clips")

    def video(size: str) -> Path:
        path = folder / f"{size}.mp4"
        if not path.exists():
            height, width = SIZES[size]
            write_video(path, moving_blob(FRAMES, height=height, width=width))
        return path

    return video


def spec_with(resizer: Resizer) -> ClipSpec:
    """Return the STAE's clip with a resizer."""
    return ClipSpec(frames=16, height=128, width=128, colour="gray", resizer=resizer)


def read(path: Path, resizer: Resizer) -> list[Pixels]:
    """Decode a file to model size, as `vad-run --no-overlay` does."""
    source = open_source(path, spec_with(resizer), pictures=False)
    return [frame.pixels for frame in source.frames()]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resizer", ["fast", "exact"])
def test_decode_and_resize(
    benchmark: BenchmarkFixture,
    video_of: Callable[[str], Path],
    size: str,
    resizer: Resizer,
) -> None:
    benchmark.group = f"decode and resize {FRAMES} frames of {size} H.264 to 128 x 128 grey"
    path = video_of(size)
    frames = benchmark.pedantic(read, args=(path, resizer), rounds=5, warmup_rounds=1)
    assert len(frames) == FRAMES
    assert all(f.shape == SPEC.frame_shape and f.dtype == np.uint8 for f in frames)
    # The two resizers see the same picture, though not to the last grey level.
    other = read(path, "exact" if resizer == "fast" else "fast")
    gap = np.abs(np.stack(frames).astype(int) - np.stack(other))
    assert gap.mean() < 3
    # And the square in it moves.
    assert np.abs(frames[-1].astype(int) - frames[0]).max() > 30


@pytest.mark.parametrize("native", [True, False], ids=["native", "pure"])
def test_push_into_the_ring_and_take_the_clip(benchmark: BenchmarkFixture, native: bool) -> None:
    benchmark.group = "ring of 16 frames of 128 x 128 grey: 64 times push and latest"
    try:
        ring = FrameRing(SPEC.frames, SPEC.frame_shape, native=native)
    except BackendError as error:
        if os.environ.get("VAD_REQUIRE_NATIVE") == "1":
            raise
        pytest.skip(str(error))
    assert ring.native is native
    rng = np.random.default_rng(0)
    frames = list(rng.integers(0, 256, (64, *SPEC.frame_shape), np.uint8))
    for frame in frames[: SPEC.frames]:
        ring.push(frame)

    def go_through() -> Pixels:
        for frame in frames:
            ring.push(frame)
            clip = ring.latest()
        return clip

    clip = benchmark(go_through)
    assert clip.flags.c_contiguous
    np.testing.assert_array_equal(clip, np.stack(frames[-SPEC.frames :]))
