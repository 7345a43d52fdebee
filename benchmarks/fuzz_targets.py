"""What fuzz_inputs.py spoils, and what reads it."""

import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import click
from fuzz_mutations import NUMBERS, TEXTS, spoiled_bytes, spoiled_json, spoiled_yaml
from fuzz_seeds import SECRET


@dataclass(frozen=True)
class Target:
    """One kind of input."""

    name: str
    share: int
    """How often it is taken, against the others."""
    run: Callable[[Path, Path, Random], object]
    """(folder of sound files, empty folder of the case, random): spoils and reads."""
    may_leave: tuple[str, ...] = ()
    """Patterns of files that may be there afterwards, besides `in/` and, on success, `out/`."""


def run_cli(*words: str | Path) -> None:
    """Run `vad-run` in this process; raises what it raises."""
    from vad_runtime.cli import cli

    # A command line holds no NUL.
    cli.main([str(word).replace("\0", "") for word in words], standalone_mode=False)


def warm_up(seeds: Path, case: Path) -> None:
    """Score a sound video, so that libraries' own threads and handles are there."""
    video = seeds / "videos" / "blob-libx264.mp4"
    for backend in ("openvino", "onnxruntime"):
        options = (
            "--no-plot",
            "--threads",
            "1",
            "--backend",
            backend,
            "-o",
            case / f"out/{backend}",
        )
        run_cli("watch", seeds / "tiny.vad", video, *options)


def _manifest(seeds: Path, case: Path, random: Random) -> None:
    bundle = Path(shutil.copytree(seeds / "tiny.vad", case / "in" / "tiny.vad"))
    base = (bundle / "manifest.json").read_bytes()
    (bundle / "manifest.json").write_bytes(spoiled_json(json.loads(base), random, base))
    video = seeds / "videos" / "blob-libx264.mp4"
    quick = ("--no-plot", "--no-overlay", "--threads", "1")
    run_cli("score", bundle, video, "-o", case / "out", *quick)


def _video(seeds: Path, case: Path, random: Random) -> None:
    files = sorted((seeds / "videos").iterdir())
    source = random.choice(files)
    others = [random.choice(files).read_bytes()]
    path = case / "in" / random.choice((source.name, "film.mp4", "film"))
    path.write_bytes(spoiled_bytes(source.read_bytes(), random, others))
    if random.random() < 0.1:
        quick = ("--no-plot", "--overlay", "--threads", "1")
        run_cli("watch", seeds / "tiny.vad", path, "-o", case / "out", *quick)
    else:
        _read_frames(path)


def _frames(seeds: Path, case: Path, random: Random) -> None:
    files = sorted((seeds / "frames").iterdir())
    for file in files[:: random.choice((1, 2))]:
        content = file.read_bytes()
        if random.random() < 0.6:
            content = spoiled_bytes(content, random, [random.choice(files).read_bytes()])
        (case / "in" / file.name).write_bytes(content)
    _read_frames(case / "in")


def _read_frames(path: Path) -> None:
    from vad_runtime.contracts.clip import ClipSpec
    from vad_runtime.sources import open_source
    from vad_runtime.sources.prefetch import Prefetch

    spec = ClipSpec(frames=8, height=32, width=32, colour="gray")
    last = -1.0
    source = open_source(path, spec)
    for frame in Prefetch(source):
        assert frame.pixels.shape == spec.frame_shape, frame.pixels.shape
        assert frame.pts_s > last, (frame.pts_s, last)
        last = frame.pts_s
    if source.stats.frames:
        assert frame.picture().ndim == 3


def _site(seeds: Path, case: Path, random: Random) -> None:
    from vad_runtime.contracts.errors import VadError
    from vad_runtime.site_convert import plain_settings
    from vad_runtime.site_file import line_of, parse_site, read_site

    path = case / "in" / "site.yaml"
    path.write_bytes(spoiled_yaml((seeds / "site.yaml").read_text(), random))
    environment = {"PASSWORD": SECRET}
    said = ""
    try:
        _, mistakes = parse_site(path, environment=environment)
        for line in (line_of(path, mistake) for mistake in mistakes):
            require_one_line(line)
            said += line
        file = read_site(path, environment=environment, secrets=random.random() < 0.8)
        said += str(plain_settings(file.site)) + repr(file)
    except VadError as error:
        said += str(error)
        raise
    finally:
        assert SECRET not in said, "a secret was shown"


def _labels(seeds: Path, case: Path, random: Random) -> None:
    from vad_runtime.labels import read_labels

    base = (seeds / "labels.json").read_bytes()
    path = case / "in" / "labels.json"
    path.write_bytes(spoiled_json(json.loads(base), random, base))
    if random.random() < 0.1:
        video = Path(shutil.copy(seeds / "videos" / "blob-libx264.mp4", case / "in" / "b.mp4"))
        quick = ("--no-plot", "--no-overlay", "--threads", "1", "--labels", path)
        run_cli("score", seeds / "tiny.vad", video, "-o", case / "out", *quick)
        return
    read_labels(path).of(case / "a" / "b.mp4")


def _features(seeds: Path, case: Path, random: Random) -> None:
    from vad_runtime.features import read_features

    source = random.choice(sorted((seeds / "features").iterdir()))
    path = case / "in" / source.name
    path.write_bytes(spoiled_bytes(source.read_bytes(), random))
    read_features(path)


def _status_answer(seeds: Path, case: Path, random: Random) -> None:
    from vad_runtime.live.status_client import status_from_json
    from vad_runtime.live.status_view import plain_lines, rich_view, view_of

    base = (seeds / "status.json").read_bytes()
    status = status_from_json(spoiled_json(json.loads(base), random, base), "127.0.0.1:9108")
    for line in plain_lines(view_of(status, ascii_only=random.random() < 0.5)):
        assert line.isprintable(), line
    from rich.console import Console

    width = random.choice((1, 20, 80, 200))
    console = Console(width=width, height=24, file=(case / "in" / "screen").open("w"))
    with console.file:
        console.print(rich_view(view_of(status, width=width, height=random.choice((1, 24)))))


def _database(seeds: Path, case: Path, random: Random) -> None:
    from vad_runtime.contracts.errors import VadError
    from vad_runtime.store.outbox import Outbox
    from vad_runtime.store.writer import StoreWriter

    data = case / "in" / "data"
    data.mkdir()
    path = data / "vad.db"
    if random.random() < 0.5:
        path.write_bytes(spoiled_bytes((seeds / "vad.db").read_bytes(), random))
    else:
        shutil.copy(seeds / "vad.db", path)
        _spoil_rows(path, random)
    try:
        run_cli("events", data, *random.choice(((), ("--json",), ("--csv",), ("--since", "1h"))))
        if random.random() < 0.3:
            run_cli("export-clips", data, "-o", case / "out")
    except VadError as error:
        require_one_line(str(error))
    # A site must start on whatever it finds, and go on with it.
    said: list[str] = []
    StoreWriter(path, lambda _: ["mail"], say=said.append).close(1.0)
    for line in said:
        require_one_line(line)
    outbox = Outbox(path)
    try:
        outbox.due("mail", time.time())
    except sqlite3.Error:  # as promised: the caller tries again
        pass
    finally:
        outbox.close()


def _spoil_rows(path: Path, random: Random) -> None:
    """Put values of other types into a database that is sound as such."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA ignore_check_constraints=ON")
    for _ in range(random.choice((1, 3))):
        table = random.choice(("events", "outbox", "counters"))
        names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        value: Any = random.choice((*NUMBERS, *TEXTS, None, b"\xff\0"))
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            value = float(value)
        try:
            connection.execute(
                f"UPDATE {table} SET {random.choice(names)} = ? WHERE rowid IN "
                f"(SELECT rowid FROM {table} LIMIT ?)",
                (value, random.choice((1, 3))),
            )
        except (sqlite3.Error, UnicodeEncodeError):
            continue  # a constraint holds: nothing to read
    if random.random() < 0.1:
        connection.execute(f"PRAGMA user_version={random.choice((0, 2, 99))}")
    if random.random() < 0.1:
        connection.execute(f"DROP TABLE {random.choice(('outbox', 'events', 'counters'))}")
    connection.close()


def _address(seeds: Path, case: Path, random: Random) -> None:
    from vad_runtime.sources.address import address_from_text, masked

    word = f"Pw{random.randrange(10**8):08d}" + random.choice(("", "$", "!x", "%40", "ü"))
    sound = random.choice(
        (
            f"rtsp://user:{word}@10.0.0.3:554/stream?x=1",
            f"http://10.0.0.3/video?token={word}&size=1",
            f"rtsps://:{word}@[fe80::1]/a@b",
            f"gst: rtspsrc location=rtsp://u:{word}@h/s user-pw={word} ! decodebin ! appsink",
            f"srt://10.0.0.3:9000?passphrase={word}",
        )
    )
    for text in (sound, f"Failed to open {sound}: 401", f"a\n{sound}"):
        assert word not in masked(text), masked(text)
    text = spoiled_bytes(sound.encode(), random).decode("utf-8", "surrogateescape")
    masked(text)
    address = address_from_text(text)
    assert str(address)
    if not address.live and random.random() < 0.5:  # nobody is to be called
        run_cli("score", seeds / "tiny.vad", text, "-o", case / "out", "--no-plot")


def _words(seeds: Path, case: Path, random: Random) -> None:
    """Options of the operator's commands."""
    said = random.choice(("24h", "2026-11-22", "14:03", "2026-11-22T14:03:07+01:00", "yesterday"))
    content = spoiled_bytes(said.encode(), random)
    text = content.decode("utf-8", "surrogateescape")[: random.choice((10, 40, 5000))]
    option = random.choice(("--since", "--until", "--stream", "--limit"))
    data = shutil.copytree(seeds, case / "in" / "data", ignore=lambda _, n: set(n) - {"vad.db"})
    try:
        run_cli("events", data, f"{option}={text}")
    except click.UsageError as error:
        require_one_line(error.format_message())


def require_one_line(text: str) -> None:
    """Assert that a text is one line of readable length."""
    assert text.strip(), "an empty message"
    assert len(text.splitlines()) == 1, f"{len(text.splitlines())} lines: {text[:200]!r}"
    assert len(text) < 12_000, f"a message of {len(text)} characters"


TARGETS = (
    Target("manifest", 40, _manifest),
    Target("site", 50, _site),
    Target("video", 60, _video),
    Target("frames", 10, _frames),
    Target("labels", 8, _labels),
    Target("features", 8, _features),
    Target("status", 8, _status_answer),
    Target("database", 12, _database, ("in/data/vad.db*",)),
    Target("address", 8, _address),
    Target("words", 6, _words, ("in/data/vad.db*",)),
)
