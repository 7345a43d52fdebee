"""`vad-export verify`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vad_runtime.bundle import Bundle
from vad_runtime.files import made_folder

if TYPE_CHECKING:
    from vad_runtime.contracts.manifest import Precision

_PATH = click.Path(path_type=Path)


@click.command("verify")
@click.argument("bundle", type=_PATH)
@click.option(
    "--clips",
    type=_PATH,
    required=True,
    help="Footage: a video, a folder, a table (its split val) or a list, a path on each line; "
    "feature files where the bundle takes features.",
)
@click.option("--labels", "labels_file", type=_PATH, help="A labels.json; adds the AUC.")
@click.option(
    "--config",
    type=_PATH,
    help="YAML of vad-export quantise; its budget counts, the other keys do not.",
)
@click.option(
    "--budget",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A limit: spearman, auc_delta, flips or mean_error. May be repeated; wins over --config.",
)
@click.option(
    "--count",
    type=click.IntRange(0),
    default=512,
    show_default=True,
    help="Most clips to score, spread evenly over the files; of long files only the beginning is "
    "read, and the report says so. 0 = all of the footage.",
)
@click.option("--checkpoint", type=_PATH, help="The run that was exported: compare with PyTorch.")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    metavar="NAME",
    help="Compare only this one. May be repeated.  [default: all that are installed; those for a "
    "GPU only where there is an NVIDIA driver]",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    metavar="NAME",
    help="fp32, bf16, fp16, int8 or mixed. May be repeated.  [default: all in the bundle]",
)
@click.option(
    "-o",
    "--out",
    type=_PATH,
    help="Folder for verify.json, verify.md and pictures.  [default: pictures of failures alone, "
    "in NAME.verify]",
)
@click.option(
    "--record/--no-record",
    default=True,
    show_default=True,
    help="Keep the outcome in the bundle's manifest.",
)
def command(
    bundle: Path,
    clips: Path,
    labels_file: Path | None,
    config: Path | None,
    settings: tuple[str, ...],
    count: int,
    checkpoint: Path | None,
    backends: tuple[str, ...],
    precisions: "tuple[Precision, ...]",
    out: Path | None,
    record: bool,
) -> None:
    """Prove that every artefact of BUNDLE decides like its fp32 graph on real footage.

    Exit code 1 when one does not keep to the budget; its worst clip is named and drawn.
    """
    from vad_export.gate import outdated, recorded, require_passed, verify
    from vad_export.gate_footage import footage_of
    from vad_export.gate_report import save_pictures, table, write_report
    from vad_export.precision_config import budget_from_settings, read_precision_config
    from vad_runtime.labels import read_labels

    budget = budget_from_settings(settings, read_precision_config(config).budget)
    opened = Bundle.open(bundle)
    labels = read_labels(labels_file) if labels_file else None
    footage = footage_of(clips) if opened.manifest.features is None else [clips]
    if out is not None:
        made_folder(out)
    report = verify(
        opened,
        footage,
        labels=labels,
        budget=budget,
        count=count,
        checkpoint=checkpoint,
        backends=backends,
        precisions=precisions,
    )
    click.echo(table(report))
    folder = out or bundle.resolve().with_suffix(".verify")
    pictures = write_report(out, report) if out else save_pictures(folder, report)
    if record:
        for name in outdated(opened, recorded(opened, report), report):
            click.echo(
                f"{name}: not recorded, since its graph was replaced meanwhile; verify again"
            )
    require_passed(report, pictures)
