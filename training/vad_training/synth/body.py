"""The human figure: joint angles become a skeleton, and the skeleton becomes a mesh."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vad_training.synth.camera import FloatArray
from vad_training.synth.shapes import Colour, Mesh

Pair = tuple[float, float]
"""An angle on the left and on the right side, radians."""

# Lengths as shares of the body height, after common body-proportion tables.
_THIGH, _SHIN, _ANKLE, _FOOT = 0.245, 0.246, 0.040, 0.085
_HIP, _TORSO, _SHOULDER = 0.050, 0.285, 0.105
_UPPER_ARM, _FOREARM, _NECK = 0.172, 0.150, 0.110


@dataclass(frozen=True)
class Look:
    """What one person looks like.

    Attributes:
        height: Body height in metres.
        build: Factor on all widths, about 0.9 to 1.2.
        skin: Colour of the skin.
        hair: Colour of the hair.
        top: Colour of shirt or jacket.
        legs: Colour of the trousers.
        shoes: Colour of the shoes.
        coat: Whether the top reaches down over the thighs.
        pack: Colour of a backpack, or None.
    """

    height: float
    build: float
    skin: Colour
    hair: Colour
    top: Colour
    legs: Colour
    shoes: Colour
    coat: bool
    pack: Colour | None


@dataclass(frozen=True)
class Pose:
    """Joint angles in radians; positive swings a limb forward or bends a joint.

    Attributes:
        hip: Thighs against the vertical.
        knee: Knee bend.
        shoulder: Upper arms against the vertical.
        elbow: Elbow bend.
        spread: Arms held away from the body.
        lean: Trunk tilted forward.
        nod: Head tilted forward.
        twist: Shoulders turned against the hips.
        point: Toes stretched away from the shin.
        fall: Whole body tipped over forward.
        roll: Whole body tipped over to its left.
        lift: Extra height above the ground, metres.
    """

    hip: Pair = (0.0, 0.0)
    knee: Pair = (0.0, 0.0)
    shoulder: Pair = (0.0, 0.0)
    elbow: Pair = (0.2, 0.2)
    spread: float = 0.10
    lean: float = 0.0
    nod: float = 0.0
    twist: float = 0.0
    point: float = 0.0
    fall: float = 0.0
    roll: float = 0.0
    lift: float = 0.0

    def towards(self, other: Pose, share: float) -> Pose:
        """Gives the pose that lies between this one and another.

        Args:
            other: The pose reached at a share of 1.
            share: 0 to 1.
        """

        def pair(a: Pair, b: Pair) -> Pair:
            return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])

        def number(a: float, b: float) -> float:
            return a + share * (b - a)

        return Pose(
            hip=pair(self.hip, other.hip),
            knee=pair(self.knee, other.knee),
            shoulder=pair(self.shoulder, other.shoulder),
            elbow=pair(self.elbow, other.elbow),
            spread=number(self.spread, other.spread),
            lean=number(self.lean, other.lean),
            nod=number(self.nod, other.nod),
            twist=number(self.twist, other.twist),
            point=number(self.point, other.point),
            fall=number(self.fall, other.fall),
            roll=number(self.roll, other.roll),
            lift=number(self.lift, other.lift),
        )

    def with_right_arm(self, shoulder: float, elbow: float) -> Pose:
        """Gives this pose with the right arm put elsewhere."""
        return replace(self, shoulder=(self.shoulder[0], shoulder), elbow=(self.elbow[0], elbow))


STANDING = Pose()
CROUCHING = Pose(
    hip=(1.5, 1.0), knee=(2.1, 2.0), shoulder=(0.7, 0.5), elbow=(0.5, 0.6), lean=0.8, nod=0.5
)
LYING = Pose(
    hip=(0.10, -0.02),
    knee=(0.35, 0.08),
    shoulder=(2.75, 0.0),
    elbow=(0.5, 0.1),
    spread=0.55,
    nod=-0.05,
    point=1.3,
    fall=1.54,
    roll=0.12,
)


def _bump(phase: float, centre: float, width: float) -> float:
    """A smooth bump on the circle, 1 at its centre."""
    gap = (phase - centre + np.pi) % (2 * np.pi) - np.pi
    return float(np.exp(-((gap / width) ** 2)))


def walking(phase: float, stride: float, leg: float) -> Pose:
    """Gives the pose of a walker.

    Args:
        phase: Position in the stride, radians; the left heel strikes at 0.
        stride: Length of a stride (two steps), metres.
        leg: Length of the leg, metres.
    """
    # With this swing the standing foot stays where it is while the body moves over it.
    swing = float(np.arcsin(min(0.6, stride / (4 * leg))))
    hips, knees, arms = [], [], []
    for at in (phase % (2 * np.pi), (phase + np.pi) % (2 * np.pi)):
        hips.append(0.06 + swing * float(np.cos(at)))
        knees.append(0.06 + 0.95 * _bump(at, 1.45 * np.pi, 0.85) + 0.15 * _bump(at, 0.8, 0.6))
        arms.append(-0.9 * swing * float(np.cos(at)))
    return Pose(
        hip=(hips[0], hips[1]),
        knee=(knees[0], knees[1]),
        shoulder=(arms[0], arms[1]),
        elbow=(0.25 + 0.3 * max(arms[0], 0.0), 0.25 + 0.3 * max(arms[1], 0.0)),
        lean=0.05,
        nod=0.05,
        twist=0.12 * float(np.cos(phase)),
    )


def running(phase: float) -> Pose:
    """Gives the pose of a runner.

    Args:
        phase: Position in the stride, radians.
    """
    hips, knees, arms = [], [], []
    for at in (phase % (2 * np.pi), (phase + np.pi) % (2 * np.pi)):
        hips.append(0.22 + 0.75 * float(np.cos(at)))
        knees.append(0.30 + 1.65 * _bump(at, 1.42 * np.pi, 1.0))
        arms.append(0.05 - 0.85 * float(np.cos(at)))
    return Pose(
        hip=(hips[0], hips[1]),
        knee=(knees[0], knees[1]),
        shoulder=(arms[0], arms[1]),
        elbow=(1.45, 1.45),
        spread=0.16,
        lean=0.28,
        nod=0.0,
        twist=0.25 * float(np.cos(phase)),
        lift=0.06 * (1 - float(np.cos(2 * phase))) / 2,
    )


@dataclass(frozen=True)
class Skeleton:
    """Where the joints are, in metres; each array has shape (3,) or (2, 3) for left and right."""

    pelvis: FloatArray
    hip: FloatArray
    knee: FloatArray
    ankle: FloatArray
    toe: FloatArray
    chest: FloatArray
    shoulder: FloatArray
    elbow: FloatArray
    wrist: FloatArray
    head: FloatArray
    facing: FloatArray
    """Unit vector in which the face looks."""
    back: FloatArray
    """Unit vector out of the back."""


def _limb(angle: float) -> FloatArray:
    """Direction of a limb that hangs down, swung forward by an angle."""
    return np.array([np.sin(angle), 0.0, -np.cos(angle)])


def skeleton(pose: Pose, height: float) -> Skeleton:
    """Places the joints for a pose, with the lowest one on the ground.

    Args:
        pose: Joint angles.
        height: Body height in metres.

    Returns:
        Joints in the body's own frame: x forward, y to the left, z up; x = y = 0 below the
        pelvis.
    """
    up = np.array([np.sin(pose.lean), 0.0, np.cos(pose.lean)])
    neck = np.array([np.sin(pose.lean + pose.nod), 0.0, np.cos(pose.lean + pose.nod)])
    chest = up * _TORSO
    rows: list[FloatArray] = [np.zeros(3), chest, chest + neck * _NECK]
    for side, hip, knee, arm, elbow in (
        (1.0, pose.hip[0], pose.knee[0], pose.shoulder[0], pose.elbow[0]),
        (-1.0, pose.hip[1], pose.knee[1], pose.shoulder[1], pose.elbow[1]),
    ):
        at_hip = np.array([side * 0.02 * pose.twist, side * _HIP, 0.0])
        at_knee = at_hip + _THIGH * _limb(hip)
        at_ankle = at_knee + _SHIN * _limb(hip - knee)
        # The foot stays flat until the leg trails behind; then the heel comes up.
        tip = min(0.15, hip - knee + 0.25) if hip - knee < 0.3 else 0.2
        tip -= pose.point
        at_toe = at_ankle + _FOOT * np.array([np.cos(tip), 0.0, np.sin(tip)])
        at_toe[2] -= 0.022
        at_shoulder = chest + _SHOULDER * np.array([-side * pose.twist, side, 0.0])
        out = np.array([0.0, side * np.sin(pose.spread), 0.0])
        at_elbow = at_shoulder + _UPPER_ARM * (_limb(arm) * np.cos(pose.spread) + out)
        at_wrist = at_elbow + _FOREARM * (_limb(arm + elbow) + 0.3 * out)
        rows += [at_hip, at_knee, at_ankle, at_toe, at_shoulder, at_elbow, at_wrist]
    points = np.asarray(rows) * height
    turn = _tip(pose.fall, pose.roll)
    points = points @ turn.T
    # Whatever is lowest rests on the ground; the trunk and the head are thicker than a foot.
    rest = np.full(len(points), 0.62 * _ANKLE)
    rest[:3] = 0.055, 0.045, 0.055
    points[:, 2] += pose.lift + float((rest * height - points[:, 2]).max())
    left, right = points[3:10], points[10:17]
    pairs = [np.stack([left[i], right[i]]) for i in range(7)]
    face = np.array([np.cos(pose.lean + pose.nod), 0.0, -np.sin(pose.lean + pose.nod)])
    rear = np.array([-np.cos(pose.lean), 0.0, np.sin(pose.lean)])
    return Skeleton(
        pelvis=points[0],
        hip=pairs[0],
        knee=pairs[1],
        ankle=pairs[2],
        toe=pairs[3],
        chest=points[1],
        shoulder=pairs[4],
        elbow=pairs[5],
        wrist=pairs[6],
        head=points[2],
        facing=turn @ face,
        back=turn @ rear,
    )


def _tip(fall: float, roll: float) -> FloatArray:
    """Rotation that tips the body forward and to its left."""
    cf, sf, cr, sr = np.cos(fall), np.sin(fall), np.cos(roll), np.sin(roll)
    forward = np.array([[cf, 0.0, sf], [0.0, 1.0, 0.0], [-sf, 0.0, cf]])
    sideways = np.array([[1.0, 0.0, 0.0], [0.0, cr, sr], [0.0, -sr, cr]])
    return np.asarray(forward @ sideways)


def dress(bones: Skeleton, look: Look) -> Mesh:
    """Makes the mesh of a person.

    Args:
        bones: The joints.
        look: What the person looks like.

    Returns:
        A mesh in the frame of the joints.
    """
    mesh = Mesh()
    h = look.height
    w = look.height * look.build
    for side in (0, 1):
        hip, knee, ankle = bones.hip[side], bones.knee[side], bones.ankle[side]
        # The far limb lies in the shade of the body, which also keeps the two legs apart.
        shade = 1.0 if side == 0 else 0.88
        legs: Colour = (look.legs[0] * shade, look.legs[1] * shade, look.legs[2] * shade)
        top: Colour = (look.top[0] * shade, look.top[1] * shade, look.top[2] * shade)
        mesh.add([ankle, bones.toe[side]], [0.024 * h, 0.016 * h], look.shoes)
        mesh.add([knee, ankle], [0.034 * w, 0.025 * w], legs)
        mesh.add([hip, knee], [0.052 * w, 0.037 * w], legs)
        elbow, wrist = bones.elbow[side], bones.wrist[side]
        mesh.add([bones.shoulder[side], elbow], [0.036 * w, 0.029 * w], top, bias=-0.02)
        mesh.add([elbow, wrist], [0.028 * w, 0.021 * w], top, bias=-0.02)
        hand = wrist + 0.2 * (wrist - elbow)
        mesh.add([wrist, hand], [0.019 * h, 0.020 * h], look.skin, bias=-0.02)
    belly = 0.55 * bones.pelvis + 0.45 * bones.chest - 0.008 * h * bones.back
    torso = [*bones.shoulder, *bones.hip, belly]
    mesh.add(torso, [0.036 * w, 0.036 * w, 0.050 * w, 0.050 * w, 0.066 * w], look.top)
    if look.coat:
        hem = 0.45 * bones.hip + 0.55 * bones.knee
        mesh.add([*bones.hip, *hem], [0.058 * w] * 2 + [0.056 * w] * 2, look.top, bias=-0.03)
    neck = bones.head - bones.chest
    mesh.add([bones.chest + 0.2 * neck, bones.chest + 0.6 * neck], [0.030 * w] * 2, look.skin)
    tip = neck / np.linalg.norm(neck)
    chin = bones.head - 0.022 * h * tip + 0.012 * h * bones.facing
    crown = bones.head + 0.016 * h * tip - 0.014 * h * bones.facing
    mesh.add([bones.head, chin], [0.054 * h, 0.040 * h], look.skin)
    mesh.add(
        [crown, crown - 0.02 * h * tip - 0.006 * h * bones.facing],
        [0.057 * h, 0.050 * h],
        look.hair,
    )
    if look.pack is not None:
        spots = [
            bones.chest * (1 - a) + bones.pelvis * a + 0.085 * h * bones.back for a in (0.08, 0.75)
        ]
        mesh.add(spots, [0.060 * w, 0.075 * w], look.pack)
    return mesh


def place(mesh: Mesh, x: float, y: float, heading: float) -> Mesh:
    """Moves a mesh from the body's own frame to its place on the site.

    Args:
        mesh: A mesh with x forward and y to the left.
        x: Where it stands, metres.
        y: Where it stands, metres.
        heading: Direction in which it looks, radians; 0 is along the site's x.

    Returns:
        A new mesh.
    """
    c, s = float(np.cos(heading)), float(np.sin(heading))
    points = np.asarray(mesh.points) @ np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
    return Mesh(list(points + np.array([x, y, 0.0])), mesh.radii, mesh.parts)


def random_look(rng: np.random.Generator) -> Look:
    """Draws a person's body and clothes."""
    skins: tuple[Colour, ...] = (
        (150.0, 175.0, 212.0),
        (120.0, 150.0, 190.0),
        (82.0, 110.0, 150.0),
        (52.0, 70.0, 100.0),
    )
    hairs: tuple[Colour, ...] = (
        (28.0, 30.0, 34.0),
        (34.0, 48.0, 68.0),
        (92.0, 130.0, 160.0),
        (130.0, 132.0, 134.0),
    )
    return Look(
        height=float(np.clip(rng.normal(1.72, 0.09), 1.5, 1.95)),
        build=float(rng.uniform(0.95, 1.22)),
        skin=skins[int(rng.integers(4))],
        hair=hairs[int(rng.integers(4))],
        top=_cloth(rng, 30.0, 200.0, 0.30),
        legs=_cloth(rng, 26.0, 115.0, 0.14),
        shoes=_cloth(rng, 24.0, 190.0, 0.05),
        coat=bool(rng.random() < 0.3),
        pack=_cloth(rng, 30.0, 110.0, 0.35) if rng.random() < 0.3 else None,
    )


def _cloth(rng: np.random.Generator, dark: float, light: float, strength: float) -> Colour:
    """Draws a cloth colour between two brightnesses with some saturation."""
    value = float(rng.uniform(dark, light))
    tint = 1.0 + strength * rng.uniform(-1.0, 1.0, 3)
    blue, green, red = (float(np.clip(value * t, 14.0, 235.0)) for t in tint)
    return blue, green, red
