"""What the three commands share: exit codes, one-line errors, Ctrl-C."""

import contextlib
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

import click

from vad_runtime.contracts.errors import VadError

_EXTRA_OF = {
    "av": "video",
    "cv2": "video",
    "cuda": "cuda",
    "matplotlib": "plot",
    "pycuda": "pycuda",
    "tensorrt": "trt",
    "tensorrt_lean": "lean",
    "tensorrt_lean_bindings": "lean",
    "tensorrt_rtx": "rtx",
    "tensorrt_rtx_bindings": "rtx",
    "torch": "export",
    "paho": "site",
    "prometheus_client": "site",
    "rich": "site",
    "yaml": "site",
    "onnx": "export",
    "onnxscript": "export",
    "albumentations": "train",
    "pytorchvideo": "train",
    "safetensors": "train",
    "scipy": "train",
    "sklearn": "train",
    "torchvision": "train",
    "transformers": "train",
}

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""


class Interrupted(Exception):  # noqa: N818 - it is no error
    """Ctrl-C came, and what had to be saved was saved."""


class FiniteFloat(click.FloatRange):
    """A number for an option; NaN and infinity, which every range lets through, are refused."""

    def _describe_range(self) -> str:
        # click writes "x<=None" for a range without ends.
        return "" if self.min is None and self.max is None else super()._describe_range()

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number, or end with a usage error."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def run_command(command: click.Command) -> NoReturn:
    """Run a click command and leave the process.

    A `VadError` or a wrong option prints one line and exits with 1; Ctrl-C and SIGTERM exit with
    130; anything else is a bug and keeps its traceback.
    """
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        code = command.main(standalone_mode=False)
    except VadError as error:
        _fail(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        _fail(f"this command needs {error.name}. Install it with: pip install 'vad-edge[{extra}]'")
    except click.UsageError as error:
        where = f" See: {error.ctx.command_path} --help" if error.ctx else ""
        _fail(f"{error.format_message()}{where}")
    except click.ClickException as error:
        _fail(error.format_message())
    except (KeyboardInterrupt, click.Abort, Interrupted):
        click.echo("Interrupted.", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output (head, less) has left. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _as_interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _fail(message: str) -> NoReturn:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(1)


@contextlib.contextmanager
def deferred_interrupt(on_interrupt: Callable[[], None]) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a call, so that no step is cut in half.

    A second one interrupts at once.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, before[number])
        on_interrupt()

    # Signals reach only the main thread; elsewhere (a notebook's worker) there is nothing to defer.
    try:
        before: dict[int, Any] = {
            number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)
        }
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
