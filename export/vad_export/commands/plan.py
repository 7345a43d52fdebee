"""`vad-export plan`."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vad_export.verified import ENGINES
from vad_runtime.bundle import MANIFEST, Bundle
from vad_runtime.commands import FiniteFloat
from vad_runtime.contracts import ExportError

if TYPE_CHECKING:
    from vad_export.plan_choice import Judged, Plan

_PATH = click.Path(path_type=Path)
_HEAD = ("", "candidate", "median ms", "10-90 %", "p95", "CPU ms", "x fp32", "allowed")
_COLUMNS = 100
_SHAKY = 1.5  # 90th over 10th percentile


@click.command("plan")
@click.argument("bundle", type=_PATH)
@click.option(
    "--target-ms",
    type=FiniteFloat(0, min_open=True),
    help="Longest time for a clip.  [default: the bundle's hop / fps]",
)
@click.option(
    "--clips",
    type=_PATH,
    help="Footage to time on, as vad-export verify takes it.  [default: seeded noise]",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Processor threads for a clip.  [default: all this process may use]",
)
@click.option(
    "--rounds",
    type=click.IntRange(5),
    default=30,
    show_default=True,
    help="How often each candidate is timed; fewer where that would take over two minutes.",
)
@click.option(
    "--backend",
    "backends",
    type=click.Choice(ENGINES),
    multiple=True,
    help="Time only this one. May be repeated.  [default: all that are installed; those for a GPU "
    "only where there is an NVIDIA driver]",
)
@click.option(
    "--any-precision",
    is_flag=True,
    help="Also choose what vad-export verify has not looked at. What failed stays refused.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and leave the bundle as it is.")
def command(
    bundle: Path,
    target_ms: float | None,
    clips: Path | None,
    threads: int | None,
    rounds: int,
    backends: tuple[str, ...],
    any_precision: bool,
    dry_run: bool,
) -> None:
    """Time BUNDLE on this machine and choose its back end and precision.

    The most faithful one that meets the target is chosen, not the fastest: fp32, else bf16, fp16,
    mixed or int8. fp16, mixed and int8 only after `vad-export verify` has passed. The target is
    met where 95 % of the clips take no longer, for inference alone; leave time for decoding.

    Exit code 1, and the bundle stays as it was, where nothing meets it.
    """
    from vad_export.plan import plan, with_plan

    opened = Bundle.open(bundle)
    found = plan(
        opened,
        target_ms,
        clips=clips,
        backends=backends,
        threads=threads,
        rounds=rounds,
        any_precision=any_precision,
    )
    for line in lines_of(found):
        click.echo(line)
    if found.chosen is None:
        raise ExportError(found.line)
    if dry_run:
        click.echo(f"{found.line}; {opened.name} is left as it was (--dry-run)")
        return
    with_plan(opened, found)
    click.echo(f"{found.line}; stored in {MANIFEST}: vad-run --backend auto now takes it")


def lines_of(plan: "Plan") -> list[str]:
    """Return a plan's measurements as aligned lines for people, the most faithful first."""
    from vad_export.plan import WHAT
    from vad_export.plan_choice import NOT_VERIFIED

    measured = plan.measured
    rows = [_HEAD, *(_row(judged, judged.candidate is plan.chosen) for judged in plan.judged)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    out = [
        f"target {plan.target.ms:.1f} ms a clip ({plan.target.origin})",
        WHAT,
        f"{measured.cpu}, {measured.threads} threads"
        f"{f'; {measured.gpu}' if measured.gpu else ''}; {measured.inputs}",
        f"{plan.judged[0].candidate.times.rounds} rounds in shuffled order; "
        "x fp32: against fp32 on the same back end",
        "",
    ]
    for row in rows:
        cells = [
            # Words to the left, numbers to the right.
            cell.ljust(width) if i in (0, 1, len(row) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        out.append("  ".join(cells).rstrip())
    reasons: dict[str, list[str]] = {}
    for name, reason in measured.not_run.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        text = f"not timed: {', '.join(names)}: {reason}"
        out += textwrap.wrap(text, _COLUMNS, subsequent_indent="  ", break_on_hyphens=False)
    if any(judged.refusal == NOT_VERIFIED for judged in plan.judged):
        out.append(
            "not verified: vad-export verify BUNDLE --clips DIR has to pass at the threshold of now"
        )
    if any(_spread(judged) > _SHAKY for judged in plan.judged):
        out.append("the times vary by half and more, as if something else ran here too; time again")
    return [*out, ""]


def _spread(judged: "Judged") -> float:
    times = judged.candidate.times
    return times.percentile_ms(90) / times.percentile_ms(10)


def _row(judged: "Judged", chosen: bool) -> tuple[str, ...]:
    times = judged.candidate.times
    verdict = judged.refusal or ("yes" if judged.meets else "yes, but too slow")
    return (
        "->" if chosen else "",
        judged.candidate.name,
        f"{times.median_ms:.2f}",
        f"{times.percentile_ms(10):.2f}-{times.percentile_ms(90):.2f}",
        f"{times.p95_ms:.2f}",
        f"{times.cpu_median_ms:.1f}",
        "" if judged.times_fp32 is None else f"{judged.times_fp32:.2f}",
        "chosen" if chosen else verdict,
    )
