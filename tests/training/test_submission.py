"""Submission files: a line for every frame of every video."""

import csv
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import assert_one_line

from vad_runtime.backends import open_backend
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import InputError
from vad_runtime.runs import RunOptions, run_source
from vad_runtime.sinks.rows import read_rows
from vad_training.cli import cli
from vad_training.submission import write_submission


@pytest.fixture(scope="module")
def results(
    tiny_bundle: Bundle,
    tiny_video: Path,
    frame_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Scores of a video and of a folder of frames. Do not change."""
    folder = tmp_path_factory.mktemp("results")
    choice = open_backend(tiny_bundle)
    options = RunOptions(live=False, offline=True, overlay=False, plot=False)
    for source in (tiny_video, frame_folder):
        run_source(tiny_bundle, choice, source, folder / source.name, options)
    choice.backend.close()
    return folder


def lines_of(file: Path) -> list[list[str]]:
    with file.open(newline="") as stream:
        return list(csv.reader(stream))


def test_every_frame_of_every_video_has_a_line(
    results: Path, frame_folder: Path, tmp_path: Path
) -> None:
    assert write_submission(results, tmp_path / "s.csv") == 60 + 12
    head, *lines = lines_of(tmp_path / "s.csv")
    assert head == ["Id", "Predicted"]
    wanted = {f"tiny_{i}" for i in range(60)} | {f"{frame_folder.name}_{i}" for i in range(12)}
    assert {name for name, _ in lines} == wanted
    assert len(lines) == len(wanted)


@pytest.mark.parametrize(("column", "field"), [("offline", "offline"), ("causal", "score")])
def test_the_scores_are_those_of_the_column(
    results: Path, tmp_path: Path, column: str, field: str
) -> None:
    write_submission(results, tmp_path / "s.csv", column=column)  # type: ignore[arg-type]
    written = {name: float(score) for name, score in lines_of(tmp_path / "s.csv")[1:]}
    rows = read_rows(results / "tiny.mp4" / "scores.csv")
    for row in rows:
        if getattr(row, field) is not None:
            assert written[f"tiny_{row.frame}"] == pytest.approx(getattr(row, field), rel=1e-5)


def test_frames_may_be_counted_from_one_and_columns_named(results: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli,
        [
            *("submission", str(results), "-o", str(tmp_path / "s.csv")),
            *("--first-frame", "1", "--columns", "frame, anomaly"),
        ],
        catch_exceptions=False,
    )
    assert done.exit_code == 0
    lines = lines_of(tmp_path / "s.csv")
    assert lines[0] == ["frame", "anomaly"]
    names = {name for name, _ in lines[1:]}
    assert "tiny_60" in names
    assert "tiny_0" not in names


def test_two_videos_of_one_name_are_refused_and_nothing_is_written(
    results: Path, tmp_path: Path
) -> None:
    import shutil

    for name in ("a", "b"):
        shutil.copytree(results / "tiny.mp4", tmp_path / "both" / name)
    with pytest.raises(InputError) as caught:
        write_submission(tmp_path / "both", tmp_path / "s.csv")
    assert_one_line(caught.value, "'tiny'")
    assert [p.name for p in tmp_path.iterdir()] == ["both"]


def test_a_folder_without_results_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        write_submission(tmp_path, tmp_path / "s.csv")
    assert_one_line(caught.value, "report.json", "vad-run score")
