"""What a model is to the device: one graph with a described input and described outputs."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vad_runtime.backends.base import Inputs
from vad_runtime.contracts import (
    Artefact,
    ClipSpec,
    ConfigError,
    FeatureSpec,
    Manifest,
    OutputSpec,
    ScoreSpec,
    Scoring,
)

Arrays = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class ScoreGraph:
    """A model as the contract of every bundle wants it."""

    family: str
    module: nn.Module
    """On the CPU, in eval mode. It takes clips, uint8 (N, T, H, W, C), or features, float32
    (N, S, D), and returns a tuple: the score, then `outputs` in their order, all float32."""
    clip: ClipSpec
    score: ScoreSpec
    outputs: list[OutputSpec]
    features: FeatureSpec | None = None
    """Set where the graph takes features; `clip` is then what one feature was computed from."""
    training: dict[str, Any]
    """What is known of the training and of the weights, for the manifest."""

    @property
    def output_names(self) -> list[str]:
        """Names of all outputs, the score first."""
        return ["score", *(output.name for output in self.outputs)]

    def manifest(
        self,
        *,
        name: str | None = None,
        artefacts: Mapping[str, Artefact] | None = None,
        scoring: Scoring | None = None,
        licence: str = "unspecified",
    ) -> Manifest:
        """Describe the graph.

        Args:
            name: The model's name; None = its family.
            artefacts: Files with the graph; None for a model that runs in PyTorch.
            scoring: Normaliser and threshold; None = raw scores, no alarms.
            licence: Of the weights.
        """
        return Manifest(
            family=self.family,
            name=name or self.family,
            clip=self.clip,
            score=self.score,
            outputs=self.outputs,
            scoring=scoring or Scoring(),
            artefacts=dict(artefacts or {}),
            training=self.training,
            licence=licence,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            features=self.features,
        )

    def run(self, inputs: Inputs) -> Arrays:
        """Compute every output with PyTorch, one input at a time; the caller owns the arrays.

        Args:
            inputs: Shape (N, …) of the graph's input, uint8 or float32; only read.
        """
        parts = []
        with torch.inference_mode():
            for i in range(len(inputs)):
                # A copy: PyTorch warns about memory that may not be written, as a ring's is.
                values = self.module(torch.from_numpy(inputs[i : i + 1].copy()))
                parts.append([value.numpy() for value in values])
        joined = (np.concatenate(column) for column in zip(*parts, strict=True))
        return dict(zip(self.output_names, joined, strict=True))


def chosen_form(family: str, form: str | None, forms: Sequence[str]) -> str:
    """Return the form that was asked for; the family's first without one.

    Raises:
        ConfigError: The family has no such form.
    """
    if form is not None and form not in forms:
        raise ConfigError(
            f"the family {family} has no score of form {form}. Choose from: {', '.join(forms)}"
        )
    return form or forms[0]


def chosen_outputs(
    names: Sequence[str], have: Mapping[str, OutputSpec], owner: str
) -> list[OutputSpec]:
    """Return the specs of the optional outputs that were asked for.

    Raises:
        ConfigError: One that the graph does not have, or one twice.
    """
    for i, name in enumerate(names):
        if name not in have:
            choice = f"Choose from: {', '.join(have)}" if have else "Ask for none"
            raise ConfigError(f"{owner} has no output {name!r}. {choice}")
        if name in names[:i]:
            raise ConfigError(f"output {name} was asked for twice. Name it once.")
    return [have[name] for name in names]
