"""One stream of a site: frames, holes, losses, events, what it says of itself."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from helpers import ListSource, assert_one_line, clip_spec, frame
from helpers_live import CameraReader, Clock, CountingBackend, World, live_manifest, pictures

from vad_runtime.contracts import InputError, SourceError
from vad_runtime.contracts.site import EventSettings, Secret, StreamSettings
from vad_runtime.live.base import StateChange, StreamState
from vad_runtime.live.events import EventTracker
from vad_runtime.live.looped import STARTS_OVER, Looped
from vad_runtime.live.stream import LiveStream, queue_depth
from vad_runtime.sources import open_source
from vad_runtime.sources.pace import Pace


@pytest.fixture
def world() -> World:
    return World()


def state(name: StreamState) -> StateChange:
    return StateChange(state=name, before="live", reason="cable", monotonic_s=0.0)


def test_every_frame_of_a_camera_is_scored_once_and_counted(world: World) -> None:
    engine = world.engine(CountingBackend(world.clock))
    stream = world.camera(engine, "gate", pictures(range(1, 21)), fps=25)
    world.run(2.0)
    assert [one.frame.index for one in world.scored["gate"]] == list(range(20))
    assert [one.raw for one in world.scored["gate"]] == list(range(1, 21))
    seen = stream.snapshot()
    assert (seen.frames, seen.scored, seen.clips, seen.misses) == (20, 20, 5, 0)
    assert seen.state == "ended"
    assert seen.target_ms == pytest.approx(160.0)
    assert seen.latency.count == 5
    assert seen.latency.max_ms == pytest.approx(10, rel=0.02)
    assert seen.score == 20.0
    assert max(value for value in seen.recent if value is not None) == 20.0
    assert world.ended == ["gate"]


def test_the_rates_are_those_of_the_camera(world: World) -> None:
    engine = world.engine(CountingBackend(world.clock))
    stream = world.camera(engine, "gate", pictures([1] * 100), fps=20)
    world.run(4.0)
    seen = stream.snapshot()
    assert seen.camera_fps == pytest.approx(20, rel=0.05)
    assert seen.scored_fps == pytest.approx(20, rel=0.05)
    assert seen.state == "live"


def test_a_camera_that_is_gone_has_no_rate(world: World) -> None:
    stream = world.camera(
        world.engine(CountingBackend(world.clock)), "gate", pictures([1] * 50), times=None
    )
    stream._source.camera_fps = 25.0  # type: ignore[attr-defined]  # as measured before it went
    world.run(1.0)
    assert stream.snapshot().camera_fps == 25.0
    world.run(20.0)
    assert stream.snapshot().camera_fps == 0.0


def test_no_clip_spans_a_hole_and_the_frames_before_it_are_scored(world: World) -> None:
    frames = pictures(range(1, 13))
    frames[6] = frame(6, frames[6].pixels, hole="reconnected")
    backend = CountingBackend(world.clock)
    stream = world.camera(world.engine(backend), "gate", frames)
    world.run(2.0)
    # The tail in front of the hole overlaps; frames 10 to 12 are the tail at the end.
    assert backend.clips == [[1, 2, 3, 4], [3, 4, 5, 6], [7, 8, 9, 10], [9, 10, 11, 12]]
    assert stream.snapshot().holes == {"reconnected": 1}


def test_a_jump_in_time_is_a_hole_by_the_rule_of_the_cameras_rate(world: World) -> None:
    backend = CountingBackend(world.clock)
    engine = world.engine(backend)
    slow = [frame(i, np.full((2, 2, 1), i + 1, np.uint8), pts_s=float(i)) for i in range(8)]
    stream = world.camera(engine, "slow", slow, fps=1.0)
    world.run(9.0)
    assert stream.snapshot().holes == {}  # a second from frame to frame is what it does
    assert backend.clips == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_the_rule_for_holes_follows_a_change_of_the_cameras_rate(world: World) -> None:
    backend = CountingBackend(world.clock)
    pixels = [np.full((2, 2, 1), i + 1, np.uint8) for i in range(12)]
    fast = [frame(i, pixels[i], pts_s=i / 25) for i in range(4)]
    slow = [frame(i, pixels[i], pts_s=float(i)) for i in range(5, 12)]
    change = frame(4, pixels[4], pts_s=4.0, hole="change of frame rate")
    times = [*(i / 25 for i in range(4)), *(float(i) for i in range(4, 12))]
    stream = world.camera(world.engine(backend), "gate", [*fast, change, *slow], times=times)
    world.run(1.0)
    stream._source = ListSource([], fps=1.0)
    world.run(12.0)
    assert stream.snapshot().holes == {"change of frame rate": 1}
    assert backend.clips == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]


def test_a_lost_camera_is_settled_at_the_loss_and_not_when_it_comes_back(world: World) -> None:
    about = live_manifest(threshold=5.0)
    frames = pictures([1, 1, 1, 1, 9, 9, 9, 9, 9, 9])
    stream = world.camera(
        world.engine(CountingBackend(world.clock)),
        "gate",
        [*frames, frame(10, frames[0].pixels, hole="reconnected")],
        about=about,
        times=[*(i / 25 for i in range(10)), 60.0],
    )
    world.run(1.0)
    assert len(world.scored["gate"]) == 8
    stream.state_changed(state("lost"))
    world.run(1.0)
    assert len(world.scored["gate"]) == 10
    assert [change.kind for change in world.changes] == ["started", "ended"]
    assert world.changes[1].event.ended_by == "hole"
    assert stream.snapshot().holes == {"lost": 1}
    assert (stream.snapshot().state, stream.snapshot().state_reason) == ("lost", "cable")


def test_frames_that_wait_when_the_camera_is_lost_come_first(world: World) -> None:
    backend = CountingBackend(world.clock)
    stream = world.camera(world.engine(backend), "gate", pictures(range(1, 7)), times=[0.0] * 6)
    stream.state_changed(state("lost"))
    world.run(0.5)
    assert backend.clips == [[1, 2, 3, 4], [3, 4, 5, 6]]


def test_a_short_loss_that_is_over_already_empties_nothing(world: World) -> None:
    backend = CountingBackend(world.clock)
    stream = world.camera(world.engine(backend), "gate", pictures(range(1, 9)))
    world.run(0.2)
    stream.state_changed(state("stalled"))
    stream.state_changed(state("live"))
    world.run(1.0)
    assert backend.clips == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_the_sites_threshold_decides_and_an_event_is_told_with_its_frame(world: World) -> None:
    values = [1] * 8 + [50] * 8 + [1] * 8
    stream = world.camera(
        world.engine(CountingBackend(world.clock)),
        "gate",
        pictures(values),
        about=live_manifest(threshold=200.0),
        events=EventSettings(threshold=40.0),
    )
    world.run(2.0)
    started, ended = world.changes
    assert (started.kind, ended.kind) == ("started", "ended")
    assert (ended.event.start_frame, ended.event.end_frame) == (8, 15)
    assert ended.event.threshold == 40.0
    # Unix time of the arrival of the ninth frame, by the clock at that moment.
    assert started.event.start_s == pytest.approx(1e9 + 1000 + 8 / 25, abs=1e-3)
    assert [one.alarm for one in world.scored["gate"]] == [value == 50 for value in values]
    seen = stream.snapshot()
    assert (seen.threshold, seen.events, seen.alarm) == (40.0, 1, False)
    assert seen.last_event_s == started.event.start_s


def test_the_end_of_a_recording_ends_its_event(world: World) -> None:
    world.camera(
        world.engine(CountingBackend(world.clock)),
        "gate",
        pictures([9] * 6),
        about=live_manifest(threshold=5.0),
    )
    world.run(1.0)
    assert [(c.kind, c.event.ended_by) for c in world.changes] == [
        ("started", None),
        ("ended", "end"),
    ]


def test_a_stop_and_an_error_are_no_end_of_a_recording(world: World) -> None:
    engine, about = world.engine(CountingBackend(world.clock)), live_manifest(threshold=5.0)
    gate = world.camera(engine, "gate", pictures([9] * 40), about=about)
    world.camera(engine, "yard", [*pictures([9] * 6), (1000.3, SourceError("gone"))], about=about)
    world.run(1.0)
    gate.reader.stop()  # what a site does first, when it is stopped
    world.run(0.2)
    ends = [change.event for change in world.changes if change.kind == "ended"]
    assert {event.stream: event.ended_by for event in ends} == {"gate": "stop", "yard": "stop"}


def test_no_password_stands_in_the_reason_why_a_stream_ended(world: World) -> None:
    broken = OSError("rtsp://viewer:hunter2@gate/1: no such thing")
    stream = world.camera(
        world.engine(CountingBackend(world.clock)), "gate", [*pictures([1]), broken]
    )
    world.run(1.0)
    reason = stream.snapshot().state_reason
    assert reason == "OSError: rtsp://***@gate/1: no such thing"


def test_a_source_that_fails_ends_its_stream_with_the_reason(world: World) -> None:
    broken = SourceError("clip.mp4 holds no frame that decodes. Give another video.")
    items = [*pictures(range(1, 7)), broken]
    stream = world.camera(world.engine(CountingBackend(world.clock)), "gate", items)
    world.run(1.0)
    assert stream.error is broken
    assert len(world.scored["gate"]) == 6  # what came before is scored all the same
    assert stream.snapshot().state == "ended"
    assert stream.snapshot().state_reason == str(broken)


def test_a_damaged_frame_is_settled_unscored(world: World) -> None:
    frames = pictures(range(1, 9))
    frames[2] = frame(2, frames[2].pixels, damaged=True)
    backend = CountingBackend(world.clock)
    stream = world.camera(world.engine(backend), "gate", frames)
    world.run(1.0)
    assert backend.clips == [[4, 5, 6, 7], [5, 6, 7, 8]]
    assert stream.snapshot().unscored == {"warm-up": 2, "damaged": 1}


def test_what_the_pace_leaves_out_reaches_no_clip(world: World) -> None:
    about = live_manifest(fps=25.0)
    clock, backend = world.clock, CountingBackend(world.clock)
    engine = world.engine(backend)
    frames = pictures(range(1, 33), fps=50)
    reader = CameraReader(clock, [(clock.now + x.pts_s, x) for x in frames])
    settings = StreamSettings(source=Secret("x"))
    stream = LiveStream(
        "gate",
        settings,
        about,
        reader,
        tracker=EventTracker("site", "gate", about.scoring, settings.events, "test"),
        source=ListSource([], fps=50),
        pace=Pace(25.0),
        clock=clock,
    )
    world.readers.append(reader)
    engine.add(stream)
    world.run(2.0)
    assert backend.clips == [[1 + 8 * i, 3 + 8 * i, 5 + 8 * i, 7 + 8 * i] for i in range(4)]
    assert stream.snapshot().unscored == {"faster than the model": 16}
    assert stream.snapshot().target_ms == pytest.approx(160)  # 4 frames at 25 and not at 50 fps


def test_nothing_grows_with_the_events(world: World) -> None:
    values = list(itertools.islice(itertools.cycle([1] * 4 + [50] * 4), 800))
    stream = world.camera(
        world.engine(CountingBackend(world.clock, run_s=lambda _n: 0.001)),
        "gate",
        pictures(values, fps=100),
        about=live_manifest(threshold=5.0),
        fps=100,
        on_scored=lambda _scored: None,
    )
    world.run(9.0)
    assert stream.snapshot().events == 100
    assert stream._detector.events == []


def test_a_hop_that_does_not_suit_is_one_line(world: World) -> None:
    engine = world.engine(CountingBackend(world.clock))
    with pytest.raises(InputError) as caught:
        world.camera(engine, "gate", [], about=live_manifest(stride=2, hop=2), hop=3)
    assert_one_line(caught.value, "gate", "3")


def test_a_queue_holds_two_clips_even_where_the_hop_is_widened() -> None:
    assert queue_depth(clip_spec(frames=8, hop=2)) == 32
    assert queue_depth(clip_spec(frames=64, hop=2)) == 128
    assert queue_depth(clip_spec(frames=16, hop=2), hop=100) == 200


def test_a_snapshot_may_be_taken_before_anything_has_come(world: World) -> None:
    stream = world.camera(world.engine(CountingBackend(Clock())), "gate", [], times=[])
    seen = stream.snapshot()
    assert (seen.state, seen.frames, seen.score, seen.recent) == ("connecting", 0, None, [])


# -- a recording that starts over ----------------------------------------------------------------


def test_a_looped_recording_goes_on_with_a_hole_at_the_seam(tiny_video: Path) -> None:
    spec = clip_spec()
    looped = Looped(lambda: open_source(tiny_video, spec, pictures=False))
    frames = list(itertools.islice(looped.frames(), 150))
    assert [one.index for one in frames] == list(range(150))
    steps = np.diff([one.pts_s for one in frames])
    np.testing.assert_allclose(steps, 1 / 15, atol=1e-6)
    assert {one.index: one.hole for one in frames if one.hole} == {
        60: STARTS_OVER,
        120: STARTS_OVER,
    }
    assert looped.turns == 2
    assert looped.stats.frames == 150
    assert looped.info.frames is None


def test_what_was_counted_in_all_turns_of_a_loop_is_added_up() -> None:
    def again() -> ListSource:
        source = ListSource([frame(0, 0)])
        source.stats.dropped["queue full"] = source.stats.connections = source.stats.frozen = 2
        return source

    looped = Looped(again)
    assert len(list(itertools.islice(looped.frames(), 3))) == 3
    stats = looped.stats
    assert (stats.dropped, stats.connections, stats.frozen) == ({"queue full": 6}, 6, 6)


def test_a_looped_recording_stops_when_it_is_told(tiny_video: Path) -> None:
    looped = Looped(lambda: open_source(tiny_video, clip_spec(), pictures=False))
    seen = 0
    for _ in looped.frames():
        seen += 1
        if seen == 70:
            looped.stop()
    assert seen == 70


def test_a_recording_without_frames_does_not_spin() -> None:
    with pytest.raises(SourceError, match="no frames"):
        list(Looped(lambda: ListSource([])).frames())
