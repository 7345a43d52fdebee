"""Real servers that tests send alerts to: mail, HTTP, MQTT. All on loopback, on free ports."""

import contextlib
import http.server
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from vad_runtime.contracts.site import EventKind
from vad_runtime.live.base import EventChange, EventRecord
from vad_runtime.store.writer import StoreWriter

SITE = "depot"


def until(test: Callable[[], Any], *, seconds: float = 10.0, what: str = "") -> None:
    """Wait for something that another thread does; fails when it does not come."""
    deadline = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or test}"
        time.sleep(0.01)


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- events ------------------------------------------------------------------------------------


def event(number: int = 1, *, ended: bool = False, **values: Any) -> EventRecord:
    """Return an event; its id and its times rise with `number`."""
    start_s = 1_800_000_000.0 + 10 * number
    known: dict[str, Any] = {
        "id": f"01890000-0000-7000-8000-{number:012d}",
        "site": SITE,
        "stream": "gate",
        "start_s": start_s,
        "end_s": start_s + 4.5 if ended else None,
        "peak_s": start_s + 1.0,
        "peak_score": 2.0 + number / 1000,
        "threshold": 1.5,
        "reason": "score of site.vad",
        "start_frame": 100 * number,
        "end_frame": 100 * number + 112 if ended else None,
        "ended_by": "score" if ended else None,
    }
    return EventRecord(**(known | values))


def change(number: int = 1, kind: EventKind = "started", **values: Any) -> EventChange:
    """Return the start or the end of an event."""
    return EventChange(kind=kind, event=event(number, ended=kind == "ended", **values))


def store(path: Path, changes: Sequence[EventChange], *sinks: str) -> None:
    """Put changes and rows for sinks into a database, as a site does."""
    lines: list[str] = []
    writer = StoreWriter(path, lambda _: list(sinks), say=lines.append)
    for one in changes:
        assert writer.put(one)
    assert writer.close() == 0, lines


# -- certificates ------------------------------------------------------------------------------


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for localhost that signs itself; returns its file and the key's."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    subprocess.run(
        [
            *command.split(),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def server_context(pair: tuple[Path, Path]) -> ssl.SSLContext:
    """Return what a server shows its certificate with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    return context


# -- mail --------------------------------------------------------------------------------------


class MailServer:
    """A mail server (aiosmtpd) that keeps what it is sent.

    `refuse` may hold answers by command (`RCPT`, `DATA`), for example "550 no such user"; an answer
    for `RCPT` is given to addresses that contain `refuse_for`. Without `starttls`, a certificate is
    shown from the first byte on.
    """

    def __init__(
        self,
        pair: tuple[Path, Path] | None = None,
        *,
        login: tuple[str, str] | None = None,
        starttls: bool = True,
    ) -> None:
        from aiosmtpd.controller import Controller
        from aiosmtpd.smtp import AuthResult

        self.mails: list[EmailMessage] = []
        self.encrypted: list[bool] = []
        self.refuse: dict[str, str] = {}
        self.refuse_for = ""
        self.tries = 0
        self.port = free_port()

        def checked(*arguments: Any) -> AuthResult:
            given = arguments[-1]
            found = (given.login.decode(), given.password.decode())
            return AuthResult(success=found == login, handled=False)

        options: dict[str, Any] = {}
        if login is not None:
            options = {"authenticator": checked, "auth_required": True}
        if pair is not None and starttls:
            options |= {"tls_context": server_context(pair), "require_starttls": True}
        elif pair is not None:
            options["ssl_context"] = server_context(pair)
        self._controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            **options,
        )

    async def handle_RCPT(  # noqa: N802  # aiosmtpd calls it so
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if "RCPT" in self.refuse and self.refuse_for in address:
            return self.refuse["RCPT"]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.tries += 1
        if "DATA" in self.refuse:
            return self.refuse["DATA"]
        self.encrypted.append(session.ssl is not None)
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"

    def __enter__(self) -> "MailServer":
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()


# -- HTTP --------------------------------------------------------------------------------------


@dataclass
class Request:
    """What a webhook posted."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class HttpServer:
    """An HTTP server that answers with `code`, or does as `manner` says.

    `hang` reads the request and says nothing; `drip` sends a byte of its answer every 50 ms without
    end; `garbage` is no HTTP; `drop` takes the request and closes without an answer.
    """

    code: int = 200
    manner: str = "answer"
    headers: dict[str, str] = field(default_factory=dict)
    fail_on: Callable[[Request], bool] = lambda _: True
    """Which requests get `code`; others get 200."""
    pair: tuple[Path, Path] | None = None
    requests: list[Request] = field(default_factory=list)
    taken: list[Request] = field(default_factory=list)
    """Those that were answered with 2xx."""
    port: int = 0

    def __enter__(self) -> "HttpServer":
        outer, self._over = self, threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass  # clients hang up in these tests

        self._server = Server(("127.0.0.1", self.port), Handler)
        if self.pair is not None:
            context = server_context(self.pair)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def url(self, path: str = "/alerts", host: str = "127.0.0.1") -> str:
        return f"http{'s' if self.pair else ''}://{host}:{self.port}{path}"

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        request = Request(handler.path, dict(handler.headers.items()), body)
        self.requests.append(request)
        code = self.code if self.fail_on(request) else 200
        if self.manner == "hang":
            self._over.wait(20)
        elif self.manner == "drip":
            with contextlib.suppress(OSError):
                for sign in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 400:
                    handler.wfile.write(bytes([sign]))
                    handler.wfile.flush()
                    if self._over.wait(0.05):
                        break
        elif self.manner == "garbage":
            handler.wfile.write(b"220 this is a mail server\r\n\r\n")
        elif self.manner == "answer":
            if 200 <= code < 300:
                self.taken.append(request)
            handler.send_response(code)
            for key, value in self.headers.items():
                handler.send_header(key, value)
            handler.end_headers()
        handler.close_connection = True


# -- MQTT --------------------------------------------------------------------------------------

_BROKER = """
import asyncio, sys
from amqtt.broker import Broker
async def run():
    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    bind = f"127.0.0.1:{sys.argv[1]}"
    broker = Broker({"listeners": {"default": {"type": "tcp", "bind": bind}}, "plugins": plugins})
    await broker.start()
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(run())
"""


class Broker:
    """An MQTT broker (amqtt) in a process of its own, so that it can be killed and started anew."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _BROKER, str(self.port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 30.0)
        assert ready, "the broker does not start"
        assert self._process.stdout.readline().strip() == "ready"

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def __enter__(self) -> "Broker":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@contextlib.contextmanager
def listener(port: int) -> Iterator[list[tuple[str, str, bool]]]:
    """Give the list of what a broker passes on: topic, text, whether it was retained."""
    from paho.mqtt import client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    heard: list[tuple[str, str, bool]] = []
    ready = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.reconnect_delay_set(1, 1)
    client.on_connect = lambda *_: client.subscribe("#", qos=1)
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda _c, _d, message: heard.append(
        (message.topic, message.payload.decode(), message.retain)
    )
    client.connect("127.0.0.1", port, 30)
    client.loop_start()
    try:
        assert ready.wait(10), "the broker takes no subscription"
        yield heard
    finally:
        client.disconnect()
        client.loop_stop()
