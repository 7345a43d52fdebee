"""Options of a command that say what computes, and how: one set for every such command."""

import re
from pathlib import Path
from typing import Any, cast, get_args

import click

from vad_runtime.backends import backend_names
from vad_runtime.backends.base import Options, PrecisionChoice


def _device(_context: click.Context, _option: click.Parameter, name: str) -> str:
    """Refuse a device that no back end could mean."""
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", name) is None:
        raise click.BadParameter(f"{name!r} is no device. Use auto, cpu, cuda or cuda:1.")
    return name


def engine_options(command: Any) -> Any:
    """Give a command the options that say what computes, and how; `wanted_of` reads them."""
    for option in (
        click.option(
            "--threads",
            type=click.IntRange(1),
            help="Processor threads for inference.  [default: all this process may use]",
        ),
        click.option(
            "--precision",
            type=click.Choice(get_args(PrecisionChoice)),
            default="auto",
            show_default=True,
            help="fp32, bf16: arithmetic of the fp32 graph. fp16, int8, mixed: the bundle's graph "
            "of that precision. auto = fp32 for an engine named by --backend (tensorrt: that of "
            "its plans); with --backend auto what vad-export plan chose, or else bf16 where the "
            "CPU has it and the bundle's parity report allows it.",
        ),
        click.option(
            "--backend",
            default="auto",
            show_default=True,
            metavar="NAME",
            help=f"Inference engine: {', '.join(backend_names())}. auto = the first that is "
            "installed and runs the bundle, on a GPU where there is one. tensorrt runs the plans "
            "of vad-export build-engine.",
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            callback=_device,
            metavar="auto|cpu|cuda|cuda:N",
            help="Where to compute. auto = where the engine computes, on the first GPU.",
        ),
        click.option(
            "--engine",
            type=click.Path(path_type=Path),
            help="A TensorRT plan to run, or a folder of plans.  [default: the bundle's engines/]",
        ),
        click.option(
            "--rebuild",
            is_flag=True,
            help="Build a TensorRT plan from the bundle's graph if none fits this machine.",
        ),
        click.option(
            "--host-code",
            is_flag=True,
            help="Let a TensorRT plan run code of its own on the host. Only for plans you trust.",
        ),
        click.option(
            "--cuda-graphs/--no-cuda-graphs",
            "graphs",
            default=True,
            show_default=True,
            help="Replay the work of a clip on the GPU as one recorded piece, where that works.",
        ),
    ):
        command = option(command)
    return command


def wanted_of(options: dict[str, Any]) -> Options:
    """Return what the options of `engine_options` ask of a back end; its name apart."""
    return Options(
        precision=cast(PrecisionChoice, options["precision"]),
        threads=options["threads"],
        device=options["device"],
        engine=options["engine"],
        rebuild=options["rebuild"],
        host_code=options["host_code"],
        graphs=options["graphs"],
    )
