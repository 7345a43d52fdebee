"""Bundles and engines of a site: each bundle is opened once, however many streams it scores."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from vad_runtime.backends import Choice, open_backend, runs_on_gpu
from vad_runtime.backends.base import Options
from vad_runtime.bundle import MANIFEST, Bundle
from vad_runtime.contracts.errors import InputError, VadError
from vad_runtime.live.engine import Engine
from vad_runtime.live.scheduler import Scorer
from vad_runtime.site_file import SiteFile


@dataclass(frozen=True, kw_only=True)
class OpenBundle:
    """A bundle and the back end that runs it."""

    bundle: Bundle
    fingerprint: str
    """Changes with the manifest, which names the hash of every graph."""
    choice: Choice


def fingerprint(path: Path) -> str:
    """Return what identifies a bundle's content; empty where there is none to read."""
    try:
        return hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
    except OSError:
        return ""


def options_of(file: SiteFile) -> Options:
    """Return how the back ends of a site shall run."""
    engine = file.site.engine
    return Options(
        precision=engine.precision,
        threads=engine.threads,
        device=engine.device,
        engine=None if engine.engine is None else file.resolve(engine.engine),
    )


def open_bundle(path: Path) -> Bundle:
    """Open a bundle that scores frames.

    Raises:
        BundleError: It is none.
        InputError: It takes the features of whole videos.
    """
    bundle = Bundle.open(path)
    if bundle.manifest.features is not None:
        raise InputError(
            f"{bundle.name} scores precomputed features of whole videos, not frames. "
            "Name another bundle."
        )
    return bundle


def open_engine_of(file: SiteFile, path: Path) -> OpenBundle:
    """Open a bundle and its back end.

    Raises:
        VadError: One of them does not open.
    """
    before = fingerprint(path)
    bundle = open_bundle(path)
    choice = open_backend(bundle, file.site.engine.backend, options_of(file))
    return OpenBundle(bundle=bundle, fingerprint=before, choice=choice)


class Engines:
    """The engines of a running site, by the path of their bundle.

    Called from the main thread; `scorers` and `all` may be read from any.

    Args:
        on_fatal: Takes what ends the site; called in a scorer's thread.
        say: Takes a line for the log.
    """

    def __init__(self, on_fatal: Callable[[VadError], None], say: Callable[[str], None]) -> None:
        self._on_fatal, self._say = on_fatal, say
        self._cpu: Scorer | None = None
        self._own: dict[Path, Scorer] = {}
        self._engines: dict[Path, Engine] = {}
        self._opened: dict[Path, OpenBundle] = {}

    @property
    def all(self) -> list[Engine]:
        """All engines."""
        return [*self._engines.values()]

    @property
    def scorers(self) -> list[Scorer]:
        """The threads that score."""
        shared = [] if self._cpu is None else [self._cpu]
        return [*shared, *self._own.values()]

    def opened(self, path: Path) -> OpenBundle | None:
        """Return what runs from a path."""
        return self._opened.get(path)

    def engine(self, path: Path) -> Engine:
        """Return the engine of a bundle that runs."""
        return self._engines[path]

    def add(self, file: SiteFile, path: Path, opened: OpenBundle) -> None:
        """Take an opened bundle; the engine closes its back end."""
        choice = opened.choice
        gpu = runs_on_gpu(choice.name)
        if gpu:
            scorer = self._own[path] = Scorer(on_fatal=self._on_fatal, say=self._say)
        else:
            if self._cpu is None:
                self._cpu = Scorer(on_fatal=self._on_fatal, say=self._say)
            scorer = self._cpu
        name, options = file.site.engine.backend, options_of(file)
        # Two folders may hold bundles of one name; metrics must tell them apart.
        taken = {engine.name for engine in self._engines.values()}
        self._engines[path] = Engine(
            str(path) if opened.bundle.name in taken else opened.bundle.name,
            choice.backend,
            gpu=gpu,
            largest_batch=file.site.engine.batch,
            scorer=scorer,
            reopen=lambda: open_backend(opened.bundle, name, options).backend,
            say=self._say,
        )
        self._opened[path] = opened

    def close(self, paths: Iterable[Path] | None = None, timeout_s: float = 10.0) -> None:
        """Close the engines of these paths, or all; says what hangs."""
        for path in [*(self._engines if paths is None else paths)]:
            engine = self._engines.pop(path)
            self._opened.pop(path)
            if not engine.close(timeout_s):
                self._say(f"engine {engine.name}: does not end, and is left behind")
            scorer = self._own.pop(path, None)
            if scorer is not None:
                scorer.close()
        if not self._engines and self._cpu is not None and paths is None:
            self._cpu.close()
            self._cpu = None
