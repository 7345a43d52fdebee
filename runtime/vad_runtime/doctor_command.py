"""`vad-run doctor`."""

import re
from pathlib import Path

import click

from vad_runtime.bundle import Bundle
from vad_runtime.contracts.errors import BackendError, ConfigError


@click.command("doctor")
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda|cuda:N",
    help="cpu, cuda: only the back ends that compute there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def doctor(bundle: Path | None, device: str, as_json: bool) -> None:
    """Tell what this machine can run bundles with, and why not with the rest.

    With BUNDLE also which of its engines fit here, and what vad-run would take.

    Exit code 1 where no back end can run.
    """
    import msgspec

    from vad_runtime.doctor import examine, lines_of

    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", device) is None:
        raise ConfigError(f"{device!r} is no device. Use auto, cpu, cuda or cuda:1.")
    report = examine(Bundle.open(bundle) if bundle else None, device)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        for line in lines_of(report):
            click.echo(line)
    if not report.can_run:
        where = "here" if device == "auto" else f"on {device} here"
        step = (
            "For the processor: vad-run doctor --device cpu"
            if device.startswith("cuda")
            else "For the processor: pip install 'vad-edge[openvino]'"
        )
        raise BackendError(f"no back end can run {where}; why not stands beside each. {step}")
