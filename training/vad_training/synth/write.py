"""Writes a synthetic data set: H.264 videos and the truth about their frames."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from vad_runtime.contracts.errors import InputError
from vad_runtime.files import made_folder
from vad_training.synth.camera import Frame
from vad_training.synth.config import (
    LABEL_SCHEMA,
    SPLITS,
    VISIBLE_SHARE,
    ClipSpec,
    SynthConfig,
    clip_specs,
)
from vad_training.synth.plot import Story
from vad_training.synth.render import film
from vad_training.synth.scene import Site, build_site
from vad_training.synth.story import tell

_LEAST_SIDE = 64


def synth_dataset(
    folder: Path, config: SynthConfig, progress: Callable[[int], None] | None = None
) -> Path:
    """Draws a data set and writes it to a new or empty folder.

    The same configuration gives the same files, byte for byte, on the same machine with the same
    versions of the libraries.

    Args:
        folder: Where train/, val/, test/ and labels.json shall lie.
        config: The data set's settings.
        progress: Called with the number of frames just written.

    Returns:
        Path of labels.json.

    Raises:
        InputError: The folder already holds videos or labels, or a setting is unusable.
    """
    _check_config(config)
    _check_folder(folder)
    site = build_site(config.seed, config.width, config.height)
    specs = clip_specs(config)
    # All stories first: a clip that is too short is noticed before anything is written.
    stories = [story_of(site, config, spec) for spec in specs]
    made_folder(folder)
    videos: dict[str, object] = {}
    try:
        for spec, story in zip(specs, stories, strict=True):
            videos[spec.name] = _write_clip(folder / spec.name, site, config, spec, story, progress)
    except BaseException as error:
        # Without labels they are of no use, and they would be in the way of the next try.
        for name in videos:
            (folder / name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(
                f"{folder} cannot be written ({error.strerror}). Choose another folder."
            ) from None
        raise
    labels = folder / "labels.json"
    document = {
        "schema": LABEL_SCHEMA,
        "label_set": f"vad-edge synth seed {config.seed}",
        "fps": config.fps,
        "videos": videos,
    }
    partial = folder / ".labels.json.part"
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8", newline="\n")
    partial.replace(labels)
    return labels


def story_of(site: Site, config: SynthConfig, spec: ClipSpec) -> Story:
    """Makes up what happens in a clip.

    Args:
        site: Where it happens.
        config: The data set's settings.
        spec: The clip.
    """
    rng = np.random.default_rng([config.seed, SPLITS.index(spec.split), spec.index, 1])
    return tell(site, spec, rng, config.fps)


def film_seed(config: SynthConfig, spec: ClipSpec) -> list[int]:
    """Gives the seed of a clip's light and sensor noise."""
    return [config.seed, SPLITS.index(spec.split), spec.index, 2]


def least_pixels(config: SynthConfig) -> float:
    """Gives how many pixels of the anomaly a frame must show to count as anomalous."""
    return VISIBLE_SHARE * config.width * config.height


def _check_config(config: SynthConfig) -> None:
    """Refuses settings that no clip can be made with."""
    if config.width % 2 or config.height % 2 or min(config.width, config.height) < _LEAST_SIDE:
        raise InputError(
            f"a frame of {config.width} x {config.height} cannot be written: choose an even width "
            f"and height of {_LEAST_SIDE} or more"
        )
    if config.fps < 1:
        raise InputError(f"{config.fps} frames per second is not a rate: choose 1 or more")
    if config.seed < 0:
        raise InputError(f"the seed {config.seed} is negative: choose 0 or more")
    for spec in clip_specs(config):
        if spec.frames < 1:
            raise InputError(f"{spec.name} would have no frame: choose longer clips")


def _check_folder(folder: Path) -> None:
    """Refuses a folder in which a data set or other videos already lie."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder: choose another name")
    if (folder / "labels.json").exists():
        raise InputError(f"{folder} already holds labels.json: choose a new or empty folder")
    if folder.is_dir() and next(folder.rglob("*.mp4"), None) is not None:
        raise InputError(f"{folder} already holds videos: choose a new or empty folder")


def _write_clip(
    path: Path,
    site: Site,
    config: SynthConfig,
    spec: ClipSpec,
    story: Story,
    progress: Callable[[int], None] | None,
) -> dict[str, object]:
    """Films and encodes a clip; gives its entry for labels.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    least = least_pixels(config)
    shown: list[int] = []
    try:
        with av.open(str(partial), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=config.fps)
            stream.width, stream.height = config.width, config.height
            stream.pix_fmt = "yuv420p"
            stream.time_base = Fraction(1, config.fps)
            # One thread: with several, x264's output may depend on the machine's cores.
            stream.codec_context.thread_count = 1
            stream.options = {"crf": "23", "preset": "veryfast", "threads": "1"}
            for index, (picture, truth) in enumerate(
                film(site, story, film_seed(config, spec), config.fps)
            ):
                if story.active[index] and float(truth.sum()) >= least:
                    shown.append(index)
                frame = _video_frame(picture)
                frame.pts = index
                frame.time_base = Fraction(1, config.fps)
                container.mux(stream.encode(frame))
                if progress is not None:
                    progress(1)
            container.mux(stream.encode(None))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    anomalies: list[dict[str, object]] = []
    if story.targets:
        if not shown:
            raise AssertionError(f"{spec.name}: the staged {spec.kind} never came into sight")
        anomalies.append({"kind": spec.kind, "first": shown[0], "last": shown[-1]})
    return {"frames": spec.frames, "anomalies": anomalies}


def _video_frame(picture: Frame) -> av.VideoFrame:
    """Converts a picture to what the encoder takes."""
    planes = cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420)
    return av.VideoFrame.from_ndarray(np.asarray(planes, dtype=np.uint8), format="yuv420p")
