"""`vad-train`: make footage, train on footage, evaluate scores."""

import importlib
from pathlib import Path
from typing import Literal, NoReturn

import click

from vad_runtime import __version__
from vad_runtime.commands import FiniteFloat, run_command
from vad_runtime.progress import progress

_PATH = click.Path(path_type=Path)


_ELSEWHERE = {
    "analyse": "analyse",
    "data": "data",
    "evaluate": "evaluate",
    "features": "features",
    "fit": "fit",
    "pictures": "pictures",
    "submission": "pictures",
    "threshold": "threshold",
    "weights": "weights",
}
"""Commands that have a module of their own in `vad_training.commands`."""


class _Commands(click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _ELSEWHERE:
            module = importlib.import_module(f"vad_training.commands.{_ELSEWHERE[cmd_name]}")
            command: click.Command = getattr(module, cmd_name)
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
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


def main() -> NoReturn:
    """Entry point of `vad-train`."""
    run_command(cli)
