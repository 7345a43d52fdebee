"""Folders of drawn clips for tests of whole roads. Import it as `helpers_footage`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from helpers import Image, write_video

FPS = 15


WILD = {"fighting": 4, "falling": 12}
"""Classes that look different from all others, with the period of `scene`."""


def scene(count: int, *, seed: int, period: int = 0) -> Iterator[Image]:
    """Yield RGB images, shape (64, 80, 3): a square wanders over a wall.

    Args:
        count: Images.
        seed: Of the square's way; wall and square are always the same, as before a fixed camera.
        period: The picture is inverted half of the time, so many frames from one time to the next:
            easy to tell apart even for a network with random weights. 0 = never.
    """
    rng = np.random.default_rng(seed)
    site = np.random.default_rng(1)
    wall = site.integers(60, 120, (64, 80, 3), np.uint8)
    square = site.integers(0, 255, (16, 16, 3), np.uint8)
    top, left, speed = int(rng.integers(0, 48)), float(rng.integers(0, 64)), 1.0
    for i in range(count):
        speed = float(np.clip(speed + rng.normal(0, 1.5), -6, 6))
        left = (left + speed) % 64
        image = wall.copy()
        image[top : top + 16, int(left) : int(left) + 16] = square
        yield 255 - image if i % max(period, 1) < period // 2 else image


def write_class_folders(folder: Path, classes: Mapping[str, int], *, frames: int = 48) -> Path:
    """Draw `CLASS/CLASS_0.mp4`, `CLASS/CLASS_1.mp4`, … below a folder.

    Args:
        folder: Made if missing.
        classes: How many clips of each class.
        frames: Of a clip.
    """
    seed = 0
    for label, count in classes.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            images = scene(frames, seed=seed, period=WILD.get(label, 0))
            write_video(folder / label / f"{label}_{i}.mp4", images, fps=FPS)
            seed += 1
    return folder


def write_labels(file: Path, folder: Path, *, frames: int, anomaly: tuple[int, int]) -> Path:
    """Write a labels.json for class folders: clips of every class but `normal` have one anomaly.

    Args:
        file: To write.
        folder: The class folders.
        frames: Of a clip.
        anomaly: Its first and last frame.
    """
    videos = {}
    for path in sorted(folder.glob("*/*.mp4")):
        label = path.parent.name
        what = {"kind": label, "first": anomaly[0], "last": anomaly[1]}
        anomalies = [] if label == "normal" else [what]
        videos[f"{label}/{path.name}"] = {"frames": frames, "anomalies": anomalies}
    file.write_text(json.dumps({"schema": 1, "label_set": "made up", "fps": FPS, "videos": videos}))
    return file
