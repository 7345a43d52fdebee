"""`vad-export`: from a checkpoint or from footage to a bundle."""

from pathlib import Path
from typing import NoReturn

import click

from vad_runtime import __version__
from vad_runtime.bundle import Bundle
from vad_runtime.commands import FiniteFloat, run_command
from vad_runtime.contracts import ConfigError, InputError

_PATH = click.Path(path_type=Path)
# At the median, which becomes 0, or below it there is no scale.
_QUANTILE = FiniteFloat(0.5, 1, min_open=True)
_FORMS = ("reconstruction", "prediction", "both", "lookahead")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vad-export")
def cli() -> None:
    """Make bundles that vad-run understands, and change their settings."""


@cli.command("onnx")
@click.argument("checkpoint", type=_PATH)
@click.option("-o", "--out", type=_PATH, required=True, help="The bundle to write, NAME.vad.")
@click.option(
    "--form",
    type=click.Choice(_FORMS),
    default="reconstruction",
    show_default=True,
    help="What a score is made of; see docs/bundle-format.md.",
)
@click.option(
    "--alpha", type=FiniteFloat(0), default=1.0, show_default=True, help="Prediction's weight."
)
@click.option(
    "--future-offset",
    type=click.IntRange(1),
    help="Frames from a clip to its future (form lookahead).  [default: the training's]",
)
@click.option("--hop", type=click.IntRange(1), help="Source frames from clip to clip.")
@click.option("--resizer", type=click.Choice(["exact", "fast"]), help="[default: the training's]")
@click.option(
    "--output",
    "outputs",
    multiple=True,
    help="An optional output: latent, reconstruction, prediction. May be repeated.",
)
@click.option("--clips", type=_PATH, help="Real footage for the check against PyTorch.")
@click.option(
    "--normal", type=_PATH, help="Normal footage: normaliser and threshold are chosen from it."
)
@click.option("--quantile", type=_QUANTILE, default=0.999, show_default=True)
@click.option("--name", help="Name of the model.  [default: stae]")
@click.option("--licence", default="unspecified", show_default=True, help="Of the weights.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
def onnx(
    checkpoint: Path,
    out: Path,
    form: str,
    alpha: float,
    future_offset: int | None,
    hop: int | None,
    resizer: str | None,
    outputs: tuple[str, ...],
    clips: Path | None,
    normal: Path | None,
    quantile: float,
    name: str | None,
    licence: str,
    overwrite: bool,
) -> None:
    """Export CHECKPOINT (a run folder, a checkpoint, or published STAE weights) as a bundle.

    The graph is compared with PyTorch on clips; a bundle that differs is not written.
    """
    import msgspec

    from vad_export.bundles import bundle_from_checkpoint
    from vad_export.graphs import ScoreForm
    from vad_runtime.sources import find_sources
    from vad_training.checkpoint import checkpoint_from_path

    opened = checkpoint_from_path(checkpoint)
    config = opened.config
    clip = config.clip
    try:
        clip = msgspec.structs.replace(clip, hop=hop or clip.hop, resizer=resizer or clip.resizer)
    except ValueError as error:
        raise ConfigError(f"{error}. Change --hop or --resizer.") from None
    score_form = ScoreForm(
        form=form,  # type: ignore[arg-type]  # click.Choice has checked it
        alpha=alpha,
        future_offset=future_offset or config.loss.future_offset,
    )
    footage = find_sources(clips or normal) if (clips or normal) else []  # type: ignore[arg-type]
    bundle = bundle_from_checkpoint(
        opened,
        out,
        form=score_form,
        outputs=outputs,
        footage=footage,
        normal=normal,
        quantile=quantile,
        clip=clip,
        name=name,
        licence=licence,
        overwrite=overwrite,
    )
    _say_parity(bundle)
    click.echo(f"{bundle.path}: {form} score, {bundle.manifest.clip.frames} frames in")


def _say_parity(bundle: Bundle) -> None:
    parity = bundle.manifest.parity or {}
    if not parity.get("real_clips", True):
        click.echo("checked on seeded noise; --clips FOOTAGE checks on real clips and allows bf16")
    for engine, found in parity.get("engines", {}).items():
        if "max_of_scale" in found:
            share = f"{found['max_of_scale']:.1e} of the scores' scale"
            click.echo(f"{engine}: differs from PyTorch by at most {share}")
        else:
            click.echo(f"{engine}: not checked ({found['not_run']})")


@cli.command("set")
@click.argument("bundle", type=_PATH)
@click.argument("settings", nargs=-1, required=True, metavar="KEY=VALUE...")
def set_command(bundle: Path, settings: tuple[str, ...]) -> None:
    """Change settings of BUNDLE outside its graph, e.g. threshold=1.2 or smoothing=median."""
    from vad_export.settings import set_values

    changed = set_values(Bundle.open(bundle), settings)
    click.echo(f"{bundle}: {' '.join(settings)} (threshold {changed.manifest.scoring.threshold})")


@cli.command()
@click.option(
    "--normal",
    type=_PATH,
    multiple=True,
    required=True,
    help="Normal footage: a video, a folder of frames, or a folder that holds such.",
)
@click.option("-o", "--out", type=_PATH, required=True, help="The bundle to write, NAME.vad.")
@click.option(
    "--minutes",
    type=FiniteFloat(0, min_open=True),
    default=5.0,
    show_default=True,
    help="Time for training.",
)
@click.option(
    "--validation",
    type=_PATH,
    help="Normal footage for the threshold.  [default: a part of --normal is held back]",
)
@click.option(
    "--form",
    type=click.Choice(_FORMS[:3]),
    help="What a score is made of.  [default: reconstruction]",
)
@click.option(
    "--quantile",
    type=_QUANTILE,
    default=0.999,
    show_default=True,
    help="Share of normal frames that stay below the level of the threshold.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--run", "run_folder", type=_PATH, help="Run folder.  [default: NAME.run]")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
def deploy(
    normal: tuple[Path, ...],
    out: Path,
    minutes: float,
    validation: Path | None,
    form: str | None,
    quantile: float,
    seed: int,
    run_folder: Path | None,
    overwrite: bool,
) -> None:
    """Turn normal footage into a checked bundle with a threshold, in one go.

    Interrupted, it goes on where it was when the same command is given again.
    """
    from vad_export.deploy import DEFAULT_FORM, DeployOptions
    from vad_export.deploy import deploy as run_deploy
    from vad_export.graphs import ScoreForm

    if out.suffix != ".vad":
        raise InputError(f"{out} must end with .vad, for example {out.name}.vad")
    options = DeployOptions(
        minutes=minutes,
        form=ScoreForm(form=form) if form else DEFAULT_FORM,  # type: ignore[arg-type]
        quantile=quantile,
        seed=seed,
        validation=[validation] if validation else [],
        overwrite=overwrite,
    )
    folder = run_folder or out.with_suffix(".run")
    bundle = run_deploy(normal, out, folder, options, click.echo)
    click.echo(f"{bundle.path} is ready: vad-run watch {bundle.path} VIDEO")


def main() -> NoReturn:
    """Entry point of `vad-export`."""
    run_command(cli)
