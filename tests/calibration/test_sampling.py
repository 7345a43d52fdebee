"""Clips drawn evenly from footage."""

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from helpers import assert_one_line, clip_spec, moving_blob, write_video

from vad_calibration import SampledClips, clips_from_footage
from vad_runtime.contracts import ClipSpec, SourceError
from vad_runtime.sources import open_source

SPEC = clip_spec()


def sampled(path: Path, count: int, spec: ClipSpec = SPEC, *, seed: int = 0) -> SampledClips:
    return clips_from_footage([path], spec, count, seed=seed)


def pixels_of(path: Path, spec: ClipSpec = SPEC) -> list[np.ndarray]:
    return [frame.pixels for frame in open_source(path, spec).frames()]


@pytest.mark.parametrize(
    "changes", [{}, {"stride": 3, "hop": 3}, {"colour": "rgb", "width": 48}, {"hop": 7}]
)
def test_a_clip_holds_the_frames_that_its_origin_says(
    tiny_video: Path, changes: dict[str, object]
) -> None:
    spec = clip_spec(**changes)
    frames = pixels_of(tiny_video, spec)
    sample = sampled(tiny_video, 5, spec)
    assert sample.clips.shape == (5, *spec.clip_shape)
    assert sample.clips.dtype == np.uint8
    assert sample.clips.flags.c_contiguous
    for clip, (name, first) in zip(sample.clips, sample.origins, strict=True):
        assert name == str(tiny_video)
        expected = np.stack(frames[first :: spec.stride][: spec.frames])
        np.testing.assert_array_equal(clip, expected)


def test_the_clips_are_spread_over_the_whole_video(tiny_video: Path) -> None:
    for seed in range(5):
        firsts = [first for _, first in sampled(tiny_video, 5, seed=seed).origins]
        # 53 places in five stretches of ten, the rest belongs to the last.
        assert [min(first // 10, 4) for first in firsts] == [0, 1, 2, 3, 4]


def test_the_sample_follows_from_the_seed_alone(tiny_video: Path) -> None:
    one, same, other = (sampled(tiny_video, 4, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.clips, same.clips)
    assert one.origins == same.origins
    assert one.origins != other.origins


def test_every_place_of_a_stretch_can_be_drawn(tmp_path: Path) -> None:
    video = write_video(tmp_path / "short.mp4", moving_blob(12))
    firsts = [sampled(video, 1, seed=seed).origins[0][1] for seed in range(30)]
    assert set(firsts) == {0, 1, 2, 3, 4}


def test_videos_share_the_clips_evenly(tmp_path: Path) -> None:
    videos = [write_video(tmp_path / f"{i}.mp4", moving_blob(20, seed=i)) for i in range(5)]

    def counts(count: int) -> list[int]:
        names = [name for name, _ in clips_from_footage(videos, SPEC, count).origins]
        return [names.count(str(video)) for video in videos]

    assert counts(5) == [1] * 5
    assert counts(8) == [2, 2, 2, 1, 1]
    assert counts(2) == [1, 0, 0, 0, 1]
    assert counts(3) == [1, 0, 1, 0, 1]


def test_a_video_that_does_not_know_its_length_is_sampled_evenly_too(tmp_path: Path) -> None:
    video = write_video(tmp_path / "long.mkv", moving_blob(60))
    assert open_source(video, SPEC).info.frames is None
    firsts = np.array(
        [[first for _, first in sampled(video, 4, seed=seed).origins] for seed in range(12)]
    )
    assert (np.diff(firsts, axis=1) > 0).all()
    assert firsts[:, 0].mean() > 3  # not always the first clips
    assert 15 < firsts.mean() < 37


def test_no_clip_spans_a_hole(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i, image in enumerate(moving_blob(30)):
        picture = av.VideoFrame.from_ndarray(image, format="rgb24")
        picture.save(str(images / f"{i:03}.png"))
    (images / "012.png").write_bytes(b"no image")
    firsts = {first for seed in range(8) for _, first in sampled(images, 4, seed=seed).origins}
    assert firsts <= {*range(5), *range(13, 23)}
    assert len(firsts) > 6


def test_no_clip_spans_a_jump_in_time(tmp_path: Path) -> None:
    times = [*range(12), *range(100, 112)]
    video = write_video(tmp_path / "jump.mkv", moving_blob(24), pts=times)
    firsts = {first for seed in range(8) for _, first in sampled(video, 4, seed=seed).origins}
    assert firsts <= {*range(5), *range(12, 17)}


def test_one_clip_is_enough(tmp_path: Path) -> None:
    video = write_video(tmp_path / "short.mp4", moving_blob(8))
    assert sampled(video, 3).origins == [(str(video), 0)]


def test_the_places_of_a_long_video_are_apart(tiny_video: Path) -> None:
    firsts = [first for _, first in sampled(tiny_video, 3).origins]
    assert all(b > a for a, b in pairwise(firsts))


def test_footage_without_one_whole_clip_is_one_line(tmp_path: Path) -> None:
    video = write_video(tmp_path / "short.mp4", moving_blob(7))
    with pytest.raises(SourceError) as caught:
        sampled(video, 2)
    assert_one_line(caught.value, "8 good frames")
    with pytest.raises(SourceError):
        clips_from_footage([], SPEC, 2)


def test_a_broken_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_text("no video")
    with pytest.raises(SourceError) as caught:
        sampled(tmp_path / "x.mp4", 2)
    assert_one_line(caught.value, "x.mp4")


def test_one_broken_video_among_good_ones_gives_no_clips(tmp_path: Path, tiny_video: Path) -> None:
    broken = tmp_path / "x.mp4"
    broken.write_text("no video")
    found = clips_from_footage([broken, tiny_video], SPEC, 4)
    assert {origin for origin, _ in found.origins} == {str(tiny_video)}
