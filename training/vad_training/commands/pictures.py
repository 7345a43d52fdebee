"""`vad-train pictures` and `vad-train submission`: what people want to see and hand in."""

from pathlib import Path
from typing import Literal

import click

from vad_runtime.contracts import InputError

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("checkpoint", type=_PATH)
@click.argument("video", type=_PATH)
@click.option("-o", "--out", type=_PATH, required=True, help="Folder for the pictures.")
@click.option("--count", type=click.IntRange(1), default=3, show_default=True, help="Clips.")
def pictures(checkpoint: Path, video: Path, out: Path, count: int) -> None:
    """Draw what an STAE makes of VIDEO: a run folder, a checkpoint, or published weights.

    Each picture shows one clip: input, reconstruction, true future, predicted future, and the
    differences. The clip with the largest error comes first, the one with the smallest last.
    """
    from vad_runtime.files import made_folder
    from vad_training.checkpoint import checkpoint_from_path
    from vad_training.config import StaeConfig
    from vad_training.models.stae import STAE
    from vad_training.pictures import clip_pictures, save_picture_rows

    opened = checkpoint_from_path(checkpoint)
    if not isinstance(opened.model, STAE) or not isinstance(opened.config, StaeConfig):
        raise InputError(f"{checkpoint} is of the family {opened.config.family}. Give an STAE.")
    made = clip_pictures(
        opened.model,
        opened.config.clip,
        opened.config.loss.future_offset,
        video,
        count=count,
    )
    made_folder(out)
    for rank, clip in enumerate(made, start=1):
        first, last = clip.indices[0], clip.indices[-1]
        target = out / f"{rank:02d}_frames_{first}-{last}.png"
        save_picture_rows(target, clip, title=f"{video.name}, frames {first} to {last}")
        reconstruction, prediction = clip.errors
        click.echo(f"{target}: reconstruction {reconstruction:.1f}, prediction {prediction:.1f}")


@click.command()
@click.argument("results", type=_PATH)
@click.option("-o", "--out", type=_PATH, required=True, help="The CSV to write.")
@click.option(
    "--column",
    type=click.Choice(["offline", "causal"]),
    default="offline",
    show_default=True,
    help="The papers' score, or what a live run emits.",
)
@click.option(
    "--first-frame",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Number of a video's first frame.",
)
@click.option(
    "--columns", default="Id,Predicted", show_default=True, help="Names of the two columns."
)
def submission(
    results: Path,
    out: Path,
    column: Literal["offline", "causal"],
    first_frame: int,
    columns: str,
) -> None:
    """Write a benchmark's CSV from the RESULTS of `vad-run score`: Id = {video}_{frame}."""
    from vad_training.submission import write_submission

    names = [name.strip() for name in columns.split(",")]
    if len(names) != 2 or not all(names):
        raise InputError(f"--columns {columns!r}: give two names, e.g. Id,Predicted")
    lines = write_submission(results, out, column=column, first_frame=first_frame, columns=names)
    click.echo(f"{out}: {lines} frames")
