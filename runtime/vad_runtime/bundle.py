"""Bundles: the folder `NAME.vad/` with `manifest.json` and the artefacts it names.

Everything after training speaks only bundles. Writing is atomic: a bundle is either there whole or
not at all, and what stood there before is replaced only by something complete.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from vad_runtime.contracts.errors import BundleError, InputError
from vad_runtime.contracts.manifest import (
    Artefact,
    Manifest,
    json_from_manifest,
    manifest_from_json,
)
from vad_runtime.files import flush_to_disk, put_in_place

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
