"""Does the exported graph decide like its checkpoint? Measured on clips, on every engine here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vad_export.graphs import ScoreForm, StaeScore
from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Clips, Options, PrecisionChoice
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import BackendError, ParityError
from vad_runtime.progress import progress
from vad_training.models.stae import STAE

FP32_BUDGET = 1e-4
"""Largest difference of an fp32 graph from PyTorch, as a share of the scores' scale."""

BF16_BUDGET = 0.02
"""Largest relative difference of a score computed in bfloat16 for `auto` to take it."""

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class _Run:
    backend: str
    precision: PrecisionChoice


_RUNS = (
    _Run(backend="onnxruntime", precision="fp32"),
    _Run(backend="openvino", precision="fp32"),
    _Run(backend="openvino", precision="bf16"),
)


def checkpoint_scores(model: STAE, frames: int, form: ScoreForm, clips: Clips) -> Scores:
    """Return PyTorch's scores of clips, float32, one clip at a time.

    Args:
        model: On the CPU, in eval mode.
        frames: The model's own T.
        form: What a score is made of.
        clips: Shape (N, T, H, W, C), uint8.
    """
    graph = StaeScore(model, frames, form, []).eval()
    with torch.inference_mode():
        parts = [graph(torch.from_numpy(clips[i : i + 1]))[0] for i in range(len(clips))]
    return np.asarray(torch.cat(parts).numpy(), np.float32)


def parity_report(
    bundle: Bundle,
    reference: Scores,
    clips: Clips,
    origins: Sequence[tuple[str, int]],
    *,
    real_clips: bool = True,
) -> dict[str, Any]:
    """Compare every engine that is installed with the checkpoint's scores.

    Args:
        bundle: The exported bundle.
        reference: Shape (N, …), float32: the checkpoint's scores.
        clips: Shape (N, T, H, W, C), uint8.
        origins: File and first frame of each clip.
        real_clips: Whether they are footage; noise proves nothing about bfloat16.

    Returns:
        For the manifest: the clips, the scale, and for each engine and precision the largest
        difference, absolute, relative and as a share of the scale.

    Raises:
        ParityError: An fp32 engine leaves the budget, or no engine is installed.
    """
    scale = float(np.abs(reference).max())
    engines: dict[str, Any] = {}
    with progress("checking parity, clips", len(clips) * len(_RUNS)) as bar:
        for run in _RUNS:
            name = f"{run.backend} {run.precision}"
            try:
                choice = open_backend(bundle, run.backend, Options(precision=run.precision))
            except BackendError as error:
                engines[name] = {"not_run": str(error)}
                bar.advance(len(clips))
                continue
            scores = []
            for i in range(len(clips)):
                scores.append(choice.backend.infer(clips[i : i + 1])["score"])
                bar.advance()
            choice.backend.close()
            engines[name] = _difference(np.concatenate(scores), reference, scale)
            engines[name]["device"] = choice.backend.device
    _refuse_bad(engines)
    return {
        "clips": len(clips),
        "clip_origins": [f"{name}:{first}" for name, first in origins],
        "score_scale": scale,
        "budget_of_scale": FP32_BUDGET,
        "engines": engines,
        "real_clips": real_clips,
        "bf16_allowed": real_clips and _allows_bf16(engines),
    }


def _difference(scores: Scores, reference: Scores, scale: float) -> dict[str, Any]:
    gap = np.abs(scores.astype(np.float64) - reference)
    return {
        "max_abs": float(gap.max()),
        "max_of_scale": float(gap.max() / scale) if scale else float(gap.max()),
        "max_relative": float((gap / np.maximum(np.abs(reference), 1e-12)).max()),
    }


def _refuse_bad(engines: dict[str, Any]) -> None:
    ran = {name: value for name, value in engines.items() if "max_abs" in value}
    if not ran:
        reasons = "; ".join(str(value["not_run"]).rstrip(".") for value in engines.values())
        raise ParityError(f"no engine could check the graph: {reasons}.")
    for name, value in ran.items():
        # Written so that a NaN is refused too.
        if "fp32" in name and not value["max_of_scale"] <= FP32_BUDGET:
            raise ParityError(
                f"{name} differs from PyTorch by {value['max_of_scale']:.1e} of the scores' scale, "
                f"the budget is {FP32_BUDGET:.0e}. Try another engine version."
            )


def _allows_bf16(engines: dict[str, Any]) -> bool:
    measured = engines.get("openvino bf16", {}).get("max_relative")
    return measured is not None and measured <= BF16_BUDGET
