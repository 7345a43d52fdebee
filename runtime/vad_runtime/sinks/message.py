"""What every sink says of an event, and how a failure is told to people."""

import http.client
import math
import socket
import ssl
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from vad_runtime.when import utc_text

if TYPE_CHECKING:
    from vad_runtime.store.outbox import Due

SCHEMA = 1
LONGEST_LINE = 200
"""Most characters of what a server said that are told on."""


def event_message(due: "Due") -> dict[str, Any]:
    """Return the JSON object that a webhook posts, MQTT publishes and a line holds.

    ::

        {"schema": 1, "id": "EVENTID-started", "kind": "started",
         "start": "2026-11-22T13:03:07.120Z", "end": null, "duration_s": null,
         "event": {...}}

    `event` holds the fields of `vad_runtime.live.base.EventRecord`, times in Unix seconds; `start`
    and `end` are the same times in UTC for people and tables. `id` is the same in every repetition.
    A number that is not finite becomes null, as JSON has none.
    """
    event = due.event
    fields = msgspec.to_builtins(event)
    return {
        "schema": SCHEMA,
        "id": due_key(due),
        "kind": due.kind,
        "start": utc_text(event.start_s),
        "end": None if event.end_s is None else utc_text(event.end_s),
        "duration_s": None if event.end_s is None else round(event.end_s - event.start_s, 3),
        "event": {name: _finite(value) for name, value in fields.items()},
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def due_key(due: "Due") -> str:
    """Return what names a row of the outbox for the receiver: the same in every repetition."""
    return f"{due.event.id}-{due.kind}"


def local_clock(unix_s: float, form: str = "%H:%M:%S") -> str:
    """Return a Unix time in this machine's time zone."""
    try:
        return time.strftime(form, time.localtime(unix_s))
    except (OverflowError, OSError, ValueError):
        return str(unix_s)


def one_line(text: str | bytes, secrets: Iterable[str] = ()) -> str:
    """Return a server's words as one short printable line in which no secret stands."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    for secret in sorted(secrets, key=len, reverse=True):
        if secret:
            text = text.replace(secret, "***")
    text = " ".join(text.split())
    text = "".join(sign if sign.isprintable() else "?" for sign in text)
    return text if len(text) <= LONGEST_LINE else text[: LONGEST_LINE - 1] + "…"


def network_reason(error: Exception, timeout_s: float) -> str:
    """Say in words why a server could not be reached; holds neither addresses nor secrets."""
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    if isinstance(error, socket.gaierror):
        return "the host name is not known"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({one_line(error.verify_message)})"
    if isinstance(error, ssl.SSLError):
        return f"no TLS connection ({one_line(error.reason or 'broken off')})"
    if isinstance(error, (ConnectionResetError, BrokenPipeError, EOFError)):
        return "the connection was broken off"
    if isinstance(error, (http.client.HTTPException, ValueError)):
        return "the answer is no HTTP"
    if isinstance(error, OSError) and error.strerror:
        return one_line(error.strerror[0].lower() + error.strerror[1:])
    return type(error).__name__
