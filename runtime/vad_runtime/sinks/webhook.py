"""Webhooks: a signed POST of JSON for each start and end of an event.

The body is `vad_runtime.sinks.message.event_message`, byte for byte the same in every repetition.
Headers::

    Content-Type: application/json
    Idempotency-Key: EVENTID-started          the same in every repetition
    X-Vad-Event: started
    X-Vad-Maybe-Repeated: 1                   only where an earlier try may have arrived
    X-Vad-Signature: t=UNIX,v1=HEX            only with a secret: HMAC-SHA256 of "UNIX.BODY"

Who receives it takes the time stamp and the raw body, computes the same HMAC, compares in constant
time and refuses time stamps older than some minutes. 2xx = taken. 408, 425, 429 and 5xx, and 401,
403, 404 and 407, which an operator can put right, are tried again for a day; any other answer is a
refusal of this very message. Redirects are not followed: nobody named the host they lead to.
"""

import base64
import email.utils
import hashlib
import hmac
import http.client
import io
import json
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from vad_runtime.contracts.errors import ConfigError
from vad_runtime.contracts.site import WebhookSettings
from vad_runtime.sinks.base import DeliveryError
from vad_runtime.sinks.message import due_key, event_message, network_reason, one_line

if TYPE_CHECKING:
    from vad_runtime.store.outbox import Due

AGAIN = frozenset({401, 403, 404, 407, 408, 425, 429})
"""Answers below 500 after which the same message may well be taken later."""
UNSURE = frozenset({502, 504})
"""Answers of a proxy that does not know what became of the request."""
LONGEST_ANSWER = 65536
OWN_HEADERS = frozenset(
    {"connection", "content-length", "host", "idempotency-key", "transfer-encoding"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Where to post; never shown."""

    tls: bool
    host: str
    port: int
    path: str
    authorization: str | None

    @property
    def netloc(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class WebhookSink:
    """Posts each row to one address; see the module.

    Args:
        name: As in the site file.
        settings: Where and how. A user and password in the address become basic authorisation.
        context: Checks the server's certificate; None = the system's authorities.
        unix: The time in the signature.

    Raises:
        ConfigError: The address or a header cannot be used.
    """

    kind = "webhook"
    most = 1
    by_stream = True

    def __init__(
        self,
        name: str,
        settings: WebhookSettings,
        *,
        context: ssl.SSLContext | None = None,
        unix: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._settings, self._unix = settings, unix
        self._target = _target(name, settings.url.reveal())
        self._context = context or (ssl.create_default_context() if self._target.tls else None)
        self._headers = _headers(name, settings)

    def wait_s(self, stream: str) -> float:  # noqa: ARG002  # as every sink
        """Return 0: nothing is held back."""
        return 0.0

    def tick(self) -> str:
        """Do nothing: there is no connection between two requests."""
        return ""

    def close(self) -> None:
        """Do nothing."""

    def try_out(self) -> str:
        """Connect, and for https check the certificate; post nothing. Return what was done.

        Raises:
            DeliveryError: There is no connection.
        """
        limit_s = self._settings.timeout_s
        try:
            self._connect(time.monotonic() + limit_s).close()
        except (OSError, ValueError) as error:
            raise DeliveryError(self._told(network_reason(error, limit_s))) from None
        target = self._target
        return f"answers at {target.host}:{target.port}" + (", encrypted" if target.tls else "")

    def deliver(self, batch: "Sequence[Due]") -> None:
        """Post rows one after another.

        Raises:
            DeliveryError: One was not taken.
        """
        for i, due in enumerate(batch):
            try:
                self._post(due)
            except DeliveryError as error:
                error.done = tuple(batch[:i])
                raise

    def _post(self, due: "Due") -> None:
        body = json.dumps(event_message(due), separators=(",", ":")).encode()
        limit_s = self._settings.timeout_s
        deadline = time.monotonic() + limit_s
        sent = False
        try:
            connection = self._connect(deadline)
            try:
                sent = True
                connection.sendall(self._request(due, body))
                answer = http.client.HTTPResponse(
                    _Timed(connection, deadline),  # type: ignore[arg-type]  # makefile is all it uses
                    method="POST",
                )
                answer.begin()
                self._judge(answer)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            # ValueError: an answer whose headers contradict themselves.
            reason = network_reason(error, limit_s)
            raise DeliveryError(self._told(reason), maybe_delivered=sent) from None

    def _connect(self, deadline: float) -> socket.socket:
        """Try each of the host's addresses within the one deadline."""
        target, failure = self._target, OSError("no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(
            target.host, target.port, type=socket.SOCK_STREAM
        ):
            plain = None
            try:
                plain = socket.socket(family, kind, protocol)
                plain.settimeout(_left(deadline))
                plain.connect(address)
                plain.settimeout(_left(deadline))
                if self._context is None:
                    return plain
                return self._context.wrap_socket(plain, server_hostname=target.host)
            except OSError as error:
                failure = error
                if plain is not None:
                    plain.close()
        raise failure

    def _request(self, due: "Due", body: bytes) -> bytes:
        headers = {
            "Host": self._target.netloc,
            "User-Agent": "vad-edge",
            "Accept": "*/*",
            "Connection": "close",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Idempotency-Key": due_key(due),
            "X-Vad-Event": due.kind,
        }
        if due.maybe_repeated:
            headers["X-Vad-Maybe-Repeated"] = "1"
        if self._settings.secret is not None:
            stamp = int(self._unix())
            headers["X-Vad-Signature"] = signature(self._settings.secret.reveal(), stamp, body)
        if self._target.authorization is not None:
            headers["Authorization"] = self._target.authorization
        # A header of the site file replaces ours, whatever the case of its letters.
        named = {name.lower() for name in self._headers}
        headers = {key: value for key, value in headers.items() if key.lower() not in named}
        lines = [f"POST {self._target.path} HTTP/1.1"]
        lines += [f"{key}: {value}" for key, value in (headers | self._headers).items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def _judge(self, answer: http.client.HTTPResponse) -> None:
        code = answer.status
        if 200 <= code < 300:
            return
        words = f"{code} {one_line(answer.reason, self._secrets())}".strip()
        if 300 <= code < 400:
            reason = f"answered {words}; redirects are not followed, write the final address"
            raise DeliveryError(self._told(reason))
        raise DeliveryError(
            self._told(f"answered {words}"),
            retry=code >= 500 or code in AGAIN,
            maybe_delivered=code in UNSURE,
            after_s=retry_after_s(answer.getheader("Retry-After"), self._unix()),
        )

    def _told(self, reason: str) -> str:
        """Name host and port, no more: a path is often the password of a webhook."""
        return f"{self._target.netloc}: {reason}"

    def _secrets(self) -> list[str]:
        url, secret = self._settings.url.reveal(), self._settings.secret
        return [
            url,
            self._target.path if len(self._target.path) > 1 else "",
            "" if secret is None else secret.reveal(),
            *(value.reveal() for value in self._settings.headers.values()),
        ]


def signature(secret: str, unix_s: int, body: bytes) -> str:
    """Return the value of `X-Vad-Signature` for a body posted at a time."""
    signed = str(unix_s).encode() + b"." + body
    return f"t={unix_s},v1={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"


def retry_after_s(text: str | None, unix_s: float) -> float | None:
    """Return how long a server asks to wait: seconds or an HTTP date; None = it does not say so."""
    if not text:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - unix_s)
    except (ValueError, TypeError, OverflowError, OSError):
        return None


class _Timed:
    """A connection as HTTPResponse wants it, on which all reads together have one deadline."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection, self._deadline = connection, deadline

    def makefile(self, *_: Any) -> io.BufferedReader:
        return io.BufferedReader(_TimedRaw(self._connection, self._deadline))


class _TimedRaw(io.RawIOBase):
    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection, self._deadline = connection, deadline
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._read > LONGEST_ANSWER:
            raise http.client.HTTPException("an endless answer")
        self._connection.settimeout(_left(self._deadline))
        count = self._connection.recv_into(buffer)
        self._read += count
        return count


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _target(name: str, url: str) -> _Target:
    def refused(why: str) -> ConfigError:
        return ConfigError(
            f"sinks.{name}.url: {why}. Write an address such as https://example.org/alerts."
        )

    if any(ord(sign) <= 32 or ord(sign) == 127 for sign in url):
        raise refused("there are blanks or control characters in it")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
        host = host if ":" in host else host.encode("idna").decode()
    except ValueError:  # its text would show the address
        raise refused("it cannot be read") from None
    if parts.scheme not in ("http", "https"):
        raise refused("it does not start with https:// or http://")
    if not host:
        raise refused("it names no host")
    tls = parts.scheme == "https"
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        path += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    return _Target(
        tls=tls,
        host=host,
        port=port or (443 if tls else 80),
        path=path,
        authorization=authorization,
    )


def _headers(name: str, settings: WebhookSettings) -> dict[str, str]:
    headers = {}
    for key, secret in settings.headers.items():
        value = secret.reveal()
        allowed = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
        if not allowed or key.lower() in OWN_HEADERS or key.lower().startswith("x-vad-"):
            raise ConfigError(
                f"sinks.{name}.headers: {key!a} cannot be set here. Take it out, or give it "
                "another name."
            )
        if not value.isprintable() or not value.isascii():
            raise ConfigError(
                f"sinks.{name}.headers.{key}: the value holds a line break or letters that are "
                "not ASCII. Is there a line break at the end of the file it comes from?"
            )
        headers[key] = value
    return headers
