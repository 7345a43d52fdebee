"""`vad-train threshold`."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
import msgspec

from vad_runtime.backends import backend_names, open_backend
from vad_runtime.bundle import MANIFEST, Bundle, rewrite_manifest
from vad_runtime.commands import FiniteFloat
from vad_runtime.contracts import InputError, Scoring

if TYPE_CHECKING:
    from vad_training.thresholds import Threshold

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("target", type=_PATH)
@click.option(
    "--normal",
    type=_PATH,
    multiple=True,
    help="Normal footage that the model was not trained on, or a table (its split val). May be "
    "repeated.",
)
@click.option(
    "--false-alarms-per-day",
    "budget",
    type=FiniteFloat(0, min_open=True),
    help="How many alarms a day normal footage may raise.",
)
@click.option("--dataset", type=_PATH, help="Folder of videos with labels.json, for a bundle.")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="val",
    show_default=True,
    help="Which videos, where the data set has a dataset.csv.",
)
@click.option("--labels", "labels_file", type=_PATH, help="A labels.json.")
@click.option("--best-f1", is_flag=True, help="With labels: the best F1 over frames.")
@click.option(
    "--recall",
    type=FiniteFloat(0, 1, min_open=True),
    help="With labels: the highest threshold with so much recall over frames.",
)
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    metavar="NAME",
    help=f"Inference engine, for a bundle: auto, {', '.join(backend_names())}.",
)
@click.option("--dry-run", is_flag=True, help="Print the threshold and leave the bundle as it is.")
def threshold(
    target: Path,
    normal: tuple[Path, ...],
    budget: float | None,
    dataset: Path | None,
    split: Literal["train", "val", "test"],
    labels_file: Path | None,
    best_f1: bool,
    recall: float | None,
    backend: str,
    dry_run: bool,
) -> None:
    """Choose the alarm threshold of a bundle; its manifest keeps the choice and the evidence.

    \b
    TARGET is   a bundle (*.vad), which is given the threshold
                a results folder of `vad-run score`: the threshold is printed

    \b
    without anomalies   --normal FOOTAGE --false-alarms-per-day 1
                        (for a results folder without --normal)
    with labels         --dataset FOLDER --best-f1, or --recall 0.9
                        (for a results folder --labels FILE)
    """  # noqa: D301 - \b is click's mark for text that is not to be wrapped
    if (budget is not None) + best_f1 + (recall is not None) != 1:
        raise click.UsageError(
            "Give one of --false-alarms-per-day, --best-f1 and --recall.",
            click.get_current_context(),
        )
    if target.suffix == ".vad" or (target / MANIFEST).is_file():
        bundle = Bundle.open(target)
        if budget is not None:
            chosen = _from_normal(bundle, backend, normal, budget)
        else:
            chosen = _from_dataset(bundle, backend, dataset, split, labels_file, recall)
        _say(chosen)
        if dry_run:
            click.echo(f"{bundle.name} is left as it was (--dry-run)")
            return
        scoring = chosen.applied_to(bundle.manifest.scoring)
        rewrite_manifest(bundle, msgspec.structs.replace(bundle.manifest, scoring=scoring))
        click.echo(f"{bundle.name}: threshold {chosen.value:g} is stored in {MANIFEST}")
        return
    _say(_from_results(target, normal, labels_file, budget, recall))


def _say(chosen: "Threshold") -> None:
    interval = chosen.evidence.get("threshold_95")
    between = f" (95 % interval {interval[0]:g} to {interval[1]:g})" if interval else ""
    click.echo(f"threshold {chosen.value:g}{between}: {chosen.method}")
    if chosen.warning:
        click.echo(f"Note: {chosen.warning}")


def _from_normal(
    bundle: Bundle, backend: str, normal: tuple[Path, ...], budget: float
) -> "Threshold":
    from vad_training.data.holdout import normal_footage
    from vad_training.normal_scores import stretches_from_footage
    from vad_training.thresholds import threshold_from_budget

    if not normal:
        raise click.UsageError("Missing option '--normal'.", click.get_current_context())
    footage = normal_footage(normal)
    choice = open_backend(bundle, backend)
    try:
        stretches, skipped = stretches_from_footage(bundle, choice, footage)
    finally:
        choice.backend.close()
    for line in skipped:
        click.echo(f"Skipped: {line}", err=True)
    return threshold_from_budget(stretches, bundle.manifest.scoring, budget)


def _from_dataset(
    bundle: Bundle,
    backend: str,
    dataset: Path | None,
    split: Literal["train", "val", "test"],
    labels_file: Path | None,
    recall: float | None,
) -> "Threshold":
    from vad_training.evaluation_runs import TABLE, dataset_from_folder, identity_of, score_dataset
    from vad_training.thresholds import threshold_from_labels

    if dataset is None:
        raise click.UsageError("Missing option '--dataset'.", click.get_current_context())
    data = dataset_from_folder(dataset, labels_file, (split,))
    choice = open_backend(bundle, backend)
    try:
        with tempfile.TemporaryDirectory(prefix="vad-threshold-") as work:
            scores, failed = score_dataset(
                bundle,
                choice,
                data,
                Path(work),
                name=choice.artefact,
                identity=identity_of(bundle),
            )
    finally:
        choice.backend.close()
    for line in failed:
        click.echo(f"Skipped: {line}", err=True)
    label_set = data.labels.label_set
    if (dataset / TABLE).is_file():
        label_set = f"{label_set}, split {split}"
    return threshold_from_labels(scores.videos, label_set, recall=recall)


def _from_results(
    folder: Path,
    normal: tuple[Path, ...],
    labels_file: Path | None,
    budget: float | None,
    recall: float | None,
) -> "Threshold":
    from vad_runtime.labels import read_labels
    from vad_training.evaluation import common_scoring, read_scores
    from vad_training.normal_scores import stretches_from_results
    from vad_training.thresholds import threshold_from_budget, threshold_from_labels

    if budget is None:
        if labels_file is None:
            raise click.UsageError("Missing option '--labels'.", click.get_current_context())
        labels = read_labels(labels_file)
        return threshold_from_labels(read_scores(folder, labels), labels.label_set, recall=recall)
    if normal:
        raise InputError(
            f"{folder} is no bundle, so no footage can be scored with it. Give a *.vad, or a "
            "results folder of normal footage without --normal."
        )
    stretches = stretches_from_results(folder)
    scoring: Scoring | None = common_scoring(sorted(folder.rglob("report.json")))
    if scoring is None:
        raise InputError(
            f"the reports in {folder} were made with different scorings. Score the footage again."
        )
    return threshold_from_budget(stretches, scoring, budget)
