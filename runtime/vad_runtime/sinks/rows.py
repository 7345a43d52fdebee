"""Rows: one line a frame, as CSV for spreadsheets and as JSON lines for programs."""

import csv
import math
from pathlib import Path
from typing import IO

import msgspec

from vad_runtime.contracts.errors import InputError
from vad_runtime.detector import ScoredFrame


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of one frame."""

    frame: int
    """Number of the frame in its source, from 0."""
    time_s: float
    """Seconds from the source's first frame."""
    raw: float | None
    """The graph's score; None = not scored."""
    score: float | None
    """Normalised and causally smoothed; the threshold applies to it."""
    alarm: bool
    """Whether an alarm was on."""
    status: str
    """`scored`, or why not (see `ScoredFrame.status`)."""
    offline: float | None = None
    """The papers' score, known only once the whole video was seen; None = not computed."""


def row_from_scored(scored: ScoredFrame) -> Row:
    """Return the row of a scored frame; the row holds no pixels."""
    return Row(
        frame=scored.frame.index,
        time_s=scored.frame.pts_s,
        raw=scored.raw,
        score=scored.score,
        alarm=scored.alarm,
        status=scored.status,
    )


def columns(*, offline: bool = False) -> list[str]:
    """Return the columns of a CSV file."""
    extra = ["offline"] if offline else []
    return ["frame", "time_s", "raw", "score", *extra, "alarm", "status"]


def csv_fields(row: Row, *, offline: bool = False) -> list[str]:
    """Return the fields of a row, in the order of `columns`."""
    scores = [row.raw, row.score, *([row.offline] if offline else [])]
    numbers = ["" if value is None else f"{value:.9g}" for value in scores]
    return [str(row.frame), f"{row.time_s:.6f}", *numbers, str(int(row.alarm)), row.status]


def json_line(row: Row, *, offline: bool = False, **more: str) -> str:
    """Return a row as a JSON object, with what else is to stand in it, and the end of the line."""
    content = msgspec.structs.asdict(row)
    if not offline:
        del content["offline"]
    return msgspec.json.encode(content | more).decode() + "\n"


def score_text(score: float, threshold: float | None) -> str:
    """Return a score for a reader: two decimals, or more where the threshold would read 0.00."""
    if abs(score) >= 1000:
        return f"{score:.1e}"
    digits = 1 - math.floor(math.log10(abs(threshold))) if threshold else 2
    return f"{score:.{min(6, max(2, digits))}f}"


def unwritable(path: Path, error: Exception) -> InputError:
    """Return the one-line error for an output that the operating system or FFmpeg refuses."""
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(f"{path} cannot be written ({reason}). Check the folder and its free space.")


class RowWriter:
    """Writes `scores.csv` and `scores.jsonl`, the same rows in both.

    The CSV has the columns ``frame,time_s,raw,score[,offline],alarm,status``: nine significant
    digits (a float32 comes back as it was), an empty field for None, alarm as 0 or 1. The JSON
    lines hold the same keys with every digit.

    Args:
        folder: An existing folder.
        live: True = the final names from the start, and every row is handed to the operating
            system as soon as it is written, so that an interrupt, a crash or a kill loses none.
            False = temporary names until `close`.
        offline: Whether the rows have the offline score.

    Raises:
        InputError: The folder already has scores, or cannot be written.
    """

    def __init__(self, folder: Path, *, live: bool, offline: bool = False) -> None:
        self._live = live
        self._offline = offline
        self._final = [folder / "scores.csv", folder / "scores.jsonl"]
        self._open_as = [f if live else f.with_name(f.name + ".part") for f in self._final]
        self._files: list[IO[str]] = []
        for file in self._final:
            if file.exists():
                raise InputError(f"{file} exists already. Remove it or choose another folder.")
        try:
            for file in self._open_as:
                # 1 = line-buffered: a row is one write of the operating system, so it is never
                # seen by halves.
                self._files.append(
                    file.open("w", encoding="utf-8", newline="", buffering=1 if live else -1)
                )
            self._csv = csv.writer(self._files[0], lineterminator="\n")
            self._csv.writerow(columns(offline=offline))
        except OSError as error:
            self._remove(self._open_as)
            raise unwritable(Path(error.filename or self._open_as[0]), error) from None

    def write(self, row: Row) -> None:
        """Append a row.

        Raises:
            InputError: The operating system refused it, for example because the disk is full.
        """
        target = self._open_as[0]
        try:
            self._csv.writerow(csv_fields(row, offline=self._offline))
            target = self._open_as[1]
            self._files[1].write(json_line(row, offline=self._offline))
        except OSError as error:
            raise unwritable(target, error) from None

    def close(self) -> None:
        """Complete both files under their final names. A second call does nothing.

        Raises:
            InputError: The operating system refused it; temporary files are removed then.
        """
        files, self._files = self._files, []
        if not files:
            return
        failed = _closed(files)
        if failed is not None:
            if not self._live:
                self._remove(self._open_as)
            raise unwritable(*failed)
        if self._live:
            return
        renamed: list[Path] = []
        for source, target in zip(self._open_as, self._final, strict=True):
            try:
                source.replace(target)
            except OSError as error:
                self._remove([*self._open_as, *renamed])
                raise unwritable(target, error) from None
            renamed.append(target)

    def discard(self, *, rows_too: bool = False) -> None:
        """Close and remove temporary files; live rows stay, they were promised to be safe.

        After `close` it does nothing.

        Args:
            rows_too: Remove live rows as well, because none of them holds a score.
        """
        files, self._files = self._files, []
        if files and (rows_too or not self._live):
            _closed(files)
            self._remove(self._open_as)
        else:
            _closed(files)

    def _remove(self, paths: list[Path]) -> None:
        _closed(self._files)
        self._files = []
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError:
                # Only met on the way out of another failure, which is the one to report.
                continue


def read_rows(csv_path: Path) -> list[Row]:
    """Read a `scores.csv` strictly.

    Args:
        csv_path: A complete file that `RowWriter` wrote, or a site, whose column `utc` is left out.

    Returns:
        The rows in order of frames.

    Raises:
        InputError: Unreadable, another header, or a malformed row; names file and line.
    """
    try:
        text = csv_path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{csv_path} cannot be read ({error.strerror}). Check the path.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{csv_path} is no scores file ({error.reason}). Give another.") from None
    lines = text.split("\n")
    header = lines[0].split(",")
    if header not in (columns(), columns(offline=True), [*columns(), "utc"]):
        raise InputError(
            f"{csv_path}, line 1: not the header of a scores file. Give a scores.csv of vad-run."
        )
    if lines[-1]:
        raise InputError(
            f"{csv_path}, line {len(lines)}: the last row is incomplete. Remove it or run again."
        )
    rows: list[Row] = []
    reader = csv.reader(lines[1:-1], strict=True)
    try:
        for fields in reader:
            row = _row(dict(zip(header, fields, strict=True)))
            if rows and row.frame <= rows[-1].frame:
                raise ValueError(f"frame {row.frame} after frame {rows[-1].frame}")
            rows.append(row)
    except (csv.Error, ValueError) as error:
        reason = str(error)
        if "zip()" in reason:
            reason = f"{len(fields)} fields instead of {len(header)}"
        raise InputError(
            f"{csv_path}, line {reader.line_num + 1}: {reason}. Correct the row or run again."
        ) from None
    return rows


def _closed(files: list[IO[str]]) -> tuple[Path, OSError] | None:
    """Close all files, whatever happens; return the first one that failed."""
    failed = None
    for file in files:
        try:
            file.close()
        except OSError as error:
            failed = failed or (Path(file.name), error)
    return failed


def _row(fields: dict[str, str]) -> Row:
    frame, alarm, status = fields["frame"], fields["alarm"], fields["status"]
    if not (frame.isascii() and frame.isdigit()):
        raise ValueError(f"frame is '{frame}', not a whole number")
    if alarm not in ("0", "1"):
        raise ValueError(f"alarm is '{alarm}', not 0 or 1")
    if not status:
        raise ValueError("status is empty")
    time_s = _value(fields, "time_s")
    if time_s is None:
        raise ValueError("time_s is empty")
    return Row(
        frame=int(frame),
        time_s=time_s,
        raw=_value(fields, "raw"),
        score=_value(fields, "score"),
        alarm=alarm == "1",
        status=status,
        offline=_value(fields, "offline"),
    )


def _value(fields: dict[str, str], name: str) -> float | None:
    text = fields.get(name, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} is '{text}', not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} is '{text}', not a finite number")
    return value
