"""The site: where its walkways lie, what stands on it, and how it looks when nobody is there."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vad_training.synth.camera import Camera, Image
from vad_training.synth.furniture import furniture
from vad_training.synth.ground import paint
from vad_training.synth.layout import Layout, draw_layout
from vad_training.synth.shapes import Mesh, draw, shadow

SUPERSAMPLE = 2


@dataclass(frozen=True)
class Occluder:
    """A part of the background that can hide people.

    Attributes:
        y: Distance at which it stands, metres.
        window: Rows and columns that it covers.
        alpha: How much of each pixel it covers, shape (h, w), 0 to 1.
    """

    y: float
    window: tuple[slice, slice]
    alpha: Image


@dataclass(frozen=True)
class Site:
    """A site ready to be filmed.

    Attributes:
        camera: Where it is seen from.
        layout: Its plan.
        background: The empty site without lens or light effects, shape (height, width, 3).
        occluders: What can hide people, in no particular order.
    """

    camera: Camera
    layout: Layout
    background: Image
    occluders: list[Occluder]


def build_site(seed: int, width: int, height: int) -> Site:
    """Builds the site of a data set.

    Args:
        seed: The data set's seed; nothing else has an influence but the frame's size.
        width: Frame width in pixels.
        height: Frame height in pixels.

    Returns:
        The site.
    """
    rng = np.random.default_rng([seed, 0x517E])
    camera = Camera(
        width=width,
        height=height,
        focal=height * float(rng.uniform(1.02, 1.10)),
        mount=float(rng.uniform(2.95, 3.3)),
        pitch=float(np.radians(rng.uniform(17.5, 20.0))),
        yaw=float(np.radians(rng.uniform(-3.0, 3.0))),
    )
    layout = draw_layout(rng)
    picture, solid = _paint_fine(rng, camera, layout)
    background = picture
    occluders = [Occluder(layout.facade, (slice(0, height), slice(0, width)), solid)]
    meshes = furniture(rng, layout)
    # Shadows first: they lie on the ground under everything that stands.
    for mesh in meshes:
        cast = shadow(mesh, camera, layout.sun, 0.05)
        if cast is not None:
            window, strength = cast
            background[window] *= (1.0 - 0.38 * strength * (1 - solid[window]))[:, :, None]
    for mesh in sorted(meshes, key=_mesh_y, reverse=True):
        sprite = draw(mesh, camera)
        if sprite is None:
            continue
        area = background[sprite.window()]
        grain = rng.normal(1.0, 0.05, sprite.alpha.shape).astype(np.float32)
        area *= (1 - sprite.alpha)[:, :, None]
        area += sprite.colour * cv2.GaussianBlur(grain, (0, 0), 0.7)[:, :, None]
        occluders.append(Occluder(_mesh_y(mesh), sprite.window(), sprite.alpha))
    blurred = np.asarray(cv2.GaussianBlur(background, (0, 0), 0.55), dtype=np.float32)
    return Site(camera, layout, blurred, occluders)


def _mesh_y(mesh: Mesh) -> float:
    """Gives the distance of a mesh: where it meets the ground, seen from the camera."""
    return float(min(p[1] for p in mesh.points if p[2] < 0.6))


def _paint_fine(rng: np.random.Generator, camera: Camera, layout: Layout) -> tuple[Image, Image]:
    """Paints ground and building finely, then shrinks them, so that edges are smooth.

    Returns:
        The picture, shape (height, width, 3), and the share of each pixel that the building's
        wall covers (the open door does not count), shape (height, width).
    """
    rays = camera.rays(SUPERSAMPLE)
    at_wall = layout.facade / rays[:, :, 1]
    wall_z = camera.mount + at_wall * rays[:, :, 2]
    wall_x = at_wall * rays[:, :, 0]
    on_wall: NDArray[np.bool_] = wall_z > 0
    at_ground = camera.mount / np.maximum(-rays[:, :, 2], 1e-6)
    ground_x = np.where(on_wall, 0.0, at_ground * rays[:, :, 0])
    ground_y = np.where(on_wall, layout.facade, at_ground * rays[:, :, 1])
    picture = paint(rng, layout, on_wall, (wall_x, wall_z), (ground_x, ground_y))
    opening = (np.abs(wall_x - layout.door) < layout.door_width / 2) & (wall_z < layout.door_height)
    solid = (on_wall & ~opening).astype(np.float32)
    size = (camera.width, camera.height)
    return (
        np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.float32),
        np.asarray(cv2.resize(solid, size, interpolation=cv2.INTER_AREA), dtype=np.float32),
    )
