"""A camera that is lost, stalls, freezes, jumps and changes, over scripted connections."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import av
import numpy as np
import pytest
from helpers import assert_one_line, clip_spec

from vad_runtime.contracts.clip import ClipSpec
from vad_runtime.contracts.errors import BackendError, SourceError
from vad_runtime.contracts.site import (
    ReconnectSettings,
    Secret,
    StreamSettings,
    WatchdogSettings,
)
from vad_runtime.latency import Stage
from vad_runtime.live.base import StateChange
from vad_runtime.sources.address import address_from_text
from vad_runtime.sources.base import Frame, SourceInfo
from vad_runtime.sources.connection import ConnectionFailed, Image, PacketInfo
from vad_runtime.sources.live import LiveSource, open_live
from vad_runtime.sources.prefetch import Prefetch
from vad_runtime.sources.timeline import Timeline

SPEC = clip_spec(height=8, width=8)
ADDRESS = address_from_text("rtsp://admin:hunter2@camera/stream")
STEP_S = 0.04

Item = Image | Exception | Callable[[], None]


class Clock:
    """Monotonic time that moves when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def image(
    number: int, *, pts_s: float | None = -1.0, size: tuple[int, int] = (16, 12), **changes: Any
) -> Image:
    """Return a picture of one level; its time follows from its number unless given."""
    pixels = np.full((size[1], size[0], 3), number * 7 % 250, np.uint8)
    return Image(
        picture=av.VideoFrame.from_ndarray(pixels, format="rgb24"),
        pts_s=number * STEP_S if pts_s == -1.0 else pts_s,
        **changes,
    )


class FakeConnection:
    """A connection that plays a script; at its end it is silent until it is closed."""

    def __init__(
        self,
        script: Sequence[Item],
        clock: Clock,
        step_s: float,
        on_packet: Callable[[PacketInfo], None] | None,
        fps: float,
        decode_s: float,
    ) -> None:
        self._script, self._clock, self._step_s, self._on_packet = script, clock, step_s, on_packet
        self._decode_s = decode_s
        self.info = SourceInfo(
            name="x", kind="live stream", codec="h264", width=16, height=12, fps=fps, frames=None
        )
        self.decoder = "software h264"
        self.template = None
        self.closed = threading.Event()
        self.skips = 0

    def images(self) -> Iterator[Image]:
        for item in self._script:
            if self.closed.is_set():
                return
            if isinstance(item, Exception):
                raise item
            if not isinstance(item, Image):
                item()
                continue
            self._clock.now_s += self._step_s
            if self._on_packet is not None:
                self._on_packet(
                    PacketInfo(data=b"", pts_s=0.0, dts_s=None, key=True, arrived_s=0.0)
                )
            self._clock.now_s += self._decode_s
            yield item
        assert self.closed.wait(10), "nobody has closed a silent connection"

    def skip_to_key(self) -> None:
        self.skips += 1

    def close(self) -> None:
        self.closed.set()


class Network:
    """Gives one scripted connection after another; an exception in the place of one is raised."""

    def __init__(
        self,
        *scripts: Sequence[Item] | Exception,
        clock: Clock | None = None,
        step_s: float = STEP_S,
        fps: float = 25.0,
        decode_s: float = 0.0,
    ) -> None:
        self._scripts = list(scripts)
        self.clock = clock or Clock()
        self._step_s, self._fps, self._decode_s = step_s, fps, decode_s
        self.connections: list[FakeConnection] = []
        self.asked: list[dict[str, Any]] = []

    def __call__(self, address: object, **options: Any) -> FakeConnection:
        self.asked.append(options)
        script = self._scripts.pop(0) if self._scripts else []
        if isinstance(script, Exception):
            raise script
        connection = FakeConnection(
            script, self.clock, self._step_s, options["on_packet"], self._fps, self._decode_s
        )
        self.connections.append(connection)
        return connection


def settings(**changes: Any) -> StreamSettings:
    """Return settings that try again at once."""
    plain: dict[str, Any] = {
        "source": Secret("rtsp://camera"),
        "reconnect": ReconnectSettings(first_s=0.001, longest_s=0.002, refused_s=0.002),
    }
    return StreamSettings(**(plain | changes))


def read(
    network: Network,
    count: int,
    *,
    spec: ClipSpec = SPEC,
    stream: StreamSettings | None = None,
    **options: Any,
) -> tuple[list[Frame], list[StateChange], LiveSource]:
    """Read so many frames and stop; return them, the changes of state and the source."""
    changes: list[StateChange] = []
    source = LiveSource(
        ADDRESS,
        spec,
        stream or settings(),
        on_state=changes.append,
        connect=network,
        clock=network.clock,
        **options,
    )
    found = []
    for frame in source.frames():
        found.append(frame)
        if len(found) == count:
            source.stop()
    return found, changes, source


def holes(frames: Sequence[Frame]) -> list[tuple[int, str]]:
    """Return (place, cause) of each hole."""
    return [(i, frame.hole) for i, frame in enumerate(frames) if frame.hole is not None]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Fail a test that leaves a thread behind."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 3
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.005)
    assert set(threading.enumerate()) - before == set()


# -- connecting ----------------------------------------------------------------------------------


def test_frames_have_model_size_their_own_picture_and_the_time_of_arrival() -> None:
    found, changes, source = read(Network([image(i) for i in range(5)]), 5)
    assert [f.index for f in found] == [0, 1, 2, 3, 4]
    assert [f.pts_s for f in found] == pytest.approx([i * STEP_S for i in range(5)])
    assert [f.arrived_s for f in found] == pytest.approx([1000.04 + i * 0.04 for i in range(5)])
    assert found[3].pixels.shape == SPEC.frame_shape
    assert found[3].picture().shape == (12, 16, 3)
    assert holes(found) == []
    assert [c.state for c in changes] == ["live", "ended"]
    assert changes[0].reason == "16x12, 25 fps, software h264"
    assert source.stats.frames == 5
    assert source.info.width == 16
    assert "hunter2" not in source.info.name


def test_a_camera_that_is_not_there_is_sought_until_it_comes_and_told_of_once() -> None:
    off = ConnectionFailed("x", "connection refused")
    gone = ConnectionFailed("x", "no route to host")
    found, changes, source = read(Network(off, off, gone, off, [image(0), image(1)]), 2)
    assert [(c.before, c.state, c.reason) for c in changes[:1]] == [
        ("connecting", "lost", "connection refused")
    ]
    assert [c.state for c in changes] == ["lost", "live", "ended"]
    assert holes(found) == [], "nothing was before it"
    assert source.stats.connections == 1


def test_refused_credentials_are_another_state() -> None:
    no = ConnectionFailed("x", "401 unauthorized", refused=True)
    off = ConnectionFailed("x", "connection refused")
    _, changes, _ = read(Network(no, no, off, [image(0)]), 1)
    assert [c.state for c in changes] == ["refused", "lost", "live", "ended"]


def test_options_reach_the_connection() -> None:
    network = Network([image(0)])
    stream = settings(
        decoder="software",
        transport="udp",
        watchdog=WatchdogSettings(connect_s=7.0, stalled_s=2.0),
    )
    read(network, 1, stream=stream)
    (asked,) = network.asked
    del asked["on_packet"]
    assert asked == {
        "decoder": "software",
        "transport": "udp",
        "connect_s": 7.0,
        "stalled_s": 2.0,
    }


def test_a_decoder_that_is_not_there_ends_the_stream_and_is_not_tried_for_ever() -> None:
    with pytest.raises(BackendError, match="no NVIDIA driver"):
        read(Network(BackendError("no NVIDIA driver")), 1)


def test_stopping_does_not_wait_for_the_next_try() -> None:
    slow = settings(reconnect=ReconnectSettings(first_s=60.0, longest_s=60.0))
    source = LiveSource(
        ADDRESS, SPEC, slow, connect=Network(ConnectionFailed("x", "connection refused"))
    )
    prefetch = Prefetch(source, live=True)
    prefetch.start()
    start = time.monotonic()
    while source.state_change.reason != "connection refused":
        assert time.monotonic() - start < 5
        time.sleep(0.002)
    start = time.monotonic()
    assert prefetch.close()
    assert time.monotonic() - start < 2
    assert source.state == "ended"
    assert prefetch.poll() is None
    assert prefetch.ended


def test_a_stop_while_it_connects_closes_what_comes_of_it() -> None:
    network = Network([])

    def connect(address: object, **options: Any) -> FakeConnection:
        source.stop()
        return network(address, **options)

    source = LiveSource(ADDRESS, SPEC, settings(), connect=connect, clock=network.clock)
    assert list(source.frames()) == []
    assert network.connections[0].closed.is_set()


def test_leaving_the_loop_early_closes_the_connection() -> None:
    network = Network([image(i) for i in range(5)])
    source = LiveSource(ADDRESS, SPEC, settings(), connect=network, clock=network.clock)
    frames = source.frames()
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    assert network.connections[0].closed.is_set()
    assert source.state == "ended"


# -- opening for `watch` -------------------------------------------------------------------------


def test_a_wrong_address_is_an_error_at_once() -> None:
    error = ConnectionFailed("rtsp://***@camera", "404 not found")
    with pytest.raises(SourceError) as caught:
        open_live(ADDRESS, SPEC, connect=Network(error))
    assert_one_line(caught.value, "404 not found", "camera")


def test_a_stream_without_a_picture_is_an_error_at_once() -> None:
    network = Network([lambda: network.connections[0].close()])
    with pytest.raises(SourceError) as caught:
        open_live(ADDRESS, SPEC, connect=network)
    assert_one_line(caught.value, "no picture")
    assert "hunter2" not in str(caught.value)


def test_opening_loses_no_frame_and_knows_the_size() -> None:
    network = Network([image(0, size=(32, 24)), image(1), image(2)])
    source = open_live(ADDRESS, SPEC, settings(), connect=network, clock=network.clock)
    assert (source.info.width, source.info.height) == (32, 24)
    frames = source.frames()
    assert [next(frames).index for _ in range(3)] == [0, 1, 2]
    source.stop()
    assert list(frames) == []
    assert len(network.connections) == 1


def test_a_camera_that_was_there_is_sought_again() -> None:
    network = Network(
        [image(0), ConnectionFailed("x", "connection reset")],
        ConnectionFailed("x", "connection refused"),
        [image(0), image(1)],
    )
    source = open_live(ADDRESS, SPEC, settings(), connect=network, clock=network.clock)
    frames = source.frames()
    assert holes([next(frames) for _ in range(3)]) == [(1, "reconnected")]
    frames.close()  # type: ignore[attr-defined]


# -- losses --------------------------------------------------------------------------------------


def test_a_lost_connection_leaves_a_hole_and_time_goes_on_by_the_wall_clock() -> None:
    clock = Clock()

    def pass_time() -> None:
        clock.now_s += 30.0

    network = Network(
        [*(image(100 + i) for i in range(3)), ConnectionFailed("x", "connection reset")],
        [pass_time, *(image(i) for i in range(3))],
        clock=clock,
    )
    found, changes, source = read(network, 6)
    assert holes(found) == [(3, "reconnected")]
    assert [f.index for f in found] == list(range(6))
    assert [f.pts_s for f in found] == pytest.approx([0, 0.04, 0.08, 30.12, 30.16, 30.20])
    assert [(c.state, c.reason) for c in changes[1:3]] == [
        ("lost", "connection reset"),
        ("live", "16x12, 25 fps, software h264"),
    ]
    assert source.stats.holes == {"reconnected": 1}
    assert source.stats.connections == 2


def test_a_stream_that_ends_is_lost_and_sought_again() -> None:
    network = Network([image(0), lambda: network.connections[0].close()], [image(0)])
    found, changes, _ = read(network, 2)
    assert holes(found) == [(1, "reconnected")]
    assert changes[1].reason == "the stream ended"


def test_a_stall_that_the_connection_sees_is_told_as_one() -> None:
    network = Network(
        [image(0), ConnectionFailed("x", "nothing came for 3 s", stalled=True)],
        ConnectionFailed("x", "no answer within 5 s"),
        [image(0)],
    )
    found, changes, _ = read(network, 2)
    assert [c.state for c in changes] == ["live", "stalled", "lost", "live", "ended"]
    assert holes(found) == [(1, "stalled")]


def test_a_silence_that_the_connection_does_not_see_is_ended_by_the_watchdog() -> None:
    """The camera's sound goes on, or a driver waits for ever."""
    network = Network([image(0), image(1)], [image(0)])
    changes: list[StateChange] = []
    stream = settings(watchdog=WatchdogSettings(stalled_s=0.2))
    source = LiveSource(ADDRESS, SPEC, stream, on_state=changes.append, connect=network)
    frames = source.frames()
    found = [next(frames) for _ in range(3)]
    frames.close()  # type: ignore[attr-defined]
    assert [(c.state, c.reason) for c in changes[:2]] == [
        ("live", "16x12, 25 fps, software h264"),
        ("stalled", "no frame for 0.2 s"),
    ]
    assert changes[2].state == "live"
    assert holes(found) == [(2, "stalled")]
    assert network.connections[0].closed.is_set()


def test_a_caller_that_is_slow_does_not_make_the_camera_stall() -> None:
    stream = settings(watchdog=WatchdogSettings(stalled_s=0.05))
    network = Network([image(i) for i in range(4)])
    source = LiveSource(ADDRESS, SPEC, stream, connect=network)
    frames = source.frames()
    next(frames)
    time.sleep(1.0)
    next(frames)
    assert source.state == "live"
    assert len(network.connections) == 1
    frames.close()  # type: ignore[attr-defined]


def test_a_bug_or_a_missing_decoder_after_weeks_is_a_loss_like_any_other() -> None:
    network = Network(
        [image(0), ValueError("a picture of no size, from rtsp://joe:hunter2@camera")],
        BackendError("the GPU has no memory left"),
        [image(0), image(1)],
    )
    found, changes, _ = read(network, 3)
    assert holes(found) == [(1, "reconnected")]
    assert [c.state for c in changes] == ["live", "lost", "live", "ended"]
    assert changes[1].reason.startswith("ValueError: a picture of no size, from rtsp://***@camera")


def test_a_bug_before_the_first_frame_ends_the_stream() -> None:
    with pytest.raises(ValueError, match="no size"):
        read(Network([ValueError("no size")]), 1)


def test_what_a_callback_raises_in_the_watchdog_ends_the_source_and_is_raised() -> None:
    def told(change: StateChange) -> None:
        if change.state == "stalled":
            raise BrokenPipeError

    stream = settings(watchdog=WatchdogSettings(stalled_s=0.05))
    network = Network([image(0), image(1)])
    source = LiveSource(ADDRESS, SPEC, stream, on_state=told, connect=network)
    with pytest.raises(BrokenPipeError):
        list(source.frames())
    assert network.connections[0].closed.is_set()


# -- what a camera does while it is connected ----------------------------------------------------


def test_a_jump_of_the_cameras_clock_is_a_hole_and_time_goes_on() -> None:
    times = [5.0, 5.04, 3605.0, 3605.04, 12.0, 12.04]
    found, _, source = read(Network([image(i, pts_s=t) for i, t in enumerate(times)]), 6)
    assert holes(found) == [(2, "jump in time"), (4, "jump back in time")]
    assert [f.pts_s for f in found] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.20])
    assert source.stats.timestamps_repaired == 2


def test_a_second_that_is_missing_is_a_hole_as_long_as_it_was() -> None:
    times = [0.0, 0.04, 1.04, 1.08]
    found, _, _ = read(Network([image(i, pts_s=t) for i, t in enumerate(times)]), 4)
    assert holes(found) == [(2, "jump in time")]
    assert [f.pts_s for f in found] == pytest.approx(times)


def test_times_that_repeat_or_are_missing_still_rise() -> None:
    times = [0.0, 0.04, 0.04, 0.02, None, None, 9.0, 9.04]
    found, _, _ = read(Network([image(i, pts_s=t) for i, t in enumerate(times)]), 8)
    assert all(after.pts_s > before.pts_s for before, after in pairwise(found))
    assert found[-1].pts_s == pytest.approx(0.28)


def test_a_new_resolution_is_a_hole_and_the_info_follows() -> None:
    script = [image(0), image(1), image(2, size=(32, 24)), image(3, size=(32, 24))]
    found, _, source = read(Network(script), 4)
    assert holes(found) == [(2, "change of resolution")]
    assert (source.info.width, source.info.height) == (32, 24)


def test_packets_that_do_not_decode_are_counted_as_frames_and_leave_a_hole() -> None:
    script = [image(0), image(1), image(4, lost_packets=2, damaged=True), image(5)]
    found, _, source = read(Network(script), 4)
    assert [f.index for f in found] == [0, 1, 4, 5]
    assert [f.damaged for f in found] == [False, False, True, False]
    assert holes(found) == [(2, "undecodable packet")]
    assert source.stats.undecodable_packets == 2
    assert source.stats.damaged == 1


def test_a_frozen_picture_is_not_scored_until_it_moves() -> None:
    stream = settings(watchdog=WatchdogSettings(frozen_s=0.19))
    still = [image(1, pts_s=(1 + i) * STEP_S) for i in range(10)]
    script = [image(0), *still, image(11), image(12)]
    found, changes, source = read(Network(script), 13, stream=stream)
    assert [f.damaged for f in found] == [False] * 6 + [True] * 5 + [False] * 2
    assert {f.hole for f in found if f.damaged} == {"frozen picture"}
    assert [(c.state, c.reason) for c in changes[1:3]] == [
        ("frozen", "the same picture for 0.19 s"),
        ("live", "16x12, 25 fps, software h264"),
    ]
    assert source.stats.holes == {"frozen picture": 1}
    assert source.stats.frozen == 5


def test_a_decoder_that_lags_skips_to_the_next_key_frame() -> None:
    script = [image(i) for i in range(120)]
    script += [image(200, skipped_packets=80, key=True), image(201)]
    network = Network(script, step_s=0.0, decode_s=0.1)  # reading never waits
    found, _, source = read(network, 122)
    assert network.connections[0].skips > 0
    assert holes(found) == [(120, "decoder behind")]
    assert found[120].index == 200
    assert source.stats.dropped == {"decoder behind": 80}


def test_the_stage_times_decoding_and_not_the_camera() -> None:
    stage = Stage()
    read(Network([image(i) for i in range(10)], step_s=3.0, decode_s=0.01), 10, stage=stage)
    assert stage.count == 10
    assert stage.percentile_ms(100) == pytest.approx(10, rel=0.02)


def test_a_new_connection_with_another_clock_is_not_behind() -> None:
    lost = ConnectionFailed("x", "connection reset")
    network = Network(
        [*rated(25, 50, start_s=1000.0), lost], rated(25, 50), step_s=0.0, decode_s=0.04
    )
    _, _, source = read(network, 100)
    assert [connection.skips for connection in network.connections] == [0, 0]
    assert source.behind_s < 0.1


def test_packets_that_are_skipped_are_signs_of_life_for_a_while() -> None:
    """Some streams have no key frame: skipping to the next would never end."""
    clock = Clock()
    source = LiveSource(ADDRESS, SPEC, settings(), clock=clock)
    one = PacketInfo(data=b"", pts_s=0.0, dts_s=None, key=False, arrived_s=0.0)
    source._stall.started(clock.now_s)
    source._skipping_since_s = clock.now_s
    left = []
    for _ in range(14):
        clock.now_s += 1.0
        source._packet(one)
        left.append(source._stall.left_s(clock.now_s))
    assert left[:9] == pytest.approx([3.3] * 9)
    assert left[-1] == pytest.approx(3.3 - 5.0)


def test_only_a_connection_that_was_well_starts_the_waits_anew() -> None:
    clock = Clock()
    off = ConnectionFailed("x", "connection refused")

    def long_ago() -> None:
        clock.now_s += 30.0

    for well, tries in ((long_ago, 1), (lambda: None, 4)):
        network = Network(off, off, off, [image(0), image(1), well, off], [image(0)], clock=clock)
        _, _, source = read(network, 3)
        assert source._backoff.tries == tries


# -- frame rates ---------------------------------------------------------------------------------


def rated(fps: float, count: int, start_s: float = 0.0) -> list[Item]:
    """Return pictures of one rate."""
    return [image(i, pts_s=start_s + i / fps) for i in range(count)]


def test_a_camera_that_is_faster_than_the_model_is_thinned_out_by_time() -> None:
    spec = clip_spec(height=8, width=8, fps=25.0)
    found, _, source = read(Network(rated(50, 100), step_s=0.02, fps=50.0), 50, spec=spec)
    assert [f.index for f in found] == list(range(0, 100, 2))
    assert np.diff([f.pts_s for f in found]) == pytest.approx(0.04)
    assert source.stats.dropped == {"faster than the model": 49}
    assert source.info.fps == 25.0
    assert holes(found) == []


def test_frames_are_kept_when_the_site_says_so() -> None:
    spec = clip_spec(height=8, width=8, fps=25.0)
    network = Network(rated(50, 100), step_s=0.02, fps=50.0)
    found, _, source = read(network, 100, spec=spec, stream=settings(fps="keep"))
    assert len(found) == 100
    assert source.info.fps == 50.0


def test_a_camera_that_is_slower_than_the_model_is_told_of_once() -> None:
    spec = clip_spec(height=8, width=8, fps=25.0)
    lines: list[str] = []
    network = Network(rated(10, 100), rated(10, 100), step_s=0.1, fps=10.0)
    found, _, source = read(network, 90, spec=spec, say=lines.append)
    (line,) = lines
    assert "10 frames a second" in line
    assert "2.5 times faster" in line
    assert source.stats.notes == lines
    assert source.info.fps == 10.0
    assert len(found) == 90


def test_a_change_of_rate_in_mid_stream_is_a_hole() -> None:
    script = [*rated(25, 250), *rated(12.5, 125, start_s=10.0)]
    found, _, source = read(Network(script), 375)
    ((place, cause),) = holes(found)
    assert cause == "change of frame rate"
    assert 10 < found[place].pts_s < 17
    assert source.info.fps == pytest.approx(12.5, rel=0.1)
    assert source.camera_fps == pytest.approx(12.5, rel=0.1)


@pytest.mark.parametrize("promised", [0.0, 90_000.0, 25.0])
def test_a_wrong_promise_of_the_rate_is_found_out(promised: float) -> None:
    _, _, source = read(Network(rated(10, 100), step_s=0.1, fps=promised), 100)
    assert source.info.fps == pytest.approx(10, rel=0.1)


def test_a_hole_is_told_by_the_first_frame_whether_the_model_wanted_it_or_not() -> None:
    """Every second frame of this camera is left out, and the one behind the loss would be."""
    spec = clip_spec(height=8, width=8, fps=25.0)
    lost = ConnectionFailed("x", "connection reset")
    network = Network([*rated(50, 101), lost], rated(50, 20), step_s=0.02, fps=50.0)
    found, _, _ = read(network, 56, spec=spec)
    assert holes(found) == [(51, "reconnected")]
    assert found[51].index == 101


def test_what_is_skipped_to_catch_up_makes_the_camera_no_slower() -> None:
    numbers = [i for i in range(2000) if i // 25 % 2 == 0]
    script = [
        image(i, skipped_packets=25 if i % 25 == 0 and i else 0, key=i % 25 == 0) for i in numbers
    ]
    lines: list[str] = []
    spec = clip_spec(height=8, width=8, fps=25.0)
    _, _, source = read(Network(script), 900, spec=spec, say=lines.append)
    assert source.info.fps == pytest.approx(25, rel=0.05)
    assert lines == []
    assert set(source.stats.holes) == {"decoder behind"}


# -- the timeline --------------------------------------------------------------------------------


def test_a_month_of_lies_still_rises_strictly() -> None:
    rng = np.random.default_rng(3)
    timeline = Timeline(25)
    now_s, before_s = 0.0, -1.0
    for _ in range(5000):
        now_s += float(rng.choice([0.0, 0.04, 1.0, 3600.0]))
        if rng.random() < 0.1:
            timeline.connected()
        pts_s = None if rng.random() < 0.1 else float(rng.normal(0, 1e5))
        stamp = timeline.stamp(pts_s, now_s)
        assert stamp.time_s > before_s
        before_s = stamp.time_s


def test_a_slow_camera_has_no_hole_in_front_of_each_frame() -> None:
    timeline = Timeline(1.0)
    assert [timeline.stamp(float(t), float(t)).jump for t in range(5)] == [None] * 5
    assert timeline.stamp(9.1, 9.1).jump == "jump in time"


def test_two_frames_in_each_tick_of_a_coarse_clock_do_not_make_time_longer() -> None:
    timeline = Timeline(25)
    times = [tick * 0.08 for tick in range(100) for _ in range(2)]
    stamps = [timeline.stamp(pts_s, pts_s).time_s for pts_s in times]
    assert stamps[-1] == pytest.approx(99 * 0.08 + 0.04)
    assert min(np.diff(stamps)) > 0.03
    assert timeline.stamp(times[-1], times[-1]).jump is None
    assert timeline.stamp(times[-1] + 0.55, times[-1] + 0.55).jump == "jump in time"


def test_a_clock_that_is_set_back_a_little_is_not_taken_back_in_slow_motion() -> None:
    timeline = Timeline(25)
    times = [i * 0.04 - (0.8 if i >= 50 else 0.0) for i in range(100)]
    steps = np.diff([timeline.stamp(pts_s, i * 0.04).time_s for i, pts_s in enumerate(times)])
    assert steps == pytest.approx(0.04)
