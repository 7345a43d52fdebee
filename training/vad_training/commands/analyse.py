"""`vad-train analyse`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vad_runtime.commands import FiniteFloat
from vad_runtime.contracts import InputError
from vad_runtime.progress import progress

if TYPE_CHECKING:
    from vad_training.analysis.table import ClipTable

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("source", type=_PATH, metavar="RUN_OR_CSV")
@click.option("-o", "--out", "folder", type=_PATH, required=True, help="Folder to make.")
@click.option(
    "--threshold",
    type=FiniteFloat(),
    help="Also show this threshold on the reconstruction error, beside the default one.",
)
@click.option(
    "--embedding-threshold",
    type=FiniteFloat(),
    help="The same for the distance of the embedding to the nearest class centroid.",
)
@click.option(
    "--latent-threshold",
    type=FiniteFloat(),
    help="The same for the distance of the latent to the nearest class centroid.",
)
@click.option(
    "--reference",
    metavar="CLASS",
    help="Class of interest, for the confusion matrix; default: the only class that was learnt.",
)
@click.option(
    "--points",
    type=click.IntRange(4),
    default=3000,
    show_default=True,
    help="Draw at most so many clips in t-SNE and UMAP.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--cache", type=_PATH, help="Cache of embeddings; default: the one that fit uses.")
@click.option("--overwrite", is_flag=True, help="Replace an analysis that stands in the folder.")
def analyse(
    source: Path,
    folder: Path,
    threshold: float | None,
    embedding_threshold: float | None,
    latent_threshold: float | None,
    reference: str | None,
    points: int,
    seed: int,
    cache: Path | None,
    overwrite: bool,
) -> None:
    """Explain a trained model with pictures and tables; open index.html in the folder to see them.

    RUN_OR_CSV is a run folder of the family backbone-ae, or a CSV with a row for every scored clip
    and the columns class, split (train, val, test or anomaly) and error; video, first_frame,
    embedding_distance and latent_distance (to the centroid of the clip's own class) may be there,
    and so may embedding_distance:CLASS and latent_distance:CLASS for every class.

    It shows how errors and distances are spread by split and class, what each threshold decides in
    each split, ROC curves, the class of interest against the others, and the clips on a plane
    (t-SNE; UMAP where umap-learn is installed). What the data does not allow is left out, and the
    page says why. The default threshold is chosen on validation clips, never on test clips.
    """
    from vad_training.analysis.analyses import ANALYSES, sections_of
    from vad_training.analysis.options import Options
    from vad_training.analysis.report import require_free_folder, write_report

    require_free_folder(folder, overwrite=overwrite)
    table = _table_of(source, cache)
    asked = {
        "error": threshold,
        "embedding": embedding_threshold,
        "latent": latent_threshold,
    }
    options = Options(
        thresholds={key: value for key, value in asked.items() if value is not None},
        reference=reference,
        seed=seed,
        most_points=points,
    )
    with progress("analysing, parts", len(ANALYSES)) as bar:
        sections = sections_of(table, options, bar.advance)
    pictures = sum(len(section.pictures) for section in sections)
    title = source.absolute().name  # of `.` too
    with progress("drawing, pictures", pictures) as bar:
        page = write_report(
            folder, title, table, sections, overwrite=overwrite, after_picture=bar.advance
        )
    left_out = sum(len(section.left_out) for section in sections)
    click.echo(f"{page}: {len(table)} clips, {pictures} pictures, {left_out} notes on gaps")


def _table_of(source: Path, cache: Path | None) -> "ClipTable":
    if not os.path.isdir(source):  # noqa: PTH112 - Path raises for a name that is too long
        if cache is not None:
            raise InputError("--cache goes with a run folder; a CSV needs no embeddings. Drop it.")
        from vad_training.analysis.table import read_clip_table

        return read_clip_table(source)
    from vad_training.analysis.run import clip_table_from_run
    from vad_training.embeddings import EmbeddingCache

    found = clip_table_from_run(source, None if cache is None else EmbeddingCache(cache))
    for line in found.skipped:
        click.echo(f"Skipped: {line}", err=True)
    return found.table
