"""Bundles: the folder `NAME.vad/` with `manifest.json` and the artefacts it names.

Everything after training speaks only bundles. Writing is atomic: a bundle is either there whole or
not at all, and what stood there before is replaced only by something complete.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from vad_runtime.contracts.errors import BundleError, InputError
from vad_runtime.contracts.manifest import (
    Artefact,
    Manifest,
    json_from_manifest,
    manifest_from_json,
)
from vad_runtime.files import flush_to_disk, locked, put_in_place

MANIFEST = "manifest.json"


class Bundle:
    """An opened bundle: its manifest was read strictly and its hashes were verified.

    Attributes:
        path: The bundle's folder.
        manifest: Its manifest.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> "Bundle":
        """Open the bundle folder `path`.

        Args:
            path: A folder made by `vad-export`.
            verify: Compare each artefact with its size and sha256 (about 1 ms per MB).

        Raises:
            BundleError: Not a bundle, an unknown key, a newer schema, a file that is missing,
                changed, or outside the folder.
        """
        folder = Path(path)
        if not os.path.isdir(folder):  # noqa: PTH112 - unlike Path's, it never raises
            there = os.path.lexists(folder)
            reason = "is a file, not a bundle folder" if there else "does not exist"
            raise BundleError(f"{folder} {reason}. Make one with: vad-export deploy or onnx")
        try:
            text = (folder / MANIFEST).read_bytes()
        except FileNotFoundError:
            raise BundleError(
                f"{folder} holds no {MANIFEST}, so it is not a bundle. "
                "Give the folder that vad-export wrote."
            ) from None
        except OSError as error:
            raise BundleError(
                f"{folder / MANIFEST} cannot be read ({error.strerror}). Check its permissions."
            ) from None
        bundle = cls(folder, manifest_from_json(text, str(folder / MANIFEST)))
        for artefact in bundle.manifest.artefacts.values():
            file = bundle.file(artefact)
            if verify:
                _verify(file, artefact)
        return bundle

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    def file(self, artefact: Artefact) -> Path:
        """Return the path of an artefact, which lies inside the folder.

        Raises:
            BundleError: The manifest names a path that leaves the folder.
        """
        return self.path / _safe_name(artefact.file, self.path)


def _safe_name(name: str, folder: Path) -> str:
    plain = Path(name).name == name and name not in ("", ".", "..")
    # No backslash (a folder on Windows), no NUL, nothing longer than file systems take.
    plain = plain and not set(name) & {"\\", "\0"} and len(os.fsencode(name)) <= 255
    if not plain or (folder / name).is_symlink():
        raise BundleError(
            f"{folder / MANIFEST}: artefact path {name!r} leaves the bundle folder. "
            "Do not use this bundle; export it again."
        )
    return name


def sha256_of_file(path: Path) -> str:
    """Return the file's sha256 as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_graph(file: Path, manifest: Manifest) -> str:
    """Return the sha256 of a graph: the manifest's, which was verified, or else the file's own."""
    for artefact in manifest.artefacts.values():
        if artefact.file == file.name and artefact.sha256:
            return artefact.sha256
    return sha256_of_file(file)


def _verify(file: Path, artefact: Artefact) -> None:
    try:
        size = file.stat().st_size
    except OSError:
        raise BundleError(f"{file} is missing from the bundle. Export it again.") from None
    if size != artefact.bytes:
        raise BundleError(
            f"{file} has {size} bytes, the manifest says {artefact.bytes}. Export it again."
        )
    try:
        same = sha256_of_file(file) == artefact.sha256
    except OSError as error:
        raise BundleError(f"{file} cannot be read ({error.strerror}). Check its rights.") from None
    if not same:
        raise BundleError(
            f"{file} was changed or damaged: its sha256 differs from the manifest's. "
            "Copy or export it again."
        )


def write_bundle(
    path: str | Path, manifest: Manifest, files: Mapping[str, Path], *, overwrite: bool = False
) -> Bundle:
    """Write a bundle atomically and return it, opened and verified.

    Args:
        path: The folder to make; its name ends with `.vad`.
        manifest: Complete but for the size and sha256 of each artefact, which are filled in here.
        files: For each artefact's short name, the file to copy in.
        overwrite: Replace a bundle that stands there; it stays whole until the new one is.

    Raises:
        InputError: The path has another ending, exists already, or cannot be written.
    """
    target = Path(path)
    require_free_bundle_path(target, overwrite=overwrite)
    for short in manifest.artefacts:
        if not files[short].is_file():
            raise InputError(f"{files[short]} is not a file, so it cannot go into {target}.")
    artefacts = {}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    except OSError as error:
        raise InputError(
            f"{target.parent} cannot be written ({error.strerror}). Choose another folder."
        ) from None
    try:
        work.chmod(0o755)
        for short, artefact in manifest.artefacts.items():
            copy = work / _safe_name(artefact.file, work)
            shutil.copyfile(files[short], copy)
            artefacts[short] = msgspec.structs.replace(
                artefact, bytes=copy.stat().st_size, sha256=sha256_of_file(copy)
            )
        whole = msgspec.structs.replace(manifest, artefacts=artefacts)
        (work / MANIFEST).write_bytes(json_from_manifest(whole))
        for file in work.iterdir():
            flush_to_disk(file)
        Bundle.open(work)
        put_in_place(work, target)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}).") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Bundle(target, whole)


def require_free_bundle_path(target: Path, *, overwrite: bool = False) -> None:
    """Refuse a path where no bundle may be written, before any long work is done.

    Raises:
        InputError: The name does not end with `.vad`, or something stands there.
    """
    if target.suffix != ".vad":
        raise InputError(f"{target} must end with .vad, for example {target.name}.vad")
    if os.path.lexists(target):
        if not overwrite:
            raise InputError(f"{target} exists already. Name another or add --overwrite.")
        if not (target / MANIFEST).is_file():
            raise InputError(f"{target} is not a bundle, so it is left alone. Name another.")


def rewrite_manifest(bundle: Bundle, manifest: Manifest) -> Bundle:
    """Replace the manifest of a bundle on disk and leave its artefacts untouched.

    Raises:
        BundleError: The folder cannot be written.
    """
    text = json_from_manifest(manifest)
    manifest_from_json(text, str(bundle.path / MANIFEST))
    temporary = bundle.path / f".{MANIFEST}.{os.getpid()}"
    try:
        temporary.write_bytes(text)
        flush_to_disk(temporary)
        temporary.replace(bundle.path / MANIFEST)
    except OSError as error:
        raise BundleError(
            f"{bundle.path} cannot be written ({error.strerror}). Check its permissions."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    return Bundle(bundle.path, manifest)


def add_artefacts(
    bundle: Bundle, artefacts: Mapping[str, tuple[Artefact, Path]], **manifest_changes: Any
) -> Bundle:
    """Add artefacts to a bundle on disk, or replace them, atomically.

    The new files are written under names that the present manifest does not use, then the manifest
    is replaced, then the files that it no longer names are removed: a crash at any point leaves a
    bundle that opens, with either all of the change or nothing of it. A file that a killed process
    has left behind is overwritten or removed by the next call that adds the same artefact.

    What others changed on disk since `bundle` was opened (a threshold, say) is kept. A plan is
    dropped when the graph that it runs is replaced, since its times and scores were another's.

    Args:
        bundle: An opened bundle.
        artefacts: By short name, the entry and the file to copy in. The entry's `file` is the name
            wished for (`model.int8.onnx`; taken, it becomes `model.int8.<8 digits of the
            sha256>.onnx`); its size and sha256 are filled in here.
        **manifest_changes: Other keys of the manifest to replace at the same moment, for example
            `calibration`, `parity` or `plan`.

    Returns:
        The bundle as it stands on disk now.

    Raises:
        InputError: A file that is to be copied in is not there.
        BundleError: The bundle cannot be written, the new manifest would contradict itself (two
            artefacts of one precision), or an artefact that a new one was made from was replaced
            since `bundle` was opened.
    """
    for _, source in artefacts.values():
        if not source.is_file():
            raise InputError(f"{source} is not a file, so it cannot go into {bundle.path}.")
    with locked(bundle.path):
        now = Bundle.open(bundle.path, verify=False).manifest
        _require_same_origin(bundle, now, artefacts)
        entries = dict(now.artefacts)
        for short, (artefact, source) in artefacts.items():
            name = _unused_name(bundle.path, artefact.file, source, entries, now)
            if (bundle.path / name).exists() and source.samefile(bundle.path / name):
                raise BundleError(f"{source} lies in the bundle already. Write it elsewhere first.")
            entries[short] = msgspec.structs.replace(
                artefact, file=name, bytes=source.stat().st_size, sha256=sha256_of_file(source)
            )
        manifest = _changed(bundle, now, entries, manifest_changes)
        doubtful = {entry.file for entry in (*now.artefacts.values(), *entries.values())}
        for artefact, source in artefacts.values():
            # A source that lies in the folder is the caller's, not one of ours that is left over.
            doubtful |= _former_names(bundle.path, artefact.file) - {source.name}
        try:
            for short, (_, source) in artefacts.items():
                copy = bundle.path / entries[short].file
                shutil.copyfile(source, copy)
                flush_to_disk(copy)
                _verify(copy, entries[short])
            return rewrite_manifest(bundle, manifest)
        except OSError as error:
            raise BundleError(
                f"{bundle.path} cannot be written ({error.strerror}). Check its permissions."
            ) from None
        finally:
            _remove_unnamed(bundle.path, doubtful)


def remove_artefacts(bundle: Bundle, names: Collection[str]) -> Bundle:
    """Remove artefacts from a bundle on disk: first from the manifest, then their files.

    A plan that runs one of them goes with it.

    Args:
        bundle: An opened bundle.
        names: Short names.

    Returns:
        The bundle as it stands on disk now.

    Raises:
        BundleError: A name is not there, is the fp32 graph, is the last artefact or one that
            another was made from; or the bundle cannot be written. Nothing was removed then.
    """
    with locked(bundle.path):
        now = Bundle.open(bundle.path, verify=False).manifest
        for name in names:
            if name not in now.artefacts:
                have = ", ".join(now.artefacts)
                raise BundleError(f"{bundle.path} has no artefact {name}. Name some of: {have}")
            if now.artefacts[name].precision == "fp32":
                raise BundleError(
                    f"{name} is the fp32 graph of {bundle.path}, which every bundle keeps. "
                    "Name others only."
                )
        left = {short: entry for short, entry in now.artefacts.items() if short not in names}
        if not left:
            raise BundleError(f"{bundle.path} would have no artefact left. Keep one of them.")
        for short, entry in left.items():
            if entry.made_from in names:
                raise BundleError(
                    f"{short} of {bundle.path} was made from {entry.made_from}. Remove {short} too."
                )
        try:
            return rewrite_manifest(bundle, _changed(bundle, now, left, {}))
        finally:
            _remove_unnamed(bundle.path, {now.artefacts[name].file for name in names})


def _require_same_origin(
    bundle: Bundle, now: Manifest, artefacts: Mapping[str, tuple[Artefact, Path]]
) -> None:
    for short, (artefact, _) in artefacts.items():
        origin = artefact.made_from
        before = bundle.manifest.artefacts.get(origin or "")
        if origin is None or origin in artefacts or before is None:
            continue
        if origin not in now.artefacts or now.artefacts[origin].sha256 != before.sha256:
            raise BundleError(
                f"{origin} of {bundle.path} was replaced while {short} was made from it. "
                "Run the command again."
            )


def _unused_name(
    folder: Path, wish: str, source: Path, entries: Mapping[str, Artefact], now: Manifest
) -> str:
    """Return a file name that neither the present manifest nor a new entry uses."""
    used = {entry.file for entry in (*now.artefacts.values(), *entries.values())}
    plain = Path(_safe_name(wish, folder))
    digest = sha256_of_file(source)[:8]
    name, number = wish, 1
    while name in used:
        again = "" if number == 1 else f"-{number}"
        name, number = f"{plain.stem}.{digest}{again}{plain.suffix}", number + 1
    return _safe_name(name, folder)


def _former_names(folder: Path, wish: str) -> set[str]:
    """Return the names in the folder that `_unused_name` has once given for the same wish."""
    plain = Path(wish)
    pattern = re.escape(plain.stem) + r"(\.[0-9a-f]{8}(-\d+)?)?" + re.escape(plain.suffix)
    return {file.name for file in folder.iterdir() if re.fullmatch(pattern, file.name)}


def _changed(
    bundle: Bundle, now: Manifest, entries: dict[str, Artefact], changes: Mapping[str, Any]
) -> Manifest:
    """Return the manifest with other artefacts; a plan of a graph that is no longer there goes."""
    try:
        manifest = msgspec.structs.replace(now, **{**changes, "artefacts": entries})
    except ValueError as error:
        raise BundleError(f"{bundle.path}: {error}. Nothing was changed.") from None
    if now.plan is not None and "plan" not in changes:
        before = now.artefact_of(now.plan.precision)
        after = manifest.artefact_of(now.plan.precision)
        if before is None or after is None or before[1].sha256 != after[1].sha256:
            manifest = msgspec.structs.replace(manifest, plan=None)
    return manifest


def _remove_unnamed(folder: Path, names: Collection[str]) -> None:
    """Remove files that the manifest on disk, whichever that is by now, does not name."""
    try:
        named = {a.file for a in Bundle.open(folder, verify=False).manifest.artefacts.values()}
    except BundleError:
        return  # the reason is on its way already
    for name in set(names) - named:
        with contextlib.suppress(OSError):
            (folder / name).unlink(missing_ok=True)
