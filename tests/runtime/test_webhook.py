import hashlib
import hmac
import json
import ssl
import time
from pathlib import Path

import pytest
from helpers_servers import HttpServer, certificate, event, free_port

from vad_runtime.contracts.errors import ConfigError
from vad_runtime.contracts.site import Secret, WebhookSettings
from vad_runtime.sinks.delivery import DeliveryError
from vad_runtime.sinks.webhook import WebhookSink, retry_after_s
from vad_runtime.store.outbox import Due

TOKEN = "s3cr3t-path"


def due(kind: str = "started", *, maybe_repeated: bool = False) -> Due:
    return Due(
        id=1,
        event=event(1, ended=kind == "ended"),
        kind=kind,  # type: ignore[arg-type]
        sink="hook",
        attempts=0,
        created_s=0.0,
        maybe_repeated=maybe_repeated,
    )


def sink(url: str, *, timeout_s: float = 5.0, **values: object) -> WebhookSink:
    settings = WebhookSettings(url=Secret(url), timeout_s=timeout_s, **values)  # type: ignore[arg-type]
    return WebhookSink("hook", settings, unix=lambda: 1_800_000_000.9)


def failure(hook: WebhookSink) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        hook.deliver([due()])
    assert TOKEN not in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_receiver_can_check_signature_and_repetition_of_what_is_posted() -> None:
    with HttpServer() as server:
        headers = {"X-Api-Key": Secret("key1")}
        hook = sink(server.url("/a/ü?x=1"), secret=Secret("sign"), headers=headers)
        hook.deliver([due("ended", maybe_repeated=True)])
        hook.deliver([due("ended")])
    again, first = server.requests
    assert again.path == "/a/%C3%BC?x=1"
    assert again.body == first.body
    stamp, mark = again.headers["X-Vad-Signature"].split(",")
    expected = hmac.new(b"sign", b"1800000000." + again.body, hashlib.sha256).hexdigest()
    assert (stamp, mark) == ("t=1800000000", f"v1={expected}")
    assert again.headers["Idempotency-Key"] == event().id + "-ended"
    assert again.headers["X-Vad-Maybe-Repeated"] == "1"
    assert "X-Vad-Maybe-Repeated" not in first.headers
    assert again.headers["X-Api-Key"] == "key1"
    body = json.loads(again.body)
    assert (body["schema"], body["kind"], body["duration_s"]) == (1, "ended", 4.5)
    assert body["start"] == "2027-01-15T08:00:10.000Z"
    assert body["event"]["peak_score"] == event().peak_score


def test_user_and_password_of_the_address_become_basic_authorisation_and_are_not_sent_as_host() -> (
    None
):
    with HttpServer() as server:
        sink(f"http://ann:p%40ss@127.0.0.1:{server.port}").deliver([due()])
    (request,) = server.requests
    assert request.headers["Authorization"] == "Basic YW5uOnBAc3M="
    assert request.headers["Host"] == f"127.0.0.1:{server.port}"
    assert request.path == "/"


@pytest.mark.parametrize(
    ("code", "retry", "unsure"),
    [
        (500, True, False),
        (503, True, False),
        (502, True, True),
        (504, True, True),
        (429, True, False),
        (408, True, False),
        (401, True, False),
        (404, True, False),
        (400, False, False),
        (410, False, False),
        (422, False, False),
        (302, True, False),
    ],
)
def test_an_answer_says_whether_the_same_message_may_be_taken_later(
    code: int, retry: bool, unsure: bool
) -> None:
    extra = {"Retry-After": "120", "Location": "http://127.0.0.1:1/elsewhere"}
    with HttpServer(code=code, headers=extra) as server:
        error = failure(sink(server.url(f"/{TOKEN}")))
    assert (error.retry, error.maybe_delivered) == (retry, unsure)
    assert str(code) in error.reason
    assert len(server.requests) == 1
    assert error.after_s == (None if code == 302 else 120)


@pytest.mark.parametrize("manner", ["hang", "drip", "garbage", "drop"])
def test_a_server_that_never_answers_properly_costs_one_time_out_and_leaves_a_doubt(
    manner: str,
) -> None:
    with HttpServer(manner=manner) as server:
        start = time.monotonic()
        error = failure(sink(server.url(f"/{TOKEN}"), timeout_s=0.4))
        assert time.monotonic() - start < 3
    assert error.retry
    assert error.maybe_delivered
    words = {"hang": "within 0.4 s", "drip": "within 0.4 s", "garbage": "no HTTP"}
    assert words.get(manner, "broken off") in error.reason


def test_a_server_that_is_not_there_leaves_no_doubt() -> None:
    port = free_port()
    error = failure(sink(f"http://127.0.0.1:{port}/{TOKEN}"))
    assert error.retry
    assert not error.maybe_delivered
    assert error.reason == f"127.0.0.1:{port}: connection refused"


def test_a_certificate_is_checked(tmp_path: Path) -> None:
    pair = certificate(tmp_path)
    with HttpServer(pair=pair) as server:
        error = failure(sink(server.url(host="localhost")))
        assert "certificate is not trusted" in error.reason
        with pytest.raises(DeliveryError, match="certificate is not trusted"):
            sink(server.url(host="localhost")).try_out()
        assert not error.maybe_delivered
        trusting = ssl.create_default_context(cafile=str(pair[0]))
        settings = WebhookSettings(url=Secret(server.url(host="localhost")))
        WebhookSink("hook", settings, context=trusting).deliver([due()])
    assert len(server.taken) == 1


@pytest.mark.parametrize(
    "url", ["ftp://h/x", "https:///x", "http://h:99999/", "http://h/ x", "http://[::/"]
)
def test_an_address_that_cannot_be_used_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^sinks\.hook\.url: ") as caught:
        sink(url)
    assert url not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("X-Key", "a\r\nHost: b"), ("X-Key", "ü"), ("Host", "x"), ("X Y", "x"), ("X-Vad-Event", "x")],
)
def test_a_header_that_would_break_the_request_is_refused_without_its_value(
    key: str, value: str
) -> None:
    with pytest.raises(ConfigError, match=r"^sinks\.hook\.headers") as caught:
        sink("http://h/", headers={key: Secret(value)})
    assert value == "x" or value not in str(caught.value)


def test_retry_after_is_read_as_seconds_or_as_a_date() -> None:
    assert retry_after_s("17", 0) == 17
    assert retry_after_s("Fri, 15 Jan 2027 08:00:30 GMT", 1_800_000_000) == 30
    assert retry_after_s("Fri, 15 Jan 2027 08:00:30 GMT", 1_900_000_000) == 0
    for nonsense in (None, "", "soon", "-5", "1e999", "Fri, 99 Jan 2027 08:00:30 GMT"):
        assert retry_after_s(nonsense, 0) is None
