"""A bundle from a checkpoint."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx
import torch

from vad_calibration import SampledClips, clips_from_footage
from vad_export.graphs import ScoreForm, output_specs
from vad_export.onnx_graph import onnx_from_model, opset_of
from vad_export.parity import checkpoint_scores, parity_report
from vad_export.threshold import raw_scores, scoring_from_normal
from vad_runtime import __version__
from vad_runtime.backends import open_backend
from vad_runtime.bundle import (
    Bundle,
    require_free_bundle_path,
    rewrite_manifest,
    write_bundle,
)
from vad_runtime.contracts import Artefact, ClipSpec, ConfigError, Manifest, Scoring
from vad_training.checkpoint import Checkpoint
from vad_training.data.store import store_from_footage

_PARITY_CLIPS = 8


def bundle_from_checkpoint(
    checkpoint: Checkpoint,
    target: Path,
    *,
    form: ScoreForm,
    outputs: Sequence[str] = (),
    footage: Sequence[Path] = (),
    scoring: Scoring | None = None,
    normal: Path | None = None,
    quantile: float = 0.999,
    clip: ClipSpec | None = None,
    name: str | None = None,
    licence: str = "unspecified",
    overwrite: bool = False,
) -> Bundle:
    """Export, check against the checkpoint, and write a bundle.

    Args:
        checkpoint: The trained model.
        target: The `*.vad` folder; appears only when everything has passed.
        form: What a score is made of.
        outputs: Names of optional outputs.
        footage: Real videos for the parity check; without any, seeded noise is used, and the
            manifest says so.
        scoring: Normaliser and threshold, if they are known already.
        normal: Normal footage, not trained on, from which they are chosen otherwise.
        quantile: For that choice, see `scoring_from_normal`.
        clip: Another clip than the training's, e.g. another hop or resizer.
        name: The model's name; None = `stae`.
        licence: Of the weights.
        overwrite: Replace an existing bundle.

    Raises:
        ConfigError: The form compares other frames than the model was trained to predict.
        InputError: The target is not free or not writable, or the footage cannot be read.
        ExportError: The model cannot be exported or the graph differs from the checkpoint.
    """
    require_free_bundle_path(target, overwrite=overwrite)
    model_clip = clip or checkpoint.config.clip
    _require_trained_offset(checkpoint, form, model_clip.frames)
    graph_clip = msgspec.structs.replace(model_clip, frames=form.clip_frames(model_clip.frames))
    sample = _sample(footage, graph_clip)
    with tempfile.TemporaryDirectory(prefix="vad-export-") as work:
        file = Path(work) / "model.fp32.onnx"
        onnx_from_model(checkpoint.model, model_clip, form, list(outputs), file)
        manifest = Manifest(
            family="stae",
            name=name or "stae",
            clip=graph_clip,
            score=form.score_spec(model_clip.frames),
            outputs=output_specs(list(outputs), form, model_clip),
            scoring=scoring or Scoring(),
            artefacts={"fp32": _artefact(file)},
            training=dict(checkpoint.summary),
            licence=licence,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        # The check needs a bundle to open; the one that is kept is written after it has passed.
        draft = write_bundle(Path(work) / "draft.vad", manifest, {"fp32": file})
        reference = checkpoint_scores(checkpoint.model, model_clip.frames, form, sample.clips)
        report = parity_report(
            draft, reference, sample.clips, sample.origins, real_clips=bool(footage)
        )
        draft = rewrite_manifest(draft, msgspec.structs.replace(draft.manifest, parity=report))
        if normal is not None:
            draft = scoring_from_footage(draft, normal, quantile)
        return write_bundle(target, draft.manifest, {"fp32": file}, overwrite=overwrite)


def _require_trained_offset(checkpoint: Checkpoint, form: ScoreForm, frames: int) -> None:
    trained = checkpoint.config.loss.future_offset
    if form.form in ("prediction", "both") and trained != frames:
        raise ConfigError(
            f"form {form.form} compares with the frames {frames} later, but this model is "
            f"trained to predict those {trained} later (loss.future_offset). Choose reconstruction "
            f"or lookahead, or train with loss.future_offset={frames}."
        )


def _artefact(file: Path) -> Artefact:
    versions = {"vad-edge": __version__, "torch": str(torch.__version__), "onnx": onnx.__version__}
    return Artefact(
        file=file.name,
        sha256="",
        bytes=0,
        format="onnx",
        precision="fp32",
        opset=opset_of(file),
        tools=versions,
    )


def _sample(footage: Sequence[Path], clip: ClipSpec) -> SampledClips:
    if footage:
        return clips_from_footage(footage, clip, _PARITY_CLIPS)
    shape = (_PARITY_CLIPS, *clip.clip_shape)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return SampledClips(clips=noise, origins=[("seeded noise", i) for i in range(len(noise))])


def scoring_from_footage(bundle: Bundle, normal: Path, quantile: float) -> Bundle:
    """Choose normaliser and threshold of a bundle from normal footage that it was not trained on.

    Raises:
        InputError: The footage cannot be read, or is too short.
        BundleError: The manifest cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="vad-export-") as work:
        store = store_from_footage([normal], bundle.manifest.clip, Path(work))
        choice = open_backend(bundle)
        try:
            raw = raw_scores(bundle.manifest, choice.backend, store, store.segments)
        finally:
            choice.backend.close()
    scoring = scoring_from_normal(raw, quantile=quantile)
    return rewrite_manifest(bundle, msgspec.structs.replace(bundle.manifest, scoring=scoring))
