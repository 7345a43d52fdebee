"""`vad-run status`, `events` and `export-clips`, on real servers and real databases."""

import csv
import http.server
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner, Result
from helpers import assert_one_line
from helpers_store import NOW, past_event, past_events

from vad_runtime import operator_commands
from vad_runtime.contracts.errors import InputError, VadError
from vad_runtime.live.status import SiteStatus, StreamStatus
from vad_runtime.live.status_client import Where, asked
from vad_runtime.store.outbox import Outbox
from vad_runtime.store.writer import StoreWriter
from vad_runtime.when import duration, local, moment, time_of_day


def run(command: click.Command, *words: str | Path) -> Result:
    """Run a command in this process; what it raises, other than an exit, is raised here."""
    done = CliRunner().invoke(command, [str(word) for word in words], standalone_mode=False)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def status(*words: str | Path) -> str:
    return run(operator_commands.status, *words).stdout


def events(*words: str | Path) -> str:
    return run(operator_commands.events, *words).stdout


def export(*words: str | Path) -> str:
    return run(operator_commands.export_clips, *words).stdout


@pytest.fixture(autouse=True)
def _in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# -- times as people write them --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds_ago"),
    [
        ("now", 0),
        ("24h", 86_400),
        ("1.5h", 5400),
        ("90min", 5400),
        ("90m", 5400),
        ("7 d", 604_800),
        ("2w", 1_209_600),
        ("08:30", 1800),  # the last time that it was half past eight: now it is nine
        ("09:30", 84_600),
        ("today", 9 * 3600),
        ("yesterday", 33 * 3600),
        ("2027-01-15", 9 * 3600),
        ("2027-01-15 08:00", 3600),
        ("2027-01-15T08:00:00Z", 0),
        ("2027-01-15T08:00:00+02:00", 7200),
    ],
)
def test_a_time_is_understood_as_people_write_it(text: str, seconds_ago: float) -> None:
    assert moment(text, NOW) == NOW - seconds_ago


def test_a_bare_day_counts_to_its_end_where_it_is_an_end() -> None:
    assert moment("2027-01-14", NOW, end_of_day=True) == moment("2027-01-15", NOW)
    assert moment("yesterday", NOW, end_of_day=True) == moment("today", NOW)


@pytest.mark.parametrize(
    "text", ["", "soon", "-3h", "24 hours ago", "2027-02-30", "25:00", "9" * 400, "1e9d", "\0", "é"]
)
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no time\. Give for example 24h"):
        moment(text, NOW)


def test_times_are_shown_with_their_zone_and_durations_in_two_units() -> None:
    assert local(NOW) == "2027-01-15 09:00:00 +01:00"
    assert local(1e300) == "?"
    assert time_of_day(NOW - 60, NOW) == "08:59:00"
    assert time_of_day(NOW - 86_400, NOW) == "2027-01-14 09:00:00"
    said = [duration(s) for s in (0.44, 12.4, 59.96, 185, 11_110, 300_000, -3, float("inf"))]
    assert said == [
        "0.4 s",
        "12 s",
        "1 min 00 s",
        "3 min 05 s",
        "3 h 05 min",
        "3 d 11 h",
        "0 s",
        "?",
    ]


# -- status ----------------------------------------------------------------------------------------


@contextmanager
def served(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[int]:
    """Serve on a free port of the loopback, each request by `answer`; gives the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def saying(body: bytes, code: int = 200) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(code if request.path == "/status" else 404)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def site_status() -> SiteStatus:
    gate = StreamStatus(
        name="gate",
        source="file.mp4",
        bundle="tiny.vad",
        state="live",
        state_since_s=NOW - 5,
        recent=[0.1, 0.2],
    )
    return SiteStatus(
        site="depot",
        version="0.1.0",
        pid=1,
        started_s=NOW - 10,
        now_s=NOW,
        ok=True,
        streams=[gate],
    )


def write_site(folder: Path, health: str) -> Path:
    """Write a site file whose password is not in this environment: operators have none."""
    path = folder / "site.yaml"
    path.write_text(
        "name: depot\nbundle: tiny.vad\nstreams:\n"
        "  gate: {source: 'rtsp://user:${NOT_HERE}@10.0.0.3/'}\n"
        f"health: {health}\n"
    )
    return path


def test_status_asks_the_running_site_and_needs_none_of_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # must not be asked
    with served(saying(msgspec.json.encode(site_status()))) as port:
        site = write_site(tmp_path, f"{{port: {port}}}")
        table = status(site, "--once")
        piped = status(site)
        plain = json.loads(status(site, "--json"))
    assert "depot: all is well" in table
    assert any(line.startswith("gate    live   5.0 s") for line in table.splitlines())
    assert piped == table  # what is no terminal gets one table
    assert plain["streams"][0]["name"] == "gate"


def test_keys_of_a_newer_site_are_passed_over_and_stay_in_the_json(tmp_path: Path) -> None:
    tree = msgspec.to_builtins(site_status()) | {"mood": "fine"}
    with served(saying(json.dumps(tree).encode())) as port:
        site = write_site(tmp_path, f"{{port: {port}}}")
        assert "all is well" in status(site)
        assert json.loads(status(site, "--json"))["mood"] == "fine"


def test_a_site_that_is_not_running_is_one_line(tmp_path: Path) -> None:
    with served(saying(b"")) as port:
        pass  # closed again: nobody listens there now
    site = write_site(tmp_path, f"{{port: {port}}}")
    with pytest.raises(InputError) as caught:
        status(site)
    assert_one_line(caught.value, "is not running", str(port), f"vad-run site {site}")
    data = tmp_path / "data"
    data.mkdir()
    (data / "health.url").write_text(f"http://127.0.0.1:{port}\n")  # left by kill -9
    with pytest.raises(InputError) as caught:
        status(data)
    assert_one_line(caught.value, f"{data} is not running", "vad-run site and its site file")


@pytest.mark.parametrize("health", ["null", "{port: 0}"])
def test_a_site_that_cannot_be_asked_says_why(tmp_path: Path, health: str) -> None:
    with pytest.raises(InputError) as caught:
        status(write_site(tmp_path, health))
    assert_one_line(caught.value, "site.yaml")


def test_the_address_that_a_running_site_left_goes_before_its_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with served(saying(msgspec.json.encode(site_status()))) as port:
        (tmp_path / "data" / "health.url").write_text(f"http://127.0.0.1:{port}\n")
        assert "all is well" in status(write_site(tmp_path, "{port: 0}"))
        assert "all is well" in status(tmp_path / "data")


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"hello", 200, "no status"),
        (b"{}", 200, "no status"),
        (b'{"schema": 99}', 200, "newer vad-edge"),
        (b"\xff" * 100, 200, "no status"),
        (b"[" * 100_000, 200, "no status"),
        (b"nothing here", 404, "no site of vad-edge"),
    ],
)
def test_another_server_on_the_port_is_one_line(
    tmp_path: Path, body: bytes, code: int, words: str
) -> None:
    with served(saying(body, code)) as port, pytest.raises(InputError) as caught:
        status(write_site(tmp_path, f"{{port: {port}}}"))
    assert_one_line(caught.value, words, f"127.0.0.1:{port}")


def test_a_site_that_hangs_is_given_up() -> None:
    release = threading.Event()
    with served(lambda _: release.wait(10) and None) as port:
        where = Where(site="site.yaml", host="0.0.0.0", port=port)
        start = time.monotonic()
        with pytest.raises(InputError) as caught:
            asked(where, timeout_s=0.2)
        assert time.monotonic() - start < 5
        release.set()
    assert_one_line(caught.value, "no answer", f"127.0.0.1:{port}", "site.yaml")


def test_an_answer_that_drips_is_given_up() -> None:
    def drip(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            for _ in range(200):
                request.wfile.write(b" ")
                time.sleep(0.02)
        except OSError:
            return

    with served(drip) as port, pytest.raises(InputError) as caught:
        asked(Where(site="site.yaml", host="127.0.0.1", port=port), timeout_s=0.3)
    assert_one_line(caught.value, "does not end")


def test_the_live_table_outlives_a_restart_of_the_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the site answers, then it does not, then the user has seen enough."""
    from rich.console import Console

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, height=24)
    monkeypatch.setattr("rich.console.Console", lambda: console)
    looks = 0

    def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            answers.clear()
        elif looks == 2:
            raise KeyboardInterrupt

    answers = [msgspec.json.encode(site_status())]

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        saying(*answers if answers else (b"", 503))(request)

    # Not time.sleep itself: other threads of this process sleep as well.
    clock = SimpleNamespace(sleep=sleep, time=time.time, monotonic=time.monotonic)
    monkeypatch.setattr(operator_commands, "time", clock)
    with served(answer) as port:
        operator_commands._watch(Where(site="s.yaml", host="127.0.0.1", port=port), 1.0)
    first, second = screen.getvalue().split("as of 2027-01-15 09:00:00 +01:00: ")
    assert "depot: all is well" in first
    assert "█" in first
    assert "503" in second
    assert "depot: all is well" in second  # the last that was known stays


# -- events ----------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return past_events(tmp_path / "data")


def test_events_are_listed_with_times_peaks_and_who_heard(data: Path) -> None:
    outbox = Outbox(data / "vad.db")
    rows = outbox.claim(outbox.due("people", NOW))
    outbox.sent(rows)
    first = outbox.claim(outbox.due("hook", NOW, 1))
    outbox.failed(first, "503 from the server", NOW + 60, maybe_repeated=True)
    outbox.close()
    head, *lines = events(data).splitlines()
    assert " ".join(head.split()) == "start lasted stream peak x alarm ended by clip heard"
    assert len(lines) == 5
    assert lines[0].startswith("2027-01-15 09:00:00 +01:00  12 s     gate    1.80  1.50")
    assert "people sent" in lines[0]
    assert "hook pending (503 from the server, 1 tries) (maybe twice)" in lines[0]
    assert "12 s     yard" in lines[1]
    assert "goes on" in lines[4]


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ((), [0, 1, 2, 3, 4]),
        (("--stream", "yard"), [1]),
        (("--stream", "yard", "--stream", "gate"), [0, 1, 2, 3, 4]),
        (("--open",), [4]),
        (("--since", "2027-01-15 09:02:05"), [2, 3, 4]),  # the second went on until 09:02:12
        (("--until", "2027-01-15 09:02"), [0, 1]),
        (("--until", "2027-01-15"), [0, 1, 2, 3, 4]),
        (("--limit", "2"), [3, 4]),
        (("--limit", "0"), [0, 1, 2, 3, 4]),
    ],
)
def test_events_are_filtered(data: Path, words: tuple[str, ...], numbers: list[int]) -> None:
    found = json.loads(events(data, *words, "--json"))
    assert [row["id"] for row in found] == [past_event(i).id for i in numbers]


def test_a_limit_that_hides_events_says_so(data: Path) -> None:
    done = run(operator_commands.events, data, "--limit", "4")
    assert "the newest 4; --limit 0" in done.stderr
    assert run(operator_commands.events, data, "--limit", "5").stderr == ""


def test_what_still_goes_on_is_not_listed_for_a_time_to_come(data: Path) -> None:
    assert "no events" in events(data, "--since", "2100-01-01")


def test_no_events_are_no_error(data: Path) -> None:
    assert events(data, "--until", "2020-01-01") == "no events\n"
    assert json.loads(events(data, "--until", "2020-01-01", "--json")) == []


def test_a_stream_that_nobody_knows_is_refused_with_those_that_are_known(data: Path) -> None:
    with pytest.raises(InputError) as caught:
        events(data, "--stream", "nosuch")
    assert_one_line(caught.value, "'nosuch'", "only of gate, yard", "site file")
    site = write_site(data.parent, "null")
    site.write_text(site.read_text().replace("gate:", "hall:"))
    with pytest.raises(InputError) as caught:
        events(site, "--stream", "nosuch")
    assert_one_line(caught.value, f"{site} has no stream 'nosuch'", "gate, hall, yard")
    assert events(site, "--stream", "hall") == "no events\n"


def test_csv_and_json_hold_what_is_stored_and_local_times(data: Path) -> None:
    (row, *_) = csv.DictReader(io.StringIO(events(data, "--csv")))
    (same, *_) = json.loads(events(data, "--json"))
    for found in (row, same):
        assert found["start"] == "2027-01-15T09:00:00+01:00"
        assert float(found["duration_s"]) == pytest.approx(12.4)
        assert float(found["times_threshold"]) == 1.5
        assert found["clip"] == past_event(0).clip
    assert row["heard"] == "people pending, hook pending"
    assert {told["sink"] for told in same["heard"]} == {"people", "hook"}


def test_events_are_read_while_the_site_writes(data: Path) -> None:
    store = StoreWriter(data / "vad.db", lambda _: [], say=lambda _: None)
    try:
        assert len(json.loads(events(data, "--json"))) == 5
    finally:
        store.close()


def test_the_site_file_names_the_data_folder(data: Path) -> None:
    site = write_site(data.parent, "null")
    assert len(json.loads(events(site, "--json"))) == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--since", "soon"), "is no time"),
        (("--stream", "g\udcff"), "no name of a stream"),
        (("--since", "1h", "--until", "2h"), "is not before"),
        (("--json", "--csv"), "exclude each other"),
        (("--limit", "-1"), "-1"),
    ],
)
def test_a_wrong_option_is_one_line(data: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises((VadError, click.UsageError)) as caught:
        events(data, *words)
    text = str(caught.value) or caught.value.format_message()  # type: ignore[union-attr]
    assert said in text
    assert "\n" not in text


def test_a_folder_without_a_database_is_one_line(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing", tmp_path / ("x" * 300)):
        with pytest.raises(VadError) as caught:
            events(place)
        assert_one_line(caught.value, str(tmp_path))
    (tmp_path / "vad.db").write_bytes(b"no database at all, but long enough to look at" * 50)
    with pytest.raises(InputError) as caught:
        events(tmp_path)
    assert_one_line(caught.value, "vad.db")


def test_an_error_stays_one_line_whatever_it_quotes() -> None:
    error = InputError("a\nb\r\n\x1b[2Jc\u2028d does not exist. Check the path.")
    assert str(error) == "a b [2Jc d does not exist. Check the path."
    assert error.args == ("a\nb\r\n\x1b[2Jc\u2028d does not exist. Check the path.",)
