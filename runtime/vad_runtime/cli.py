"""`vad-run`. A command's module is imported when it is called: `--help` needs none of them."""

from importlib import import_module
from typing import NoReturn

import click

from vad_runtime import __version__
from vad_runtime.commands import run_command

# Name, module, and what `vad-run --help` says of it. In the module the command is called the same,
# with `_` for `-`.
_COMMANDS = (
    ("bench", "bench.command", "Measure how fast a bundle runs on this machine."),
    ("check", "site_commands", "Say what would keep a site from running."),
    ("doctor", "doctor_command", "Tell what this machine can run bundles with."),
    ("events", "operator_commands", "List past events of a site."),
    ("export-clips", "operator_commands", "Copy clips of past events to a folder."),
    ("score", "score_commands", "Score videos as fast as possible."),
    ("site", "site_commands", "Run many cameras, store and send their alarms."),
    ("status", "operator_commands", "Show how a running site is."),
    ("watch", "score_commands", "Watch a camera or a video, print alarms as they come."),
)


class _Later(click.Command):
    """Stands for a command that is not imported yet."""

    def __init__(self, name: str, module: str, short_help: str) -> None:
        super().__init__(name, short_help=short_help)
        self._module = module

    def command(self) -> click.Command:
        """Import the command."""
        assert self.name is not None
        found = getattr(import_module(f"vad_runtime.{self._module}"), self.name.replace("-", "_"))
        assert isinstance(found, click.Command)
        return found


class _Commands(click.Group):
    """A group that imports the one command that is called."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See `click.Group.resolve_command`."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.command() if isinstance(command, _Later) else command, rest


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vad-run")
def cli() -> None:
    """Run a bundle on video: score files, or watch a source and raise alarms."""


for _command in _COMMANDS:
    cli.add_command(_Later(*_command))


def main() -> NoReturn:
    """Entry point of `vad-run`."""
    run_command(cli)
