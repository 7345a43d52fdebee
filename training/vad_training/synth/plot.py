"""What the stories of normal and of anomalous clips are made of: ways, paces and the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vad_training.synth.actors import Actor
from vad_training.synth.camera import Camera, FloatArray
from vad_training.synth.layout import Layout

Way = list[tuple[float, float]]
"""Corners of a way on the ground, (x, y) in metres."""
Pace = Callable[[FloatArray], FloatArray]
"""Gives the distance covered, in metres, for times in seconds."""


@dataclass
class Story:
    """Everything that happens in one clip.

    Attributes:
        frames: Length of the clip.
        actors: Everybody and everything that moves.
        targets: Those of the actors that are anomalous.
        active: Frames in which the anomalous behaviour goes on, shape (frames,).
    """

    frames: int
    actors: list[Actor]
    targets: list[Actor]
    active: NDArray[np.bool_]


def crossing(camera: Camera, y: float, slope: float, direction: int) -> Way:
    """Gives a way across the whole frame.

    Args:
        camera: Gives the frame's reach.
        y: Distance of the way's middle, metres.
        slope: How much farther away the way ends than it begins, metres.
        direction: 1 for left to right, -1 for right to left.
    """
    # Go on well beyond the edge, so that nobody appears or vanishes in sight, nor any shadow.
    left, right = (edge + side * 1.7 for edge, side in zip(camera.edges(y), (-1, 1), strict=True))
    way = [(left, y - slope / 2), (right, y + slope / 2)]
    return way if direction > 0 else [(right, y - slope / 2), (left, y + slope / 2)]


def lane_way(camera: Camera, layout: Layout, offset: float) -> Way:
    """Gives the way along the one-way lane: in from the side, to the door and inside.

    Args:
        camera: Gives the frame's reach.
        layout: The site's plan.
        offset: Sideways distance from the lane's middle, metres.
    """
    start = 3.7
    edge = camera.edges(start)[1 if layout.mirror > 0 else 0]
    inside = layout.mirror * 3.0
    return [
        (edge + 1.3 * layout.mirror, start),
        (float(layout.lane_x(5.0)) + offset, 5.0),
        (float(layout.lane_x(8.0)) + offset, 8.0),
        (layout.door + 0.5 * offset, layout.facade),
        (layout.door + 0.5 * offset, layout.facade + 1.0),
        (layout.door + inside, layout.facade + 1.8),
    ]


def pace(rng: np.random.Generator, speed: float) -> Pace:
    """Draws a pace that varies a little around a mean speed.

    Args:
        rng: Source of randomness.
        speed: Mean speed in metres per second.

    Returns:
        A function from the time since the start, in seconds (may be negative), to the distance
        covered, in metres.
    """
    period = float(rng.uniform(3.0, 7.0))
    phase = float(rng.uniform(0.0, 2 * np.pi))
    swing = 0.05 * period / (2 * np.pi)

    def travelled(seconds: FloatArray) -> FloatArray:
        wave = np.sin(2 * np.pi * seconds / period + phase) - np.sin(phase)
        return np.asarray(speed * (seconds + swing * wave))

    return travelled


def stride_of(speed: float, height: float) -> float:
    """Gives the stride length in metres with which a person of some height walks."""
    return float(1.36 * (speed / 1.3) ** 0.6 * height / 1.72)
