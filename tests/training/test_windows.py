"""Training windows: where they lie, what is masked, and how they are changed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers import clip_spec, moving_blob, write_video

from vad_training.config import AugmentConfig
from vad_training.data.store import FrameStore, Segment, _Index, store_from_footage
from vad_training.data.windows import Window, batch_of, split_segments, windows_of


def store(*videos: Sequence[int], height: int = 6, width: int = 8) -> FrameStore:
    """Return a store whose row r holds the value r; each video lists its segments' lengths."""
    segments, row = [], 0
    for number, parts in enumerate(videos):
        for frames in parts:
            segments.append(Segment(video=number, start=row, frames=frames))
            row += frames
    frames = np.empty((row, height, width, 1), np.uint8)
    frames[:] = np.arange(row, dtype=np.uint8)[:, None, None, None]
    names = [f"{i}.mp4" for i in range(len(videos))]
    return FrameStore(frames, _Index(key="k", videos=names, segments=segments, skipped=[], fps=25))


def rows_of(segments: Sequence[Segment]) -> set[int]:
    return {row for s in segments for row in range(s.start, s.start + s.frames)}


# -- where windows lie -------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 4, 8])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_windows_are_exactly_those_that_fit_into_a_segment(frames: int, step: int) -> None:
    footage = store([9], [3, 8, 12], [4])
    expected = []
    for s in footage.segments:
        fitting = [s.start + i for i in range(0, s.frames, step) if i + frames <= s.frames]
        expected += [Window(start, s.start + s.frames) for start in fitting]
    assert windows_of(footage.segments, frames, step) == expected
    for window in windows_of(footage.segments, frames, step):
        owner = [s for s in footage.segments if s.start <= window.start < s.start + s.frames]
        assert window.start + frames <= owner[0].start + owner[0].frames == window.end


def test_the_mask_says_exactly_which_future_frames_the_video_has() -> None:
    footage = store([12], [20])
    windows = windows_of(footage.segments[:1], 4, 1)
    assert [w.start for w in windows] == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    batch = batch_of(footage, windows, 4, 4)
    assert batch.clips.shape == batch.future.shape == (9, 4, 6, 8, 1)
    existing = [4, 4, 4, 4, 4, 3, 2, 1, 0]
    assert batch.mask.tolist() == [[i < n for i in range(4)] for n in existing]
    for window, clip, future, mask in zip(
        windows, batch.clips, batch.future, batch.mask, strict=True
    ):
        assert clip[:, 0, 0, 0].tolist() == list(range(window.start, window.start + 4))
        wanted = np.arange(window.start + 4, window.start + 8)
        assert future[mask, 0, 0, 0].tolist() == wanted[wanted < 12].tolist()
        # Behind the end the last frame of this video stands, never one of the next video.
        assert (future[~mask] == 11).all()


@pytest.mark.parametrize("offset", [1, 4, 7])
def test_the_offset_moves_the_future(offset: int) -> None:
    footage = store([30])
    batch = batch_of(footage, [Window(3, 30)], 8, offset)
    assert batch.future[0, :, 0, 0, 0].tolist() == list(range(3 + offset, 11 + offset))
    assert batch.mask.all()


def test_a_batch_is_the_callers_own() -> None:
    footage = store([30])
    batch = batch_of(footage, [Window(0, 30)], 8, 8)
    batch.clips[:] = 99
    batch.future[:] = 99
    assert footage.frames[:16, 0, 0, 0].tolist() == list(range(16))


# -- augmentation ------------------------------------------------------------------------------


def textured(rows: int) -> FrameStore:
    """Return a store in which every row is the same textured picture: nothing moves."""
    footage = store([rows], height=32, width=40)
    texture = np.random.default_rng(0).integers(0, 256, (32, 40, 1), np.uint8)
    footage.frames = np.broadcast_to(texture, (rows, 32, 40, 1))
    return footage


def test_a_static_scene_stays_static_under_augmentation() -> None:
    footage = textured(24)
    augment = AugmentConfig(rotation_deg=5.0, blur_sigma=2.0)
    rng = np.random.default_rng(1)
    different = 0
    for _ in range(12):
        batch = batch_of(footage, [Window(0, 24)], 8, 8, augment, rng)
        for frame in (*batch.clips[0], *batch.future[0]):
            np.testing.assert_array_equal(frame, batch.clips[0, 0])
        different += not np.array_equal(batch.clips[0, 0], footage.frames[0])
    assert different == 12


def test_each_window_of_a_batch_is_changed_differently() -> None:
    footage = textured(24)
    batch = batch_of(
        footage, [Window(0, 24)] * 3, 8, 8, AugmentConfig(rotation_deg=5), np.random.default_rng(2)
    )
    assert not np.array_equal(batch.clips[0], batch.clips[1])
    assert not np.array_equal(batch.clips[1], batch.clips[2])


def test_augmentation_follows_from_the_generator_alone() -> None:
    footage = textured(24)
    windows = [Window(0, 24), Window(2, 24)]

    def batch(seed: int) -> bytes:
        made = batch_of(footage, windows, 8, 8, AugmentConfig(), np.random.default_rng(seed))
        return made.clips.tobytes() + made.future.tobytes()

    assert batch(5) == batch(5)
    assert batch(5) != batch(6)


def test_no_augmentation_changes_nothing() -> None:
    footage = textured(24)
    none = AugmentConfig(rotation_deg=0, blur_sigma=0)
    batch = batch_of(footage, [Window(0, 24)], 8, 8, none, np.random.default_rng(0))
    np.testing.assert_array_equal(batch.clips[0], footage.frames[:8])


def test_augmentation_keeps_the_picture_in_place() -> None:
    footage = textured(24)
    rng = np.random.default_rng(4)
    smooth = np.outer(np.linspace(20, 200, 32), np.linspace(0.5, 1, 40)).astype(np.uint8)
    footage.frames = np.broadcast_to(smooth[:, :, None], (24, 32, 40, 1))
    for _ in range(6):
        batch = batch_of(footage, [Window(0, 24)], 8, 8, AugmentConfig(), rng)
        gap = np.abs(batch.clips[0, 0].astype(int) - footage.frames[0])
        assert gap.mean() < 4  # 2 degrees move the rim by less than a pixel


def test_colour_frames_can_be_augmented() -> None:
    footage = textured(24)
    colour = np.random.default_rng(0).integers(0, 256, (24, 32, 40, 3), np.uint8)
    footage.frames = colour
    batch = batch_of(
        footage, [Window(0, 24)], 8, 8, AugmentConfig(rotation_deg=3), np.random.default_rng(0)
    )
    assert batch.clips.shape == (1, 8, 32, 40, 3)


# -- split -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99])
def test_no_video_is_in_both_parts(seed: int, fraction: float) -> None:
    footage = store([9], [3, 8], [12], [4, 4], [30], [5], [7])
    train, held = split_segments(footage, fraction, seed)
    trained, kept = {s.video for s in train}, {s.video for s in held}
    assert trained
    assert kept
    assert not trained & kept
    assert trained | kept == set(range(7))
    assert rows_of(train) | rows_of(held) == set(range(len(footage.frames)))
    assert not rows_of(train) & rows_of(held)


def test_the_split_follows_from_the_seed_alone() -> None:
    footage = store(*[[10]] * 12)
    assert split_segments(footage, 0.3, 7) == split_segments(footage, 0.3, 7)
    splits = {tuple(s.video for s in split_segments(footage, 0.3, seed)[1]) for seed in range(10)}
    assert len(splits) > 5


@pytest.mark.parametrize("parts", [[100], [40, 60], [79, 21], [80, 20], [5, 95], [33, 33, 34]])
def test_one_video_is_cut_in_two_without_overlap(parts: list[int]) -> None:
    footage = store(parts)
    train, held = split_segments(footage, 0.2, 0)
    assert rows_of(train) == set(range(80))
    assert rows_of(held) == set(range(80, 100))
    assert all(s.frames > 0 for s in (*train, *held))


def test_no_frame_of_the_validation_part_is_a_future_of_training() -> None:
    footage = store([40])
    train, held = split_segments(footage, 0.25, 0)
    windows = windows_of(train, 8, 1)
    batch = batch_of(footage, windows, 8, 8)
    seen = {*batch.clips[..., 0, 0, 0].flat, *batch.future[..., 0, 0, 0].flat}
    assert max(seen) == 29
    assert min(rows_of(held)) == 30


def test_real_videos_become_real_windows(tmp_path: Path) -> None:
    for i in range(3):
        write_video(tmp_path / f"{i}.mp4", moving_blob(20 + i, seed=i))
    footage = store_from_footage([tmp_path], clip_spec(), tmp_path / "frames")
    train, held = split_segments(footage, 0.2, 0)
    windows = windows_of(train, 8, 2) + windows_of(held, 8, 2)
    batch = batch_of(footage, windows, 8, 8)
    assert len(windows) == 7 + 7 + 8
    for window, clip in zip(windows, batch.clips, strict=True):
        np.testing.assert_array_equal(clip, footage.frames[window.start : window.start + 8])
