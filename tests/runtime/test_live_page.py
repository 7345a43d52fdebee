"""docs/live.md against the code: keys, defaults, words, topics, metrics, the signature."""

import inspect
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from helpers_documents import ROOT, blocks_of
from helpers_servers import HttpServer, event
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import CollectorRegistry

from vad_runtime.contracts import site as contract
from vad_runtime.contracts.site import HealthSettings, MqttSettings, Secret, WebhookSettings
from vad_runtime.health import HealthServer, _SiteCollector
from vad_runtime.live import scheduler, stream
from vad_runtime.live.base import StreamState
from vad_runtime.live.site_status import site_status
from vad_runtime.live.status import EngineStatus, PartStatus, StreamStatus
from vad_runtime.sinks import webhook
from vad_runtime.sinks.message import event_message
from vad_runtime.sinks.mqtt_topics import Topics, discovery
from vad_runtime.site_file import parse_site, read_site
from vad_runtime.store.outbox import Due

PAGE = (ROOT / "docs/live.md").read_text()
SECRETS = {"GATE_PASSWORD": "one", "WEBHOOK_SECRET": "two"}
PLACES: dict[type[Any], str] = {
    contract.Site: "### The whole site",
    contract.EngineSettings: "| `engine` |",
    contract.MediaSettings: "| `media` |",
    contract.RetentionSettings: "| `retention` |",
    contract.HealthSettings: "| `health` |",
    contract.StreamSettings: "### Streams",
    contract.EventSettings: "| `events` |",
    contract.ReconnectSettings: "| `reconnect` |",
    contract.WatchdogSettings: "| `watchdog` |",
    contract.MailSettings: "| `mail` |",
    contract.WebhookSettings: "| `webhook` |",
    contract.MqttSettings: "| `mqtt` |",
    contract.LinesSettings: "| `jsonl` |",
}
"""Where the page tells the keys of each struct: a section's title, or the start of a row."""


def place(start: str) -> str:
    """Return a section up to the next title, or a row of a table."""
    assert PAGE.count(start) == 1, start
    text = PAGE[PAGE.index(start) + len(start) :]
    return re.split(r"\n#" if start.startswith("#") else r"\n", text, maxsplit=1)[0]


def fenced(language: str) -> str:
    """Return the page's one block of a language."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return str(text)


def first_column(title: str) -> list[str]:
    """Return the words in backticks of the first cells of the table with this head."""
    table = PAGE[PAGE.index(title) :].split("\n\n", 1)[0].splitlines()[2:]
    return [word for row in table for word in re.findall(r"`([^`]+)`", row.split("|")[1])]


def written(value: object) -> str:
    """Return a default as the page writes it."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if isinstance(value, str) else f"{value:g}"


def due() -> Due:
    return Due(
        id=1,
        event=event(1, ended=True),
        kind="ended",
        sink="hook",
        attempts=0,
        created_s=0.0,
        maybe_repeated=True,
    )


# -- the site file -----------------------------------------------------------------------------


def test_the_site_file_of_the_page_is_valid_with_its_secrets_and_without(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(fenced("yaml"))
    assert set(read_site(path, secrets=False).site.sinks) == {"guard", "backend", "house"}
    password = tmp_path / "mail-password"
    password.write_text("three\n")
    password.chmod(0o600)
    path.write_text(fenced("yaml").replace("/etc/vad-edge/mail-password", str(password)))
    file = read_site(path, environment=SECRETS)
    assert file.site.streams["gate"].source == Secret("rtsp://viewer:one@10.0.0.5/stream1")
    _, mistakes = parse_site(path, environment={})
    assert [mistake.path for mistake in mistakes] == ["streams.gate.source", "sinks.backend.secret"]


def test_every_struct_of_a_site_has_its_place_on_the_page() -> None:
    structs = {
        value
        for value in vars(contract).values()
        if inspect.isclass(value) and issubclass(value, msgspec.Struct) and value.__struct_fields__
    }
    assert structs == set(PLACES)


@pytest.mark.parametrize("struct", PLACES, ids=lambda struct: struct.__name__)
def test_every_key_is_on_the_page_with_its_default(struct: type[Any]) -> None:
    text = place(PLACES[struct])
    for field in msgspec.structs.fields(struct):
        assert f"`{field.name}`" in text, field.name
        if isinstance(field.default, bool | int | float | str):
            stated = re.search(rf"`{field.name}`(?: \| | )(`[^`]*`|[\d.]*\d)", text)
            assert stated is not None, f"{field.name} states no default"
            assert stated[1] == written(field.default), field.name


def test_tables_of_keys_name_no_key_that_there_is_not() -> None:
    known = {field.name for struct in PLACES for field in msgspec.structs.fields(struct)}
    rows = re.findall(
        r"^\| `([a-z_]+)` \|", place("### The whole site") + place("### Streams"), re.M
    )
    assert set(rows) - set(get_args(StreamState)) <= known


def test_every_word_that_a_key_takes_is_on_the_page() -> None:
    for struct in PLACES:
        for field in msgspec.structs.fields(struct):
            for word in get_args(field.type):
                # Precisions are those of `vad-run watch`, on another page.
                if isinstance(word, str) and field.name != "precision":
                    assert f"`{word}`" in PAGE, f"{struct.__name__}.{field.name}: {word}"
    assert first_column("| `policy` | |") == list(get_args(contract.Policy))
    assert set(first_column("| state | what |")) == set(get_args(StreamState))
    assert {"score", "hole", "longest", "stop", "restart"} <= set(re.findall(r"`(\w+)`", PAGE))


# -- sinks -------------------------------------------------------------------------------------


def test_every_topic_of_the_page_is_published_and_the_other_way_round() -> None:
    topics = Topics("house", MqttSettings(host="broker"), "SITE")
    methods = [name for name, value in vars(Topics).items() if inspect.isfunction(value)]
    found = {getattr(topics, name)("STREAM") for name in methods if not name.startswith("_")}
    found |= {topics.site_availability}
    found |= {topic for topic, _ in discovery(topics, "SITE", ["STREAM"], scores=True)}
    assert set(first_column("| topic | |")) == found


def test_the_message_of_the_page_has_the_fields_that_are_sent() -> None:
    shown, sent = json.loads(fenced("json")), event_message(due())
    assert list(shown) == list(sent)
    assert set(shown["event"]) == set(sent["event"])
    assert shown["id"] == f"{shown['event']['id']}-{shown['kind']}"


def test_the_pages_program_accepts_what_a_webhook_signs_and_refuses_a_changed_body() -> None:
    program: dict[str, Any] = {}
    (block,) = [block for block in blocks_of(Path("docs/live.md")) if block.language == "python"]
    exec(block.text, program)
    genuine = program["genuine"]
    with HttpServer() as server:
        settings = WebhookSettings(url=Secret(server.url("/")), secret=Secret("sign"))
        webhook.WebhookSink("hook", settings).deliver([due()])
    (request,) = server.requests
    header = request.headers["X-Vad-Signature"]
    assert genuine(header, request.body, "sign")
    assert not genuine(header, request.body + b" ", "sign")
    assert not genuine(header, request.body, "other")
    old = webhook.signature("sign", int(time.time()) - 301, request.body)
    assert not genuine(old, request.body, "sign")
    ours = {name for name in request.headers if name.startswith(("X-Vad", "Idempotency"))}
    assert set(first_column("| header | |")) == ours


def test_the_answers_after_which_a_webhook_tries_again_are_on_the_page() -> None:
    (line,) = re.findall(r"^2xx is taken; (.*?) is tried\nagain", PAGE, re.MULTILINE)
    assert {int(code) for code in re.findall(r"\b\d{3}\b", line)} == webhook.AGAIN


# -- status ------------------------------------------------------------------------------------


def test_every_metric_of_the_page_is_served_and_the_other_way_round() -> None:
    gate = StreamStatus(
        name="gate",
        source="",
        bundle="site.vad",
        state="live",
        state_since_s=0.0,
        holes={"lost": 1},
        unscored={"frozen": 1},
        dropped={"late clip": 1},
        threshold=1.0,
        score=0.5,
        last_event_s=0.0,
    )
    status = site_status(
        site="depot",
        started_s=0.0,
        streams=[gate],
        engines=[EngineStatus(bundle="site.vad", device="fake")],
        parts=[PartStatus(name="store", kind="store", ok=True, details={"errors": 0.0})],
    )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_SiteCollector(lambda: status))
    served = set(re.findall(r"^(vad_\w+)", generate_latest(registry).decode(), re.MULTILINE))
    assert set(re.findall(r"`(vad_[a-z_]+)`", PAGE)) == served


def test_every_cause_of_a_dropped_clip_is_on_the_page() -> None:
    source = inspect.getsource(stream) + inspect.getsource(scheduler)
    causes = set(re.findall(r"""(?:skip|dropped)\("([a-z ]+)"\)""", source))
    assert {"late clip", "engine error", "engine failed", "callback failed"} <= causes
    for cause in causes:
        assert f"`{cause}`" in PAGE, cause


def test_a_containers_health_check_asks_whether_the_site_is_alive() -> None:
    page = (ROOT / "deploy/README.md").read_text()
    (command,) = re.findall(r"--health-cmd '(.*?)'", page)
    assert ":9108/alive" in command
    empty = site_status(site="", started_s=0.0, streams=[], engines=[], parts=[])
    alive = [True]
    server = HealthServer(HealthSettings(port=0), lambda: empty, lambda: alive[0])
    server.start()
    words = shlex.split(command.replace("http://127.0.0.1:9108", server.url))
    assert words[0] == "python3"
    try:
        assert subprocess.run([sys.executable, *words[1:]], capture_output=True).returncode == 0
        alive[0] = False
        assert subprocess.run([sys.executable, *words[1:]], capture_output=True).returncode == 1
    finally:
        server.close()
