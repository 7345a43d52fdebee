"""`vad-train evaluate`."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from vad_runtime.backends import Choice, backend_names, open_backend
from vad_runtime.backends.base import Options
from vad_runtime.bundle import MANIFEST, Bundle, sha256_of_file
from vad_runtime.contracts import BackendError, Precision
from vad_runtime.labels import read_labels

if TYPE_CHECKING:
    from vad_training.evaluation import ScoreSet
    from vad_training.evaluation_runs import DataSet
    from vad_training.metrics.regions import RegionMetrics

_PATH = click.Path(path_type=Path)
_NAMED = 3
_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16", "int8", "mixed")


@click.command()
@click.argument("target", type=_PATH)
@click.option("--labels", "labels_file", type=_PATH, help="A labels.json.")
@click.option(
    "--dataset", type=_PATH, help="Folder of videos with labels.json, for a bundle or a run."
)
@click.option("-o", "--out", type=_PATH, help="Output folder.  [default: TARGET + .evaluation]")
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    metavar="NAME",
    help=f"Inference engine, for a bundle: auto, {', '.join(backend_names())}.",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(_PRECISIONS),
    multiple=True,
    help="May be repeated.  [default: fp32, bf16 where the bundle's parity report allows it, and "
    "every other graph of the bundle]",
)
@click.option("--form", help="What a score is made of, for a training run.")
@click.option(
    "--offline",
    metavar="STEPS",
    help="Another offline column, from the raw scores: some of minmax, inverse, median=WIDTH, "
    "gaussian=SIGMA, separated by commas.",
)
@click.option(
    "--masks", type=_PATH, help="Folder of pixel masks: RBDC and TBDC of results with regions."
)
def evaluate(
    target: Path,
    labels_file: Path | None,
    dataset: Path | None,
    out: Path | None,
    backend: str,
    precisions: tuple[str, ...],
    form: str | None,
    offline: str | None,
    masks: Path | None,
) -> None:
    """Compare scores with the truth, frame by frame.

    \b
    TARGET is   a results folder of `vad-run score`; give --labels
                a bundle (*.vad); give --dataset
                a run folder of `vad-train fit`; give --dataset

    Two columns: causal is what a live run emits; offline is the papers' score, which needs the
    whole video. With an output folder: evaluation.json, videos.csv, curves.png, and the results
    of each video, which a second call uses again.
    """  # noqa: D301 - \b is click's mark for text that is not to be wrapped
    from vad_training.evaluation_regions import measured_regions

    steps = offline.split(",") if offline is not None else None
    scored: list[tuple[Path, ScoreSet]]
    if _is_bundle(target) or (target / "config.yaml").is_file():
        if dataset is None:
            raise click.UsageError("Missing option '--dataset'.", click.get_current_context())
        from vad_training.evaluation_runs import dataset_from_folder

        data = dataset_from_folder(dataset, labels_file)
        out = out or Path(f"{target.resolve().name}.evaluation")
        asked = cast("tuple[Precision, ...]", precisions)
        label_set, left_out = data.labels.label_set, list(data.left_out)
        scored = []
        for model in _models(target, backend, asked, form):
            with model as opened:
                if isinstance(opened, str):
                    click.echo(opened, err=True)
                    continue
                click.echo(f"{opened.name}: {opened.choice.line}")
                scored.append((out / opened.name, _scored(opened, data, out, steps, left_out)))
    else:
        if labels_file is None:
            raise click.UsageError("Missing option '--labels'.", click.get_current_context())
        label_set, left_out = read_labels(labels_file).label_set, []
        scored = [(target, _results(target, labels_file, steps))]
    regions = [None if masks is None else measured_regions(folder, masks) for folder, _ in scored]
    _report([scores for _, scores in scored], regions, label_set, left_out, out)


@dataclass(frozen=True, kw_only=True)
class _Model:
    name: str
    bundle: Bundle
    choice: Choice
    identity: str


def _is_bundle(target: Path) -> bool:
    return target.suffix == ".vad" or (target / MANIFEST).is_file()


def _models(
    target: Path, backend: str, precisions: Sequence[Precision], form: str | None
) -> "Iterator[AbstractContextManager[_Model | str]]":
    """Yield a context for each way to run the target; it gives a `_Model`, or why it cannot run."""
    if not _is_bundle(target):
        yield _run_model(target, form)
        return
    bundle = Bundle.open(target)
    for precision in dict.fromkeys(precisions or _precisions_of(bundle)):
        must = precision in precisions or precision == "fp32"
        yield _bundle_model(bundle, backend, precision, must=must)


def _precisions_of(bundle: Bundle) -> list[Precision]:
    """Return fp32 first, which the others are compared with, and what else the bundle has."""
    there = {artefact.precision for artefact in bundle.manifest.artefacts.values()}
    if (bundle.manifest.parity or {}).get("bf16_allowed"):
        there.add("bf16")
    return [name for name in _PRECISIONS if name == "fp32" or name in there]


@contextmanager
def _bundle_model(
    bundle: Bundle, backend: str, precision: Precision, *, must: bool
) -> Iterator[_Model | str]:
    from vad_training.evaluation_runs import identity_of

    try:
        choice = open_backend(bundle, backend, Options(precision=precision))
    except BackendError as error:
        if must:
            raise
        yield f"{precision} is left out: {error}"
        return
    try:
        identity = identity_of(bundle, choice.artefact)
        yield _Model(name=precision, bundle=bundle, choice=choice, identity=identity)
    finally:
        choice.backend.close()


@contextmanager
def _run_model(run: Path, form: str | None) -> Iterator[_Model]:
    from vad_training.torch_backend import open_run

    manifest, backend = open_run(run, form=form)
    try:
        yield _Model(
            name="pytorch",
            bundle=Bundle(run, manifest),
            choice=Choice(
                backend=backend, name="pytorch", artefact="best.pt", reason="a training run"
            ),
            identity=f"{sha256_of_file(run / 'best.pt')} {manifest.score.form}",
        )
    finally:
        backend.close()


def _scored(
    model: _Model, data: "DataSet", out: Path, steps: list[str] | None, left_out: list[str]
) -> "ScoreSet":
    from vad_training.evaluation_runs import score_dataset

    scores, failed = score_dataset(
        model.bundle,
        model.choice,
        data,
        out / model.name,
        name=model.name,
        identity=model.identity,
        steps=steps,
    )
    left_out += [line for line in failed if line not in left_out]
    return scores


def _results(target: Path, labels_file: Path, steps: list[str] | None) -> "ScoreSet":
    from vad_training.evaluation import STORED_OFFLINE, ScoreSet, common_scoring, read_scores

    return ScoreSet(
        name="",
        videos=read_scores(target, read_labels(labels_file), steps),
        scoring=common_scoring(sorted(target.rglob("report.json"))),
        offline=STORED_OFFLINE if steps is None else ", ".join(steps),
    )


def _report(
    sets: "Sequence[ScoreSet]",
    regions: "Sequence[RegionMetrics | None]",
    label_set: str,
    left_out: list[str],
    out: Path | None,
) -> None:
    from vad_training.evaluation import compared, measured
    from vad_training.evaluation_report import delta_lines, lines_of, write_evaluation

    click.echo(f"labels: {label_set}; {len(sets[0].videos)} videos")
    figures = {}
    for scores, places in zip(sets, regions, strict=True):
        figures[scores.name or "results"] = found = measured(scores)
        if places is not None:
            found["regions"] = asdict(places)
        for line in lines_of(scores, found):
            click.echo(line)
    deltas = {}
    for scores in sets[1:]:
        deltas[scores.name] = compared(sets[0], scores)
        for line in delta_lines(scores.name, sets[0].name, deltas[scores.name]):
            click.echo(line)
    one_class = figures[sets[0].name or "results"]["causal"]["not_in_macro"]
    if one_class:
        names = ", ".join(Path(name).name for name in one_class)
        click.echo(f"not in the macro mean (one class only): {names}")
    for line in left_out[:_NAMED]:
        click.echo(f"left out: {line}", err=True)
    if len(left_out) > _NAMED:
        where = f"evaluation.json in {out}" if out else "--dataset"
        click.echo(f"left out: {len(left_out) - _NAMED} more, see {where}", err=True)
    if out is not None:
        about = {
            "label_set": label_set,
            "videos": [video.name for video in sets[0].videos],
            "left_out": left_out,
            "deltas": {"reference": sets[0].name, **deltas} if deltas else {},
        }
        write_evaluation(out, sets, figures, about)
        click.echo(f"{out}: evaluation.json, videos.csv, curves.png")
