"""The plan of the site: where its walkways, its building and its one-way lane lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vad_training.synth.camera import FloatArray


@dataclass(frozen=True)
class Layout:
    """The plan of a site, in metres. The camera looks along y.

    Attributes:
        near: y of the walkway in front.
        middle: y of the wide walkway across the plaza.
        far: y of the walkway along the building.
        lawn: First and last y of the planted strip between plaza and far walkway.
        facade: y of the building's front.
        door: x of the middle of the entrance.
        door_width: Width of the entrance.
        door_height: Height of the entrance.
        lane_start: x at which the one-way lane comes in below the camera, at y = lane_from.
        lane_from: y at which the one-way lane begins.
        lane_width: Width of the one-way lane.
        mirror: 1 or -1; the side of the frame on which the one-way lane begins.
        sun: How far shadows move in x and in y per metre of height.
    """

    near: float
    middle: float
    far: float
    lawn: tuple[float, float]
    facade: float
    door: float
    door_width: float
    door_height: float
    lane_start: float
    lane_from: float
    lane_width: float
    mirror: float
    sun: tuple[float, float]

    def lane_x(self, y: FloatArray | float) -> FloatArray | float:
        """Gives the x of the one-way lane's middle line at a distance y."""
        share = (y - self.lane_from) / (self.facade - self.lane_from)
        return self.lane_start + share * (self.door - self.lane_start)


def draw_layout(rng: np.random.Generator) -> Layout:
    """Draws the plan of a site.

    Args:
        rng: Source of the site's randomness.
    """
    facade = float(rng.uniform(11.9, 12.6))
    mirror = float(rng.choice([-1.0, 1.0]))
    lawn_end = facade - float(rng.uniform(2.2, 2.6))
    return Layout(
        near=float(rng.uniform(4.0, 4.3)),
        middle=float(rng.uniform(6.1, 6.5)),
        far=(lawn_end + facade) / 2,
        lawn=(lawn_end - float(rng.uniform(1.3, 1.8)), lawn_end),
        facade=facade,
        door=-mirror * float(rng.uniform(1.2, 3.2)),
        door_width=float(rng.uniform(1.9, 2.3)),
        door_height=float(rng.uniform(2.35, 2.6)),
        lane_start=mirror * float(rng.uniform(1.7, 2.5)),
        lane_from=2.2,
        lane_width=float(rng.uniform(1.35, 1.6)),
        mirror=mirror,
        sun=(float(rng.choice([-1, 1])) * float(rng.uniform(0.15, 0.40)), rng.uniform(-0.35, -0.1)),
    )
