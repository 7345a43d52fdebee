"""Footage decoded once: real files, real damage."""

import os
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from helpers import assert_one_line, clip_spec, manifest, moving_blob, write_video

import vad_training.data.store as module
from vad_runtime.backends.base import Options
from vad_runtime.backends.fake import FakeBackend
from vad_runtime.contracts import ClipSpec, InputError
from vad_runtime.detector import Detector
from vad_runtime.sources import Frame, open_source
from vad_training.data.store import FrameStore, store_from_footage
from vad_training.data.windows import windows_of

SPEC = clip_spec()


def source_frames(path: Path, spec: ClipSpec = SPEC) -> list[Frame]:
    return list(open_source(path, spec).frames())


def store_of(path: Path | Sequence[Path], folder: Path, spec: ClipSpec = SPEC) -> FrameStore:
    return store_from_footage([path] if isinstance(path, Path) else path, spec, folder)


def lengths(store: FrameStore) -> list[tuple[int, int, int]]:
    return [(s.video, s.start, s.frames) for s in store.segments]


def forbid_decoding(patch: pytest.MonkeyPatch) -> None:
    def no(*_args: object, **_kwargs: object) -> None:
        pytest.fail("a video was opened")

    patch.setattr(module, "open_source", no)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "frames"


@pytest.fixture
def two_videos(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    site.mkdir()
    write_video(site / "a.mp4", moving_blob(20, seed=1))
    write_video(site / "b.mp4", moving_blob(14, seed=2))
    return site


# -- content -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"colour": "rgb", "height": 24}, {"resizer": "exact", "interpolation": "area"}]
)
def test_the_rows_are_the_frames_of_the_source(
    tiny_video: Path, folder: Path, changes: dict[str, object]
) -> None:
    spec = clip_spec(**changes)
    store = store_of(tiny_video, folder, spec)
    expected = np.stack([frame.pixels for frame in source_frames(tiny_video, spec)])
    np.testing.assert_array_equal(store.frames, expected)
    assert store.videos == [str(tiny_video)]
    assert lengths(store) == [(0, 0, 60)]
    assert store.fps == 15
    assert store.seconds() == 4


def test_a_folder_of_frames_is_footage_too(frame_folder: Path, folder: Path) -> None:
    store = store_of(frame_folder, folder)
    expected = np.stack([frame.pixels for frame in source_frames(frame_folder)])
    np.testing.assert_array_equal(store.frames, expected)


def test_the_rows_cannot_be_written_to(tiny_video: Path, folder: Path) -> None:
    store = store_of(tiny_video, folder)
    with pytest.raises(ValueError, match="read-only"):
        store.frames[0] = 0


def test_a_stride_keeps_every_other_frame(tiny_video: Path, folder: Path) -> None:
    spec = clip_spec(stride=2, hop=2)
    store = store_of(tiny_video, folder, spec)
    expected = np.stack([frame.pixels for frame in source_frames(tiny_video, spec)][::2])
    np.testing.assert_array_equal(store.frames, expected)
    assert lengths(store) == [(0, 0, 30)]


def test_each_video_is_a_segment_of_its_own(two_videos: Path, folder: Path) -> None:
    store = store_of(two_videos, folder)
    assert [Path(name).name for name in store.videos] == ["a.mp4", "b.mp4"]
    assert lengths(store) == [(0, 0, 20), (1, 20, 14)]


def test_a_video_that_is_named_twice_is_there_once(two_videos: Path, folder: Path) -> None:
    twice = [two_videos, two_videos / "b.mp4", two_videos.parent / "site" / ".." / "site"]
    store = store_of(twice, folder)
    assert lengths(store) == [(0, 0, 20), (1, 20, 14)]


def test_videos_of_different_rates_have_no_common_rate(two_videos: Path, folder: Path) -> None:
    write_video(two_videos / "c.mp4", moving_blob(20), fps=25)
    store = store_of(two_videos, folder)
    assert store.fps is None
    assert store.seconds() is None


def test_a_limit_ends_each_video_after_so_many_rows(
    two_videos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = clip_spec(stride=2, hop=2)
    whole = store_of(two_videos, folder, spec)
    a, b = (source_frames(two_videos / name, spec) for name in ("a.mp4", "b.mp4"))
    store = store_from_footage([two_videos], spec, folder, most_frames=8)
    assert lengths(store) == [(0, 0, 8), (1, 8, 7)]  # b has 14 frames, every other one kept
    expected = np.stack([frame.pixels for frame in (*a[:16:2], *b[::2])])
    np.testing.assert_array_equal(store.frames, expected)
    assert store.key != whole.key
    forbid_decoding(monkeypatch)
    again = store_from_footage([two_videos], spec, folder, most_frames=8)
    assert lengths(again) == lengths(store)


# -- damage ------------------------------------------------------------------------------------


def test_no_segment_spans_an_image_that_does_not_decode(tmp_path: Path, folder: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i, image in enumerate(moving_blob(25)):
        picture = av.VideoFrame.from_ndarray(image, format="rgb24")
        picture.save(str(images / f"{i:03}.png"))
    (images / "012.png").write_bytes(b"no image")
    store = store_of(images, folder)
    assert lengths(store) == [(0, 0, 12), (0, 12, 12)]
    good = [frame.pixels for frame in source_frames(images)]
    np.testing.assert_array_equal(store.frames, np.stack(good))
    starts = [w.start for w in windows_of(store.segments, SPEC.frames, 1)]
    assert starts == [0, 1, 2, 3, 4, 12, 13, 14, 15, 16]


def test_after_a_hole_the_stride_starts_anew_as_in_a_live_run(tmp_path: Path, folder: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i, image in enumerate(moving_blob(40)):
        picture = av.VideoFrame.from_ndarray(image, format="rgb24")
        picture.save(str(images / f"{i:03}.png"))
    (images / "017.png").write_bytes(b"no image")
    spec = clip_spec(stride=2, hop=2)
    store = store_of(images, folder, spec)
    kept = [f.pixels for f in source_frames(images, spec) if f.index in {*range(0, 17, 2)}]
    kept += [f.pixels for f in source_frames(images, spec) if f.index in {*range(18, 40, 2)}]
    assert lengths(store) == [(0, 0, 9), (0, 9, 11)]
    np.testing.assert_array_equal(store.frames, np.stack(kept))


def damaged_copy(video: Path, target: Path) -> Path:
    """Overwrite bytes in the middle of the stream, so that some frames cannot be restored."""
    whole = bytearray(video.read_bytes())
    middle = len(whole) // 2
    rng = np.random.default_rng(3)
    whole[middle : middle + 400] = rng.integers(0, 256, 400, np.uint8).tobytes()
    target.write_bytes(whole)
    return target


def test_damaged_frames_are_left_out_and_split_segments(tmp_path: Path, folder: Path) -> None:
    video = write_video(tmp_path / "whole.mp4", moving_blob(90))
    video = damaged_copy(video, tmp_path / "damaged.mp4")
    frames = source_frames(video)
    bad = [f.index for f in frames if f.damaged]
    assert bad, "the damage must show, otherwise this test shows nothing"
    store = store_of(video, folder)
    good = [f for f in frames if not f.damaged]
    np.testing.assert_array_equal(store.frames, np.stack([f.pixels for f in good]))
    assert len(store.segments) > 1
    for segment in store.segments:
        run = [f.index for f in good[segment.start : segment.start + segment.frames]]
        assert run == list(range(run[0], run[0] + len(run)))


def test_a_jump_in_time_splits_segments_exactly_where_a_live_run_flushes(
    tmp_path: Path, folder: Path
) -> None:
    times = [*range(20), *range(60, 80), *range(84, 104)]
    # Matroska keeps such times as they are; the second step, 4 frames, is no hole.
    video = write_video(tmp_path / "jump.mkv", moving_blob(60), pts=times)
    store = store_of(video, folder)
    assert lengths(store) == [(0, 0, 20), (0, 20, 40)]
    live = Detector(manifest(), FakeBackend(Path("none"), manifest(), Options()))
    list(live.run(open_source(video, SPEC).frames(), nominal_fps=15))
    assert sum(live.counters.flushes.values()) == len(store.segments) - 1


def test_an_unreadable_file_is_skipped_and_named(two_videos: Path, folder: Path) -> None:
    (two_videos / "aa.mp4").write_text("no video at all")
    store = store_of(two_videos, folder)
    assert [Path(name).name for name in store.videos] == ["a.mp4", "b.mp4"]
    assert lengths(store) == [(0, 0, 20), (1, 20, 14)]
    assert len(store.skipped) == 1
    assert "aa.mp4" in store.skipped[0]
    again = store_of(two_videos, folder)
    assert again.skipped == store.skipped


def test_footage_without_one_whole_clip_is_refused(tmp_path: Path, folder: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    for i in range(3):
        write_video(site / f"{i}.mp4", moving_blob(7))
    with pytest.raises(InputError) as caught:
        store_of(site, folder)
    assert_one_line(caught.value, "3 videos", "8 good frames")
    assert not (folder / "index.json").exists()


def test_the_refusal_gives_the_first_reason(tmp_path: Path, folder: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0" * 100)
    with pytest.raises(InputError) as caught:
        store_of(broken, folder)
    assert_one_line(caught.value, "broken.mp4 is not a readable video")


def test_nothing_there_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        store_of(tmp_path / "nothing", folder)
    assert_one_line(caught.value, "does not exist")


# -- reuse -------------------------------------------------------------------------------------


def test_the_same_footage_is_not_decoded_again(
    two_videos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = store_of(two_videos, folder)
    forbid_decoding(monkeypatch)
    # Neither clip length nor hop nor nominal rate changes a pixel.
    again = store_of(two_videos, folder, clip_spec(frames=16, hop=4, fps=30.0))
    np.testing.assert_array_equal(again.frames, first.frames)
    assert (again.key, again.videos, again.segments) == (first.key, first.videos, first.segments)
    assert again.fps == first.fps


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 40},
        {"width": 40},
        {"colour": "rgb"},
        {"stride": 2, "hop": 2},
        {"resizer": "exact"},
        {"resizer": "exact", "interpolation": "bilinear"},
    ],
)
def test_another_spec_of_the_pixels_is_decoded_anew(
    tiny_video: Path, folder: Path, changes: dict[str, object]
) -> None:
    first = store_of(tiny_video, folder)
    spec = clip_spec(**changes)
    again = store_of(tiny_video, folder, spec)
    assert again.key != first.key
    expected = [f.pixels for f in source_frames(tiny_video, spec)][:: spec.stride]
    np.testing.assert_array_equal(again.frames, np.stack(expected))


def test_a_changed_added_or_removed_file_is_noticed(two_videos: Path, folder: Path) -> None:
    keys = {store_of(two_videos, folder).key}
    write_video(two_videos / "b.mp4", moving_blob(16, seed=5))
    changed = store_of(two_videos, folder)
    assert lengths(changed) == [(0, 0, 20), (1, 20, 16)]
    write_video(two_videos / "c.mp4", moving_blob(9))
    added = store_of(two_videos, folder)
    assert lengths(added)[2] == (2, 36, 9)
    (two_videos / "a.mp4").unlink()
    removed = store_of(two_videos, folder)
    assert lengths(removed) == [(0, 0, 16), (1, 16, 9)]
    keys |= {changed.key, added.key, removed.key}
    assert len(keys) == 4


def test_a_new_time_of_change_is_a_change(tiny_video: Path, tmp_path: Path, folder: Path) -> None:
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(tiny_video.read_bytes())
    first = store_of(copy, folder)
    os.utime(copy, ns=(1, 1))
    assert store_of(copy, folder).key != first.key


@pytest.mark.parametrize("damage", ["index", "shorter", "whole rows", "gone"])
def test_a_damaged_store_is_decoded_anew(tiny_video: Path, folder: Path, damage: str) -> None:
    first = np.array(store_of(tiny_video, folder).frames)
    raw = folder / "frames.raw"
    content = raw.read_bytes()
    if damage == "index":
        (folder / "index.json").write_text('{"key": "')
    elif damage == "shorter":
        raw.write_bytes(content[:-5])
    elif damage == "whole rows":
        raw.write_bytes(content[: 32 * 32 * 10])
    else:
        raw.unlink()
    np.testing.assert_array_equal(store_of(tiny_video, folder).frames, first)


def test_interrupted_decoding_leaves_no_index(
    two_videos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_of(two_videos / "a.mp4", folder)
    opened = []

    def interrupting(*args: object, **kwargs: object) -> object:
        opened.append(args[0])
        if len(opened) == 2:
            raise KeyboardInterrupt
        return open_source(*args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module, "open_source", interrupting)
        with pytest.raises(KeyboardInterrupt):
            store_of(two_videos, folder)
    assert len(opened) == 2
    assert [f.name for f in folder.iterdir()] == ["frames.raw"]
    assert lengths(store_of(two_videos, folder)) == [(0, 0, 20), (1, 20, 14)]


def test_a_folder_that_cannot_be_made_is_one_line(tiny_video: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as caught:
        store_of(tiny_video, tmp_path / "file" / "frames")
    assert_one_line(caught.value, "cannot be written")
