"""The one error tree of vad-edge.

::

    VadError               anything a user can put right: one line, exit code 1
    ├── InputError         a file, folder or argument that cannot be used
    │   └── SourceError    a video, camera or frame folder that cannot be read
    ├── ConfigError        a configuration value that makes no sense
    ├── BundleError        a *.vad folder that is damaged, foreign, or too new
    ├── BackendError       an inference engine that is missing, or did something else than asked
    │   └── NoDriverError  no NVIDIA driver, or none that can be used
    ├── TrainingError      a training run that cannot go on (for example a loss that is not finite)
    └── ExportError        a model that cannot be exported
        └── ParityError    an export that does not decide like its checkpoint

A message names the thing, the reason and the next step. Every other exception is a bug of ours and
keeps its traceback.
"""

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class VadError(Exception):
    """Something a user can put right. Its text is one line that ends with the next step.

    What it quotes (a path, a key of a file) may hold line ends and a terminal's control characters:
    they are shown as blanks.
    """

    def __str__(self) -> str:
        return _CONTROL.sub(" ", super().__str__())


class InputError(VadError):
    """A file, folder or argument cannot be used."""


class SourceError(InputError):
    """A video, camera or folder of frames cannot be read."""


class ConfigError(VadError):
    """A configuration value makes no sense."""


class BundleError(VadError):
    """A bundle is damaged, foreign, or written by a newer version."""


class BackendError(VadError):
    """An inference engine is missing, or did something else than what was asked."""


class NoDriverError(BackendError):
    """There is no NVIDIA driver here, or none that can be used, or it finds no GPU.

    Args:
        reason: What is wrong, and how to mend it.
        instead: What else to do, which depends on the command; None = `reason` is the whole line.

    Attributes:
        reason: As it was given, for a command with another `instead`.
    """

    def __init__(self, reason: str, instead: str | None = None) -> None:
        super().__init__(reason if instead is None else f"{reason}; {instead}.")
        self.reason = reason


class TrainingError(VadError):
    """A training run cannot go on."""


class ExportError(VadError):
    """A model cannot be exported."""


class ParityError(ExportError):
    """An exported graph does not give the scores of its checkpoint."""
