"""A person on a bicycle with turning wheels and pedals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vad_training.synth.actors import Track
from vad_training.synth.body import Look, Pose, Skeleton, dress, place, skeleton
from vad_training.synth.camera import FloatArray
from vad_training.synth.shapes import Colour, Mesh

_WHEEL = 0.34
_BASE = 0.52
"""Half the distance between the two axles, metres."""
_CRANK = np.array([-0.08, 0.0, 0.29])
_CRANK_LENGTH = 0.17
_SADDLE = np.array([-0.24, 0.0, 0.93])
_BARS = np.array([0.40, 0.0, 1.02])
_TYRE: Colour = (26.0, 26.0, 28.0)
_STEEL: Colour = (150.0, 152.0, 154.0)
_RIM_POINTS = 14
_GEARING = 2.6
"""Turns of the wheel for one turn of the pedals."""


@dataclass
class Cyclist:
    """A person who rides a bicycle.

    Attributes:
        track: Where the bicycle is.
        look: What the rider looks like.
        frame_colour: Colour of the bicycle's frame.
    """

    track: Track
    look: Look
    frame_colour: Colour

    def mesh(self, frame: int) -> Mesh:
        """Gives bicycle and rider in a frame."""
        roll = float(self.track.travelled[frame]) / _WHEEL
        mesh = self._bicycle(roll)
        rider = dress(_rider(self.look.height, roll / _GEARING), self.look)
        first = len(mesh.points)
        mesh.points += rider.points
        mesh.radii += rider.radii
        mesh.parts += [(a + first, b + first, c, bias, r) for a, b, c, bias, r in rider.parts]
        x, y = self.track.xy[frame]
        return place(mesh, x, y, float(self.track.heading[frame]))

    def _bicycle(self, roll: float) -> Mesh:
        """Builds the bicycle in its own frame: x forward, y to the left, z up."""
        mesh = Mesh()
        angles = np.linspace(0, 2 * np.pi, _RIM_POINTS, endpoint=False) - roll
        for axle in (-_BASE, _BASE):
            middle = np.array([axle, 0.0, _WHEEL])
            rim = [middle + _WHEEL * 0.95 * np.array([np.cos(a), 0.0, np.sin(a)]) for a in angles]
            for a, b in zip(rim, [*rim[1:], rim[0]], strict=True):
                mesh.add([a, b], [0.026, 0.026], _TYRE, rounded=False)
            for spoke in rim[::2]:
                mesh.add([middle, spoke], [0.006, 0.006], _STEEL, rounded=False)
        rear, front = np.array([-_BASE, 0.0, _WHEEL]), np.array([_BASE, 0.0, _WHEEL])
        head = np.array([0.34, 0.0, 0.86])
        seat = _moved(_SADDLE, 0.0, 0.0, -0.12)
        tubes = (
            (rear, _CRANK),
            (rear, seat),
            (_CRANK, seat),
            (_CRANK, head),
            (seat, head),
            (front, head),
        )
        for a, b in tubes:
            mesh.add([a, b], [0.024, 0.022], self.frame_colour)
        mesh.add([seat, _moved(_SADDLE, 0.0, 0.0, -0.05)], [0.016, 0.016], _STEEL)
        saddle = [_moved(_SADDLE, -0.1, 0.0, -0.04), _moved(_SADDLE, 0.12, 0.0, -0.05)]
        mesh.add(saddle, [0.06, 0.03], _TYRE)
        mesh.add([head, _BARS], [0.018, 0.018], _STEEL)
        grips = [_moved(_BARS, 0.0, side, 0.0) for side in (-0.26, 0.26)]
        mesh.add(grips, [0.018, 0.018], _TYRE)
        for pedal in _pedals(roll / _GEARING):
            mesh.add([_CRANK, pedal], [0.018, 0.018], _STEEL)
        return mesh


def _moved(points: FloatArray, x: float, y: float, z: float) -> FloatArray:
    """Shifts points by some metres."""
    moved: FloatArray = points + np.array([x, y, z])
    return moved


def _pedals(turn: float) -> list[FloatArray]:
    """Places the left and the right pedal."""
    return [
        _moved(_CRANK, _CRANK_LENGTH * np.sin(turn + a), side, -_CRANK_LENGTH * np.cos(turn + a))
        for a, side in ((0.0, 0.09), (np.pi, -0.09))
    ]


def _bend(start: FloatArray, end: FloatArray, upper: float, lower: float, way: float) -> FloatArray:
    """Finds the joint between two bones of given lengths, bent forward (1) or back (-1)."""
    span = end - start
    distance = min(float(np.linalg.norm(span)), 0.999 * (upper + lower))
    along = (upper**2 - lower**2 + distance**2) / (2 * distance)
    off = np.sqrt(max(upper**2 - along**2, 0.0))
    unit = span / np.linalg.norm(span)
    side = way * np.array([-unit[2], 0.0, unit[0]])
    joint: FloatArray = start + along * unit + off * side / max(float(np.linalg.norm(side)), 1e-6)
    return joint


def _rider(height: float, turn: float) -> Skeleton:
    """Seats a skeleton on the bicycle with its feet on the pedals and its hands on the bars."""
    bones = skeleton(Pose(lean=0.62, nod=-0.45), height)
    shift = _moved(_SADDLE, 0.02, 0.0, 0.04) - bones.pelvis
    hip, shoulder = bones.hip + shift, bones.shoulder + shift
    ankle = np.stack([_moved(p, -0.08, 0.0, 0.07) for p in _pedals(turn)])
    wrist = np.stack([_moved(_BARS, -0.02, side, 0.03) for side in (0.24, -0.24)])
    knee = np.stack([_bend(hip[i], ankle[i], 0.25 * height, 0.25 * height, 1.0) for i in (0, 1)])
    elbow = np.stack(
        [_bend(shoulder[i], wrist[i], 0.165 * height, 0.165 * height, -1.0) for i in (0, 1)]
    )
    return Skeleton(
        pelvis=bones.pelvis + shift,
        hip=hip,
        knee=knee,
        ankle=ankle,
        toe=_moved(ankle, 0.14, 0.0, -0.03),
        chest=bones.chest + shift,
        shoulder=shoulder,
        elbow=elbow,
        wrist=wrist,
        head=bones.head + shift,
        facing=bones.facing,
        back=bones.back,
    )
