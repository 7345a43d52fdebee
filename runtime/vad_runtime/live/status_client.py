"""Asks a running site how it is: HTTP on this machine, one question, one answer."""

import http.client
import time
from dataclasses import dataclass

import msgspec

from vad_runtime.contracts.errors import InputError
from vad_runtime.live.status import SCHEMA, SiteStatus

_LONGEST_ANSWER = 32 << 20
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where a site serves its status."""

    site: str
    """How the user names it, for messages."""
    host: str
    """As in the site file; an address that means "every interface" is asked on the loopback."""
    port: int
    is_file: bool = True
    """Whether `site` is a site file, by which it can be started; otherwise a data folder."""

    @property
    def text(self) -> str:
        """Host and port, for messages."""
        host = _EVERYWHERE.get(self.host, self.host)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def asked(where: Where, *, timeout_s: float = 5.0) -> bytes:
    """Return the answer to `GET /status`, JSON. Blocks; any thread may call it.

    Args:
        where: Whom to ask.
        timeout_s: Longest time for the whole answer, seconds.

    Raises:
        InputError: Nobody serves there, or whoever does is no site or gives no answer in time.
    """
    deadline = time.monotonic() + timeout_s
    host = _EVERYWHERE.get(where.host, where.host)
    # Not urllib: it would ask the proxy that the environment names.
    connection = http.client.HTTPConnection(host, where.port, timeout=timeout_s)
    try:
        connection.request("GET", "/status", headers={"Connection": "close"})
        with connection.getresponse() as answer:
            if answer.status != http.client.OK:
                raise _NoAnswer(f"answers {answer.status} to /status, so it is no site of vad-edge")
            body = b""
            while block := answer.read1(1 << 16):
                body += block
                if len(body) > _LONGEST_ANSWER or time.monotonic() > deadline:
                    raise _NoAnswer(f"sends an answer that does not end within {timeout_s:g} s")
            return body
    except ConnectionRefusedError:
        start = where.site if where.is_file else "and its site file"
        raise InputError(
            f"{where.site} is not running: nobody answers on {where.text}. "
            f"Start it with: vad-run site {start}"
        ) from None
    except TimeoutError:
        raise InputError(
            f"{where.site} gives no answer on {where.text} within {timeout_s:g} s. "
            "It is overloaded or hangs; try again, then look at its log."
        ) from None
    except _NoAnswer as error:
        raise InputError(f"who serves {where.text} {error}. {_CHECK}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or "no answer"
        raise InputError(f"{where.text} cannot be asked ({reason[:200]}). {_CHECK}") from None
    finally:
        connection.close()


_CHECK = "Check health.host and health.port of the site file."


class _NoAnswer(Exception):  # noqa: N818 - it becomes an InputError
    """What is wrong with an answer, as a verb and the rest."""


def status_from_json(body: bytes, where: str) -> SiteStatus:
    """Read the answer. Keys that a newer site adds are passed over.

    Args:
        body: JSON as `asked` returned it.
        where: Who gave it, for messages.

    Raises:
        InputError: It is no status, or one of a newer schema.
    """
    try:
        head = msgspec.json.decode(body, type=_Head)
        if head.schema > SCHEMA:
            raise InputError(
                f"{where} runs a newer vad-edge (status schema {head.schema}, this one reads up to "
                f"{SCHEMA}). Upgrade with: pip install -U vad-edge"
            )
        return msgspec.json.decode(body, type=SiteStatus)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{where} gives no status of a site ({reason}). {_CHECK}") from None


class _Head(msgspec.Struct):
    schema: int
