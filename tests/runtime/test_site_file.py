"""Site files: what they mean, and that each mistake is told with its line."""

from pathlib import Path

import pytest
from helpers import assert_one_line

from vad_runtime.contracts.errors import ConfigError, InputError, VadError
from vad_runtime.contracts.site import MailSettings, Secret, WebhookSettings
from vad_runtime.site_file import SiteFile, line_of, named_bundles, parse_site, read_site

GOOD = """\
name: depot
bundle: a.vad
streams:
  gate: {source: gate.mp4}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def read(tmp_path: Path, text: str, **environment: str) -> SiteFile:
    return read_site(written(tmp_path, text), environment=environment)


def mistakes(tmp_path: Path, text: str, **environment: str) -> list[str]:
    path = written(tmp_path, text)
    file, found = parse_site(path, environment=environment)
    assert file is None
    return [line_of(Path("site.yaml"), mistake) for mistake in found]


def test_a_short_file_has_the_defaults_and_paths_from_its_folder(tmp_path: Path) -> None:
    file = read(tmp_path, GOOD)
    assert file.site.name == "depot"
    assert file.site.streams["gate"].policy == "drop-oldest"
    assert file.data == tmp_path / "data"
    assert file.database == tmp_path / "data" / "vad.db"
    assert file.bundle_of(file.site.streams["gate"]) == tmp_path / "a.vad"
    assert file.site.health is not None


def test_anchors_merge_keys_and_room_for_them_work(tmp_path: Path) -> None:
    file = read(
        tmp_path,
        """\
x-cam: &cam {bundle: b.vad, hop: 8, events: &ev {threshold: 2}}
streams:
  gate: {<<: *cam, source: a.mp4, hop: 4}
  yard: {<<: [*cam], source: b.mp4}
  door: {source: c.mp4, bundle: c.vad, events: *ev}
""",
    )
    gate, yard, door = file.site.streams.values()
    assert (gate.hop, gate.bundle, yard.hop) == (4, "b.vad", 8)
    assert yard.events.threshold == door.events.threshold == 2.0


def test_types_decide_what_a_plain_word_means(tmp_path: Path) -> None:
    file = read(
        tmp_path,
        """\
name: 08
bundle: 12:30
streams:
  no: {source: "1", loop: yes}
  on: {source: 1.50, loop: off}
media: {clips: on, pre_s: 3}
sinks:
  me: {kind: mail, host: h, sender: a@b.c, to: me@b.c, user: 007, password: "${PW}"}
""",
        PW="0123",
    )
    assert (file.site.name, file.site.bundle) == ("08", "12:30")
    assert list(file.site.streams) == ["no", "on"]
    assert file.site.streams["no"].loop
    assert not file.site.streams["on"].loop
    assert file.site.streams["on"].source == Secret("1.50")
    assert file.site.media.pre_s == 3.0
    sink = file.site.sinks["me"]
    assert isinstance(sink, MailSettings)
    assert (sink.to, sink.user, sink.password) == (["me@b.c"], Secret("007"), Secret("0123"))


def test_a_heading_without_settings_is_the_default_and_null_switches_off(tmp_path: Path) -> None:
    file = read(tmp_path, GOOD + "media:\nsinks:\nretention:\n  # clips_gb: 3\nhealth:\n")
    assert file.site.media.clips
    assert file.site.sinks == {}
    assert file.site.health is not None
    assert read(tmp_path, GOOD + "health: null\n").site.health is None


def test_references_fill_numbers_and_texts_too(tmp_path: Path) -> None:
    file = read(
        tmp_path, GOOD + "health: {port: '${PORT}', host: '${HOST}'}\n", PORT="0", HOST="::1"
    )
    assert file.site.health is not None
    assert (file.site.health.port, file.site.health.host) == (0, "::1")


def test_without_secrets_nothing_is_looked_up(tmp_path: Path) -> None:
    text = GOOD.replace("gate.mp4", "'rtsp://u:${GONE}@h/${file:/gone}'")
    assert "GONE is not set" in mistakes(tmp_path, text)[0]
    file = read_site(tmp_path / "site.yaml", secrets=False)
    assert file.site.streams["gate"].source.reveal() == "rtsp://u:${GONE}@h/${file:/gone}"


def test_every_mistake_is_told_with_its_line_and_what_to_write_instead(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        """\
nam: x
engine: {backend: foo, threads: 0, batch: 1.5}
streams:
  gate:
    source: rtsp://u:hunter2@h/1
    hop: a
    polcy: error
    policy: drop-olds
    events: {threshold: .nan, release: 2}
    loop: 3
    watchdog: [1]
sinks:
  a: {kind: mial}
  b: {host: h}
  c: {kind: mail, host: h, to: [], password: hunter3}
  d: {kind: webhook, url: 'https://x/y?token=hunter4', headers: {Authorization: hunter5}}
""",
    )
    instead = "must not stand in the file. Write ${NAME} and set NAME in the environment, or "
    where = [line.replace(instead + "${file:/path}.", "must not") for line in found]
    where[3] = where[3].partition(" Use auto or one of")[0]
    assert where == [
        "site.yaml:1: unknown key 'nam'. Did you mean 'name'?",
        "site.yaml:2: engine.threads: must be at least 1, got 0.",
        "site.yaml:2: engine.batch: expected an integer, got '1.5'.",
        "site.yaml:2: engine.backend: no back end is called that.",
        "site.yaml:5: streams.gate.source: the password in the address must not",
        "site.yaml:6: streams.gate.hop: expected an integer, got 'a'.",
        "site.yaml:7: streams.gate: unknown key 'polcy'. Did you mean 'policy'?",
        "site.yaml:8: streams.gate.policy: cannot be 'drop-olds'. Did you mean 'drop-oldest'?",
        "site.yaml:9: streams.gate.events.threshold: expected a number, got '.nan'.",
        "site.yaml:9: streams.gate.events.release: must be at most 1, got 2.",
        "site.yaml:10: streams.gate.loop: expected true or false, got '3'.",
        "site.yaml:11: streams.gate.watchdog: expected a mapping, got a list.",
        "site.yaml:13: sinks.a.kind: no kind 'mial'. Did you mean 'mail'?",
        "site.yaml:14: sinks.b: kind is missing. Use one of: mail, webhook, mqtt, jsonl.",
        "site.yaml:15: sinks.c.password: a password must not",
        "site.yaml:15: sinks.c: sender is missing. Add it.",
        "site.yaml:15: sinks.c.to: is empty. Add one.",
        "site.yaml:16: sinks.d.url: token= must not",
        "site.yaml:16: sinks.d.headers.Authorization: the header Authorization must not",
    ]
    assert "hunter" not in "".join(found)


def test_what_contradicts_is_told_beside_what_is_out_of_range(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        """\
bundle: a.vad
engine: {backend: foo}
retention: {clips_gb: -1}
streams:
  gate: {source: a.mp4, hop: 0, decoder: nvdec}
  yard: {source: b.mp4}
sinks:
  a: {kind: mail, host: h, sender: a@b.c, to: guard, every_s: -1, streams: [gat, yard]}
  b: {kind: mail, host: h, sender: a@b.c, to: a@b.c, user: "${GONE}", password: "${PW}"}
""",
        PW="0123",
    )
    assert [line.removeprefix("site.yaml:").split(": ")[:2] for line in found] == [
        ["2", "engine.backend"],
        ["3", "retention.clips_gb"],
        ["5", "streams.gate.hop"],
        ["5", "streams.gate.decoder"],
        ["8", "sinks.a.every_s"],
        ["8", "sinks.a.to[0]"],
        ["8", "sinks.a.streams"],
        ["9", "sinks.b.user"],
    ]
    assert "fake" not in "".join(found)


def test_the_bundles_of_a_wrong_file_are_known_all_the_same(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD + "  yard: {source: 1, hop: 0, bundle: b.vad}\nnam: x\n")
    assert {bundle.name for bundle in named_bundles(path)} == {"a.vad", "b.vad"}


def test_a_tab_is_named_where_it_stands(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r":3: no YAML \(a tab cannot indent\)"):
        read(tmp_path, "streams:\n  gate:\n\tsource: a.mp4\n  yard:\n    source: b.mp4\n")


def test_read_site_names_the_first_mistake_and_counts_the_others(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD + "nam: x\nmedia: {clip: no, pre_s: -1}\n")
    with pytest.raises(ConfigError) as caught:
        read_site(path)
    assert_one_line(caught.value, f"{path}:5: unknown key 'nam'", "(and 2 more; vad-run check")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("engine: {backend: foo}", "5: engine.backend: no back end is called that"),
        ("engine: {device: gpu}", "5: engine.device: is no device"),
        ("data: ''", "5: data: is empty"),
        ("  'ä b': {source: x}", "'ä b' is no name of a stream"),
        ("  yard: {source: a.mp4, bundle: ''}", None),
        ("  yard: {source: rtsp://h/1, loop: true}", "5: streams.yard.loop: only a recording"),
        ("sinks:\n  a: {kind: jsonl, file: a, streams: [gat]}", "6: sinks.a.streams: no stream"),
        ("sinks:\n  a: {kind: webhook, url: ftp://x}", "6: sinks.a.url: is no address"),
        ("sinks:\n  a: {kind: webhook, url: https://x, headers: {a b: c}}", "'a b' is no header"),
        ("sinks:\n  a: {kind: mqtt, host: h, topic: a/#}", "6: sinks.a.topic: is no topic"),
        ("sinks:\n  a: {kind: mqtt, host: h, user: me}", "6: sinks.a.user: a user without"),
        ("sinks:\n  a: {kind: mail, host: h, sender: me, to: x@y}", "6: sinks.a.sender: is no"),
        (
            "sinks:\n  a: {kind: mail, host: h, sender: a@b, to: x@y, tls: none, user: u, "
            "password: '${PW}'}",
            "6: sinks.a.tls: none would send the password",
        ),
    ],
)
def test_what_could_never_work_is_refused(tmp_path: Path, more: str, expected: str | None) -> None:
    if expected is None:
        assert read(tmp_path, GOOD + more + "\n").site.streams["yard"].bundle == ""
        return
    found = mistakes(tmp_path, GOOD + more + "\n", PW="hunter2")
    assert len(found) == 1
    assert expected in found[0]


def test_a_stream_without_any_bundle_is_refused(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "streams:\n  gate: {source: a.mp4}\n")
    assert found == [
        "site.yaml:2: streams.gate: no bundle. Add bundle: here, or at the top for all streams."
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("a: [", ":1: no YAML"),
        ("a: 1\nb:\n- c: d: e", ":3: no YAML"),
        ("b:\n  a: {port: ${PORT}}", 'quotes: "${NAME}"'),
        ("a: 1\nb: 2\na: 3", ":3: 'a' stands here again, first on line 1"),
        ("a: !!python/name:os.system x", ":1: the tag"),
        ("a: !x b", ":1: the tag"),
        ("a: &x [*x]", ":1: no anchor &x"),
        ("a: 1\n---\nb: 2", "a second document"),
        ("\t- x", ":1: no YAML"),
        ("[" * 50_000, "deep"),
        ("a: " + "{a: " * 1000, "deep"),
        ("? [a]\n: b", "a key must be a plain name"),
        ("<<: 3", "<< takes a mapping"),
        ("# " + "x" * 300_000, "larger than 256 KiB"),
    ],
)
def test_what_is_no_yaml_for_us_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_site(written(tmp_path, text))
    assert_one_line(caught.value, expected)


def test_aliases_of_aliases_end_soon(tmp_path: Path) -> None:
    headers = ", ".join(f"h{i}: x" for i in range(2000))
    sinks = "\n".join(f"  s{i}: {{kind: webhook, url: https://x, headers: *h}}" for i in range(500))
    found = mistakes(tmp_path, GOOD + f"x-h: &h {{{headers}}}\nsinks:\n{sinks}\n")
    assert "the file holds too much" in found[0]


@pytest.mark.parametrize("content", [b"\xff\xfea", b"a: \xc3\x28", b"a: \x00", b"\x80" * 9])
def test_bytes_that_are_no_text_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "site.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_site(path)
    assert_one_line(caught.value, "site.yaml:1")


def test_a_file_that_is_not_there_or_is_none_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.yaml", tmp_path, Path("/dev/zero"), Path("a\0b")):
        with pytest.raises((InputError, VadError)) as caught:
            read_site(path)
        assert_one_line(caught.value)


def test_a_webhooks_secrets_never_show(tmp_path: Path) -> None:
    text = GOOD + (
        "sinks:\n  a: {kind: webhook, url: 'https://h/?token=${T}', secret: '${T}', "
        "headers: {Authorization: 'Bearer ${T}'}}\n"
    )
    file = read(tmp_path, text, T="hunter2")
    assert "hunter2" not in repr(file)
    sink = file.site.sinks["a"]
    assert isinstance(sink, WebhookSettings)
    assert sink.headers["Authorization"].reveal() == "Bearer hunter2"


def test_a_home_that_nobody_has_is_a_name_as_any(tmp_path: Path) -> None:
    file = read(tmp_path, GOOD.replace("a.vad", "~nobody-here/a.vad") + "data: ~nobody-here/d\n")
    assert file.data == tmp_path / "~nobody-here" / "d"
    assert file.bundle_of(file.site.streams["gate"]) == tmp_path / "~nobody-here" / "a.vad"
    (line,) = mistakes(tmp_path, GOOD.replace("gate.mp4", '"${file:~nobody-here/x}"'))
    assert "cannot be read (No such file or directory)" in line
