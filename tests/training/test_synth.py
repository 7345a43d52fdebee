"""The synthetic scene: real videos, natural pictures, and truth that is right to the frame."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from vad_runtime.contracts.errors import InputError
from vad_training.synth import KINDS, SynthConfig, synth_dataset, total_frames
from vad_training.synth.config import ClipSpec, clip_specs
from vad_training.synth.plot import Story
from vad_training.synth.render import film
from vad_training.synth.scene import Site, build_site
from vad_training.synth.write import film_seed, least_pixels, story_of

TINY = SynthConfig(
    width=128,
    height=96,
    fps=8,
    train_clips=1,
    train_seconds=2.0,
    val_clips=1,
    val_seconds=1.0,
    test_clips=7,
    test_seconds=11.0,
    crowd="busy",  # the harder site; the calm one has tests of its own below
)
SHORT = replace(TINY, test_clips=1, test_seconds=9.0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole data set with every kind."""
    path: Path = tmp_path_factory.mktemp("synth") / "set"
    synth_dataset(path, TINY)
    return path


@pytest.fixture(scope="module")
def labels(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    return document


@pytest.fixture(scope="module")
def site() -> Site:
    return build_site(TINY.seed, TINY.width, TINY.height)


def spec_named(config: SynthConfig, name: str) -> ClipSpec:
    return next(spec for spec in clip_specs(config) if spec.name == name)


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    return np.stack(frames)


def without_targets(story: Story) -> Story:
    bystanders = [a for a in story.actors if not any(a is t for t in story.targets)]
    return Story(story.frames, bystanders, [], np.zeros(story.frames, np.bool_))


def test_the_same_seed_gives_the_same_frames_and_labels(tmp_path: Path) -> None:
    first = synth_dataset(tmp_path / "a", SHORT)
    second = synth_dataset(tmp_path / "b", SHORT)

    assert first.read_bytes() == second.read_bytes()
    for spec in clip_specs(SHORT):
        one, two = tmp_path / "a" / spec.name, tmp_path / "b" / spec.name
        assert one.read_bytes() == two.read_bytes()
        np.testing.assert_array_equal(decoded(one), decoded(two))


def test_different_seeds_show_different_sites(site: Site) -> None:
    others = [build_site(seed, TINY.width, TINY.height).background for seed in (1, 2)]
    for other in others:
        assert np.abs(site.background - other).mean() > 8.0


def test_all_splits_show_the_same_site(folder: Path) -> None:
    medians = [
        np.median(decoded(folder / f"{split}/normal_000.mp4")[:8], axis=0)
        for split in ("train", "val", "test")
    ]
    for other in medians[1:]:
        # Light differs between clips; the layout, and with it the correlation, does not.
        assert np.corrcoef(medians[0].ravel(), other.ravel())[0, 1] > 0.9


def test_every_kind_appears_and_two_test_clips_are_normal(labels: dict[str, Any]) -> None:
    tests = {name: entry for name, entry in labels["videos"].items() if name.startswith("test/")}
    kinds = [a["kind"] for entry in tests.values() for a in entry["anomalies"]]

    assert sorted(kinds) == sorted(KINDS)
    assert [name for name, entry in tests.items() if not entry["anomalies"]] == [
        "test/normal_000.mp4",
        "test/normal_001.mp4",
    ]
    for name, entry in tests.items():
        assert all(name.startswith(f"test/{a['kind']}_") for a in entry["anomalies"])


def test_the_kinds_cycle_over_the_clips_of_a_default_set() -> None:
    names = [spec.name for spec in clip_specs(SynthConfig()) if spec.split == "test"]
    assert names[:6] == [f"test/{kind}_000.mp4" for kind in KINDS] + ["test/runner_001.mp4"]
    assert names[-2:] == ["test/normal_000.mp4", "test/normal_001.mp4"]


def test_labels_name_every_video_with_its_frames(folder: Path, labels: dict[str, Any]) -> None:
    videos = {p.relative_to(folder).as_posix() for p in folder.rglob("*.mp4")}

    assert labels["schema"] == 1
    assert labels["label_set"] == "vad-edge synth seed 0"
    assert labels["fps"] == TINY.fps
    assert set(labels["videos"]) == videos
    assert sum(entry["frames"] for entry in labels["videos"].values()) == total_frames(TINY)
    for name, entry in labels["videos"].items():
        assert entry["anomalies"] == [] or name.startswith("test/")


def test_the_videos_are_h264_with_the_declared_frames_and_rate(
    folder: Path, labels: dict[str, Any]
) -> None:
    for name, entry in labels["videos"].items():
        with av.open(str(folder / name)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.pix_fmt == "yuv420p"
            assert (stream.width, stream.height) == (TINY.width, TINY.height)
            assert stream.average_rate == TINY.fps
            times = [frame.time for frame in container.decode(stream)]
        assert len(times) == entry["frames"]
        np.testing.assert_allclose(times, np.arange(len(times)) / TINY.fps, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_is_what_the_renderer_shows(
    kind: str, site: Site, labels: dict[str, Any]
) -> None:
    spec = spec_named(TINY, f"test/{kind}_000.mp4")
    story = story_of(site, TINY, spec)
    shown = np.array([mask.sum() for _, mask in film(site, story, film_seed(TINY, spec), TINY.fps)])
    (anomaly,) = labels["videos"][spec.name]["anomalies"]
    first, last = anomaly["first"], anomaly["last"]

    enough = shown >= least_pixels(TINY)
    assert enough[first]
    assert enough[last]
    assert not enough[:first].any()
    assert not enough[last + 1 :].any()
    # It fills the interval: at most a lamp post hides it for a moment.
    assert enough[first : last + 1].mean() > 0.9
    assert shown.max() > 4 * least_pixels(TINY)
    assert first >= 0.3 * spec.frames
    assert last < spec.frames - 1


@pytest.mark.parametrize("kind", ["runner", "cyclist", "wrong_way"])
def test_without_the_anomaly_the_pictures_differ_only_in_its_frames(
    kind: str, site: Site, labels: dict[str, Any]
) -> None:
    spec = spec_named(TINY, f"test/{kind}_000.mp4")
    story = story_of(site, TINY, spec)
    seed = film_seed(TINY, spec)
    (anomaly,) = labels["videos"][spec.name]["anomalies"]
    first, last = anomaly["first"], anomaly["last"]

    changed = np.array(
        [
            int((cv2.absdiff(with_it, bare).max(axis=2) > 30).sum())
            for (with_it, _), (bare, _) in zip(
                film(site, story, seed, TINY.fps),
                film(site, without_targets(story), seed, TINY.fps),
                strict=True,
            )
        ]
    )
    # Outside, a sliver of it or its shadow may reach into the frame, but no more.
    assert changed[: first - 1].max() <= 2 * least_pixels(TINY)
    assert changed[last + 2 :].max(initial=0) <= 2 * least_pixels(TINY)
    assert changed[(first + last) // 2] > 4 * least_pixels(TINY)


def test_the_first_frames_of_a_default_test_clip_are_normal(site: Site) -> None:
    config = SynthConfig(width=TINY.width, height=TINY.height, crowd="busy")
    for spec in clip_specs(config):
        if spec.split == "test":
            story = story_of(site, config, spec)
            shown = np.flatnonzero(story.active)
            if len(shown):
                for target in story.targets:
                    pixel, _ = site.camera.project(
                        np.column_stack([target.track.xy, np.full(spec.frames, 0.9)])
                    )
                    inside = np.abs(pixel[:, 0] - TINY.width / 2) < TINY.width / 2
                    open_air = target.track.xy[:, 1] < site.layout.facade
                    seen = np.flatnonzero(inside & open_air & story.active)
                    assert seen[0] >= 4 * config.fps
                    assert seen[-1] < spec.frames - 1


def test_nobody_normal_walks_against_the_one_way_lane(site: Site) -> None:
    config = SynthConfig(width=TINY.width, height=TINY.height, crowd="busy")
    for spec in clip_specs(config):
        story = story_of(site, config, spec)
        for actor in without_targets(story).actors:
            y = actor.track.xy[actor.track.present, 1]
            assert len(y) == 0 or y[-1] - y[0] > -1.0


def test_people_come_and_go_and_never_crowd(site: Site) -> None:
    config = SynthConfig(width=TINY.width, height=TINY.height, crowd="busy")
    counts = []
    for spec in clip_specs(config):
        story = story_of(site, config, spec)
        counts.append(np.sum([a.track.present for a in story.actors], axis=0))
    people = np.concatenate(counts)
    assert people.max() <= 6
    assert 1.0 < people.mean() < 4.0
    assert (people == 0).any()


def test_the_pictures_are_noisy_and_the_light_is_steady(site: Site) -> None:
    spec = spec_named(TINY, "train/normal_000.mp4")
    story = story_of(site, TINY, spec)
    frames = np.stack([f for f, _ in film(site, story, film_seed(TINY, spec), TINY.fps)]).astype(
        np.float64
    )

    steps = np.abs(np.diff(frames.mean(axis=3), axis=0))
    # The median leaves out the few pixels where somebody moves.
    noise = np.median(steps) / 0.6745 / np.sqrt(2)
    assert 0.7 < noise < 5.0
    level = np.median(frames.mean(axis=3), axis=(1, 2))
    flicker = np.abs(np.diff(level)) / level[:-1]
    assert 0.0 < flicker.max() < 0.03
    # A picture with light and shade, neither black nor burnt out.
    assert 50 < frames.mean() < 200
    assert frames.mean(axis=(0, 3)).std() > 20
    assert (frames > 254).mean() < 0.01


def test_progress_counts_every_frame(tmp_path: Path) -> None:
    written: list[int] = []
    labels = synth_dataset(tmp_path, replace(SHORT, test_clips=0), written.append)

    assert labels == tmp_path / "labels.json"
    assert sum(written) == total_frames(replace(SHORT, test_clips=0)) == 24
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("leftover", ["labels.json", "train/normal_000.mp4"])
def test_a_folder_that_already_holds_a_set_is_refused(tmp_path: Path, leftover: str) -> None:
    (tmp_path / leftover).parent.mkdir(exist_ok=True)
    (tmp_path / leftover).write_bytes(b"old")

    with pytest.raises(InputError, match="choose a new or empty folder") as caught:
        synth_dataset(tmp_path, SHORT)

    assert str(tmp_path) in str(caught.value)
    assert (tmp_path / leftover).read_bytes() == b"old"


def test_clips_too_short_for_an_anomaly_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match="leave no room"):
        synth_dataset(tmp_path / "set", replace(TINY, test_seconds=3.0))
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("change", [{"width": 127}, {"height": 32}, {"fps": 0}, {"seed": -1}])
def test_settings_that_no_video_can_have_are_refused(
    tmp_path: Path, change: dict[str, int]
) -> None:
    with pytest.raises(InputError):
        synth_dataset(tmp_path / "set", replace(TINY, **change))


def test_in_a_calm_site_normal_people_stay_out_of_the_forecourt(site: Site) -> None:
    config = SynthConfig(width=TINY.width, height=TINY.height)
    for spec in clip_specs(config):
        for actor in without_targets(story_of(site, config, spec)).actors:
            assert actor.track.xy[actor.track.present, 1].min(initial=99) > 6.5


def test_in_a_calm_site_every_anomaly_happens_in_the_forecourt_and_counts_as_a_whole(
    site: Site,
) -> None:
    config = SynthConfig(width=TINY.width, height=TINY.height)
    for spec in clip_specs(config):
        if spec.kind == "normal":
            continue
        story = story_of(site, config, spec)
        there = np.any([actor.track.present for actor in story.targets], axis=0)
        np.testing.assert_array_equal(story.active, there)
        for actor in story.targets:
            assert actor.track.xy[actor.track.present, 1].max() < 6.0
