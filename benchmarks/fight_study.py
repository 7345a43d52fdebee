"""How well MIL on I3D features tells fights apart: the tables of docs/results/mil_fight.md.

FEATURES is a folder of `vad-train features` of the fight clips (`fight/fi001.npz`, …,
`normal/nofi001.npz`, …). In five folds, stratified by class, a head is trained on four with
`fit_mil`, which keeps a fifth of their videos for choosing its epoch, and scores the videos of the
other, each by its highest segment.

    python benchmarks/fight_study.py FEATURES -o fight.jsonl --write docs/results/mil_fight.md

Clips come in runs that were cut from one source video, often for both classes. So each setting is
measured twice: with folds of videos, and with folds of sources (`SOURCES`), where no source stands
in training and test. What a file holds already is not measured again.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from vad_runtime.features import find_features, read_features
from vad_runtime.machine import cpu_name
from vad_training.checkpoint_file import read_checkpoint_file
from vad_training.config import MilConfig, read_config
from vad_training.data.features import FeatureSet, feature_set_from_path
from vad_training.fit_mil import fit_mil
from vad_training.metrics.roc import roc_auc
from vad_training.models.mil import head_from_weights

CONFIGS = ["mil_sultani.yaml", "mil_topk.yaml"]
"""Reference settings of training/configs, with nothing changed that touches training."""
FOLDS = 5
EARLY = 5
"""Epochs."""
SOURCES = {
    "club, stairs and bar, 14/01/2017": "fi001-004 nofi001-003",
    "monitor filmed, grey room": "fi005-012",
    "dark classroom": "fi013-014 nofi018",
    "pool hall": "fi015-017 nofi016-017",
    "television, bus": "fi018 nofi043-044",
    "shop with yellow wall": "fi019-025 nofi045-048",
    "restaurant": "fi026-030",
    "staged in a car park, 3/8/17": "fi031-042 nofi029-033",
    "compilation, uploaded 11/26/2018": "fi044-050 nofi022-025",
    "shop front, 04/07/2017": "nofi004-005",
    "street at night": "nofi007-008",
    "kiosk, uploaded 01/22/2019": "nofi010-011",
    "shop, 512x288": "nofi012-013",
    "monitor filmed, lift": "nofi014-015",
    "cash machine, uploaded 10/19/2018": "nofi019-021",
    "street, uploaded 12/18/2018": "nofi026-027",
    "television, Haberler": "nofi034-035",
    "garage, 1280x720": "nofi037-038",
    "bus": "nofi039-042",
}
"""Clips of one source video, by what every clip shows (first and last frame looked at), its
burnt-in date, and the size, frame rate and upload date of its container. The names' numbers run on
within a source; other clips are a source each."""
MARK = "<!-- measured: written by benchmarks/fight_study.py -->"


def main() -> None:
    """Measure what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True, help="A line for each run.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--write", type=Path, metavar="DOCUMENT")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = read_lines(args.out)
    done = {(line["config"], line["folds"], line["seed"]) for line in lines}
    for config, by, seed in product(CONFIGS, ("video", "source"), args.seeds):
        if (config, by, seed) not in done:
            with args.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps(run(args.features, config, by, seed)) + "\n")
    text = tables(args.features, read_lines(args.out))
    print(text)
    if args.write:
        before, _, after = args.write.read_text(encoding="utf-8").split(MARK)
        args.write.write_text(f"{before}{MARK}\n{text}\n{MARK}{after}", encoding="utf-8")


def run(folder: Path, config_name: str, by: str, seed: int) -> dict[str, Any]:
    """Train and test once on each fold; the seed gives folds, validation videos and weights."""
    file = Path(__file__).parents[1] / "training" / "configs" / config_name
    config = read_config(file, ["backbone=null", f"seed={seed}", "threads=1", "device=cpu"])
    assert isinstance(config, MilConfig)
    videos = feature_set_from_path(folder, config.features)
    began, cpu = time.perf_counter(), time.process_time()
    pooled = np.full(len(videos), np.nan)
    folds = []
    for train, test in folds_of(videos, by, seed):
        with tempfile.TemporaryDirectory() as work:
            result = fit_mil(videos.chosen(train), config, Path(work))
            content = read_checkpoint_file(Path(work) / "best.pt")
        assert result.best_loss is not None
        head = head_from_weights(config.head, content["model"], "best.pt")
        with torch.inference_mode():
            scores = head(torch.from_numpy(videos.features[test])).amax(1).double().numpy()
        pooled[test] = scores
        folds.append(
            {
                "test": [videos.names[i] for i in test],
                "scores": scores.tolist(),
                "auc": roc_auc(scores, videos.labels[test] == 1),
                "fights": int(videos.labels[test].sum()),
                "validation_auc": 1 - result.best_loss,
                "best_epoch": content["summary"]["epochs"],
            }
        )
    return {
        "config": config_name,
        "folds": by,
        "seed": seed,
        "each": folds,
        "pooled_auc": roc_auc(pooled, videos.labels == 1),
        "wall_s": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
        "machine": f"{cpu_name()}, 1 thread; PyTorch {torch.__version__}, "
        f"scikit-learn {version('scikit-learn')}, Python {platform.python_version()}",
        "date": time.strftime("%Y-%m-%d"),
    }


def folds_of(videos: FeatureSet, by: str, seed: int) -> Iterator[tuple[list[int], list[int]]]:
    """Yield training and test videos of each fold; `by` is video or source."""
    groups = videos.names if by == "video" else [source_of(name) for name in videos.names]
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in splitter.split(videos.features, videos.labels, groups):
        yield train.tolist(), test.tolist()


def source_of(name: str) -> str:
    """Return the source of a clip; its own name where no other clip shares it."""
    stem = Path(name).name
    for source, runs in SOURCES.items():
        for run_of_names in runs.split():
            first, _, last = run_of_names.partition("-")
            kind = first.rstrip("0123456789")
            number = stem.removeprefix(kind)
            if number.isdigit() and int(first[len(kind) :]) <= int(number) <= int(
                last or first[len(kind) :]
            ):
                return source
    return stem


def tables(folder: Path, lines: list[dict[str, Any]]) -> str:
    """Return the measured part of the document, Markdown."""
    files = find_features(folder)
    read = [read_features(file) for file in files]
    clips = [len(video.features) for video in read]
    sources = {source_of(video.name) for video in read}
    machines = sorted({line["machine"] for line in lines})
    dates = sorted({line["date"] for line in lines})
    fights = [source_of(v.name) for v in read if v.name.startswith("fight/")]
    frames = [video.frames for video in read if video.frames is not None]
    rates = [video.fps for video in read if video.fps is not None]
    rows = [
        f"{len(files)} videos of {min(frames)} to {max(frames)} frames, {min(rates):.0f} to "
        f"{max(rates):.0f} frames/s; {sum(clips)} clips, {min(clips)} to {max(clips)} a video; "
        f"{len(sources)} sources, {len(set(fights))} of them with fights.",
        f"{'; '.join(machines)}; {', '.join(dates)}. All folds of a row and seed: "
        f"{min(x['wall_s'] for x in lines):.0f} to {max(x['wall_s'] for x in lines):.0f} s, "
        f"{min(x['cpu_s'] for x in lines):.0f} to {max(x['cpu_s'] for x in lines):.0f} s of CPU.",
        "",
        "| setting | folds of | AUC of a fold, mean ± sd | lowest - highest | "
        "mean of 5 folds, each seed | ± sd over seeds | pooled, each seed | "
        "validation AUC, mean | best epoch, median |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for config, by in product(CONFIGS, ("video", "source")):
        some = [x for x in lines if x["config"] == config and x["folds"] == by]
        values = np.array([[fold["auc"] for fold in x["each"]] for x in some])
        means = values.mean(axis=1)
        judged = np.mean([fold["validation_auc"] for x in some for fold in x["each"]])
        epochs = np.median([fold["best_epoch"] for x in some for fold in x["each"]])
        rows.append(
            f"| `{config}` | {by}s | {values.mean():.3f} ± {values.std(ddof=1):.3f} "
            f"| {values.min():.3f} - {values.max():.3f} | {_list(means)} "
            f"| {means.std(ddof=1):.3f} | {_list([x['pooled_auc'] for x in some])} "
            f"| {judged:.3f} | {epochs:.0f} |"
        )
    every = [fold for x in lines for fold in x["each"]]
    parts = [[f for f in every if (f["best_epoch"] <= EARLY) == wanted] for wanted in (True, False)]
    early, late = (
        f"span {np.median([max(f['scores']) - min(f['scores']) for f in part]):.2f} (median), "
        f"AUC {np.mean([f['auc'] for f in part]):.3f}"
        for part in parts
    )
    rows += [
        "",
        f"In {len(parts[0])} of {len(every)} folds the best epoch is one of the first {EARLY}. "
        f"Scores of their test clips: {early}; of the other folds': {late}.",
    ]
    rows += ["", "Each fold, in the order of the seeds (AUC on validation videos in brackets):", ""]
    for config, by in product(CONFIGS, ("video", "source")):
        some = [x for x in lines if x["config"] == config and x["folds"] == by]
        each = "; ".join(
            ", ".join(f"{fold['auc']:.3f} ({fold['validation_auc']:.3f})" for fold in x["each"])
            for x in some
        )
        rows.append(f"* `{config}`, {by}s: {each}")
    return "\n".join(rows)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return what was measured before."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _list(values: Any) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


if __name__ == "__main__":
    main()
