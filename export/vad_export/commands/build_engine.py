"""`vad-export build-engine`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vad_runtime.contracts import ConfigError, ExportError

if TYPE_CHECKING:
    from vad_export.engine.build import Built

_PATH = click.Path(path_type=Path)


@click.command("build-engine")
@click.argument("bundle", type=_PATH)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp32", "fp16", "int8", "mixed"]),
    multiple=True,
    help="Which graph. May be repeated.  [default: fp16 if the bundle has it, else fp32]",
)
@click.option(
    "--flavour",
    type=click.Choice(["auto", "tensorrt", "rtx"]),
    default="auto",
    show_default=True,
    help="tensorrt builds for this machine's GPU; rtx builds for several and needs none here.",
)
@click.option(
    "--batch",
    default="1",
    show_default=True,
    metavar="N[,N…]",
    help="Clips that run at once, one optimisation profile for each number.",
)
@click.option(
    "--sm",
    metavar="SM[,SM…]",
    help="Compute capabilities to build for, e.g. 86,89 (rtx).  [default: Ampere and later]",
)
@click.option(
    "--workspace",
    type=click.IntRange(1),
    metavar="MB",
    help="Scratch memory.  [default: about half of what is free, a quarter on a Jetson]",
)
@click.option("--timing-cache", type=_PATH, help="File that keeps timings of kernels (tensorrt).")
@click.option(
    "--version-compatible",
    is_flag=True,
    help="The lean runtime of the same version loads it too; with --host-code, so do later "
    "versions of the same major version (tensorrt).",
)
@click.option(
    "--host-code",
    is_flag=True,
    help="Put the lean runtime into a version-compatible plan, which is how later versions load "
    "it; vad-run asks for --host-code then.",
)
@click.option("--hardware-compatible", is_flag=True, help="GPUs from Ampere on run it (tensorrt).")
@click.option(
    "--opt-level",
    type=click.IntRange(0, 5),
    help="How hard to look for fast kernels (tensorrt).  [default: 3]",
)
@click.option(
    "--dla",
    type=click.IntRange(0),
    metavar="CORE",
    help="Run what can on this accelerator core (2-D layers in fp16 or int8 only).",
)
@click.option(
    "--output",
    "outputs",
    multiple=True,
    metavar="NAME",
    help="An output of the bundle to keep beside the score, which is all that vad-run reads. May "
    "be repeated.",
)
@click.option("--tf32", is_flag=True, help="Let fp32 layers compute in TF32: faster, less exact.")
@click.option("--dry-run", is_flag=True, help="Check the graph and say what would be built.")
@click.option("-o", "--out", type=_PATH, help="Folder.  [default: engines/ in the bundle]")
@click.option("--overwrite", is_flag=True, help="Replace a plan of the same name.")
def command(
    bundle: Path,
    precisions: tuple[str, ...],
    flavour: str,
    batch: str,
    sm: str | None,
    workspace: int | None,
    timing_cache: Path | None,
    version_compatible: bool,
    host_code: bool,
    hardware_compatible: bool,
    opt_level: int | None,
    dla: int | None,
    outputs: tuple[str, ...],
    tf32: bool,
    dry_run: bool,
    out: Path | None,
    overwrite: bool,
) -> None:
    """Build TensorRT engines from the graphs of BUNDLE.

    A plan fits one version of TensorRT and the GPUs in its name; a file NAME.engine.json beside it
    says what it is. vad-run takes the one that fits.
    """
    from vad_export.engine.build import engine_from_bundle
    from vad_export.engine.lint import lint_engine
    from vad_export.engine.settings import EngineSettings
    from vad_runtime.bundle import Bundle

    opened = Bundle.open(bundle)
    wanted = [
        EngineSettings(
            precision=precision,  # type: ignore[arg-type]  # click has checked it
            flavour=flavour,  # type: ignore[arg-type]
            batches=_numbers("--batch", batch),
            sms=_numbers("--sm", sm) if sm is not None else (),
            workspace_bytes=None if workspace is None else workspace << 20,
            timing_cache=timing_cache,
            version_compatible=version_compatible,
            hardware_compatible=hardware_compatible,
            host_code=host_code,
            level=opt_level,
            dla=dla,
            outputs=tuple(dict.fromkeys(outputs)),
            tf32=tf32,
            out=out,
            overwrite=overwrite,
        )
        for precision in (dict.fromkeys(precisions) or (None,))
    ]
    if dry_run:
        found = [line for one in wanted for line in lint_engine(opened, one, click.echo)]
        for line in found:
            click.echo(line)
        if found:
            what = "finding" if len(found) == 1 else "findings"
            raise ExportError(
                f"{bundle}: {len(found)} {what} that would stop the build or cost it; see above. "
                "Where the graph is at fault, export or quantise the bundle again."
            )
        click.echo("nothing was found")
        return
    for one in wanted:
        built = engine_from_bundle(opened, one, click.echo)
        click.echo(_line(built))
    if opened.manifest.features is None:
        words = ["vad-run", "watch", str(bundle), "VIDEO"]
    else:
        words = ["vad-run", "score", str(bundle), "FEATURES", "-o", "OUT"]
    words += ["--backend", "tensorrt", "--precision", built.sidecar.precision]
    words += [] if out is None else ["--engine", str(out)]
    click.echo(f"{bundle}: next, on the GPU, {shlex.join(words)}")


def _line(built: "Built") -> str:
    facts = built.sidecar.build
    peak = facts["peak_rss_bytes"]
    memory = "" if peak is None else f", {peak / 1e6:.0f} MB of memory at most"
    return (
        f"{built.plan}: {built.sidecar.bytes / 1e6:.1f} MB, {facts['layers']} layers, "
        f"in {facts['seconds']:.1f} s{memory}"
    )


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        example = "86,89" if option == "--sm" else "1,4"
        raise ConfigError(
            f"{option} {shlex.quote(text)}: give whole numbers with commas between them, e.g. "
            f"{option} {example}"
        ) from None
