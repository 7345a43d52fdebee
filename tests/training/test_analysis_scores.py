"""The numbers of the analyses, by hand and against the real tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vad_training.analysis.boxes import groups_by_class, groups_by_split
from vad_training.analysis.criteria import (
    auc_of,
    criteria_of,
    default_threshold,
    shares_at,
    threshold_grid,
)
from vad_training.analysis.distances import hyperspheres_of, median_distances
from vad_training.analysis.projection import cannot_project, chosen_rows, tsne_of
from vad_training.analysis.reference import cannot_compare, compare, reference_class
from vad_training.analysis.table import ClipTable, Space, read_clip_table, space_from_points


def table_of(*rows: tuple[str, str, float]) -> ClipTable:
    """Return a table of (class, split, error)."""
    classes, splits, errors = zip(*rows, strict=True)
    return ClipTable(
        videos=("",) * len(rows),
        first_frames=np.full(len(rows), -1),
        classes=np.array(classes),
        splits=np.array(splits),
        errors=np.array(errors, np.float64),
    )


# -- thresholds --------------------------------------------------------------------------------


def test_a_score_at_the_threshold_is_an_anomaly() -> None:
    scores = np.array([1.0, 2.0, 2.0, 3.0])
    shares = shares_at(scores, np.array(["val", "test", "anomaly", "anomaly"]), 2.0)
    assert (shares["val"].right, shares["val"].total) == (1, 1)
    assert (shares["test"].right, shares["test"].total) == (0, 1)
    assert (shares["anomaly"].right, shares["anomaly"].total) == (2, 2)
    assert np.isnan(shares["train"].fraction)


def test_the_default_threshold_comes_from_validation_clips_alone() -> None:
    table = table_of(
        *(("a", "val", float(e)) for e in range(101)),
        ("a", "train", 1000.0),
        ("a", "test", 2000.0),
        ("b", "anomaly", 3000.0),
    )
    found = default_threshold(table.errors, table.splits)
    assert found is not None
    assert found.value == pytest.approx(99)  # the .99 quantile of 0..100
    assert found.source == "quantile 0.99 of 101 validation scores"


def test_test_clips_and_anomalies_move_no_threshold() -> None:
    rows = [("a", "train", 1.0), ("a", "train", 5.0), ("a", "test", 2.0), ("b", "anomaly", 9.0)]
    calm = table_of(*rows)
    wild = table_of(*rows[:2], ("a", "test", 1e6), ("b", "anomaly", -1e6))
    assert default_threshold(calm.errors, calm.splits) == default_threshold(
        wild.errors, wild.splits
    )
    assert threshold_grid(calm.errors, calm.splits) == threshold_grid(wild.errors, wild.splits)
    values = [threshold.value for threshold in threshold_grid(calm.errors, calm.splits)]
    assert values == sorted(values)
    assert (values[0], values[-1]) == (1.0, 5.0)


def test_without_normal_clips_there_is_no_default_threshold() -> None:
    table = table_of(("a", "test", 1.0), ("b", "anomaly", 2.0))
    assert default_threshold(table.errors, table.splits) is None
    assert threshold_grid(table.errors, table.splits) == []


def test_the_distance_criterion_asks_for_every_centroid() -> None:
    plain = table_of(("a", "train", 1.0), ("b", "anomaly", 1.0))
    to = np.array([[1.0, 7.0], [6.0, 5.0]])
    own = np.array([1.0, np.nan])
    table = replace(plain, spaces={"latent": Space(own=own, centroids=("a", "c"), to_centroids=to)})
    error, latent = criteria_of(table)
    assert (error.key, latent.key) == ("error", "latent")
    for t in (0.5, 1.0, 4.9, 5.0, 5.1, 7.0):
        np.testing.assert_array_equal(latent.scores >= t, (to >= t).all(axis=1))
    only_own = replace(plain, spaces={"latent": Space(own=own)})
    assert [criterion.key for criterion in criteria_of(only_own)] == ["error"]


def test_ties_count_half_in_the_auc() -> None:
    assert auc_of(np.array([1.0, 2.0]), np.array([2.0, 3.0])) == pytest.approx(3.5 / 4)


# -- boxes and distances -----------------------------------------------------------------------


def test_groups_leave_out_what_is_not_known() -> None:
    table = table_of(
        ("a", "train", 1.0), ("a", "train", 3.0), ("a", "val", 5.0), ("b", "test", 7.0)
    )
    values = np.array([1.0, 3.0, 5.0, np.nan])
    assert [(g.split, g.values.tolist()) for g in groups_by_split(table, values)] == [
        ("train", [1, 3]),
        ("val", [5]),
    ]
    assert [(g.name, g.split) for g in groups_by_class(table, table.errors)] == [
        ("a", "train"),
        ("a", "val"),
        ("b", "test"),
    ]
    low, q1, median, q3, high, mean = groups_by_split(table, values)[0].statistics()
    assert (low, q1, median, q3, high, mean) == (1, 1.5, 2, 2.5, 3, 2)


def test_hyperspheres_and_medians_by_hand() -> None:
    # On a line: a at -1 and 1 (centroid 0), a test clip of a at 4, b at 3 and 5 (centroid 4),
    # an anomaly at 1.
    plain = table_of(
        ("a", "train", 1),
        ("a", "train", 1),
        ("a", "test", 1),
        ("b", "train", 1),
        ("b", "train", 1),
        ("x", "anomaly", 1),
    )
    points = np.array([[-1.0], [1.0], [4.0], [3.0], [5.0], [1.0]])
    space = space_from_points(points, plain.classes, plain.splits)
    a, b = hyperspheres_of(plain, space)
    assert (a.name, a.farthest_own, a.nearest_foreign) == ("a", 1, 1)  # the anomaly
    assert (a.own_inside_farthest, a.own, a.foreign_inside_farthest, a.foreign) == (2, 3, 1, 3)
    assert a.own_inside_nearest == 0  # 1 is not nearer than 1
    assert (b.name, b.farthest_own, b.nearest_foreign) == ("b", 1, 0)  # the test clip of a
    assert (b.own_inside_farthest, b.own, b.foreign_inside_farthest, b.foreign) == (2, 2, 1, 4)
    np.testing.assert_allclose(median_distances(plain, space), [[1, 3], [4, 1], [1, 3]])


def test_a_class_without_others_has_no_hyperspheres() -> None:
    plain = table_of(("a", "train", 1), ("a", "val", 1))
    space = space_from_points(np.array([[0.0], [1.0]]), plain.classes, plain.splits)
    assert hyperspheres_of(plain, space) == []


# -- projections -------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "dimensions"), [(4, 1), (4, 3), (20, 2)])
def test_tsne_takes_few_points_and_its_seed_decides(count: int, dimensions: int) -> None:
    points = np.random.default_rng(0).normal(size=(count, dimensions))
    plane = tsne_of(points, 1)
    assert plane.shape == (count, 2)
    assert np.isfinite(plane).all()
    np.testing.assert_array_equal(plane, tsne_of(points, 1))


def test_tsne_keeps_groups_apart() -> None:
    points = np.random.default_rng(0).normal(size=(30, 8))
    points[15:] += 50
    plane = tsne_of(points, 0)
    inner = np.linalg.norm(plane[:15] - plane[:15].mean(axis=0), axis=1).max()
    between = np.linalg.norm(plane[:15].mean(axis=0) - plane[15:].mean(axis=0))
    assert between > inner


def test_points_that_no_projection_can_take_are_named() -> None:
    assert "only 3 clips" in str(cannot_project(np.zeros((3, 5))))
    assert "same point" in str(cannot_project(np.ones((9, 5))))
    assert cannot_project(np.arange(8.0).reshape(4, 2)) is None


def test_too_many_points_are_chosen_by_a_seeded_lot() -> None:
    assert chosen_rows(5, 5, 0).tolist() == [0, 1, 2, 3, 4]
    few = chosen_rows(1000, 10, 3)
    assert len(set(few.tolist())) == 10
    assert few.tolist() == sorted(few.tolist()) == chosen_rows(1000, 10, 3).tolist()
    assert few.tolist() != chosen_rows(1000, 10, 4).tolist()


# -- the class of interest ---------------------------------------------------------------------


def test_the_competitor_is_the_other_class_with_the_smallest_median() -> None:
    table = table_of(
        ("me", "train", 100.0),  # trained on, so it does not count
        ("me", "test", 1.0),
        ("me", "test", 3.0),
        ("near", "anomaly", 2.0),
        ("near", "anomaly", 4.0),
        ("near", "anomaly", 90.0),  # median 4, mean 32
        ("far", "anomaly", 5.0),
        ("far", "anomaly", 6.0),
    )
    found = compare(table, "me", 3.0)
    assert found.competitor == "near"
    assert found.confusion.tolist() == [[1, 1], [1, 2]]
    assert found.accuracy == pytest.approx(3 / 5)
    assert found.report() == [
        ("me", 0.5, 0.5, 0.5, 2),
        ("near", pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3), 3),
    ]
    # 1 is below all five others, 3 below four of them.
    assert found.one_vs_rest_auc == pytest.approx(9 / 10)
    assert [(o.name, o.clips, o.median_error) for o in found.others] == [
        ("near", 3, 4),
        ("far", 2, 5.5),
    ]


def test_a_class_that_nothing_is_taken_for_has_precision_zero() -> None:
    table = table_of(("me", "test", 5.0), ("you", "anomaly", 6.0))
    assert compare(table, "me", 1.0).report()[0] == ("me", 0.0, 0.0, 0.0, 1)


def test_the_only_learnt_class_is_the_class_of_interest() -> None:
    one = table_of(("me", "train", 1.0), ("you", "anomaly", 6.0))
    assert reference_class(one, None) == "me"
    assert reference_class(one, "you") == "you"
    assert "me has no clips in the splits test" in str(cannot_compare(one, "me"))
    assert "no class but you" in str(cannot_compare(one, "you"))
    two = table_of(("me", "train", 1.0), ("you", "train", 6.0))
    assert reference_class(two, None) is None


# -- real tables -------------------------------------------------------------------------------


@pytest.mark.data
def test_the_published_threshold_decides_ucf_sports_as_published(data: Path) -> None:
    table = read_clip_table(data / "golden" / "ucf_sports_errors.csv")
    shares = shares_at(table.errors, table.splits, 601.0435)
    assert {s: (share.right, share.total) for s, share in shares.items()} == {
        "train": (1395, 1396),
        "val": (70, 70),
        "test": (33, 38),
        "anomaly": (36, 40),
    }
    assert round(shares["train"].fraction, 4) == 0.9993
    auc = auc_of(table.errors[table.rows("test")], table.errors[table.rows("anomaly")])
    assert round(auc, 4) == 0.8961


@pytest.mark.data
def test_screw_and_its_competitor_are_told_apart_as_published(data: Path) -> None:
    table = read_clip_table(data / "golden" / "screw_errors.csv")
    found = compare(table, "screw", 0.951317)
    assert found.competitor == "unscrew"
    assert found.confusion.tolist() == [[20, 0], [3, 17]]
    assert found.accuracy == 0.925
    assert round(found.one_vs_rest_auc, 4) == 0.9969
