"""`vad-train`: make footage, train on footage, evaluate scores."""

from pathlib import Path
from typing import Literal, NoReturn

import click

from vad_runtime import __version__
from vad_runtime.commands import FiniteFloat, run_command
from vad_runtime.labels import read_labels
from vad_runtime.progress import progress

_PATH = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vad-train")
def cli() -> None:
    """Train video-anomaly models on a workstation."""


@cli.command()
@click.argument("folder", type=_PATH)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The site.")
@click.option("--train-clips", type=click.IntRange(1), default=8, show_default=True)
@click.option(
    "--train-seconds", type=FiniteFloat(0, min_open=True), default=40.0, show_default=True
)
@click.option("--val-clips", type=click.IntRange(1), default=4, show_default=True)
@click.option("--val-seconds", type=FiniteFloat(0, min_open=True), default=30.0, show_default=True)
@click.option("--test-clips", type=click.IntRange(0), default=10, show_default=True)
@click.option("--test-seconds", type=FiniteFloat(0, min_open=True), default=20.0, show_default=True)
@click.option(
    "--crowd",
    type=click.Choice(["calm", "busy"]),
    default="calm",
    show_default=True,
    help="calm: anomalies happen in a forecourt that is empty otherwise. busy: among up to five "
    "people, which is much harder.",
)
def synth(
    folder: Path,
    seed: int,
    train_clips: int,
    train_seconds: float,
    val_clips: int,
    val_seconds: float,
    test_clips: int,
    test_seconds: float,
    crowd: Literal["calm", "busy"],
) -> None:
    """Draw a fixed-camera scene into FOLDER: train/, val/ and test/ videos and labels.json.

    Test videos hold a runner, a cyclist, a thrown object, someone lying down or someone going the
    wrong way; labels.json says in which frames. The same seed gives the same files.
    """
    from vad_training.synth import SynthConfig, synth_dataset, total_frames

    config = SynthConfig(
        seed=seed,
        train_clips=train_clips,
        train_seconds=train_seconds,
        val_clips=val_clips,
        val_seconds=val_seconds,
        test_clips=test_clips,
        test_seconds=test_seconds,
        crowd=crowd,
    )
    with progress("drawing, frames", total_frames(config)) as bar:
        labels = synth_dataset(folder, config, bar.advance)
    click.echo(f"{folder}: {total_frames(config)} frames, truth in {labels}")


@cli.command()
@click.argument("footage", type=_PATH, nargs=-1, required=True)
@click.option("-o", "--run", "folder", type=_PATH, required=True, help="Run folder.")
@click.option("--config", "config_file", type=_PATH, help="YAML; docs/training.md has the keys.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Overrides a key, e.g. optimiser.batch=8. May be repeated.",
)
@click.option("--validation", type=_PATH, help="Normal footage for validation.")
@click.option("--resume", is_flag=True, help="Go on where the run in the folder was stopped.")
def fit(
    footage: tuple[Path, ...],
    folder: Path,
    config_file: Path | None,
    settings: tuple[str, ...],
    validation: Path | None,
    resume: bool,
) -> None:
    """Train an STAE on FOOTAGE: videos, folders of frames, or folders that hold such.

    FOOTAGE must be normal. Ctrl-C saves a checkpoint; --resume goes on from it, to the bit.
    """
    from vad_training.config import read_config
    from vad_training.data.store import store_from_footage
    from vad_training.fit import CONFIG, check_clip, fit_stae, require_free_run

    if not resume:
        require_free_run(folder)
    elif config_file is None and (folder / CONFIG).is_file():
        config_file = folder / CONFIG
    config = read_config(config_file, settings)
    check_clip(config)
    store = store_from_footage(footage, config.clip, folder / "frames")
    held = None
    if validation is not None:
        held = store_from_footage([validation], config.clip, folder / "frames_validation")
    for line in (*store.skipped, *(held.skipped if held else ())):
        click.echo(f"Skipped: {line}", err=True)
    result = fit_stae(store, config, folder, resume=resume, validation=held)
    why = ", stopped early" if result.stopped_early else ""
    click.echo(
        f"{result.folder}: {result.steps} steps, {result.epochs} epochs{why}, "
        f"best validation loss {result.best_loss:.5f}"
    )


@cli.command()
@click.argument("results", type=_PATH)
@click.option("--labels", "labels_file", type=_PATH, required=True, help="A labels.json.")
def evaluate(results: Path, labels_file: Path) -> None:
    """Compare the RESULTS folder of `vad-run score` with the truth: frame-level AUC.

    Two columns: causal is what a live run emits; offline is the papers' score, which needs the
    whole video.
    """
    from vad_training.evaluation import auc_of, read_scores

    labels = read_labels(labels_file)
    videos = read_scores(results, labels)
    click.echo(f"labels: {labels.label_set}; {len(videos)} videos")
    columns = ["causal"] + (["offline"] if all(v.offline is not None for v in videos) else [])
    for column in columns:
        auc = auc_of(videos, column)
        click.echo(f"{column:8}  micro AUC {auc.micro:.4f}  macro AUC {auc.macro:.4f}")
    left_out = auc_of(videos, "causal").left_out
    if left_out:
        names = ", ".join(Path(name).name for name in left_out)
        click.echo(f"not in the macro mean (one class only): {names}")


def main() -> NoReturn:
    """Entry point of `vad-train`."""
    run_command(cli)
