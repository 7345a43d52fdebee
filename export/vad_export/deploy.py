"""One command from a folder of normal videos to a bundle with a threshold."""

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch

from vad_export.bundles import bundle_from_graph, pass_lines
from vad_export.fitting import fitted
from vad_export.threshold import raw_scores, require_enough_frames, scoring_from_normal
from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Options
from vad_runtime.bundle import (
    Bundle,
    require_free_bundle_path,
    rewrite_manifest,
    write_bundle,
)
from vad_runtime.contracts import ExportError, InputError
from vad_runtime.files import whole_file
from vad_training.checkpoint import checkpoint_from_path
from vad_training.config import (
    AugmentConfig,
    LossConfig,
    OptimiserConfig,
    StaeConfig,
    read_config,
)
from vad_training.data.store import FrameStore, store_from_footage
from vad_training.data.windows import Window, batch_of, split_segments, windows_of
from vad_training.fit_stae import fit_stae, forward_of, precision_of
from vad_training.graphs import graph_from_checkpoint
from vad_training.graphs.stae import ScoreForm
from vad_training.loop import BEST, CONFIG, LAST, LOG, device_of
from vad_training.losses import prediction_weights, stae_loss
from vad_training.models.stae import STAE

# Chosen on validation sites (docs/results/deploy_recipe.md): the published recipe needs hours.
RECIPE = StaeConfig(
    augment=AugmentConfig(rotation_deg=0.0, blur_sigma=0.0),
    optimiser=OptimiserConfig(learning_rate=2e-3, schedule="cosine", batch=4),
    loss=LossConfig(prediction_weights="paper"),
)
DEFAULT_FORM = ScoreForm()
_EPOCHS = 8
_FORWARD_SHARE = 3  # a training step costs about three forward passes
_TIMED_STEPS = 4


@dataclass(frozen=True, kw_only=True)
class DeployOptions:
    """What the user may choose."""

    minutes: float = 5.0
    """Time for training, minutes; decoding, export and checks come on top."""
    form: ScoreForm = DEFAULT_FORM
    quantile: float = 0.999
    seed: int = 0
    validation: Sequence[Path] = ()
    """Normal footage for validation and threshold; empty = a part of the footage is held back."""
    overwrite: bool = False
    target_ms: float | None = None
    """Longest time for a clip on this machine, milliseconds; None = the time from clip to clip."""
    int8: bool = False
    """Make an INT8 graph even where a wider precision is fast enough."""


def deploy(
    footage: Sequence[Path],
    target: Path,
    run_folder: Path,
    options: DeployOptions,
    say: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Train, export, check, choose threshold and precision, and write a bundle.

    Args:
        footage: Normal videos, folders of frames, or folders that hold such.
        target: The `*.vad` folder.
        run_folder: Keeps the training run; an interrupted one is resumed when the same command is
            given again.
        options: The user's choices.
        say: Receives a line per stage.

    Raises:
        ExportError: Nothing meets the target that was asked for; the bundle is written all the
            same, without a plan.
        VadError: As in each of its steps; `target` is then left as it was.
    """
    require_free_bundle_path(target, overwrite=options.overwrite)
    clip = RECIPE.clip
    store = store_from_footage(footage, clip, run_folder / "frames")
    held = None
    if options.validation:
        held = store_from_footage(options.validation, clip, run_folder / "frames_validation")
    for line in (*store.skipped, *(held.skipped if held else ())):
        say(f"skipped: {line}")
    say(_footage_line(store))
    _require_same_order(run_folder, options, store, held)
    config = _config(store, run_folder, options, say)
    normal = held or store
    segments = (
        held.segments
        if held
        else split_segments(store, config.data.validation_fraction, config.seed)[1]
    )
    # Better now than after the training.
    need = options.form.clip_frames(clip.frames)
    first = options.form.score_spec(clip.frames).first
    scorable = sum(s.frames - first for s in segments if s.frames >= need)
    require_enough_frames(scorable)
    result = fit_stae(
        store, config, run_folder, resume=(run_folder / LAST).is_file(), validation=held
    )
    say(f"trained: {result.steps} steps, best validation loss {result.best_loss:.5f}")
    # The threshold needs scores and scores need a bundle, so a draft is made first; the name that
    # the user gave appears when everything has passed.
    graph = graph_from_checkpoint(
        checkpoint_from_path(run_folder), form=options.form.form, alpha=options.form.alpha
    )
    draft = bundle_from_graph(
        replace(graph, clip=msgspec.structs.replace(graph.clip, fps=store.fps)),
        run_folder / "draft.vad",
        footage=[Path(name) for name in normal.videos],
        licence="as the footage that it was trained on",
        overwrite=True,
    )
    for line in pass_lines(draft):
        say(line)
    # In fp32, as nothing is planned yet: what the plan takes is held against this very threshold.
    choice = open_backend(draft, options=Options(precision="fp32"))
    say(f"exported and checked; scores from {choice.line}")
    try:
        raw = raw_scores(draft.manifest, choice.backend, normal, segments)
    finally:
        choice.backend.close()
    scoring = scoring_from_normal(raw, quantile=options.quantile)
    say(f"threshold: {scoring.threshold} ({scoring.method})")
    draft = rewrite_manifest(draft, msgspec.structs.replace(draft.manifest, scoring=scoring))
    draft, missed = _fitted(draft, [Path(name) for name in normal.videos], run_folder, options, say)
    files = {short: draft.file(a) for short, a in draft.manifest.artefacts.items()}
    bundle = write_bundle(target, draft.manifest, files, overwrite=options.overwrite)
    shutil.rmtree(draft.path)
    if missed:
        raise ExportError(f"{missed.rstrip('.')}. {target} was written without a plan.")
    return bundle


def _fitted(
    draft: Bundle,
    footage: Sequence[Path],
    run_folder: Path,
    options: DeployOptions,
    say: Callable[[str], None],
) -> tuple[Bundle, str]:
    """Plan the bundle; returns it and, where a target that was asked for is missed, why."""
    if options.target_ms is None and draft.manifest.clip.fps is None:
        say("no plan: the footage has mixed frame rates and no target was given")
        return draft, ""
    draft, plan = fitted(
        draft,
        footage,
        run_folder / "calibration",
        target_ms=options.target_ms,
        int8=options.int8,
        say=say,
    )
    asked = plan.chosen is None and options.target_ms is not None
    return draft, plan.line if asked else ""


class _Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was asked for; kept beside it."""

    minutes: float
    seed: int
    footage: str
    validation: str | None


def _require_same_order(
    run_folder: Path, options: DeployOptions, store: FrameStore, held: FrameStore | None
) -> None:
    """Let an interrupted run go on, and never pass off an older model as the one asked for.

    With `overwrite` a run of another order is removed.

    Raises:
        InputError: The folder holds a run of another order.
    """
    order = _Order(
        minutes=options.minutes,
        seed=options.seed,
        footage=store.key,
        validation=held.key if held else None,
    )
    file = run_folder / "order.json"
    old: _Order | None = None
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        old = msgspec.json.decode(file.read_bytes(), type=_Order)
    runs = [run_folder / name for name in (LAST, BEST, LOG, CONFIG)]
    if old != order and any(run.exists() for run in runs):
        if not options.overwrite:
            raise InputError(
                f"{run_folder} holds a run with other footage, minutes or seed. "
                "Add --overwrite to train anew, or name another folder with --run."
            )
        for run in runs:
            run.unlink(missing_ok=True)
    with whole_file(file) as temporary:
        temporary.write_bytes(msgspec.json.encode(order))


def _footage_line(store: FrameStore) -> str:
    seconds = store.seconds()
    length = f"{seconds / 60:.1f} minutes at {store.fps:g} fps" if seconds else "mixed frame rates"
    return f"footage: {len(store.videos)} videos, {len(store.frames)} frames, {length}"


def _config(
    store: FrameStore, run_folder: Path, options: DeployOptions, say: Callable[[str], None]
) -> StaeConfig:
    """Return the configuration of the run that stands in the folder, or plan a new one."""
    if (run_folder / LAST).is_file():
        say(f"going on with the training run in {run_folder}")
        config = read_config(run_folder / CONFIG)
        if not isinstance(config, StaeConfig):
            raise InputError(f"{run_folder} holds a run of another family. Name another folder.")
        return config
    config = msgspec.structs.replace(RECIPE, seed=options.seed)
    segments, _ = split_segments(store, config.data.validation_fraction, config.seed)
    frames = config.clip.frames
    windows = windows_of(
        store.segments if options.validation else segments, frames, config.data.window_step
    )
    if not windows:
        raise InputError("too little footage for a training part and a validation part. Give more.")
    batches = math.ceil(len(windows) / config.optimiser.batch)
    step_s = _seconds_per_step(store, windows, config)
    steps = max(1, int(options.minutes * 60 / step_s))
    # More passes than the published recipe makes would only learn the footage by heart.
    steps = min(steps, StaeConfig().epochs * batches)
    # A validation pass takes about as long as a tenth of an epoch.
    per_epoch = min(batches, math.ceil(0.9 * steps / min(_EPOCHS, math.ceil(steps / 20))))
    epochs = max(1, round(0.9 * steps / per_epoch))
    windows_looked_at = max(1, round(0.1 * per_epoch * config.optimiser.batch * _FORWARD_SHARE))
    config = msgspec.structs.replace(
        config, data=msgspec.structs.replace(config.data, validation_windows=windows_looked_at)
    )
    say(f"plan: {epochs * per_epoch} steps of {step_s:.2f} s in {epochs} epochs")
    return msgspec.structs.replace(config, epochs=epochs, steps_per_epoch=per_epoch)


def _seconds_per_step(store: FrameStore, windows: list[Window], config: StaeConfig) -> float:
    """Time a few steps on a model that is thrown away; the first ones warm up."""
    device = device_of(config.device)
    model = STAE().to(device).train()
    forward = forward_of(model, precision_of(config.precision, device), device)
    weights = prediction_weights(config.loss.prediction_weights, config.clip.frames).to(device)
    times = []
    for _ in range(_TIMED_STEPS):
        start = time.perf_counter()
        batch = batch_of(
            store,
            windows[: config.optimiser.batch],
            config.clip.frames,
            config.loss.future_offset,
            config.augment,
            np.random.default_rng(0),
        )
        clips, future = (
            torch.from_numpy(a).to(device).permute(0, 4, 1, 2, 3).float() / 255
            for a in (batch.clips, batch.future)
        )
        mask = torch.from_numpy(batch.mask).to(device)
        loss = stae_loss(*forward(clips), clips, future, mask, weights)
        loss.total.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
        loss.total.item()
        times.append(time.perf_counter() - start)
    return min(times[1:])
