"""`vad-train evaluate` and `vad-train threshold` on bundles, runs and results."""

import csv
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import artefact, clip_spec, motion_model, moving_blob, write_video

from vad_runtime.bundle import Bundle, add_artefacts
from vad_runtime.sinks.rows import Row, RowWriter
from vad_training.cli import main

Result = tuple[int, str, str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()

    def command(*words: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["vad-train", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    yield command
    signal.signal(signal.SIGTERM, before)
    torch.set_num_threads(threads)


def refused(result: Result, *parts: str) -> None:
    code, _, err = result
    assert code == 1, err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err, f"{part!r} is not in: {err}"


def write_labels(file: Path, videos: dict[str, tuple[int, list[tuple[int, int]]]]) -> Path:
    content = {
        name: {"frames": n, "anomalies": [{"first": a, "last": b} for a, b in marks]}
        for name, (n, marks) in videos.items()
    }
    text = {"schema": 1, "label_set": "by hand", "fps": 15, "videos": content}
    file.write_text(json.dumps(text))
    return file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two still videos in the middle of which a square moves, one that stands still, one broken."""
    folder = tmp_path_factory.mktemp("set")
    blob = list(moving_blob(60))
    still = [blob[0]] * 20
    for name in ("a", "b"):
        write_video(folder / f"{name}.mp4", [*still, *blob[:20], *still])
    write_video(folder / "n.mp4", still * 3)
    (folder / "broken.mp4").write_text("no video")
    write_video(folder / "unlabelled.mp4", still)
    marks = [(20, 39)]
    write_labels(
        folder / "labels.json",
        {
            "a.mp4": (60, marks),
            "b.mp4": (60, marks),
            "n.mp4": (60, []),
            "broken.mp4": (60, []),
            "gone.mp4": (60, []),
        },
    )
    return folder


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "set"))


# -- evaluate ----------------------------------------------------------------------------------


def test_a_bundle_is_evaluated_on_a_data_set(
    run: Any, tiny_bundle: Bundle, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["evaluate", tiny_bundle.path, "--dataset", dataset, "-o", out]
    code, said, err = run(*words, "--backend", "onnxruntime")
    assert code == 0, err
    lines = said.splitlines()
    assert lines[0].startswith("fp32: onnxruntime")
    assert lines[1] == "labels: by hand; 3 videos"
    assert lines[2] == "fp32:"
    assert lines[3].startswith("causal    micro AUC 0.")
    assert "AP 0." in lines[4]
    assert lines[5].startswith("offline   micro AUC 0.")
    assert lines[7].startswith("alarms    at 0.5: ")
    assert "of 2 events found" in lines[7]
    assert "broken.mp4" in err
    assert "unlabelled.mp4: no labels" in err
    assert "gone.mp4: labelled, but not in" in err
    content = json.loads((out / "evaluation.json").read_text())
    assert content["label_set"] == "by hand"
    assert len(content["videos"]) == 3
    assert len(content["left_out"]) == 3
    figures = content["figures"]["fp32"]
    # A square that moves among frames that stand still: the graph measures motion.
    assert figures["causal"]["micro_auc"] > 0.9
    assert figures["causal"]["not_in_macro"] == [str(dataset / "n.mp4")]
    assert figures["offline_column"].startswith("as vad-run wrote it")
    with (out / "videos.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(Path(r["video"]).name, r["anomalous_frames"]) for r in rows] == [
        ("a.mp4", "20"),
        ("b.mp4", "20"),
        ("n.mp4", "0"),
    ]
    assert float(rows[0]["auc_causal"]) > 0.9
    assert rows[2]["auc_causal"] == ""
    assert (out / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(out.rglob("overlay.mp4"))


def test_a_second_evaluation_keeps_what_is_scored_and_another_bundle_replaces_it(
    run: Any, bundle_copy: Path, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["evaluate", bundle_copy, "--dataset", dataset, "-o", out, "--backend", "fake"]
    assert run(*words)[0] == 0
    reports = sorted((out / "fp32").rglob("report.json"))
    assert len(reports) == 3
    first = [r.stat().st_mtime_ns for r in reports]
    reports[0].unlink()  # as if it had been interrupted there
    (reports[0].parent / "scores.csv").unlink()
    assert run(*words)[0] == 0
    second = [r.stat().st_mtime_ns for r in reports]
    assert second[0] != first[0]
    assert second[1:] == first[1:]
    manifest = bundle_copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"threshold": 0.5', '"threshold": 0.25'))
    code, said, _ = run(*words)
    assert code == 0
    assert "alarms    at 0.25" in said
    assert all(r.stat().st_mtime_ns > t for r, t in zip(reports, second, strict=True))


def test_results_of_something_else_are_never_replaced(
    run: Any, tiny_bundle: Bundle, dataset: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "out" / "fp32" / "mine"
    mine.mkdir(parents=True)
    (mine / "report.json").write_text("{}")
    words = ["evaluate", tiny_bundle.path, "--dataset", dataset, "-o", tmp_path / "out"]
    refused(run(*words, "--backend", "fake"), "did not write")
    assert (mine / "report.json").read_text() == "{}"


def test_a_table_says_which_videos_are_evaluated(
    run: Any, tiny_bundle: Bundle, dataset: Path, tmp_path: Path
) -> None:
    table = dataset / "dataset.csv"
    table.write_text("path,class,split\na.mp4,x,test\nn.mp4,n,test\nb.mp4,x,val\n")
    words = ["evaluate", tiny_bundle.path, "--dataset", dataset, "-o", tmp_path / "out"]
    code, said, err = run(*words, "--backend", "fake")
    assert (code, err) == (0, "")
    assert "labels: by hand; 2 videos" in said
    table.write_text("path,class,split\na.mp4,x,train\n")
    refused(run(*words, "--backend", "fake"), "no entries of the split test or anomaly")


def test_two_precisions_are_compared(
    run: Any, bundle_copy: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The engine's own bf16 needs a processor that has it: stand in for it with rounded scores.
    import vad_training.commands.evaluate as command
    from vad_runtime.backends.fake import FakeBackend

    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["parity"] = {"bf16_allowed": True}
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    real = command.open_backend

    def opened(bundle: Bundle, name: str, options: Any) -> Any:
        choice = real(bundle, name, options)
        if options.precision == "bf16":
            exact = choice.backend.infer
            choice.backend.infer = lambda clips: {  # type: ignore[method-assign]
                k: np.round(v * 4) / 4 for k, v in exact(clips).items()
            }
            monkeypatch.setattr(FakeBackend, "device", "rounded", raising=True)
        return choice

    monkeypatch.setattr(command, "open_backend", opened)
    words = ["evaluate", bundle_copy, "--dataset", dataset, "-o", tmp_path / "out"]
    code, said, err = run(*words, "--backend", "fake")
    assert code == 0, err
    (line,) = [line for line in said.splitlines() if line.startswith("bf16 against fp32, causal")]
    assert "Spearman 0." in line
    assert "of 180 decisions flip" in line
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content["figures"].keys() == {"fp32", "bf16"}
    delta = content["deltas"]["bf16"]["causal"]["auc_delta"]
    figures = content["figures"]
    measured = figures["bf16"]["causal"]["micro_auc"] - figures["fp32"]["causal"]["micro_auc"]
    assert delta == pytest.approx(measured)


@pytest.fixture
def with_int8(bundle_copy: Path, tmp_path: Path) -> Bundle:
    """A bundle with a second artefact, which is of another kind than its label says."""
    other = motion_model(tmp_path / "other.onnx", clip_spec())
    entry = artefact(file="model.int8.onnx", precision="int8", made_from="fp32")
    return add_artefacts(Bundle.open(bundle_copy), {"int8": (entry, other)})


def test_every_graph_of_the_bundle_gets_its_column_and_is_compared_with_fp32(
    run: Any, with_int8: Bundle, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["evaluate", with_int8.path, "--dataset", dataset, "-o", out]
    code, said, err = run(*words, "--backend", "onnxruntime")
    assert code == 0, err
    assert [line.split(":")[0] for line in said.splitlines()[:2]] == ["fp32", "int8"]
    assert ", fp32, " in said.splitlines()[0]
    assert ", int8 graph" in said.splitlines()[1]
    assert "int8 against fp32, causal: AUC +0.00000, Spearman 1.00000, 0 of 180 decisions" in said
    figures = json.loads((out / "evaluation.json").read_text())["figures"]
    assert list(figures) == ["fp32", "int8"]
    assert "int8" in figures["int8"]["device"]


def test_a_precision_may_be_picked_and_one_that_is_not_there_is_refused(
    run: Any, with_int8: Bundle, dataset: Path, tmp_path: Path
) -> None:
    words = ["evaluate", with_int8.path, "--dataset", dataset, "-o", tmp_path / "out"]
    code, said, err = run(*words, "--backend", "fake", "--precision", "int8")
    assert code == 0, err
    assert said.startswith("int8: fake")
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())["figures"]
    assert list(figures) == ["int8"]
    refused(
        run(*words, "--backend", "fake", "--precision", "mixed"),
        "has no mixed artefact",
        "vad-export quantise",
    )


def test_a_graph_that_one_engine_cannot_run_leaves_the_others(
    run: Any, bundle_copy: Path, dataset: Path, tmp_path: Path
) -> None:
    noise = tmp_path / "noise.onnx"
    noise.write_bytes(b"this was never a graph")
    entry = artefact(file="model.int8.onnx", precision="int8")
    add_artefacts(Bundle.open(bundle_copy), {"int8": (entry, noise)})
    words = ["evaluate", bundle_copy, "--dataset", dataset, "-o", tmp_path / "out"]
    code, said, err = run(*words, "--backend", "onnxruntime")
    assert code == 0, err
    assert "int8 is left out: onnxruntime cannot load model.int8.onnx" in err
    assert said.startswith("fp32: ")


def test_an_artefact_that_is_added_or_replaced_costs_no_other_its_results(
    run: Any, with_int8: Bundle, dataset: Path, tmp_path: Path, tiny_graph: Path
) -> None:
    out = tmp_path / "out"
    words = ["evaluate", with_int8.path, "--dataset", dataset, "-o", out, "--backend", "fake"]
    assert run(*words)[0] == 0

    def times(name: str) -> list[int]:
        return [file.stat().st_mtime_ns for file in sorted((out / name).rglob("report.json"))]

    first = {name: times(name) for name in ("fp32", "int8")}
    assert all(len(found) == 3 for found in first.values())
    changed = tmp_path / "changed.onnx"
    changed.write_bytes(tiny_graph.read_bytes() + b"\0")
    entries = {
        "int8": (with_int8.manifest.artefacts["int8"], changed),
        "fp16": (artefact(file="model.fp16.onnx", precision="fp16"), tiny_graph),
    }
    add_artefacts(with_int8, entries, calibration={"clips": 8})
    assert run(*words)[0] == 0
    assert times("fp32") == first["fp32"]
    assert all(new > old for new, old in zip(times("int8"), first["int8"], strict=True))
    assert len(times("fp16")) == 3


def test_a_training_run_is_evaluated_in_pytorch(run: Any, dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["clip.frames=8", "clip.height=32", "clip.width=32", "clip.hop=8", "epochs=1"]
    words += ["optimiser.batch=2", "steps_per_epoch=1", "threads=1", "precision=fp32", "device=cpu"]
    settings = [word for setting in words for word in ("--set", setting)]
    code, _, err = run("fit", dataset / "n.mp4", "-o", folder, *settings)
    assert code == 0, err
    out = tmp_path / "out"
    words = ["--dataset", dataset, "-o", out, "--form", "reconstruction"]
    code, said, err = run("evaluate", folder, *words)
    assert code == 0, err
    assert "labels: by hand; 3 videos" in said
    assert "causal    micro AUC 0." in said
    assert "alarms" not in said  # a run has no threshold yet
    assert (out / "pytorch").is_dir()


def test_what_is_missing_is_named(run: Any, tiny_bundle: Bundle, tmp_path: Path) -> None:
    refused(run("evaluate", tiny_bundle.path), "Missing option '--dataset'")
    refused(run("evaluate", tmp_path), "Missing option '--labels'")
    refused(run("evaluate", tmp_path / "none.vad", "--dataset", tmp_path), "labels.json")
    write_labels(tmp_path / "labels.json", {"a.mp4": (3, [])})
    refused(run("evaluate", tmp_path / "none.vad", "--dataset", tmp_path), "no videos")
    (tmp_path / "x.mp4").write_text("")
    refused(run("evaluate", tiny_bundle.path, "--dataset", tmp_path), "by hand has truth for")


# -- results -----------------------------------------------------------------------------------


def results(
    folder: Path, name: str, values: list[float], alarms: str = "", threshold: float | None = 2.0
) -> Path:
    """Write what `vad-run score` leaves behind."""
    folder.mkdir(parents=True)
    writer = RowWriter(folder, live=False, offline=True)
    for i, value in enumerate(values):
        on = alarms[i : i + 1] == "x"
        row = Row(frame=i, time_s=i / 2, raw=value, score=value, alarm=on, status="scored")
        writer.write(row)
    writer.close()
    scoring = {"threshold": threshold, "release": 1.0}
    report = {"source": {"name": f"/s/{name}"}, "scoring": scoring}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_results_give_every_figure_and_files_where_asked(run: Any, tmp_path: Path) -> None:
    results(tmp_path / "r" / "a", "a.mp4", [0, 1, 3, 4], "...x")
    results(tmp_path / "r" / "n", "n.mp4", [2.5, 0.4, 0.2, 0.1], "x...")
    labels = write_labels(tmp_path / "l.json", {"a.mp4": (4, [(2, 3)]), "n.mp4": (4, [])})
    code, said, err = run("evaluate", tmp_path / "r", "--labels", labels, "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    assert said.splitlines() == [
        "labels: by hand; 2 videos",
        "causal    micro AUC 1.0000  macro AUC 1.0000",
        "          AP 1.0000 (trapezoid 1.0000)  EER 0.0000  FAR@0.5 0.2500  pairwise AUC 1.0000",
        "alarms    at 2: 1 of 1 events found, 0.50 s after they begin (median; mean 0.50, longest "
        "0.50); 1 false alarms, 1.2e+03 an hour (16.7% of 0.000833 h of normal frames)",
        "not in the macro mean (one class only): n.mp4",
        f"{tmp_path / 'out'}: evaluation.json, videos.csv, curves.png",
    ]
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content["figures"]["results"]["alarms"]["false_alarms_per_hour"] == pytest.approx(1200)


def test_one_class_is_said_before_anything_is_scored(
    run: Any, tiny_bundle: Bundle, dataset: Path, tmp_path: Path
) -> None:
    write_labels(dataset / "labels.json", {"a.mp4": (60, []), "n.mp4": (60, [])})
    words = ["evaluate", tiny_bundle.path, "--dataset", dataset, "-o", tmp_path / "out"]
    refused(run(*words), "one class only in these 2 videos")
    assert not (tmp_path / "out").exists()


def test_a_macro_mean_of_no_video_is_a_dash(run: Any, tmp_path: Path) -> None:
    results(tmp_path / "r" / "x", "x.mp4", [2])
    results(tmp_path / "r" / "n", "n.mp4", [1])
    labels = write_labels(tmp_path / "l.json", {"x.mp4": (1, [(0, 0)]), "n.mp4": (1, [])})
    code, said, err = run("evaluate", tmp_path / "r", "--labels", labels)
    assert (code, err) == (0, "")
    assert "causal    micro AUC 1.0000  macro AUC -" in said.splitlines()


def test_another_offline_column_is_made_from_raw_scores(run: Any, tmp_path: Path) -> None:
    results(tmp_path / "r" / "a", "a.mp4", [0, 1, 3, 4])
    results(tmp_path / "r" / "b", "b.mp4", [20, 10, 30, 40])
    marks = [(2, 3)]
    labels = write_labels(tmp_path / "l.json", {"a.mp4": (4, marks), "b.mp4": (4, marks)})
    words = ["evaluate", tmp_path / "r", "--labels", labels]
    code, said, _ = run(*words, "--offline", "minmax")
    assert code == 0
    assert "offline   micro AUC 1.0000" in said
    # 3 and 4 beat 0 and 1; 30 and 40 beat all four normal frames: 12 of 16.
    assert "causal    micro AUC 0.7500" in said
    refused(run(*words, "--offline", "mean"), "offline step 'mean'")


def test_regions_are_measured_against_masks(run: Any, tmp_path: Path) -> None:
    import cv2

    folder = results(tmp_path / "r" / "a", "a.mp4", [0, 1, 3, 4])
    labels = write_labels(tmp_path / "l.json", {"a.mp4": (4, [(2, 3)])})
    masks = tmp_path / "masks" / "a"
    masks.mkdir(parents=True)
    for i in range(4):
        mask = np.zeros((20, 20), np.uint8)
        mask[5:10, 5:10] = 255 * (i >= 2)
        cv2.imwrite(str(masks / f"{i}.png"), mask)
    words = ["evaluate", tmp_path / "r", "--labels", labels, "--masks", tmp_path / "masks"]
    words += ["-o", tmp_path / "out"]
    refused(run(*words), "regions.jsonl cannot be read", "without --masks")
    lines = [
        {"frame": 2, "box": [5, 5, 10, 10], "score": 0.9},
        {"frame": 0, "box": [0, 0, 5, 5], "score": 0.5},
    ]
    (folder / "regions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, said, err = run(*words)
    assert code == 0, err
    # Half of the regions at no false positive, never more.
    assert "regions   RBDC 0.5000  TBDC 1.0000  (2 regions, 1 tracks)" in said.splitlines()
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content["figures"]["results"]["regions"] == {
        "rbdc": 0.5,
        "tbdc": 1.0,
        "regions": 2,
        "tracks": 1,
    }


# -- threshold ---------------------------------------------------------------------------------


def flicker(count: int, seed: int = 0) -> list[float]:
    return [float(v) for v in np.random.default_rng(seed).exponential(1.0, count)]


def test_a_budget_on_results_of_normal_footage_is_printed(run: Any, tmp_path: Path) -> None:
    results(tmp_path / "r" / "n", "n.mp4", flicker(2000))
    code, said, err = run("threshold", tmp_path / "r", "--false-alarms-per-day", 2000)
    assert (code, err) == (0, "")
    assert said.startswith("threshold ")
    assert "95 % interval" in said
    assert "2000 false alarms a day on 16.7 min of normal footage" in said
    code, said, _ = run("threshold", tmp_path / "r", "--false-alarms-per-day", 0.01)
    assert code == 0
    assert "Note: one alarm in 100 days is asked for" in said


def test_a_bundle_keeps_the_threshold_and_its_evidence(
    run: Any, bundle_copy: Path, tmp_path: Path
) -> None:
    # A square that jumps every 12 frames, each time another way: separate peaks of motion.
    rng = np.random.default_rng(0)
    images = list(moving_blob(60))
    shown = [images[int(k)] for k in np.repeat(rng.integers(0, 60, 40), 12)]
    footage = tmp_path / "normal"
    footage.mkdir()
    write_video(footage / "n.mp4", shown)
    (footage / "bad.mp4").write_text("no video")
    words = ["threshold", bundle_copy, "--normal", footage, "--false-alarms-per-day", 1]
    before = (bundle_copy / "manifest.json").read_bytes()
    code, said, err = run(*words, "--backend", "fake", "--dry-run")
    assert code == 0, err
    assert "left as it was" in said
    assert "bad.mp4" in err
    assert (bundle_copy / "manifest.json").read_bytes() == before
    code, said, _ = run(*words, "--backend", "fake")
    assert code == 0
    scoring = Bundle.open(bundle_copy).manifest.scoring
    assert f"threshold {scoring.threshold:g}" in said
    assert scoring.method.startswith("1 false alarms a day on 32 s of normal footage")
    assert scoring.evidence["clusters"] >= 20
    assert scoring.release == 0.9


def test_labels_give_a_threshold_that_names_them(
    run: Any, bundle_copy: Path, dataset: Path, tmp_path: Path
) -> None:
    words = ["threshold", bundle_copy, "--dataset", dataset, "--best-f1", "--backend", "fake"]
    code, said, err = run(*words)
    assert code == 0, err
    assert "Note: chosen on by hand" in said
    scoring = Bundle.open(bundle_copy).manifest.scoring
    assert scoring.evidence["label_set"] == "by hand"
    assert scoring.evidence["f1"] > 0.8
    (dataset / "dataset.csv").write_text(
        "path,class,split\na.mp4,x,val\nn.mp4,n,val\nb.mp4,x,test\n"
    )
    assert run(*words)[0] == 0
    evidence = Bundle.open(bundle_copy).manifest.scoring.evidence
    assert (evidence["label_set"], evidence["videos"]) == ("by hand, split val", 2)


def test_results_with_labels_give_a_threshold(run: Any, tmp_path: Path) -> None:
    results(tmp_path / "r" / "a", "a.mp4", [0, 1, 3, 4])
    labels = write_labels(tmp_path / "l.json", {"a.mp4": (4, [(2, 3)])})
    code, said, _ = run("threshold", tmp_path / "r", "--labels", labels, "--recall", 0.9)
    assert code == 0
    assert said.startswith("threshold 2: highest threshold with a recall of 0.9")


def test_threshold_refuses_in_one_line(run: Any, tiny_bundle: Bundle, tmp_path: Path) -> None:
    refused(run("threshold", tiny_bundle.path), "Give one of --false-alarms-per-day")
    both = ["--false-alarms-per-day", 1, "--best-f1"]
    refused(run("threshold", tiny_bundle.path, *both), "Give one of")
    refused(run("threshold", tiny_bundle.path, *both[:2]), "Missing option '--normal'")
    refused(run("threshold", tiny_bundle.path, "--best-f1"), "Missing option '--dataset'")
    refused(run("threshold", tmp_path / "none.vad", *both[:2]), "none.vad does not exist")
    refused(run("threshold", tmp_path, *both[:2]), "holds no report.json")
    refused(run("threshold", tmp_path, "--best-f1"), "Missing option '--labels'")
    results(tmp_path / "r" / "n", "n.mp4", flicker(30))
    refused(run("threshold", tmp_path / "r", *both[:2]), "separate peaks, and a threshold needs 20")
    refused(run("threshold", tmp_path / "r", *both[:2], "--normal", tmp_path), "is no bundle")
    results(tmp_path / "r" / "m", "m.mp4", flicker(30), threshold=9.0)
    refused(run("threshold", tmp_path / "r", *both[:2]), "different scorings")
