"""The clips of a video are those that the device scores."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from helpers import clip_spec, manifest, moving_blob, write_video

from vad_runtime.backends.base import Options
from vad_runtime.backends.fake import FakeBackend
from vad_runtime.contracts import ClipSpec, SourceError
from vad_runtime.detector import Detector
from vad_runtime.sources import open_source
from vad_training.data.clips import clips_of

SPEC = clip_spec(frames=4, stride=2, hop=4, colour="rgb")


class Listening(FakeBackend):
    """Keeps every clip that it is asked to score."""

    def __init__(self, spec: ClipSpec) -> None:
        super().__init__(Path(), manifest(clip=spec), Options())
        self.clips: list[npt.NDArray[np.uint8]] = []

    def infer(self, clip: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        self.clips.append(clip[0].copy())
        return super().infer(clip)


@pytest.mark.parametrize("jump", [None, 13])
def test_they_are_the_clips_of_the_detector_across_holes_too(
    tmp_path: Path, jump: int | None
) -> None:
    pts = [i if jump is None or i < jump else i + 30 for i in range(30)]
    video = write_video(tmp_path / "v.mp4", moving_blob(30), pts=pts)
    backend = Listening(SPEC)
    source = open_source(video, SPEC)
    detector = Detector(manifest(clip=SPEC), backend)
    list(detector.run(source.frames(), nominal_fps=source.info.fps))
    found = list(clips_of(video, SPEC))
    assert len(found) == len(backend.clips) >= 5
    assert all(np.array_equal(a, b) for (_, a), b in zip(found, backend.clips, strict=True))
    if jump is not None:
        assert all(max(i) < jump or min(i) >= jump for i, _ in found)
        assert max(max(i) for i, _ in found) > jump


def test_clips_start_a_hop_apart_and_the_last_one_ends_with_the_video(tiny_video: Path) -> None:
    spec = clip_spec(frames=4, stride=2, hop=12, colour="rgb")
    found = [indices for indices, _ in clips_of(tiny_video, spec)]
    assert [i[0] for i in found] == [0, 12, 24, 36, 48, 52]
    assert found[-1] == [52, 54, 56, 58]


def test_the_pixels_stay_when_the_next_clip_has_come(tiny_video: Path) -> None:
    kept, copies = [], []
    for _, pixels in clips_of(tiny_video, SPEC):
        assert pixels.shape == (4, 32, 32, 3)
        kept.append(pixels)
        copies.append(pixels.copy())
    assert all(np.array_equal(a, b) for a, b in zip(kept, copies, strict=True))


def test_a_video_says_its_frame_rate_before_it_is_read(tiny_video: Path) -> None:
    assert clips_of(tiny_video, SPEC).info.fps == 15


def test_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_text("no video")
    with pytest.raises(SourceError):
        list(clips_of(tmp_path / "x.mp4", SPEC))
