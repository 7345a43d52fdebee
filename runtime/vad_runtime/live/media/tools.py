"""What the streams of a site share in the media thread."""

from collections.abc import Callable
from pathlib import Path

from vad_runtime.contracts.site import MediaSettings
from vad_runtime.live.media.retention import Retention
from vad_runtime.words import counted


class Tools:
    """Settings, the disk, and counters that any thread may read.

    Args:
        folder: The data folder.
        settings: What is kept.
        retention: What makes room on the disk.
        say: Takes one line for the log.
        clock: Seconds of a clock that nobody sets.
        wall: Unix time, seconds.
    """

    def __init__(
        self,
        *,
        folder: Path,
        settings: MediaSettings,
        retention: Retention,
        say: Callable[[str], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.retention = retention
        self.clock = clock
        self.wall = wall
        self._say = say
        self._since_up = 0
        self.trouble = ""
        """Why the last file could not be written; empty = it could."""
        self.clips = 0
        self.snapshots = 0
        self.films = 0
        """Pieces that are whole."""
        self.given_up = 0
        """Clips, snapshots, pieces of film and batches of rows that were lost."""
        self.cut_off = 0
        """Clips that ended early, since they had grown to a quarter of the budget."""
        self.lost = 0
        """Frames that were left out of films and scores of streams that are gone."""

    def failed(self, what: str, error: Exception) -> None:
        """Count a file that was lost; say so if the one before was not."""
        reason = getattr(error, "strerror", None) or str(error)
        self.given_up += 1
        self._since_up += 1
        if not self.trouble:
            self._say(f"media: {what} cannot be written ({reason}); more will be counted only")
        files = "1 file" if self._since_up == 1 else f"{self._since_up} files"
        self.trouble = f"{what} cannot be written ({reason}), {files} lost so far"

    def wrote(self) -> None:
        """Note that a file could be written; say so if the one before could not."""
        if self.trouble:
            self._say(
                f"media: files can be written again; "
                f"{counted(self._since_up, 'file was', 'files were')} lost meanwhile"
            )
            self.trouble, self._since_up = "", 0
