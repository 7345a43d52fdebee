"""`vad-train weights`."""

from pathlib import Path

import click

_PATH = click.Path(path_type=Path)
_NAMES = ("r2plus1d_18", "r3d_18", "mc3_18", "i3d")


@click.command()
@click.argument("name", type=click.Choice(_NAMES))
@click.option("-o", "--out", "output", type=_PATH, required=True, help="File to write.")
def weights(name: str, output: Path) -> None:
    """Download the published Kinetics-400 weights of the backbone NAME, and check their hash.

    backbone.weights=FILE takes the file. Without a network, take the file from another machine;
    nothing else in vad-edge downloads anything.
    """
    from vad_training.models.backbones.download import download_weights

    download_weights(name, output)
    click.echo(f"{output}: {name}, {output.stat().st_size / 1e6:.1f} MB")
