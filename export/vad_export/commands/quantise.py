"""`vad-export quantise`: add INT8 and FP16 graphs to a bundle."""

from pathlib import Path

import click

_PATH = click.Path(path_type=Path)


@click.command("quantise")
@click.argument("bundle", type=_PATH)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["int8", "fp16", "mixed"]),
    multiple=True,
    default=["int8"],
    show_default=True,
    help="What to make; mixed = int8 and fp16 in one graph, for GPUs. May be repeated.",
)
@click.option("--calibration", type=_PATH, help="Folder of vad-export calibrate.")
@click.option("--config", type=_PATH, help="YAML; docs/precision.md lists the keys.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A key of the configuration, e.g. method=entropy. May be repeated.",
)
def command(
    bundle: Path,
    precisions: tuple[str, ...],
    calibration: Path | None,
    config: Path | None,
    settings: tuple[str, ...],
) -> None:
    """Add graphs of other precisions to BUNDLE.

    INT8 is proved on clips of the calibration's footage; where the scores leave the budget, the
    fewest layers go back to floating point. vad-export verify is the gate that comes next.
    """
    from vad_export.commands.calibrate import default_folder
    from vad_export.precision import quantise
    from vad_export.precision_config import read_precision_config
    from vad_runtime.bundle import Bundle

    chosen = read_precision_config(config, settings)
    if calibration is None and default_folder(bundle).is_dir():
        calibration = default_folder(bundle)
    opened = Bundle.open(bundle)
    before = {name: artefact.bytes for name, artefact in opened.manifest.artefacts.items()}
    made = quantise(opened, precisions, calibration, chosen, click.echo)  # type: ignore[arg-type]  # click has checked them
    whole = before.get("fp32") or 1
    for name in dict.fromkeys(precisions):
        size = made.manifest.artefacts[name].bytes
        click.echo(f"{name}: {size / 1e6:.1f} MB, {size / whole:.0%} of fp32")
    click.echo(f"{bundle}: next, vad-export verify {bundle} --clips FOOTAGE")
