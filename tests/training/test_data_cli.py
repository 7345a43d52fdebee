"""The commands of `vad-train data`, one after another as a user types them."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers import moving_blob, write_video

from vad_runtime.contracts import InputError
from vad_training.commands.data import data
from vad_training.data.table import read_table


def run(*args: object) -> Result:
    return CliRunner().invoke(data, [str(arg) for arg in args], catch_exceptions=False)


def footage(folder: Path) -> Path:
    for number, (label, count) in enumerate({"walk": 4, "stroll": 2, "fall": 2}.items()):
        (folder / label).mkdir(parents=True)
        for i in range(count):
            images = moving_blob(34, height=32, width=48, seed=10 * number + i)
            write_video(folder / label / f"v{i}.avi", images, codec="mpeg4")
    return folder


def test_from_a_folder_of_videos_to_a_described_data_set(tmp_path: Path) -> None:
    raw, films = footage(tmp_path / "raw"), tmp_path / "films"
    (raw / "walk" / "broken.avi").write_bytes(b"broken")
    out = run("convert", raw, "-o", films)
    assert "8 converted, 0 there already, 1 not convertible" in out.output
    assert "broken.avi" in out.stderr
    assert "8 there already" in run("convert", raw, "-o", films).output
    table = tmp_path / "all.csv"
    out = run("csv", films, "-o", table, "--group", "walking=walk,stroll", "--min-seconds", "1")
    assert "walking: 6" in out.output
    (films / "walk" / "double.mp4").write_bytes((films / "walk" / "v0.mp4").read_bytes())
    out = run("csv", films, "-o", table, "--group", "walking=walk,stroll")
    clean = tmp_path / "clean.csv"
    out = run("check", table, "-o", clean)
    assert out.exit_code == 0
    assert "duplicate: " in out.output
    assert "9 videos, 8 without a problem" in out.output
    assert run("check", table, "--strict").exit_code == 1
    assert run("check", clean, "--strict").exit_code == 0
    split = tmp_path / "split.csv"
    out = run("split", clean, "-o", split, "--normal", "walking", "--fractions", ".5,.25,.25")
    assert "fall: 2 anomaly" in out.output
    more = tmp_path / "more"
    out = run("augment", split, "-o", more, "--copies", "1", "--ops", "rotation", "--seed", "2")
    train = sum(entry.split == "train" for entry in read_table(split))
    assert f"walking: {train} copies" in out.output
    entries = read_table(more / "dataset.csv")
    assert len(entries) == 8 + train
    assert all(entry.path.is_file() for entry in entries)
    out = run("stats", more / "dataset.csv", "-o", tmp_path / "stats")
    assert f"{8 + train} videos" in out.output
    assert (tmp_path / "stats" / "durations.png").is_file()
    out = run("square", films, "-o", tmp_path / "square", "--side", "16", "--offset", "-1,0")
    assert "9 square videos" in out.output


def test_import_tells_what_it_found(tmp_path: Path) -> None:
    footage(tmp_path / "raw")
    out = run("import", "classes", tmp_path / "raw", "-o", tmp_path / "out")
    assert "fall: 2" in out.output
    assert not (tmp_path / "out" / "labels.json").exists()
    assert len(read_table(tmp_path / "out" / "dataset.csv")) == 8


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["split", "T", "-o", "x", "--fractions", ".5,.5"], "--fractions"),
        (["square", "F", "-o", "x", "--offset", "left"], "--offset"),
        (["augment", "T", "-o", "x", "--copies-of", "walk"], "CLASS=N"),
        (["csv", "F", "-o", "x", "--min-seconds", "99"], "99"),
        (["check", "T", "--frames", "900", "-o", "x"], "no video"),
        (["convert", "B", "-o", "x"], "no video"),
    ],
)
def test_wrong_options_end_in_one_line(tmp_path: Path, args: list[str], part: str) -> None:
    folder = footage(tmp_path / "raw")
    run("csv", folder, "-o", tmp_path / "t.csv")
    broken = tmp_path / "broken.avi"
    broken.write_bytes(b"no video" * 100)
    names = {"T": tmp_path / "t.csv", "F": folder, "B": broken, "x": tmp_path / "x"}
    with pytest.raises(InputError) as error:
        run(*(names.get(arg, arg) for arg in args))
    assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x").is_file()
    assert not any((tmp_path / "x").glob("*"))


@pytest.mark.parametrize(
    "command", ["import", "convert", "square", "csv", "split", "augment", "stats", "check"]
)
def test_every_command_explains_itself(command: str) -> None:
    out = run(command, "--help")
    assert out.exit_code == 0
    assert len(out.output) > 300
