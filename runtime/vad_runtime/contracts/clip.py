"""ClipSpec: what a model sees of a video."""

from typing import Literal

import msgspec

Colour = Literal["gray", "rgb"]
Resizer = Literal["exact", "fast", "portable"]
Interpolation = Literal["area", "bilinear"]

_CHANNELS: dict[str, int] = {"gray": 1, "rgb": 3}
_LARGEST_PORTABLE = 65535  # sums of its rule stay within 32 and 64 bits


class ClipSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model sees of a video: how many frames, how far apart, how large.

    ::

        source frames  0 1 2 3 4 5 6 7 8 9
        stride 2       f . f . f . f . f .     clip frames of a clip with frames=4: 0 2 4 6
        hop 4                  f . f . f .     the next clip starts 4 source frames later

    Every exported graph takes clips of this spec as uint8, shape (N, frames, height, width,
    channels). Training, calibration and the device make them with the same code.

    Raises:
        ValueError: A value is out of its range; the message holds it.
    """

    frames: int
    """T, frames in one clip."""

    stride: int = 1
    """Source frames from one frame of a clip to the next."""

    hop: int = 1
    """Source frames from the start of one clip to the start of the next; a multiple of `stride`."""

    height: int
    """Rows of the model's input, pixels."""

    width: int
    """Columns of the model's input, pixels."""

    colour: Colour = "rgb"
    """`rgb`: three channels in this order. `gray`: one channel; ITU-R BT.601 luma with `exact` and
    `fast`, the video's own luma (of BT.709, say) with `portable`."""

    resizer: Resizer = "fast"
    """How a frame becomes (height, width).

    `exact`: decoded to RGB at full size, then OpenCV's resize with `interpolation`. `fast`:
    swscale's area filter, straight from the decoder's planes. `portable`: from the planes by a rule
    in whole numbers, with `interpolation`, so that every machine gives the same bytes. The three
    give different pixels, so the choice belongs to the model.
    """

    interpolation: Interpolation = "area"
    """Filter of `exact` and `portable`. `area` averages what falls into a pixel; `bilinear` looks
    at four source pixels only, so that fine texture aliases (some published models were trained
    that way)."""

    fps: float | None = None
    """Frame rate of the training footage in frames a second; None when it was mixed."""

    def __post_init__(self) -> None:
        """Refuse values that no clip can have."""
        for name in ("frames", "stride", "hop", "height", "width"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"ClipSpec.{name} must be at least 1, got {value}")
        if self.hop % self.stride:
            raise ValueError(
                f"ClipSpec.hop must be a multiple of stride {self.stride}, got {self.hop}"
            )
        if self.colour not in _CHANNELS:
            raise ValueError(f"ClipSpec.colour must be gray or rgb, got {self.colour!r}")
        if self.resizer not in ("exact", "fast", "portable"):
            raise ValueError(
                f"ClipSpec.resizer must be exact, fast or portable, got {self.resizer!r}"
            )
        if self.interpolation not in ("area", "bilinear"):
            raise ValueError(
                f"ClipSpec.interpolation must be area or bilinear, got {self.interpolation!r}"
            )
        if self.resizer == "fast" and self.interpolation != "area":
            raise ValueError("ClipSpec.interpolation must be area with the resizer fast")
        if self.resizer == "portable" and max(self.height, self.width) > _LARGEST_PORTABLE:
            raise ValueError(
                f"ClipSpec.height and width must be at most {_LARGEST_PORTABLE} with the resizer "
                f"portable, got {self.height} x {self.width}"
            )
        if self.fps is not None and not 0 < self.fps < 10_000:
            raise ValueError(f"ClipSpec.fps must lie between 0 and 10000, got {self.fps}")

    @property
    def channels(self) -> int:
        """Colour channels of a frame: 1 or 3."""
        return _CHANNELS[self.colour]

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Shape (height, width, channels) of one uint8 frame."""
        return (self.height, self.width, self.channels)

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """Shape (frames, height, width, channels) of one uint8 clip."""
        return (self.frames, *self.frame_shape)

    @property
    def span(self) -> int:
        """Source frames from the first to the last frame of a clip, both included."""
        return (self.frames - 1) * self.stride + 1
