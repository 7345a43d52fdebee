"""What a user may name as a source, and that no password of it is ever shown."""

import time
from itertools import pairwise
from pathlib import Path

import pytest
from helpers import assert_one_line, clip_spec, moving_blob, write_video

from vad_runtime.contracts.errors import BackendError, SourceError
from vad_runtime.contracts.site import Secret, StreamSettings
from vad_runtime.sources import find_sources, open_source
from vad_runtime.sources.address import Address, address_from_text, masked


@pytest.mark.parametrize(
    ("text", "kind", "kept"),
    [
        ("rtsp://cam:554/live", "stream", "rtsp://cam:554/live"),
        ("RTSP://Cam/Live", "stream", "rtsp://Cam/Live"),
        (" https://cam/video.mjpg ", "stream", "https://cam/video.mjpg"),
        ("udp://@:5004", "stream", "udp://@:5004"),
        ("udp://0.0.0.0:5004", "stream", "udp://0.0.0.0:5004"),
        ("/dev/video2", "usb", "/dev/video2"),
        ("/dev/v4l/by-id/usb-Cam-video-index0", "usb", "/dev/v4l/by-id/usb-Cam-video-index0"),
        ("usb:0", "usb", "/dev/video0"),
        ("gst: v4l2src ! appsink", "gstreamer", "v4l2src ! appsink"),
        ("GST:videotestsrc", "gstreamer", "videotestsrc"),
        ("clips/*.mp4", "glob", "clips/*.mp4"),
        ("film.mp4", "file", "film.mp4"),
        ("file:///films/a.mp4", "file", "/films/a.mp4"),
    ],
)
def test_a_text_names_what_it_looks_like(text: str, kind: str, kept: str) -> None:
    address = address_from_text(text)
    assert (address.kind, address.text) == (kind, kept)
    assert address.live == (kind in ("stream", "usb", "gstreamer"))


def test_what_exists_is_a_path_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "a[1].mp4").touch()
    assert address_from_text(str(tmp_path / "a[1].mp4")).kind == "file"
    assert address_from_text(str(tmp_path)).kind == "folder"
    assert address_from_text(str(tmp_path / "b[1].mp4")).kind == "glob"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("gst:  ", "pipeline"),
        ("usb:cam", "usb:0"),
        ("ftp://admin:hunter2@cam/x", "unknown protocol"),
        ("rtsp:///live", "no host"),
        ("rtsp://admin:hun ter2@cam/x", "%20"),
        ("admin:hunter2@192.168.1.9/live", "rtsp://"),
        ("rtsp://admin:hunter2@cam\n/x", "control characters"),
    ],
)
def test_what_names_nothing_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(SourceError) as caught:
        address_from_text(text)
    assert_one_line(caught.value, words)
    assert "hunter2" not in str(caught.value)
    assert "ter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:hunter2@cam/live", "rtsp://***@cam/live"),
        ("rtsp://hunter2@cam/live", "rtsp://***@cam/live"),
        ("rtsp://admin:h@nt/er?2@cam:554/live", "rtsp://***@cam:554/live"),
        ("http://cam/v?user=joe&pwd=hunter2&ch=1", "http://cam/v?user=***&pwd=***&ch=1"),
        ("http://cam/v?X-Amz-Signature=hunter2", "http://cam/v?X-Amz-Signature=***"),
        ("http://cam/v?apiKey=hunter2#x", "http://cam/v?apiKey=***"),
        ("http://cam/v?loginpas=hunt'er2&x=1", "http://cam/v?loginpas=***&x=1"),
        ("srt://cam:9000?passphrase=hunter2", "srt://cam:9000?passphrase=***"),
        ("http://proxy/?to=rtsp://a:hunter2@cam/", "http://proxy/?to=rtsp://***@cam/"),
        (
            'rtspsrc location="rtsp://a:hunter2@cam/x?key=hunter2" user-pw = "hun ter2" ! fakesink',
            'rtspsrc location="rtsp://***@cam/x?key=***" user-pw = "***" ! fakesink',
        ),
        ("souphttpsrc user-pw=(string)hunter2 ! x", "souphttpsrc user-pw=(string)*** ! x"),
        ("cannot open 'rtsp://a:hunter2@cam/x': gone", "cannot open 'rtsp://***@cam/x': gone"),
        ("a:hunter2@cam and b:hunter2@cam", "***@cam and ***@cam"),
    ],
)
def test_credentials_are_masked_wherever_they_stand(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://cam:554/live/ch1",
        "rtsp://[fe80::1]:554/a",
        "http://cam/a@2x.mjpg",
        "/data/films/a.mp4",
        "stream gate: rtsp://cam:554/live, alarm from 0.5",
        "videotestsrc pattern=ball keyframe=3 ! monkey=1",
    ],
)
def test_what_holds_no_credentials_is_shown_as_it_is(text: str) -> None:
    assert masked(text) == text


def test_an_address_shows_itself_masked() -> None:
    address = address_from_text("rtsp://admin:hunter2@cam/live")
    assert "hunter2" not in f"{address} {address!r}"
    pipeline = address_from_text("gst: rtspsrc location=rtsp://admin:hunter2@cam ! appsink")
    assert str(pipeline) == "gst: rtspsrc location=rtsp://***@cam ! appsink"


def test_masking_takes_time_in_proportion_to_the_text() -> None:
    start = time.monotonic()
    for text in ("a=", "://", "=a:", " k= ", "x://a:b", "a:", "key=", '="'):
        for end in ("", "@", "@c"):
            masked(text * 5_000 + end)
    assert time.monotonic() - start < 10  # it takes 1 s; squared it would be minutes


def test_a_pattern_is_its_recordings_one_after_the_other(tmp_path: Path) -> None:
    for i, count in ((2, 12), (10, 8)):
        write_video(tmp_path / f"clip{i}.mp4", moving_blob(count))
    (tmp_path / "clip3.mp4").write_bytes(b"no film")
    (tmp_path / "clip.txt").write_text("no film either")
    pattern = str(tmp_path / "clip*")
    assert [p.name for p in find_sources(pattern)] == ["clip2.mp4", "clip3.mp4", "clip10.mp4"]
    source = open_source(pattern, clip_spec(), pictures=False)
    frames = list(source.frames())
    assert [frame.index for frame in frames] == list(range(20))
    assert [frame.hole for frame in frames] == [None] * 12 + ["next recording"] + [None] * 7
    steps = [b.pts_s - a.pts_s for a, b in pairwise(frames)]
    assert steps == pytest.approx([1 / 15] * 19)
    assert source.stats.frames == 20
    assert source.stats.holes == {"next recording": 1}
    assert len(source.stats.notes) == 1
    assert "clip3.mp4" in source.stats.notes[0]
    assert source.info.name == pattern


def test_a_pattern_of_images_is_a_folder_of_frames(frame_folder: Path) -> None:
    pattern = frame_folder / "1*.png"
    assert find_sources(pattern) == [pattern]
    source = open_source(pattern, clip_spec())
    assert source.info.kind == "frame folder"
    assert len(list(source.frames())) == 4  # 1, 10, 11, 12


def test_a_pattern_that_finds_nothing_to_read_says_so(tmp_path: Path) -> None:
    for read in (find_sources, lambda name: open_source(name, clip_spec())):
        with pytest.raises(SourceError) as caught:
            read(str(tmp_path / "*.mp4"))
        assert_one_line(caught.value, "finds nothing", "quotes")
    (tmp_path / "a.txt").touch()
    with pytest.raises(SourceError) as caught:
        open_source(str(tmp_path / "*.txt"), clip_spec())
    assert_one_line(caught.value, "no videos")
    (tmp_path / "a.mp4").touch()
    (tmp_path / "b.mp4").touch()
    with pytest.raises(SourceError) as caught:
        open_source(str(tmp_path / "*.mp4"), clip_spec())
    assert_one_line(caught.value, "none of 2 recordings")


def test_a_recording_has_no_hardware_decoder(tiny_video: Path) -> None:
    settings = StreamSettings(source=Secret(str(tiny_video)), decoder="nvdec")
    with pytest.raises(BackendError) as caught:
        open_source(tiny_video, clip_spec(), settings=settings)
    assert_one_line(caught.value, "decoded in software")


def test_two_addresses_of_one_text_are_equal() -> None:
    assert address_from_text("usb:1") == Address(kind="usb", text="/dev/video1")
