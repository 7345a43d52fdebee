"""Precomputed features: what can be read, segments of a video, and scores back to frames."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import assert_one_line

from vad_runtime.contracts import InputError
from vad_runtime.features import (
    c3d_file_starts,
    find_features,
    read_features,
    scores_to_frames,
    segment_boundaries,
    segment_features,
    segment_starts,
)


def ramp(clips: int, dimension: int = 3) -> Any:
    """Return features that differ from clip to clip and are nowhere 0."""
    return 1 + np.arange(clips * dimension, dtype=np.float32).reshape(clips, dimension)


# -- segments ----------------------------------------------------------------------------------


def test_boundaries_are_the_rounded_even_division() -> None:
    # linspace(0, 5, 5) = 0, 1.25, 2.5, 3.75, 5; 2.5 goes to the even number
    assert segment_boundaries(5, 4).tolist() == [0, 1, 2, 4, 5]


def test_a_segment_is_the_mean_of_its_clips() -> None:
    features = np.array([[1, 0], [3, 2], [10, 10], [20, 30]], np.float32)
    out = segment_features(features, 2, normalise=False)
    assert out.tolist() == [[2, 1], [15, 20]]


def test_no_clip_is_dropped_at_the_tail() -> None:
    # 63 // 32 = 1: the sources' rule would lose 31 clips.
    features = np.zeros((63, 63), np.float32)
    np.fill_diagonal(features, 1)
    assert (segment_features(features, 32).sum(axis=0) > 0).all()


def test_a_short_video_repeats_its_clips() -> None:
    out = segment_features(ramp(3), 32, normalise=False)
    assert out.shape == (32, 3)
    assert {tuple(row) for row in out.tolist()} == {tuple(row) for row in ramp(3).tolist()}
    assert (np.diff(out[:, 0]) >= 0).all()  # in order


def test_segments_have_unit_length_unless_told_otherwise() -> None:
    assert np.linalg.norm(segment_features(ramp(40)), axis=1) == pytest.approx(np.ones(32))
    assert np.linalg.norm(segment_features(ramp(40), normalise=False), axis=1).min() > 2


def test_features_of_zero_stay_zero() -> None:
    assert not segment_features(np.zeros((4, 2), np.float32), 2).any()


def test_thirty_two_segments_of_a_file_stay_as_they_are() -> None:
    assert np.array_equal(segment_features(ramp(32), 32, normalise=False), ramp(32))


@pytest.mark.data
def test_the_authors_own_segments_stay_as_they_are(data: Path) -> None:
    with np.load(data / "ucf_crime" / "sultani_sample_c3d_10x32x4096.npz") as content:
        features = content["features"]
    for video in features:
        assert segment_features(video) == pytest.approx(video, abs=1e-5)


# -- scores to frames --------------------------------------------------------------------------


def test_a_score_covers_the_frames_of_its_clips_and_the_tail_keeps_the_last() -> None:
    # 70 frames are 4 clips of 16 and a tail of 6; 2 segments of 2 clips
    starts = segment_starts(70, 2)
    assert starts.tolist() == [0, 32]
    frames = scores_to_frames([0.25, 0.75], starts, 70)
    assert frames.tolist() == [0.25] * 32 + [0.75] * 38


def test_of_segments_that_share_a_clip_the_one_with_the_clip_counts() -> None:
    # 2 clips, 4 segments: boundaries 0, 0, 1, 2, 2 (halves to even): segments 1 and 2 have a clip
    assert segment_boundaries(2, 4).tolist() == [0, 0, 1, 2, 2]
    frames = scores_to_frames([0.1, 0.2, 0.3, 0.3], segment_starts(32, 4), 32)
    assert frames.tolist() == [0.2] * 16 + [0.3] * 16


def test_clips_after_a_hole_have_their_score_where_they_are() -> None:
    first = np.array([0, 16, 100])
    starts = segment_starts(116, 3, first_frames=first)
    frames = scores_to_frames([1, 2, 3], starts, 116)
    assert [frames[i] for i in (0, 15, 16, 99, 100, 115)] == [1, 1, 2, 2, 3, 3]


def test_a_video_shorter_than_a_clip_has_one_score() -> None:
    assert scores_to_frames([0.5] * 32, segment_starts(7), 7).tolist() == [0.5] * 7


def test_features_of_17_frame_steps_are_spread_as_they_were_made() -> None:
    # N = 1413: L = 1414 // 17 = 83, m = 83 // 32 = 2, so a segment is 34 frames
    starts = c3d_file_starts(1413)
    assert starts[:3].tolist() == [0, 34, 68]
    frames = scores_to_frames(np.arange(32), starts, 1413)
    assert [frames[i] for i in (33, 34, 1053, 1054, 1412)] == [0, 1, 30, 31, 31]


def test_17_frame_steps_of_a_short_video_end_with_the_video() -> None:
    frames = scores_to_frames(np.arange(32), c3d_file_starts(100), 100)
    assert len(frames) == 100
    assert frames[-1] == 5  # 99 // 17; the other 26 scores have no frames


def test_scores_and_segments_must_be_as_many() -> None:
    with pytest.raises(InputError) as caught:
        scores_to_frames([1, 2], segment_starts(64, 3), 64)
    assert_one_line(caught.value, "(2,)", "(3,)", "one score a segment")


# -- files -------------------------------------------------------------------------------------


def test_an_npy_file_is_read_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ramp(5).astype(np.float64))
    video = read_features(tmp_path / "a.npy")
    assert video.name == "a"
    assert video.features.dtype == np.float32
    assert np.array_equal(video.features, ramp(5))


def test_ten_crops_are_averaged(tmp_path: Path) -> None:
    crops = np.stack([ramp(4) + i for i in range(10)], axis=1)
    np.save(tmp_path / "a.npy", crops)
    assert read_features(tmp_path / "a.npy").features == pytest.approx(ramp(4) + 4.5)


@pytest.mark.parametrize("folders", [False, True])
def test_rgb_and_flow_are_a_pair_by_name_or_by_folder(tmp_path: Path, folders: bool) -> None:
    for half, offset in (("rgb", 0), ("flow", 100)):
        name = f"{half}/Abuse/x.npy" if folders else f"Abuse/x_{half}.npy"
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / name, ramp(32, 4) + offset)
    both = find_features(tmp_path, "two")
    assert [file.name for file in both] == ["Abuse/x"]
    read = read_features(both[0], "two").features
    assert np.array_equal(read, np.hstack([ramp(32, 4), ramp(32, 4) + 100]))
    for modality, offset in (("rgb", 0), ("flow", 100)):
        found = find_features(tmp_path, modality)  # type: ignore[arg-type]
        assert [file.name for file in found] == ["Abuse/x"]
        one = read_features(found[0], modality).features  # type: ignore[arg-type]
        assert np.array_equal(one, ramp(32, 4) + offset)


def test_a_pair_without_its_other_half_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x_flow.npy", ramp(4))
    with pytest.raises(InputError) as caught:
        find_features(tmp_path, "two")
    assert_one_line(caught.value, "x_rgb.npy is not there", "x_flow.npy")


def test_a_folder_above_the_searched_one_makes_no_half(tmp_path: Path) -> None:
    folder = tmp_path / "flow" / "project"
    folder.mkdir(parents=True)
    np.save(folder / "x.npy", ramp(4))
    assert find_features(folder)[0].paths == (folder / "x.npy",)
    assert len(read_features(folder / "x.npy").features) == 4


def test_the_searched_folder_may_be_a_half(tmp_path: Path) -> None:
    for half in ("rgb", "flow"):
        (tmp_path / half).mkdir()
        np.save(tmp_path / half / "x.npy", ramp(4))
    both = find_features(tmp_path / "rgb", "two")
    assert both[0].paths == (tmp_path / "rgb" / "x.npy", tmp_path / "flow" / "x.npy")


def test_halves_of_different_length_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x_rgb.npy", ramp(4))
    np.save(tmp_path / "x_flow.npy", ramp(5))
    with pytest.raises(InputError) as caught:
        read_features(tmp_path / "x_rgb.npy", "two")
    assert_one_line(caught.value, "4 rgb and 5 flow")


def test_c3d_text_and_csv_are_lines_of_numbers(tmp_path: Path) -> None:
    features = ramp(32, 6)
    (tmp_path / "a.txt").write_text("\n".join(" ".join(map(str, row)) for row in features) + "\n")
    (tmp_path / "b.csv").write_text("\n".join(",".join(map(str, row)) for row in features))
    head = ",".join(f"f{i}" for i in range(6))
    (tmp_path / "c.csv").write_text(head + "\n" + (tmp_path / "b.csv").read_text())
    for file in find_features(tmp_path):
        assert np.array_equal(read_features(file).features, features), file.name


def write_npz(file: Path, **changes: Any) -> Path:
    content = {
        "features": ramp(3, 4),
        "first_frames": np.array([0, 16, 32]),
        "clip_span": 16,
        "frames": 50,
        "fps": 29.97,
        "about": json.dumps({"modality": "rgb", "backbone": {"name": "c3d"}}),
    }
    np.savez(file, **{k: np.asarray(v) for k, v in (content | changes).items()})
    return file


def test_our_own_file_says_where_its_clips_are(tmp_path: Path) -> None:
    video = read_features(write_npz(tmp_path / "a.npz"))
    assert np.array_equal(video.features, ramp(3, 4))
    assert video.first_frames is not None
    assert video.first_frames.tolist() == [0, 16, 32]
    assert (video.clip_span, video.frames, video.fps) == (16, 50, 29.97)
    assert video.about["backbone"]["name"] == "c3d"


def test_one_half_can_be_had_of_a_file_with_both(tmp_path: Path) -> None:
    file = write_npz(tmp_path / "a.npz", about=json.dumps({"modality": "two"}))
    assert np.array_equal(read_features(file, "two").features, ramp(3, 4))
    assert np.array_equal(read_features(file, "rgb").features, ramp(3, 4)[:, :2])
    assert np.array_equal(read_features(file, "flow").features, ramp(3, 4)[:, 2:])


def test_flow_cannot_be_had_of_rgb_features(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_features(write_npz(tmp_path / "a.npz"), "flow")
    assert_one_line(caught.value, "rgb features, not flow", "vad-train features --modality flow")


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.full((3, 2), np.nan), "row 0 holds NaN"),
        (np.zeros((0, 2)), "shape (0, 2)"),
        (np.zeros(5), "shape (5,)"),
        (np.array([["a", "b"]]), "not numbers"),
    ],
)
def test_useless_features_are_refused_in_one_line(tmp_path: Path, array: Any, reason: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError) as caught:
        read_features(tmp_path / "a.npy")
    assert_one_line(caught.value, "a.npy", reason)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.txt", "a.csv"])
@pytest.mark.parametrize("content", [b"", b"1 2\n3\n", b"\xff\xfe junk"])
def test_a_file_that_is_no_feature_file_is_refused(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_features(tmp_path / name)
    assert_one_line(caught.value, name)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"about": "[1]"}, "about is no JSON object"),
        ({"clip_span": [16, 16]}, "0-dim"),
        ({"fps": 0.0}, "a frame rate of 0.0"),
        ({"fps": np.nan}, "a frame rate of nan"),
        ({"first_frames": np.zeros((3, 2), int)}, "first_frames"),
        ({"features": np.array([[["a"], ["b"]]])}, "not numbers"),
    ],
)
def test_an_npz_with_odd_content_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError) as caught:
        read_features(write_npz(tmp_path / "a.npz", **changes))
    assert_one_line(caught.value, "a.npz", reason)


@pytest.mark.parametrize("place", [120, 200, 2000])  # in NumPy's header, and in the numbers
def test_damaged_compressed_features_are_refused_in_one_line(tmp_path: Path, place: int) -> None:
    file = tmp_path / "a.npz"
    np.savez_compressed(file, features=np.random.default_rng(0).random((50, 50)))
    content = bytearray(file.read_bytes())
    content[place : place + 60] = b"\xff" * 60
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_features(file)
    assert_one_line(caught.value, "a.npz", "holds no features")


def test_other_arrays_under_a_wrong_name_or_of_text_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ramp(3))
    (tmp_path / "a.npy").rename(tmp_path / "b.npz")
    np.save(tmp_path / "c.npy", np.array([[["a"], ["b"]]]))
    (tmp_path / "d.npy").write_bytes(
        b"\x93NUMPY\x01\x00\x76\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 4096), }".ljust(117)
        + b"\n"
    )
    for name in ("b.npz", "c.npy", "d.npy"):
        with pytest.raises(InputError) as caught:
            read_features(tmp_path / name)
        assert_one_line(caught.value, name)


def test_a_line_of_nothing_but_commas_is_no_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",\n1,2\n3,4\n")
    assert read_features(tmp_path / "a.csv").features.tolist() == [[1, 2], [3, 4]]


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError) as caught:
        read_features(tmp_path / "a.npy")
    assert_one_line(caught.value, "a.npy")


def test_a_folder_without_features_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        find_features(tmp_path)
    assert_one_line(caught.value, "no rgb features", "vad-train features")


def test_a_video_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ramp(4))
    write_npz(tmp_path / "x.npz")
    with pytest.raises(InputError) as caught:
        find_features(tmp_path)
    assert_one_line(caught.value, "x twice")
