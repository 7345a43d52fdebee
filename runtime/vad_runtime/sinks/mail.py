"""Alerts by e-mail: the first one at once, what follows it soon after in one digest.

The subject says it all on a telephone: `[depot] gate: alarm 14:03:07, peak 2.31`. Snapshots are
attached where they exist: of one event its own, of a digest the one of the highest peak. The
Message-ID is made from the event's, so a repeated mail carries the same one.
"""

import contextlib
import re
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from pathlib import Path
from typing import TYPE_CHECKING

from vad_runtime.contracts.errors import ConfigError
from vad_runtime.contracts.site import MailSettings
from vad_runtime.sinks.base import DeliveryError
from vad_runtime.sinks.mail_text import mail_subject, mail_text, worst
from vad_runtime.sinks.message import network_reason, one_line

if TYPE_CHECKING:
    from vad_runtime.store.outbox import Due

LONGEST_SNAPSHOT = 2_000_000
"""Larger pictures are not attached, bytes: mail servers refuse what is too large."""
SNAPSHOT_WAIT_S = 2.0
"""The picture of a new event may come a moment after its row."""
FRESH_S = 30.0
STEPS = 4
"""All of a mail's steps together may take so many times the time-out."""
_ADDRESS = re.compile(r"[^@\s<>,;]+@[^@\s<>,;]+\Z")


class MailSink:
    """Sends mails through one server, a connection for each.

    Args:
        name: As in the site file.
        settings: Server, addresses, how often.
        site: Name of the site, in the subject.
        data_folder: What the snapshots' paths start from.
        say: Gets a line about what nobody else tells, such as one address of several refused.
        context: Checks the server's certificate; None = the system's authorities.
        clock: Durations, seconds.

    Raises:
        ConfigError: An address is none, or a password would travel in the clear.
    """

    kind = "mail"
    most = 5000
    by_stream = True

    def __init__(
        self,
        name: str,
        settings: MailSettings,
        *,
        site: str,
        data_folder: Path,
        say: Callable[[str], None],
        context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check(name, settings)
        self.name = name
        self._settings, self._site, self._folder = settings, site, data_folder
        self._say, self._clock = say, clock
        self._context = context
        self._last: dict[str, float] = {}  # stream -> when the latest start was mailed
        self._no_picture_for: set[int] = set()  # rows whose mail was too large
        self._refused: frozenset[str] = frozenset()
        self._stopping = threading.Event()

    def wait_s(self, stream: str) -> float:
        """Return for how long no mail about a stream may go out, seconds."""
        last = self._last.get(stream)
        if last is None:
            return 0.0
        return max(0.0, last + self._settings.every_s - self._clock())

    def tick(self) -> str:
        """Return who gets no mails although the server takes them."""
        if not self._refused:
            return ""
        return f"the server takes no mail for {', '.join(sorted(self._refused))}"

    def close(self) -> None:
        """Stop waiting for a picture."""
        self._stopping.set()

    def deliver(self, batch: "Sequence[Due]") -> None:
        """Send one mail about rows of one stream.

        Raises:
            DeliveryError: The server did not take it.
        """
        picture = None
        if not any(due.id in self._no_picture_for for due in batch):
            picture = self._picture(batch)
        message = self._message(batch, picture)
        try:
            self._send(message)
        except DeliveryError as error:
            if picture is not None and not error.retry:
                # The next try goes without: it may have been the picture that was refused.
                self._no_picture_for = {due.id for due in batch}
            raise
        self._no_picture_for = set()
        # The end of an alarm alone must not hold back the next alarm.
        if any(due.kind == "started" for due in batch):
            self._last[batch[0].event.stream] = self._clock()

    def try_out(self) -> str:
        """Connect, encrypt and log in as for a mail, and send none; return what was done.

        Raises:
            DeliveryError: The server would take no mail.
        """
        self._send(None)
        done = [f"answers at {self._settings.host}:{self._settings.port}"]
        done += ["encrypted"] if self._settings.tls != "none" else []
        return ", ".join(done + (["logged in"] if self._settings.user is not None else []))

    # -- the mail ----------------------------------------------------------------------------------

    def _message(self, batch: "Sequence[Due]", picture: bytes | None) -> EmailMessage:
        settings, first = self._settings, batch[0]
        message = EmailMessage()
        message["Subject"] = mail_subject(self._site, batch)
        message["From"] = settings.sender
        message["To"] = ", ".join(settings.to)
        message["Date"] = formatdate(localtime=True)
        message["Message-ID"] = (
            f"<{first.event.id}.{first.kind}.{len(batch)}@{self._site}.vad-edge>"
        )
        # RFC 3834: holiday notices and other machines do not answer.
        message["Auto-Submitted"] = "auto-generated"
        if any(due.maybe_repeated for due in batch):
            message["X-Vad-Maybe-Repeated"] = "1"
        message.set_content(mail_text(self._site, batch, self._folder))
        if picture is not None:
            stream = first.event.stream
            message.add_attachment(
                picture, maintype="image", subtype="jpeg", filename=f"{stream}.jpg"
            )
        return message

    def _picture(self, batch: "Sequence[Due]") -> bytes | None:
        event = worst(batch)
        if event.snapshot is None:
            return None
        path = self._folder / event.snapshot
        patience_s = SNAPSHOT_WAIT_S if 0 <= time.time() - event.start_s < FRESH_S else 0.0
        until = time.monotonic() + patience_s
        while True:
            try:
                if path.stat().st_size > LONGEST_SNAPSHOT:
                    return None
                return path.read_bytes() or None
            except OSError:
                if time.monotonic() >= until or self._stopping.wait(0.05):
                    return None

    # -- the server --------------------------------------------------------------------------------

    def _send(self, message: EmailMessage | None) -> None:
        settings = self._settings
        handed_over = False
        cut = threading.Event()
        try:
            with self._connected(cut) as server:
                if settings.user is not None and settings.password is not None:
                    server.login(settings.user.reveal(), settings.password.reveal())
                if message is None:
                    return
                handed_over = True
                refused = server.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            words = self._words(*next(iter(error.recipients.values())))
            raise DeliveryError(self._told(f"takes mail for no address ({words})")) from None
        except smtplib.SMTPDataError as error:
            # The one answer about this very mail; all others are about addresses and settings,
            # which an operator can put right.
            raise DeliveryError(
                self._told(f"answered {self._words(error.smtp_code, error.smtp_error)}"),
                retry=not 500 <= error.smtp_code < 600,
            ) from None
        except smtplib.SMTPNotSupportedError:
            what = "STARTTLS" if settings.tls == "starttls" else "logging in"
            raise DeliveryError(self._told(f"the server does not offer {what}")) from None
        except smtplib.SMTPAuthenticationError as error:
            words = self._words(error.smtp_code, error.smtp_error)
            raise DeliveryError(self._told(f"user or password refused ({words})")) from None
        except smtplib.SMTPResponseException as error:
            words = self._words(error.smtp_code, error.smtp_error)
            raise DeliveryError(self._told(f"answered {words}")) from None
        except (smtplib.SMTPException, OSError, ValueError) as error:
            # smtplib gives most broken connections its own error, which is also an OSError.
            cause: Exception = error
            if cut.is_set() or isinstance(error.__context__, TimeoutError):
                cause = TimeoutError()
            elif isinstance(error, smtplib.SMTPException):
                cause = ConnectionResetError()
            reason = network_reason(cause, settings.timeout_s)
            raise DeliveryError(self._told(reason), maybe_delivered=handed_over) from None
        self._note_refused(frozenset(refused))

    @contextlib.contextmanager
    def _connected(self, cut: threading.Event) -> Iterator[smtplib.SMTP]:
        """Give a connection that is broken off when all together takes too long."""
        settings = self._settings
        context = self._context or ssl.create_default_context()
        if settings.tls == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(timeout=settings.timeout_s, context=context)
        else:
            server = smtplib.SMTP(timeout=settings.timeout_s)
        # smtplib's time-out starts anew with each byte of a slow server.
        timer = threading.Timer(STEPS * settings.timeout_s, _cut_off, (server, cut))
        timer.name, timer.daemon = "vad-mail-timer", True
        timer.start()
        try:
            server._host = settings.host  # type: ignore[attr-defined]  # STARTTLS checks this name
            code, words = server.connect(settings.host, settings.port)
            if code != 220:
                raise smtplib.SMTPConnectError(code, words)
            server.ehlo_or_helo_if_needed()
            if settings.tls == "starttls":
                server.starttls(context=context)
                server.ehlo()
            yield server
            with contextlib.suppress(smtplib.SMTPException, OSError):
                server.quit()  # the mail is taken, whatever comes now
        finally:
            timer.cancel()
            timer.join()
            server.close()

    def _note_refused(self, refused: frozenset[str]) -> None:
        if refused - self._refused:
            names = ", ".join(sorted(refused))
            self._say(f"mail {self.name}: the server takes no mail for {names}; others get theirs.")
        self._refused = refused

    def _words(self, code: int, words: str | bytes) -> str:
        secrets = (self._settings.password, self._settings.user)
        return f"{code} {one_line(words, [one.reveal() for one in secrets if one])}".strip()

    def _told(self, reason: str) -> str:
        return f"{self._settings.host}:{self._settings.port}: {reason}"


def _cut_off(server: smtplib.SMTP, cut: threading.Event) -> None:
    cut.set()
    connection = server.sock
    if connection is not None:
        with contextlib.suppress(OSError):
            # Not SSLSocket's own method, which takes the TLS object from under the reading thread.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _check(name: str, settings: MailSettings) -> None:
    for key, text in [("sender", settings.sender), *(("to", text) for text in settings.to)]:
        address = parseaddr(text)[1]
        if not text.isprintable() or not address.isascii() or not _ADDRESS.match(address):
            raise ConfigError(
                f"sinks.{name}.{key}: {text!a} is no address. Write one such as guard@example.org."
            )
    if (settings.user is None) != (settings.password is None):
        there, missing = ("user", "password") if settings.user is not None else ("password", "user")
        raise ConfigError(
            f"sinks.{name}: there is a {there} without a {missing}. Add the {missing}."
        )
    local = settings.host in ("localhost", "127.0.0.1", "::1")
    if settings.password is not None and settings.tls == "none" and not local:
        raise ConfigError(
            f"sinks.{name}.tls: none would send the password in the clear. Write starttls or tls."
        )
