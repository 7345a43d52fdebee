"""Real files, real codecs, real damage."""

import os
import shutil
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from helpers import (
    assert_one_line,
    clip_spec,
    decoded_count,
    manifest,
    moving_blob,
    write_audio,
    write_raw_h264,
    write_video,
)

from vad_runtime.backends.base import Options
from vad_runtime.backends.fake import FakeBackend
from vad_runtime.contracts import ClipSpec, SourceError
from vad_runtime.detector import Detector
from vad_runtime.sources import Frame, FrameSource, find_sources, open_source
from vad_runtime.sources.video import _natural

# Counted with PyAV alone: name, codec, frames that decode.
CLIPS = [
    ("Arrest030_x264.mp4", "h264", 528),
    ("Megamind_bugy.avi", "mpeg4", 270),
    ("av1_video.mkv", "libdav1d", 125),
    ("car-detection.mp4", "h264", 377),
    ("nasa_13013.mp4", "h264", 325),
    ("one-by-one-person-detection.mp4", "h264", 1394),
    ("testsrc2_h265.mp4", "hevc", 60),
    ("v_GGSY1Qvo990.mp4", "h264", 355),
    ("vtest.avi", "msmpeg4", 795),
]
SPEC = clip_spec(height=48, width=64, colour="rgb")


def read(path: str | Path, spec: ClipSpec = SPEC) -> tuple[FrameSource, list[Frame]]:
    """Read a source to its end and check what always holds."""
    source = open_source(path, spec)
    frames = list(source.frames())
    assert source.stats.frames == len(frames)
    assert source.stats.damaged == sum(frame.damaged for frame in frames)
    assert sum(source.stats.holes.values()) == sum(frame.hole is not None for frame in frames)
    assert all(frame.pixels.shape == spec.frame_shape for frame in frames)
    assert all(frame.pixels.dtype == np.uint8 for frame in frames)
    for before, after in pairwise(frames):
        assert after.index > before.index
        assert after.pts_s - before.pts_s > 1e-6
    if frames:
        assert frames[0].pts_s == 0
    return source, frames


def refusal(path: Path, *parts: str) -> None:
    """Assert that a path cannot be opened and that one line says why."""
    with pytest.raises(SourceError) as caught:
        list(open_source(path, SPEC).frames())
    assert_one_line(caught.value, str(path), *parts)


# -- real clips --------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(("name", "codec", "count"), CLIPS, ids=[name for name, _, _ in CLIPS])
def test_every_sample_decodes_to_its_last_frame(
    data: Path, name: str, codec: str, count: int
) -> None:
    source, frames = read(data / "clips" / name, clip_spec())
    assert len(frames) == count
    assert source.info.codec == codec
    assert source.info.frames in (None, count)
    assert [frame.index for frame in frames] == list(range(count))
    assert source.stats.undecodable_packets == 0
    assert source.stats.notes == []
    assert all(frame.hole is None for frame in frames)


@pytest.mark.data
def test_no_sample_was_forgotten(data: Path) -> None:
    assert {path.name for path in find_sources(data / "clips")} == {name for name, _, _ in CLIPS}


@pytest.mark.data
def test_times_that_step_back_are_repaired_and_counted(data: Path) -> None:
    source, frames = read(data / "clips" / "Megamind_bugy.avi", clip_spec())
    assert len(frames) == 270
    assert source.stats.timestamps_repaired >= 88  # so often the file itself steps back
    steps = np.diff([frame.pts_s for frame in frames])
    assert steps.min() > 0.9 / 30
    assert steps.max() < 4 / 30
    assert frames[-1].pts_s == pytest.approx(269 / 30, abs=0.1)


@pytest.mark.data
@pytest.mark.parametrize("name", ["Arrest030_x264.mp4", "vtest.avi", "car-detection.mp4"])
@pytest.mark.parametrize("colour", ["rgb", "gray"])
@pytest.mark.parametrize("interpolation", ["area", "bilinear"])
def test_exact_is_what_opencv_decodes_and_resizes(
    data: Path, name: str, colour: str, interpolation: str
) -> None:
    spec = clip_spec(
        height=112, width=112, colour=colour, resizer="exact", interpolation=interpolation
    )
    rule = cv2.INTER_AREA if interpolation == "area" else cv2.INTER_LINEAR
    capture = cv2.VideoCapture(str(data / "clips" / name))
    to = cv2.COLOR_BGR2RGB
    for frame, _ in zip(open_source(data / "clips" / name, spec).frames(), range(25), strict=False):
        good, image = capture.read()
        assert good
        image = cv2.cvtColor(image, to)
        if colour == "gray":
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        expected = cv2.resize(image, (112, 112), interpolation=rule)
        np.testing.assert_array_equal(frame.pixels, expected.reshape(spec.frame_shape))
    capture.release()


@pytest.mark.data
@pytest.mark.parametrize("colour", ["rgb", "gray"])
def test_fast_stays_within_the_documented_distance_of_exact(data: Path, colour: str) -> None:
    # Area filters of two libraries are 24 to 28 dB apart at 112 x 112; nearest is at 18.
    path = data / "clips" / "vtest.avi"
    errors, bias = [], []
    exact = clip_spec(height=112, width=112, colour=colour, resizer="exact")
    fast = clip_spec(height=112, width=112, colour=colour, resizer="fast")
    pairs = zip(open_source(path, exact).frames(), open_source(path, fast).frames(), strict=True)
    for (a, b), _ in zip(pairs, range(10), strict=False):
        difference = a.pixels.astype(float) - b.pixels
        errors.append(float((difference**2).mean()))
        bias.append(float(difference.mean()))
    assert 10 * np.log10(255**2 / np.mean(errors)) > 24
    assert abs(np.mean(bias)) < 1.5


@pytest.mark.data
def test_a_grey_jpeg_at_its_own_size_keeps_its_values(data: Path) -> None:
    folder = data / "ped2" / "testing" / "frames" / "01"
    file = sorted(folder.glob("*.jpg"))[0]
    expected = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    for resizer in ("exact", "fast"):
        spec = clip_spec(height=240, width=360, resizer=resizer)
        first = next(iter(open_source(folder, spec).frames()))
        difference = np.abs(first.pixels[..., 0].astype(int) - expected)
        assert difference.max() <= 1, resizer


@pytest.mark.data
def test_fight_clips_of_every_size_and_rate_decode(data: Path) -> None:
    paths = sorted((data / "fight" / "normal").glob("*.mp4"))[:6]
    for path in paths:
        _, frames = read(path)
        assert len(frames) == decoded_count(path)


# -- made videos -------------------------------------------------------------------------------


def test_a_made_video_says_what_it_is(tiny_video: Path) -> None:
    source, frames = read(tiny_video)
    info = source.info
    assert (info.width, info.height, info.fps, info.frames) == (160, 120, 15.0, 60)
    assert (info.kind, info.codec, info.name) == ("video file", "h264", str(tiny_video))
    assert len(frames) == 60
    np.testing.assert_allclose([f.pts_s for f in frames], np.arange(60) / 15, atol=1e-6)
    assert source.stats.timestamps_repaired == 0


@pytest.mark.parametrize("resizer", ["fast", "exact"])
def test_the_picture_is_the_frame_at_full_size(tiny_video: Path, resizer: str) -> None:
    spec = clip_spec(height=48, width=64, colour="rgb", resizer=resizer)
    for frame, image in zip(open_source(tiny_video, spec).frames(), moving_blob(60), strict=True):
        picture = frame.picture()
        assert picture.shape == (120, 160, 3)
        assert np.abs(picture.astype(int) - image).mean() < 15  # what H.264 leaves of noise


def test_frames_stay_as_they_are_while_reading_goes_on(tiny_video: Path) -> None:
    kept = [(f, f.pixels.copy(), f.picture()) for f in open_source(tiny_video, SPEC).frames()]
    for frame, pixels, picture in kept:
        np.testing.assert_array_equal(frame.pixels, pixels)
        np.testing.assert_array_equal(frame.picture(), picture)


@pytest.mark.parametrize("width", [1, 17, 33, 64, 250])
@pytest.mark.parametrize("colour", ["rgb", "gray"])
def test_a_width_that_does_not_suit_the_processor_leaves_no_padding(
    tiny_video: Path, width: int, colour: str
) -> None:
    spec = clip_spec(height=31, width=width, colour=colour)
    frame = next(iter(open_source(tiny_video, spec).frames()))
    assert frame.pixels.shape == spec.frame_shape
    with av.open(str(tiny_video)) as container:
        image = next(container.decode(video=0))
    form = "gray" if colour == "gray" else "rgb24"
    expected = image.reformat(width, 31, form, interpolation="AREA").to_ndarray()
    np.testing.assert_array_equal(frame.pixels.squeeze(), expected.squeeze())


def test_times_count_from_the_first_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "late.mkv", moving_blob(5), pts=range(900, 905))
    _, frames = read(path)
    np.testing.assert_allclose([f.pts_s for f in frames], np.arange(5) / 15, atol=2e-3)


def test_a_gap_in_the_times_of_a_file_is_kept_and_flushes_the_detector(tmp_path: Path) -> None:
    pts = [*range(30), *range(105, 135)]
    path = write_video(tmp_path / "gap.mp4", moving_blob(60), pts=pts)
    about = manifest(clip=clip_spec())
    source = open_source(path, about.clip)
    detector = Detector(about, FakeBackend(path, about, Options()))
    found = list(detector.run(source.frames(), nominal_fps=15.0))
    assert len(found) == 60
    assert found[30].frame.pts_s - found[29].frame.pts_s == pytest.approx(76 / 15, abs=1e-3)
    assert detector.counters.flushes == {"jump in time": 1}


def test_a_name_like_an_address_is_still_a_file(
    tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cam:1.mp4", "50%d [x].mp4", "Tür 1.mp4", "-loop.mp4", "no-suffix"):
        shutil.copy(tiny_video, name)
        assert len(read(name)[1]) == 60


# -- damaged videos ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_h264_file_is_read_through_and_the_damage_is_counted(
    tiny_video: Path, tmp_path: Path, seed: int
) -> None:
    content = bytearray(tiny_video.read_bytes())
    # A key frame every 15 frames: only the second quarter of the picture data is hurt.
    start, size = content.find(b"mdat"), content.find(b"moov") - content.find(b"mdat")
    size = size if size > 0 else len(content) - start
    places = np.random.default_rng(seed).integers(start + size // 3, start + size // 2, 30)
    for place in places:
        content[place] ^= 0x55
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    source, frames = read(path)
    stats = source.stats
    assert stats.damaged + stats.undecodable_packets > 0
    assert 40 <= len(frames) <= 60
    assert len(frames) + stats.undecodable_packets >= 60
    assert len(frames) > stats.damaged  # and not everything is called damaged


@pytest.mark.data
def test_a_damaged_real_clip_is_read_through(data: Path, tmp_path: Path) -> None:
    content = bytearray((data / "clips" / "nasa_13013.mp4").read_bytes())
    start = content.find(b"mdat") + 5000
    content[start + 200_000 : start + 230_000] = os.urandom(30_000)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    source, frames = read(path, clip_spec())
    stats = source.stats
    assert stats.damaged + stats.undecodable_packets > 0
    assert 250 <= len(frames) <= 325
    assert stats.undecodable_packets == 0 or "undecodable packet" in stats.holes
    if len(frames) < 325:
        assert any("promises 325 frames" in note for note in stats.notes)


def test_a_truncated_file_notes_how_many_frames_were_promised(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "whole.mp4", moving_blob(60), container_options={"movflags": "faststart"}
    )
    os.truncate(path, path.stat().st_size * 6 // 10)
    source, frames = read(path)
    assert 10 < len(frames) < 60
    assert source.stats.notes == [f"the file promises 60 frames, {len(frames)} could be read"]


def test_a_file_that_lost_its_index_is_refused(tiny_video: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_video, tmp_path / "half.mp4"))
    os.truncate(path, path.stat().st_size // 2)
    refusal(path, "not a readable video")


def test_a_change_of_resolution_is_a_hole(tmp_path: Path) -> None:
    path = write_raw_h264(
        tmp_path / "two.h264", moving_blob(20), moving_blob(15, height=144, width=192)
    )
    source, frames = read(path)
    assert len(frames) == 35
    assert [f.index for f in frames if f.hole] == [20]
    assert source.stats.holes == {"change of resolution": 1}
    assert frames[19].picture().shape == (120, 160, 3)
    assert frames[20].picture().shape == (144, 192, 3)


def test_a_stream_without_times_gets_its_nominal_rate(tmp_path: Path) -> None:
    path = write_raw_h264(tmp_path / "raw.h264", moving_blob(10))
    source, frames = read(path)
    np.testing.assert_allclose(np.diff([f.pts_s for f in frames]), 1 / source.info.fps)
    assert source.stats.timestamps_repaired > 0


# -- what is no video --------------------------------------------------------------------------


def test_a_text_file_called_mp4_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("These are my notes, not a video.\n" * 50)
    refusal(path, "not a readable video")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    refusal(path)


def test_noise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "noise.avi"
    path.write_bytes(np.random.default_rng(0).bytes(20_000))
    refusal(path)


def test_a_file_with_sound_only_is_refused(tmp_path: Path) -> None:
    refusal(write_audio(tmp_path / "sound.wav"), "no video stream")


def test_a_film_in_a_codec_that_nobody_knows_is_refused(tiny_video: Path, tmp_path: Path) -> None:
    content = tiny_video.read_bytes()
    assert content.count(b"avc1") >= 1
    path = tmp_path / "odd.mp4"
    path.write_bytes(content.replace(b"avc1", b"zzzz"))
    with pytest.raises(SourceError) as caught:
        open_source(path, clip_spec())
    assert_one_line(caught.value, "odd.mp4", "no codec that FFmpeg knows")


def test_a_path_where_nothing_is_says_so(tmp_path: Path) -> None:
    refusal(tmp_path / "none.mp4", "does not exist")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    refusal(tmp_path, "holds no frames")


def test_a_folder_with_videos_only_says_how_many(tiny_video: Path, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.MP4"):
        shutil.copy(tiny_video, tmp_path / name)
    refusal(tmp_path, "holds 2 videos but no frames")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_refused(tiny_video: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(tiny_video, tmp_path / "locked.mp4"))
    file.chmod(0)
    refusal(file, "Permission denied")
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0)
    refusal(folder, "Permission denied")
    folder.chmod(0o700)


def test_a_name_too_long_for_the_file_system_is_refused() -> None:
    with pytest.raises(SourceError) as caught:
        open_source("x" * 300, SPEC)
    assert_one_line(caught.value)


# -- folders of frames -------------------------------------------------------------------------


def test_frames_come_in_natural_order(frame_folder: Path) -> None:
    source, frames = read(frame_folder, clip_spec(height=120, width=160, colour="rgb"))
    assert source.info.kind == "frame folder"
    assert source.info.frames == len(frames) == 12
    for frame, image in zip(frames, moving_blob(12), strict=True):
        np.testing.assert_array_equal(frame.pixels, image)  # PNG keeps every bit


def test_numbers_in_names_count_as_numbers() -> None:
    names = ["10.png", "9.PNG", "a10.png", "a9b2.png", "a9b11.png", "1²3.png", "x.png", "007.png"]
    ordered = sorted((Path(name) for name in names), key=_natural)
    assert [p.name for p in ordered] == [
        "1²3.png", "007.png", "9.PNG", "10.png", "a9b2.png", "a9b11.png", "a10.png", "x.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "spec_fps", "fps"), [(None, None, 25.0), (None, 10.0, 10.0), (5.0, 10.0, 5.0)]
)
def test_the_rate_of_a_folder_is_the_asked_else_the_models_else_25(
    frame_folder: Path, asked: float | None, spec_fps: float | None, fps: float
) -> None:
    source = open_source(frame_folder, clip_spec(fps=spec_fps), fps=asked)
    assert source.info.fps == fps
    np.testing.assert_allclose([f.pts_s for f in source.frames()], np.arange(12) / fps)


def test_an_image_that_does_not_decode_leaves_a_hole(frame_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(frame_folder, tmp_path / "frames"))
    (folder / "5.png").write_bytes(b"\x89PNG no more")
    (folder / "6.png").write_bytes(b"")
    source, frames = read(folder)
    assert [f.index for f in frames] == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]
    assert [f.index for f in frames if f.hole] == [6]
    assert source.stats.undecodable_packets == 2
    assert source.stats.holes == {"undecodable image": 1}
    assert frames[4].pts_s == pytest.approx(6 / 25)  # the lost frames' time has passed


def test_a_first_image_that_does_not_decode_does_not_matter(
    frame_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(frame_folder, tmp_path / "frames"))
    (folder / "1.png").write_bytes(b"")
    source = open_source(folder, SPEC)
    frames = list(source.frames())
    assert (source.info.width, source.info.height) == (160, 120)
    assert [f.index for f in frames] == list(range(1, 12))


def test_a_folder_in_which_no_image_decodes_is_refused(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_text("no image")
    refusal(tmp_path, "no image that decodes")


def test_an_image_of_another_size_is_a_hole(frame_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(frame_folder, tmp_path / "frames"))
    for name in ("7", "8"):
        cv2.imwrite(str(folder / f"{name}.png"), np.zeros((60, 80, 3), np.uint8))
    source, frames = read(folder)
    assert [f.index for f in frames if f.hole] == [6, 8]
    assert source.stats.holes == {"change of resolution": 2}


def test_image_names_that_look_like_patterns_or_addresses_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["12:30:01.jpg", "50%d.png", "a%03d.jpg", "b*.bmp", "c[1].png", "d?.tiff", "e.webp"]
    for name in names:
        cv2.imwrite(str(tmp_path / f"plain{Path(name).suffix}"), np.zeros((8, 8, 3), np.uint8))
        (tmp_path / f"plain{Path(name).suffix}").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    source, frames = read(".")
    assert len(frames) == len(names)
    assert source.stats.undecodable_packets == 0


def test_other_and_hidden_files_in_a_folder_are_passed_over(
    frame_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(frame_folder, tmp_path / "frames"))
    (folder / "labels.json").write_text("{}")
    (folder / ".3.png").write_text("a Mac wrote this")
    (folder / "sub.png").mkdir()
    assert len(read(folder)[1]) == 12


# -- finding sources ---------------------------------------------------------------------------


def test_everything_below_a_folder_is_found_in_order(
    tiny_video: Path, frame_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(frame_folder, tmp_path / "night" / "frames")
    shutil.copytree(frame_folder, tmp_path / "mixed")
    (tmp_path / ".hidden").mkdir()
    for name in ("b.mp4", "a.AVI", "mixed/c.mp4", ".hidden/d.mp4", "._b.mp4", "readme.txt"):
        shutil.copy(tiny_video, tmp_path / name)
    found = [str(p.relative_to(tmp_path)) for p in find_sources(tmp_path)]
    # A folder with videos and pictures holds videos; its pictures are thumbnails.
    assert found == ["a.AVI", "b.mp4", "mixed/c.mp4", "night/frames"]
    assert find_sources(tiny_video) == [tiny_video]
    assert find_sources(frame_folder) == [frame_folder]


@pytest.mark.parametrize("name", ["none", "."])
def test_nothing_to_find_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError) as caught:
        find_sources(tmp_path / name)
    assert_one_line(caught.value, str(tmp_path))


def test_the_rate_of_a_file_is_a_plain_number(tiny_video: Path) -> None:
    fps = open_source(tiny_video, SPEC).info.fps
    assert isinstance(fps, float)
    assert Fraction(fps) == 15
