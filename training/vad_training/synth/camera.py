"""The camera: where a point of the site lands in the frame, and what the sensor adds to it.

World coordinates are metres: x to the right, y away from the camera along the ground, z up.
The camera stands at x = y = 0. Pixel coordinates are (column, row) with row 0 at the top.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Image = NDArray[np.float32]
Frame = NDArray[np.uint8]

_MAP = (18, 24)
"""Rows and columns of the map of daylight that is enlarged to the frame."""
_SKY = 40
"""How far the clouds drift before they drift back, in cells of that map."""
_NEAREST = 0.3
"""Depth in metres to which points behind the lens are moved, so that no division fails."""


@dataclass(frozen=True)
class Camera:
    """A fixed pinhole camera.

    Attributes:
        width: Frame width in pixels.
        height: Frame height in pixels.
        focal: Focal length in pixels.
        mount: Height of the lens above the ground in metres.
        pitch: Downward tilt in radians.
        yaw: Turn to the right in radians.
    """

    width: int
    height: int
    focal: float
    mount: float
    pitch: float
    yaw: float

    def axes(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Gives the unit vectors right, up and forward of the camera, each of shape (3,)."""
        sy, cy = float(np.sin(self.yaw)), float(np.cos(self.yaw))
        sp, cp = float(np.sin(self.pitch)), float(np.cos(self.pitch))
        right = np.array([cy, -sy, 0.0])
        up = np.array([sy * sp, cy * sp, cp])
        forward = np.array([sy * cp, cy * cp, -sp])
        return right, up, forward

    def project(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Projects points of the site.

        Args:
            points: Shape (n, 3), metres.

        Returns:
            Pixel coordinates of shape (n, 2) and depths along the optical axis, shape (n,),
            in metres.
        """
        right, up, forward = self.axes()
        offset = points - np.array([0.0, 0.0, self.mount])
        depth = np.maximum(offset @ forward, _NEAREST)
        scale = self.focal / depth
        column = self.width / 2 + (offset @ right) * scale
        row = self.height / 2 - (offset @ up) * scale
        return np.stack([column, row], axis=1), depth

    def rays(self, supersample: int) -> FloatArray:
        """Gives the viewing ray of every pixel of a finer frame.

        Args:
            supersample: How many fine pixels there are along one pixel's side.

        Returns:
            Direction vectors of shape (height * supersample, width * supersample, 3), with a
            length of 1 along the optical axis.
        """
        right, up, forward = self.axes()
        column = (np.arange(self.width * supersample) + 0.5) / supersample - self.width / 2
        row = (np.arange(self.height * supersample) + 0.5) / supersample - self.height / 2
        across = column[None, :, None] / self.focal * right
        down = -row[:, None, None] / self.focal * up
        rays: FloatArray = forward + across + down
        return rays

    def edges(self, y: float, z: float = 0.9) -> tuple[float, float]:
        """Finds how far the frame reaches sideways at one distance.

        Args:
            y: Distance from the camera along the ground, metres.
            z: Height above the ground, metres.

        Returns:
            World x at the left and at the right edge of the frame, metres.
        """
        right, _, forward = self.axes()
        ends = []
        for side in (-1.0, 1.0):
            # Solve (offset . right) = side * k * (offset . forward) for x.
            k = side * self.width / 2 / self.focal
            normal = right - k * forward
            rest = normal[1] * y + normal[2] * (z - self.mount)
            ends.append(float(-rest / normal[0]))
        return ends[0], ends[1]


class Light:
    """The slowly changing daylight of one clip, with drifting clouds and a faint flicker."""

    def __init__(self, rng: np.random.Generator, camera: Camera, fps: int) -> None:
        """Draws the weather of a clip.

        Args:
            rng: Source of the clip's randomness.
            camera: Gives the frame size.
            fps: Frames per second.
        """
        self._fps = fps
        self._size = (camera.width, camera.height)
        self._level = rng.uniform(1.06, 1.20)
        self._periods = rng.uniform(14.0, 90.0, 3)
        self._phases = rng.uniform(0.0, 2 * np.pi, 3)
        self._amount = rng.uniform(0.015, 0.035, 3)
        # Mains light beats with the shutter, which leaves a slow, faint pulse in the frames.
        self._beat = rng.uniform(0.4, 2.5)
        self._flicker = rng.uniform(0.002, 0.005)
        clouds = np.asarray(cv2.GaussianBlur(rng.normal(size=(24, 80)), (0, 0), 4.0), np.float64)
        self._clouds = clouds / clouds.std()
        self._drift = rng.uniform(0.2, 0.6)
        self._start = rng.uniform(0.0, 2 * _SKY)
        # Everything here is smooth, so a small map, enlarged for every frame, is enough.
        column = np.linspace(-1, 1, _MAP[1])[None, :]
        row = np.linspace(-0.75, 0.75, _MAP[0])[:, None]
        # A lens darkens its corners; 0.20 is what a small fixed lens does wide open.
        vignette = 1.0 - 0.20 * (column**2 + row**2) / 1.5625
        warmth = rng.normal(0.0, 0.008)
        self._lens = vignette[:, :, None] * np.array([1.0 - warmth, 1.0, 1.0 + warmth])

    def sun(self, frame: int) -> float:
        """Gives how strongly the sun throws shadows in a frame, from about 0.6 to 1.2."""
        return float(1.0 + 4.0 * (self._slow(frame / self._fps) - 1.0))

    def _slow(self, seconds: float) -> float:
        waves = self._amount * np.sin(2 * np.pi * seconds / self._periods + self._phases)
        return float(1.0 + waves.sum())

    def gain(self, frame: int, jitter: float) -> Image:
        """Gives the brightness of every pixel.

        Args:
            frame: Index of the frame.
            jitter: The frame's own random exposure error as a share, for example 0.001.

        Returns:
            Factors of shape (height, width, 3), order blue, green, red.
        """
        seconds = frame / self._fps
        pulse = self._flicker * np.sin(2 * np.pi * self._beat * seconds)
        level = self._level * self._slow(seconds) * (1.0 + pulse + jitter)
        # The sky drifts to and fro, so that it never jumps however long the clip is.
        at = _SKY - abs(_SKY - (self._start + self._drift * seconds) % (2 * _SKY))
        whole = min(int(at), _SKY - 1)
        part = at - whole
        clouds = (1 - part) * self._clouds[: _MAP[0], whole : whole + _MAP[1]]
        clouds = clouds + part * self._clouds[: _MAP[0], whole + 1 : whole + 1 + _MAP[1]]
        small = (level * (1.0 + 0.025 * clouds[:, :, None]) * self._lens).astype(np.float32)
        full = cv2.resize(small, self._size, interpolation=cv2.INTER_LINEAR)
        return np.asarray(full, dtype=np.float32)


class Sensor:
    """Shot and read noise, drawn from a bank so that a frame costs little."""

    _MARGIN = 48
    _BANK = 6

    def __init__(self, rng: np.random.Generator, camera: Camera) -> None:
        """Makes the noise bank of a clip.

        Args:
            rng: Source of the clip's randomness.
            camera: Gives the frame size.
        """
        self._rng = rng
        self._height, self._width = camera.height, camera.width
        shape = (camera.height + self._MARGIN, camera.width + self._MARGIN)
        self._bank: list[Image] = []
        for _ in range(self._BANK):
            # Demosaicing smears the noise over neighbours and couples the colours.
            grey = _smooth_noise(rng, (*shape, 1), 0.6)[:, :, None]
            colour = _smooth_noise(rng, (*shape, 3), 0.9)
            self._bank.append((0.85 * grey + 0.5 * colour).astype(np.float32))
        self._shot = float(rng.uniform(0.030, 0.055))
        read = float(rng.uniform(1.0, 1.8)) ** 2
        self._read = np.full((camera.height, camera.width, 3), read, np.float32)

    def expose(self, light: Image) -> Frame:
        """Turns light into pixel values.

        Args:
            light: Shape (height, width, 3), 0 to 255.

        Returns:
            The frame, same shape.
        """
        top, left, which = (
            int(v) for v in self._rng.integers(0, [self._MARGIN, self._MARGIN, self._BANK])
        )
        noise = self._bank[which][top : top + self._height, left : left + self._width]
        sigma = cv2.sqrt(cv2.scaleAdd(light, self._shot, self._read))
        grain = cv2.multiply(noise, sigma)
        # Rounds and clips in one step.
        return np.asarray(cv2.add(light, grain, dtype=cv2.CV_8U), dtype=np.uint8)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Image:
    """Draws Gaussian noise of unit spread with a little spatial correlation."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    smooth = np.asarray(cv2.GaussianBlur(noise, (0, 0), sigma), dtype=np.float32)
    unit: Image = smooth / np.float32(smooth.std())
    return unit
