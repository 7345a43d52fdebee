"""Connections to real servers: RTSP in a process of its own, HTTP in a thread."""

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from helpers import assert_one_line, clip_spec, moving_blob, write_audio, write_video
from helpers_rtsp import GOP, LOOP, Camera, write_clip

from vad_runtime.contracts.errors import BackendError, SourceError
from vad_runtime.sources import gst_connection
from vad_runtime.sources.address import address_from_text
from vad_runtime.sources.connection import (
    Connection,
    ConnectionFailed,
    PacketInfo,
    open_connection,
)
from vad_runtime.sources.gst_connection import pipeline
from vad_runtime.sources.packet_times import PacketTimes
from vad_runtime.sources.packets import PacketRing
from vad_runtime.sources.pyav_connection import stream_options
from vad_runtime.sources.resize import resized


def connected(text: str, **options: Any) -> Connection:
    """Open a connection with limits that a busy machine keeps."""
    return open_connection(address_from_text(text), **({"connect_s": 10.0} | options))


def failure(text: str, **options: Any) -> ConnectionFailed:
    """Return why a connection does not come about."""
    with pytest.raises(ConnectionFailed) as caught:
        connected(text, **options).close()
    assert_one_line(caught.value)
    assert "hunter2" not in str(caught.value)
    return caught.value


# -- HTTP --------------------------------------------------------------------------------------

PICTURES, STEP_S = 12, 0.1


def jpegs() -> list[bytes]:
    """Return pictures as a camera sends them; the fifth is broken."""
    encoded = [cv2.imencode(".jpg", image)[1].tobytes() for image in moving_blob(PICTURES)]
    encoded[4] = encoded[4][:2] + b"rubbish" * 20
    return encoded


class _Handler(http.server.BaseHTTPRequestHandler):
    films: Path

    def do_GET(self) -> None:
        path = self.path.strip("/").partition("?")[0]
        try:
            if path.isdecimal():
                self.send_error(int(path))
            elif path == "silent":
                time.sleep(3)
            elif path.startswith("mjpeg"):
                self._mjpeg(stall=path.endswith("stall"))
            else:
                content = (self.films / path).read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
        except OSError:  # the client has gone
            pass

    def _mjpeg(self, *, stall: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=part")
        self.end_headers()
        for number, data in enumerate(jpegs()):
            if stall and number == 8:
                time.sleep(2)
            head = f"--part\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            self.wfile.write(head.encode() + data + b"\r\n")
            time.sleep(STEP_S)

    def log_message(self, format: str, *args: Any) -> None:
        """Be silent."""


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server of films, streams and refusals."""
    films = tmp_path_factory.mktemp("films")
    write_video(films / "film.ts", moving_blob(40))
    write_audio(films / "sound.wav")
    (films / "film.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.7,\nfilm.ts\n#EXT-X-ENDLIST\n"
    )
    (films / "page.html").write_text("<html>Camera</html>")
    handler = type("Handler", (_Handler,), {"films": films})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_motion_jpeg_has_the_times_at_which_it_came(web: str) -> None:
    packets: list[PacketInfo] = []
    connection = connected(f"{web}/mjpeg", on_packet=packets.append)
    found = list(islice(connection.images(), PICTURES - 2))
    connection.close()
    assert connection.decoder == "software mjpeg"
    # The broken one is missing or damaged, and the next says so. FFmpeg would count 25 a second.
    assert connection.undecodable + sum(image.damaged for image in found) >= 1
    assert sum(image.lost_packets for image in found) == connection.undecodable
    times = [image.pts_s for image in found[len(found) // 2 :] if image.pts_s is not None]
    assert times[-1] - times[0] > STEP_S * (len(times) - 1) * 0.7
    assert all(packet.key for packet in packets)
    assert all(a.pts_s < b.pts_s for a, b in pairwise(packets))


def test_mpeg_ts_gives_pictures_packets_and_what_a_film_of_them_needs(web: str) -> None:
    packets: list[PacketInfo] = []
    connection = connected(f"{web}/film.ts", on_packet=packets.append)
    found = list(connection.images())
    assert len(found) == 40
    assert not any(image.damaged or image.lost_packets for image in found)
    times = [image.pts_s or 0.0 for image in found]
    assert [b - a for a, b in pairwise(times)] == pytest.approx([1 / 15] * 39, abs=1e-4)
    assert len(packets) == 40
    assert packets[0].key
    assert sorted(packet.pts_s for packet in packets) == pytest.approx(times)
    assert all(packet.dts_s is not None and packet.dts_s <= packet.pts_s for packet in packets)
    template = connection.template
    assert template is not None
    assert (template.codec, template.width, template.height) == ("h264", 160, 120)
    assert template.extradata
    assert template.fps == pytest.approx(15)
    pixels = resized(found[0].picture, clip_spec())
    assert pixels.shape == clip_spec().frame_shape
    assert connection.info.kind == "live stream"


def test_segments_of_hls_are_spread_out_over_their_time(web: str) -> None:
    start = time.monotonic()
    connection = connected(f"{web}/film.m3u8")
    found = list(islice(connection.images(), 15))
    connection.close()
    assert time.monotonic() - start > 0.6  # of 14 / 15 s
    assert not any(image.damaged for image in found)


@pytest.mark.parametrize(
    ("path", "reason", "refused"),
    [
        ("401", "401 user or password refused", True),
        ("403", "403 forbidden", True),
        ("404?token=hunter2", "404 not found", False),
        ("503", "5xx", False),
        ("page.html", "no video", False),
        ("sound.wav", "no video in the stream", False),
    ],
)
def test_a_refusal_is_said_in_words(web: str, path: str, reason: str, refused: bool) -> None:
    error = failure(f"{web}/{path}".replace("http://", "http://joe:hunter2@"))
    assert reason in error.reason
    assert (error.refused, error.stalled) == (refused, False)


def test_a_server_that_says_nothing_is_given_up_in_time(web: str) -> None:
    start = time.monotonic()
    assert failure(f"{web}/silent", connect_s=0.5).reason == "no answer within 0.5 s"
    assert time.monotonic() - start < 2.5


def test_a_camera_that_takes_the_connection_and_stays_silent_gives_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # as one that hangs
        address = f"rtsp://joe:hunter2@127.0.0.1:{silent.getsockname()[1]}/x"
        assert failure(address, connect_s=0.5).reason == "no answer within 0.5 s"


def test_nobody_there_is_said_in_words() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert failure(f"rtsp://joe:hunter2@127.0.0.1:{port}/x").reason == "connection refused"


def test_a_name_that_nobody_knows_is_said_in_words() -> None:
    assert failure("rtsp://joe:hunter2@camera.invalid/x").reason == (
        "the name camera.invalid is unknown"
    )


def test_a_stream_that_stops_sending_is_stalled(web: str) -> None:
    connection = connected(f"{web}/mjpeg-stall", stalled_s=0.5)
    with pytest.raises(ConnectionFailed) as caught:
        list(connection.images())
    assert caught.value.stalled
    assert caught.value.reason == "nothing came for 0.5 s"


def test_a_recording_is_no_live_source(tiny_video: Path) -> None:
    with pytest.raises(SourceError) as caught:
        connected(str(tiny_video))
    assert_one_line(caught.value, "recording")


# -- RTSP --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Camera]:
    """A camera of 25 frames a second; tests leave it as they found it."""
    clip = write_clip(tmp_path_factory.mktemp("clip") / "clip", moving_blob(LOOP))
    with Camera([clip]) as one:
        yield one


def test_rtsp_gives_its_first_picture_at_once_and_packets_from_a_key_frame_on(
    camera: Camera,
) -> None:
    ring = PacketRing(30.0)
    start = time.monotonic()
    connection = connected(camera.url, on_packet=ring.add)
    images = connection.images()
    first = next(images)
    assert time.monotonic() - start < 2
    assert first.key
    assert not first.damaged
    found = [next(images) for _ in range(2 * GOP)]
    assert not any(image.damaged for image in found)
    connection.close()
    assert list(images) == []
    kept = ring.since(0.0)
    assert kept[0].key
    assert all(a.pts_s < b.pts_s for a, b in pairwise(kept))
    template = connection.template
    assert template is not None
    assert template.extradata


def test_pictures_after_a_lost_one_are_damaged_up_to_the_next_key_frame(camera: Camera) -> None:
    connection = connected(camera.url)
    images = connection.images()
    while not next(images).key:
        pass
    for _ in range(GOP // 3):
        next(images)
    camera.tell("skip 12")
    after = [next(images) for _ in range(3 * GOP)]  # on a busy machine the next group is hit
    connection.close()
    start = next(i for i, image in enumerate(after) if image.damaged)
    end = next(i for i, image in enumerate(after) if image.key and i > start)
    assert all(image.damaged for image in after[start:end])
    assert not any(image.damaged for image in after[:start] + after[end:])


def test_packets_are_left_undecoded_up_to_the_next_key_frame(camera: Camera) -> None:
    packets: list[PacketInfo] = []
    connection = connected(camera.url, on_packet=packets.append)
    images = connection.images()
    while not next(images).key:
        pass
    before = len(packets)
    connection.skip_to_key()
    image = next(images)
    assert image.key
    assert 1 <= image.skipped_packets == len(packets) - before - 1
    assert not image.damaged
    assert next(images).skipped_packets == 0
    connection.close()


def test_a_connection_is_closed_from_another_thread(camera: Camera) -> None:
    connection = connected(camera.url)
    count = 0
    closer = threading.Timer(0.3, connection.close)
    closer.start()
    for _ in connection.images():
        count += 1
    closer.join()
    assert count > 0
    connection.close()
    assert list(connection.images()) == []


def test_a_connection_that_is_never_read_is_closed_at_once(camera: Camera) -> None:
    connection = connected(camera.url)
    connection.close()
    connection.close()
    assert list(connection.images()) == []


def test_options_fit_their_protocol() -> None:
    rtsp = stream_options(address_from_text("rtsp://cam/"), "tcp", 5)
    assert (rtsp["rtsp_transport"], rtsp["timeout"]) == ("tcp", "5000000")
    assert stream_options(address_from_text("rtsp://cam/"), "udp", 5)["rtsp_transport"] == "udp"
    # `timeout` would make FFmpeg listen for a caller.
    assert "timeout" not in stream_options(address_from_text("rtmp://cam/"), "tcp", 5)


# -- packets -----------------------------------------------------------------------------------


def packet(at: float, *, key: bool = False, size: int = 10) -> PacketInfo:
    """Return a packet that came at a time."""
    return PacketInfo(data=bytes(size), pts_s=at, dts_s=None, key=key, arrived_s=at)


def times(packets: list[PacketInfo]) -> list[float]:
    """Return when they came."""
    return [one.arrived_s for one in packets]


def test_a_ring_keeps_whole_groups_that_reach_back_far_enough() -> None:
    ring = PacketRing(pre_s=5.0)
    ring.add(packet(0.0))  # no key frame has come
    assert ring.since(0.0) == []
    for at in range(1, 21):
        ring.add(packet(float(at), key=at % 4 == 1))  # keys at 1, 5, 9, 13, 17
    assert times(ring.since(0.0)) == [float(at) for at in range(13, 21)]
    assert times(ring.since(17.0)) == [17.0, 18.0, 19.0, 20.0]
    assert times(ring.since(16.9))[0] == 13.0
    assert times(ring.since(99.0))[0] == 17.0
    assert ring.kept_bytes == 80
    ring.clear()
    assert (ring.since(0.0), ring.kept_bytes) == ([], 0)
    ring.add(packet(21.0))
    assert ring.since(0.0) == []


def test_a_ring_never_holds_more_bytes_than_it_may() -> None:
    ring = PacketRing(pre_s=100.0, longest_bytes=100)
    for at in range(50):
        ring.add(packet(float(at), key=at % 5 == 0, size=8))
        assert ring.kept_bytes <= 100
    assert times(ring.since(0.0)) == [float(at) for at in range(40, 50)]
    assert ring.overflows > 0
    ring.add(packet(50.0, key=True, size=1000))
    ring.add(packet(51.0))
    assert ring.since(0.0) == []


def test_packets_without_times_count_back_from_the_first_that_has_one() -> None:
    out: list[PacketInfo] = []
    clock = PacketTimes(10.0, out.append)
    for pts_s in (None, None, 5.0, 5.1, None, 5.35):
        clock.give(packet(0.0), pts_s, None)
    assert [one.pts_s for one in out] == pytest.approx([4.8, 4.9, 5.0, 5.1, 5.2, 5.35])
    silent: list[PacketInfo] = []
    clock = PacketTimes(10.0, silent.append)
    for _ in range(30):
        clock.give(packet(0.0), None, None)
    assert len(silent) == 30
    assert all(a.pts_s < b.pts_s for a, b in pairwise(silent))


# -- OpenCV: GStreamer and USB -------------------------------------------------------------------


class FakeCapture:
    """`cv2.VideoCapture` with three pictures."""

    made: "list[FakeCapture]"
    refuses_parameters = False
    starts = True
    picture = np.full((12, 16, 3), (0, 0, 200), np.uint8)  # BGR: red

    def __init__(self, *arguments: Any) -> None:
        self.arguments: list[tuple[Any, ...]] = [arguments] if arguments else []
        self.left = 3
        self.released = 0
        self.made.append(self)

    def open(self, *arguments: Any) -> bool:
        """Start, or not."""
        self.arguments.append(arguments)
        return self.starts and not (self.refuses_parameters and len(arguments) > 2)

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        """Whether it has started."""
        return self.starts

    def get(self, what: int) -> float:
        """Tell a property."""
        return {
            cv2.CAP_PROP_FPS: 30.0,
            cv2.CAP_PROP_FRAME_WIDTH: 16.0,
            cv2.CAP_PROP_FRAME_HEIGHT: 12.0,
        }[what]

    def set(self, what: int, value: float) -> bool:
        """Take a property."""
        return True

    def read(self) -> tuple[bool, Any]:
        """Give a picture."""
        self.left -= 1
        return (True, self.picture) if self.left >= 0 else (False, None)

    def release(self) -> None:
        """End."""
        self.released += 1


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> type[FakeCapture]:
    """OpenCV with GStreamer, as a distribution has it."""
    fake = type("Capture", (FakeCapture,), {"made": []})
    monkeypatch.setattr(gst_connection.cv2, "VideoCapture", fake)
    monkeypatch.setattr(gst_connection, "_has_gstreamer", lambda: True)
    return fake


@pytest.mark.parametrize("old", [False, True])
def test_a_pipeline_gives_pictures_and_says_when_they_end(
    capture: type[FakeCapture], old: bool
) -> None:
    capture.refuses_parameters = old
    connection = connected("gst: videotestsrc ! appsink")
    assert capture.made[0].arguments[-1][:2] == ("videotestsrc ! appsink", cv2.CAP_GSTREAMER)
    assert len(capture.made[0].arguments) == 1 + old
    images = connection.images()
    first = next(images)
    assert isinstance(first.picture, av.VideoFrame)
    assert first.picture.to_ndarray(format="rgb24")[0, 0].tolist() == [200, 0, 0]
    assert first.pts_s is not None
    with pytest.raises(ConnectionFailed) as caught:
        list(images)
    assert caught.value.stalled
    assert capture.made[0].released == 1
    assert (connection.decoder, connection.template) == ("gstreamer", None)
    assert (connection.info.width, connection.info.height, connection.info.fps) == (16, 12, 30.0)


def test_a_pipeline_that_does_not_start_is_refused(capture: type[FakeCapture]) -> None:
    capture.starts = False
    assert "gst-launch-1.0" in failure("gst: rtspsrc location=rtsp://a:hunter2@cam ! x").reason
    assert capture.made[0].released == 1


def test_grey_pictures_pass_and_others_are_refused(capture: type[FakeCapture]) -> None:
    capture.picture = np.full((12, 16), 9, np.uint8)
    image = next(connected("gst: x").images())
    assert image.picture.to_ndarray(format="gray")[0, 0] == 9
    capture.picture = np.zeros((12, 16, 4), np.uint8)
    with pytest.raises(ConnectionFailed, match="format=BGR"):
        next(connected("gst: x").images())


def test_a_usb_camera_is_read_through_its_device(
    capture: type[FakeCapture], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gst_connection.os.path, "exists", lambda _: True)
    monkeypatch.setattr(gst_connection.os, "access", lambda *_: True)
    connection = connected("usb:3")
    assert capture.made[0].arguments == [("/dev/video3", cv2.CAP_V4L2)]
    assert (connection.decoder, next(connection.images()).key) == ("v4l2", True)
    connection.close()
    capture.starts = False
    assert "another program" in failure("usb:3").reason
    monkeypatch.setattr(gst_connection.os, "access", lambda *_: False)
    assert "group video" in failure("usb:3").reason


def test_a_usb_camera_that_is_not_there_says_so() -> None:
    assert "no such camera" in failure("usb:97").reason


def test_an_opencv_without_gstreamer_says_where_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gst_connection, "_has_gstreamer", lambda: False)
    for text, decoder in (("gst: videotestsrc", "auto"), ("rtsp://a:hunter2@cam", "gstreamer")):
        with pytest.raises(BackendError) as caught:
            connected(text, decoder=decoder)
        assert_one_line(caught.value, "python3-opencv")
        assert "hunter2" not in str(caught.value)


def test_gstreamer_chooses_the_elements_of_an_address() -> None:
    sink = "! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=4 sync=false"
    rtsp = address_from_text("rtsp://cam/a")
    assert pipeline(rtsp, "tcp") == f'uridecodebin uri="rtspt://cam/a" {sink}'
    assert pipeline(rtsp, "udp") == f'uridecodebin uri="rtsp://cam/a" {sink}'
    assert pipeline(address_from_text("usb:1"), "tcp") == (
        f'v4l2src device="/dev/video1" ! decodebin {sink}'
    )
    assert pipeline(address_from_text("gst: videotestsrc !"), "tcp") == f"videotestsrc {sink}"
    assert pipeline(address_from_text("gst: a ! appsink name=x"), "tcp") == "a ! appsink name=x"


def test_opencv_prints_nothing_of_a_camera_that_does_not_open(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A line for each try would fill the log, and a pipeline's holds its password."""
    monkeypatch.setattr(gst_connection.os.path, "realpath", lambda _: "/dev/null")
    monkeypatch.setattr(gst_connection.os.path, "exists", lambda _: True)
    monkeypatch.setattr(gst_connection.os, "access", lambda *_: True)
    assert "cannot be opened" in failure("usb:3").reason
    assert capfd.readouterr() == ("", "")
