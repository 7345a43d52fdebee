"""The painted surfaces of the site: paving, lawn, asphalt, the one-way lane and the building."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vad_training.synth.camera import FloatArray, Image
from vad_training.synth.layout import Layout
from vad_training.synth.shapes import Colour

Mask = NDArray[np.bool_]
Plane = tuple[FloatArray, FloatArray]

_TILE = 256


class Texture:
    """Endless smooth noise, looked up at any point of a plane."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Draws the noise.

        Args:
            rng: Source of randomness.
        """
        tile = rng.normal(size=(_TILE, _TILE)).astype(np.float32)
        # The first row and column again at the end make the wrap seamless.
        self._tile = np.pad(tile, ((0, 1), (0, 1)), mode="wrap")

    def __call__(self, plane: Plane, size: float, stretch: float = 1.0) -> FloatArray:
        """Looks the noise up.

        Args:
            plane: Two coordinates of every pixel, metres.
            size: Width of a blob, metres.
            stretch: How many times longer a blob is along the second coordinate.

        Returns:
            Noise of roughly unit spread, in the shape of the coordinates.
        """
        u = np.mod(plane[0] / size, _TILE).astype(np.float32)
        v = np.mod(plane[1] / size / stretch, _TILE).astype(np.float32)
        return np.asarray(cv2.remap(self._tile, u, v, cv2.INTER_LINEAR), dtype=np.float64)

    def rough(self, plane: Plane) -> FloatArray:
        """Looks up noise with blobs from 3 cm to 2 m, as worn surfaces have."""
        return (
            0.45 * self(plane, 1.9)
            + 0.30 * self((plane[1], plane[0]), 0.55)
            + 0.25 * self(plane, 0.14)
            + 0.25 * self((plane[1], plane[0]), 0.035)
        )


def paint(
    rng: np.random.Generator, layout: Layout, on_wall: Mask, wall: Plane, ground: Plane
) -> Image:
    """Paints every pixel of the empty site.

    Args:
        rng: Source of the site's look.
        layout: The site's plan.
        on_wall: Which pixels show the building; the others show the ground.
        wall: x and z of the building's pixels, metres.
        ground: x and y of the ground's pixels, metres.

    Returns:
        The picture, shape of the masks with three colours, 0 to 255.
    """
    texture = Texture(rng)
    picture = _ground(rng, layout, texture, ground)
    picture[on_wall] = _facade(rng, layout, texture, wall)[on_wall]
    # Dirt and shade gather where the wall meets the ground.
    y = ground[1]
    near_wall = np.clip(1 - (layout.facade - y) / 0.9, 0, 1) * ~on_wall
    picture *= (1 - 0.30 * near_wall**2)[:, :, None]
    return picture.astype(np.float32)


def _mix(base: FloatArray, colour: Colour, share: NDArray[Any]) -> FloatArray:
    """Lays a colour over a picture with a share of 0 to 1 for every pixel."""
    weight = np.asarray(share, dtype=np.float64)[:, :, None]
    return base * (1 - weight) + np.asarray(colour) * weight


def _flat(colour: Colour, shade: FloatArray) -> FloatArray:
    """Gives a colour with a brightness for every pixel."""
    return np.asarray(colour) * shade[:, :, None]


def _cell(u: FloatArray, v: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Gives every cell of a grid its own number from a normal distribution."""
    table = rng.normal(size=(64, 64))
    return np.asarray(table[np.mod(u.astype(int), 64), np.mod(v.astype(int), 64)])


def _paving(
    rng: np.random.Generator, texture: Texture, plane: Plane, colour: Colour, size: float
) -> FloatArray:
    """Paints slabs with joints, every second row shifted by half a slab."""
    turn = rng.choice([0.0, 0.0, np.pi / 4])
    a = plane[0] * np.cos(turn) + plane[1] * np.sin(turn)
    b = plane[1] * np.cos(turn) - plane[0] * np.sin(turn)
    length = size * rng.choice([1.0, 1.0, 1.6])
    row = np.floor(b / size)
    column = a / length + 0.5 * np.mod(row, 2) * rng.choice([0.0, 1.0])
    slab = _cell(np.floor(column), row, rng)
    gap = np.minimum(
        np.abs(column - np.rint(column)) * length, np.abs(b / size - np.rint(b / size)) * size
    )
    joint = np.clip(1.4 - gap / 0.014, 0, 1)
    shade = 1.0 + 0.045 * slab + 0.05 * texture.rough(plane)
    return _flat(colour, shade * (1 - 0.30 * joint))


def _ground(rng: np.random.Generator, layout: Layout, texture: Texture, plane: Plane) -> FloatArray:
    """Paints plaza, planted strip, far walkway and the one-way lane."""
    x, y = plane
    tone = rng.uniform(112, 150)
    warm = rng.uniform(-0.06, 0.08)
    slab: Colour = (tone * (1 - warm), tone, tone * (1 + warm))
    picture = _paving(rng, texture, plane, slab, float(rng.uniform(0.45, 0.8)))

    start, end = layout.lawn
    if rng.random() < 0.75:
        strip: Colour = (rng.uniform(42, 58), rng.uniform(92, 114), rng.uniform(74, 92))
    else:
        strip = (rng.uniform(88, 104), rng.uniform(104, 122), rng.uniform(120, 138))
    blades = (
        1.0
        + 0.10 * texture(plane, 0.9)
        + 0.10 * texture(plane, 0.05, 2.5)
        + 0.07 * texture((y, x), 0.021)
    )
    edge = start + 0.02 * texture((x, x), 0.3)
    lawn = (y > edge) & (y < end)
    picture = np.where(lawn[:, :, None], _flat(strip, blades), picture)

    dark = rng.uniform(84, 112)
    asphalt = _flat((dark * 1.03, dark, dark * 0.99), 1.0 + 0.07 * texture.rough(plane))
    picture = np.where((y >= end)[:, :, None], asphalt, picture)
    kerb = (np.abs(y - end) < 0.07) | (np.abs(y - start) < 0.06)
    picture = _mix(picture, (168.0, 172.0, 174.0), 0.8 * kerb)

    picture = _lane(rng, layout, texture, plane, picture)
    # Patches of wear, and a slow fall of light over the whole ground.
    wear = 1.0 + 0.035 * texture((x, y), 3.3) - 0.012 * (x * layout.mirror)
    return picture * np.clip(wear, 0.7, 1.3)[:, :, None]


def _lane(
    rng: np.random.Generator, layout: Layout, texture: Texture, plane: Plane, picture: FloatArray
) -> FloatArray:
    """Paints the one-way lane with its edge lines and the arrows that point to the door."""
    x, y = plane
    across = x - layout.lane_x(y)
    half = layout.lane_width / 2
    inside = np.abs(across) < half
    tints: tuple[Colour, ...] = ((78.0, 88.0, 138.0), (120.0, 104.0, 84.0), (92.0, 132.0, 142.0))
    tint = tints[int(rng.integers(len(tints)))]
    surface = _flat(tint, 1.0 + 0.07 * texture.rough(plane))
    picture = np.where(inside[:, :, None], 0.25 * picture + 0.75 * surface, picture)
    worn = np.clip(0.75 + 0.25 * texture(plane, 0.12), 0.2, 1.0)
    line = np.abs(np.abs(across) - half) < 0.05
    picture = _mix(picture, (205.0, 212.0, 214.0), line * worn * 0.85)
    # Arrow heads with a shaft, every 2 m, tip towards the door.
    along = np.mod(y - layout.lane_from, 2.0)
    head = (along > 1.15) & (along < 1.6) & (np.abs(across) < (1.6 - along) * 0.75)
    shaft = (along > 0.55) & (along <= 1.15) & (np.abs(across) < 0.09)
    return _mix(picture, (214.0, 220.0, 222.0), (head | shaft) * worn * 0.9)


def _facade(rng: np.random.Generator, layout: Layout, texture: Texture, plane: Plane) -> FloatArray:
    """Paints the building: wall, plinth, window grid and the open entrance."""
    x, z = plane
    walls: tuple[Colour, ...] = (
        (112.0, 134.0, 150.0),
        (132.0, 138.0, 140.0),
        (88.0, 104.0, 142.0),
        (124.0, 150.0, 160.0),
    )
    base = walls[int(rng.integers(len(walls)))]
    shade = 0.92 + 0.035 * texture.rough(plane)
    if rng.random() < 0.6:  # bricks
        row = np.floor(z / 0.09)
        column = x / 0.26 + 0.5 * np.mod(row, 2)
        shade = shade * (1 + 0.06 * _cell(np.floor(column), row, rng))
        joint = (np.abs(z / 0.09 - np.rint(z / 0.09)) < 0.09) | (
            np.abs(column - np.rint(column)) < 0.03
        )
    else:  # panels
        joint = (np.abs(z / 1.35 - np.rint(z / 1.35)) < 0.012) | (
            np.abs(x / 1.8 - np.rint(x / 1.8)) < 0.009
        )
    picture = _flat(base, shade * (1 - 0.22 * joint))

    pitch = float(rng.uniform(1.9, 2.6))
    width, sill, tall = pitch * float(rng.uniform(0.5, 0.7)), 1.0, float(rng.uniform(1.2, 1.5))
    storey = float(rng.uniform(2.9, 3.2))
    column = np.floor(x / pitch)
    in_x = np.abs(x / pitch - column - 0.5) * pitch
    floor_number = np.floor((z - sill) / storey)
    in_z = (z - sill) - floor_number * storey
    beside_door = (
        np.abs((column + 0.5) * pitch - layout.door) > (layout.door_width + width) / 2 + 0.1
    )
    window = (in_x < width / 2) & (in_z < tall) & (beside_door | (z > 3.2)) & (z > sill)
    frame = window & ((in_x > width / 2 - 0.07) | (in_z < 0.08) | (in_z > tall - 0.08))
    frame |= window & (in_x < 0.03)
    glow = _cell(column, floor_number, rng)
    sky = 0.55 + 0.25 * (in_z / tall) + 0.13 * glow + 0.10 * texture((x + z, z), 0.9)
    glass = _flat((104.0, 92.0, 80.0), np.clip(sky, 0.25, 1.4))
    picture = np.where(window[:, :, None], glass, picture)
    picture = _mix(picture, (196.0, 200.0, 202.0), 0.85 * frame)
    ledge = (in_x < width / 2 + 0.1) & (np.abs(in_z + 0.05) < 0.05) & (beside_door | (z > 3.2))
    picture = _mix(picture, (170.0, 174.0, 176.0), 0.8 * ledge)
    picture *= np.where(z < 0.45, 0.72, 1.0)[:, :, None]

    inside = (np.abs(x - layout.door) < layout.door_width / 2) & (z < layout.door_height)
    depth = np.clip(0.30 + 0.10 * texture((x, z), 0.8) + 0.10 * (1 - z), 0.15, 0.6)
    picture = np.where(inside[:, :, None], _flat((70.0, 72.0, 74.0), depth), picture)
    reach_x = np.abs(x - layout.door) - layout.door_width / 2
    jamb = (reach_x < 0.14) & (z < layout.door_height + 0.16) & ~inside
    picture = _mix(picture, (88.0, 90.0, 92.0), 0.9 * jamb)
    sign = (reach_x < -0.25) & (z > layout.door_height + 0.22) & (z < layout.door_height + 0.62)
    return _mix(picture, (60.0, 120.0, 60.0), 0.85 * sign)
