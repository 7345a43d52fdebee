"""The folder of an analysis: whole, readable in a browser, and honest about gaps."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import assert_one_line

import vad_training.analysis.report as module
from vad_runtime.contracts import InputError
from vad_training.analysis.analyses import ANALYSES, sections_of
from vad_training.analysis.figures import class_colours, log_axis, new_figure, shown
from vad_training.analysis.options import Options
from vad_training.analysis.report import write_report
from vad_training.analysis.section import Section, Sheet
from vad_training.analysis.table import SPLITS, ClipTable, read_clip_table, space_from_points
from vad_training.cli import cli

STRANGE = "<b>$a_1$</b> & 北京 " + "long " * 12


def clips(*, splits: tuple[str, ...] = SPLITS, per: int = 4, classes: int = 2) -> ClipTable:
    """Return a table with all that a run gives, of a few clips."""
    rng = np.random.default_rng(0)
    learnt = [STRANGE, *(f"class {i}" for i in range(1, classes))]
    rows = [(c, s) for s in splits for c in (["strange"] if s == "anomaly" else learnt)] * per
    names, where = np.array([c for c, _ in rows]), np.array([s for _, s in rows])
    points = rng.normal(size=(len(rows), 6)) + 4.0 * np.array([[len(c) % 7] for c in names])
    errors = rng.lognormal(size=len(rows)) * np.where(where == "anomaly", 9, 1)
    return ClipTable(
        videos=tuple(f"{i}.mp4" for i in range(len(rows))),
        first_frames=np.arange(len(rows)),
        classes=names,
        splits=where,
        errors=errors,
        spaces={
            "embedding": space_from_points(points, names, where),
            "latent": space_from_points(np.maximum(points[:, :2], 0), names, where),
        },
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole report. Do not change."""
    table = clips()
    options = Options(thresholds={"error": 3.0, "latent": 1.5}, reference=STRANGE)
    folder = tmp_path_factory.mktemp("analysis") / "out"
    write_report(folder, "run <1>", table, sections_of(table, options))
    return folder


def all_gaps(table: ClipTable, options: Options | None = None) -> str:
    return " ".join(reason for part in sections_of(table, options) for reason in part.left_out)


# -- the page ----------------------------------------------------------------------------------


def test_every_file_is_linked_and_every_link_leads_to_a_file(report: Path) -> None:
    page = (report / "index.html").read_text(encoding="utf-8")
    linked = set(re.findall(r'(?:src|href)="([^#"][^"]*)"', page))
    assert linked == {file.name for file in report.iterdir()} - {"index.html"}
    assert {
        "error_by_split.png",
        "error_by_class.png",
        "thresholds_error.png",
        "thresholds_latent.png",
        "thresholds_embedding.png",
        "roc.png",
        "confusion.png",
        "embedding_distance_by_class.png",
        "embedding_distance_to_nearest.png",
        "latent_distance_to_centroids.png",
        "embedding_hyperspheres.png",
        "tsne_embedding.png",
        "tsne_latent.png",
    } <= linked
    assert oct(report.stat().st_mode & 0o777) == "0o755"


def test_classes_that_were_not_learnt_have_a_box_of_distances_too(report: Path) -> None:
    def classes(name: str) -> set[str]:
        with (report / name).open(newline="", encoding="utf-8") as stream:
            return {row["class"] for row in csv.DictReader(stream)}

    assert "strange" not in classes("latent_distance_by_class.csv")  # it has no own centroid
    assert "strange" in classes("latent_distance_to_nearest.csv")


def test_names_cannot_break_the_page(report: Path) -> None:
    page = (report / "index.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "run &lt;1&gt;" in page
    assert "&lt;b&gt;$a_1$&lt;/b&gt; &amp; 北京" in page


def test_pictures_are_pngs_of_a_size_that_one_can_read(report: Path) -> None:
    for file in report.glob("*.png"):
        content = file.read_bytes()
        assert content.startswith(b"\x89PNG")
        width, height = (int.from_bytes(content[i : i + 4]) for i in (16, 20))
        assert 300 < width < 2500
        assert 150 < height < 2500


def test_the_summary_holds_the_main_numbers(report: Path) -> None:
    summary = json.loads((report / "summary.json").read_text(encoding="utf-8"))
    assert summary["clips"] == {"train": 8, "val": 8, "test": 8, "anomaly": 4}
    default, asked = summary["thresholds"]["error"]
    assert default["source"] == "quantile 0.99 of 8 validation scores"
    assert (asked["threshold"], asked["source"]) == (3.0, "as asked for")
    assert len(summary["thresholds"]["embedding"]) == 1
    assert set(summary["auc_test_against_anomaly"]) == {"error", "embedding", "latent"}
    assert summary["reference"]["class"] == STRANGE
    assert summary["reference"]["threshold"] == 3.0  # the one that was asked for


def test_the_clips_of_a_report_can_be_analysed_again(report: Path) -> None:
    again = read_clip_table(report / "clips.csv")
    np.testing.assert_array_equal(again.errors, clips().errors)
    assert again.spaces["embedding"].to_centroids is not None


def test_long_tables_are_linked_but_not_shown(tmp_path: Path) -> None:
    sheet = Sheet(name="long", columns=("n",), rows=[(f"row{i}",) for i in range(41)])
    short = Sheet(name="short", columns=("n",), rows=[("here", None, float("nan"))])
    section = Section(title="t", text="x", sheets=[sheet, short])
    page = write_report(tmp_path / "out", "x", clips(), [section]).read_text(encoding="utf-8")
    assert "row7" not in page
    assert "<td>here</td><td></td>" in page
    assert (tmp_path / "out" / "long.csv").read_text().splitlines()[8] == "row7"


# -- small samples and missing splits ----------------------------------------------------------


@pytest.mark.parametrize(
    ("splits", "reasons"),
    [
        (
            ("train", "val", "test"),
            [
                "AUC: left out, there are no clips in the split anomaly.",
                "the training split has 2 classes; name one with --reference",
            ],
        ),
        (("train", "val", "anomaly"), ["AUC: left out, there are no clips in the split test."]),
        (
            ("test", "anomaly"),
            [
                "Default threshold: left out",
                "Hyperspheres in the latent space: left out",
                "Criterion on the latent distance: left out",
            ],
        ),
    ],
)
def test_what_the_data_does_not_allow_is_left_out_with_a_reason(
    splits: tuple[str, ...], reasons: list[str]
) -> None:
    gaps = all_gaps(clips(splits=splits, per=1))
    for reason in reasons:
        assert reason in gaps


def test_a_csv_without_distances_says_what_is_missing() -> None:
    gaps = all_gaps(replace(clips(per=1), spaces={}))
    assert "Distances in the embedding space: left out" in gaps
    assert "Projections of the latents: left out, a CSV holds no coordinates" in gaps


def test_a_csv_without_the_distance_to_the_own_centroid_says_so() -> None:
    space = clips(per=1).spaces["latent"]
    without = replace(space, own=np.nan * space.own)
    assert "own centroid, latent" in all_gaps(replace(clips(per=1), spaces={"latent": without}))
    assert "own centroid" not in all_gaps(clips(per=1))


def test_umap_is_left_out_aloud_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import vad_training.analysis.space_sections as sections

    monkeypatch.setattr(sections, "umap_available", lambda: False)
    assert "pip install umap-learn" in all_gaps(clips(per=1))
    monkeypatch.setattr(sections, "umap_available", lambda: True)
    monkeypatch.setattr(sections, "umap_of", lambda points, seed: points[:, :2])
    parts = sections_of(clips(per=1))
    assert "umap_embedding" in [picture.name for part in parts for picture in part.pictures]


@pytest.mark.parametrize(
    "table",
    [
        clips(per=1),
        clips(splits=("train",), per=1, classes=1),
        replace(clips(per=1), errors=np.zeros(7)),
    ],
    ids=["one clip a class and split", "one clip", "errors of zero"],
)
def test_the_smallest_tables_give_a_report(table: ClipTable, tmp_path: Path) -> None:
    sections = sections_of(table)
    write_report(tmp_path / "out", "small", table, sections)
    assert len(sections) == len(ANALYSES)
    assert (tmp_path / "out" / "error_by_class.png").is_file()


def test_a_class_or_threshold_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="no class 'nobody'") as refused:
        sections_of(clips(per=1), Options(reference="nobody"))
    assert_one_line(refused.value)
    bare = replace(clips(per=1), spaces={})
    with pytest.raises(InputError, match="latent distance needs") as refused:
        sections_of(bare, Options(thresholds={"latent": 1.0}))
    assert_one_line(refused.value)


# -- pictures ----------------------------------------------------------------------------------


def test_every_class_has_a_colour_of_its_own() -> None:
    for count in (1, 10, 13, 20, 60):
        assert len(set(class_colours([str(i) for i in range(count)]).values())) == count


def test_names_are_cut_in_their_middle_and_foreign_letters_replaced() -> None:
    assert shown("two\nlines") == "two lines"
    assert shown("北 ok") == "? ok"
    assert shown("a" * 20 + "b" * 20, 11) == "aaaa...bbbb"


@pytest.mark.parametrize("limits", [(60, 800), (0.9, 1.1), (1e-9, 1e9), (0.3, 250), (3.6, 3.6)])
def test_a_logarithmic_axis_has_few_plain_labels(limits: tuple[float, float]) -> None:
    axes = new_figure(4, 2).add_subplot()
    axes.plot(limits, (0, 1))
    log_axis(axes)
    low, high = axes.get_xlim()
    inside = [t for t in axes.get_xticks() if low <= t <= high]
    assert 2 <= len(inside) <= 11
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert not any("mathdefault" in label or "$" in label for label in labels)
    assert not any(text.get_text() for text in axes.get_xticklabels(minor=True))


# -- the folder --------------------------------------------------------------------------------


def plain_section() -> list[Section]:
    return [Section(title="nothing", text="here")]


def test_an_analysis_is_replaced_only_when_asked(tmp_path: Path) -> None:
    out, table = tmp_path / "out", clips(per=1)
    out.mkdir()  # an empty folder is free
    write_report(out, "first", table, plain_section())
    (out / "old.png").touch()
    with pytest.raises(InputError, match="--overwrite") as refused:
        write_report(out, "second", table, plain_section())
    assert_one_line(refused.value)
    write_report(out, "second", table, plain_section(), overwrite=True)
    assert "second" in (out / "index.html").read_text(encoding="utf-8")
    assert not (out / "old.png").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="no analysis") as refused:
        write_report(tmp_path, "x", clips(per=1), plain_section(), overwrite=True)
    assert_one_line(refused.value)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_analysis_that_fails_leaves_the_old_one_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, table = tmp_path / "out", clips(per=1)
    write_report(out, "first", table, plain_section())

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "flush_to_disk", full)
    with pytest.raises(InputError, match="No space left") as refused:
        write_report(out, "second", table, plain_section(), overwrite=True)
    assert_one_line(refused.value)
    assert "first" in (out / "index.html").read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


# -- the command -------------------------------------------------------------------------------


def test_the_command_analyses_a_csv(tmp_path: Path) -> None:
    source = tmp_path / "errors.csv"
    rows = [f"walk,train,{1 + i / 10}" for i in range(5)] + ["walk,test,1.2", "run,anomaly,9"]
    source.write_text("class,split,error\n" + "\n".join(rows) + "\n")
    out = tmp_path / "out"
    asked = ["analyse", str(source), "-o", str(out), "--threshold", "2"]
    done = CliRunner().invoke(cli, asked)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{out / 'index.html'}: 7 clips")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["reference"]["confusion"] == [[1, 0], [0, 1]]
    again = CliRunner().invoke(cli, asked)
    assert isinstance(again.exception, InputError)
    assert CliRunner().invoke(cli, [*asked, "--overwrite"]).exit_code == 0


def test_a_run_that_is_called_by_a_dot_has_its_name_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my run").mkdir()
    monkeypatch.chdir(tmp_path / "my run")
    monkeypatch.setattr("vad_training.commands.analyse._table_of", lambda *_: clips())
    monkeypatch.setattr("vad_training.analysis.analyses.ANALYSES", ())
    CliRunner().invoke(cli, ["analyse", ".", "-o", "../out"], catch_exceptions=False)
    assert "<h1>Analysis of my run</h1>" in (tmp_path / "out" / "index.html").read_text()


def test_a_cache_does_not_go_with_a_csv(tmp_path: Path) -> None:
    asked = ["analyse", "x.csv", "-o", str(tmp_path / "out"), "--cache", str(tmp_path)]
    refused = CliRunner().invoke(cli, asked).exception
    assert isinstance(refused, InputError)
    assert_one_line(refused)


def test_the_help_needs_no_heavy_library() -> None:
    code = (
        "import sys; import vad_training.commands.analyse as m\n"
        "assert not {'torch', 'sklearn', 'matplotlib'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
