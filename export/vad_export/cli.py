"""`vad-export`: from a checkpoint or from footage to a bundle."""

from pathlib import Path
from typing import NoReturn

import click

from vad_export.commands import (
    build_engine,
    calibrate,
    explain,
    inspect,
    plan,
    quantise,
    triton,
    verify,
)
from vad_runtime import __version__
from vad_runtime.bundle import Bundle
from vad_runtime.commands import FiniteFloat, run_command
from vad_runtime.contracts import ConfigError, InputError

_PATH = click.Path(path_type=Path)
# At the median, which becomes 0, or below it there is no scale.
_QUANTILE = FiniteFloat(0.5, 1, min_open=True)
_STAE_FORMS = ("reconstruction", "prediction", "both", "lookahead")
_FORMS = (*_STAE_FORMS, "error", "distance", "latent_distance", "probability")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vad-export")
def cli() -> None:
    """Make bundles that vad-run understands, and change their settings."""


for _module in (calibrate, quantise, verify, plan, build_engine, inspect, explain, triton):
    cli.add_command(_module.command)


@cli.command("onnx")
@click.argument("checkpoint", type=_PATH)
@click.option("-o", "--out", type=_PATH, required=True, help="The bundle to write, NAME.vad.")
@click.option(
    "--form",
    type=click.Choice(_FORMS),
    metavar="FORM",
    help="What a score is made of: reconstruction, prediction, both, lookahead (stae); error, "
    "distance, latent_distance (backbone-ae); probability (mil). docs/bundle-format.md explains "
    "them.  [default: the family's first]",
)
@click.option("--alpha", type=FiniteFloat(0), help="Weight of the prediction (stae).  [default: 1]")
@click.option(
    "--future-offset",
    type=click.IntRange(1),
    help="Frames from a clip to its future (stae, lookahead).  [default: the training's]",
)
@click.option(
    "--head-only",
    is_flag=True,
    help="The head without its backbone, for precomputed features (mil).",
)
@click.option(
    "--weights",
    type=_PATH,
    help="Weights of the backbone that computed the features (mil).  [default: the training's]",
)
@click.option("--mean", type=_PATH, help="Its mean cube (mil with c3d).")
@click.option("--hop", type=click.IntRange(1), help="Source frames from clip to clip.")
@click.option(
    "--resizer",
    type=click.Choice(["exact", "fast", "portable"]),
    help="[default: the training's]",
)
@click.option(
    "--output",
    "outputs",
    multiple=True,
    help="An optional output, e.g. latent or embedding; docs/bundle-format.md lists them. May be "
    "repeated.",
)
@click.option(
    "--clips",
    type=_PATH,
    help="Real footage (with --head-only: features) for the check against PyTorch.  [default: "
    "that of --normal]",
)
@click.option(
    "--normal",
    type=_PATH,
    multiple=True,
    help="Normal footage that was not trained on, or a table (its split val): normaliser and "
    "threshold are chosen from it. May be repeated.",
)
@click.option("--quantile", type=_QUANTILE, default=0.999, show_default=True)
@click.option(
    "--passes/--no-passes",
    default=True,
    show_default=True,
    help="Rewrite the graph exactly where that is faster on this machine.",
)
@click.option("--name", help="Name of the model.  [default: its family]")
@click.option("--licence", default="unspecified", show_default=True, help="Of the weights.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
def onnx(
    checkpoint: Path,
    out: Path,
    form: str | None,
    alpha: float | None,
    future_offset: int | None,
    head_only: bool,
    weights: Path | None,
    mean: Path | None,
    hop: int | None,
    resizer: str | None,
    outputs: tuple[str, ...],
    clips: Path | None,
    normal: tuple[Path, ...],
    quantile: float,
    passes: bool,
    name: str | None,
    licence: str,
    overwrite: bool,
) -> None:
    """Export CHECKPOINT (a run folder, a checkpoint, or published weights) as a bundle.

    The graph is compared with PyTorch on clips; a bundle that differs is not written.
    """
    from dataclasses import replace

    import msgspec

    from vad_export.bundles import bundle_from_graph, pass_lines
    from vad_training.checkpoint import checkpoint_from_path
    from vad_training.data.holdout import normal_footage
    from vad_training.graphs import graph_from_checkpoint

    if head_only and (hop or resizer):
        raise ConfigError("a head alone decodes no video. Leave out --hop and --resizer.")
    graph = graph_from_checkpoint(
        checkpoint_from_path(checkpoint),
        form=form,
        alpha=alpha,
        future_offset=future_offset,
        outputs=outputs,
        head_only=head_only,
        weights=weights,
        mean=mean,
    )
    try:
        clip = msgspec.structs.replace(
            graph.clip, hop=hop or graph.clip.hop, resizer=resizer or graph.clip.resizer
        )
    except ValueError as error:
        raise ConfigError(f"{error}. Change --hop or --resizer.") from None
    chosen_from = normal_footage(normal)
    footage = chosen_from
    if clips:
        footage = [clips] if head_only else normal_footage([clips])
    bundle = bundle_from_graph(
        replace(graph, clip=clip),
        out,
        footage=footage,
        normal=chosen_from,
        quantile=quantile,
        name=name,
        licence=licence,
        overwrite=overwrite,
        passes=passes,
    )
    for line in pass_lines(bundle):
        click.echo(line)
    _say_parity(bundle)
    click.echo(f"{bundle.path}: {bundle.manifest.score.form} score, {_input(bundle)} in")


def _input(bundle: Bundle) -> str:
    spec = bundle.manifest.features
    if spec is not None:
        return f"{spec.segments} features of {spec.size} numbers"
    return f"{bundle.manifest.clip.frames} frames"


def _say_parity(bundle: Bundle) -> None:
    parity = bundle.manifest.parity or {}
    if not parity.get("real_clips", True):
        click.echo("checked on seeded noise; --clips FOOTAGE checks on real clips and allows bf16")
    for engine, found in parity.get("engines", {}).items():
        if "max_of_scale" in found:
            share = f"{found['max_of_scale']:.1e} of the scores' scale"
            same = f", cosine {found['least_cosine']:.6f}" if "least_cosine" in found else ""
            click.echo(f"{engine}: differs from PyTorch by at most {share}{same}")
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
    plan = changed.manifest.plan
    if plan is not None and plan.precision not in ("fp32", "bf16"):
        click.echo(
            f"vad-run follows the plan ({plan.precision}), which was verified with the settings "
            "before. Run vad-export verify and plan again."
        )


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
    type=click.Choice(_STAE_FORMS[:3]),
    help="What a score is made of.  [default: reconstruction]",
)
@click.option(
    "--quantile",
    type=_QUANTILE,
    default=0.999,
    show_default=True,
    help="Share of normal frames that stay below the level of the threshold.",
)
@click.option(
    "--target-ms",
    type=FiniteFloat(0, min_open=True),
    help="Longest time for a clip on this machine.  [default: the time from clip to clip]",
)
@click.option("--int8", is_flag=True, help="Make INT8 even where a wider precision is fast enough.")
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
    target_ms: float | None,
    int8: bool,
    seed: int,
    run_folder: Path | None,
    overwrite: bool,
) -> None:
    """Turn normal footage into a checked bundle with a threshold, in one go.

    The most faithful precision that is fast enough on this machine is chosen; INT8 is made where
    none of the wider ones is, and taken where it decides the same.

    Interrupted, it goes on where it was when the same command is given again.
    """
    from vad_export.deploy import DEFAULT_FORM, DeployOptions
    from vad_export.deploy import deploy as run_deploy
    from vad_training.graphs.stae import ScoreForm

    if out.suffix != ".vad":
        raise InputError(f"{out} must end with .vad, for example {out.name}.vad")
    options = DeployOptions(
        minutes=minutes,
        form=ScoreForm(form=form) if form else DEFAULT_FORM,  # type: ignore[arg-type]
        quantile=quantile,
        seed=seed,
        target_ms=target_ms,
        int8=int8,
        validation=[validation] if validation else [],
        overwrite=overwrite,
    )
    folder = run_folder or out.with_suffix(".run")
    bundle = run_deploy(normal, out, folder, options, click.echo)
    click.echo(f"{bundle.path} is ready: vad-run watch {bundle.path} VIDEO")


def main() -> NoReturn:
    """Entry point of `vad-export`."""
    run_command(cli)
