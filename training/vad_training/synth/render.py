"""Films a clip: lays shadows, people and things over the empty site, then exposes the sensor."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from vad_training.synth.actors import Actor
from vad_training.synth.camera import Frame, Image, Light, Sensor
from vad_training.synth.plot import Story
from vad_training.synth.scene import Occluder, Site
from vad_training.synth.shapes import Mesh, Sprite, draw, shadow

_SHADOW = 0.36
_CONTACT = 0.50
_DIM = 0.45
"""Below this share of daylight, somebody in the entrance does not count as visible."""


def film(site: Site, story: Story, seed: list[int], fps: int) -> Iterator[tuple[Frame, Image]]:
    """Films a clip frame by frame.

    Args:
        site: Where it happens.
        story: What happens.
        seed: Seeds the clip's light and sensor noise.
        fps: Frames per second.

    Yields:
        The frame, shape (height, width, 3), order blue, green, red; and how much of every pixel
        shows the anomalous persons and things, shape (height, width), 0 to 1. It is all zero
        outside of the anomaly's time.
    """
    rng = np.random.default_rng(seed)
    light = Light(rng, site.camera, fps)
    sensor = Sensor(rng, site.camera)
    targets = [id(actor) for actor in story.targets]
    for frame in range(story.frames):
        present = [actor for actor in story.actors if actor.track.present[frame]]
        picture = site.background.copy()
        truth = np.zeros(picture.shape[:2], np.float32)
        _compose(
            picture,
            truth,
            [(actor, actor.mesh(frame)) for actor in present],
            targets if story.active[frame] else [],
            site,
            frame,
            light.sun(frame),
        )
        lit = cv2.multiply(picture, light.gain(frame, float(rng.normal(0.0, 0.0012))))
        yield sensor.expose(np.asarray(lit, dtype=np.float32)), truth


def _compose(
    picture: Image,
    truth: Image,
    cast: list[tuple[Actor, Mesh]],
    targets: list[int],
    site: Site,
    frame: int,
    sun: float,
) -> None:
    """Draws everybody into the picture, farthest first."""
    for actor, mesh in cast:
        if actor.track.xy[frame, 1] < site.layout.facade:
            _cast_shadow(picture, mesh, site, sun)
    waiting: list[tuple[float, Sprite | None, bool, Occluder | None]] = []
    for actor, mesh in cast:
        y = float(actor.track.xy[frame, 1])
        # Indoors it is dark, and darker with every step.
        tint = float(np.clip(1.0 - (y - site.layout.facade + 0.1) / 1.3, 0.12, 1.0))
        wanted = id(actor) in targets and tint > _DIM
        waiting.append((y, draw(mesh, site.camera, tint), wanted, None))
    boxes = [(y, sprite.window()) for y, sprite, _, _ in waiting if sprite is not None]
    for piece in site.occluders:
        for y, window in boxes:
            if y > piece.y:
                cut = _cut(piece, window)
                if cut is not None:
                    waiting.append((piece.y, None, False, cut))
    for _, sprite, target, occluder in sorted(waiting, key=lambda item: -item[0]):
        if sprite is not None:
            window = sprite.window()
            clear = 1.0 - sprite.alpha
            picture[window] *= clear[:, :, None]
            picture[window] += sprite.colour
            truth[window] *= clear
            if target:
                truth[window] += sprite.alpha
        elif occluder is not None:
            # The empty site already shows the occluder: bring it back where it was painted over.
            clear = 1.0 - occluder.alpha
            area = picture[occluder.window]
            area *= clear[:, :, None]
            area += site.background[occluder.window] * occluder.alpha[:, :, None]
            truth[occluder.window] *= clear


def _cut(piece: Occluder, window: tuple[slice, slice]) -> Occluder | None:
    """Gives the part of an occluder within a window of the frame, or None if there is none."""
    (top, left), (bottom, right) = (
        (max(a.start, b.start) for a, b in zip(piece.window, window, strict=True)),
        (min(a.stop, b.stop) for a, b in zip(piece.window, window, strict=True)),
    )
    if bottom <= top or right <= left:
        return None
    rows, columns = piece.window
    alpha = piece.alpha[
        top - rows.start : bottom - rows.start, left - columns.start : right - columns.start
    ]
    return Occluder(piece.y, (slice(top, bottom), slice(left, right)), alpha)


def _cast_shadow(picture: Image, mesh: Mesh, site: Site, sun: float) -> None:
    """Darkens the ground under a thing and where it keeps the sun off."""
    low = [i for i, p in enumerate(mesh.points) if p[2] < 0.35]
    touch = Mesh([mesh.points[i] for i in low], [1.6 * mesh.radii[i] + 0.02 for i in low])
    touch.parts = [(i, i + 1, (0.0, 0.0, 0.0), 0.0, False) for i in range(len(low))]
    # The higher a thing is above the ground, the fainter and softer its shadow.
    gap = max(0.0, min(float(p[2]) for p in mesh.points) - 0.2)
    casts: list[tuple[Mesh, tuple[float, float], float, float]] = [
        (mesh, site.layout.sun, 0.06 + 0.05 * gap, _SHADOW * sun / (1 + 1.5 * gap))
    ]
    if low:
        casts.append((touch, (0.0, 0.0), 0.05, _CONTACT))
    for what, slope, softness, strength in casts:
        found = shadow(what, site.camera, slope, softness)
        if found is not None:
            window, share = found
            # The building stands upright, so a shadow on the ground ends at its foot.
            open_ground = 1.0 - site.occluders[0].alpha[window]
            picture[window] *= (1.0 - strength * share * open_ground)[:, :, None]
