"""What stands on the site: a tree, a bench, a lamp post, planters and bollards."""

from __future__ import annotations

import numpy as np

from vad_training.synth.layout import Layout
from vad_training.synth.shapes import Colour, Mesh, solid_box


def furniture(rng: np.random.Generator, layout: Layout) -> list[Mesh]:
    """Places the site's furniture off the walkways' middle lines.

    Args:
        rng: Source of the site's look.
        layout: The site's plan.

    Returns:
        One mesh per piece.
    """
    start, end = layout.lawn
    strip = (start + end) / 2
    # Keep the lawn clear where the one-way lane crosses it.
    gate = float(layout.lane_x(strip))
    side = layout.mirror
    tree_x = gate + side * float(rng.uniform(2.6, 3.8))
    pieces = [_tree(rng, tree_x, strip)]
    pieces.append(_bench(rng, gate - side * float(rng.uniform(2.2, 3.0)), start - 0.28))
    pieces.append(_lamp(gate - side * float(rng.uniform(3.9, 4.8)), start + 0.3))
    for _ in range(int(rng.integers(1, 3))):
        x = gate + side * float(rng.uniform(1.5, 2.0)) * float(rng.choice([-1, 1]))
        pieces.append(_planter(rng, x + float(rng.uniform(-0.2, 0.2)), end - 0.45))
    for x in (layout.door - layout.door_width * 0.95, layout.door + layout.door_width * 0.95):
        pieces.append(_bollard(x, layout.facade - 0.35))
    return pieces


def _tree(rng: np.random.Generator, x: float, y: float) -> Mesh:
    """A tree whose crown is a cloud of leaf clusters of differing green."""
    mesh = Mesh()
    bark: Colour = (48.0, 62.0, 76.0)
    fork = np.array([x + 0.05, y, 1.9])
    mesh.add([np.array([x, y, 0.0]), fork], [0.13, 0.09], bark)
    for _ in range(4):
        tip = fork + np.array(
            [rng.uniform(-0.8, 0.8), rng.uniform(-0.3, 0.3), rng.uniform(0.5, 1.1)]
        )
        mesh.add([fork, tip], [0.06, 0.03], bark)
    green = np.array([rng.uniform(34, 50), rng.uniform(78, 98), rng.uniform(58, 86)])
    crown = np.array([x, y, 3.1])
    for _ in range(110):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        at = crown + direction * rng.uniform(0.3, 1.0) * (1.25, 0.9, 0.95)
        shade = rng.uniform(0.62, 1.2) + 0.16 * direction[2]
        blue, leaf, red = (float(c) for c in green * shade)
        mesh.add([at], [float(rng.uniform(0.10, 0.24))], (blue, leaf, red))
    return mesh


def _bench(rng: np.random.Generator, x: float, y: float) -> Mesh:
    """A park bench that looks towards the camera."""
    mesh = Mesh()
    wood: Colour = (float(rng.uniform(50, 70)), float(rng.uniform(84, 100)), 128.0)
    iron: Colour = (52.0, 52.0, 50.0)
    for dx in (-0.75, 0.75):
        solid_box(mesh, (x + dx, y, 0.0), (0.07, 0.4, 0.42), iron)
        solid_box(mesh, (x + dx, y + 0.2, 0.4), (0.06, 0.05, 0.45), iron)
    for dy in (-0.15, 0.0, 0.15):
        solid_box(mesh, (x, y + dy, 0.42), (1.75, 0.12, 0.04), wood)
    for z in (0.55, 0.72):
        solid_box(mesh, (x, y + 0.22, z), (1.75, 0.04, 0.12), wood)
    return mesh


def _lamp(x: float, y: float) -> Mesh:
    """A lamp post with two arms."""
    mesh = Mesh()
    steel: Colour = (76.0, 78.0, 76.0)
    mesh.add([np.array([x, y, 0.0]), np.array([x, y, 0.7])], [0.085, 0.08], steel)
    mesh.add([np.array([x, y, 0.7]), np.array([x, y, 4.6])], [0.055, 0.045], steel)
    for side in (-0.55, 0.55):
        end = np.array([x + side, y, 4.2])
        mesh.add([np.array([x, y, 4.1]), end], [0.03, 0.03], steel)
        mesh.add([end, end - np.array([0.0, 0.0, 0.15])], [0.12, 0.15], (206.0, 214.0, 216.0))
    return mesh


def _planter(rng: np.random.Generator, x: float, y: float) -> Mesh:
    """A concrete box with a shrub."""
    mesh = Mesh()
    grey = float(rng.uniform(120, 150))
    solid_box(mesh, (x, y, 0.0), (0.9, 0.55, 0.45), (grey, grey, grey))
    for _ in range(40):
        at = np.array([x, y, 0.55]) + rng.uniform(-1, 1, 3) * (0.40, 0.2, 0.05)
        at[2] += rng.uniform(0, 0.35)
        shade = rng.uniform(0.6, 1.25)
        mesh.add([at], [float(rng.uniform(0.05, 0.12))], (44 * shade, 92 * shade, 66 * shade))
    return mesh


def _bollard(x: float, y: float) -> Mesh:
    """A steel bollard with a light band."""
    mesh = Mesh()
    mesh.add([np.array([x, y, 0.0]), np.array([x, y, 0.85])], [0.07, 0.07], (82.0, 84.0, 86.0))
    band = [np.array([x, y, 0.68]), np.array([x, y, 0.74])]
    mesh.add(band, [0.073, 0.073], (190.0, 200.0, 204.0), bias=-0.05)
    return mesh
