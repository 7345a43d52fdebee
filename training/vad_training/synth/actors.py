"""Who and what moves on the site: walkers, runners, cyclists, a falling person, a thrown thing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vad_training.synth.body import (
    CROUCHING,
    LYING,
    Look,
    Pose,
    dress,
    place,
    running,
    skeleton,
    walking,
)
from vad_training.synth.camera import FloatArray
from vad_training.synth.shapes import Colour, Mesh

_LEG = 0.49
"""Length of the leg as a share of the body height."""


@dataclass(frozen=True)
class Track:
    """Where something is in every frame of a clip.

    Attributes:
        xy: Position on the ground, shape (frames, 2), metres.
        heading: Direction of travel, shape (frames,), radians.
        travelled: Distance covered since the start, shape (frames,), metres.
        present: Frames in which it exists, shape (frames,).
    """

    xy: FloatArray
    heading: FloatArray
    travelled: FloatArray
    present: NDArray[np.bool_]


def follow(waypoints: list[tuple[float, float]], travelled: FloatArray) -> Track:
    """Moves something along a way.

    Args:
        waypoints: Corners of the way, (x, y) in metres; corners are rounded.
        travelled: Distance along the way in every frame, shape (frames,), metres; outside of
            the way's length the thing is absent.

    Returns:
        The track.
    """
    corners = np.asarray(waypoints, dtype=np.float64)
    steps = np.linalg.norm(np.diff(corners, axis=0), axis=1)
    reach = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.arange(0.0, reach[-1], 0.1)
    line = np.stack([np.interp(at, reach, corners[:, i]) for i in (0, 1)], axis=1)
    # Averaging over 1.3 m of the way rounds the corners as people do.
    width = min(13, max(1, len(at) // 2 * 2 - 1))
    padded = np.pad(line, ((width // 2, width // 2), (0, 0)), mode="reflect", reflect_type="odd")
    kernel = np.ones(width) / width
    line = np.stack([np.convolve(padded[:, i], kernel, mode="valid") for i in (0, 1)], axis=1)
    slope = np.gradient(line, axis=0)
    turn = np.unwrap(np.arctan2(slope[:, 1], slope[:, 0]))
    xy = np.stack([np.interp(travelled, at, line[:, i]) for i in (0, 1)], axis=1)
    present = (travelled >= 0) & (travelled <= at[-1])
    return Track(xy, np.interp(travelled, at, turn), travelled, present)


class Actor(Protocol):
    """Something that moves through a clip."""

    track: Track

    def mesh(self, frame: int) -> Mesh:
        """Gives its shape on the site in a frame in which it is present."""


@dataclass
class Walker:
    """A person who walks.

    Attributes:
        track: Where the person is.
        look: What the person looks like.
        stride: Length of a stride (two steps), metres.
        phase: Position in the stride at the start, radians.
    """

    track: Track
    look: Look
    stride: float
    phase: float

    def pose(self, frame: int) -> Pose:
        """Gives the person's pose in a frame."""
        return walking(self._phase(frame), self.stride, _LEG * self.look.height)

    def mesh(self, frame: int) -> Mesh:
        """Gives the person's shape in a frame."""
        bones = skeleton(self.pose(frame), self.look.height)
        x, y = self.track.xy[frame]
        return place(dress(bones, self.look), x, y, float(self.track.heading[frame]))

    def _phase(self, frame: int) -> float:
        return self.phase + 2 * np.pi * float(self.track.travelled[frame]) / self.stride


class Runner(Walker):
    """A person who runs."""

    def pose(self, frame: int) -> Pose:
        """Gives the person's pose in a frame."""
        return running(self._phase(frame))


@dataclass
class Faller(Walker):
    """A person who collapses, lies on the ground, gets up and walks on.

    Attributes:
        fall: Share of the way from standing to crouching (0 to 1) and on to lying (1 to 2) in
            every frame, shape (frames,).
    """

    fall: FloatArray

    def pose(self, frame: int) -> Pose:
        """Gives the person's pose in a frame."""
        share = float(self.fall[frame])
        upright = super().pose(frame)
        if share <= 1.0:
            return upright.towards(CROUCHING, share)
        # A small movement of the arms and knees: the person lives.
        bend = 0.3 + 0.25 * float(np.sin(0.3 * frame))
        return CROUCHING.towards(replace(LYING, knee=(bend, LYING.knee[1])), share - 1.0)


@dataclass
class Thrower(Walker):
    """A person who throws something while walking.

    Attributes:
        release: Seconds until the throw in every frame, shape (frames,); negative afterwards.
    """

    release: FloatArray

    def pose(self, frame: int) -> Pose:
        """Gives the person's pose in a frame."""
        return throwing(super().pose(frame), float(self.release[frame]))

    def hand(self, frame: int) -> FloatArray:
        """Gives where the right hand is in a frame, shape (3,), metres."""
        bones = skeleton(self.pose(frame), self.look.height)
        point = Mesh([bones.wrist[1] + np.array([0.08, 0.0, 0.02])])
        x, y = self.track.xy[frame]
        return place(point, x, y, float(self.track.heading[frame])).points[0]


WINDUP_SECONDS = 0.7
"""How long before the release the arm begins to swing back."""


def throwing(base: Pose, until: float) -> Pose:
    """Overlays the throwing arm on a pose.

    Args:
        base: The pose of the rest of the body.
        until: Seconds until the release; negative afterwards.
    """
    times = (-0.6, -0.3, -0.12, 0.0, 0.22, 0.45, WINDUP_SECONDS)
    shoulder = np.interp(until, times, (0.0, 0.5, 1.0, 2.2, 3.6, 2.6, 0.0))
    elbow = np.interp(until, times, (0.25, 0.3, 0.2, 0.35, 1.2, 1.0, 0.25))
    weight = float(np.clip(min(until + 0.6, WINDUP_SECONDS - until) / 0.15, 0.0, 1.0))
    arm = (
        base.shoulder[1] + weight * (float(shoulder) - base.shoulder[1]),
        base.elbow[1] + weight * (float(elbow) - base.elbow[1]),
    )
    return base.with_right_arm(*arm)


@dataclass
class Thing:
    """A bag or ball.

    Attributes:
        track: Where it is above the ground.
        height: Height of its middle, shape (frames,), metres.
        spin: How far it has turned, shape (frames,), radians.
        size: Half its width, metres.
        colour: Its colour.
        ball: Whether it is a ball; otherwise a bag with handles.
    """

    track: Track
    height: FloatArray
    spin: FloatArray
    size: float
    colour: Colour
    ball: bool

    def mesh(self, frame: int) -> Mesh:
        """Gives its shape in a frame."""
        mesh = Mesh()
        middle = np.array([0.0, 0.0, float(self.height[frame])])
        c, s = float(np.cos(self.spin[frame])), float(np.sin(self.spin[frame]))
        turn = np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
        if self.ball:
            mesh.add([middle], [self.size], self.colour)
            for axis in ((1.0, 0.3, 0.0), (-0.6, -0.5, 0.7), (0.0, -0.6, -0.9)):
                spot = turn @ (np.asarray(axis) / np.linalg.norm(axis)) * self.size * 0.72
                mesh.add([middle + spot], [self.size * 0.34], (36.0, 36.0, 40.0), rounded=False)
        else:
            ends = [turn @ np.array([a * self.size, 0.0, -0.1 * self.size]) for a in (-1.0, 1.0)]
            width = 0.62 * self.size
            mesh.add([middle + e for e in ends], [width, width], self.colour)
            handle = [turn @ np.array([a * 0.5, 0.0, 0.9]) * self.size for a in (-1.0, 1.0)]
            strap: Colour = (30.0, 32.0, 36.0)
            mesh.add([middle + h for h in handle], [0.1 * self.size] * 2, strap)
            mesh.add([middle, middle + handle[0]], [0.1 * self.size] * 2, strap, bias=0.05)
            mesh.add([middle, middle + handle[1]], [0.1 * self.size] * 2, strap, bias=0.05)
        x, y = self.track.xy[frame]
        return place(mesh, x, y, float(self.track.heading[frame]))
