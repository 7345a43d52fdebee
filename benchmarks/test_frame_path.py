"""What a frame costs on its way into a clip: decode, resize, ring."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import av
import numpy as np
import numpy.typing as npt
import pytest
from helpers import moving_blob, write_video
from perf_ratios import interval_kind, ratio, rounds
from pytest_benchmark.fixture import BenchmarkFixture

from vad_runtime.contracts import BackendError, ClipSpec
from vad_runtime.native import native_module
from vad_runtime.ring import FrameRing
from vad_runtime.sources.portable import path_taken, resized_with_numpy
from vad_runtime.sources.resize import planes_from_frame, resized

FRAMES = 24
SIZES = {"1080p": (1080, 1920), "320x240": (240, 320)}
SPEC = ClipSpec(frames=16, height=128, width=128, colour="gray")

Pixels = npt.NDArray[np.uint8]
Resizer = Literal["exact", "fast", "portable"]
DECODE, NUMPY = "decode only", "portable, NumPy"


@pytest.fixture(scope="module")
def video_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the H.264 film of a size, drawn when first asked for."""
    folder = tmp_path_factory.mktemp("films")

    def video(size: str) -> Path:
        path = folder / f"{size}.mp4"
        if not path.exists():
            height, width = SIZES[size]
            write_video(path, moving_blob(FRAMES, height=height, width=width))
        return path

    return video


def read(path: Path, resize: Callable[[av.VideoFrame], Pixels] | None) -> list[Pixels]:
    """Decode a film in this thread alone, so that its time is counted, and counted once."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            if resize is not None:
                found.append(resize(frame).copy())
    return found


def ways() -> dict[str, Callable[[av.VideoFrame], Pixels] | None]:
    """Return every way from a decoded frame to model size that there is here."""
    found: dict[str, Callable[[av.VideoFrame], Pixels] | None] = {DECODE: None}
    for name in get_args(Resizer):
        spec = ClipSpec(frames=16, height=128, width=128, colour="gray", resizer=name)
        label = f"portable, {path_taken()}" if name == "portable" else name
        if name != "portable" or native_module() is not None:
            found[label] = lambda frame, spec=spec: resized(frame, spec)
    spec = ClipSpec(frames=16, height=128, width=128, colour="gray", resizer="portable")
    found[NUMPY] = lambda frame: resized_with_numpy(planes_from_frame(frame), spec)
    return found


@pytest.mark.parametrize("size", SIZES)
def test_decode_and_resize(
    benchmark: BenchmarkFixture,
    board: Any,
    video_of: Callable[[str], Path],
    size: str,
    full: bool,
) -> None:
    """The row of pytest-benchmark is a round of all ways; the board has the table."""
    benchmark.group = f"decode and resize {FRAMES} frames of H.264 to 128 x 128 grey, all ways"
    path = video_of(size)
    pictures: dict[str, list[Pixels]] = {}

    def go(name: str, way: Callable[[av.VideoFrame], Pixels] | None) -> None:
        pictures[name] = read(path, way)

    calls = {name: (lambda n=name, w=way: go(n, w)) for name, way in ways().items()}
    held: dict[str, Any] = {}
    count = 11 if full else 1
    benchmark.pedantic(
        lambda: held.update(rounds(calls, count=count, max_s=20.0, warm_up=1 if full else 0)),
        rounds=1,
    )
    require_one_picture(pictures)
    fast = held["fast"].cpu_ms - held[DECODE].cpu_ms
    rows = []
    for name, times in held.items():
        resize = times.cpu_ms - held[DECODE].cpu_ms
        # A difference of two times that are much larger: what is left of it may be noise.
        sure = name != DECODE and bool(np.all(resize > 0) and np.all(fast > 0))
        rows.append(
            [
                name,
                float(np.median(times.cpu_ms)) / FRAMES,
                None if name == DECODE else float(np.median(resize)) / FRAMES,
                str(ratio(fast, resize)) if sure else None,
            ]
        )
    kind = interval_kind(len(fast))
    head = ["way", "CPU ms a frame", "of that resizing", f"x fast ({kind})"]
    board.table(f"{size} H.264 to 128 x 128 grey, one thread", head, rows)


def require_one_picture(pictures: dict[str, list[Pixels]]) -> None:
    """Fail where a way is fast because it does something else."""
    want = np.stack(pictures[NUMPY]).astype(int)
    # The square in it moves.
    assert np.abs(want[-1] - want[0]).max() > 30
    for name, frames in pictures.items():
        if name == DECODE:
            assert not frames
            continue
        assert len(frames) == FRAMES
        assert all(f.shape == SPEC.frame_shape and f.dtype == np.uint8 for f in frames)
        # The resizers see the same picture, though not to the last grey level.
        gap = np.abs(np.stack(frames) - want)
        assert gap.mean() < 3, name
        assert gap.max() == 0 or "portable" not in name, name


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
