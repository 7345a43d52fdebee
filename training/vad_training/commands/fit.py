"""`vad-train fit`: one command for every family; the configuration says which."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vad_runtime.contracts import InputError

if TYPE_CHECKING:
    from vad_training.config import BackboneAeConfig, MilConfig, StaeConfig
    from vad_training.loop import FitResult

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("data", type=_PATH, nargs=-1, required=True)
@click.option("-o", "--run", "folder", type=_PATH, required=True, help="Run folder.")
@click.option("--config", "config_file", type=_PATH, help="YAML; docs/training.md has the keys.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Overrides a key, e.g. family=backbone-ae or optimiser.batch=8. May be repeated.",
)
@click.option("--validation", type=_PATH, help="Normal footage for validation (stae).")
@click.option("--resume", is_flag=True, help="Go on where the run in the folder was stopped.")
def fit(
    data: tuple[Path, ...],
    folder: Path,
    config_file: Path | None,
    settings: tuple[str, ...],
    validation: Path | None,
    resume: bool,
) -> None:
    """Train a model on DATA; the configuration's `family` says which.

    \b
    stae         DATA is normal footage: videos, folders of frames, or folders
                 that hold such
    backbone-ae  DATA is a table of `vad-train data`, or footage as above
    mil          DATA is a folder of `vad-train features`, or one .npz that holds
                 the features of many videos

    Ctrl-C saves a checkpoint; --resume goes on from it, to the bit.
    """  # noqa: D301 - \b is click's mark for text that is not to be wrapped
    from vad_training.config import BackboneAeConfig, MilConfig, read_config
    from vad_training.loop import CONFIG, require_free_run

    if not resume:
        require_free_run(folder)
    elif config_file is None and (folder / CONFIG).is_file():
        config_file = folder / CONFIG
    config = read_config(config_file, settings)
    if validation is not None and config.family != "stae":
        raise InputError(
            f"--validation is for stae; {config.family} takes its validation videos from DATA."
        )
    if isinstance(config, BackboneAeConfig):
        result = _fit_autoencoder(data, folder, config, resume)
    elif isinstance(config, MilConfig):
        result = _fit_mil(data, folder, config, resume)
    else:
        result = _fit_stae(data, folder, config, validation, resume)
    why = ", stopped early" if result.stopped_early else ""
    best = "nothing held back"
    if result.best_loss is not None:
        best = f"best validation loss {result.best_loss:.5f}"
    click.echo(f"{result.folder}: {result.steps} steps, {result.epochs} epochs{why}, {best}")


def _fit_stae(
    footage: Sequence[Path],
    folder: Path,
    config: "StaeConfig",
    validation: Path | None,
    resume: bool,
) -> "FitResult":
    from vad_training.data.store import store_from_footage
    from vad_training.fit_stae import check_clip, fit_stae

    check_clip(config)
    store = store_from_footage(footage, config.clip, folder / "frames")
    held = None
    if validation is not None:
        held = store_from_footage([validation], config.clip, folder / "frames_validation")
    for line in (*store.skipped, *(held.skipped if held else ())):
        _say_skipped(line)
    return fit_stae(store, config, folder, resume=resume, validation=held)


def _fit_autoencoder(
    data: Sequence[Path], folder: Path, config: "BackboneAeConfig", resume: bool
) -> "FitResult":
    from vad_training.data.table import entries_from_paths
    from vad_training.fit_autoencoder import fit_autoencoder

    return fit_autoencoder(
        entries_from_paths(data), config, folder, resume=resume, tell_skipped=_say_skipped
    )


def _fit_mil(data: Sequence[Path], folder: Path, config: "MilConfig", resume: bool) -> "FitResult":
    from vad_training.data.features import feature_set_from_path
    from vad_training.fit_mil import fit_mil

    if len(data) != 1:
        raise InputError("mil takes one folder of features, or one .npz. Give one.")
    return fit_mil(feature_set_from_path(data[0], config.features), config, folder, resume=resume)


def _say_skipped(line: str) -> None:
    click.echo(f"Skipped: {line}", err=True)
