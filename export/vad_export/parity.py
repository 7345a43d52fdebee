"""Does the exported graph decide like its checkpoint? Measured on clips, on every engine here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Inputs, Options, Outputs, PrecisionChoice
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import BackendError, ParityError
from vad_runtime.progress import progress

FP32_BUDGET = 1e-4
"""Largest difference of an fp32 graph from PyTorch, as a share of the scores' scale."""

LEAST_COSINE = 0.9999
"""Least cosine between an embedding of an fp32 graph and PyTorch's."""

BF16_BUDGET = 0.02
"""Largest relative difference of a score computed in bfloat16 for `auto` to take it."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class _Run:
    backend: str
    precision: PrecisionChoice


_RUNS = (
    _Run(backend="onnxruntime", precision="fp32"),
    _Run(backend="openvino", precision="fp32"),
    _Run(backend="openvino", precision="bf16"),
)


def parity_report(
    bundle: Bundle,
    reference: Outputs,
    clips: Inputs,
    origins: Sequence[tuple[str, int]],
    *,
    real_clips: bool = True,
) -> dict[str, Any]:
    """Compare every engine that is installed with PyTorch.

    Args:
        bundle: The exported bundle.
        reference: PyTorch's outputs, from `ScoreGraph.run`.
        clips: What they were computed from: clips, or features.
        origins: File and first frame of each clip.
        real_clips: Whether they are footage; noise proves nothing about bfloat16.

    Returns:
        For the manifest: the clips, the scale, and for each engine and precision the largest
        difference of a score, absolute, relative and as a share of the scale; the least cosine of
        an embedding, where the graph gives it.

    Raises:
        ParityError: An fp32 engine leaves the budget, or no engine is installed.
    """
    scale = float(np.abs(reference["score"]).max())
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
            answers = []
            for i in range(len(clips)):
                answers.append(choice.backend.infer(clips[i : i + 1]))
                bar.advance()
            choice.backend.close()
            scores = np.concatenate([answer["score"] for answer in answers])
            engines[name] = _difference(scores, reference["score"], scale)
            if "embedding" in reference:
                found = np.concatenate([answer["embedding"] for answer in answers])
                engines[name]["least_cosine"] = _least_cosine(found, reference["embedding"])
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


def _difference(scores: Array, reference: Array, scale: float) -> dict[str, Any]:
    gap = np.abs(scores.astype(np.float64) - reference)
    return {
        "max_abs": float(gap.max()),
        "max_of_scale": float(gap.max() / scale) if scale else float(gap.max()),
        "max_relative": float((gap / np.maximum(np.abs(reference), 1e-12)).max()),
    }


def _least_cosine(found: Array, reference: Array) -> float:
    """Return the least cosine between embeddings, both of shape (N, D)."""
    a, b = found.astype(np.float64), reference.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(lengths, 1e-300)).min())


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
        if "fp32" in name and not value.get("least_cosine", 1.0) >= LEAST_COSINE:
            raise ParityError(
                f"{name}: an embedding has the cosine {value['least_cosine']:.6f} with PyTorch's, "
                f"the least allowed is {LEAST_COSINE}. Try another engine version."
            )


def _allows_bf16(engines: dict[str, Any]) -> bool:
    measured = engines.get("openvino bf16", {}).get("max_relative")
    return measured is not None and measured <= BF16_BUDGET
