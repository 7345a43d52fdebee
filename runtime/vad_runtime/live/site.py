"""A whole site: streams, engines, store, sinks and media, started, changed and stopped together.

::

    cameras ──► readers ──► scorer(s) ──► trackers ──► store ──commit──► deliveries ──► sinks
                                             └──────► media: clips, snapshots
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from vad_runtime.contracts.errors import InputError, SourceError, VadError
from vad_runtime.detector import ScoredFrame
from vad_runtime.health import HealthServer
from vad_runtime.live.alerts import Alerts
from vad_runtime.live.base import EventChange, EventRecord
from vad_runtime.live.claim import DataFolder
from vad_runtime.live.media.recorder import MediaRecorder
from vad_runtime.live.site_change import SiteChange, change_between
from vad_runtime.live.site_engines import Engines, OpenBundle, fingerprint, open_engine_of
from vad_runtime.live.site_status import part_status, site_status
from vad_runtime.live.site_streams import Hooks, OpenStream, check_stream, open_stream
from vad_runtime.live.status import SiteStatus, StreamStatus
from vad_runtime.live.stream import LiveStream
from vad_runtime.sinks.base import Sink
from vad_runtime.site_file import SiteFile
from vad_runtime.sources.address import masked

_STOP_S = 10.0
_HANGS_S = 120.0
"""A scorer whose thread has not moved for so long hangs: no run takes that long."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What was opened for a start or a reload, before anything that runs is touched."""

    bundles: dict[Path, OpenBundle]

    def close(self) -> None:
        for opened in self.bundles.values():
            opened.choice.backend.close()


class LiveSite:
    """Runs the site of one site file.

    The main thread calls `start`, `reload` and `stop`; `status` and `alive` may be called from any
    thread.

    Args:
        file: What was read.
        say: Takes a line for the log; must be thread-safe and never block.
    """

    def __init__(self, file: SiteFile, *, say: Callable[[str], None]) -> None:
        self._file = file
        self._print = say
        self._started_s = time.time()
        self._engines = Engines(self._fatal, self._say)
        self._streams: dict[str, OpenStream] = {}
        """Replaced whole, never changed: others read it meanwhile."""
        self._folder: DataFolder | None = None
        self._alerts: Alerts | None = None
        self._media: MediaRecorder | None = None
        self._health: HealthServer | None = None
        self._reloads = 0
        self._reload_trouble = ""
        self._stopping = False
        self._changing = False
        self.finished = threading.Event()
        """Set when nothing is left to do: all recordings are over, or `failure` says why."""
        self.failure: VadError | None = None
        """What ended the site, if it was not asked to."""

    def _say(self, line: str) -> None:
        # The parts hide what they should; this is for the one that forgets.
        self._print(masked(line))

    @property
    def file(self) -> SiteFile:
        """What runs."""
        return self._file

    @property
    def url(self) -> str | None:
        """Where the status is served; None = nowhere."""
        return None if self._health is None else self._health.url

    # -- start and stop --------------------------------------------------------------------------

    def start(self) -> None:
        """Open everything and run; cameras that are off are waited for.

        Raises:
            VadError: Something does not open; nothing runs then.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        file = self._file
        self._folder = DataFolder(file.data, file.path)
        plan = self._opened(file, file.site.streams)
        self._check_streams(file, file.site.streams, plan)
        try:
            if file.site.health is not None:
                self._health = HealthServer(file.site.health, self.status, self.alive)
            self._media = self._recorder(file)
            self._alerts = Alerts(
                file, say=self._say, open_events=self._open_events, statuses=self._statuses
            )
        except BaseException:
            plan.close()
            raise
        self._add_engines(file, plan)
        self._alerts.start()
        self._open_streams(file, file.site.streams, strict=True)
        self._serve()

    def _serve(self) -> None:
        if self._health is not None:
            self._health.start()
        assert self._folder is not None
        self._folder.write_url(self.url)

    def _recorder(self, file: SiteFile) -> MediaRecorder:
        return MediaRecorder(file.data, file.site.media, file.site.retention, say=self._say)

    def stop(self, *, deliver_s: float = 5.0) -> None:
        """End everything in order; a second call does nothing.

        Open events end, the store is flushed, sinks get some time for what is due; what is left
        waits in the database for the next start.

        Args:
            deliver_s: Longest time for alerts that wait, seconds.
        """
        if self._stopping:
            return
        self._stopping = True
        for stream in self._streams.values():  # all at once: each may need a while
            stream.live.reader.stop()
        self._engines.close(timeout_s=_STOP_S)
        if self._media is not None:
            self._media.close(_STOP_S)
        if self._alerts is not None:  # after the snapshots, which mails carry
            self._alerts.close(deliver_s)
        if self._health is not None:
            self._health.close()
        if self._folder is not None:
            self._folder.release()

    # -- reload ----------------------------------------------------------------------------------

    def reload(self, new: SiteFile) -> SiteChange:
        """Follow a changed site file; what did not change goes on untouched.

        Args:
            new: What was read now.

        Returns:
            What changed.

        Raises:
            VadError: It cannot be followed; everything runs on as before.
        """
        self._changing = True
        try:
            return self._follow(new)
        finally:
            self._changing = False
            self._look_whether_finished()

    def _follow(self, new: SiteFile) -> SiteChange:
        old = self._file
        try:
            prints = {
                path: (opened.fingerprint, fingerprint(path))
                for path in map(new.bundle_of, new.site.streams.values())
                if (opened := self._engines.opened(path)) is not None
            }
            ended = frozenset(n for n, s in self._streams.items() if s.live.error is not None)
            change = change_between(old, new, bundles=prints, ended=ended)
            stale = new.site.engine != old.site.engine
            plan = self._opened(new, change.opened, fresh=stale)
            self._check_streams(new, change.opened, plan)
            prepared = self._prepared(new, change, plan)
        except VadError as error:
            self.refused(str(error))
            raise
        self._close_streams(change.removed)
        self._change_engines(old, new, plan)
        if change.media:
            assert self._media is not None
            self._media.close(_STOP_S)
            self._media = self._recorder(new)
        elif change.retention:
            assert self._media is not None
            self._media.keep(new.site.retention)
        self._file = new
        assert self._alerts is not None
        self._alerts.change(new, prepared)
        self._open_streams(new, change.opened, strict=False)
        if change.health:
            self._move_health(old, new)
        self._reloads += 1
        self._reload_trouble = ""
        return change

    def refused(self, reason: str) -> None:
        """Note that the site file on disk cannot be followed: `status` tells it until it can."""
        self._reload_trouble = f"the site file was not followed: {reason}"

    def _opened(self, file: SiteFile, names: Iterable[str], *, fresh: bool = False) -> _Plan:
        """Open what streams need and what does not run yet."""
        plan = _Plan(bundles={})
        try:
            for name in names:
                path = file.bundle_of(file.site.streams[name])
                running = self._engines.opened(path)
                same = running is not None and running.fingerprint == fingerprint(path)
                if path not in plan.bundles and (fresh or not same):
                    plan.bundles[path] = open_engine_of(file, path)
                    line = plan.bundles[path].choice.line
                    self._say(f"{plan.bundles[path].bundle.name}: {line}")
        except BaseException:
            plan.close()
            raise
        return plan

    def _check_streams(self, file: SiteFile, names: Iterable[str], plan: _Plan) -> None:
        try:
            for name in names:
                settings = file.site.streams[name]
                path = file.bundle_of(settings)
                opened = plan.bundles.get(path) or self._engines.opened(path)
                assert opened is not None
                check_stream(name, settings, opened.bundle.manifest, file.folder)
        except BaseException:
            plan.close()
            raise

    def _prepared(self, file: SiteFile, change: SiteChange, plan: _Plan) -> dict[str, Sink]:
        assert self._alerts is not None
        try:
            return self._alerts.prepared(file, change)
        except BaseException:
            plan.close()
            raise

    def _change_engines(self, old: SiteFile, new: SiteFile, plan: _Plan) -> None:
        wanted = {new.bundle_of(stream) for stream in new.site.streams.values()}
        running = {old.bundle_of(stream) for stream in old.site.streams.values()}
        gone = (running - wanted) | (running & plan.bundles.keys())
        self._engines.close(
            [path for path in gone if self._engines.opened(path) is not None], timeout_s=_STOP_S
        )
        self._add_engines(new, plan)

    def _add_engines(self, file: SiteFile, plan: _Plan) -> None:
        for path, opened in plan.bundles.items():
            self._engines.add(file, path, opened)

    def _move_health(self, old: SiteFile, new: SiteFile) -> None:
        if self._health is not None:
            self._health.close()
            self._health = None
        for settings in (new.site.health, old.site.health):
            if settings is None:
                break
            try:
                self._health = HealthServer(settings, self.status, self.alive)
                break
            except InputError as error:
                self._say(f"reload: {error}")
                self._reload_trouble = str(error)
        self._serve()

    # -- streams ---------------------------------------------------------------------------------

    def _open_streams(self, file: SiteFile, names: Iterable[str], *, strict: bool) -> None:
        opened = {}
        for name in names:
            try:
                opened[name] = self._open_stream(file, name)
            except VadError as error:
                # It was there a moment ago, when it was checked.
                if strict:
                    raise
                self._say(f"{name}: not opened: {error}")
                self._reload_trouble = str(error)
        order = [*file.site.streams]
        both = {**self._streams, **opened}
        self._streams = {name: both[name] for name in order if name in both}
        for name, stream in opened.items():
            self._engines.engine(file.bundle_of(file.site.streams[name])).add(stream.live)

    def _open_stream(self, file: SiteFile, name: str) -> OpenStream:
        settings = file.site.streams[name]
        path = file.bundle_of(settings)
        opened = self._engines.opened(path)
        assert opened is not None
        assert self._media is not None
        hooks = Hooks(
            on_change=self._changed,
            on_ended=self._ended,
            wake=self._engines.engine(path).wake,
            say=self._say,
        )
        return open_stream(
            name,
            settings,
            opened.bundle,
            site=file.site.name,
            folder=file.folder,
            media=self._media,
            media_settings=file.site.media,
            hooks=hooks,
        )

    def _close_streams(self, names: Iterable[str]) -> None:
        gone = {name: self._streams[name] for name in names if name in self._streams}
        for stream in gone.values():
            stream.live.reader.stop()
        for name in gone:
            engine = self._engines.engine(self._file.bundle_of(self._file.site.streams[name]))
            if not engine.remove(name, by="stop", timeout_s=_STOP_S):
                self._say(f"{name}: its reader does not end, and is left behind")
            assert self._media is not None
            self._media.stream_closed(name)
        self._streams = {n: stream for n, stream in self._streams.items() if n not in gone}

    # -- what streams tell, in a scorer's thread ---------------------------------------------------

    def _changed(self, change: EventChange, scored: ScoredFrame | None) -> None:
        assert self._alerts is not None
        assert self._media is not None
        self._alerts.put(change)
        self._media.event(change, scored)

    def _ended(self, stream: LiveStream) -> None:
        error = stream.error
        if error is not None:
            self._say(f"{stream.name}: ended ({error})")
        elif not self._stopping:
            self._say(f"{stream.name}: ended")
        self._look_whether_finished()

    def _look_whether_finished(self) -> None:
        streams = self._streams.values()
        if self._stopping or self._changing:
            return
        if not all(stream.live.ended and stream.recording for stream in streams):
            return
        errors = [s.live.error for s in streams if s.live.error is not None]
        if errors:
            self.failure = SourceError(
                f"{len(errors)} of {len(streams)} recordings ended with an error; the first: "
                f"{errors[0]}"
            )
        self.finished.set()

    def _fatal(self, error: VadError) -> None:
        self.failure = error
        self.finished.set()

    # -- any thread ------------------------------------------------------------------------------

    def _open_events(self) -> list[EventRecord]:
        found = (stream.tracker.open_event for stream in self._streams.values())
        return [event for event in found if event is not None]

    def _statuses(self) -> list[StreamStatus]:
        return [stream.live.snapshot() for stream in self._streams.values()]

    def alive(self) -> bool:
        """Return whether our own threads run; a camera that is off does not matter."""
        now = time.monotonic()
        return all(
            scorer.alive and now - scorer.turned_s < _HANGS_S for scorer in self._engines.scorers
        )

    def status(self) -> SiteStatus:
        """Return how the site is."""
        parts = [] if self._alerts is None else self._alerts.parts()
        if self._media is not None:
            parts.append(part_status(self._media.health(), "media"))
        return site_status(
            site=self._file.site.name,
            started_s=self._started_s,
            streams=self._statuses(),
            engines=[engine.status() for engine in self._engines.all],
            parts=parts,
            more=[self._reload_trouble] if self._reload_trouble else [],
            reloads=self._reloads,
        )
