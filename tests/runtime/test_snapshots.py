"""Snapshots of alarms."""

import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from helpers import Image

from vad_runtime.contracts.manifest import Scoring
from vad_runtime.contracts.site import MediaSettings, RetentionSettings
from vad_runtime.detector import ScoredFrame
from vad_runtime.live.base import EventChange, EventRecord
from vad_runtime.live.media import media_names, peak_name
from vad_runtime.live.media.recorder import MediaRecorder
from vad_runtime.live.media.snapshots import full_picture, snapshot
from vad_runtime.sources.base import Frame, SourceInfo, no_picture


def read(data: bytes) -> Image:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return np.asarray(picture[:, :, ::-1], np.uint8)


def test_a_snapshot_shows_the_picture_untouched_and_a_line_below() -> None:
    rows, columns = np.mgrid[0:480, 0:640]
    picture = np.stack([rows / 2, columns / 3, 255 - rows / 2], axis=2).astype(np.uint8)
    data = snapshot(picture, stream="gate", unix_s=1.8e9, score=2.31, threshold=1.2)
    shown = read(data)
    assert shown.shape[1] == 640
    assert 480 < shown.shape[0] < 540
    # JPEG changes it a little, but nothing is drawn on it.
    assert np.abs(shown[:478].astype(int) - picture[:478]).max() < 16
    line = shown[482:].astype(int)
    assert line.min() < 40
    assert line.max() > 200


def test_the_score_is_red_above_the_threshold_only() -> None:
    picture = np.zeros((360, 640, 3), np.uint8)

    def redness(score: float | None) -> int:
        line = read(snapshot(picture, stream="a", unix_s=1.8e9, score=score, threshold=1.2))[362:]
        red = line[..., 0].astype(int) - line[..., 1]
        return int((red > 80).sum())

    assert redness(2.0) > 20
    assert redness(0.5) == 0
    assert redness(None) == 0


@pytest.mark.parametrize("size", [(32, 32), (16, 400), (3000, 2000), (1, 1)])
def test_pictures_of_any_size_get_a_readable_line(size: tuple[int, int]) -> None:
    picture = np.full((*size, 3), 90, np.uint8)
    shown = read(snapshot(picture, stream="x" * 63, unix_s=1.8e9, score=1e9, threshold=None))
    assert 480 <= shown.shape[1] <= 1920
    assert shown[-22:-4].min() < 40
    assert shown[-40:].max() > 120


def test_a_source_without_pictures_gives_what_the_model_saw() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    frame = Frame(index=0, pts_s=0.0, pixels=grey, picture=no_picture)
    picture = full_picture(frame)
    assert picture.shape == (8, 8, 3)
    assert np.array_equal(picture[:, :, 2], grey[:, :, 0])


# -- in the media thread -------------------------------------------------------------------------


@pytest.fixture
def media(tmp_path: Path) -> Iterator[MediaRecorder]:
    recorder = MediaRecorder(
        tmp_path, MediaSettings(clips=False), RetentionSettings(free_gb=0.0), say=pytest.fail
    )
    recorder.stream_opened(
        "gate",
        ring=None,
        template=lambda: None,
        info=lambda: SourceInfo(
            name="a", kind="live stream", codec="h264", width=64, height=48, fps=25, frames=None
        ),
        scoring=Scoring(threshold=1.0),
    )
    yield recorder
    recorder.close()


def shot(colour: int, score: float | None, *, rows: int = 480) -> ScoredFrame:
    picture = np.full((rows, 640, 3), colour, np.uint8)
    frame = Frame(index=colour, pts_s=0.0, pixels=picture, picture=lambda: picture)
    return ScoredFrame(frame=frame, raw=score, score=score, alarm=True, status="scored")


def record(end_s: float | None = None) -> EventRecord:
    return EventRecord(
        id="01930e2a-7c4d-7b1e-9c55-00001b9f03aa",
        site="depot",
        stream="gate",
        start_s=1.8e9,
        end_s=end_s,
        peak_s=1.8e9,
        peak_score=2.0,
        threshold=1.0,
        reason="score of site.vad",
        start_frame=1,
        end_frame=None,
    )


def shade(path: Path) -> int:
    return int(read(path.read_bytes())[200, 300, 0])


def test_the_frame_that_raised_the_alarm_and_that_of_the_peak_are_kept(
    media: MediaRecorder, tmp_path: Path
) -> None:
    media.event(EventChange(kind="started", event=record()), shot(40, 1.1))
    for colour, score in ((80, 1.5), (160, 3.0), (200, 2.0), (240, None)):
        media.scored("gate", shot(colour, score))
    media.event(EventChange(kind="ended", event=record(1.8e9 + 5)))
    media.scored("gate", shot(255, 9.0))
    media.close()
    first = media_names(record())[0]
    assert shade(tmp_path / first) == pytest.approx(40, abs=3)
    assert shade(tmp_path / peak_name(first)) == pytest.approx(160, abs=3)
    assert media.health().details["snapshots"] == 2


def test_an_event_whose_first_frame_is_its_peak_has_one_snapshot(
    media: MediaRecorder, tmp_path: Path
) -> None:
    media.event(EventChange(kind="started", event=record()), shot(40, 5.0))
    media.scored("gate", shot(80, 1.5))
    media.event(EventChange(kind="ended", event=record(1.8e9 + 5)))
    media.close()
    assert [path.name for path in tmp_path.rglob("*.jpg")] == [Path(media_names(record())[0]).name]


def test_the_paths_of_the_record_are_used_where_it_has_some(
    media: MediaRecorder, tmp_path: Path
) -> None:
    named = msgspec.structs.replace(record(), snapshot="snapshots/mine/a.jpg")
    media.event(EventChange(kind="started", event=named), shot(40, 5.0))
    media.close()
    assert (tmp_path / "snapshots/mine/a.jpg").is_file()


def test_events_of_unknown_streams_and_ends_without_a_start_do_no_harm(
    media: MediaRecorder, tmp_path: Path
) -> None:
    foreign = msgspec.structs.replace(record(), stream="gone")
    media.event(EventChange(kind="started", event=foreign), shot(40, 5.0))
    media.event(EventChange(kind="ended", event=record(1.8e9 + 5)))
    media.scored("gone", shot(1, 1.0))
    media.stream_closed("gone")
    media.close()
    assert not list(tmp_path.rglob("*.jpg"))
    assert media.health().ok


def test_telling_the_recorder_of_a_storm_never_waits_and_counts_what_is_lost(
    media: MediaRecorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vad_runtime.live.media.recorder._COMMANDS", 50)
    frame = shot(40, 5.0, rows=16)
    began = time.monotonic()
    for i in range(500):
        one = msgspec.structs.replace(record(), id=f"01930e2a-7c4d-7b1e-9c55-{i:012x}")
        media.event(EventChange(kind="started", event=one), frame)
    took_s = time.monotonic() - began
    waiting = media.health().queued
    media.close()
    health = media.health()
    assert took_s < 2.0
    assert waiting <= 50
    assert health.dropped > 0
    assert health.details["snapshots"] + health.dropped == 500
    assert len(list(tmp_path.rglob("*.jpg"))) == health.details["snapshots"]
