"""ONNX from a checkpoint."""

import logging
import warnings
from pathlib import Path

import onnx
import torch

from vad_export.graphs import ScoreForm, StaeScore
from vad_runtime.contracts import ClipSpec, ExportError
from vad_training.models.stae import STAE

OPSET = 18


def onnx_from_model(
    model: STAE, clip: ClipSpec, form: ScoreForm, outputs: list[str], file: Path
) -> None:
    """Write the model as one ONNX graph: uint8 `clip` (N, T, H, W, C) in, `score` first out.

    Args:
        model: On the CPU, in eval mode.
        clip: The model's own clip (for forms with context the graph takes more frames).
        form: What a score is made of.
        outputs: Names of optional outputs.
        file: Written.

    Raises:
        ExportError: PyTorch could not export the model, or the graph breaks the contract.
    """
    graph = StaeScore(model, clip.frames, form, outputs).eval()
    frames = form.clip_frames(clip.frames)
    # Two clips: an example batch of one would be taken for a constant.
    example = torch.zeros((2, frames, *clip.frame_shape), dtype=torch.uint8)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        # The exporter's own notes (torchvision is not installed, …) say nothing to a user.
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["clip"],
                output_names=["score", *outputs],
                dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
                verbose=False,
            )
        if program is None:
            raise ExportError("PyTorch's exporter gave no graph. Report this as a bug.")
        program.save(str(file), external_data=False)
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(f"PyTorch could not export the model ({reason}).") from error
    finally:
        logger.setLevel(level)
    _tidy(file)


def _tidy(file: Path) -> None:
    """Drop traces of the exporting machine and check the graph."""
    graph = onnx.load(file)
    for node in graph.graph.node:
        # The exporter writes Python stack traces with absolute paths into every node.
        del node.metadata_props[:]
    del graph.graph.metadata_props[:]
    del graph.graph.value_info[:]
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, file)
    first = graph.graph.input[0]
    if len(graph.graph.input) != 1 or first.name != "clip" or graph.graph.output[0].name != "score":
        raise ExportError("the graph's input or output has another name. Report this as a bug.")


def opset_of(file: Path) -> int:
    """Return the version of the default operator set of an ONNX file."""
    graph = onnx.load(file, load_external_data=False)
    return next(int(e.version) for e in graph.opset_import if e.domain in ("", "ai.onnx"))
