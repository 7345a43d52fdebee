"""What a synthetic data set consists of: its settings, its clips and their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Crowd = Literal["calm", "busy"]
"""How full the site is, and how hard its anomalies are to find.

`calm`: in normal footage people keep to the walkways at the back and nobody enters the forecourt;
every anomaly takes place there, near to the camera, and whoever takes part counts from the first
frame on. `busy`: up to five people walk everywhere, and only their way of moving is anomalous.
"""


KINDS: tuple[str, ...] = ("runner", "cyclist", "thrown_object", "lying", "wrong_way")
"""The kinds of anomaly, in the order in which the test clips cycle over them."""

NORMAL = "normal"
LABEL_SCHEMA = 1
SPLITS: tuple[str, ...] = ("train", "val", "test")

LEAD_SECONDS = 4.0
"""Normal footage before an anomaly may begin, in seconds."""

VISIBLE_SHARE = 0.001
"""Share of the frame's pixels that must show the anomalous thing for a frame to count."""


@dataclass(frozen=True, kw_only=True)
class SynthConfig:
    """Settings of one synthetic data set.

    Attributes:
        seed: Chooses the site and everything that happens there.
        width: Frame width in pixels (even).
        height: Frame height in pixels (even).
        fps: Frames per second.
        train_clips: Number of normal clips for training.
        train_seconds: Length of each of them, in seconds.
        val_clips: Number of normal clips for validation.
        val_seconds: Length of each of them, in seconds.
        test_clips: Number of test clips; from 7 on, at least two of them are normal.
        test_seconds: Length of each of them, in seconds.
        crowd: How full the site is.
    """

    seed: int = 0
    width: int = 384
    height: int = 288
    fps: int = 15
    train_clips: int = 8
    train_seconds: float = 40.0
    val_clips: int = 4
    val_seconds: float = 30.0
    test_clips: int = 10
    test_seconds: float = 20.0
    crowd: Crowd = "calm"


@dataclass(frozen=True)
class ClipSpec:
    """One clip to be made.

    Attributes:
        split: "train", "val" or "test".
        index: Position in its split, from 0; with the split it seeds the clip.
        kind: A name from KINDS, or "normal".
        number: How many clips of its kind come before it in its split; picks a variant.
        name: Path below the data set's folder, with "/" as separator.
        frames: Number of frames.
        crowd: How full the site is.
    """

    split: str
    index: int
    kind: str
    number: int
    name: str
    frames: int
    crowd: Crowd = "calm"


def clip_specs(config: SynthConfig) -> list[ClipSpec]:
    """Lists the clips of a data set in the order in which they are made.

    Args:
        config: The data set's settings.

    Returns:
        Train clips, then validation clips, then test clips.
    """
    specs: list[ClipSpec] = []
    for split, count, seconds in (
        ("train", config.train_clips, config.train_seconds),
        ("val", config.val_clips, config.val_seconds),
        ("test", config.test_clips, config.test_seconds),
    ):
        frames = round(seconds * config.fps)
        kinds = _test_kinds(count) if split == "test" else [NORMAL] * count
        used: dict[str, int] = {}
        for index, kind in enumerate(kinds):
            number = used.get(kind, 0)
            used[kind] = number + 1
            specs.append(
                ClipSpec(
                    split=split,
                    index=index,
                    kind=kind,
                    number=number,
                    name=f"{split}/{kind}_{number:03d}.mp4",
                    frames=frames,
                    crowd=config.crowd,
                )
            )
    return specs


def _test_kinds(count: int) -> list[str]:
    """Gives the kind of each test clip; larger sets keep about a fifth of them normal."""
    normal = max(2, count // 5) if count >= 7 else 0
    anomalous = count - normal
    return [KINDS[i % len(KINDS)] for i in range(anomalous)] + [NORMAL] * normal


def total_frames(config: SynthConfig) -> int:
    """Counts the frames of a whole data set.

    Args:
        config: The data set's settings.

    Returns:
        The number of frames over all clips.
    """
    return sum(spec.frames for spec in clip_specs(config))
