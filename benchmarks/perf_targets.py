"""The targets of the project, and whether a measurement meets them."""

from dataclasses import dataclass
from typing import Any, Literal

NNCF_LEAST = 0.95
"""Our int8 is never slower than NNCF's: NNCF's time / ours."""
WHOLE_MOST = 1.10
"""Processor time of the whole path / (inference alone + decode alone)."""
OVERHEAD_MS = 1.0
"""Python's share of a clip."""
FIRST_SCORE_S, HELP_S = 1.5, 0.25
MEMORY_MB = {"stae": 250, "c3d": 450}
STREAMS = 8


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure, what it shall be, and whether it is."""

    name: str
    value: float
    wanted: float
    sense: Literal["least", "most"]
    unit: str = ""
    low: float | None = None
    high: float | None = None

    @property
    def met(self) -> bool:
        """Whether the figure itself is where it shall be."""
        return self.value >= self.wanted if self.sense == "least" else self.value <= self.wanted

    @property
    def verdict(self) -> str:
        """`met` or `not met`, and whether the interval says the same."""
        word = "met" if self.met else "not met"
        if self.low is None or self.high is None or not self.low <= self.wanted <= self.high:
            return word
        return f"{word}, within the interval"

    def line(self) -> str:
        """Return it for a terminal."""
        sign = ">=" if self.sense == "least" else "<="
        interval = "" if self.low is None else f" ({self.low:.2f} to {self.high:.2f})"
        return (
            f"{self.name}: {self.value:.2f}{interval}{self.unit}, "
            f"wanted {sign} {self.wanted:g}{self.unit}: {self.verdict}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it for a report."""
        return {
            "name": self.name,
            "value": self.value,
            "wanted": self.wanted,
            "sense": self.sense,
            "unit": self.unit,
            "low": self.low,
            "high": self.high,
            "verdict": self.verdict,
        }
