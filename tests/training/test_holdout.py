"""What a normaliser or a threshold may be chosen from."""

from pathlib import Path

import pytest
from helpers import assert_one_line

from vad_runtime.contracts import InputError
from vad_training.data.holdout import normal_footage
from vad_training.data.table import Entry, write_table


def table(folder: Path, *entries: tuple[str, str, str | None]) -> Path:
    """Write a table of name, split and original."""
    write_table(
        folder / "set.csv",
        [
            Entry(
                path=folder / name,
                label="walking",
                split=split,  # type: ignore[arg-type]
                original=folder / original if original else None,
            )
            for name, split, original in entries
        ],
    )
    return folder / "set.csv"


def test_of_a_table_the_validation_originals_are_taken(tmp_path: Path) -> None:
    file = table(
        tmp_path,
        ("a.mp4", "train", None),
        ("b.mp4", "val", None),
        ("b_aug1.mp4", "val", "b.mp4"),
        ("c.mp4", "test", None),
        ("d.mp4", "anomaly", None),
    )
    assert normal_footage([file]) == [tmp_path / "b.mp4"]


def test_tables_and_footage_go_together(tmp_path: Path, tiny_video: Path) -> None:
    file = table(tmp_path, ("b.mp4", "val", None))
    assert normal_footage([file, tiny_video]) == [tmp_path / "b.mp4", tiny_video]


def test_a_table_without_validation_videos_is_refused(tmp_path: Path) -> None:
    file = table(tmp_path, ("a.mp4", "train", None))
    with pytest.raises(InputError) as error:
        normal_footage([file])
    assert_one_line(error.value, "set.csv", "val", "vad-train data split")
