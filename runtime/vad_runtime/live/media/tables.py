"""Rows of every frame of a stream, a file a day: CSV or JSON lines as `vad-run watch` writes.

They say besides when the frame came, as `utc`: `2026-11-22T13:37:38.689Z`.
"""

import csv
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from vad_runtime.live.media.disk import RoomyFile
from vad_runtime.live.media.names import timed_name, unused
from vad_runtime.live.media.retention import Retention
from vad_runtime.sinks.rows import Row, columns, csv_fields, json_line
from vad_runtime.when import utc_text

_HEADER = ",".join([*columns(), "utc"]) + "\n"


class ScoreTable:
    """Appends a stream's rows to files that start at midnight or with the stream.

    The name holds day and time of the first row. One thread does all of it.

    Args:
        folder: The data folder.
        stream: Name of the stream.
        form: `csv` or `jsonl`.
        retention: What makes room on the disk.
        wall: Unix time, seconds.
    """

    def __init__(
        self,
        folder: Path,
        stream: str,
        form: Literal["csv", "jsonl"],
        *,
        retention: Retention,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._stream = stream
        self._form = form
        self._retention = retention
        self._wall = wall
        self._file: RoomyFile | None = None
        self._day = ""

    def write(self, rows: list[tuple[Row, float]]) -> None:
        """Append rows in one write, so that a reader sees whole lines only.

        Args:
            rows: Each with the Unix time at which its frame came.

        Raises:
            OSError: The disk refused them; they are lost, and the next rows begin another file.
        """
        now = self._wall()
        day = time.strftime("%Y-%m-%d", time.localtime(now))
        if self._file is not None and day != self._day:
            self.close()
        line = _csv_line if self._form == "csv" else _json_line
        text = "".join(line(row, utc_text(unix_s)) for row, unix_s in rows)
        try:
            if self._file is None:
                name = timed_name("scores", self._stream, now, f".{self._form}")
                self._file, self._day = (
                    RoomyFile(unused(self._folder / name), self._retention),
                    day,
                )
                self._retention.in_use.add(self._file.path)
                if self._form == "csv":
                    text = _HEADER + text
            self._file.write(text.encode())
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; `write` begins another."""
        file, self._file = self._file, None
        if file is not None:
            self._retention.in_use.discard(file.path)
            file.close()
            self._retention.took(file.path)


def _csv_line(row: Row, utc: str) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([*csv_fields(row), utc])
    return line.getvalue()


def _json_line(row: Row, utc: str) -> str:
    return json_line(row, utc=utc)
