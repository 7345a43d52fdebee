"""The staged anomalies: how each kind goes, and when it fits into a clip."""

from __future__ import annotations

import numpy as np

from vad_runtime.contracts.errors import InputError
from vad_training.synth.actors import (
    WINDUP_SECONDS,
    Actor,
    Faller,
    Runner,
    Thing,
    Thrower,
    Track,
    Walker,
    follow,
)
from vad_training.synth.bicycle import Cyclist
from vad_training.synth.body import random_look
from vad_training.synth.camera import Camera, FloatArray
from vad_training.synth.config import LEAD_SECONDS, ClipSpec
from vad_training.synth.plot import Story, Way, crossing, lane_way, pace, stride_of
from vad_training.synth.scene import Site
from vad_training.synth.shapes import Colour

_TRIES = 40
_TAIL = 3
"""Frames that stay normal at a clip's end."""
_GRAVITY = 9.81


class _TooLongError(Exception):
    """This draw of an anomaly does not fit into the clip; another may."""


def stage(site: Site, spec: ClipSpec, rng: np.random.Generator, fps: int) -> Story:
    """Stages an anomaly in an otherwise empty clip.

    Args:
        site: Where it happens.
        spec: The clip, whose kind is a kind of anomaly.
        rng: Source of the clip's randomness.
        fps: Frames per second.

    Returns:
        The story, with the anomaly's actors only.

    Raises:
        InputError: The clip is too short.
    """
    play = _Stage(site, rng, spec, fps)
    acts = {
        "runner": play.runner,
        "cyclist": play.cyclist,
        "thrown_object": play.thrown_object,
        "lying": play.lying,
        "wrong_way": play.wrong_way,
    }
    for _ in range(_TRIES):
        try:
            story = acts[spec.kind]()
        except _TooLongError:
            continue
        if spec.crowd == "calm":
            # Nobody belongs into the forecourt: whoever is there counts from the first frame on.
            there = np.any([actor.track.present for actor in story.actors], axis=0)
            return Story(story.frames, story.actors, list(story.actors), there)
        return story
    raise InputError(
        f"test clips of {spec.frames / fps:g} s leave no room for a {spec.kind} event after the "
        f"normal footage: use test clips of 15 s or more"
    )


class _Stage:
    """The stage of one clip; every method draws one anomaly or raises _TooLongError."""

    def __init__(self, site: Site, rng: np.random.Generator, spec: ClipSpec, fps: int) -> None:
        self._site, self._rng, self._frames, self._fps = site, rng, spec.frames, fps
        # Variants take turns, so that even a small set shows each of them.
        self._second = spec.number % 2 == 1
        self._calm = spec.crowd == "calm"
        # Short clips, as tests use them, get proportionally less normal footage first.
        self._lead = round(min(LEAD_SECONDS, 0.3 * spec.frames / fps) * fps) + 1

    def runner(self) -> Story:
        """Somebody runs across the site."""
        look = random_look(self._rng)
        speed = float(self._rng.uniform(3.5, 5.0))
        track = self._passing(self._side_way(), speed)
        return self._alone(Runner(track, look, 0.55 * speed + 0.2, self._phase()))

    def cyclist(self) -> Story:
        """Somebody rides a bicycle across the site."""
        colours: tuple[Colour, ...] = (
            (40.0, 44.0, 150.0),
            (150.0, 90.0, 40.0),
            (60.0, 130.0, 60.0),
            (48.0, 48.0, 52.0),
        )
        look = random_look(self._rng)
        track = self._passing(self._side_way(), float(self._rng.uniform(4.0, 6.5)))
        return self._alone(Cyclist(track, look, colours[int(self._rng.integers(4))]))

    def wrong_way(self) -> Story:
        """Somebody comes out of the entrance and walks against the arrows."""
        rng, layout, camera = self._rng, self._site.layout, self._site.camera
        way = lane_way(camera, layout, float(rng.uniform(-0.25, 0.25)))[::-1]
        if self._calm:
            # In from the other side, into the lane and out where it begins.
            side = -layout.mirror
            edge = camera.edges(5.4)[1 if side > 0 else 0]
            way = [(edge + 1.3 * side, 5.4), (float(layout.lane_x(5.1)), 5.1), *way[5:]]
        elif self._second:
            # Half-way, leave the lane and cut across the plaza, towards the other near corner.
            side = -layout.mirror
            edge = camera.edges(3.5)[1 if side > 0 else 0]
            way = [*way[:4], (float(layout.lane_x(6.3)), 6.3), (edge + 1.3 * side, 3.5)]
        look = random_look(rng)
        speed = float(rng.uniform(1.25, 1.7))
        track = self._passing(way, speed)
        return self._alone(Walker(track, look, stride_of(speed, look.height), self._phase()))

    def lying(self) -> Story:
        """Somebody collapses on a walkway, lies there, gets up and walks on."""
        rng, layout, fps = self._rng, self._site.layout, self._fps
        room = (self._frames - _TAIL - self._lead) / fps
        rest = min(float(rng.uniform(3.0, 5.5)), room - 3.3)
        if rest < 1.0:
            raise _TooLongError
        # Down to the knees, down to the ground, lie, up to the knees, up.
        times = np.cumsum([0.0, 0.40, 0.55, rest, 1.1, 0.8])
        start = int(rng.integers(self._lead, self._frames - _TAIL - int(times[-1] * fps)))
        seconds = (np.arange(self._frames) - start) / fps
        fall = np.interp(seconds, times, (0.0, 1.0, 2.0, 2.0, 1.0, 0.0))
        near = self._second or self._calm
        y = (layout.near + 0.5 if near else layout.middle) + rng.uniform(-0.2, 0.2)
        way = crossing(self._site.camera, float(y), 0.0, self._direction())
        length = abs(way[1][0] - way[0][0])
        before = float(rng.uniform(1.1, 1.5))
        slide = np.interp(seconds, (0.0, float(times[2])), (0.0, 0.35))
        walked = np.minimum(seconds, 0.0) * before + np.maximum(seconds - times[-1], 0.0) * 1.0
        # In the calm site the walk before it counts as well, so it is short.
        place = rng.uniform(0.40, 0.52) if not self._calm else rng.uniform(0.32, 0.42)
        track = follow(way, float(place) * length + walked + slide)
        look = random_look(rng)
        person = Faller(track, look, stride_of(before, look.height), self._phase(), fall)
        active = (seconds >= 0) & (seconds < times[-1])
        return Story(self._frames, [person], [person], active)

    def thrown_object(self) -> Story:
        """A bag is thrown by a passer-by, or a ball comes flying in from the side."""
        return self._ball() if self._second else self._bag()

    def _ball(self) -> Story:
        """A ball flies in, bounces and rolls out on the other side."""
        rng, camera = self._rng, self._site.camera
        y = float(self._forecourt() + rng.uniform(*((-0.3, 0.5) if self._calm else (-0.9, 0.6))))
        slope = float(rng.uniform(-0.4, 0.4) if self._calm else rng.uniform(-1.2, 1.2))
        way = crossing(camera, y, slope, self._direction())
        # A ball in the calm site is one to exercise with.
        size = float(rng.uniform(0.30, 0.36) if self._calm else rng.uniform(0.23, 0.28))
        lift = float(rng.uniform(3.0, 4.5))
        flight = _fly(1.6, lift, float(rng.uniform(3.4, 4.6)), size, 0.66, self._fps)
        track = follow(way, flight[:, 0] + 1.0)
        first, last = self._seen(track, flight[:, 1])
        start = self._start(first, last)
        at = np.clip(np.arange(self._frames) - start, 0, len(flight) - 1)
        begun = np.arange(self._frames) >= start
        moved = follow(way, flight[at, 0] + 1.0)
        moved = Track(moved.xy, moved.heading, moved.travelled, moved.present & begun)
        colours: tuple[Colour, ...] = (
            (60.0, 120.0, 225.0),
            (210.0, 214.0, 216.0),
            (60.0, 200.0, 220.0),
        )
        colour = colours[int(rng.integers(3))]
        ball = Thing(moved, flight[at, 1], flight[at, 0] / size, size, colour, True)
        return self._alone(ball)

    def _bag(self) -> Story:
        """A passer-by hurls a bag ahead; it flies, hits the ground and slides out of the frame."""
        rng, camera, fps = self._rng, self._site.camera, self._fps
        y = float(self._forecourt() + rng.uniform(*((-0.3, 0.3) if self._calm else (-0.9, 0.3))))
        way = crossing(camera, y, 0.0, self._direction())
        size = float(rng.uniform(0.23, 0.28))
        length = abs(way[1][0] - way[0][0])
        flight = _fly(
            2.0, float(rng.uniform(2.6, 3.6)), float(rng.uniform(3.6, 4.6)), 0.62 * size, 0.40, fps
        )
        at_release = float(rng.uniform(0.27, 0.38)) * length
        lasts = int(np.searchsorted(flight[:, 0], length - at_release)) + 1
        windup = int(np.ceil(WINDUP_SECONDS * fps))
        low, high = self._lead + windup, self._frames - _TAIL - lasts
        if high <= low:
            raise _TooLongError
        release = int(rng.integers(low, high))
        until = (release - np.arange(self._frames)) / fps
        speed = float(rng.uniform(1.1, 1.4))
        look = random_look(rng)
        person = Thrower(
            follow(way, at_release - speed * until),
            look,
            stride_of(speed, look.height),
            self._phase(),
            until,
        )
        # The bag hangs from the hand until the release and flies from there.
        xy = np.zeros((self._frames, 2))
        height = np.zeros(self._frames)
        spin = np.zeros(self._frames)
        present = np.zeros(self._frames, np.bool_)
        for frame in range(self._frames):
            since = frame - release
            if since <= 0 and person.track.present[frame]:
                hand = person.hand(frame)
                xy[frame], height[frame], present[frame] = hand[:2], hand[2] - 0.55 * size, True
            elif since > 0 and since <= lasts:
                ahead = flight[since, 0] * np.sign(way[1][0] - way[0][0])
                xy[frame] = xy[release] + (ahead, 0.0)
                drop = (height[release] - 2.0) * max(0.0, 1.0 - since / (0.5 * fps))
                height[frame] = max(flight[since, 1] + drop, 0.5 * size)
                spin[frame] = min(flight[since, 2], 9.0)
                present[frame] = True
        heading = np.full(self._frames, float(person.track.heading[0]))
        track = Track(xy, heading, person.track.travelled, present)
        colours: tuple[Colour, ...] = (
            (44.0, 46.0, 52.0),
            (50.0, 60.0, 170.0),
            (150.0, 90.0, 40.0),
            (70.0, 150.0, 190.0),
        )
        bag = Thing(track, height, spin, size, colours[int(rng.integers(4))], False)
        active = (until <= WINDUP_SECONDS) & (until >= -lasts / fps)
        return Story(self._frames, [person, bag], [bag], active)

    def _forecourt(self) -> float:
        """Gives the y around which things happen."""
        layout = self._site.layout
        return layout.near + 0.35 if self._calm else layout.middle

    def _direction(self) -> int:
        return 1 if self._rng.random() < 0.5 else -1

    def _phase(self) -> float:
        return float(self._rng.uniform(0.0, 2 * np.pi))

    def _side_way(self) -> Way:
        """A way for somebody fast: along the middle or the far walkway, slightly askew."""
        rng, layout = self._rng, self._site.layout
        if self._calm:
            y = self._forecourt() + rng.uniform(-0.35, 0.45)
            return crossing(self._site.camera, float(y), 0.3, self._direction())
        middle = rng.random() < 0.85
        y = layout.middle + rng.uniform(-0.6, 0.6) if middle else layout.far
        slope = float(rng.uniform(-1.0, 1.0)) if middle else 0.0
        return crossing(self._site.camera, float(y), slope, self._direction())

    def _passing(self, way: Way, speed: float) -> Track:
        """Puts a passage along a way at a random time at which all of it is in the clip."""
        seconds = np.arange(self._frames) / self._fps
        travelled = pace(self._rng, speed)
        probe = follow(way, travelled(seconds))
        first, last = self._seen(probe, np.full(self._frames, 0.9))
        if probe.present[-1]:
            raise _TooLongError
        return follow(way, travelled(seconds - self._start(first, last) / self._fps))

    def _start(self, first: int, last: int) -> int:
        """Draws a start so that what is seen from `first` to `last` lies within the clip."""
        low, high = self._lead - first, self._frames - _TAIL - last
        if high <= low:
            raise _TooLongError
        return int(self._rng.integers(low, high))

    def _seen(self, track: Track, height: FloatArray) -> tuple[int, int]:
        """Gives the first and the last frame of a track's passage through the picture."""
        camera: Camera = self._site.camera
        points = np.column_stack([track.xy, height])
        pixel, depth = camera.project(points)
        margin = camera.focal * 0.9 / depth
        inside = track.present & (
            np.abs(pixel[:, 0] - camera.width / 2) < camera.width / 2 + margin
        )
        seen = np.flatnonzero(inside & (track.xy[:, 1] < self._site.layout.facade + 0.6))
        if not len(seen):
            raise _TooLongError
        return int(seen[0]), int(seen[-1])

    def _alone(self, actor: Actor) -> Story:
        """Gives the story in which an actor is anomalous as long as it is there."""
        return Story(self._frames, [actor], [actor], actor.track.present.copy())


def _fly(
    height: float, lift: float, speed: float, rest: float, bounce: float, fps: int
) -> FloatArray:
    """Follows something thrown until it has long left the site.

    Args:
        height: Height at the release, metres.
        lift: Upward speed at the release, metres per second.
        speed: Speed along the ground at the release, metres per second.
        rest: Height of its middle when it lies on the ground, metres.
        bounce: Share of the vertical speed that a bounce gives back.
        fps: Frames per second.

    Returns:
        Distance along the ground (m), height (m) and turn (rad) in every frame, shape (n, 3).
    """
    steps = 16
    dt = 1.0 / (fps * steps)
    distance, turn, z, rise = 0.0, 0.0, height, lift
    rows = [(distance, z, turn)]
    for _ in range(8 * fps):
        for _ in range(steps):
            rise -= _GRAVITY * dt
            z += rise * dt
            if z < rest:
                z = rest
                rise = -rise * bounce if rise < -0.8 else 0.0
                speed *= 0.86 if rise else 1.0
            # Rolling costs little; it never quite stops, so that it leaves the frame.
            speed = max(speed - (0.25 * dt if z == rest else 0.0), 1.5)
            distance += speed * dt
            turn += (5.0 if z > rest + 0.02 else 0.0) * dt
        rows.append((distance, z, turn))
    return np.asarray(rows)
