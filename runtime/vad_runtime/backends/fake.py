"""A back end without an engine, for tests and for trying a pipeline: it measures motion."""

from pathlib import Path

import numpy as np

from vad_runtime.backends.base import Inputs, Options, Outputs
from vad_runtime.backends.checks import checked_clips, checked_outputs
from vad_runtime.contracts.manifest import Manifest


class FakeBackend:
    """Scores a frame by its mean absolute difference to the frame before it in the clip.

    The first frame of a clip is compared with the second. A segment of features scores the mean of
    their absolute values. No artefact is read, so every precision gives the same scores. `auto`
    never takes this back end.
    """

    device = "fake (mean absolute frame difference; no model) on cpu"

    def __init__(self, file: Path, manifest: Manifest, options: Options) -> None:
        del file, options
        self._manifest = manifest

    def infer(self, clips: Inputs) -> Outputs:
        """See `Backend.infer`."""
        checked_clips(clips, self._manifest)
        return checked_outputs(clips, self._manifest, self._one)

    def _one(self, clip: Inputs) -> Outputs:
        spec = self._manifest.score
        if spec.per == "segment":
            return {"score": np.abs(clip).mean(axis=2, dtype=np.float32)}
        frames = clip[0].astype(np.int16)
        motion = np.zeros(len(frames), np.float32)
        if len(frames) > 1:
            motion[1:] = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
            motion[0] = motion[1]
        if spec.per == "clip":
            return {"score": motion.mean(keepdims=True)}
        return {"score": motion[None, spec.first : spec.first + spec.count]}

    def close(self) -> None:
        """See `Backend.close`."""
