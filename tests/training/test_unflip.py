"""Frames that stand on their head are found by the video's background and turned back."""

from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner
from helpers import Image, assert_one_line, moving_blob, write_video

from vad_runtime.contracts import InputError, SourceError
from vad_training.cli import cli
from vad_training.data.tools.unflip import flipped_frames, unflip


def scene(count: int = 40) -> list[Image]:
    """A moving square in front of a wall that is dark above and bright below."""
    images = list(moving_blob(count, height=96, width=128))
    shade = np.linspace(0.3, 1.6, 96)[:, None, None]
    return [np.clip(image * shade, 0, 255).astype(np.uint8) for image in images]


def decoded(path: Path) -> list[Image]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_exactly_the_flipped_frames_are_found() -> None:
    small = np.stack([image[::3, ::4, 0] for image in scene()])
    wrong = np.zeros(len(small), bool)
    wrong[[3, 4, 5, 17, 39]] = True
    small[wrong] = small[wrong][:, ::-1]
    assert flipped_frames(small).tolist() == wrong.tolist()


def test_up_to_almost_half_of_the_frames_may_be_flipped() -> None:
    small = np.stack([image[::3, ::4, 0] for image in scene()])
    wrong = np.arange(len(small)) % 5 < 2
    small[wrong] = small[wrong][:, ::-1]
    assert flipped_frames(small).tolist() == wrong.tolist()


def test_the_film_that_is_written_stands_upright(tmp_path: Path) -> None:
    images = scene()
    turned = [image[::-1] if 10 <= i < 15 else image for i, image in enumerate(images)]
    video = write_video(tmp_path / "in.mp4", turned)
    found = unflip(video, tmp_path / "out.mp4")
    assert np.flatnonzero(found.flipped).tolist() == [10, 11, 12, 13, 14]
    for image, picture in zip(images, decoded(tmp_path / "out.mp4"), strict=True):
        # Chroma is halved by the codec and the wall is coloured noise, so brightness is compared.
        assert np.abs(image.mean(axis=2) - picture.mean(axis=2)).mean() < 6
    assert not unflip(tmp_path / "out.mp4", None).flipped.any()


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (np.full((32, 32), 90, np.uint8), "flat colour"),
        (np.repeat(np.arange(32, dtype=np.uint8)[None] * 7, 32, axis=0), "upside down"),
    ],
)
def test_a_background_that_does_not_tell_up_from_down_is_refused(
    tmp_path: Path, picture: Image, reason: str
) -> None:
    big = np.repeat(np.kron(picture, np.ones((4, 4), np.uint8))[:, :, None], 3, axis=2)
    video = write_video(tmp_path / "in.mp4", [big] * 20)
    with pytest.raises(SourceError) as caught:
        unflip(video, tmp_path / "out.mp4")
    assert_one_line(caught.value, "in.mp4", reason)
    assert not (tmp_path / "out.mp4").exists()


def test_the_command_writes_the_films_and_a_list_of_what_it_turned(tmp_path: Path) -> None:
    images = scene()
    (tmp_path / "in").mkdir()
    turned = [image[::-1] if i in (4, 5) else image for i, image in enumerate(images)]
    write_video(tmp_path / "in" / "a.mp4", turned)
    done = CliRunner().invoke(
        cli,
        ["data", "unflip", str(tmp_path / "in"), "-o", str(tmp_path / "out")],
        catch_exceptions=False,
    )
    assert done.exit_code == 0
    assert "2 of 40 frames turned" in done.output
    assert (tmp_path / "out" / "in" / "a.mp4").is_file()
    lines = (tmp_path / "out" / "flipped.csv").read_text().split()
    assert lines == [
        "video,frame",
        f"{tmp_path / 'in' / 'a.mp4'},4",
        f"{tmp_path / 'in' / 'a.mp4'},5",
    ]


def test_the_command_overwrites_neither_its_list_nor_what_it_reads(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    film = write_video(tmp_path / "in" / "a.mp4", scene())
    before = film.read_bytes()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "flipped.csv").write_text("mine")
    for out, options in (("out", []), (".", ["--overwrite"])):
        args = ["data", "unflip", str(tmp_path / "in"), "-o", str(tmp_path / out), *options]
        with pytest.raises(InputError) as caught:
            CliRunner().invoke(cli, args, catch_exceptions=False, standalone_mode=False)
        assert_one_line(caught.value, "another")
    assert (tmp_path / "out" / "flipped.csv").read_text() == "mine"
    assert film.read_bytes() == before
