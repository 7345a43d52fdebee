"""RBDC and TBDC by hand, and truth from masks."""

from pathlib import Path

import numpy as np
import pytest
from helpers import assert_one_line

from vad_runtime.contracts import InputError
from vad_training.evaluation_regions import masks_of, read_regions, true_regions
from vad_training.metrics.regions import Area, Detection, TrueRegion, iou, region_metrics


def box(left: float, top: float, right: float, bottom: float) -> Area:
    return np.array([left, top, right, bottom], np.float64)


HERE, THERE = box(0, 0, 10, 10), box(50, 50, 60, 60)


def test_overlap_by_hand() -> None:
    assert iou(HERE, HERE) == 1
    assert iou(HERE, THERE) == 0
    assert iou(HERE, box(5, 0, 15, 10)) == pytest.approx(50 / 150)
    mask = np.zeros((20, 20), bool)
    mask[:10, :10] = True
    assert iou(mask, HERE) == 1
    assert iou(box(5, 0, 15, 10), mask) == pytest.approx(50 / 150)
    assert iou(mask, ~mask) == 0
    assert iou(box(0, 0, 0, 0), box(0, 0, 0, 0)) == 0


def test_areas_worked_out_by_hand() -> None:
    # Four frames, two tracks: a in frames 0 and 1, b in frame 2.
    truth = [
        TrueRegion(frame=0, area=HERE, track="a"),
        TrueRegion(frame=1, area=HERE, track="a"),
        TrueRegion(frame=2, area=HERE, track="b"),
    ]
    detections = [
        Detection(frame=0, area=HERE, score=0.9),  # finds one region, and with it track a
        Detection(frame=3, area=HERE, score=0.8),  # false: the frame has no region
        Detection(frame=2, area=THERE, score=0.7),  # false: elsewhere
        Detection(frame=2, area=box(0, 0, 10, 5), score=0.6),  # finds b, IoU 1/2
    ]
    found = region_metrics(detections, truth, frames=4)
    # Points (false a frame, share): (0, 0) (0, 1/3) (1/4, 1/3) (1/2, 1/3) (1/2, 2/3), then flat.
    assert found.rbdc == pytest.approx(1 / 2 * 1 / 3 + 1 / 2 * 2 / 3)
    # Tracks: (0, 1/2) to (1/2, 1/2), then (1/2, 1).
    assert found.tbdc == pytest.approx(1 / 2 * 1 / 2 + 1 / 2 * 1)
    assert (found.regions, found.tracks) == (3, 2)


def test_a_track_is_found_from_a_tenth_of_its_regions_on() -> None:
    truth = [TrueRegion(frame=i, area=HERE, track="a") for i in range(20)]
    one = [Detection(frame=0, area=HERE, score=1.0)]
    two = [*one, Detection(frame=1, area=HERE, score=0.5)]
    assert region_metrics(one, truth, 20).tbdc == 0
    assert region_metrics(two, truth, 20).tbdc == 1
    assert region_metrics(two, truth, 20).rbdc == pytest.approx(0.1)


def test_overlap_counts_from_a_tenth_on() -> None:
    truth = [TrueRegion(frame=0, area=HERE, track="a")]
    exact, less = box(0, 0, 10, 1), box(0, 0, 10, 0.9)
    assert region_metrics([Detection(frame=0, area=exact, score=1)], truth, 1).rbdc == 1
    assert region_metrics([Detection(frame=0, area=less, score=1)], truth, 1).rbdc == 0


def test_the_area_ends_at_one_false_positive_a_frame() -> None:
    truth = [TrueRegion(frame=0, area=HERE, track="a")]
    # Three false positives in two frames, then the region at a rate of 1.5: between (1.5, 0) and
    # (1.5, 1) nothing lies inside.
    false = [Detection(frame=1, area=HERE, score=s) for s in (0.9, 0.8, 0.7)]
    late = [*false, Detection(frame=0, area=HERE, score=0.1)]
    assert region_metrics(late, truth, 2).rbdc == 0
    # Found at the same score as the second: the line from (1/2, 0) to (1, 1) counts.
    tied = [*false, Detection(frame=0, area=HERE, score=0.8)]
    assert region_metrics(tied, truth, 2).rbdc == pytest.approx(1 / 2 * 1 / 2)


def test_a_detection_may_find_two_regions_and_two_may_find_one() -> None:
    wide = box(0, 0, 20, 10)
    truth = [
        TrueRegion(frame=0, area=HERE, track="a"),
        TrueRegion(frame=0, area=box(10, 0, 20, 10), track="b"),
    ]
    twice = [Detection(frame=0, area=wide, score=1), Detection(frame=0, area=HERE, score=0.5)]
    assert region_metrics(twice, truth, 1).rbdc == 1
    assert region_metrics([], truth, 1).rbdc == 0
    with pytest.raises(ValueError, match="true regions"):
        region_metrics(twice, [], 1)


# -- files -------------------------------------------------------------------------------------


def test_components_of_masks_become_tracks() -> None:
    masks = [np.zeros((40, 60), bool) for _ in range(4)]
    masks[0][5:15, 5:15] = True
    masks[1][5:15, 8:18] = True  # goes on
    masks[1][30:35, 40:50] = True  # a second one
    masks[3][5:15, 8:18] = True  # after a gap: another track
    regions = true_regions(masks, "v")
    assert [(r.frame, r.track) for r in regions] == [
        (("v", 0), ("v", 0)),
        (("v", 1), ("v", 0)),
        (("v", 1), ("v", 1)),
        (("v", 3), ("v", 2)),
    ]
    assert regions[2].area.tolist() == [40, 30, 50, 35]


def test_two_components_never_share_a_track_in_one_frame() -> None:
    masks = [np.zeros((20, 40), bool) for _ in range(2)]
    masks[0][5:15, 5:30] = True
    masks[1][5:15, 5:20] = True  # the larger half keeps the track
    masks[1][5:15, 24:30] = True
    assert [r.track for r in true_regions(masks, "v")] == [("v", 0), ("v", 0), ("v", 1)]


def test_masks_and_regions_are_read_and_refused_in_one_line(tmp_path: Path) -> None:
    import cv2

    folder = tmp_path / "masks" / "clip"
    folder.mkdir(parents=True)
    for name, value in (("2.png", 255), ("10.png", 0), ("1.png", 0)):
        cv2.imwrite(str(folder / name), np.full((4, 6), value, np.uint8))
    assert [m.any() for m in masks_of(tmp_path / "masks", "clip.mp4")] == [False, True, False]
    with pytest.raises(InputError) as caught:
        masks_of(tmp_path / "masks", "other.mp4")
    assert_one_line(caught.value, "other.mp4")
    lines = tmp_path / "regions.jsonl"
    lines.write_text('{"frame": 3, "box": [1, 2, 3, 4], "score": 0.5}\n')
    (region,) = read_regions(lines, "clip.mp4")
    assert (region.frame, region.score) == (("clip.mp4", 3), 0.5)
    lines.write_text('{"frame": 3, "box": [1, 2, 3], "score": 0.5}\n')
    with pytest.raises(InputError) as caught:
        read_regions(lines, "clip.mp4")
    assert_one_line(caught.value, "line 1")
    lines.write_text('{"frame": 3, "box": [3, 4, 1, 2], "score": 0.5}\n')
    with pytest.raises(InputError) as caught:
        read_regions(lines, "clip.mp4")
    assert_one_line(caught.value, "line 1", "left, top, right, bottom")
    with pytest.raises(InputError) as caught:
        read_regions(tmp_path / "none.jsonl", "clip.mp4")
    assert_one_line(caught.value, "reports regions")


@pytest.mark.data
def test_ped2_masks_mark_regions_exactly_where_frames_are_labelled(data: Path) -> None:
    masks = masks_of(data / "ped2" / "testing" / "masks", "01")
    regions = true_regions(masks, "01")
    assert len(masks) == 180
    assert {frame for _, frame in (r.frame for r in regions)} == set(range(60, 180))  # type: ignore[misc]
    found = region_metrics(
        [Detection(frame=r.frame, area=r.area, score=1.0) for r in regions], regions, 180
    )
    assert (found.rbdc, found.tbdc) == (1.0, 1.0)
