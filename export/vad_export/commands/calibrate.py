"""`vad-export calibrate`: choose clips that stand for a site, and measure ranges on them."""

from pathlib import Path

import click

_PATH = click.Path(path_type=Path)


@click.command("calibrate")
@click.argument("bundle", type=_PATH)
@click.option(
    "--clips",
    type=_PATH,
    required=True,
    help="Real footage: a video, a folder, a list (.txt), or a table (its split val). For "
    "one-class models normal footage only; features for a head alone.",
)
@click.option(
    "--count", type=click.IntRange(1), default=128, show_default=True, help="How many clips."
)
@click.option(
    "--labels",
    type=_PATH,
    help="A labels.json: videos with an anomaly are left out for one-class models.  [default: the "
    "one in the footage's folder]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("-o", "--out", type=_PATH, help="Folder to write.  [default: NAME.calibration]")
@click.option(
    "--ranges/--no-ranges",
    default=True,
    show_default=True,
    help="Measure the ranges at once; else vad-export quantise does.",
)
@click.option("--threads", type=click.IntRange(1), help="[default: all this process may use]")
def command(
    bundle: Path,
    clips: Path,
    count: int,
    labels: Path | None,
    seed: int,
    out: Path | None,
    ranges: bool,
    threads: int | None,
) -> None:
    """Choose clips of real footage for BUNDLE, and measure what its layers see of them.

    Clips are chosen whole, to cover motion and brightness; look at sheet.png. The same command,
    given again after Ctrl-C, goes on where it was.
    """
    from vad_export.calibration import choose_inputs
    from vad_export.precision import measured_ranges
    from vad_runtime.bundle import Bundle

    opened = Bundle.open(bundle)
    folder = out or default_folder(bundle)
    for line in choose_inputs(
        opened.manifest, clips, count, folder, check=32, seed=seed, labels=labels
    ):
        click.echo(line)
    if ranges:
        found = measured_ranges(opened, folder, threads=threads)
        click.echo(f"ranges of {len(found.histograms)} tensors from {found.inputs} inputs")
    click.echo(f"{folder}: next, vad-export quantise {bundle} --calibration {folder}")


def default_folder(bundle: Path) -> Path:
    """Return the calibration folder of a bundle where none is named."""
    # A folder that was entered is called `.`, which says nothing of its name.
    named = bundle if bundle.name not in ("", "..") else bundle.resolve()
    return named.with_name(f"{named.stem}.calibration")
