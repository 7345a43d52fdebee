"""Clips of events, cut from packets as the camera sent them."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from helpers import Image, moving_blob, write_raw_h264, write_video

from vad_runtime.contracts.manifest import Scoring
from vad_runtime.contracts.site import MediaSettings, RetentionSettings
from vad_runtime.detector import ScoredFrame
from vad_runtime.live.base import EventChange, EventRecord
from vad_runtime.live.media import media_names, part_name
from vad_runtime.live.media.clips import Clip, PacketSource
from vad_runtime.live.media.films import HourlyFilm
from vad_runtime.live.media.intake import Intake, Shot
from vad_runtime.live.media.recorder import MediaRecorder
from vad_runtime.live.media.retention import Retention
from vad_runtime.sinks.rows import read_rows
from vad_runtime.sources.base import Frame, SourceInfo
from vad_runtime.sources.connection import PacketInfo, StreamTemplate
from vad_runtime.sources.packets import PacketRing
from vad_runtime.sources.parameter_sets import parameter_sets

FPS = 15
GOP = 15
WALL_S = 1_795_000_000.0


def event(stream: str = "gate", *, start_s: float, end_s: float | None = None) -> EventRecord:
    return EventRecord(
        id="01930e2a-7c4d-7b1e-9c55-00001b9f03aa",
        site="depot",
        stream=stream,
        start_s=start_s,
        end_s=end_s,
        peak_s=start_s,
        peak_score=2.3,
        threshold=1.2,
        reason="score of site.vad",
        start_frame=1,
        end_frame=None,
    )


def recorded(path: Path, *, at_s: float = 0.0) -> tuple[StreamTemplate, list[PacketInfo]]:
    """Return a file's packets as a camera would send them, in real time from `at_s`."""
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        context = stream.codec_context
        template = StreamTemplate(
            codec=context.name,
            extradata=context.extradata,
            width=context.width,
            height=context.height,
            fps=float(FPS),
            time_base=(1, 90000),
        )
        packets = []
        for i, packet in enumerate(p for p in film.demux(stream) if p.size):
            pts = i / FPS if packet.pts is None else float(packet.pts * packet.time_base)
            dts = None if packet.dts is None else float(packet.dts * packet.time_base)
            packets.append(
                PacketInfo(
                    data=bytes(packet),
                    pts_s=1000.0 + pts,
                    dts_s=None if dts is None else 1000.0 + dts,
                    key=packet.is_keyframe,
                    arrived_s=at_s + i / FPS,
                )
            )
    return template, packets


@pytest.fixture
def retention(tmp_path: Path) -> Retention:
    return Retention(tmp_path, RetentionSettings(free_gb=0.0), say=pytest.fail)


Cut = Callable[..., list[Path]]


@pytest.fixture
def cut(tmp_path: Path, retention: Retention) -> Cut:
    """Cut a clip from packets that arrive one by one, looking every fourth time."""

    def run(
        template: Callable[[], StreamTemplate | None] | StreamTemplate | None,
        packets: list[PacketInfo],
        begin_s: float,
        until_s: float,
        *,
        clear_at: int = -1,
        ring_s: float = 60.0,
    ) -> list[Path]:
        ring = PacketRing(ring_s)
        ask = template if callable(template) or template is None else lambda: template
        clip = Clip(
            event(start_s=WALL_S),
            tmp_path / "clip.mp4",
            PacketSource(ring=ring, template=ask),
            begin_s=begin_s,
            retention=retention,
        )
        for i, packet in enumerate(packets):
            if i == clear_at:
                clip.poll(packet.arrived_s)
                ring.clear()
            ring.add(packet)
            if packet.arrived_s < begin_s + 0.5:  # the event is known a little later
                continue
            if packet.arrived_s > until_s - 0.5:
                clip.finish_at(until_s)
            if i % 4 == 0 and clip.poll(packet.arrived_s):
                break
        clip.poll(packets[-1].arrived_s)
        clip.close()
        return clip.kept

    return run


def decoded(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as film:
        return list(film.decode(video=0))


def shown_s(path: Path) -> list[float]:
    return [image.time for image in decoded(path) if image.time is not None]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds of H.264 with a key frame each second."""
    return write_video(tmp_path_factory.mktemp("clips") / "film.mp4", moving_blob(8 * FPS))


def test_a_clip_begins_at_the_key_frame_before_and_ends_after_the_post_roll(
    film: Path, cut: Cut
) -> None:
    template, packets = recorded(film)
    (path,) = cut(template, packets, 2.4, 5.0)
    times = shown_s(path)
    images = decoded(path)
    assert images[0].key_frame
    assert not any(image.is_corrupt for image in images)
    # From the key frame at 2.0 s up to 5.0 s, each of the frames.
    assert len(times) == 3 * FPS + 1
    assert times[0] == pytest.approx(0.0, abs=0.15)  # B-frames shift the start
    assert times[-1] - times[0] == pytest.approx(3.0, abs=1e-3)


def test_a_clip_holds_the_packets_of_the_camera_unchanged(film: Path, cut: Cut) -> None:
    template, packets = recorded(film)
    (path,) = cut(template, packets, 2.0, 4.0)
    with av.open(str(path)) as result:
        kept = [bytes(packet) for packet in result.demux(video=0) if packet.size]
    sent = [packet.data for packet in packets if 2.0 <= packet.arrived_s <= 4.0]
    assert kept == sent


def test_pictures_of_a_clip_are_those_that_the_camera_sent(film: Path, cut: Cut) -> None:
    template, packets = recorded(film)
    (path,) = cut(template, packets, 2.0, 4.0)
    whole = decoded(film)[2 * FPS :]
    for kept, sent in zip(decoded(path), whole, strict=False):
        assert np.array_equal(kept.to_ndarray(), sent.to_ndarray())


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        ("libx264", "ts"),
        ("mpeg4", "avi"),
        ("mjpeg", "avi"),
        ("mpeg2video", "ts"),
        ("libvpx", "webm"),
    ],
)
def test_every_frame_of_a_codec_decodes_from_its_clip(
    codec: str, suffix: str, tmp_path: Path, cut: Cut
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path = tmp_path / f"source.{suffix}"
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = 160, 120
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for image in moving_blob(2 * FPS):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())
    template, packets = recorded(path)
    (clip,) = cut(template, packets, 0.0, 10.0)
    images = decoded(clip)
    assert len(images) == len(packets) == 2 * FPS
    assert images[0].key_frame


def test_h264_without_a_header_takes_that_of_its_key_frame(tmp_path: Path, cut: Cut) -> None:
    raw = write_raw_h264(tmp_path / "raw.h264", moving_blob(2 * FPS))
    template, packets = recorded(raw)
    bare = dataclasses.replace(template, extradata=None, width=0, height=0)
    (clip,) = cut(bare, packets, 0.0, 10.0)
    images = decoded(clip)
    assert len(images) == 2 * FPS
    assert (images[0].width, images[0].height) == (160, 120)


def test_a_change_of_resolution_begins_a_second_part(tmp_path: Path, cut: Cut) -> None:
    small = list(moving_blob(2 * FPS))
    large = list(moving_blob(2 * FPS, height=240, width=320))
    template, packets = recorded(write_raw_h264(tmp_path / "raw.h264", small, large))
    first, second = cut(template, packets, 0.0, 10.0)
    assert second.name == part_name(first.name, 2) == "clip-part2.mp4"
    assert {(i.width, i.height) for i in decoded(first)} == {(160, 120)}
    assert {(i.width, i.height) for i in decoded(second)} == {(320, 240)}
    assert len(decoded(first)) + len(decoded(second)) == 4 * FPS
    with av.open(str(second)) as film:
        assert film.streams.video[0].codec_context.width == 320


def test_a_reconnect_begins_a_second_part_at_a_key_frame(film: Path, cut: Cut) -> None:
    template, before = recorded(film)
    _, after = recorded(film, at_s=9.0)
    # The camera sends on in the middle of a group of pictures; the ring keeps none of that.
    first, second = cut(template, [*before, *after[7:]], 4.0, 13.0, clear_at=len(before))
    assert decoded(second)[0].key_frame
    assert not any(image.is_corrupt for image in decoded(second))
    assert len(decoded(first)) == 4 * FPS
    assert len(decoded(second)) == 3 * FPS + 1  # from the key frame at 10 s


def test_a_camera_whose_clock_was_set_begins_a_second_part(film: Path, cut: Cut) -> None:
    template, packets = recorded(film)
    later = [
        dataclasses.replace(
            p, pts_s=p.pts_s + 1e6, dts_s=None if p.dts_s is None else p.dts_s + 1e6
        )
        for p in packets[4 * FPS :]
    ]
    first, second = cut(template, packets[: 4 * FPS] + later, 2.0, 6.0)
    assert shown_s(first)[-1] < 3.0
    assert shown_s(second)[-1] < 3.0


def test_a_packet_whose_time_of_decoding_is_nonsense_costs_no_clip(film: Path, cut: Cut) -> None:
    template, packets = recorded(film)
    packets[40] = dataclasses.replace(packets[40], dts_s=1e17)
    packets[41] = dataclasses.replace(packets[41], dts_s=-1e17)
    (clip,) = cut(template, packets, 2.0, 4.0)
    assert np.allclose(np.diff(shown_s(clip)), 1 / FPS, atol=1e-3)


def test_pictures_stay_in_order_where_the_first_packets_do_not_say_when_to_decode(
    film: Path, cut: Cut
) -> None:
    """As RTSP gives them, here with B-frames."""
    template, packets = recorded(film)
    assert [p.pts_s for p in packets] != sorted(p.pts_s for p in packets)
    packets[:5] = [dataclasses.replace(packet, dts_s=None) for packet in packets[:5]]
    (clip,) = cut(template, packets, 0.0, 2.0)
    assert np.allclose(np.diff(shown_s(clip)), 1 / FPS, atol=1e-3)


def test_an_event_older_than_the_ring_gets_what_there_is(film: Path, cut: Cut) -> None:
    template, packets = recorded(film)
    (path,) = cut(template, packets[3 * FPS :], 1.0, 5.0)
    assert len(decoded(path)) == 2 * FPS + 1


def test_pictures_become_a_film_where_a_source_has_no_packets(cut: Cut) -> None:
    packets = []
    for i, image in enumerate(moving_blob(30)):
        fine, data = cv2.imencode(".jpg", image)
        assert fine
        time_s = i / 10
        packets.append(
            PacketInfo(data=bytes(data), pts_s=time_s, dts_s=None, key=True, arrived_s=time_s)
        )
    (path,) = cut(None, packets, 1.0, 2.0)
    assert shown_s(path) == pytest.approx([i / 10 for i in range(11)], abs=2e-3)
    assert decoded(path)[0].width == 160


def test_a_clip_that_outgrows_its_share_of_the_budget_is_cut_off(
    film: Path, cut: Cut, retention: Retention, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Retention, "largest_file", 20_000)
    template, packets = recorded(film)
    (path,) = cut(template, packets, 0.0, 8.0)
    assert 0 < len(decoded(path)) < 8 * FPS
    assert path.stat().st_size < 60_000


def test_parameter_sets_are_found_in_annex_b_only(tmp_path: Path, film: Path) -> None:
    _, packets = recorded(write_raw_h264(tmp_path / "raw.h264", moving_blob(FPS)))
    sps, sets = parameter_sets("h264", packets[0].data)
    assert sps[0] & 0x1F == 7
    assert sps in sets
    assert parameter_sets("h264", packets[1].data) == (b"", b"")
    assert parameter_sets("h264", recorded(film)[1][0].data) == (b"", b"")
    assert parameter_sets("mjpeg", packets[0].data) == (b"", b"")


def test_names_depend_on_what_never_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        start = event(start_s=WALL_S)
        end = event(start_s=WALL_S, end_s=WALL_S + 9)
        assert media_names(start) == media_names(end)
        moment = time.strftime("%Y-%m-%d/gate-%H%M%S", time.gmtime(WALL_S))
        assert media_names(start) == (
            f"snapshots/{moment}-1b9f03aa.jpg",
            f"clips/{moment}-1b9f03aa.mp4",
        )
    finally:
        monkeypatch.undo()
        time.tzset()


# -- the whole thread --------------------------------------------------------------------------


def info() -> SourceInfo:
    return SourceInfo(
        name="cam", kind="live stream", codec="h264", width=160, height=120, fps=FPS, frames=None
    )


def scored(index: int, picture: Image, *, score: float, arrived_s: float | None) -> ScoredFrame:
    frame = Frame(
        index=index,
        pts_s=index / FPS,
        pixels=picture[::4, ::4],
        picture=lambda: picture,
        arrived_s=arrived_s,
    )
    return ScoredFrame(frame=frame, raw=score, score=score, alarm=score > 1.2, status="scored")


def eventually(what: Callable[[], bool], seconds: float = 8.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.02)
    return what()


Open = Callable[..., MediaRecorder]


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Open]:
    opened: list[MediaRecorder] = []

    def run(
        ring: PacketRing | None, template: StreamTemplate | None, **media: object
    ) -> MediaRecorder:
        settings = MediaSettings(**({"pre_s": 0.5, "post_s": 0.3} | media))  # type: ignore[arg-type]
        recorder = MediaRecorder(
            tmp_path, settings, RetentionSettings(free_gb=0.0), say=pytest.fail
        )
        opened.append(recorder)
        recorder.stream_opened(
            "gate", ring=ring, template=lambda: template, info=info, scoring=Scoring(threshold=1.2)
        )
        return recorder

    yield run
    for one in opened:
        one.close()


def test_the_recorder_writes_the_clip_of_an_event_in_its_own_thread(
    film: Path, tmp_path: Path, recorder: Open
) -> None:
    now, wall = time.monotonic(), time.time()
    template, packets = recorded(film, at_s=now - 5.0)
    ring = PacketRing(60.0)
    media = recorder(ring, template)
    for packet in packets:
        ring.add(packet)
    begun = event(start_s=wall - 2.0)
    media.event(EventChange(kind="started", event=begun))
    done = event(start_s=wall - 2.0, end_s=wall - 1.0)
    media.event(EventChange(kind="ended", event=done))
    clip = tmp_path / media_names(done)[1]
    assert eventually(clip.exists)
    # It began 3 s after the first packet, less 0.5 s, so at the key frame of second 2; it ended
    # at 4 s and 0.3 s more. The clocks are read one after the other: a frame more or less.
    assert len(decoded(clip)) == pytest.approx(2.3 * FPS, abs=2)
    assert eventually(lambda: media.health().details["clips"] == 1)
    assert media.health().ok


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
def test_a_clock_that_is_set_in_the_middle_of_an_event_moves_no_end_of_its_clip(
    film: Path, tmp_path: Path, step_s: float
) -> None:
    now_s, wall_s = 1000.0, [WALL_S]
    template, packets = recorded(film, at_s=now_s - 6.0)
    ring = PacketRing(60.0)
    for packet in packets:
        ring.add(packet)
    media = MediaRecorder(
        tmp_path,
        MediaSettings(pre_s=0.5, post_s=0.3),
        RetentionSettings(free_gb=0.0),
        say=pytest.fail,
        clock=lambda: now_s,
        wall=lambda: wall_s[0],
    )
    media.stream_opened(
        "gate", ring=ring, template=lambda: template, info=info, scoring=Scoring(threshold=1.2)
    )
    begun = event(start_s=WALL_S - 3.0)
    media.event(EventChange(kind="started", event=begun))
    wall_s[0] += step_s
    done = event(start_s=WALL_S - 3.0, end_s=WALL_S - 2.0)
    media.event(EventChange(kind="ended", event=done))
    media.close()
    # From the key frame of second 2 to 4 s and the post-roll: not to the last packet at 8 s.
    assert len(decoded(tmp_path / media_names(done)[1])) == pytest.approx(2.3 * FPS, abs=1)


def test_a_bug_with_one_stream_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    media = MediaRecorder(
        tmp_path, MediaSettings(clips=False), RetentionSettings(free_gb=0.0), say=lines.append
    )
    for name in ("gate", "yard"):
        media.stream_opened(
            name, ring=None, template=lambda: None, info=info, scoring=Scoring(threshold=1.2)
        )
    monkeypatch.setitem(media._streams["gate"].__dict__, "work", lambda: 1 / 0)
    picture = next(iter(moving_blob(1)))
    shot = scored(0, picture, score=2.0, arrived_s=None)
    assert eventually(lambda: bool(lines))
    assert "media of gate (ZeroDivisionError)" in media.health().trouble
    yard = event("yard", start_s=time.time())
    media.event(EventChange(kind="started", event=yard), shot)
    assert eventually((tmp_path / media_names(yard)[0]).exists)
    media.close()


def test_closing_completes_the_clip_of_an_event_that_goes_on(
    film: Path, tmp_path: Path, recorder: Open
) -> None:
    template, packets = recorded(film, at_s=time.monotonic() - 7.0)
    ring = PacketRing(60.0)
    for packet in packets:
        ring.add(packet)
    media = recorder(ring, template)
    begun = event(start_s=time.time() - 2.0)
    media.event(EventChange(kind="started", event=begun))
    media.close()
    assert len(decoded(tmp_path / media_names(begun)[1])) > FPS
    assert not list(tmp_path.rglob("*.part"))


def test_a_clip_of_scored_pictures_is_made_where_there_are_no_packets(
    tmp_path: Path, recorder: Open
) -> None:
    media = recorder(None, None)
    start, wall = time.monotonic(), time.time()
    pictures = list(moving_blob(20))
    for i, picture in enumerate(pictures):
        media.scored("gate", scored(i, picture, score=0.1, arrived_s=start - 2.0 + i / 10))
    assert eventually(lambda: media.health().queued == 0)
    begun = event(start_s=wall - 1.0)
    media.event(EventChange(kind="started", event=begun))
    media.close()
    # Twenty pictures of two seconds, those of the last 1.5 s.
    assert len(decoded(tmp_path / media_names(begun)[1])) == pytest.approx(15, abs=1)


def test_only_so_many_clips_of_a_stream_are_open_at_a_time(
    film: Path, tmp_path: Path, recorder: Open
) -> None:
    template, packets = recorded(film, at_s=time.monotonic() - 7.0)
    ring = PacketRing(60.0)
    for packet in packets:
        ring.add(packet)
    media = recorder(ring, template, snapshots=False)
    for i in range(20):
        one = event(start_s=time.time() - 2.0)
        media.event(EventChange(kind="started", event=one_with_id(one, i)))
    assert eventually(lambda: media.health().queued == 0)
    media.close()
    assert len(list(tmp_path.rglob("*.mp4"))) == 4
    assert media.health().details["given_up"] == 16


def one_with_id(record: EventRecord, number: int) -> EventRecord:
    return EventRecord(
        **{name: getattr(record, name) for name in record.__struct_fields__ if name != "id"},
        id=f"{record.id[:-4]}{number:04x}",
    )


def test_a_film_and_a_table_of_scores_are_kept_where_asked(tmp_path: Path, recorder: Open) -> None:
    media = recorder(None, None, clips=False, overlay=True, scores="csv")
    for i, picture in enumerate(moving_blob(30)):
        media.scored("gate", scored(10_000 + i, picture, score=i / 10, arrived_s=None))
    media.close()
    (table,) = (tmp_path / "scores").rglob("*.csv")
    rows = read_rows(table)
    assert [row.frame for row in rows] == list(range(10_000, 10_030))
    assert rows[20].score == pytest.approx(2.0)
    (shown,) = (tmp_path / "films").rglob("*.mp4")
    times = shown_s(shown)
    assert len(times) == 30
    assert times[0] == pytest.approx(0.0, abs=0.01)


def test_the_hour_that_comes_twice_in_autumn_gives_two_films(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        now = [1_792_886_400.0]  # 2026-10-25 02:00 summer time
        film = HourlyFilm(
            tmp_path,
            "gate",
            info,
            Scoring(threshold=1.2),
            retention=Retention(tmp_path, RetentionSettings(free_gb=0.0), say=pytest.fail),
            wall=lambda: now[0],
        )
        for i, picture in enumerate(moving_blob(6)):
            now[0] += 3600.0 * (i == 3)
            film.write(scored(i, picture, score=0.1, arrived_s=None))
        film.close()
    finally:
        monkeypatch.undo()
        time.tzset()
    films = sorted(path.name for path in tmp_path.rglob("*.mp4"))
    assert films == ["gate-020000-2.mp4", "gate-020000.mp4"]


def test_the_table_of_a_site_says_when_a_frame_came(tmp_path: Path, recorder: Open) -> None:
    media = recorder(None, None, clips=False, scores="csv")
    came = time.time() - 5.0
    for i, picture in enumerate(moving_blob(3)):
        media.scored("gate", scored(i, picture, score=0.1, arrived_s=time.monotonic() - 5.0))
    media.close()
    (table,) = (tmp_path / "scores").rglob("*.csv")
    header, first, *_ = table.read_text().splitlines()
    assert header == "frame,time_s,raw,score,alarm,status,utc"
    utc = first.split(",")[-1]
    assert utc.endswith("Z")
    stamp = datetime.fromisoformat(utc.replace("Z", "+00:00")).timestamp()
    assert stamp == pytest.approx(came, abs=0.5)


def test_how_much_is_kept_may_change_while_the_site_runs(tmp_path: Path, recorder: Open) -> None:
    media = recorder(None, None)
    old = tmp_path / "clips" / "d" / "old.mp4"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"x" * 1000)
    os.utime(old, (1e9, 1e9))
    media.keep(RetentionSettings(free_gb=0.0, days=30.0))
    assert eventually(lambda: not old.exists())


@pytest.mark.parametrize(("fps", "kept"), [(10, 40), (15, 60), (25, 60), (30, 60)])
def test_clips_of_pictures_take_up_to_fifteen_a_second_whatever_the_rate(
    fps: int, kept: int
) -> None:
    intake = Intake(film=False, table=False, pictures=lambda: True, info=info)
    taken = 0
    for i in range(4 * fps):
        arrived_s = 100.0 + i / fps + 0.003 * (i % 3)  # no camera is punctual
        picture = np.zeros((120, 160, 3), np.uint8)
        intake.take(Shot(scored(i, picture, score=0.1, arrived_s=arrived_s), arrived_s, WALL_S))
        taken += intake.shot() is not None
    assert taken == pytest.approx(kept, abs=2)


def test_what_is_written_of_people_is_closed_to_others(
    film: Path, tmp_path: Path, recorder: Open
) -> None:
    before = os.umask(0)
    try:
        media = recorder(None, None, overlay=True, scores="csv")
        start, wall = time.monotonic(), time.time()
        for i, picture in enumerate(moving_blob(20)):
            shot = scored(i, picture, score=2.0, arrived_s=start - 2.0 + i / 10)
            media.scored("gate", shot)
        assert eventually(lambda: media.health().queued == 0)
        media.event(EventChange(kind="started", event=event(start_s=wall - 1.0)), shot)
        media.close()
    finally:
        os.umask(before)
    found = {p.relative_to(tmp_path): p.stat().st_mode & 0o777 for p in tmp_path.rglob("*")}
    kinds = {path.parts[0] for path, mode in found.items() if mode == 0o640}
    assert kinds == {"clips", "snapshots", "films", "scores"}
    assert set(found.values()) == {0o640, 0o750}
