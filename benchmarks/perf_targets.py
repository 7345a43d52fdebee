"""The targets of the project, and whether a measurement meets them."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from perf_ratios import LEAST_MOST, SURE, Ratio

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
    """NaN = not measured."""
    wanted: float
    sense: Literal["least", "most"]
    unit: str = ""
    low: float | None = None
    high: float | None = None
    kind: str = SURE
    """What the interval from `low` to `high` is."""

    @property
    def measured(self) -> bool:
        """Whether there is a figure."""
        return not math.isnan(self.value)

    @property
    def met(self) -> bool:
        """Whether the figure itself is where it shall be; one that was not measured is not."""
        return self.value >= self.wanted if self.sense == "least" else self.value <= self.wanted

    @property
    def verdict(self) -> str:
        """`met`, `not met` or `not measured`, and how sure that is."""
        if not self.measured:
            return "not measured"
        words = ["met" if self.met else "not met"]
        if self.low is not None and self.high is not None:
            words += ["within the interval"] if self.low <= self.wanted <= self.high else []
            words += ["few rounds"] if self.kind == LEAST_MOST else []
        return ", ".join(words)

    def figure(self) -> str:
        """Return the figure, its interval and its unit."""
        if not self.measured:
            return "-"
        kind = "" if self.kind == SURE else f", {self.kind}"
        interval = "" if self.low is None else f" ({self.low:.2f} to {self.high:.2f}{kind})"
        return f"{self.value:.2f}{interval}{self.unit}"

    def line(self) -> str:
        """Return it for a terminal."""
        sign = ">=" if self.sense == "least" else "<="
        wanted = f"wanted {sign} {self.wanted:g}{self.unit}"
        return f"{self.name}: {self.figure()}, {wanted}: {self.verdict}"

    def as_dict(self) -> dict[str, Any]:
        """Return it for a report."""
        return {
            "name": self.name,
            "value": self.value if self.measured else None,
            "figure": self.figure(),
            "wanted": self.wanted,
            "sense": self.sense,
            "unit": self.unit,
            "low": self.low,
            "high": self.high,
            "kind": self.kind,
            "verdict": self.verdict,
        }


def target_of(
    name: str, found: Ratio, *, wanted: float, sense: Literal["least", "most"], unit: str = ""
) -> Target:
    """Return the target of a figure that was taken within rounds."""
    return Target(
        name=name,
        value=found.value,
        wanted=wanted,
        sense=sense,
        unit=unit,
        low=found.low,
        high=found.high,
        kind=found.kind,
    )
