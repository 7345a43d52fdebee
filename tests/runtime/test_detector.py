"""Each frame comes out once, in order, with the score of the first clip that scores it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from helpers import clip_spec, frame, frame_stream, manifest

from vad_runtime.backends.base import Clips, Options, Outputs
from vad_runtime.backends.fake import FakeBackend
from vad_runtime.backends.onnxruntime import OnnxRuntimeBackend
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import BackendError, ClipSpec, Manifest, ScoreSpec, Scoring
from vad_runtime.detector import Detector, ScoredFrame
from vad_runtime.scoring import ClipMean
from vad_runtime.sources import Frame

FPS = 25.0


class IndexBackend:
    """Scores frame `i` of the clip that ends with pixel value `v` as ``100 * v + i``."""

    device = "test"

    def __init__(self, about: Manifest) -> None:
        self._score = about.score
        self.ends: list[int] = []

    def infer(self, clips: Clips) -> Outputs:
        """Return scores that tell which clip gave them."""
        assert len(clips) == 1
        self.ends.append(int(clips[0, -1, 0, 0, 0]))
        if self._score.per == "clip":
            return {"score": np.array([100 * self.ends[-1]], np.float32)}
        i = np.arange(self._score.first, self._score.first + self._score.count)
        return {"score": (100 * self.ends[-1] + i)[None].astype(np.float32)}

    def close(self) -> None:
        """Do nothing."""


def numbered(spec: ClipSpec, indices: Iterable[int], **special: dict[int, Any]) -> list[Frame]:
    """Return frames whose pixels hold their index; `special` sets fields of single frames."""
    frames = []
    for i in indices:
        fields = {name: values[i] for name, values in special.items() if i in values}
        frames.append(frame(i, np.full(spec.frame_shape, i, np.uint8), fps=FPS, **fields))
    return frames


def run(
    about: Manifest, frames: Iterable[Frame], *, hop: int | None = None, **options: Any
) -> tuple[Detector, list[ScoredFrame]]:
    """Run a detector with an `IndexBackend`, check what always holds, and return both."""
    detector = Detector(about, IndexBackend(about), hop=hop, **options)
    frames = list(frames)
    found = list(detector.run(frames, nominal_fps=FPS))
    check(detector, frames, found)
    return detector, found


def check(detector: Detector, frames: list[Frame], found: list[ScoredFrame]) -> None:
    """Assert what holds for every run."""
    assert [s.frame.index for s in found] == [f.index for f in frames]
    counters = detector.counters
    assert counters.frames == len(frames)
    assert counters.frames == counters.scored + sum(counters.unscored.values())
    assert counters.scored == sum(s.status == "scored" for s in found)
    assert counters.clips == detector.infer_stage.count
    for status, count in counters.unscored.items():
        assert count == sum(s.status == status for s in found)
    for scored in found:
        assert (scored.raw is None) == (scored.score is None) == (scored.status != "scored")


def statuses(found: list[ScoredFrame]) -> str:
    """Return the status of each frame as a letter: s, w, d, b, c."""
    return "".join(scored.status[0] for scored in found)


def raws(found: list[ScoredFrame]) -> list[float | None]:
    """Return the raw score of each frame."""
    return [scored.raw for scored in found]


def small(**changes: Any) -> ClipSpec:
    """Return a spec of four 2 x 2 frames."""
    return clip_spec(**({"frames": 4, "height": 2, "width": 2} | changes))


def test_each_frame_has_the_score_of_the_first_clip_that_scores_it() -> None:
    about = manifest(clip=small(hop=2), scoring=Scoring())
    detector, found = run(about, numbered(about.clip, range(7)))
    # clips: 0-3, 2-5, and the tail 3-6
    assert raws(found) == [300, 301, 302, 303, 502, 503, 603]
    assert detector.counters.clips == 3
    assert detector.counters.flushes == {}


def test_frames_come_out_as_soon_as_they_are_settled() -> None:
    about = manifest(clip=small(hop=1), scoring=Scoring())
    detector = Detector(about, IndexBackend(about))
    given: list[int] = []

    def source() -> Iterable[Frame]:
        for item in numbered(about.clip, range(6)):
            given.append(item.index)
            yield item

    delays = [given[-1] - s.frame.index for s in detector.run(source(), nominal_fps=FPS)]
    assert delays == [3, 2, 1, 0, 0, 0]


def test_fewer_frames_than_a_clip_are_warm_up() -> None:
    about = manifest(clip=small())
    detector, found = run(about, numbered(about.clip, range(3)))
    assert statuses(found) == "www"
    assert detector.counters.clips == 0


def test_an_empty_stream_gives_nothing() -> None:
    detector, found = run(manifest(clip=small()), [])
    assert found == []
    assert detector.counters.flushes == {}


def test_a_hole_flushes_the_window_and_is_counted_with_its_cause() -> None:
    about = manifest(clip=small(), scoring=Scoring())
    frames = numbered(about.clip, range(12), hole={6: "frames dropped"})
    detector, found = run(about, frames)
    assert statuses(found) == "s" * 12
    assert raws(found)[4:8] == [403, 503, 900, 901]  # frame 6 waits for a clip of its own side
    assert detector.counters.flushes == {"frames dropped": 1}


def test_no_clip_spans_a_hole() -> None:
    about = manifest(clip=small(), scoring=Scoring())
    backend = IndexBackend(about)
    frames = numbered(about.clip, range(11), hole={3: "gap", 9: "gap"})
    detector = Detector(about, backend)
    found = list(detector.run(frames, nominal_fps=FPS))
    check(detector, frames, found)
    assert backend.ends == [6, 7, 8]
    assert statuses(found) == "wwwssssssww"
    assert detector.counters.flushes == {"gap": 2}


def test_the_tail_before_a_hole_is_scored() -> None:
    about = manifest(clip=small(hop=4), scoring=Scoring())
    _, found = run(about, numbered(about.clip, range(10), hole={6: "gap"}))
    assert raws(found) == [300, 301, 302, 303, 502, 503, 900, 901, 902, 903]


def test_a_hole_before_the_first_frame_is_no_flush() -> None:
    about = manifest(clip=small())
    detector, _ = run(about, numbered(about.clip, range(5), hole={0: "start"}))
    assert detector.counters.flushes == {}


def test_a_damaged_frame_is_not_scored_and_flushes_the_window() -> None:
    about = manifest(clip=small(), scoring=Scoring())
    frames = numbered(about.clip, range(12), damaged={5: True, 6: True})
    detector, found = run(about, frames)
    assert statuses(found) == "sssssddsssss"
    assert raws(found)[7:9] == [1000, 1001]
    assert detector.counters.flushes == {"damaged frame": 1}
    assert detector.counters.unscored == {"damaged": 2}


def test_a_jump_in_time_flushes_the_window() -> None:
    about = manifest(clip=small(), scoring=Scoring())
    frames = numbered(about.clip, range(6))
    frames += numbered(about.clip, range(6, 12), pts_s={i: 60 + i / FPS for i in range(6, 12)})
    detector, found = run(about, frames)
    assert raws(found)[6] == 900
    assert detector.counters.flushes == {"jump in time": 1}


def test_a_short_stutter_is_no_jump() -> None:
    about = manifest(clip=small())
    frames = numbered(about.clip, range(6), pts_s={5: 4 / FPS + 0.45})
    detector, _ = run(about, frames)
    assert detector.counters.flushes == {}


def test_a_slow_camera_is_no_series_of_jumps() -> None:
    about = manifest(clip=small())
    frames = numbered(about.clip, range(8), pts_s={i: 3.0 * i for i in range(8)})
    detector = Detector(about, IndexBackend(about))
    found = list(detector.run(frames, nominal_fps=1.0))
    assert statuses(found) == "s" * 8
    assert detector.counters.flushes == {}


def test_a_model_that_scores_whole_clips_gives_its_score_to_each_new_frame() -> None:
    about = manifest(clip=small(hop=2), score=ScoreSpec(per="clip", form="mil"), scoring=Scoring())
    _, found = run(about, numbered(about.clip, range(7)))
    assert raws(found) == [300, 300, 300, 300, 500, 500, 600]


def test_the_first_frames_of_a_prediction_model_are_context() -> None:
    score = ScoreSpec(per="frame", form="prediction", first=3, count=1)
    about = manifest(clip=small(), score=score, scoring=Scoring())
    detector, found = run(about, numbered(about.clip, range(7)))
    assert statuses(found) == "cccssss"
    assert raws(found)[3:] == [303, 403, 503, 603]
    assert detector.counters.unscored == {"context": 3}


def test_the_last_frames_of_a_model_that_looks_ahead_are_context() -> None:
    score = ScoreSpec(per="frame", form="reconstruction", first=0, count=2)
    about = manifest(clip=small(), score=score, scoring=Scoring())
    detector, found = run(about, numbered(about.clip, range(7)))
    assert statuses(found) == "ssssscc"
    assert raws(found)[:5] == [300, 301, 401, 501, 601]
    assert detector.counters.unscored == {"context": 2}


def test_a_hop_longer_than_what_is_scored_leaves_frames_out_and_counts_them() -> None:
    score = ScoreSpec(per="frame", form="prediction", first=2, count=2)
    about = manifest(clip=small(hop=4), score=score, scoring=Scoring())
    detector, found = run(about, numbered(about.clip, range(12)))
    assert statuses(found) == "ccssccssccss"
    assert detector.counters.scored == 6


def test_between_the_strides_frames_are_not_scored() -> None:
    about = manifest(clip=small(stride=2, hop=2), scoring=Scoring())
    detector, found = run(about, numbered(about.clip, range(11)))
    assert statuses(found) == "sbsbsbsbsbs"
    assert raws(found)[::2] == [600, 601, 602, 603, 803, 1003]
    assert detector.counters.unscored == {"between": 5}


def test_a_frame_left_over_by_the_stride_at_the_end_is_between_too() -> None:
    about = manifest(clip=small(stride=2, hop=2), scoring=Scoring())
    _, found = run(about, numbered(about.clip, range(10)))
    assert statuses(found) == "sbsbsbsbsb"


@pytest.mark.parametrize("seed", range(40))
def test_frames_come_out_once_and_in_order_whatever_happens(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames, stride = int(rng.integers(1, 7)), int(rng.integers(1, 4))
    first = int(rng.integers(0, frames))
    count = int(rng.integers(1, frames - first + 1))
    per = str(rng.choice(["frame", "clip"]))
    about = manifest(
        clip=small(frames=frames, stride=stride, hop=stride * int(rng.integers(1, 10))),
        score=ScoreSpec(per=per, form="x", first=first, count=count),
        scoring=Scoring(threshold=4000.0, smoothing="median", window=3),
    )
    length = int(rng.integers(0, 120))
    indices = np.cumsum(rng.choice([1, 1, 1, 1, 1, 1, 1, 4], length)) if length else []
    hit = [int(i) for i in indices]
    special = {
        "hole": {i: "gap" for i in hit if rng.random() < 0.06},
        "damaged": {i: True for i in hit if rng.random() < 0.05},
        "pts_s": {},
    }
    _, found = run(about, numbered(about.clip, hit, **special))
    if per == "frame" and stride == 1:
        scored = [s for s in found if s.status == "scored"]
        assert all(first <= s.raw % 100 < first + count for s in scored)


def test_the_fake_back_end_runs_through_the_whole_detector() -> None:
    about = manifest(clip=clip_spec(hop=4), scoring=Scoring(threshold=50.0))
    frames = frame_stream(about.clip, 30)
    detector = Detector(about, FakeBackend(Path("unused"), about, Options()))
    found = list(detector.run(frames, nominal_fps=FPS))
    check(detector, frames, found)
    assert statuses(found) == "s" * 30
    assert all(s.alarm for s in found)  # noise moves a lot
    assert len(detector.events) == 1


def test_a_score_does_not_depend_on_how_the_source_hands_its_frames_over(
    tiny_bundle: Bundle,
) -> None:
    about = tiny_bundle.manifest
    file = tiny_bundle.file(about.artefacts["fp32"])
    frames = frame_stream(about.clip, 40)

    def in_bursts() -> Iterable[Frame]:
        for start in range(0, 40, 7):
            yield from list(frames[start : start + 7])

    results = []
    for source in (frames, iter(frames), in_bursts()):
        backend = OnnxRuntimeBackend(file, about, Options(threads=1))
        detector = Detector(about, backend, hop=3)
        results.append([s.score for s in detector.run(source, nominal_fps=FPS)])
        backend.close()
    assert results[0] == results[1] == results[2]


def test_a_score_never_changes_once_the_future_is_known(tiny_bundle: Bundle) -> None:
    about = tiny_bundle.manifest
    backend = OnnxRuntimeBackend(
        tiny_bundle.file(about.artefacts["fp32"]), about, Options(threads=1)
    )
    frames = frame_stream(about.clip, 40)
    longer = [s.score for s in Detector(about, backend, hop=1).run(frames, nominal_fps=FPS)]
    shorter = [s.score for s in Detector(about, backend, hop=1).run(frames[:23], nominal_fps=FPS)]
    assert longer[:23] == shorter
    backend.close()


def test_the_filter_starts_anew_behind_a_hole() -> None:
    about = manifest(clip=small(frames=1), scoring=Scoring(smoothing="mean", window=10))
    _, found = run(about, numbered(about.clip, range(4), hole={2: "gap"}))
    assert [s.score for s in found] == [0, 50, 200, 250]


def test_an_event_ends_at_a_hole_and_at_the_end() -> None:
    about = manifest(clip=small(frames=1), scoring=Scoring(threshold=100.0))
    detector, found = run(about, numbered(about.clip, range(6), hole={4: "gap"}))
    assert [s.alarm for s in found] == [False, True, True, True, True, True]
    assert [(e.start_frame, e.end_frame) for e in detector.events] == [(1, 3), (4, 5)]
    assert detector.events[0].peak_score == 300


def test_an_unscored_frame_carries_the_alarm_of_the_moment() -> None:
    about = manifest(clip=small(frames=2, stride=2, hop=2), scoring=Scoring(threshold=0.0))
    _, found = run(about, numbered(about.clip, range(5)))
    assert [s.alarm for s in found] == [True] * 5


def test_another_hop_than_the_manifests_may_be_asked_for() -> None:
    about = manifest(clip=small(hop=1), scoring=Scoring())
    detector, found = run(about, numbered(about.clip, range(12)), hop=4)
    assert detector.counters.clips == 3
    assert statuses(found) == "s" * 12
    with pytest.raises(ValueError, match="hop"):
        Detector(about, IndexBackend(about), hop=0)


def test_clip_means_hold_every_clip_of_a_frame_model() -> None:
    about = manifest(clip=small(hop=2), scoring=Scoring())
    means = ClipMean()
    run(about, numbered(about.clip, range(6)), clip_means=means)
    np.testing.assert_allclose(
        means.values(7), [300, 301, (302 + 500) / 2, (303 + 501) / 2, 502, 503, np.nan]
    )


def test_clip_means_hold_every_clip_of_a_clip_model() -> None:
    about = manifest(clip=small(hop=2), score=ScoreSpec(per="clip", form="mil"), scoring=Scoring())
    means = ClipMean()
    run(about, numbered(about.clip, range(6)), clip_means=means)
    np.testing.assert_allclose(means.values(6), [300, 300, 400, 400, 500, 500])


def test_an_error_of_the_back_end_reaches_the_caller() -> None:
    about = manifest(clip=small())

    class Broken(IndexBackend):
        def infer(self, clips: Clips) -> Outputs:
            raise BackendError("the graph gave a score that is not finite.")

    detector = Detector(about, Broken(about))
    with pytest.raises(BackendError, match="not finite"):
        list(detector.run(numbered(about.clip, range(5)), nominal_fps=FPS))


def test_a_source_that_fails_does_not_lose_an_alarm_that_is_on() -> None:
    about = manifest(clip=small(hop=4), scoring=Scoring(threshold=100.0))
    detector = Detector(about, IndexBackend(about))

    def cut_cable() -> Iterable[Frame]:
        yield from numbered(about.clip, range(6))
        raise OSError("the camera is gone")

    found = []
    with pytest.raises(OSError, match="camera is gone"):
        found.extend(detector.run(cut_cable(), nominal_fps=FPS))
    assert [(e.start_frame, e.end_frame) for e in detector.events] == [(0, 3)]


def test_a_second_stream_does_not_see_the_first() -> None:
    about = manifest(clip=small(), scoring=Scoring(smoothing="mean", window=5))
    detector = Detector(about, IndexBackend(about))
    first = list(detector.run(numbered(about.clip, range(6)), nominal_fps=FPS))
    second = list(detector.run(numbered(about.clip, range(6)), nominal_fps=FPS))
    assert [s.score for s in first] == [s.score for s in second]


def test_an_operators_threshold_applies_to_the_smoothed_normalised_score() -> None:
    scoring = Scoring(offset=100, scale=100, threshold=1.0, smoothing="mean", window=2)
    about = msgspec.structs.replace(manifest(clip=small(frames=1)), scoring=scoring)
    _, found = run(about, numbered(about.clip, range(5)))
    assert [s.score for s in found] == [-1, -0.5, 0.5, 1.5, 2.5]
    assert [s.alarm for s in found] == [False, False, False, True, True]
