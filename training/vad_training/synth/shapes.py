"""Solid things drawn as hulls of balls: limbs, bags, benches, trees and their shadows.

A part is the convex hull of a few balls. Drawn far to near with a lighter inner hull on the side
of the light, a handful of parts makes a rounded, anti-aliased figure for very little time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from vad_training.synth.camera import Camera, FloatArray, Image

Colour = tuple[float, float, float]
"""Blue, green, red; 0 to 255."""

_CORNERS = 12
_ANGLES = np.linspace(0.0, 2 * np.pi, _CORNERS, endpoint=False)
_UNIT = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_SHIFT = 4
_FINE = 1 << _SHIFT


@dataclass
class Mesh:
    """A thing made of parts.

    Attributes:
        points: Centres of the balls, one (x, y, z) in metres each.
        radii: Radius of each ball, metres.
        parts: For every part: first ball, ball after the last, colour, depth bias in metres
            (negative brings it to the front), and whether it is lit as a round thing.
    """

    points: list[FloatArray] = field(default_factory=list)
    radii: list[float] = field(default_factory=list)
    parts: list[tuple[int, int, Colour, float, bool]] = field(default_factory=list)

    def add(
        self,
        points: list[FloatArray],
        radii: list[float],
        colour: Colour,
        *,
        bias: float = 0.0,
        rounded: bool = True,
    ) -> None:
        """Adds the hull of some balls.

        Args:
            points: Centres, each of shape (3,), metres.
            radii: Their radii, metres.
            colour: Colour of the part.
            bias: Metres by which the part counts as farther away when sorted.
            rounded: False for a flat face, which gets no lighter inner hull.
        """
        first = len(self.points)
        self.points.extend(points)
        self.radii.extend(radii)
        self.parts.append((first, len(self.points), colour, bias, rounded))


@dataclass(frozen=True)
class Sprite:
    """A small picture to be laid over the frame.

    Attributes:
        top: First row it covers.
        left: First column it covers.
        colour: Shape (h, w, 3), already multiplied by alpha, 0 to 255.
        alpha: Shape (h, w), 0 to 1.
    """

    top: int
    left: int
    colour: Image
    alpha: Image

    def window(self) -> tuple[slice, slice]:
        """Gives the rows and columns of the frame that the sprite covers."""
        height, width = self.alpha.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def draw(mesh: Mesh, camera: Camera, tint: float = 1.0) -> Sprite | None:
    """Draws a mesh.

    Args:
        mesh: What to draw.
        camera: Where from.
        tint: Factor on all colours, below 1 for a thing in the dark.

    Returns:
        The sprite, cut at the frame's edge, or None if nothing of it lies in the frame.
    """
    if not mesh.parts:
        return None
    centre, depth = camera.project(np.asarray(mesh.points))
    radius = np.maximum(camera.focal * np.asarray(mesh.radii) / depth, 0.3)
    box = _box(centre, radius, camera, 2)
    if box is None:
        return None
    top, bottom, left, right = box
    scale = 2 if bottom - top > 0.28 * camera.height else 3
    canvas = np.zeros(((bottom - top) * scale, (right - left) * scale, 4), np.uint8)
    local = (centre - (left, top)) * scale
    radius = radius * scale
    outline = local[:, None, :] + radius[:, None, None] * _UNIT
    # The light comes from above and a little from the left of the frame.
    inner = local[:, None, :] + radius[:, None, None] * (0.58 * _UNIT + (-0.16, -0.24))
    outer_fine = np.rint(outline * _FINE).astype(np.int32)
    inner_fine = np.rint(inner * _FINE).astype(np.int32)
    outline32 = outline.astype(np.float32)
    mean_depth = [float(depth[a:b].mean()) + bias for a, b, _, bias, _ in mesh.parts]
    for index in np.argsort(mean_depth, kind="stable")[::-1]:
        first, last, colour, _, rounded = mesh.parts[index]
        hull = cv2.convexHull(outline32[first:last].reshape(-1, 2), returnPoints=False).ravel()
        dark = tint * (0.80 if rounded else 1.0)
        cv2.fillConvexPoly(
            canvas, outer_fine[first:last].reshape(-1, 2)[hull], _paint(colour, dark), 8, _SHIFT
        )
        if rounded:
            cv2.fillConvexPoly(
                canvas,
                inner_fine[first:last].reshape(-1, 2)[hull],
                _paint(colour, tint * 1.08),
                8,
                _SHIFT,
            )
    # The lens is a touch soft, so the figure is too.
    soft = cv2.GaussianBlur(canvas, (0, 0), 0.45 * scale)
    small = cv2.resize(soft, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    picture = small.astype(np.float32)
    alpha = np.ascontiguousarray(picture[:, :, 3]) * np.float32(1 / 255)
    return Sprite(top, left, np.ascontiguousarray(picture[:, :, :3]), alpha)


def _paint(colour: Colour, factor: float) -> tuple[float, float, float, float]:
    blue, green, red = (min(255.0, c * factor) for c in colour)
    return blue, green, red, 255.0


def shadow(
    mesh: Mesh, camera: Camera, slope: tuple[float, float], softness: float
) -> tuple[tuple[slice, slice], Image] | None:
    """Draws the shadow that a mesh throws on the ground.

    Args:
        mesh: What stands in the light.
        camera: Where from.
        slope: How far the shadow moves in x and in y per metre of height.
        softness: Blur in metres.

    Returns:
        The rows and columns that the shadow covers and its strength there, shape (h, w),
        0 to 1; None if it lies outside of the frame.
    """
    points = np.array(mesh.points)
    points[:, 0] += points[:, 2] * slope[0]
    points[:, 1] += points[:, 2] * slope[1]
    points[:, 2] = 0.0
    centre, depth = camera.project(points)
    radius = camera.focal * np.asarray(mesh.radii) / depth
    sigma = max(0.6, camera.focal * softness / float(np.median(depth)))
    box = _box(centre, radius, camera, int(3 * sigma) + 2)
    if box is None:
        return None
    top, bottom, left, right = box
    mask = np.zeros((bottom - top, right - left), np.uint8)
    # Seen from the side, a disc on the ground is flat.
    outline = (centre - (left, top))[:, None, :] + radius[:, None, None] * (_UNIT * (1.0, 0.45))
    fine = np.rint(outline * _FINE).astype(np.int32)
    outline32 = outline.astype(np.float32)
    for first, last, _, _, _ in mesh.parts:
        hull = cv2.convexHull(outline32[first:last].reshape(-1, 2), returnPoints=False).ravel()
        cv2.fillConvexPoly(mask, fine[first:last].reshape(-1, 2)[hull], 255, 8, _SHIFT)
    soft = cv2.GaussianBlur(mask, (0, 0), sigma).astype(np.float32) * np.float32(1 / 255)
    return (slice(top, bottom), slice(left, right)), np.asarray(soft, dtype=np.float32)


def _box(
    centre: FloatArray, radius: FloatArray, camera: Camera, margin: int
) -> tuple[int, int, int, int] | None:
    """Gives top, bottom, left and right of discs in the frame, or None if they are outside."""
    low = np.floor((centre - radius[:, None]).min(axis=0)).astype(int) - margin
    high = np.ceil((centre + radius[:, None]).max(axis=0)).astype(int) + margin
    left, top = max(int(low[0]), 0), max(int(low[1]), 0)
    right, bottom = min(int(high[0]), camera.width), min(int(high[1]), camera.height)
    if right - left < 1 or bottom - top < 1:
        return None
    return top, bottom, left, right


def solid_box(
    mesh: Mesh, centre: tuple[float, float, float], size: tuple[float, float, float], colour: Colour
) -> None:
    """Adds a box that stands square to the site, with its three visible faces shaded.

    Args:
        mesh: Where to add it.
        centre: Middle of its base, metres.
        size: Extent in x, y and z, metres.
        colour: Its colour.
    """
    x, y, z = centre
    dx, dy, dz = size[0] / 2, size[1] / 2, size[2]
    side = -dx if x > 0 else dx
    faces = (
        ([(side, -dy, 0), (side, dy, 0), (side, dy, dz), (side, -dy, dz)], 0.78, 0.0),
        ([(-dx, -dy, 0), (dx, -dy, 0), (dx, -dy, dz), (-dx, -dy, dz)], 0.92, -0.01),
        ([(-dx, -dy, dz), (dx, -dy, dz), (dx, dy, dz), (-dx, dy, dz)], 1.15, -0.02),
    )
    for corners, shade, bias in faces:
        mesh.add(
            [np.array([x + a, y + b, z + c]) for a, b, c in corners],
            [0.012] * 4,
            (colour[0] * shade, colour[1] * shade, colour[2] * shade),
            bias=bias,
            rounded=False,
        )
