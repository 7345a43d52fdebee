"""Files that appear whole or not at all, and that make room for themselves on a full disk."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from vad_runtime.files import PRIVATE_FILE, private_folder
from vad_runtime.live.media.names import PART
from vad_runtime.live.media.retention import FULL, Retention


class RoomyFile:
    """A file for writing; where the disk is full, the oldest of ours go and it tries again.

    Also what PyAV writes to: FFmpeg itself would give up at the first full disk.

    Args:
        path: The file, made anew or appended to; its folder is made too.
        retention: What makes room.
        append: Go on with a file that is there.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path, retention: Retention, *, append: bool = False) -> None:
        self.path = path
        self._retention = retention
        self._dead = False
        self._closed = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        flags |= os.O_APPEND if append else os.O_TRUNC
        self._handle = self._opened(flags)

    def _opened(self, flags: int) -> int:
        while True:
            try:
                private_folder(self.path.parent)
                return os.open(self.path, flags, PRIVATE_FILE)
            except FileNotFoundError:
                # Retention removes a day's folder when its last file goes; once is enough.
                private_folder(self.path.parent)
                return os.open(self.path, flags, PRIVATE_FILE)
            except OSError as error:
                if error.errno not in FULL or not self._retention.make_room():
                    raise

    def write(self, data: bytes) -> int:
        """Write all of it.

        Raises:
            OSError: Refused, and there is nothing left that could go to make room.
        """
        if self._dead:
            return len(data)
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._handle, left) :]
            except OSError as error:
                if error.errno not in FULL or not self._retention.make_room(len(left)):
                    raise
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; returns it."""
        return os.lseek(self._handle, offset, whence)

    def tell(self) -> int:
        """Return the place of the next write."""
        return os.lseek(self._handle, 0, os.SEEK_CUR)

    def sync(self) -> None:
        """Wait until the content survives a power cut.

        Raises:
            OSError: The disk failed.
        """
        os.fsync(self._handle)

    def abandon(self) -> None:
        """Take what is still written for written: the file is going to be removed."""
        self._dead = True

    def close(self) -> None:
        """Close it; a second call does nothing."""
        if not self._closed:
            self._closed = True
            os.close(self._handle)


class NewFile(RoomyFile):
    """A file under a temporary name until `keep`.

    Args:
        path: The final name.
        retention: What makes room, and counts the file.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path, retention: Retention) -> None:
        self._final = path
        super().__init__(path.with_name(path.name + PART), retention)

    def keep(self) -> None:
        """Give it its name. It survives a power cut from now on.

        Raises:
            OSError: Refused; the temporary file is removed then.
        """
        try:
            self.sync()
            self.close()
            self.path.replace(self._final)
        except OSError:
            self.discard()
            raise
        self._retention.took(self._final)

    def discard(self) -> None:
        """Close and remove it."""
        self.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def new_file(path: Path, retention: Retention) -> Iterator[NewFile]:
    """Give a file that gets its name when the block succeeds, and is removed when it fails.

    Raises:
        OSError: It cannot be written.
    """
    file = NewFile(path, retention)
    try:
        yield file
    except BaseException:
        file.discard()
        raise
    file.keep()
