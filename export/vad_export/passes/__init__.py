"""Exact graph passes: the same scores from fewer or cheaper operations, before quantisation."""

from vad_export.passes.base import (
    LEAST_SPEEDUP,
    MOST_DIFFERENCE,
    NEEDED,
    PASSES,
    PassReport,
    optimise,
)

__all__ = [
    "LEAST_SPEEDUP",
    "MOST_DIFFERENCE",
    "NEEDED",
    "PASSES",
    "PassReport",
    "optimise",
]
