"""What happens in a clip: who walks where and when, and what goes wrong."""

from __future__ import annotations

import numpy as np

from vad_training.synth.actors import Track, Walker, follow
from vad_training.synth.anomalies import stage
from vad_training.synth.body import random_look
from vad_training.synth.camera import FloatArray
from vad_training.synth.config import NORMAL, ClipSpec, Crowd
from vad_training.synth.plot import Story, Way, crossing, lane_way, pace, stride_of
from vad_training.synth.scene import Site

_MOST = {"calm": 3, "busy": 5}
"""Most people at once."""
_RATE = {"calm": (0.12, 0.24), "busy": (0.22, 0.42)}
"""How many parties set out, per second."""
_BACK = 0.5
"""How far in front of the lawn the calm site's nearer walkway lies, metres."""
_APART = 0.6
"""Least distance between people who do not belong together, metres."""
_BESIDE_ANOMALY = 1.2


def tell(site: Site, spec: ClipSpec, rng: np.random.Generator, fps: int) -> Story:
    """Makes up the story of a clip.

    Args:
        site: Where it happens.
        spec: The clip.
        rng: Source of the clip's randomness.
        fps: Frames per second.

    Returns:
        The story.

    Raises:
        InputError: The clip is too short for an anomaly.
    """
    if spec.kind == NORMAL:
        story = Story(spec.frames, [], [], np.zeros(spec.frames, np.bool_))
    else:
        story = stage(site, spec, rng, fps)
    _populate(site, story, spec.crowd, rng, fps)
    return story


def new_walker(rng: np.random.Generator, way: Way, speed: float, seconds: FloatArray) -> Walker:
    """Sends a person with random looks along a way.

    Args:
        rng: Source of randomness.
        way: Where the person goes.
        speed: Mean speed in metres per second.
        seconds: Time since the person set out, shape (frames,).
    """
    look = random_look(rng)
    track = follow(way, pace(rng, speed)(seconds))
    return Walker(track, look, stride_of(speed, look.height), float(rng.uniform(0, 2 * np.pi)))


def _populate(site: Site, story: Story, crowd: Crowd, rng: np.random.Generator, fps: int) -> None:
    """Adds the people who are simply there."""
    rate = float(rng.uniform(*_RATE[crowd]))
    most = _MOST[crowd] if not story.actors else _MOST[crowd] - 1
    time = -16.0
    while True:
        time += float(rng.exponential(1.0 / rate))
        if time * fps >= story.frames:
            return
        seconds = (np.arange(story.frames) - time * fps) / fps
        for _ in range(4):
            party = _party(site, crowd, rng, seconds)
            if _fits(story, party, most):
                story.actors.extend(party)
                break


def _party(site: Site, crowd: Crowd, rng: np.random.Generator, seconds: FloatArray) -> list[Walker]:
    """Makes one walker, or two who walk together."""
    layout, camera = site.layout, site.camera
    speed = float(rng.uniform(1.0, 1.6))
    lane = rng.choice(4, p=[0.20, 0.33, 0.25, 0.22])
    back = layout.lawn[0] - _BACK
    if lane == 3:
        way = lane_way(camera, layout, float(rng.uniform(-0.25, 0.25)))
        if crowd == "calm":
            edge = camera.edges(back)[1 if layout.mirror > 0 else 0]
            way = [(edge + 1.7 * layout.mirror, back), *way[3:]]
        return [new_walker(rng, way, speed, seconds)]
    if crowd == "calm":
        lane = 2 if lane == 2 or rng.random() < 0.6 else 1
    y = (layout.near, layout.middle if crowd == "busy" else back, layout.far)[lane]
    y += float(rng.uniform(-1, 1)) * (0.25, 0.65 if crowd == "busy" else 0.25, 0.4)[lane]
    direction = 1 if rng.random() < 0.5 else -1
    slope = float(rng.uniform(-0.3, 0.3))
    party = [new_walker(rng, crossing(camera, y, slope, direction), speed, seconds)]
    if rng.random() < 0.22:
        beside = y + 0.62 if lane < 2 and crowd == "busy" else y - 0.55
        later = seconds - float(rng.uniform(0.0, 0.25))
        way = crossing(camera, beside, slope, direction)
        friend = new_walker(rng, way, speed, later)
        # Two who walk together keep their pace: the same distance at the same time.
        friend.track = follow(way, party[0].track.travelled - float(rng.uniform(0.0, 0.3)))
        party.append(friend)
    return party


def _fits(story: Story, party: list[Walker], crowd: int) -> bool:
    """Tells whether newcomers neither crowd the site nor walk into anybody."""
    present = sum((a.track.present.astype(int) for a in [*story.actors, *party]), 0)
    if int(np.max(present)) > crowd:
        return False
    for actor in story.actors:
        apart = _BESIDE_ANOMALY if any(actor is t for t in story.targets) else _APART
        if any(_closest(actor.track, new.track) < apart for new in party):
            return False
    return True


def _closest(a: Track, b: Track) -> float:
    """Gives the least distance between two tracks, metres."""
    both = a.present & b.present
    if not both.any():
        return float("inf")
    return float(np.linalg.norm(a.xy[both] - b.xy[both], axis=1).min())
