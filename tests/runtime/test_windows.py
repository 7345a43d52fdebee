"""Frames to clips, checked against a reference that knows the whole stream at once."""

import random

import numpy as np
import pytest
from helpers import clip_spec

from vad_runtime.contracts import ClipSpec
from vad_runtime.windows import Clip, ClipWindow

Segments = list[list[int]]


def pixels_of(index: int, spec: ClipSpec) -> np.ndarray:
    """Return a frame that tells its number."""
    pixels = np.zeros(spec.frame_shape, np.uint8)
    pixels[0, 0, 0], pixels[0, 1, 0] = index % 256, index // 256
    return pixels


def number_in(pixels: np.ndarray) -> int:
    """Return the number that `pixels_of` wrote."""
    return int(pixels[0, 0, 0]) + 256 * int(pixels[0, 1, 0])


def reference(spec: ClipSpec, hop: int, segments: Segments) -> list[list[int]]:
    """Return the source indices of every clip, by slicing each unbroken segment."""
    clips = []
    for segment in segments:
        starts = list(range(0, len(segment) - spec.span + 1, hop))
        kept = segment[:: spec.stride]
        clips += [segment[s : s + spec.span : spec.stride] for s in starts]
        # The tail: the last T kept frames, if the last of them is in no clip yet.
        if len(kept) >= spec.frames and kept[-1] != clips[-1][-1]:
            clips.append(kept[-spec.frames :])
    return clips


def windowed(spec: ClipSpec, hop: int | None, segments: Segments) -> list[list[int]]:
    """Return the source indices of every clip that a window gives, checking their pixels."""
    window = ClipWindow(spec, hop=hop)
    clips = []

    def take(clip: Clip | None) -> None:
        if clip is None:
            return
        assert clip.pixels.shape == (1, *spec.clip_shape)
        assert clip.pixels.dtype == np.uint8
        assert clip.pixels.flags.c_contiguous
        assert not clip.pixels.flags.writeable
        assert [number_in(frame) for frame in clip.pixels[0]] == clip.indices
        clips.append(clip.indices)

    for segment in segments:
        assert window.empty
        for index in segment:
            take(window.push(index, pixels_of(index, spec)))
            assert not window.empty
        take(window.flush())
    return clips


@pytest.mark.parametrize("seed", range(150))
def test_clips_stand_where_a_brute_force_reference_puts_them(seed: int) -> None:
    rng = random.Random(seed)
    frames, stride = rng.randint(1, 9), rng.randint(1, 4)
    hop = stride * rng.randint(1, 2 * frames)
    spec = clip_spec(frames=frames, stride=stride, hop=stride, height=2, width=2)
    segments, index = [], 0
    for _ in range(rng.randint(1, 4)):  # unbroken stretches with holes between them
        length = rng.choice([0, 1, rng.randint(1, spec.span + 1), rng.randint(1, 70)])
        segments.append(list(range(index, index + length)))
        index += length + rng.randint(0, 3)
    assert windowed(spec, hop, segments) == reference(spec, hop, segments)


def test_the_picture_in_the_documentation_is_true() -> None:
    spec = clip_spec(frames=4, hop=2, height=2, width=2)
    assert windowed(spec, None, [list(range(7))]) == [[0, 1, 2, 3], [2, 3, 4, 5], [3, 4, 5, 6]]


def test_there_is_no_clip_before_enough_frames_have_come() -> None:
    spec = clip_spec(frames=4, height=2, width=2)
    for length in range(4):
        assert windowed(spec, 1, [list(range(length))]) == []
    assert windowed(spec, 1, [[0, 1, 2, 3]]) == [[0, 1, 2, 3]]


def test_a_hole_just_before_a_clip_is_full_loses_it() -> None:
    spec = clip_spec(frames=4, height=2, width=2)
    assert windowed(spec, 1, [[0, 1, 2], [4, 5, 6]]) == []


def test_the_tail_is_not_given_twice() -> None:
    spec = clip_spec(frames=4, height=2, width=2)
    assert windowed(spec, 2, [list(range(6))]) == [[0, 1, 2, 3], [2, 3, 4, 5]]


def test_the_stride_starts_anew_after_a_hole() -> None:
    spec = clip_spec(frames=3, stride=2, hop=2, height=2, width=2)
    assert windowed(spec, None, [[0, 1, 2], [10, 11, 12, 13, 14]]) == [[10, 12, 14]]


def test_a_flush_of_an_empty_window_gives_nothing() -> None:
    window = ClipWindow(clip_spec())
    assert window.flush() is None
    assert window.flush() is None


def test_successive_clips_share_their_memory() -> None:
    spec = clip_spec(frames=4, height=8, width=8)
    window = ClipWindow(spec)
    given = [window.push(i, pixels_of(i, spec)) for i in range(5)]
    first, second = given[3], given[4]
    assert first is not None
    assert second is not None
    assert np.shares_memory(first.pixels, second.pixels)
    assert not first.pixels.flags.owndata


def test_a_frame_is_copied_in_so_its_owner_may_reuse_it() -> None:
    spec = clip_spec(frames=2, height=2, width=2)
    window = ClipWindow(spec)
    pixels = pixels_of(1, spec)
    window.push(0, pixels)
    pixels[:] = 99
    clip = window.push(1, pixels)
    assert clip is not None
    assert number_in(clip.pixels[0, 0]) == 1


def test_a_strided_view_of_a_frame_is_taken() -> None:
    spec = clip_spec(frames=1, height=4, width=4, colour="rgb")
    padded = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    clip = ClipWindow(spec).push(0, padded[:, :4])
    assert clip is not None
    np.testing.assert_array_equal(clip.pixels[0, 0], padded[:, :4])


def test_a_frame_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        ClipWindow(clip_spec()).push(0, np.zeros((31, 32, 1), np.uint8))


@pytest.mark.parametrize(("stride", "hop"), [(1, 0), (1, -1), (2, 3), (4, 2)])
def test_a_hop_that_is_no_positive_multiple_of_the_stride_is_refused(stride: int, hop: int) -> None:
    with pytest.raises(ValueError, match=f"got {hop}"):
        ClipWindow(clip_spec(stride=stride, hop=stride), hop=hop)
