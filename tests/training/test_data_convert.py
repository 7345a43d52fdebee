"""Conversion to mp4 and square crops."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from helpers import assert_one_line, decoded_count, moving_blob, write_audio, write_video

from vad_runtime.contracts import InputError, SourceError
from vad_training.data.table import Entry, read_table
from vad_training.data.tools import mp4
from vad_training.data.tools.convert import convert_folder
from vad_training.data.tools.facts import facts_of
from vad_training.data.tools.rewrite import rewrite
from vad_training.data.tools.square import square_picture, square_videos


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(f.pts * f.time_base) for f in container.decode(video=0)]


def quadrants(height: int = 32, width: int = 64) -> np.ndarray:
    """Red top left, green top right, blue bottom left, white bottom right."""
    image = np.full((height, width, 3), 255, np.uint8)
    image[: height // 2, : width // 2] = (255, 0, 0)
    image[: height // 2, width // 2 :] = (0, 255, 0)
    image[height // 2 :, : width // 2] = (0, 0, 255)
    return image


def rotated_film(path: Path, degrees: int) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.height, stream.width = quadrants().shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.set_display_rotation(degrees)
        for _ in range(4):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(quadrants(), format="rgb24")))
        out.mux(stream.encode())
    return path


def test_avi_and_mov_become_mp4_with_their_frames_and_rate(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "deep").mkdir(parents=True)
    write_video(source / "deep" / "a.avi", moving_blob(13), fps=12, codec="mpeg4")
    write_video(source / "b.mov", moving_blob(7), fps=30)
    done = convert_folder(source, out)
    assert sorted(done.written) == [out / "b.mp4", out / "deep" / "a.mp4"]
    for name, count, fps in (("deep/a.mp4", 13, 12), ("b.mp4", 7, 30)):
        facts = facts_of(out / name)
        assert (facts.frames, facts.fps, facts.codec) == (count, fps, "h264")
        assert facts.seconds == pytest.approx(count / fps, abs=1e-6)
        assert decoded_count(out / name) == count
    one, two = pictures(source / "b.mov")[3], pictures(out / "b.mp4")[3]
    assert np.abs(one.astype(int) - two).mean() < 6


def test_a_rate_of_ntsc_is_kept_exactly(tmp_path: Path) -> None:
    from fractions import Fraction

    source = tmp_path / "a.mp4"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(24000, 1001))
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for image in moving_blob(48, height=32, width=32):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())
    rewrite(source, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.streams.video[0].average_rate == Fraction(24000, 1001)


def test_a_variable_frame_rate_is_kept_by_its_times(tmp_path: Path) -> None:
    pts = [0, 1, 2, 5, 6, 10, 11]
    write_video(tmp_path / "a.mp4", moving_blob(7), fps=10, pts=pts)
    rewrite(tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert times(tmp_path / "b.mp4") == pytest.approx([p / 10 for p in pts], abs=1e-3)


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_a_rotation_flag_turns_the_pixels_as_a_player_does(tmp_path: Path, degrees: int) -> None:
    source = rotated_film(tmp_path / "in.mp4", degrees)
    player = cv2.VideoCapture(str(source), cv2.CAP_FFMPEG)
    player.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    shown = cv2.cvtColor(player.read()[1], cv2.COLOR_BGR2RGB)
    player.release()
    rewrite(source, tmp_path / "out.mp4")
    got = pictures(tmp_path / "out.mp4")[0]
    assert got.shape == shown.shape
    assert np.abs(got.astype(int) - shown).mean() < 12
    assert facts_of(source).rotation != 0
    assert facts_of(tmp_path / "out.mp4").rotation == 0
    if degrees != 180:
        assert got.shape == (64, 32, 3)


def test_what_is_there_is_left_alone_unless_told(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    write_video(source / "a.avi", moving_blob(4), codec="mpeg4")
    (out / "a.mp4").write_bytes(b"mine")
    assert convert_folder(source, out).skipped == [out / "a.mp4"]
    assert (out / "a.mp4").read_bytes() == b"mine"
    assert convert_folder(source, out, overwrite=True).written == [out / "a.mp4"]
    assert decoded_count(out / "a.mp4") == 4


def test_broken_files_are_named_and_the_others_converted(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "broken.avi").write_bytes(b"no video" * 100)
    write_video(source / "good.avi", moving_blob(4), codec="mpeg4")
    done = convert_folder(source, out)
    assert [path.name for path in done.written] == ["good.mp4"]
    assert len(done.broken) == 1
    assert "broken.avi" in done.broken[0]
    assert [child.name for child in out.iterdir()] == ["good.mp4"]


def test_two_videos_that_differ_in_their_suffix_alone_keep_it(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    write_video(source / "a.avi", moving_blob(3), codec="mpeg4")
    write_video(source / "a.mov", moving_blob(5))
    convert_folder(source, tmp_path / "out")
    assert decoded_count(tmp_path / "out" / "a.avi.mp4") == 3
    assert decoded_count(tmp_path / "out" / "a.mov.mp4") == 5


def test_an_output_folder_inside_the_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        convert_folder(tmp_path, tmp_path / "out")
    assert_one_line(error.value, "outside")


def test_the_sound_is_dropped_and_said(tmp_path: Path) -> None:
    film, sound = tmp_path / "film.mp4", write_audio(tmp_path / "sound.wav")
    write_video(film, moving_blob(8))
    both = tmp_path / "both.mkv"
    with av.open(str(film)) as a, av.open(str(sound)) as b, av.open(str(both), "w") as out:
        streams = [out.add_stream_from_template(c.streams[0]) for c in (a, b)]
        for container, stream in zip((a, b), streams, strict=True):
            for packet in container.demux(container.streams[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    out.mux(packet)
    assert rewrite(both, tmp_path / "out.mp4").sound
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert not container.streams.audio
    assert decoded_count(tmp_path / "out.mp4") == 8
    with pytest.raises(SourceError):
        rewrite(sound, tmp_path / "never.mp4")


def test_an_odd_size_loses_its_last_row_and_column(tmp_path: Path, frame_folder: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((33, 45, 3), 99, np.uint8))
    rewrite(folder, tmp_path / "a.mp4", fps=8)
    facts = facts_of(tmp_path / "a.mp4")
    assert (facts.height, facts.width, facts.fps, facts.frames) == (32, 44, 8, 3)


def test_without_h264_the_film_is_mpeg4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mp4.av, "codecs_available", {"mpeg4"})
    write_video(tmp_path / "a.mp4", moving_blob(6), fps=25)
    rewrite(tmp_path / "a.mp4", tmp_path / "b.mp4")
    facts = facts_of(tmp_path / "b.mp4")
    assert (facts.codec, facts.frames, facts.fps) == ("mpeg4", 6, 25)


def test_an_interrupt_leaves_no_half_film(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving_blob(6))
    seen: list[int] = []

    def stop(picture: np.ndarray) -> np.ndarray:
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return picture

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        rewrite(tmp_path / "a.mp4", out / "b.mp4", stop)
    assert list(out.iterdir()) == []


def test_the_square_lies_where_the_offset_says() -> None:
    wide = quadrants(4, 8)
    wide[:, :, 0] = np.arange(8)
    assert square_picture(wide)[0, :, 0].tolist() == [2, 3, 4, 5]
    assert square_picture(wide, offset=(-1, 0))[0, :, 0].tolist() == [0, 1, 2, 3]
    assert square_picture(wide, offset=(1, 1))[0, :, 0].tolist() == [4, 5, 6, 7]
    tall = wide.transpose(1, 0, 2)
    assert square_picture(tall, offset=(-1, 0.5))[:, 0, 0].tolist() == [3, 4, 5, 6]
    assert square_picture(wide, side=2).shape == (2, 2, 3)


def test_square_videos_keep_class_split_and_original(tmp_path: Path) -> None:
    one, two = tmp_path / "a.mp4", tmp_path / "b.mp4"
    write_video(one, moving_blob(4, height=32, width=48))
    write_video(two, moving_blob(4, height=48, width=32, seed=1))
    (tmp_path / "c.mp4").write_bytes(b"broken")
    entries = [
        Entry(path=one, label="walk", split="train"),
        Entry(path=two, label="walk", split="train", original=one),
        Entry(path=tmp_path / "c.mp4", label="walk"),
    ]
    out = tmp_path / "out"
    done = square_videos(entries, out, side=16)
    assert len(done.skipped) == 1
    first, second = read_table(done.table)
    assert first.path == out / "walk" / "a.mp4"
    assert (second.label, second.split, second.original) == ("walk", "train", first.path)
    assert pictures(second.path)[0].shape == (16, 16, 3)
    with pytest.raises(InputError, match="--overwrite"):
        square_videos(entries, out)
    with pytest.raises(InputError, match="offset"):
        square_videos(entries, tmp_path / "other", offset=(0, 1.5))


def test_what_is_read_is_never_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "walk"
    folder.mkdir()
    film = write_video(folder / "a.mp4", moving_blob(4))
    write_video(folder / "a.avi", moving_blob(4, seed=1), codec="mpeg4")
    before = film.read_bytes()
    entries = [Entry(path=path, label="walk") for path in sorted(folder.iterdir())]
    with pytest.raises(InputError) as error:
        square_videos(entries, tmp_path, side=16, overwrite=True)
    assert_one_line(error.value, "a.mp4", "another output folder")
    with pytest.raises(InputError) as error:
        convert_folder(film, folder, overwrite=True)
    assert_one_line(error.value, "a.mp4", "another output folder")
    assert film.read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["a.avi", "a.mp4"]
