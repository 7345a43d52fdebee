"""What a user of the analyses can choose."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user can choose."""

    thresholds: Mapping[str, float] = field(default_factory=dict)
    """By criterion: a threshold to show beside the default one."""
    reference: str | None = None
    """Class of interest; None = the only class of the training split, if there is only one."""
    seed: int = 0
    most_points: int = 3000
    """t-SNE and UMAP draw at most so many clips, chosen by lot."""
