"""What every back end checks the same way."""

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vad_runtime.backends.base import Inputs, Outputs
from vad_runtime.contracts.errors import BackendError
from vad_runtime.contracts.manifest import Manifest


def first_line(error: BaseException) -> str:
    """Return the first line of an engine's message, or the error's name if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def usable_threads() -> int:
    """Return how many processors this process may run on (not how many the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def checked_graph(
    file: Path,
    manifest: Manifest,
    *,
    dtype: str,
    shape: Sequence[int | None],
    outputs: Collection[str],
) -> None:
    """Refuse a graph that is not the one the manifest describes, before it is run.

    Args:
        file: The graph, for the message.
        manifest: What the bundle says.
        dtype: Element type of the graph's input, as numpy calls it.
        shape: Its shape; None = a dimension that may have any size.
        outputs: Names of the graph's outputs.

    Raises:
        BackendError: Another input, or no output `score`.
    """
    want, kind = manifest.input_shape, input_dtype(manifest).name
    fits = len(shape) == len(want) + 1 and all(
        have in (None, need) for have, need in zip(shape, (1, *want), strict=True)
    )
    if dtype != kind or not fits:
        what = "a clip" if manifest.features is None else "features"
        raise BackendError(
            f"{file.name} takes {what} of {dtype} ({', '.join(str(d or 'N') for d in shape)}), the "
            f"manifest says {kind} (N, {', '.join(map(str, want))}). Export the bundle again."
        )
    if "score" not in outputs:
        raise BackendError(
            f"{file.name} has no output called score, but {', '.join(outputs)}. "
            "Export the bundle again."
        )


def input_dtype(manifest: Manifest) -> np.dtype[Any]:
    """Return the element type of the graph's input: uint8 for clips, float32 for features."""
    return np.dtype(np.uint8 if manifest.features is None else np.float32)


def checked_clips(clips: Inputs, manifest: Manifest) -> None:
    """Refuse an array that is no batch of clips, or of features where the graph takes these.

    Raises:
        BackendError: Another dtype, shape or layout; this is a mistake in the calling program.
    """
    want, kind = manifest.input_shape, input_dtype(manifest)
    fits = clips.dtype == kind and clips.shape[1:] == want and len(clips) > 0
    if not fits or not clips.flags.c_contiguous:
        raise BackendError(
            f"{'clips' if manifest.features is None else 'features'} must be C-contiguous {kind} "
            f"of shape (N, {', '.join(map(str, want))}), got {clips.dtype} {clips.shape}."
        )


def checked_outputs(clips: Inputs, manifest: Manifest, one: Callable[[Inputs], Outputs]) -> Outputs:
    """Run `one` on each clip, join the answers and refuse a score of another shape.

    Raises:
        BackendError: The score's shape is not what the manifest says.
    """
    parts = [one(clips[i : i + 1]) for i in range(len(clips))]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    checked_score(joined["score"], len(clips), manifest)
    return joined


def checked_score(score: npt.NDArray[np.float32], count: int, manifest: Manifest) -> None:
    """Refuse a score of another shape than the manifest's, or one that is not finite.

    Args:
        score: What the graph gave for `count` clips, or videos where it takes features.
        count: How many there were.
        manifest: What the bundle says.

    Raises:
        BackendError: Another shape, or a NaN or infinity in it.
    """
    spec = manifest.score
    want = (count,) if spec.per == "clip" else (count, spec.count)
    if score.shape != want:
        raise BackendError(
            f"the graph gave a score of shape {score.shape}, the manifest says {want}. "
            "Export the bundle again."
        )
    if not np.isfinite(score).all():
        # A NaN never reaches a threshold: going on would be a detector that sleeps.
        raise BackendError("the graph gave a score that is not finite. Try --precision fp32.")
