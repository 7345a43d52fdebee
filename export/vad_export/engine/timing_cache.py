"""Timings of kernels that TensorRT keeps from build to build.

With one, a second build is faster and takes the same kernels. A cache belongs to one version of
TensorRT and one kind of GPU.
"""

import re
from pathlib import Path

from vad_export.engine.settings import EngineSettings, Target
from vad_runtime.contracts import InputError
from vad_runtime.files import cache_folder, whole_file


def timing_cache_file(settings: EngineSettings, target: Target) -> Path | None:
    """Return the file of the cache for a build; None = this library has none."""
    if not target.lib.can.timing_cache:
        return None
    if settings.timing_cache is not None:
        return settings.timing_cache
    gpu = re.sub(r"[^A-Za-z0-9]+", "-", target.gpu.name).strip("-") if target.gpu else "none"
    sm = target.gpu.sm if target.gpu else 0
    name = f"timing.{target.lib.version}.sm{sm}.{gpu}.cache"
    return cache_folder("tensorrt") / name


def read_timing_cache(file: Path | None, *, named: bool) -> bytes | None:
    """Return what a cache holds; None = nothing yet, or there is no cache.

    Args:
        file: The file; it need not exist.
        named: The user named it, so one that is there and cannot be read is an error.

    Raises:
        InputError: It cannot be read.
    """
    if file is None or not file.is_file():
        if file is not None and named and file.exists():
            raise InputError(f"{file} is no file. Name another with --timing-cache.")
        return None
    try:
        return file.read_bytes() or None
    except OSError as error:
        if not named:
            return None
        raise InputError(
            f"{file} cannot be read ({error.strerror}). Name another with --timing-cache."
        ) from None


def write_timing_cache(file: Path, before: bytes | None, content: bytes | None) -> str | None:
    """Keep what a build has measured; return why not, for people, where that failed.

    A build that succeeded is not thrown away because of it.

    Args:
        file: The file; its folder is made.
        before: What it held when the build began.
        content: What the builder has now; None = nothing.
    """
    if content is None or content == before:
        return None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as temporary:
            temporary.write_bytes(content)
    except (OSError, InputError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return f"the timing cache was not kept: {file} ({reason})"
    return None
