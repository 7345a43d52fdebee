"""Rows of pictures: what an STAE sees, remakes and expects."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import assert_one_line, clip_spec, moving_blob, write_video

from vad_runtime.contracts import InputError, SourceError
from vad_training.cli import cli
from vad_training.models.stae import STAE
from vad_training.pictures import clip_pictures, save_picture_rows

SPEC = clip_spec(frames=8, hop=4)


@pytest.fixture(scope="module")
def model() -> STAE:
    torch.manual_seed(0)
    return STAE().eval()


def test_the_future_is_what_followed_the_clip(tiny_video: Path, model: STAE) -> None:
    made = clip_pictures(model, SPEC, 8, tiny_video, count=100)
    by_start = {one.indices[0]: one for one in made}
    assert sorted(by_start) == list(range(0, 45, 4))
    for start, one in by_start.items():
        if start + 8 in by_start:
            assert (one.future == by_start[start + 8].clip).all()


def test_the_largest_error_comes_first_and_the_smallest_last(tiny_video: Path, model: STAE) -> None:
    every = [sum(one.errors) for one in clip_pictures(model, SPEC, 8, tiny_video, count=100)]
    assert every == sorted(every, reverse=True)
    three = [sum(one.errors) for one in clip_pictures(model, SPEC, 8, tiny_video, count=3)]
    assert len(three) == 3
    assert (three[0], three[-1]) == (every[0], every[-1])


def test_the_error_is_summed_over_pixels_and_averaged_over_frames(
    tiny_video: Path, model: STAE
) -> None:
    one = clip_pictures(model, SPEC, 8, tiny_video, count=1)[0]
    by_hand = sum(
        float((one.clip[t] - one.reconstruction[t]) ** 2 @ np.ones(32) @ np.ones(32))
        for t in range(8)
    )
    assert one.errors[0] == pytest.approx(by_hand / 8, rel=1e-5)


def test_a_video_without_a_future_is_one_line(tmp_path: Path, model: STAE) -> None:
    video = write_video(tmp_path / "short.mp4", moving_blob(12))
    with pytest.raises(SourceError) as caught:
        clip_pictures(model, SPEC, 8, video)
    assert_one_line(caught.value, "short.mp4", "16")


def test_the_picture_has_a_row_for_each_thing(
    tiny_video: Path, model: STAE, tmp_path: Path
) -> None:
    one = clip_pictures(model, SPEC, 8, tiny_video, count=1)[0]
    save_picture_rows(tmp_path / "rows.png", one, title="tiny.mp4, $ and all")
    picture = cv2.imread(str(tmp_path / "rows.png"))
    assert picture.shape[1] > picture.shape[0] > 600
    assert [file.name for file in tmp_path.iterdir()] == ["rows.png"]


def test_the_command_draws_published_weights(tiny_video: Path, model: STAE, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "stae.pth")
    out = tmp_path / "pictures"
    done = CliRunner().invoke(
        cli,
        ["pictures", str(tmp_path / "stae.pth"), str(tiny_video), "-o", str(out), "--count", "2"],
        catch_exceptions=False,
    )
    assert done.exit_code == 0
    files = sorted(file.name for file in out.iterdir())
    assert len(files) == 2
    assert all(name.startswith(("01_frames_", "02_frames_")) for name in files)
    assert done.output.count("reconstruction") == 2


def test_another_family_is_refused(tiny_video: Path, tmp_path: Path) -> None:
    from vad_training.checkpoint_file import save_checkpoint
    from vad_training.config import MilConfig
    from vad_training.config.mil import HeadConfig
    from vad_training.models.mil import mil_head

    head = mil_head(HeadConfig(), 8)
    save_checkpoint(tmp_path / "best.pt", {"model": head.state_dict()}, MilConfig())
    with pytest.raises(InputError) as caught:
        CliRunner().invoke(
            cli,
            ["pictures", str(tmp_path), str(tiny_video), "-o", str(tmp_path / "out")],
            catch_exceptions=False,
            standalone_mode=False,
        )
    assert_one_line(caught.value, "mil", "STAE")
