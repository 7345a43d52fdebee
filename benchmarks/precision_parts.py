"""Pieces of precision_study.py: the models' graphs, TensorRT-RTX, differences of outputs."""

import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from vad_export.engine.build import engine_from_onnx
from vad_export.engine.graph_facts import graph_facts
from vad_export.engine.settings import EngineSettings, target_for
from vad_runtime.backends.base import Outputs
from vad_runtime.contracts import VadError

MIL = ("c3d", "i3d")


def graph_of(model: str, checkpoint: str | None) -> Any:
    """Return a model as a `ScoreGraph`; without a checkpoint its weights are random, seeded."""
    import torch

    from vad_training.checkpoint import checkpoint_from_path
    from vad_training.config import ClipChoice
    from vad_training.config.backbone_ae import AutoencoderConfig
    from vad_training.config.mil import HeadConfig
    from vad_training.graphs import graph_from_checkpoint
    from vad_training.graphs.backbone_ae import backbone_ae_graph
    from vad_training.graphs.mil import mil_clip_graph
    from vad_training.graphs.stae import ScoreForm, stae_graph
    from vad_training.models.autoencoder import EmbeddingAutoencoder
    from vad_training.models.backbone_ae import BackboneAutoencoder
    from vad_training.models.backbones.base import clip_of
    from vad_training.models.backbones.registry import new_embedder, spec_of
    from vad_training.models.mil import mil_head
    from vad_training.models.stae import STAE

    if checkpoint is not None:
        outputs = () if model == "stae" else ("embedding",)
        form = "reconstruction" if model == "stae" else None
        return graph_from_checkpoint(
            checkpoint_from_path(Path(checkpoint)), form=form, outputs=outputs
        )
    torch.manual_seed(1)
    if model == "stae":
        from vad_runtime.contracts import ClipSpec

        clip = ClipSpec(frames=16, height=128, width=128, colour="gray", hop=1)
        return stae_graph(STAE().eval(), clip, ScoreForm(form="reconstruction"))
    embedder = new_embedder(spec_of(model), seed=0)
    size = embedder.spec.embedding
    clip = clip_of(embedder.spec, ClipChoice(stride=1, hop=8))
    if model in MIL:
        head = mil_head(HeadConfig(), size).eval()
        return mil_clip_graph(embedder, head, clip, normalise=True, outputs=["embedding"])
    network = EmbeddingAutoencoder(size, AutoencoderConfig(hidden=(64, 16)))
    whole = BackboneAutoencoder(
        embedder, network, ["a", "b", "c"], torch.randn(3, size), torch.rand(3, 16)
    )
    return backbone_ae_graph(whole.eval(), clip, form="error", outputs=["embedding"])


def built(file: Path) -> dict[str, float]:
    """Build a TensorRT-RTX plan of the score for batch 1; return its size and how long it took.

    Raises:
        RuntimeError: The bindings are missing, or refuse the graph; one line.
    """
    settings = EngineSettings(flavour="rtx")
    began = time.perf_counter()
    try:
        made = engine_from_onnx(graph_facts(file), target_for(settings), settings, print)
    except VadError as error:
        raise RuntimeError(str(error)) from error
    return {"bytes": made.content.nbytes, "seconds": time.perf_counter() - began}


def compared(found: Outputs, want: Outputs) -> dict[str, Any]:
    """Return the largest difference of a score / the largest score, and the embeddings' cosine.

    The cosine is that of the clip where it is least; None for a model without embeddings.
    """
    a, b = (np.asarray(x["score"], np.float64) for x in (found, want))
    out: dict[str, Any] = {"difference": float(np.abs(a - b).max() / np.abs(b).max())}
    out["finite"] = bool(np.isfinite(a).all())
    out["cosine"] = None
    if "embedding" in want:
        x, y = (np.asarray(o["embedding"], np.float64) for o in (found, want))
        x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
        norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
        out["cosine"] = float(((x * y).sum(axis=1) / norms).min())
    return out


def int8_layers(device: str) -> str | None:
    """Return `10 of 12` from what OpenVINO's back end says of the layers that compute in int8."""
    found = re.search(r"(\d+ of \d+) layers", device)
    return found[1] if found else None
