"""Writes a plan and its sidecar: both whole, or neither."""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from vad_runtime.contracts import ExportError, InputError
from vad_runtime.contracts.engine import EngineSidecar, json_from_sidecar
from vad_runtime.engines.plan_file import sidecar_path
from vad_runtime.files import locked, made_folder, whole_file

_BLOCK = 16 << 20
_PART = re.compile(r"\..+\.engine(?:\.json)?\.(\d+)\.part")


def require_free_plan(plan: Path, *, overwrite: bool) -> None:
    """Refuse a name that is taken.

    Raises:
        ExportError: It is, and `overwrite` was not asked for.
    """
    if os.path.lexists(plan) and not overwrite:
        raise ExportError(
            f"{plan} exists already. Add --overwrite to build it again, or name another folder "
            "with -o."
        )


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary files of builds that were killed, and return them.

    A file whose process still runs is left alone.
    """
    gone = []
    for file in folder.glob(".*.part"):
        found = _PART.fullmatch(file.name)
        if found is None or _runs(int(found[1])):
            continue
        with contextlib.suppress(OSError):
            file.unlink()
            gone.append(file)
    return gone


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs under another user
        return True
    return True


def write_plan(
    plan: Path, content: memoryview, sidecar_of: Callable[[str], EngineSidecar], *, overwrite: bool
) -> EngineSidecar:
    """Write a plan and its sidecar, the sidecar's name first.

    A crash between the two leaves a sidecar without a plan, which nobody loads. Where a plan is
    replaced, one that is loaded at that very moment is refused, since it is not the sidecar's.

    Args:
        plan: Its final name.
        content: The builder's memory, which is not copied.
        sidecar_of: Makes the sidecar from the plan's sha256.
        overwrite: Replace what has the name.

    Returns:
        The sidecar.

    Raises:
        InputError: The disk is full, or the folder cannot be written. Nothing is left then.
        ExportError: Somebody else took the name meanwhile.
    """
    with (
        locked(made_folder(plan.parent)),  # it may have gone during a long build
        whole_file(plan) as temporary,  # left last: the plan is renamed after its sidecar
        whole_file(sidecar_path(plan)) as beside,
    ):
        require_free_plan(plan, overwrite=overwrite)
        try:
            sidecar = sidecar_of(_write(temporary, content))
            beside.write_bytes(json_from_sidecar(sidecar))
        except OSError as error:
            raise InputError(
                f"{plan} cannot be written ({error.strerror}); it takes "
                f"{content.nbytes / 1e6:.1f} MB. Free some space, or choose another folder with -o."
            ) from None
    return sidecar


def _write(file: Path, content: memoryview) -> str:
    digest = hashlib.sha256()
    flat = content.cast("B")
    with file.open("wb") as stream:
        for start in range(0, len(flat), _BLOCK):
            block = flat[start : start + _BLOCK]
            digest.update(block)
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())  # what a full disk refuses must fail before a name is given
    return digest.hexdigest()
