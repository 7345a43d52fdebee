"""`vad-export triton`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vad_runtime.bundle import Bundle
from vad_runtime.commands import FiniteFloat

if TYPE_CHECKING:
    from vad_runtime.contracts import Precision

_PATH = click.Path(path_type=Path)


@click.command("triton")
@click.argument("bundle", type=_PATH)
@click.option("-o", "--out", type=_PATH, required=True, help="The model repository, a folder.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8", "mixed"]),
    default=None,
    help="Which graph of BUNDLE.  [default: fp32]",
)
@click.option(
    "--engine",
    "plan",
    type=_PATH,
    help="A TensorRT plan of vad-export build-engine, in place of a graph for ONNX Runtime.",
)
@click.option("--name", help="Name of the model.  [default: BUNDLE's, without .vad]")
@click.option("--version", type=click.IntRange(1), help="[default: the next one]")
@click.option(
    "--max-batch",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Most clips, of any streams, in one run.",
)
@click.option(
    "--delay-ms",
    type=FiniteFloat(0),
    default=5.0,
    show_default=True,
    help="How long a clip waits for others to share a run.",
)
@click.option("--overwrite", is_flag=True, help="Replace the version if it is there.")
def command(
    bundle: Path,
    out: Path,
    precision: "Precision | None",
    plan: Path | None,
    name: str | None,
    version: int | None,
    max_batch: int,
    delay_ms: float,
    overwrite: bool,
) -> None:
    """Write BUNDLE as a model into a repository of the Triton inference server.

    The model takes uint8 clips and gives raw scores; threshold and normaliser stand in the
    `parameters` of its config.pbtxt. A new version goes beside those that are there.
    """
    from vad_export.triton import TritonSettings, triton_from_bundle
    from vad_runtime.contracts import ConfigError

    if plan is not None and precision is not None:
        raise ConfigError("a plan has a precision of its own. Leave out --precision or --engine.")
    settings = TritonSettings(
        name=name,
        version=version,
        precision=precision or "fp32",
        plan=plan,
        max_batch=max_batch,
        delay_ms=delay_ms,
        overwrite=overwrite,
    )
    written = triton_from_bundle(Bundle.open(bundle), out, settings)
    config = written.config
    click.echo(
        f"{written.folder}: version {written.version}, {config.backend}, "
        f"{config.about['precision']}, batches up to {config.max_batch}"
    )
    for note in written.notes:
        click.echo(f"  note: {note}")
