"""Calibration sets: which clips are chosen, and that the same ones come back."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import pytest
from helpers import assert_one_line, clip_spec, moving_blob, write_video

from vad_calibration import (
    CalibrationSet,
    ClipSet,
    calibration_set_from_footage,
    clip_set,
    read_calibration_set,
    write_calibration_set,
)
from vad_calibration.candidates import candidates_from_footage
from vad_calibration.choice import chosen_from_candidates, table_of
from vad_calibration.statistics import STATISTICS, THUMBNAIL, described
from vad_runtime.contracts import InputError, SourceError
from vad_runtime.sources import open_source

SPEC = clip_spec()


def still(level: int, *, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield 24 frames of a room in which nothing moves but the noise of the sensor."""
    rng = np.random.default_rng(seed)
    wall = rng.integers(level - 12, level + 12, (120, 160, 1))
    for _ in range(24):
        noise = rng.integers(-3, 4, (120, 160, 1))
        yield np.repeat((wall + noise).astype(np.uint8), 3, axis=2)


def panning(count: int = 24) -> Iterator[np.ndarray]:
    """Yield frames of a bright textured wall that a camera pans over, faster and faster."""
    coarse = np.random.default_rng(0).integers(100, 256, (15, 20, 3), np.uint8)
    wall = coarse.repeat(8, axis=0).repeat(8, axis=1)
    for i in range(count):
        yield np.roll(wall, i * i // 4, axis=1)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three videos of 24 frames. Do not change."""
    folder = tmp_path_factory.mktemp("videos")
    return [write_video(folder / f"{i}.mp4", moving_blob(24, seed=i)) for i in range(3)]


def frames_folder(folder: Path, count: int, *, seed: int = 0) -> Path:
    folder.mkdir()
    for i, image in enumerate(moving_blob(count, seed=seed)):
        av.VideoFrame.from_ndarray(image, format="rgb24").save(str(folder / f"{i:03}.png"))
    return folder


def places(chosen: CalibrationSet) -> list[tuple[str, int]]:
    return [(Path(record.file).name, record.first) for record in chosen.clips]


# -- statistics --------------------------------------------------------------------------------


def test_the_statistics_of_a_clip_are_what_they_say() -> None:
    clip = np.zeros((3, 4, 6, 3), np.uint8)
    clip[:, :, :3] = (10, 50, 90)
    clip[2] += 20
    luma = np.array([(77 * r + 150 * g + 29 * b) // 256 for r, g, b in [(10, 50, 90), (0, 0, 0)]])
    later = np.array([(77 * r + 150 * g + 29 * b) // 256 for r, g, b in [(30, 70, 110), (20,) * 3]])
    found, thumbnail = described(clip)
    assert found.brightness == pytest.approx((2 * luma.mean() + later.mean()) / 3, abs=1e-5)
    assert found.contrast == pytest.approx((2 * luma.std() + later.std()) / 3, abs=1e-5)
    assert found.motion == pytest.approx((later - luma).mean() / 2, abs=1e-5)
    assert found.moving == 0.5  # all pixels in one of two steps
    step = abs(luma[0] - luma[1]) / 5  # one of five steps to the right, none down
    assert found.texture == pytest.approx(step / 2, abs=0.2)
    assert found.colour == pytest.approx(40.0)  # 80 in half of the pixels
    np.testing.assert_array_equal(thumbnail.middle, clip[1])
    assert (thumbnail.motion == 80).all()  # 10 grey levels a step


@pytest.mark.parametrize("shape", [(1, 8, 8, 1), (2, 1, 1, 3), (16, 90, 200, 3), (4, 300, 7, 1)])
def test_every_shape_of_clip_has_statistics_and_a_small_picture(shape: tuple[int, ...]) -> None:
    clip = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    found, thumbnail = described(clip)
    assert np.isfinite(table_of([found])).all()
    rows, columns = thumbnail.motion.shape
    assert max(rows, columns) <= THUMBNAIL
    assert thumbnail.middle.shape == (rows, columns, shape[3])


# -- choice ------------------------------------------------------------------------------------


def test_every_stratum_that_holds_candidates_takes_its_turn() -> None:
    table = np.random.default_rng(1).gamma(1.0, 10.0, (1000, len(STATISTICS)))
    choice = chosen_from_candidates(table, 64, seed=0)
    assert len(choice.chosen) == len(set(choice.chosen)) == 64
    counts = {stratum: choice.strata.count(stratum) for stratum in choice.strata}
    assert len(counts) == 25
    assert set(counts.values()) == {2, 3}


def test_clips_that_are_all_alike_can_be_chosen_from_too() -> None:
    choice = chosen_from_candidates(np.ones((5, len(STATISTICS))), 3, seed=0)
    assert len(choice.chosen) == 3
    assert choice.strata == ["motion 1/3, brightness 1/3"] * 3


def test_the_chosen_cover_the_darkest_and_the_most_moving_better_than_an_even_draw(
    tmp_path: Path,
) -> None:
    sources = [write_video(tmp_path / f"still{i}.mp4", still(90, seed=i)) for i in range(10)]
    sources.append(write_video(tmp_path / "dark.mp4", still(25)))
    sources.append(write_video(tmp_path / "moving.mp4", panning()))
    count = 12
    pool = table_of([c.statistics for c in candidates_from_footage(sources, SPEC, count).found])
    chosen = calibration_set_from_footage(sources, SPEC, count)
    table = np.array([[getattr(r, name) for name in STATISTICS] for r in chosen.clips])

    def quarter(which: np.ndarray, name: str, sign: int) -> float:
        """Return the share of clips in the lowest or highest quarter of the values' range."""
        column = list(STATISTICS).index(name)
        values = sign * pool[:, column]
        edge = values.min() + np.ptp(values) / 4
        return float((sign * which[:, column] <= edge).mean())

    for name, sign in (("brightness", 1), ("motion", -1)):
        # A draw that takes clips as they come gives the share that the candidates have.
        assert 0 < quarter(pool, name, sign) < 0.1
        assert quarter(table, name, sign) >= 2 * quarter(pool, name, sign)


def test_what_lies_far_out_is_chosen_before_more_of_the_same() -> None:
    table = np.random.default_rng(2).normal(0, 1, (200, len(STATISTICS)))
    table[123] += 30
    for seed in range(5):
        assert 123 in chosen_from_candidates(table, 20, seed=seed).chosen


# -- candidates --------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_set_whatever_the_order_of_the_sources(
    videos: list[Path],
) -> None:
    one = calibration_set_from_footage(videos, SPEC, 4, seed=1)
    turned = calibration_set_from_footage([*videos[::-1], videos[0]], SPEC, 4, seed=1)
    other = calibration_set_from_footage(videos, SPEC, 4, seed=2)
    assert turned == one
    assert turned.key == one.key
    assert places(other) != places(one)


def test_sources_share_the_candidates_and_short_ones_leave_theirs_to_others(
    videos: list[Path], tmp_path: Path
) -> None:
    short = write_video(tmp_path / "short.mp4", moving_blob(9, seed=9))
    pool = candidates_from_footage([*videos, short], SPEC, 5)
    names = [Path(candidate.file).name for candidate in pool.found]
    assert {name: names.count(name) for name in names} == {
        "0.mp4": 6,
        "1.mp4": 6,
        "2.mp4": 6,
        "short.mp4": 2,
    }
    assert pool.sources == 4


def test_each_of_very_many_sources_gives_one_candidate(videos: list[Path]) -> None:
    pool = candidates_from_footage(videos, SPEC, 1)
    assert len(pool.found) == 4  # 4 times one: one of three has to give two
    assert {Path(candidate.file).name for candidate in pool.found} == {"0.mp4", "1.mp4", "2.mp4"}
    many = [videos[0].with_name(f"missing{i}.mp4") for i in range(20)]
    pool = candidates_from_footage([*many, videos[0]], SPEC, 1)
    assert len(pool.skipped) == 3  # four sources are looked at


def test_a_source_that_does_not_know_its_length_gives_candidates_all_over(tmp_path: Path) -> None:
    video = write_video(tmp_path / "long.mkv", moving_blob(60))
    assert open_source(video, SPEC).info.frames is None
    firsts = [
        [c.first for c in candidates_from_footage([video], SPEC, 2, seed=seed).found]
        for seed in range(6)
    ]
    assert all(len(each) == 8 and each == sorted(set(each)) for each in firsts)
    assert 15 < np.mean(firsts) < 37


def test_copies_of_a_video_count_once(videos: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(videos[0].read_bytes())
    pool = candidates_from_footage([videos[0], copy], SPEC, 50)
    assert len(pool.found) == 17


def test_a_clip_never_spans_a_hole(tmp_path: Path) -> None:
    images = frames_folder(tmp_path / "images", 30)
    (images / "012.png").write_bytes(b"no image")
    chosen = calibration_set_from_footage([images], SPEC, 40)
    assert {record.first for record in chosen.clips} == {*range(5), *range(13, 23)}
    assert len(list(ClipSet(chosen, SPEC))) == 15


def test_a_broken_file_among_good_ones_is_skipped_and_listed(
    videos: list[Path], tmp_path: Path
) -> None:
    broken, missing, short = (tmp_path / name for name in ("x.mp4", "gone.mp4", "short.mp4"))
    broken.write_text("no video")
    write_video(short, moving_blob(7))
    chosen = calibration_set_from_footage([broken, missing, short, *videos], SPEC, 4)
    assert len(chosen.clips) == 4
    assert chosen.sources == 3
    assert len(chosen.skipped) == 3
    for file in (broken, missing, short):
        assert sum(str(file) in line for line in chosen.skipped) == 1


def test_footage_without_one_whole_clip_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "x.mp4"
    broken.write_text("no video")
    short = write_video(tmp_path / "y.mp4", moving_blob(7))
    for sources, part in [([broken], "x.mp4"), ([short], "8 good frames"), ([], "no footage")]:
        with pytest.raises(SourceError) as caught:
            calibration_set_from_footage(sources, SPEC, 4)
        assert_one_line(caught.value, part)


@pytest.mark.parametrize("count", [0, -3])
def test_no_clips_cannot_be_asked_for(videos: list[Path], count: int) -> None:
    with pytest.raises(InputError) as caught:
        calibration_set_from_footage(videos, SPEC, count)
    assert_one_line(caught.value, str(count))


def test_fewer_clips_than_asked_is_said(videos: list[Path]) -> None:
    chosen = calibration_set_from_footage(videos[:1], SPEC, 40)
    assert len(chosen.clips) == chosen.candidates == 17
    assert chosen.wanted == 40
    assert chosen.shortfall is not None
    assert "only 17 clips instead of 40" in chosen.shortfall
    assert calibration_set_from_footage(videos, SPEC, 4).shortfall is None


def test_the_memory_for_clips_does_not_grow_with_the_number_wanted(tmp_path: Path) -> None:
    spec = clip_spec(height=120, width=160, colour="rgb")
    video = write_video(tmp_path / "long.mp4", moving_blob(90))

    def peak(count: int) -> tuple[int, int]:
        tracemalloc.start()
        try:
            chosen = calibration_set_from_footage([video], spec, count)
            return chosen.candidates, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # imports
    (few, few_bytes), (many, many_bytes) = peak(1), peak(20)
    assert (few, many) == (4, 80)
    # A candidate keeps 16 KB of pictures at most; its pixels would be 460 KB.
    assert many_bytes - few_bytes < (many - few) * np.prod(spec.clip_shape) / 4


def test_histograms_count_every_candidate_and_every_clip(videos: list[Path]) -> None:
    chosen = calibration_set_from_footage(videos, SPEC, 5)
    assert list(chosen.coverage) == list(STATISTICS)
    for coverage in chosen.coverage.values():
        assert sum(coverage.candidates) == chosen.candidates == 20
        assert sum(coverage.chosen) == 5
        assert all(a >= b for a, b in zip(coverage.candidates, coverage.chosen, strict=True))


# -- clips again -------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"stride": 2, "hop": 4}, {"colour": "rgb", "width": 48}])
def test_a_clip_set_gives_the_frames_that_its_records_say_as_often_as_asked(
    videos: list[Path], changes: dict[str, Any]
) -> None:
    spec = clip_spec(**changes)
    chosen = calibration_set_from_footage(videos, spec, 6)
    clips = ClipSet(chosen, spec)
    assert len(clips) == 6
    assert clips.key == chosen.key
    first, again = list(clips), list(clips)
    frames = {
        str(video): [frame.pixels for frame in open_source(video, spec).frames()]
        for video in videos
    }
    for record, clip, same in zip(chosen.clips, first, again, strict=True):
        expected = np.stack(frames[record.file][record.first :: spec.stride][: spec.frames])
        np.testing.assert_array_equal(clip, expected[None])
        np.testing.assert_array_equal(clip, same)
        assert clip.flags.c_contiguous
        assert clip.flags.writeable


def test_each_file_is_decoded_once(videos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def spy(name: str, *args: Any, **named: Any) -> Any:
        opened.append(str(name))
        return open_source(name, *args, **named)

    monkeypatch.setattr(clip_set, "open_source", spy)
    chosen = calibration_set_from_footage(videos, SPEC, 9)
    list(ClipSet(chosen, SPEC))
    assert opened == [str(video) for video in videos]


def test_the_key_follows_from_the_pixels_and_not_from_where_they_lie(
    videos: list[Path], tmp_path: Path
) -> None:
    chosen = calibration_set_from_footage(videos, SPEC, 4)
    moved = [tmp_path / video.name for video in videos]
    for video, copy in zip(videos, moved, strict=True):
        copy.write_bytes(video.read_bytes())
    assert calibration_set_from_footage(moved, SPEC, 4).key == chosen.key
    assert calibration_set_from_footage(videos, SPEC, 5).key != chosen.key
    wider = clip_spec(width=48)
    assert calibration_set_from_footage(videos, wider, 4).key != chosen.key


def test_a_changed_file_is_refused_by_name(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", moving_blob(24))
    chosen = calibration_set_from_footage([video], SPEC, 4)
    for images in (moving_blob(24, seed=5), moving_blob(9)):
        write_video(video, images)
        with pytest.raises(SourceError) as caught:
            list(ClipSet(chosen, SPEC))
        assert_one_line(caught.value, str(video), "vad-export calibrate")


def test_a_missing_file_is_refused_before_the_first_clip(
    videos: list[Path], tmp_path: Path
) -> None:
    last = tmp_path / "zzz.mp4"
    last.write_bytes(videos[0].read_bytes())
    copies = [tmp_path / f"{i}.mp4" for i in range(2)]
    for video, copy in zip(videos[1:], copies, strict=True):
        copy.write_bytes(video.read_bytes())
    chosen = calibration_set_from_footage([*copies, last], SPEC, 6)
    last.unlink()
    with pytest.raises(SourceError) as caught:
        next(iter(ClipSet(chosen, SPEC)))
    assert_one_line(caught.value, str(last), "vad-export calibrate")
    last.write_text("no video any more")
    with pytest.raises(SourceError) as caught:
        list(ClipSet(chosen, SPEC))
    assert_one_line(caught.value, str(last))


def test_clips_of_another_form_are_refused(videos: list[Path]) -> None:
    chosen = calibration_set_from_footage(videos, SPEC, 2)
    with pytest.raises(InputError) as caught:
        ClipSet(chosen, clip_spec(frames=16, colour="rgb"))
    assert_one_line(caught.value, "frames 8, colour gray", "frames 16, colour rgb")
    assert len(ClipSet(chosen, clip_spec(hop=4, fps=12.5))) == 2


# -- files -------------------------------------------------------------------------------------


def test_a_set_survives_being_written_and_read(videos: list[Path], tmp_path: Path) -> None:
    chosen = calibration_set_from_footage(videos, SPEC, 5)
    write_calibration_set(tmp_path / "new" / "set", chosen)
    again = read_calibration_set(tmp_path / "new" / "set")
    assert again == chosen
    assert again.key == chosen.key
    assert {file.name for file in (tmp_path / "new" / "set").iterdir()} == {
        "calibration.json",
        "sheet.png",
    }
    for made, kept in zip(again.thumbnails, chosen.thumbnails, strict=True):
        np.testing.assert_array_equal(made.middle, kept.middle)
        np.testing.assert_array_equal(made.motion, kept.motion)


def _without_clips(content: dict[str, Any]) -> None:
    content["clips"] = []


def _turned(content: dict[str, Any]) -> None:
    content["clips"].reverse()


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda c: c.update(surprise=1), "surprise"),
        (lambda c: c["clips"][0].update(surprise=1), "surprise"),
        (lambda c: c["clips"][1].pop("sha256"), "sha256"),
        (lambda c: c["clips"][1].update(sha256="xyz"), "sha256"),
        (lambda c: c["clips"][0].update(first=-1), "first"),
        (lambda c: c["clip"].update(frames=0), "frames"),
        (lambda c: c["coverage"].pop("motion"), "coverage"),
        (lambda c: c["coverage"]["motion"]["edges"].pop(), "edge"),
        (lambda c: c.update(schema=2), "pip install -U vad-edge"),
        (lambda c: c.update(schema="1"), "schema"),
        (_without_clips, "clips is empty"),
        (_turned, "in order"),
    ],
)
def test_what_does_not_belong_into_a_set_file_is_an_error(
    written: Path, tmp_path: Path, spoil: Any, part: str
) -> None:
    content = json.loads((written / "calibration.json").read_text())
    spoil(content)
    (tmp_path / "calibration.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        read_calibration_set(tmp_path)
    assert_one_line(caught.value, "calibration.json", part)


@pytest.fixture(scope="module")
def written(videos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a set. Do not change."""
    folder = tmp_path_factory.mktemp("set")
    write_calibration_set(folder, calibration_set_from_footage(videos, SPEC, 3))
    return folder


@pytest.mark.parametrize("text", [None, b"", b"{", b"\xff", b"[]", b"7"])
def test_a_file_that_is_no_set_is_one_line(tmp_path: Path, text: bytes | None) -> None:
    if text is not None:
        (tmp_path / "calibration.json").write_bytes(text)
    with pytest.raises(InputError) as caught:
        read_calibration_set(tmp_path)
    assert_one_line(caught.value, "calibration.json", "vad-export calibrate")


def test_a_folder_that_cannot_be_made_is_one_line(written: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError) as caught:
        write_calibration_set(tmp_path / "file", read_calibration_set(written))
    assert_one_line(caught.value, "file")


# -- real footage ------------------------------------------------------------------------------


def test_a_set_of_real_surveillance_clips_reaches_what_is_rare(data: Path) -> None:
    sources = sorted((data / "fight").glob("*/*01*.mp4"))[:4]
    sources.append(data / "clips" / "nasa_13013.mp4")
    chosen = calibration_set_from_footage(sources, SPEC, 18)
    again = list(ClipSet(chosen, SPEC))
    assert len(again) == 18
    for record, clip in zip(chosen.clips, again, strict=True):
        found = msgspec.structs.asdict(described(clip[0])[0])
        assert found == {name: getattr(record, name) for name in STATISTICS}
    rarely, chosen_rarely, candidates = 0, 0, chosen.candidates
    for name in ("motion", "brightness"):
        for all_of_bin, chosen_of_bin in zip(
            chosen.coverage[name].candidates, chosen.coverage[name].chosen, strict=True
        ):
            if all_of_bin <= candidates / 20:
                rarely += all_of_bin
                chosen_rarely += chosen_of_bin
    assert chosen_rarely / 18 > 1.2 * rarely / candidates > 0
