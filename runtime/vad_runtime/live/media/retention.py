"""How much is kept: a budget, an age and a reserve on the disk; the oldest file goes first."""

import contextlib
import errno
import heapq
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from vad_runtime.contracts.site import RetentionSettings
from vad_runtime.live.media.names import FOLDERS, PART
from vad_runtime.live.media.salvage import salvage

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the operating system says when there is no room; removing files helps against nothing
else."""

SUFFIXES = frozenset({".mp4", ".jpg", ".csv", ".jsonl"})
"""Ends of the names that are given here; a file of another kind was put there by somebody else."""

_SCAN_S = 600.0  # files that grow, and those that people remove, are seen after so long
_OLDEST = 1000  # so many are remembered from one look to the next: memory without growth
_LEAST_ROOM = 1 << 20  # removing less at a time would only come back a moment later

_File = tuple[int, str, int]
"""Time of last change (ns), path, bytes."""


class Retention:
    """Looks after the files below a data folder; the database beside them is never touched.

    One thread calls everything but the plain counters, which any thread may read.

    Args:
        folder: The data folder.
        settings: Budget, age and reserve.
        say: Takes one line for the log; called at changes of state only.
        wall: Unix time, seconds.
        monotonic: Seconds of a clock that nobody sets.
        free: Returns the bytes that are free for us on the disk of a folder.
    """

    def __init__(
        self,
        folder: Path,
        settings: RetentionSettings,
        *,
        say: Callable[[str], None],
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        free: Callable[[Path], int] | None = None,
    ) -> None:
        self._folder = folder
        self.follow(settings)
        self._say = say
        self._wall = wall
        self._monotonic = monotonic
        self._free = free or free_bytes
        self._oldest: deque[_File] = deque()
        self._more = False
        """Whether there were more files than are remembered."""
        self._stuck = False
        """Whether the last file that was to go could not be removed."""
        self.in_use: set[Path] = set()
        """Files that grow at the moment: never removed. Only the calling thread changes it."""
        self.kept_bytes = 0
        self.removed = 0
        """Files removed since the start."""
        self.free_lately = 0
        """Bytes that were free at the last look; `free` may hang on a network drive."""
        self.trouble = ""
        """Why the reserve or the budget cannot be kept; empty = it is."""

    def follow(self, settings: RetentionSettings) -> None:
        """Go by other settings from the next `tend` on."""
        self._budget = round(settings.clips_gb * 1e9)
        self._days = settings.days
        self._reserve = round(settings.free_gb * 1e9)
        self._scanned_s: float | None = None

    @property
    def largest_file(self) -> int:
        """Bytes at which a clip is cut off: one alone must not push out all the others."""
        return max(self._budget // 4, _LEAST_ROOM)

    @property
    def free(self) -> int:
        """Bytes that are free on the disk; 0 where it does not say."""
        try:
            return self._free(self._folder)
        except OSError:
            return 0

    def tidy(self) -> tuple[int, int]:
        """Look after what an earlier run left unfinished.

        Returns:
            How many films were kept, up to where they are whole, and how many files that hold
            nothing were removed.
        """
        parts = [path for _, path, _ in self._files() if path.endswith(PART)]
        left = [path for path in parts if salvage(Path(path)) is None]
        return len(parts) - len(left), sum(map(_removed, left))

    def took(self, path: Path) -> None:
        """Count a file that is now whole."""
        with contextlib.suppress(OSError):
            self.kept_bytes += path.stat().st_size

    def tend(self) -> None:
        """Remove what is too old or too much; cheap, so it may be called every few seconds."""
        now = self._monotonic()
        if self._scanned_s is None or now - self._scanned_s >= _SCAN_S:
            self._scan()
            self._remove_aged()
        over = self.kept_bytes - self._budget
        if over > 0:
            over -= self._remove(over)
        short = self._shortage()
        if short > 0:
            short -= self._remove(short)
        self.free_lately = self.free
        trouble = ""
        if short > 0:
            trouble = (
                f"only {self.free_lately / 1e9:.2f} GB are free on the disk of {self._folder}, "
                f"less than free_gb = {self._reserve / 1e9:g}, and nothing is left to remove"
            )
        elif over > 0 and self._stuck:
            trouble = (
                f"files below {self._folder} cannot be removed, so they outgrow clips_gb = "
                f"{self._budget / 1e9:g}; give the folder to the user that runs the site"
            )
        self._tell(trouble)

    def make_room(self, need: int = 0) -> bool:
        """Remove the oldest files because a write found the disk full.

        Args:
            need: Bytes that are to be written.

        Returns:
            Whether trying again makes sense.
        """
        # Many file systems give the room back only later: what was removed is counted, instead of
        # asking the disk again, which would remove more than needed.
        return self._remove(max(need, self._shortage(), _LEAST_ROOM)) > 0

    def _shortage(self) -> int:
        try:
            return self._reserve - self._free(self._folder)
        except OSError:
            return 0

    def _tell(self, trouble: str) -> None:
        if bool(trouble) != bool(self.trouble):
            self._say(f"retention: {trouble or 'enough of the disk is free again'}")
        self.trouble = trouble

    def _remove(self, wanted: int) -> int:
        """Remove the oldest files until `wanted` bytes are gone; return how many are."""
        gone, at_look = 0, -1
        while gone < wanted:
            if not self._oldest:
                # What the last look found could not be removed: another finds the same.
                if gone == at_look or (at_look >= 0 and not self._more):
                    break
                self._scan()
                at_look = gone
                if not self._oldest:
                    break
            gone += self._unlink(self._oldest.popleft())
        return gone

    def _remove_aged(self) -> None:
        if self._days is None:
            return
        limit = (self._wall() - self._days * 86400) * 1e9
        before = self.removed
        while self._oldest and self._oldest[0][0] < limit:
            self._unlink(self._oldest.popleft())
            if not self._oldest and self._more and self.removed > before:
                before = self.removed
                self._scan()

    def _unlink(self, file: _File) -> int:
        _, name, size = file
        path = Path(name)
        if path in self.in_use:
            return 0
        self._stuck = not _removed(name)
        if self._stuck:
            return 0
        self.removed += 1
        self.kept_bytes = max(0, self.kept_bytes - size)
        if path.parent.parent != self._folder:
            with contextlib.suppress(OSError):  # not empty yet
                path.parent.rmdir()
        return size

    def _scan(self) -> None:
        total = 0

        def removable() -> Iterator[_File]:
            nonlocal total
            for file in self._files():
                path = Path(file[1])
                if path.suffix == PART or path in self.in_use:
                    continue  # counted when it is whole
                total += file[2]
                if path.suffix in SUFFIXES:
                    yield file

        oldest = heapq.nsmallest(_OLDEST + 1, removable())
        self._more = len(oldest) > _OLDEST
        self._oldest = deque(oldest[:_OLDEST])
        self.kept_bytes = total
        self._scanned_s = self._monotonic()

    def _files(self) -> Iterator[_File]:
        """Yield all regular files below our folders; links are not followed."""
        waiting = [str(self._folder / name) for name in FOLDERS]
        while waiting:
            try:
                entries = list(os.scandir(waiting.pop()))
            except OSError:
                continue
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        about = entry.stat(follow_symlinks=False)
                        yield about.st_mtime_ns, entry.path, about.st_size
                except OSError:  # gone meanwhile
                    continue


def free_bytes(folder: Path) -> int:
    """Return the bytes that an ordinary user may still write on the disk of a folder.

    Raises:
        OSError: The folder is not there.
    """
    about = os.statvfs(folder)
    return about.f_bavail * about.f_frsize


def _removed(path: str) -> bool:
    try:
        Path(path).unlink()
    except OSError:
        return False
    return True
