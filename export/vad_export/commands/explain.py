"""`vad-export explain`."""

import json
import sys
from pathlib import Path

import click

from vad_runtime.contracts import InputError
from vad_runtime.engines.explain import Explanation, explain

_WIDTH = 160  # characters of a quoted line
_MOST = 64 << 20  # bytes; what explains a failure stands at the end of a log


@click.command("explain")
@click.argument("logfile", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(logfile: Path, as_json: bool) -> None:
    """Say what known lines in a log of TensorRT mean, and what to do about them.

    LOGFILE is a text file, for example what trtexec, DeepStream or Triton wrote; `-` reads the
    standard input.

    Exit code 1 where nothing in it is known.
    """
    name = "the standard input" if str(logfile) == "-" else str(logfile)
    text, first = _read(logfile, name)
    found = explain(text)
    if as_json:
        click.echo(json.dumps([_entry(first, *one) for one in found], indent=2))
    else:
        lines = text.splitlines()
        for number, known in found:
            click.echo(f"line {first + number - 1}: {_short(lines[number - 1])}")
            click.echo(f"  cause   {known.cause}")
            click.echo(f"  remedy  {known.remedy}")
    if not found:
        raise InputError(
            f"{name}: nothing known in it ({text.count(chr(10))} lines). Run the program again "
            "with a verbose log, or look at the engine with: vad-export inspect ENGINE"
        )


def _entry(first: int, number: int, known: Explanation) -> dict[str, str | int]:
    return {
        "line": first + number - 1,
        "name": known.name,
        "cause": known.cause,
        "remedy": known.remedy,
    }


def _read(logfile: Path, name: str) -> tuple[str, int]:
    """Return the text, of a huge log its end, and the number of its first line."""
    try:
        data = sys.stdin.buffer.read() if str(logfile) == "-" else logfile.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name} cannot be read ({reason}). Check its name and rights.") from None
    if b"\0" in data[:4096] and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(
            f"{name} is no text. Give a log file; engines are looked at by: vad-export inspect"
        )
    first = 1
    if len(data) > _MOST:
        first += data[:-_MOST].count(b"\n")
        data = data[-_MOST:]
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    return data.decode(encoding, errors="replace"), first


def _short(line: str) -> str:
    # Colours of a terminal and other control characters stay out of what we print.
    text = "".join(char for char in line.strip() if char.isprintable())
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
