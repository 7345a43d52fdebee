"""Decoding in a thread: nothing is lost unheard, nothing hangs, nothing stays behind."""

import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers import ListSource, clip_spec, frame, frame_stream

from vad_runtime.contracts import SourceError
from vad_runtime.latency import Stage
from vad_runtime.sources import Frame, SourceInfo, open_source
from vad_runtime.sources import prefetch as prefetch_module
from vad_runtime.sources.prefetch import DEPTH, Prefetch, depth_of

SPEC = clip_spec(height=8, width=8)


def source_threads() -> list[threading.Thread]:
    """Return the reading threads that are alive."""
    return [t for t in threading.enumerate() if t.name == "vad-source"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Fail a test that leaves a reading thread behind."""
    assert source_threads() == []
    yield
    deadline = time.monotonic() + 3
    while source_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert source_threads() == []


def until(condition: object, seconds: float = 3.0) -> None:
    """Wait until a callable says yes."""
    deadline = time.monotonic() + seconds
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline, "this took too long"
        time.sleep(0.002)


@pytest.mark.parametrize("depth", [1, 2, 32])
def test_all_frames_come_in_order_however_slow_the_caller_is(depth: int) -> None:
    frames = frame_stream(SPEC, 40)
    prefetch = Prefetch(ListSource(frames), depth=depth)
    found = []
    for item in prefetch:
        time.sleep(0.001)
        found.append(item)
    assert found == frames
    assert prefetch.dropped == 0


@pytest.mark.parametrize("depth", [1, 2, 32])
def test_a_full_queue_is_filled_again_without_waiting_for_the_clock(
    depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch_module, "_RECHECK_S", 60.0)
    source, found = ListSource(frame_stream(SPEC, 200)), []

    def slow_at_times() -> None:
        for item in Prefetch(source, depth=depth):
            found.append(item)
            if len(found) % 50 == 0:
                time.sleep(0.02)

    caller = threading.Thread(target=slow_at_times, daemon=True)
    caller.start()
    caller.join(20)
    assert len(found) == 200


def test_a_queue_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 frame, not 0"):
        Prefetch(ListSource([]), depth=0)


def test_every_gap_is_marked_on_the_frame_behind_it() -> None:
    """The caller may take a frame while the queue is being emptied."""
    frames, before = frame_stream(SPEC, 6000), sys.getswitchinterval()
    prefetch = Prefetch(ListSource(frames), depth=8, live=True)
    found: list[Frame] = []
    sys.setswitchinterval(1e-6)
    try:
        for item in prefetch:
            found.append(item)
    finally:
        sys.setswitchinterval(before)
    assert len(found) + prefetch.dropped == len(frames)
    assert prefetch.dropped > 0
    expected = 0
    for item in found:
        assert (item.hole is not None) == (item.index != expected), (item.index, expected)
        expected = item.index + 1


def test_a_real_video_is_the_same_with_and_without_a_thread(tiny_video: Path) -> None:
    plain = list(open_source(tiny_video, SPEC).frames())
    stage = Stage()
    ahead = list(Prefetch(open_source(tiny_video, SPEC), depth=4, stage=stage))
    assert [(f.index, f.pts_s) for f in ahead] == [(f.index, f.pts_s) for f in plain]
    for a, b in zip(ahead, plain, strict=True):
        np.testing.assert_array_equal(a.pixels, b.pixels)
    assert stage.count == 60


def test_the_stage_times_the_source_and_not_the_caller() -> None:
    stage = Stage()
    for _ in Prefetch(ListSource(frame_stream(SPEC, 5)), depth=1, stage=stage):
        time.sleep(0.03)
    assert stage.count == 5
    assert stage.percentile_ms(100) < 25


def test_an_error_of_the_source_is_raised_in_the_caller_after_the_frames_before_it() -> None:
    frames = frame_stream(SPEC, 3)
    source = ListSource([*frames, SourceError("the disk is gone")])
    found = []
    with pytest.raises(SourceError, match="the disk is gone"):
        found.extend(Prefetch(source))
    assert source.closed


def test_the_frames_before_an_error_are_not_lost() -> None:
    frames = frame_stream(SPEC, 3)
    stream = iter(Prefetch(ListSource([*frames, ValueError("a bug")]), depth=1))
    assert [next(stream) for _ in range(3)] == frames
    with pytest.raises(ValueError, match="a bug"):
        next(stream)


@pytest.mark.parametrize("realtime", [False, True])
def test_leaving_early_stops_the_thread_and_closes_the_source(realtime: bool) -> None:
    source = ListSource(frame(i, np.zeros(SPEC.frame_shape, np.uint8)) for i in range(10**9))
    stream = iter(Prefetch(source, depth=2, realtime=realtime))
    for _ in range(3):
        next(stream)
    assert len(source_threads()) == 1
    stream.close()
    until(lambda: not source_threads())
    assert source.closed
    assert source.given < 20


def test_leaving_does_not_wait_for_a_frame_that_is_due_much_later() -> None:
    pixels = np.zeros(SPEC.frame_shape, np.uint8)
    source = ListSource([frame(0, pixels), frame(1, pixels, pts_s=3600.0)])
    stream = iter(Prefetch(source, realtime=True))
    next(stream)
    start = time.perf_counter()
    stream.close()
    assert time.perf_counter() - start < 2
    assert source.closed


def test_an_error_in_the_callers_loop_stops_the_thread() -> None:
    source = ListSource(frame_stream(SPEC, 500))

    def use() -> None:
        for item in Prefetch(source, depth=1):
            raise KeyError(item.index)

    with pytest.raises(KeyError):
        use()
    until(lambda: source.closed)


def test_nothing_is_read_before_the_first_frame_is_asked_for() -> None:
    source = ListSource(frame_stream(SPEC, 3))
    iter(Prefetch(source))
    assert source.given == 0
    assert source_threads() == []


def test_reading_a_second_time_is_an_error_and_does_not_hang() -> None:
    prefetch = Prefetch(ListSource(frame_stream(SPEC, 3)))
    assert len(list(prefetch)) == 3
    with pytest.raises(RuntimeError, match="read once"):
        list(prefetch)


def test_an_empty_source_ends_at_once() -> None:
    assert list(Prefetch(ListSource([]))) == []


def test_realtime_gives_each_frame_at_its_time() -> None:
    pixels = np.zeros(SPEC.frame_shape, np.uint8)
    frames = [frame(i, pixels, pts_s=0.03 * i) for i in range(10)]
    prefetch = Prefetch(ListSource(frames), realtime=True)
    start = time.perf_counter()
    arrivals = [(f.pts_s, time.perf_counter() - start) for f in prefetch]
    assert prefetch.dropped == 0
    assert len(arrivals) == 10
    for due, came in arrivals:
        assert due - 0.005 <= came <= due + 0.5


def test_without_realtime_times_do_not_matter() -> None:
    pixels = np.zeros(SPEC.frame_shape, np.uint8)
    start = time.perf_counter()
    list(Prefetch(ListSource([frame(i, pixels, pts_s=100.0 * i) for i in range(5)])))
    assert time.perf_counter() - start < 2


def test_an_overflow_in_realtime_drops_the_queue_marks_a_hole_and_counts() -> None:
    pixels = np.zeros(SPEC.frame_shape, np.uint8)
    frames = [frame(i, pixels, pts_s=0.0005 * i) for i in range(40)]
    source = ListSource(frames)
    prefetch = Prefetch(source, depth=4, realtime=True)
    stream = iter(prefetch)
    found: list[Frame] = [next(stream)]
    until(lambda: source.given == 40)  # the caller sleeps while all others come
    found += list(stream)
    assert prefetch.dropped > 0
    assert len(found) + prefetch.dropped == 40
    assert found[-1].index == 39
    assert [f.index for f in found] == sorted({f.index for f in found})
    for before, after in pairwise(found):
        # A hole stands exactly where frames are missing, so no clip can span them.
        assert (after.hole == "frames dropped") == (after.index != before.index + 1)


@pytest.mark.parametrize(
    ("size", "depth"), [((320, 240), 32), ((1920, 1080), 16), ((7680, 4320), 8)]
)
def test_fewer_pictures_wait_where_each_is_large(size: tuple[int, int], depth: int) -> None:
    width, height = size
    info = SourceInfo(
        name="a", kind="video file", codec="h264", width=width, height=height, fps=25, frames=None
    )
    assert depth_of(info, pictures=True) == depth
    assert depth_of(info, pictures=False) == DEPTH
