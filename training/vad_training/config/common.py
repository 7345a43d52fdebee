"""Types and settings that several families share."""

from typing import Annotated, Literal

import msgspec

from vad_runtime.contracts.clip import Interpolation, Resizer

Fraction = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Seed = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # what PyTorch's generators take


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings that refuse unknown keys."""


class BackboneConfig(Strict, frozen=True, kw_only=True):
    """The network that turns a clip into an embedding."""

    name: str = "r2plus1d_18"
    """One of `vad_training.models.backbones.registry.BACKBONES`."""
    weights: str | None = None
    """File with weights in the published layout; loaded strictly."""
    random_weights: Seed | None = None
    """Seed of random weights, where no file is given: for trials, and said in the manifest."""
    preprocessing: Literal["published", "simple"] = "published"
    """`simple` (c3d alone): straight to 112 x 112, no mean cube. `published`: the paper's."""
    mean: str | None = None
    """File with the Sports-1M mean cube (c3d with `published` preprocessing)."""


class ClipChoice(Strict, frozen=True, kw_only=True):
    """What a clip is, where the backbone leaves a choice; its size is the backbone's own."""

    frames: Count | None = None
    """T; None = the backbone's own number."""
    stride: Count = 2
    """Source frames from one frame of a clip to the next."""
    hop: Count = 8
    """Source frames from the start of one clip to the start of the next; a multiple of `stride`."""
    resizer: Resizer = "fast"
    """See `vad_runtime.contracts.ClipSpec.resizer`."""
    interpolation: Interpolation = "area"
    """See `vad_runtime.contracts.ClipSpec.interpolation`."""
