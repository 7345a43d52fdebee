"""A training run as a back end: evaluation and thresholds of a run use the device's own road."""

from pathlib import Path

import torch

from vad_runtime.backends.base import Inputs, Outputs
from vad_runtime.backends.checks import checked_clips, checked_outputs
from vad_runtime.contracts import BackendError, Manifest
from vad_runtime.machine import cpu_name
from vad_training.checkpoint import checkpoint_from_path
from vad_training.graphs import ScoreGraph, graph_from_checkpoint, takes_features


class TorchBackend:
    """PyTorch on the CPU, fp32, without an export: the reference that engines are compared with.

    Args:
        graph: What is computed; its module stays on the CPU.
        manifest: Describes it.
    """

    def __init__(self, graph: ScoreGraph, manifest: Manifest) -> None:
        self._graph: ScoreGraph | None = graph
        self._manifest = manifest
        self.device = (
            f"PyTorch {torch.__version__} on cpu ({cpu_name()}), fp32, "
            f"{torch.get_num_threads()} threads"
        )

    def infer(self, clips: Inputs) -> Outputs:
        """See `vad_runtime.backends.base.Backend.infer`; one forward pass per clip."""
        checked_clips(clips, self._manifest)
        return checked_outputs(clips, self._manifest, self._one)

    def _one(self, clip: Inputs) -> Outputs:
        if self._graph is None:
            raise BackendError("this back end was closed. Open the run again.")
        return self._graph.run(clip)

    def close(self) -> None:
        """Let go of the model. A second call does nothing."""
        self._graph = None


def open_run(path: Path, *, form: str | None = None) -> tuple[Manifest, TorchBackend]:
    """Open a run folder or a checkpoint for scoring with PyTorch.

    Args:
        path: A run folder of any family, a checkpoint, or published weights.
        form: What a score is made of; None = the family's default. See `FORMS_OF`.

    Returns:
        A manifest without artefacts, whose scores are raw, and the back end; the caller closes it.
        A MIL run whose backbone is not known, or which looks at optical flow, takes features.

    Raises:
        InputError: Not a run, or files that do not fit each other.
        ConfigError: A form that the family does not have.
    """
    checkpoint = checkpoint_from_path(path)
    graph = graph_from_checkpoint(
        checkpoint, form=form, head_only=takes_features(checkpoint.config)
    )
    manifest = graph.manifest(name=path.resolve().name)
    return manifest, TorchBackend(graph, manifest)
