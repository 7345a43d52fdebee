import socket
import ssl
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers_servers import (
    SITE,
    MailServer,
    certificate,
    change,
    event,
    free_port,
    store,
    until,
)

from vad_runtime.contracts.errors import ConfigError
from vad_runtime.contracts.site import EventKind, MailSettings, Secret
from vad_runtime.sinks.delivery import Delivery, DeliveryError
from vad_runtime.sinks.mail import MailSink
from vad_runtime.sinks.mail_text import mail_subject, mail_text
from vad_runtime.sinks.message import local_clock
from vad_runtime.store.outbox import Due, Outbox
from vad_runtime.store.writer import StoreWriter


def due(number: int = 1, kind: EventKind = "started", **values: Any) -> Due:
    return Due(
        id=number,
        event=event(number, ended=kind == "ended", **values),
        kind=kind,
        sink="office",
        attempts=0,
        created_s=0.0,
        maybe_repeated=False,
    )


def sink(port: int, folder: Path, *, context: Any = None, **values: Any) -> MailSink:
    known: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": port,
        "tls": "none",
        "sender": "Cameras <vad@example.org>",
        "to": ["guard@example.org", "night@example.org"],
        "timeout_s": 5.0,
    }
    settings = MailSettings(**(known | values))
    lines: list[str] = []
    made = MailSink(
        "office", settings, site=SITE, data_folder=folder, say=lines.append, context=context
    )
    made.lines = lines  # type: ignore[attr-defined]
    return made


def failure(office: MailSink, *rows: Due) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        office.deliver(rows or [due()])
    assert "\n" not in str(caught.value)
    assert "pa55word" not in str(caught.value)
    return caught.value


def test_a_mail_is_encrypted_names_the_alarm_and_shows_its_snapshot(tmp_path: Path) -> None:
    pair = certificate(tmp_path)
    (tmp_path / "gate.jpg").write_bytes(b"\xff\xd8picture\xff\xd9")
    trusting = ssl.create_default_context(cafile=str(pair[0]))
    with MailServer(pair, login=("ann", "pa55word")) as server:
        access = {"user": Secret("ann"), "password": Secret("pa55word"), "tls": "starttls"}
        office = sink(server.port, tmp_path, context=trusting, **access)
        office.deliver([due(snapshot="gate.jpg")])
        wrong = sink(server.port, tmp_path, **access)
        assert "certificate is not trusted" in failure(wrong).reason
        access["password"] = Secret("pa55word2")
        wrong = sink(server.port, tmp_path, context=trusting, **access)
        assert "user or password refused" in failure(wrong).reason
    (mail,) = server.mails
    assert server.encrypted == [True]
    assert mail["Subject"] == f"[depot] gate: alarm {local_clock(1_800_000_010)}, peak 2.00"
    assert mail["Message-ID"].startswith(f"<{event().id}.started.1@")
    assert mail["To"] == "guard@example.org, night@example.org"
    text, picture = mail.iter_parts()
    assert "still going on" in text.get_content()
    assert picture.get_content() == b"\xff\xd8picture\xff\xd9"
    assert picture.get_filename() == "gate.jpg"


def test_a_server_can_be_tried_without_a_mail(tmp_path: Path) -> None:
    pair = certificate(tmp_path)
    trusting = ssl.create_default_context(cafile=str(pair[0]))
    with MailServer(pair, login=("ann", "pa55word")) as server:
        access = {"user": Secret("ann"), "password": Secret("pa55word"), "tls": "starttls"}
        told = sink(server.port, tmp_path, context=trusting, **access).try_out()
        assert told == f"answers at 127.0.0.1:{server.port}, encrypted, logged in"
        access["password"] = Secret("wrong")
        with pytest.raises(DeliveryError, match="user or password refused"):
            sink(server.port, tmp_path, context=trusting, **access).try_out()
    assert not server.mails


def test_a_server_may_speak_tls_from_the_first_byte_on(tmp_path: Path) -> None:
    pair = certificate(tmp_path)
    trusting = ssl.create_default_context(cafile=str(pair[0]))
    with MailServer(pair, starttls=False) as server:
        sink(server.port, tmp_path, tls="tls", context=trusting).deliver([due()])
        error = failure(sink(server.port, tmp_path, tls="tls"))
        assert "certificate is not trusted" in error.reason
    assert len(server.mails) == 1


def test_a_server_without_starttls_gets_neither_password_nor_mail(tmp_path: Path) -> None:
    with MailServer() as server:
        error = failure(sink(server.port, tmp_path, tls="starttls"))
    assert error.reason == f"127.0.0.1:{server.port}: the server does not offer STARTTLS"
    assert not error.maybe_delivered
    assert not server.mails


def test_a_storm_of_a_thousand_events_in_a_minute_gives_two_mails_and_loses_no_row(
    tmp_path: Path,
) -> None:
    database, lines = tmp_path / "vad.db", []
    outbox = Outbox(database)
    clock = [1000.0]
    with MailServer() as server:
        office = sink(server.port, tmp_path, every_s=60.0)
        office._clock = lambda: clock[0]
        delivery = Delivery(office, outbox, say=lines.append, clock=lambda: clock[0])
        store(database, [change(1)], "office")
        assert delivery.step() == 0
        storm = [change(1, "ended")]
        for number in range(2, 1001):
            storm += [change(number), change(number, "ended")]
        storm.append(change(5000, stream="yard"))
        store(database, storm, "office")
        assert delivery.step() == 0  # the other stream's first mail does not wait
        while clock[0] < 1059.9:
            assert delivery.step() > 0
            clock[0] += 7.37
        clock[0] = 1060.1
        assert delivery.step() == 0
        assert delivery.step() > 0
    subjects = [mail["Subject"] for mail in server.mails]
    assert len(subjects) == 3
    assert "yard: alarm" in subjects[1]
    assert "gate: 1000 alarms" in subjects[2]
    assert subjects[2].endswith("worst peak 3.00")
    text = server.mails[2].get_content()
    assert "1000 events of gate at depot, 0 still going on." in text
    assert "and 960 with lower peaks" in text
    assert max(map(len, text.splitlines())) <= 100
    assert outbox.pending("office") == 0
    assert delivery.health().done == 2001
    outbox.close()
    assert not lines


def test_the_end_of_an_alarm_does_not_hold_back_the_next_alarm(tmp_path: Path) -> None:
    with MailServer() as server:
        office = sink(server.port, tmp_path, every_s=60.0)
        clock = [1000.0]
        office._clock = lambda: clock[0]
        office.deliver([due(1)])
        assert office.wait_s("gate") == 60.0  # its end waits, and what else there is
        clock[0] += 60.0
        office.deliver([due(1, "ended")])
        assert office.wait_s("gate") == 0.0
        office.deliver([due(2)])
        assert office.wait_s("gate") == 60.0
    assert len(server.mails) == 3


def test_a_slow_mail_server_delays_nobody_who_stores_events(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        outbox = Outbox(tmp_path / "vad.db")
        office = sink(silent.getsockname()[1], tmp_path, timeout_s=0.3)
        delivery = Delivery(office, outbox, say=lambda _: None)
        writer = StoreWriter(
            tmp_path / "vad.db",
            lambda _: ["office"],
            say=lambda _: None,
            on_stored=lambda _: delivery.wake(),
        )
        delivery.start()
        took_s = []
        for number in range(1, 201):
            start = time.perf_counter()
            assert writer.put(change(number))
            took_s.append(time.perf_counter() - start)
        assert writer.close() == 0
        until(lambda: "no answer within 0.3 s" in delivery.health().trouble)
        until(lambda: delivery.health().queued == 200)
        start = time.monotonic()
        delivery.close(1.0)
        assert time.monotonic() - start < 3
        outbox.close()
    assert sorted(took_s)[190] < 0.05  # a try at this server takes 0.3 s


def test_a_server_that_answers_byte_by_byte_is_cut_off(tmp_path: Path) -> None:
    over = threading.Event()

    def drip() -> None:
        connection, _ = silent.accept()
        with connection:
            for sign in b"220-" + b"a" * 400:
                try:
                    connection.sendall(bytes([sign]))
                except OSError:
                    return
                if over.wait(0.05):
                    return

    with socket.create_server(("127.0.0.1", 0)) as silent:
        thread = threading.Thread(target=drip)
        thread.start()
        start = time.monotonic()
        error = failure(sink(silent.getsockname()[1], tmp_path, timeout_s=0.2))
        took_s = time.monotonic() - start
        over.set()
        thread.join()
    assert took_s < 4
    assert "no answer within" in error.reason
    assert not error.maybe_delivered


def test_addresses_that_the_server_refuses_are_told_and_the_others_get_their_mail(
    tmp_path: Path,
) -> None:
    with MailServer() as server:
        server.refuse, server.refuse_for = {"RCPT": "550 no such user"}, "night"
        office = sink(server.port, tmp_path)
        for _ in range(3):
            office.deliver([due()])
        assert len(server.mails) == 3
        assert office.tick() == "the server takes no mail for night@example.org"
        assert len(office.lines) == 1  # type: ignore[attr-defined]
        server.refuse_for = "@"
        error = failure(office)
        assert "takes mail for no address (550 no such user)" in error.reason
        assert error.retry
        server.refuse = {}
        office.deliver([due()])
        assert office.tick() == ""


def test_neither_user_nor_password_show_where_a_server_repeats_them(tmp_path: Path) -> None:
    office = sink(1, tmp_path, user=Secret("depot-9"), password=Secret("pa55word"), tls="starttls")
    words = office._words(535, b"5.7.8 depot-9 with pa55word is not known")
    assert words == "535 5.7.8 *** with *** is not known"


def test_a_mail_that_is_refused_for_its_content_goes_without_the_picture(tmp_path: Path) -> None:
    (tmp_path / "gate.jpg").write_bytes(b"x" * 1000)
    with MailServer() as server:
        office = sink(server.port, tmp_path)
        server.refuse = {"DATA": "552 too large"}
        error = failure(office, due(snapshot="gate.jpg"))
        assert not error.retry
        server.refuse = {}
        office.deliver([due(snapshot="gate.jpg")])
        office.deliver([due(2, snapshot="gate.jpg")])
    assert [mail.is_multipart() for mail in server.mails] == [False, True]


def test_a_server_that_is_busy_or_gone_is_tried_again(tmp_path: Path) -> None:
    with MailServer() as server:
        server.refuse = {"DATA": "451 try later"}
        error = failure(sink(server.port, tmp_path))
        assert error.retry
        assert "451 try later" in error.reason
    error = failure(sink(port := free_port(), tmp_path))
    assert error.reason == f"127.0.0.1:{port}: connection refused"
    assert not error.maybe_delivered


def test_a_picture_that_never_comes_does_not_hold_the_mail_for_long(tmp_path: Path) -> None:
    with MailServer() as server:
        office = sink(server.port, tmp_path)
        old = due(snapshot="never.jpg")
        office.deliver([old])
        fresh = replace(old, event=msgspec.structs.replace(old.event, start_s=time.time()))
        timer = threading.Timer(0.2, (tmp_path / "never.jpg").write_bytes, (b"late",))
        timer.start()
        office.deliver([fresh])
        timer.join()
    assert [mail.is_multipart() for mail in server.mails] == [False, True]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sender": "nobody"}, r"sinks\.office\.sender"),
        ({"to": ["a@example.org", "a@b\nBcc: c@d"]}, r"sinks\.office\.to"),
        ({"user": Secret("ann")}, "without a password"),
        (
            {"host": "mail.example.org", "user": Secret("a"), "password": Secret("pa55word")},
            "in the clear",
        ),
    ],
)
def test_settings_that_would_fail_or_betray_are_refused(
    values: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        sink(25, tmp_path, **values)
    assert "pa55word" not in str(caught.value)


def test_the_words_of_a_mail_fit_what_happened() -> None:
    end = local_clock(event(1, ended=True).end_s or 0)
    assert mail_subject(SITE, [due(1, "ended")]) == f"[depot] gate: alarm ended {end}, peak 2.00"
    both = [due(1), due(1, "ended")]
    assert "alarm " in mail_subject(SITE, both)
    assert "Duration   4.5 s" in mail_text(SITE, both, Path("data"))
    repeated = [replace(due(1), maybe_repeated=True)]
    assert "you may have had this already" in mail_text(SITE, repeated, Path("data"))
    strange = [due(1, peak_score=float("nan"), reason="a\nb"), due(2, peak_score=float("inf"))]
    assert "2 alarms" in mail_subject(SITE, strange)
    assert "\nvad-run events '/my data'\n" in mail_text(SITE, strange, Path("/my data"))
    assert "\n" not in mail_subject(SITE, strange)
