"""What differs between two site files, so that a reload touches nothing else. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vad_runtime.contracts.errors import ConfigError
from vad_runtime.site_file import SiteFile


@dataclass(frozen=True, kw_only=True)
class SiteChange:
    """What a reload has to do."""

    removed: list[str]
    """Streams that end."""
    opened: list[str]
    """Streams that are opened: new ones, and those that end and come back changed."""
    sinks_removed: list[str]
    sinks_opened: list[str]
    """New and changed ones; a changed one is removed, too."""
    media: bool
    """What is kept changed."""
    retention: bool
    """How much is kept changed; no stream is touched by that."""
    health: bool
    """Where the status is served changed."""

    @property
    def nothing(self) -> bool:
        """Whether both files say the same."""
        return self == SiteChange(
            removed=[],
            opened=[],
            sinks_removed=[],
            sinks_opened=[],
            media=False,
            retention=False,
            health=False,
        )

    @property
    def line(self) -> str:
        """One line for people."""
        back = set(self.removed) & set(self.opened)
        again = set(self.sinks_removed) & set(self.sinks_opened)
        parts = [
            _names("new", [name for name in self.opened if name not in back]),
            _names("changed", [name for name in self.opened if name in back]),
            _names("removed", [name for name in self.removed if name not in back]),
            _names("new sinks", [name for name in self.sinks_opened if name not in again]),
            _names("changed sinks", [name for name in self.sinks_opened if name in again]),
            _names("removed sinks", [name for name in self.sinks_removed if name not in again]),
            "media changed" if self.media else "",
            "retention changed" if self.retention else "",
            "health changed" if self.health else "",
        ]
        return "; ".join(part for part in parts if part) or "nothing changed"


def change_between(
    old: SiteFile,
    new: SiteFile,
    *,
    bundles: Mapping[Path, tuple[str, str]],
    ended: frozenset[str] = frozenset(),
) -> SiteChange:
    """Compare what runs with what shall run.

    Args:
        old: What runs.
        new: What was read now.
        bundles: By path, what identifies the content of each bundle that runs, then and now: a
            threshold in a manifest may change without a word in the site file.
        ended: Streams that ended with an error; they are opened again.

    Raises:
        ConfigError: Something changed that needs a restart.
    """
    _require_same_place(old, new)
    everything = old.site.engine != new.site.engine or old.folder != new.folder
    media = old.site.media != new.site.media
    # The recorder holds a ring for each stream, as long as its settings say.
    everything = everything or media
    before, after = old.site.streams, new.site.streams
    same = [
        name
        for name in before.keys() & after.keys()
        if not everything
        and name not in ended
        and before[name] == after[name]
        and old.bundle_of(before[name]) == new.bundle_of(after[name])
        and _same_bundle(bundles, new.bundle_of(after[name]))
    ]
    sinks_before, sinks_after = old.site.sinks, new.site.sinks
    same_sinks = {
        name
        for name in sinks_before.keys() & sinks_after.keys()
        if sinks_before[name] == sinks_after[name] and old.folder == new.folder
    }
    return SiteChange(
        removed=[name for name in before if name not in same],
        opened=[name for name in after if name not in same],
        sinks_removed=[name for name in sinks_before if name not in same_sinks],
        sinks_opened=[name for name in sinks_after if name not in same_sinks],
        media=media,
        retention=old.site.retention != new.site.retention,
        health=old.site.health != new.site.health,
    )


def _same_bundle(bundles: Mapping[Path, tuple[str, str]], path: Path) -> bool:
    then, now = bundles.get(path, ("", ""))
    return then == now


def _require_same_place(old: SiteFile, new: SiteFile) -> None:
    for key, before, after in (
        ("name", old.site.name, new.site.name),
        ("data", str(old.data), str(new.data)),
    ):
        if before != after:
            raise ConfigError(
                f"{new.path}: {key} changed from {before} to {after}, which a running site cannot "
                "follow. Stop it and start it again."
            )


def _names(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{what}: {', '.join(names[:8])}{more}"
