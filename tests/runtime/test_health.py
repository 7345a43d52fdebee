"""The health endpoint over real sockets, and the words for systemd."""

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from helpers import assert_one_line
from prometheus_client.parser import text_string_to_metric_families

from vad_runtime.contracts.errors import InputError
from vad_runtime.contracts.site import HealthSettings
from vad_runtime.health import HealthServer
from vad_runtime.live.notify import Notifier
from vad_runtime.live.status import (
    EngineStatus,
    PartStatus,
    SiteStatus,
    StageStatus,
    StreamStatus,
)

STATUS = SiteStatus(
    site="depot",
    version="1.2",
    pid=7,
    started_s=100.0,
    now_s=200.0,
    ok=False,
    troubles=["yard: lost (no route to host)"],
    streams=[
        StreamStatus(
            name="gate",
            source="rtsp://***@h/1",
            bundle="a.vad",
            state="live",
            state_since_s=101.0,
            frames=250,
            clips=30,
            holes={"stalled": 2},
            dropped={"late clip": 3},
            target_ms=40.0,
            latency=StageStatus(count=30, p50_ms=10.0, p95_ms=20.0, p99_ms=30.0, max_ms=40.0),
            score=1.5,
        ),
        StreamStatus(name="yard", source="b", bundle="a.vad", state="lost", state_since_s=150.0),
    ],
    engines=[EngineStatus(bundle="a.vad", device="openvino on x", clips=30)],
    parts=[PartStatus(name="hook", kind="webhook", ok=True, queued=4, details={"given_up": 1.0})],
)


@pytest.fixture
def server() -> Iterator[HealthServer]:
    server = HealthServer(HealthSettings(port=0), lambda: STATUS)
    server.start()
    yield server
    server.close()
    server.close()


def get(server: HealthServer, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    host, port = server.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()
    finally:
        connection.close()


def test_health_is_503_with_the_troubles_and_alive_is_200(server: HealthServer) -> None:
    code, kind, body = get(server, "/health?x=1")
    assert (code, kind) == (503, "application/json")
    assert json.loads(body) == {"ok": False, "troubles": ["yard: lost (no route to host)"]}
    assert get(server, "/alive")[0] == 200
    assert get(server, "/nothing")[0] == 404
    assert get(server, "/health", "HEAD")[::2] == (503, b"")
    assert get(server, "/health", "POST")[0] == 501


def test_status_is_the_whole_struct(server: HealthServer) -> None:
    code, _, body = get(server, "/status")
    assert code == 200
    assert msgspec.json.decode(body, type=SiteStatus) == STATUS


def test_metrics_read_as_prometheus_reads_them(server: HealthServer) -> None:
    code, kind, body = get(server, "/metrics")
    assert code == 200
    assert kind.startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    gate = ("stream", "gate")
    assert samples["vad_site_ok",] == 0
    assert samples["vad_stream_frames_total", gate] == 250
    assert samples["vad_stream_holes_total", ("cause", "stalled"), gate] == 2
    assert samples["vad_stream_dropped_total", ("cause", "late clip"), gate] == 3
    assert samples["vad_stream_state", ("state", "live"), gate] == 1
    assert samples["vad_stream_state", ("state", "lost"), gate] == 0
    assert samples["vad_stream_state", ("state", "lost"), ("stream", "yard")] == 1
    assert samples["vad_stream_target_seconds", gate] == 0.04
    p95 = ("vad_stream_stage_seconds", ("quantile", "0.95"), ("stage", "clip"), gate)
    assert samples[p95] == pytest.approx(0.02)
    assert samples["vad_stream_score", gate] == 1.5
    assert ("vad_stream_score", ("stream", "yard")) not in samples
    assert samples["vad_part_queued", ("kind", "webhook"), ("part", "hook")] == 4
    assert all(name.startswith("vad_") for name, *_ in samples)


def test_a_port_that_is_taken_is_one_line(server: HealthServer) -> None:
    port = int(server.url.rpartition(":")[2])
    for settings in (HealthSettings(port=port), HealthSettings(host="203.0.113.7", port=0)):
        with pytest.raises(InputError) as caught:
            HealthServer(settings, lambda: STATUS)
        assert_one_line(caught.value, settings.host, "port")


def test_silent_clients_cannot_keep_others_out(server: HealthServer) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    before = threading.active_count()
    silent = [socket.create_connection((host, int(port))) for _ in range(60)]
    try:
        assert get(server, "/status")[0] == 200
        deadline = time.monotonic() + 5
        while threading.active_count() > before + 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threading.active_count() <= before + 20
    finally:
        for connection in silent:
            connection.close()


def test_a_closed_server_answers_no_more_and_its_port_is_free() -> None:
    server = HealthServer(HealthSettings(port=0), lambda: STATUS)
    port = int(server.url.rpartition(":")[2])
    server.start()
    assert get(server, "/health")[0] == 503
    server.close()
    with pytest.raises(ConnectionRefusedError):
        get(server, "/health")
    HealthServer(HealthSettings(port=port), lambda: STATUS).close()


def test_systemd_hears_ready_reloading_and_the_watchdog(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        environment = {
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "30000000",
            "WATCHDOG_PID": str(os.getpid()),
        }
        notifier = Notifier(environment)
        assert notifier.watchdog_s == 30.0
        notifier.ready("2 streams\nok")
        assert listener.recv(1000) == b"READY=1\nSTATUS=2 streams ok"
        before = time.monotonic_ns() // 1000
        notifier.reloading()
        first, second = listener.recv(1000).decode().split("\n")
        assert first == "RELOADING=1"
        assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
        notifier.alive()
        assert listener.recv(1000) == b"WATCHDOG=1"
    notifier.stopping()  # nobody listens any more
    silent = Notifier({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"})
    assert silent.watchdog_s is None
    silent.ready("x")
