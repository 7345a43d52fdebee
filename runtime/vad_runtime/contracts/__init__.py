"""What the device can consume; everybody else conforms. Imports nothing but msgspec."""

from vad_runtime.contracts.clip import ClipSpec
from vad_runtime.contracts.engine import EngineSidecar, EngineTensor, PlanFamily
from vad_runtime.contracts.errors import (
    BackendError,
    BundleError,
    ConfigError,
    ExportError,
    InputError,
    NoDriverError,
    ParityError,
    SourceError,
    TrainingError,
    VadError,
)
from vad_runtime.contracts.manifest import (
    Artefact,
    FeatureSpec,
    Manifest,
    OutputSpec,
    PlanChoice,
    Precision,
    ScoreSpec,
    Scoring,
)

__all__ = [
    "Artefact",
    "BackendError",
    "BundleError",
    "ClipSpec",
    "ConfigError",
    "EngineSidecar",
    "EngineTensor",
    "ExportError",
    "FeatureSpec",
    "InputError",
    "Manifest",
    "NoDriverError",
    "OutputSpec",
    "ParityError",
    "PlanChoice",
    "PlanFamily",
    "Precision",
    "ScoreSpec",
    "Scoring",
    "SourceError",
    "TrainingError",
    "VadError",
]
