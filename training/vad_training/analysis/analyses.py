"""All analyses of a table of scored clips."""

from collections.abc import Callable

from vad_runtime.contracts import InputError
from vad_training.analysis.criteria import criteria_of
from vad_training.analysis.options import Options
from vad_training.analysis.score_sections import (
    auc_section,
    error_section,
    reference_section,
    threshold_section,
)
from vad_training.analysis.section import Section
from vad_training.analysis.space_sections import (
    distance_section,
    hypersphere_section,
    projection_section,
)
from vad_training.analysis.table import ClipTable

ANALYSES: tuple[Callable[[ClipTable, Options], Section], ...] = (
    error_section,
    threshold_section,
    auc_section,
    reference_section,
    distance_section,
    hypersphere_section,
    projection_section,
)
"""In the order of the page."""


def sections_of(
    table: ClipTable,
    options: Options | None = None,
    after_section: Callable[[], None] = lambda: None,
) -> list[Section]:
    """Run every analysis.

    Args:
        table: Scored clips.
        options: A user's choices.
        after_section: Called after each one.

    Raises:
        InputError: The class of interest does not occur, or a threshold has no scores.
    """
    options = options or Options()
    _check(table, options)
    found = []
    for analysis in ANALYSES:
        found.append(analysis(table, options))
        after_section()
    return found


def _check(table: ClipTable, options: Options) -> None:
    if options.reference is not None and options.reference not in table.classes:
        have = ", ".join(table.class_names[:8])
        raise InputError(f"there is no class {options.reference!r}. Some there are: {have}.")
    for key in options.thresholds:
        if key not in [criterion.key for criterion in criteria_of(table)]:
            raise InputError(
                f"a threshold for the {key} distance needs the distances to every centroid, which "
                "this table lacks. Leave it out, or analyse a run folder."
            )
