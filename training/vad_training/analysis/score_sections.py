"""Sections about scores: their spread, thresholds, AUC, and the class of interest."""

from vad_training.analysis.boxes import box_sheet, draw_boxes, groups_by_class, groups_by_split
from vad_training.analysis.criteria import (
    Criterion,
    Threshold,
    auc_of,
    criteria_of,
    default_threshold,
    shares_at,
    threshold_grid,
)
from vad_training.analysis.decisions import draw_roc, draw_shares
from vad_training.analysis.options import Options
from vad_training.analysis.reference import (
    Comparison,
    cannot_compare,
    compare,
    draw_comparison,
    reference_class,
)
from vad_training.analysis.section import Cell, Picture, Section, Sheet
from vad_training.analysis.table import SPACES, SPLITS, ClipTable


def error_section(table: ClipTable, options: Options) -> Section:
    """Box plots of the error, by split and by class."""
    by_split, by_class = groups_by_split(table, table.errors), groups_by_class(table, table.errors)
    marks = _marks(criteria_of(table)[0], table, options)
    label = "reconstruction error"
    return Section(
        title="Reconstruction error",
        text="The error is the sum of squared differences between a clip's embedding and what the "
        "autoencoder makes of it; it has no unit. Classes that were learnt should lie low, "
        "anomalies high, and the boxes should not overlap. A box spans the middle half of the "
        "clips, its line is the median; dots are outliers, or all clips where there are ten or "
        "fewer.",
        pictures=[
            Picture(
                name="error_by_split",
                caption="Error by split, on a linear and a logarithmic axis",
                figure=draw_boxes(by_split, label, marks),
            ),
            Picture(
                name="error_by_class",
                caption="Error by class and split",
                figure=draw_boxes(by_class, label, marks),
            ),
        ],
        sheets=[box_sheet("error_by_split", by_split), box_sheet("error_by_class", by_class)],
    )


def threshold_section(table: ClipTable, options: Options) -> Section:
    """Thresholds against splits, for every criterion."""
    pictures, sheets, left_out = [], [], []
    facts = {}
    criteria = criteria_of(table)
    missing = [s for s in SPLITS if not table.rows(s).any()]
    if missing:
        left_out.append(f"No curve for {', '.join(missing)}: the table has no such clips.")
    for criterion in criteria:
        marks = _marks(criterion, table, options)
        facts[criterion.key] = [_threshold_facts(criterion, table, mark) for mark in marks]
        stem = f"thresholds_{criterion.key}"
        pictures.append(
            Picture(
                name=stem,
                caption=f"Clips decided right, by threshold on the {criterion.label}",
                figure=draw_shares(criterion, table.splits, marks),
            )
        )
        grid = threshold_grid(criterion.scores, table.splits, marks)
        if grid:
            sheets.append(_threshold_sheet(stem, criterion, table, grid))
    if not table.rows("train", "val").any():
        left_out.append(
            "Default threshold: left out, there are neither training nor validation clips to "
            "choose it from. Show one of your own with --threshold."
        )
    for name in SPACES:
        if name not in [criterion.key for criterion in criteria]:
            left_out.append(
                f"Criterion on the {name} distance: left out, it needs the distance of every clip "
                "to every centroid."
            )
    return Section(
        title="Thresholds against splits",
        text="For each threshold, the share of clips decided right: of train, val and test those "
        "below it, of the anomalies those at or above it. Criteria: the error is at least t; or "
        "every centroid is at least t away. The solid line is the default threshold, chosen on "
        "validation clips (training clips where there are none), never on test clips or anomalies, "
        "which would make the result look better than it is. A dotted line is the one you asked "
        "for.",
        pictures=pictures,
        sheets=sheets,
        left_out=left_out,
        facts={"thresholds": facts},
    )


def auc_section(table: ClipTable, _options: Options) -> Section:
    """ROC curves and AUC of test clips against anomalies."""
    title = "Test clips against anomalies"
    text = (
        "The ROC curve shows how many anomalies are found for how many false alarms, over all "
        "thresholds. AUC is the chance that an anomaly scores higher than a test clip: 1 is "
        "perfect, 0.5 is guessing."
    )
    normal, anomalous = table.rows("test"), table.rows("anomaly")
    if not normal.any() or not anomalous.any():
        which = "test" if not normal.any() else "anomaly"
        why = f"AUC: left out, there are no clips in the split {which}."
        return Section(title=title, text=text, left_out=[why])
    curves = {}
    aucs: dict[str, float] = {}
    for criterion in criteria_of(table):
        pair = criterion.scores[normal], criterion.scores[anomalous]
        aucs[criterion.key] = auc_of(*pair)
        curves[criterion.label] = (*pair, aucs[criterion.key])
    counts = int(normal.sum()), int(anomalous.sum())
    return Section(
        title=title,
        text=text,
        pictures=[
            Picture(name="roc", caption="ROC curves of the criteria", figure=draw_roc(curves))
        ],
        sheets=[
            Sheet(
                name="auc",
                columns=("criterion", "auc", "test_clips", "anomaly_clips"),
                rows=[(key, auc, *counts) for key, auc in aucs.items()],
            )
        ],
        facts={"auc_test_against_anomaly": aucs},
    )


def reference_section(table: ClipTable, options: Options) -> Section:
    """Confusion matrix and classification report of the class of interest."""
    title = "The class of interest against the others"
    text = (
        "For a model of one class. Clips of the splits test and anomaly alone. The competitor is "
        "the other class with the smallest median error, so the one most easily taken for it. "
        "Below the threshold on the error a clip is taken for the class of interest."
    )
    reference = reference_class(table, options.reference)
    if reference is None:
        trained = len(set(table.classes[table.rows("train")].tolist()))
        why: str | None = f"the training split has {trained} classes; name one with --reference"
    else:
        why = cannot_compare(table, reference)
    marks = _marks(criteria_of(table)[0], table, options)
    if why is None and not marks:
        why = "there is no threshold; show one with --threshold"
    if reference is None or why is not None:
        return Section(title=title, text=text, left_out=[f"Confusion matrix: left out, {why}."])
    found = compare(table, reference, marks[-1].value)
    caption = (
        f"{reference} against {found.competitor}: accuracy {found.accuracy:.4f} at threshold "
        f"{found.threshold:.6g}; {reference} against all others together: AUC "
        f"{found.one_vs_rest_auc:.4f}"
    )
    return Section(
        title=title,
        text=text,
        pictures=[Picture(name="confusion", caption=caption, figure=draw_comparison(found))],
        sheets=[
            Sheet(
                name="classification_report",
                columns=("class", "precision", "recall", "f1", "clips"),
                rows=found.report(),
            ),
            Sheet(
                name="reference_against_each",
                columns=("class", "clips", "median_error", "auc"),
                rows=[(o.name, o.clips, o.median_error, o.auc) for o in found.others],
            ),
        ],
        facts={"reference": _reference_facts(found)},
    )


def _marks(criterion: Criterion, table: ClipTable, options: Options) -> list[Threshold]:
    """Return the default threshold, if there is one, and then the user's, if there is one."""
    default = default_threshold(criterion.scores, table.splits)
    marks = [] if default is None else [default]
    if criterion.key in options.thresholds:
        marks.append(
            Threshold(value=options.thresholds[criterion.key], source="as asked for", asked=True)
        )
    return marks


def _threshold_sheet(
    name: str, criterion: Criterion, table: ClipTable, grid: list[Threshold]
) -> Sheet:
    columns = ["threshold", "source"]
    for split in SPLITS:
        what = "at_or_above" if split == "anomaly" else "below"
        columns += [f"{split}_{what}", f"{split}_clips", f"{split}_share"]
    rows = []
    for threshold in grid:
        row: list[Cell] = [threshold.value, threshold.source]
        for share in shares_at(criterion.scores, table.splits, threshold.value).values():
            row += [share.right, share.total, share.fraction]
        rows.append(tuple(row))
    return Sheet(name=name, columns=tuple(columns), rows=rows)


def _threshold_facts(
    criterion: Criterion, table: ClipTable, threshold: Threshold
) -> dict[str, object]:
    shares = shares_at(criterion.scores, table.splits, threshold.value)
    return {
        "threshold": threshold.value,
        "source": threshold.source,
        "decided_right": {s: [share.right, share.total] for s, share in shares.items()},
    }


def _reference_facts(found: Comparison) -> dict[str, object]:
    return {
        "class": found.reference,
        "competitor": found.competitor,
        "threshold": found.threshold,
        "confusion": found.confusion.tolist(),
        "accuracy": found.accuracy,
        "one_vs_rest_auc": found.one_vs_rest_auc,
    }
