"""Files that appear whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from vad_runtime.contracts.errors import InputError


def made_folder(path: Path) -> Path:
    """Make an output folder and check that it can be written.

    Raises:
        InputError: It cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".vad-write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}). Choose another output folder."
        ) from None
    return path


def flush_to_disk(path: Path) -> None:
    """Make sure that a file's content survives a power cut before it gets its final name."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` and rename it to `path` when the block succeeds.

    Raises:
        InputError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        flush_to_disk(temporary)
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}). Choose another place."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
