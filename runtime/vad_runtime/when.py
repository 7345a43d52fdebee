"""Times as people type and read them: `24h`, `2026-11-22 14:03`, `3 h 05 min`. Pure functions."""

import re
from datetime import date, datetime, time, timedelta, timezone

_UNITS_S = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_AGO = re.compile(r"(\d{1,9}(?:\.\d{1,3})?) ?(s|min|m|h|d|w)\Z")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\Z")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}\Z")
HOW = "24h, 90min, 7d, 14:03, today, yesterday, 2026-11-22, '2026-11-22 14:03'"
"""What `moment` understands, for help texts and errors."""


def moment(text: str, now_s: float, *, end_of_day: bool = False) -> float:
    """Return the moment that a text means, Unix seconds.

    Args:
        text: A time ago (`24h`), a time of day (its last occurrence), `now`, `today`, `yesterday`,
            a date, or a date and time in ISO 8601; without a zone it is this machine's local time.
        now_s: Now, Unix seconds.
        end_of_day: A bare date or day means its end and not its beginning.

    Raises:
        ValueError: The text is none of these; its message is for people and names no option.
    """
    text = " ".join(text.split())
    if text == "now":
        return now_s
    if ago := _AGO.match(text):
        return now_s - float(ago[1]) * _UNITS_S[ago[2]]
    try:
        now = datetime.fromtimestamp(now_s)
        if clock := _CLOCK.match(text):
            at = time(int(clock[1]), int(clock[2]), int(clock[3] or 0))
            found = datetime.combine(now.date(), at)
            return (found if found <= now else found - timedelta(days=1)).timestamp()
        day = _day(text, now.date())
        if day is not None:
            return datetime.combine(day + timedelta(days=end_of_day), time()).timestamp()
        # Python 3.10 does not know the Z of ISO 8601.
        return datetime.fromisoformat(re.sub(r"[zZ]\Z", "+00:00", text)).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text[:60]!r} is no time. Give for example {HOW}") from None


def _day(text: str, today: date) -> date | None:
    if text == "today":
        return today
    if text == "yesterday":
        return today - timedelta(days=1)
    return date.fromisoformat(text) if _DATE.match(text) else None


def local(unix_s: float) -> str:
    """Return a moment in local time with its zone, for example `2026-11-22 14:03:07 +01:00`.

    A number that no calendar holds (a damaged row) gives `?`.
    """
    text = iso(unix_s)
    return text if text == "?" else f"{text[:10]} {text[11:19]} {text[19:]}"


def iso(unix_s: float) -> str:
    """Return a moment in local time as ISO 8601, to the second; `?` where no calendar holds it."""
    try:
        return datetime.fromtimestamp(unix_s).astimezone().isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return "?"


def time_of_day(unix_s: float, now_s: float) -> str:
    """Return `14:03:07`, with the date before it where that is not today's."""
    text, today = local(unix_s), local(now_s)
    return text[11:19] if text[:10] == today[:10] and text != "?" else text[:19]


def utc_text(unix_s: float) -> str:
    """Return a Unix time in UTC with milliseconds, as in 2026-11-22T13:03:07.120Z.

    Where the clock shows nonsense, as on a board without one, the text is the number.
    """
    try:
        moment = datetime.fromtimestamp(unix_s, timezone.utc)
    except (OverflowError, OSError, ValueError):
        return str(unix_s)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def duration(seconds: float) -> str:
    """Return a duration in its two largest units, for example `12.4 s`, `3 h 05 min`."""
    if not abs(seconds) < 1e12:
        return "?"
    if seconds < 0:  # the clock was set back
        return "0 s"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = whole // 60
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = minutes // 60
    return f"{hours // 24} d {hours % 24} h"
