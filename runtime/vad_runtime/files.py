"""Files that appear whole or not at all."""

import contextlib
import fcntl
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from vad_runtime.contracts.errors import InputError

DAMAGED_NPZ = (
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy raises for a damaged npz file."""


def made_folder(path: Path, *, step: str = "Choose another output folder.") -> Path:
    """Make an output folder and check that it can be written.

    Args:
        path: The folder.
        step: What the user can do where it cannot.

    Raises:
        InputError: It cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".vad-write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}). {step}") from None
    return path


PRIVATE_FILE = 0o640
"""Mode of a file that shows people: its owner writes, the group reads, others get nothing."""


def private_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, closed to users outside the group.

    One that is there keeps its rights; a stricter umask counts.

    Raises:
        OSError: It cannot be made.
    """
    if not path.is_dir():
        private_folder(path.parent)
        path.mkdir(mode=0o750, exist_ok=True)


def home_expanded(text: str) -> Path:
    """Return a path with `~` filled in; where no such home is known, `~name` is a name as any."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path's own raises RuntimeError


def cache_folder(name: str) -> Path:
    """Return the folder for one kind of cached files; it need not exist yet.

    It is `$VAD_CACHE/NAME`, or `vad-edge/NAME` in the user's folder for caches.
    """
    named = os.environ.get("VAD_CACHE")
    if named:
        return Path(named) / name
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vad-edge" / name


def flush_to_disk(path: Path) -> None:
    """Make sure that a file's content survives a power cut before it gets its final name."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refuse_existing(folder: Path, names: Iterable[str], overwrite: bool) -> None:
    """Refuse a folder that holds files of these names, unless they may be replaced.

    Raises:
        InputError: One stands there and may not be replaced, or cannot be.
    """
    for file in (folder / name for name in names):
        if os.path.isdir(file):  # noqa: PTH112 - unlike Path's, it never raises
            raise InputError(f"{file} is a folder and cannot be replaced. Name another folder.")
        if os.path.lexists(file) and not overwrite:
            raise InputError(f"{file} exists already. Name another folder or add --overwrite.")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` and rename it to `path` when the block succeeds.

    Raises:
        InputError: The file cannot be written, or a name in it is no UTF-8.
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
    except UnicodeEncodeError as error:
        # A file system may hold names that are no UTF-8; the text would not be readable again.
        name = error.object[:200].strip()
        raise InputError(
            f"{path} cannot hold {name!a}, which is no UTF-8. Rename that file or folder."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time change what a folder holds; waits for the others.

    A folder that cannot be opened, or a file system without locks, is not locked: whoever writes
    there next says what is wrong.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def put_in_place(work: Path, target: Path) -> None:
    """Give a finished folder its name and remove what had that name before.

    Args:
        work: The new folder, beside `target`.
        target: Its name; a folder, or a link to one, that stands there is replaced.

    Raises:
        OSError: It cannot be renamed; what stood there still does.
    """
    if not target.exists():
        work.rename(target)
        return
    # Two renames: at every moment a whole folder stands under one of the two names.
    old = target.with_name(f"{work.name}.old")
    target.rename(old)
    try:
        work.rename(target)
    except OSError:
        old.rename(target)
        raise
    if old.is_symlink():  # the link is replaced; what it points to is not ours to remove
        old.unlink()
    else:
        shutil.rmtree(old, ignore_errors=True)
