"""Small files of Linux, read without a complaint where there are none."""

from pathlib import Path


def read(path: Path) -> str | None:
    """Return what a small file says, without blanks around it; None = it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def number(path: Path) -> int | None:
    """Return a file's whole number; None = there is none."""
    try:
        return int(read(path) or "")
    except ValueError:
        return None
