"""Lines of JSON appended to a file, one for each start and end of an event.

A line is `vad_runtime.sinks.message.event_message`, with `"maybe_repeated": true` where the line
may stand there already. The file may be renamed, removed or truncated while the site runs, as
logrotate does: the next line goes to a new file of that name.
"""

import contextlib
import json
import os
import stat
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vad_runtime.sinks.base import DeliveryError
from vad_runtime.sinks.message import event_message

if TYPE_CHECKING:
    from vad_runtime.store.outbox import Due

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
"""O_NONBLOCK: to open a named pipe that nobody reads must not hang."""


class LinesSink:
    """Appends to one file, which is made where it is missing; its folder too.

    Args:
        name: As in the site file.
        path: The file.
    """

    kind = "jsonl"
    most = 500
    by_stream = False

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self._path = path
        self._handle: int | None = None
        self._lock = threading.Lock()  # for `close` while a slow disk is being written

    def wait_s(self, stream: str) -> float:  # noqa: ARG002  # as every sink
        """Return 0: nothing is held back."""
        return 0.0

    def tick(self) -> str:
        """Do nothing: the file is looked after when there is something to write."""
        return ""

    def deliver(self, batch: "Sequence[Due]") -> None:
        """Append the rows and wait until they are on disk; all of them or none.

        Raises:
            DeliveryError: The file cannot be written.
        """
        text = b"".join(_line(due) for due in batch)
        with self._lock:
            try:
                self._append(text)
            except OSError as error:
                self._drop()
                words = (error.strerror or type(error).__name__).lower()
                raise DeliveryError(f"{self._path} cannot be written: {words}") from None

    def close(self) -> None:
        """Close the file, unless the disk keeps a line waiting. A second call does nothing."""
        if self._lock.acquire(timeout=1.0):
            try:
                self._drop()
            finally:
                self._lock.release()

    def _append(self, text: bytes) -> None:
        handle = self._opened()
        start = os.fstat(handle).st_size
        if start and os.pread(handle, 1, start - 1) != b"\n":
            text = b"\n" + text  # a power cut left half a line
        try:
            _write(handle, text)
            os.fsync(handle)
        except OSError:
            with contextlib.suppress(OSError):  # half a line is no line
                os.ftruncate(handle, start)
            raise

    def _drop(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            with contextlib.suppress(OSError):
                os.close(handle)

    def _opened(self) -> int:
        if self._handle is not None:
            try:
                there = self._path.stat()
                mine = os.fstat(self._handle)
                if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                    return self._handle
            except FileNotFoundError:
                pass
            self._drop()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._path, _FLAGS, 0o640)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(0, "it is no plain file")
        self._handle = handle
        return handle


def _line(due: "Due") -> bytes:
    message = event_message(due)
    if due.maybe_repeated:
        message["maybe_repeated"] = True
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def _write(handle: int, text: bytes) -> None:
    rest = memoryview(text)
    while rest:
        rest = rest[os.write(handle, rest) :]
