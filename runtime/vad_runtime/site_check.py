"""Everything that can be wrong with a site before it runs: `vad-run check`."""

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vad_runtime.bundle import Bundle
from vad_runtime.contracts.errors import InputError, SourceError, VadError
from vad_runtime.contracts.site import (
    LinesSettings,
    SinkSettings,
    StreamSettings,
)
from vad_runtime.files import made_folder
from vad_runtime.live.claim import DATA_STEP, running_file, running_site
from vad_runtime.live.events import site_scoring
from vad_runtime.live.media.names import FOLDERS
from vad_runtime.live.media.retention import free_bytes
from vad_runtime.live.site_engines import open_bundle, open_engine_of
from vad_runtime.live.site_streams import absolute, check_stream
from vad_runtime.sinks.base import DeliveryError, Sink, TriesOut
from vad_runtime.site_file import SiteFile, line_of, named_bundles, parse_site
from vad_runtime.sources.address import masked
from vad_runtime.words import counted

_AT_ONCE = 8
_PICTURE_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the check."""

    text: str
    wrong: bool = False


def findings(path: Path, *, connect: bool = False) -> Iterator[Finding]:
    """Check a site file and all that it names, one thing after another.

    Args:
        path: The site file.
        connect: Connect to cameras and to servers of sinks, too.

    Yields:
        What was found, good and bad; lines without credentials.
    """
    try:
        file, mistakes = parse_site(path)
    except VadError as error:
        yield Finding(text=str(error), wrong=True)
        return
    for mistake in mistakes:
        yield Finding(text=line_of(path, mistake), wrong=True)
    if file is None:
        for bundle in named_bundles(path):
            try:
                open_bundle(bundle)
            except VadError as error:
                yield Finding(text=masked(str(error)), wrong=True)
        return
    streams, sinks = len(file.site.streams), len(file.site.sinks)
    yield Finding(text=f"{path}: {counted(streams, 'stream')}, {counted(sinks, 'sink')}")
    for finding in _checks(file, connect=connect):
        yield Finding(text=masked(" ".join(finding.text.split())), wrong=finding.wrong)


def _checks(file: SiteFile, *, connect: bool) -> Iterator[Finding]:
    bundles: dict[Path, Bundle] = {}
    for path in dict.fromkeys(map(file.bundle_of, file.site.streams.values())):
        yield _engine(file, path, bundles)
    for name, stream in file.site.streams.items():
        bundle = bundles.get(file.bundle_of(stream))
        if bundle is not None:
            yield _stream(file, name, stream, bundle)
    yield from _places(file)
    for name, sink in file.site.sinks.items():
        yield _sink(file, name, sink)
    if connect:
        yield from _connections(file)


def _tried(good: str, work: Callable[[], object], where: str = "") -> Finding:
    try:
        told = work()
    except VadError as error:
        return Finding(text=f"{where}{error}", wrong=True)
    except ModuleNotFoundError as error:
        text = f"{where}{error.name} is missing. Install it with: pip install 'vad-edge[site]'"
        return Finding(text=text, wrong=True)
    return Finding(text=good if told is None else f"{good}{told}")


def _engine(file: SiteFile, path: Path, bundles: dict[Path, Bundle]) -> Finding:
    def work() -> str:
        bundles[path] = open_bundle(path)  # streams can be checked without an engine
        opened = open_engine_of(file, path)
        opened.choice.backend.close()
        return opened.choice.line

    return _tried(f"bundle {path}: ", work)


def _stream(file: SiteFile, name: str, stream: StreamSettings, bundle: Bundle) -> Finding:
    def work() -> str:
        address = check_stream(name, stream, bundle.manifest, file.folder)
        scoring = site_scoring(bundle.manifest.scoring, stream.events)
        if address.kind == "usb" and not Path(address.text).exists():
            raise SourceError(f"streams.{name}.source: {address} is not there. Plug it in.")
        if scoring.threshold is None:
            return f"{address}; no threshold, so it never raises an alarm"
        return f"{address}, alarm from {scoring.threshold:g}"

    return _tried(f"stream {name}: ", work)


def _places(file: SiteFile) -> Iterator[Finding]:
    yield _tried(f"data folder {file.data}", lambda: _room(file))
    running = running_site(file.data)
    if running is not None and running_file(file.data) != file.path.resolve():
        text = f"data folder {file.data} is in use by {running}, which has another site file"
        yield Finding(
            text=f"{text}. Stop that one, or name another folder under data:.", wrong=True
        )
    if running is not None:
        yield Finding(text=f"{running} uses the data folder; its port is not checked")
        return
    health = file.site.health
    if health is None:
        yield Finding(text="health: nothing is served")
        return

    def serve() -> None:
        from vad_runtime.health import HealthServer
        from vad_runtime.live.site_status import site_status

        empty = site_status(site="", started_s=0.0, streams=[], engines=[], parts=[])
        HealthServer(health, lambda: empty).close()

    place = f"{health.host}:{health.port} is free" if health.port else f"any port of {health.host}"
    yield _tried(f"health: {place}", serve)


def _room(file: SiteFile) -> None:
    """Refuse a data folder that cannot be written, or has no room for clips; leaves no trace."""
    _require_writable(file.data, DATA_STEP)
    there = next(one for one in (file.data, *file.data.parents) if one.is_dir())
    wanted_gb = file.site.retention.free_gb
    free_gb = (free_bytes(there) + _media_bytes(file.data)) / 1e9  # old clips make room
    if free_gb < wanted_gb:
        raise InputError(
            f"retention.free_gb: {free_gb:.2g} GB are free where {file.data} is, which is less "
            f"than {wanted_gb:g}: clips would be removed as they are made. Make room."
        )


def _media_bytes(data: Path) -> int:
    found = 0
    for file in (file for name in FOLDERS for file in (data / name).rglob("*")):
        with contextlib.suppress(OSError):  # gone meanwhile
            found += file.lstat().st_size
    return found


def _require_writable(folder: Path, step: str) -> None:
    """Refuse a folder in which nothing can be written; one that is missing is not made."""
    if folder.is_dir():
        made_folder(folder, step=step)
        return
    there = next((one for one in folder.parents if os.path.lexists(one)), folder)
    if os.path.lexists(folder) or not there.is_dir():
        raise InputError(f"{folder} cannot be written (Not a directory). {step}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{folder} cannot be made (no right to write in {there}). {step}")


def _made_sink(file: SiteFile, name: str) -> Sink:
    from vad_runtime.sinks.make import make_sink

    return make_sink(
        name,
        file.site.sinks[name],
        site=file.site.name,
        streams=[*file.site.streams],
        folder=file.folder,
        data_folder=file.data,
        say=lambda _line: None,
        statuses=list,
    )


def _sink(file: SiteFile, name: str, sink: SinkSettings) -> Finding:
    def work() -> None:
        if isinstance(sink, LinesSettings):
            _require_writable(file.resolve(sink.file).parent, "Name another file.")
        _made_sink(file, name).close()

    return _tried(f"sink {name}", work, f"sinks.{name}: ")


# -- with --connect ----------------------------------------------------------------------------


def _connections(file: SiteFile) -> Iterator[Finding]:
    jobs: list[Callable[[], Finding]] = []
    for name, stream in file.site.streams.items():
        if absolute(stream.source.reveal(), file.folder).live:
            jobs.append(_camera(file, name, stream))
    for name, sink in file.site.sinks.items():
        if not isinstance(sink, LinesSettings):
            jobs.append(_reach(file, name))
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="vad-check") as pool:
        yield from pool.map(lambda job: job(), jobs)


def _camera(file: SiteFile, name: str, stream: StreamSettings) -> Callable[[], Finding]:
    def work() -> str:
        from vad_runtime.sources.connection import open_connection

        connection = open_connection(
            absolute(stream.source.reveal(), file.folder),
            decoder=stream.decoder,
            transport=stream.transport,
            connect_s=stream.watchdog.connect_s,
            stalled_s=_PICTURE_S,
        )
        try:
            if next(iter(connection.images()), None) is None:
                raise SourceError("no picture came. Check the camera.")
            info = connection.info
            return f"{info.width} x {info.height}, {info.fps:g} fps, {connection.decoder}"
        finally:
            connection.close()

    return lambda: _tried(f"stream {name}: a picture came, ", work, f"streams.{name}: ")


def _reach(file: SiteFile, name: str) -> Callable[[], Finding]:
    def work() -> str | None:
        try:
            sink = _made_sink(file, name)
        except (VadError, ModuleNotFoundError):  # told already
            return "not tried"
        try:
            return sink.try_out() if isinstance(sink, TriesOut) else None
        except DeliveryError as error:
            # The host may stand in an environment variable; its port says which server is meant.
            raise InputError(f"{error}. Check the server and the settings.") from None
        finally:
            sink.close()

    return lambda: _tried(f"sink {name}: ", work, f"sinks.{name}: ")
