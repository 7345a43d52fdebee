"""`/health`, `/status` and `/metrics` of a running site, served on this machine.

::

    GET /health    200 where all is well, else 503: {"ok": false, "troubles": ["gate: lost …"]}
    GET /alive     200 while the scorers run: for whoever would restart us, which mends no camera
    GET /status    SiteStatus as JSON (live/status.py)
    GET /metrics   the same for Prometheus

Read-only and without credentials: nothing in it is secret, and it listens on localhost by default.
"""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from vad_runtime.contracts.errors import InputError
from vad_runtime.contracts.site import HealthSettings
from vad_runtime.live.status import SiteStatus, StageStatus, StreamStatus

_MOST_CONNECTIONS = 16
_LONGEST_SILENCE_S = 5.0
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_JSON_TYPE = "application/json"

StatusOf = Callable[[], SiteStatus]


class HealthServer:
    """Serves a site's status until it is closed. The socket is bound at once.

    Args:
        settings: Where.
        status: Returns the status; called in the server's threads, several at a time.
        alive: Returns whether the site's own threads run; called likewise.

    Raises:
        InputError: The address is taken or not ours.
    """

    def __init__(
        self, settings: HealthSettings, status: StatusOf, alive: Callable[[], bool] = lambda: True
    ) -> None:
        try:
            self._server = _Server(settings, status, alive)
        except (OSError, OverflowError, UnicodeError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or "no such address"
            raise InputError(
                f"health: {settings.host}:{settings.port} cannot be served ({reason}). "
                "Give another port under health:, or 0 for any."
            ) from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.25,), name="vad-health", daemon=True
        )

    @property
    def url(self) -> str:
        """Address of the server, with the port that was bound."""
        host, port = self._server.server_address[:2]
        shown = str(host) if ":" not in str(host) else f"[{host!s}]"
        return f"http://{shown}:{port}"

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering; a second call does nothing. Takes about half a second at most."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(5.0)
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(
        self, settings: HealthSettings, status: StatusOf, alive: Callable[[], bool]
    ) -> None:
        self.status, self.alive = status, alive
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(_SiteCollector(status))
        self._open: dict[socket.socket, None] = {}
        self._lock = threading.Lock()
        if ":" in settings.host:
            self.address_family = socket.AF_INET6
        super().__init__((settings.host, settings.port), _Handler)

    def server_bind(self) -> None:
        """Bind, without asking a name server for our own name as the base class does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread; beyond the limit the oldest connection is cut off."""
        with self._lock:
            if len(self._open) >= _MOST_CONNECTIONS:
                # Forgotten at once: its thread may take a while to notice, and the next connection
                # of a crowd must cut off another one.
                oldest = next(iter(self._open))
                del self._open[oldest]
                _cut(oldest)
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that is over."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Close the socket and cut off who still listens."""
        super().server_close()
        with self._lock:
            for connection in self._open:
                _cut(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that leaves early is no event of ours."""


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is gone already
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _LONGEST_SILENCE_S
    server_version = "vad-run"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one request."""
        path = self.path.partition("?")[0]
        if path in ("/health", "/"):
            status = self.server.status()
            body = msgspec.json.encode({"ok": status.ok, "troubles": status.troubles})
            self._answer(200 if status.ok else 503, _JSON_TYPE, body)
        elif path == "/alive":
            alive = self.server.alive()
            self._answer(200 if alive else 503, _JSON_TYPE, msgspec.json.encode({"alive": alive}))
        elif path == "/status":
            self._answer(200, _JSON_TYPE, msgspec.json.encode(self.server.status()))
        elif path == "/metrics":
            self._answer(200, _METRICS_TYPE, generate_latest(self.server.registry))
        else:
            self._answer(404, _JSON_TYPE, b'{"error":"/health, /alive, /status or /metrics"}')

    def do_HEAD(self) -> None:
        """Answer a request for the head alone."""
        self.do_GET()

    def _answer(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: one line per request would bury the log."""


# -- metrics -------------------------------------------------------------------------------------

_STATES = ("connecting", "live", "stalled", "frozen", "lost", "refused", "ended")

_COUNTERS: tuple[tuple[str, str, str], ...] = (
    ("frames", "vad_stream_frames", "Frames that came"),
    ("scored", "vad_stream_scored_frames", "Frames with a score"),
    ("clips", "vad_stream_clips", "Clips that were scored"),
    ("connections", "vad_stream_connections", "How often the stream was connected"),
    ("misses", "vad_stream_deadline_misses", "Clips that were scored after their deadline"),
    ("events", "vad_stream_events", "Events that started"),
)
_CAUSES: tuple[tuple[str, str, str], ...] = (
    ("holes", "vad_stream_holes", "Windows that were emptied, by cause"),
    ("unscored", "vad_stream_unscored_frames", "Frames without a score, by cause"),
    ("dropped", "vad_stream_dropped", "Frames or clips that were lost, by cause"),
)
_GAUGES: tuple[tuple[str, str, str], ...] = (
    ("camera_fps", "vad_stream_camera_fps", "Frames a second that come"),
    ("scored_fps", "vad_stream_scored_fps", "Frames a second that are scored"),
    ("hop", "vad_stream_hop_frames", "Frames from one clip to the next, now"),
    ("score", "vad_stream_score", "Latest score"),
    ("threshold", "vad_stream_threshold", "An alarm is raised at this score"),
    ("alarm", "vad_stream_alarm", "1 while an alarm is on"),
    ("last_event_s", "vad_stream_last_event_timestamp_seconds", "Start of the last event"),
    ("state_since_s", "vad_stream_state_timestamp_seconds", "When the state was entered"),
)


class _SiteCollector(Collector):
    """Turns one status into metrics when Prometheus asks; holds nothing in between."""

    def __init__(self, status: StatusOf) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        yield from _site_metrics(status)
        yield from _stream_metrics(status.streams)
        yield from _engine_metrics(status)
        yield from _part_metrics(status)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _site_metrics(status: SiteStatus) -> Iterable[Metric]:
    about = GaugeMetricFamily("vad_site_info", "What runs", labels=["site", "version"])
    about.add_metric([status.site, status.version], 1)
    yield about
    yield _gauge("vad_site_ok", "1 where all is well", float(status.ok))
    yield _gauge("vad_site_start_timestamp_seconds", "When it was started", status.started_s)
    yield _gauge("vad_site_resident_memory_bytes", "Memory", status.rss_bytes)
    yield _gauge("vad_site_threads", "Threads", status.threads)
    yield CounterMetricFamily("vad_site_reloads", "Reloads", value=status.reloads)


def _stream_metrics(streams: list[StreamStatus]) -> Iterable[Metric]:
    state = GaugeMetricFamily("vad_stream_state", "1 for the state", labels=["stream", "state"])
    for stream in streams:
        for name in _STATES:
            state.add_metric([stream.name, name], float(stream.state == name))
    yield state
    for field, name, text in _COUNTERS:
        counter = CounterMetricFamily(name, text, labels=["stream"])
        for stream in streams:
            counter.add_metric([stream.name], getattr(stream, field))
        yield counter
    for field, name, text in _CAUSES:
        counter = CounterMetricFamily(name, text, labels=["stream", "cause"])
        for stream in streams:
            for cause, count in getattr(stream, field).items():
                counter.add_metric([stream.name, cause], count)
        yield counter
    for field, name, text in _GAUGES:
        gauge = GaugeMetricFamily(name, text, labels=["stream"])
        for stream in streams:
            value = getattr(stream, field)
            if value is not None:
                gauge.add_metric([stream.name], float(value))
        yield gauge
    yield _target(streams)
    yield from _durations(streams)


def _target(streams: list[StreamStatus]) -> Metric:
    target = GaugeMetricFamily(
        "vad_stream_target_seconds",
        "Longest time from a clip's last frame to its score",
        labels=["stream"],
    )
    for stream in streams:
        target.add_metric([stream.name], stream.target_ms / 1000)
    return target


def _durations(streams: list[StreamStatus]) -> Iterable[Metric]:
    """Quantiles since the stream was opened; the stage `clip` is the whole way of a clip."""
    labels = ["stream", "stage"]
    gauge = GaugeMetricFamily(
        "vad_stream_stage_seconds", "Time that a stage takes", labels=[*labels, "quantile"]
    )
    count = CounterMetricFamily("vad_stream_stage_runs", "How often a stage ran", labels=labels)
    for stream in streams:
        stages: dict[str, StageStatus] = {"clip": stream.latency, **stream.stages}
        for name, stage in stages.items():
            count.add_metric([stream.name, name], stage.count)
            for quantile, value in (
                ("0.5", stage.p50_ms),
                ("0.95", stage.p95_ms),
                ("0.99", stage.p99_ms),
                ("1", stage.max_ms),
            ):
                gauge.add_metric([stream.name, name, quantile], value / 1000)
    yield gauge
    yield count


def _engine_metrics(status: SiteStatus) -> Iterable[Metric]:
    labels = ["bundle", "device"]
    busy = GaugeMetricFamily("vad_engine_busy_ratio", "Share of time at work", labels=labels)
    clips = CounterMetricFamily("vad_engine_clips", "Clips that were scored", labels=labels)
    errors = CounterMetricFamily("vad_engine_errors", "Runs that failed", labels=labels)
    for engine in status.engines:
        who = [engine.bundle, engine.device]
        busy.add_metric(who, engine.busy)
        clips.add_metric(who, engine.clips)
        errors.add_metric(who, engine.errors)
    yield from (busy, clips, errors)


def _part_metrics(status: SiteStatus) -> Iterable[Metric]:
    labels = ["part", "kind"]
    ok = GaugeMetricFamily("vad_part_ok", "1 where the part is well", labels=labels)
    queued = GaugeMetricFamily("vad_part_queued", "What waits", labels=labels)
    done = CounterMetricFamily("vad_part_done", "What was done", labels=labels)
    dropped = CounterMetricFamily("vad_part_dropped", "What was given up", labels=labels)
    details = GaugeMetricFamily("vad_part_detail", "More", labels=[*labels, "detail"])
    for part in status.parts:
        who = [part.name, part.kind]
        ok.add_metric(who, float(part.ok))
        queued.add_metric(who, part.queued)
        done.add_metric(who, part.done)
        dropped.add_metric(who, part.dropped)
        for name, value in part.details.items():
            details.add_metric([*who, name], value)
    yield from (ok, queued, done, dropped, details)
