"""One running site per data folder: two would tell every alarm twice."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from vad_runtime.contracts.errors import InputError
from vad_runtime.files import PRIVATE_FILE, made_folder, private_folder, whole_file

DATA_STEP = "Give this user the right to write there, or name another folder under data:."
"""What to do about a data folder that cannot be written."""

_LOCK = "site.lock"
_URL = "health.url"


class DataFolder:
    """The data folder of a running site, locked until `release` or the end of the process.

    Args:
        folder: Made where it is missing.
        site: The site file, for `running_file`; None = none.

    Raises:
        InputError: It cannot be written, or another site runs there.
    """

    def __init__(self, folder: Path, site: Path | None = None) -> None:
        with contextlib.suppress(OSError):  # the next line tells it
            private_folder(folder)
        made_folder(folder, step=DATA_STEP)
        self.folder = folder
        self._handle: int | None = None
        file = folder / _LOCK
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        except OSError as error:
            raise InputError(
                f"{file} cannot be opened ({error.strerror}). Check the rights of the data folder."
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Some network file systems have no locks; then nobody can be found out.
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(handle)
                raise InputError(
                    f"{folder} is in use by {_owner(file)}. Stop that one, or give this site "
                    "another data: folder."
                ) from None
        self._handle = handle
        with contextlib.suppress(OSError):  # a full disk must not keep us from starting
            os.ftruncate(handle, 0)
            named = b"" if site is None else os.fsencode(site.resolve())
            os.pwrite(handle, b"%d\n%s\n" % (os.getpid(), named), 0)

    def write_url(self, url: str | None) -> None:
        """Leave word where the site's status is served, for `vad-run status`; None = nowhere."""
        file = self.folder / _URL
        with contextlib.suppress(OSError, InputError):
            if url is None:
                file.unlink(missing_ok=True)
                return
            with whole_file(file) as whole:  # who asks at this moment must not read an empty file
                whole.touch(PRIVATE_FILE)
                whole.write_text(f"{url}\n", encoding="ascii")

    def release(self) -> None:
        """Let another site have the folder; a second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self.write_url(None)
            # The file stays: removing it would let two sites lock two files of one name.
            with contextlib.suppress(OSError):
                os.ftruncate(handle, 0)
            os.close(handle)


def running_site(folder: Path) -> str | None:
    """Return who runs in a data folder, in words; None = nobody, as far as can be told."""
    file = folder / _LOCK
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return _owner(file) if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    finally:
        os.close(handle)
    return None


def running_file(folder: Path) -> Path | None:
    """Return the site file of who runs in a data folder; None = not known."""
    try:
        named = (folder / _LOCK).read_bytes().split(b"\n")[1]
    except (OSError, IndexError):
        return None
    return Path(os.fsdecode(named)) if named else None


def _owner(file: Path) -> str:
    try:
        lines = file.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    pid = lines[0][:20].strip() if lines else ""
    return f"a running site (process {pid})" if pid.isdecimal() else "another running site"
