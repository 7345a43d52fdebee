"""INT8 and FP16 for TensorRT 8: builder flags and a calibrator.

TensorRT 8 is weakly typed: a flag allows a precision, and the builder picks. FP16 is allowed for
the fp16 graph. INT8 takes the fp32 graph and a calibrator that serves the ranges of the bundle's
int8 graph as a finished cache, so that TensorRT runs no calibration and needs no clips: Q/DQ
convolutions over three dimensions failed in 8.2 (NVIDIA/TensorRT issues 1726 and 2125). From
TensorRT 10 on, the types in the graph are all there is.
"""

from pathlib import Path
from typing import Any

import numpy as np

from vad_export.engine.graph_facts import graph_facts
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import Artefact, BackendError, ExportError
from vad_runtime.engines.adapter import TensorRt

_LEVELS = 127


def legacy_graph(lib: TensorRt, bundle: Bundle, artefact: Artefact) -> Path:
    """Return the file that a weakly typed library parses for an artefact.

    Raises:
        BackendError: It cannot build this precision.
        ExportError: The bundle has no fp32 graph, which INT8 is built from.
    """
    if artefact.precision == "mixed":
        raise BackendError(
            f"{lib.name} cannot build mixed: it picks precisions itself, so int8 and fp16 cannot "
            "be laid down layer by layer. Build --precision int8 or fp16, or with --flavour rtx"
        )
    if artefact.precision != "int8":
        return bundle.file(artefact)
    whole = bundle.manifest.artefact_of("fp32")
    if whole is None:
        raise ExportError(
            f"{bundle.path} has no fp32 graph, which {lib.name} builds int8 from. "
            "Export the bundle again."
        )
    return bundle.file(whole[1])


def set_legacy_precision(lib: TensorRt, config: Any, bundle: Bundle, artefact: Artefact) -> Any:
    """Allow a precision in a builder's configuration.

    Returns:
        The calibrator, which the caller keeps until the build is over; None = none is needed.

    Raises:
        ExportError: The int8 graph has no ranges.
    """
    if artefact.precision == "fp16":
        lib.set_flag(config, "FP16")
    if artefact.precision != "int8":
        return None
    from vad_calibration.inputs import ArrayInputs
    from vad_calibration.tensorrt_calibrator import calibrator_class

    lib.set_flag(config, "INT8")
    limits = calibration_limits(bundle.file(artefact))
    shape = (1, *bundle.manifest.input_shape)
    # Of the inputs only the form is looked at: the limits answer before any is asked for.
    made = calibrator_class(lib.trt)(ArrayInputs(np.zeros(shape, np.uint8)), limits=limits)
    lib.set_calibrator(config, made)
    return made


def calibration_limits(int8_graph: Path) -> dict[str, float]:
    """Return for each tensor that an int8 graph rounds the |x| that becomes 127.

    Args:
        int8_graph: The bundle's Q/DQ graph; its tensors are called as in the fp32 graph.

    Raises:
        ExportError: It rounds no tensor.
    """
    scales = graph_facts(int8_graph).activation_scales()
    if not scales:
        raise ExportError(
            f"{int8_graph} rounds no tensor to INT8, so it holds no ranges. "
            "Make it again with: vad-export quantise"
        )
    return {name: scale * _LEVELS for name, scale in scales.items()}
