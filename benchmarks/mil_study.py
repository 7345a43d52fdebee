"""How well MIL ranks on real C3D features of UCF-Crime: tables of docs/results/mil_ucf_crime.md.

Settings are chosen on `c3d_train.npz` alone: each candidate is trained on a stratified split of its
videos and judged by the video-level AUC on the part that was kept back; the best of them are tried
on further splits. Then the best candidate of each kind of head is trained with several seeds and
evaluated on `c3d_test.npz`, once.

    python benchmarks/mil_study.py choose DATA -o choose.jsonl
    python benchmarks/mil_study.py choose DATA -o choose.jsonl --best 4 --seeds 1 2
    python benchmarks/mil_study.py test DATA --chosen choose.jsonl -o test.jsonl --seeds 0 1 2
    python benchmarks/mil_study.py refit DATA --name NAME --epochs 24 -o refit.jsonl --seeds 0 1 2
    python benchmarks/mil_study.py tables choose.jsonl test.jsonl

What a file holds already is not measured again.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vad_runtime.features import c3d_file_starts, scores_to_frames
from vad_runtime.machine import cpu_name
from vad_training.checkpoint_file import read_checkpoint_file
from vad_training.config import MilConfig, read_config
from vad_training.data.features import FeatureSet, feature_set_from_path
from vad_training.fit_mil import fit_mil
from vad_training.metrics.roc import roc_auc
from vad_training.models.mil import MilHead, head_from_weights

CANDIDATES = {
    "ranking, Adagrad 1e-2 (paper)": "head.kind=sultani",
    "ranking, paired, Adagrad 1e-3 (notebook)": (
        "head.kind=sultani loss.pairs=paired optimiser.learning_rate=1e-3"
    ),
    "ranking, Adagrad 1e-2, L2 3e-2": "head.kind=sultani optimiser.weight_decay=3e-2",
    "ranking, paired, Adagrad 1e-2": "head.kind=sultani loss.pairs=paired",
    "top-3, Adam 1e-3, L2 1e-2": (
        "head.kind=topk optimiser.kind=adam optimiser.learning_rate=1e-3 "
        "optimiser.weight_decay=1e-2"
    ),
    "ranking, Adam 1e-3": "head.kind=sultani optimiser.kind=adam optimiser.learning_rate=1e-3",
    "top-3, Adam 1e-3": "head.kind=topk optimiser.kind=adam optimiser.learning_rate=1e-3",
    "top-1, Adam 1e-3": (
        "head.kind=topk head.top_k=1 optimiser.kind=adam optimiser.learning_rate=1e-3"
    ),
    "top-8, Adam 1e-3": (
        "head.kind=topk head.top_k=8 optimiser.kind=adam optimiser.learning_rate=1e-3"
    ),
    "top-3, Adagrad 1e-2": "head.kind=topk",
    "top-3, Adam 1e-4, features not normalised": (
        "head.kind=topk optimiser.kind=adam optimiser.learning_rate=1e-4 features.normalise=false"
    ),
    "ranking, Adagrad 1e-2, features not normalised": (
        "head.kind=sultani features.normalise=false"
    ),
    "ranking, Adagrad 1e-3, features not normalised": (
        "head.kind=sultani optimiser.learning_rate=1e-3 features.normalise=false"
    ),
    "ranking, Adam 1e-4, features not normalised": (
        "head.kind=sultani optimiser.kind=adam optimiser.learning_rate=1e-4 "
        "features.normalise=false"
    ),
    "magnitude, margin 100, Adam 1e-3": (
        "head.kind=rtfm optimiser.kind=adam optimiser.learning_rate=1e-3"
    ),
    "magnitude, margin 10, weight 1e-2, Adam 1e-3": (
        "head.kind=rtfm loss.margin=10 loss.magnitude=1e-2 "
        "optimiser.kind=adam optimiser.learning_rate=1e-3"
    ),
}
"""Everything that was tried, by name."""


def main() -> None:
    """Run one part of the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    choose = parts.add_parser("choose")
    test = parts.add_parser("test")
    again = parts.add_parser("refit")
    tables = parts.add_parser("tables")
    for part in (choose, test, again):
        part.add_argument("data", type=Path, help="Folder with c3d_train.npz and c3d_test.npz.")
        part.add_argument("-o", "--out", type=Path, required=True)
        part.add_argument("--seeds", type=int, nargs="+", default=[0], help="Each its own split.")
        part.add_argument("--epochs", type=int, default=25)
    choose.add_argument("--best", type=int, help="Only so many, the best by what OUT holds.")
    test.add_argument("--chosen", type=Path, required=True)
    again.add_argument("--name", choices=CANDIDATES, required=True)
    tables.add_argument("files", type=Path, nargs=2)
    args = parser.parse_args()
    if args.part == "tables":
        print(table_of_choice(_lines(args.files[0])))
        print(table_of_test(_lines(args.files[1])))
        return
    torch.set_num_threads(1)
    if args.part == "test":
        names = chosen_of(_lines(args.chosen))
    elif args.part == "refit":
        names = [args.name]
    else:
        names = list(CANDIDATES)
        if args.best:
            names = ranked(_lines(args.out))[: args.best]
    for seed in args.seeds:
        for name in names:
            if (name, seed) in {(line["name"], line["seed"]) for line in _lines(args.out)}:
                continue
            if args.part == "refit":
                line = refit(name, seed, args.epochs, args.data)
            else:
                line = run(name, seed, args.epochs, args.data, test=args.part == "test")
            with args.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")


def run(name: str, seed: int, epochs: int, data: Path, *, test: bool) -> dict[str, Any]:
    """Train one candidate and return what was measured."""
    config = _config(name, seed, epochs)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = fit_mil(
            feature_set_from_path(data / "c3d_train.npz", config.features), config, Path(folder)
        )
        assert result.best_loss is not None
        content = read_checkpoint_file(Path(folder) / "best.pt")
    line = {
        "name": name,
        "kind": config.head.kind,
        "seed": seed,
        "epochs": epochs,
        "best_epoch": content["summary"]["epochs"],
        "validation_auc": 1 - result.best_loss,
        "seconds": time.perf_counter() - began,
        "torch": str(torch.__version__),
        "cpu": cpu_name(),
    }
    if test:
        head = head_from_weights(config.head, content["model"], "best.pt")
        line["test_auc"] = frame_auc(
            head, feature_set_from_path(data / "c3d_test.npz", config.features)
        )
    return line


def refit(name: str, seed: int, epochs: int, data: Path) -> dict[str, Any]:
    """Train one candidate on all training videos and evaluate its last epoch."""
    config = _config(name, seed, epochs, "features.validation_fraction=0")
    with tempfile.TemporaryDirectory() as folder:
        fit_mil(
            feature_set_from_path(data / "c3d_train.npz", config.features), config, Path(folder)
        )
        content = read_checkpoint_file(Path(folder) / "best.pt")
    head = head_from_weights(config.head, content["model"], "best.pt")
    test = feature_set_from_path(data / "c3d_test.npz", config.features)
    return {"name": name, "seed": seed, "epochs": epochs, "test_auc": frame_auc(head, test)}


def _config(name: str, seed: int, epochs: int, *more: str) -> MilConfig:
    settings = ["family=mil", "device=cpu", "threads=1", f"seed={seed}", f"epochs={epochs}"]
    config = read_config(None, [*settings, *CANDIDATES[name].split(), *more])
    assert isinstance(config, MilConfig)
    return config


def frame_auc(head: MilHead, videos: FeatureSet) -> float:
    """Return the micro frame AUC on videos whose features were made in steps of 17 frames."""
    assert videos.frames is not None
    assert videos.intervals is not None
    with torch.inference_mode():
        segments = head(torch.from_numpy(videos.features)).numpy()
    scores, truth = [], []
    for video, intervals, count in zip(segments, videos.intervals, videos.frames, strict=True):
        scores.append(scores_to_frames(video, c3d_file_starts(int(count)), int(count)))
        anomalous = np.zeros(int(count), bool)
        for first, end in intervals:
            anomalous[first:end] = True
        truth.append(anomalous)
    return roc_auc(np.concatenate(scores), np.concatenate(truth))


def ranked(lines: list[dict[str, Any]]) -> list[str]:
    """Return the candidates, best first, by mean validation AUC on the splits that all have."""
    groups = _by_name(lines)
    shared = set.intersection(*({line["seed"] for line in group} for group in groups.values()))

    def mean(name: str) -> float:
        return float(np.mean([x["validation_auc"] for x in groups[name] if x["seed"] in shared]))

    return sorted(groups, key=mean, reverse=True)


def chosen_of(lines: list[dict[str, Any]]) -> list[str]:
    """Return the best candidate of each kind of head, best first.

    Candidates that were tried on more splits are compared on all of those.
    """
    most = max(len(group) for group in _by_name(lines).values())
    best: dict[str, str] = {}
    finalists = [x for x in lines if len(_by_name(lines)[x["name"]]) == most]
    for name in [*ranked(finalists), *ranked(lines)]:
        best.setdefault(_by_name(lines)[name][0]["kind"], name)
    return list(best.values())


def table_of_choice(lines: list[dict[str, Any]]) -> str:
    """Return a Markdown table of validation AUCs."""
    rows = [
        "| candidate | splits | validation AUC, mean | each | best epoch |",
        "|---|---|---|---|---|",
    ]
    means = {n: np.mean([x["validation_auc"] for x in ls]) for n, ls in _by_name(lines).items()}
    for name, of_name in sorted(_by_name(lines).items(), key=lambda item: -means[item[0]]):
        each = ", ".join(f"{x['validation_auc']:.3f}" for x in of_name)
        epochs = ", ".join(str(x["best_epoch"]) for x in of_name)
        rows.append(f"| {name} | {len(of_name)} | {means[name]:.4f} | {each} | {epochs} |")
    return "\n".join([*rows, ""])


def table_of_test(lines: list[dict[str, Any]]) -> str:
    """Return a Markdown table of test AUCs."""
    rows = [
        "| chosen | micro frame AUC, mean ± sd | each seed | validation AUC |",
        "|---|---|---|---|",
    ]
    for name, of_name in _by_name(lines).items():
        values = [x["test_auc"] for x in of_name]
        spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
        each = ", ".join(f"{v:.4f}" for v in values)
        judged = np.mean([x["validation_auc"] for x in of_name])
        rows.append(f"| {name} | {np.mean(values):.4f}{spread} | {each} | {judged:.3f} |")
    return "\n".join([*rows, ""])


def _by_name(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups = defaultdict(list)
    for line in lines:
        groups[line["name"]].append(line)
    return dict(groups)


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
