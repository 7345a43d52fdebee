"""One class of interest against the others."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from vad_training.analysis.criteria import auc_of
from vad_training.analysis.figures import log_axis, new_figure, shown
from vad_training.analysis.table import ClipTable, Values

HELD_OUT = ("test", "anomaly")


@dataclass(frozen=True, kw_only=True)
class AgainstClass:
    """How the error tells the reference class from one other class."""

    name: str
    clips: int
    median_error: float
    auc: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A reference class, its competitor, and what a threshold makes of them."""

    reference: str
    competitor: str
    """The other class with the smallest median error: the one most easily taken for it."""
    threshold: float
    confusion: npt.NDArray[np.int64]
    """Shape (2, 2): rows are the truth, columns the decision, the reference class first."""
    one_vs_rest_auc: float
    """Reference class against the clips of all other classes together."""
    others: tuple[AgainstClass, ...]
    """Every other class, the nearest first."""
    errors: tuple[Values, Values]
    """Of the reference class, and of the competitor."""

    @property
    def accuracy(self) -> float:
        """Share of the two classes' clips that are decided right."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    def report(self) -> list[tuple[str, float, float, float, int]]:
        """Return for both classes: name, precision, recall, F1, clips.

        A class that nothing is taken for has precision 0.
        """
        lines = []
        for i, name in enumerate((self.reference, self.competitor)):
            right = float(self.confusion[i, i])
            taken, clips = float(self.confusion[:, i].sum()), int(self.confusion[i].sum())
            precision, recall = (right / taken if taken else 0.0), right / clips
            both = precision + recall
            lines.append(
                (name, precision, recall, 2 * precision * recall / both if both else 0.0, clips)
            )
        return lines


def reference_class(table: ClipTable, wanted: str | None) -> str | None:
    """Return the class of interest: the one asked for, or the only one of the training split."""
    if wanted is not None:
        return wanted
    trained = set(table.classes[table.rows("train")].tolist())
    return trained.pop() if len(trained) == 1 else None


def cannot_compare(table: ClipTable, reference: str) -> str | None:
    """Return why a class cannot be compared with the others; None = it can."""
    held = table.rows(*HELD_OUT)
    own = table.classes == reference
    if not (held & own).any():
        return f"{reference} has no clips in the splits test and anomaly"
    if not (held & ~own).any():
        return f"no class but {reference} has clips in the splits test and anomaly"
    return None


def compare(table: ClipTable, reference: str, threshold: float) -> Comparison:
    """Compare a class with its closest competitor and with all the rest, on held-out clips.

    A clip belongs to the reference class when its error is below the threshold. Errors and
    threshold are on their natural scale: the plain sum of squares, not its logarithm. (A threshold
    that was read from a logarithmic axis fits when its label is taken, not its place.) Only clips
    of the splits test and anomaly count, so neither side was trained on.

    Args:
        table: Scored clips, see `cannot_compare`.
        reference: The class of interest.
        threshold: Of the error.
    """
    held = table.rows(*HELD_OUT)
    own = table.errors[held & (table.classes == reference)]
    rest = {
        name: table.errors[held & (table.classes == name)]
        for name in table.class_names
        if name != reference and (held & (table.classes == name)).any()
    }
    others = sorted(
        (
            AgainstClass(
                name=name,
                clips=len(errors),
                median_error=float(np.median(errors)),
                auc=auc_of(own, errors),
            )
            for name, errors in rest.items()
        ),
        key=lambda other: (other.median_error, other.name),
    )
    competitor = others[0].name
    pair = (own, rest[competitor])
    return Comparison(
        reference=reference,
        competitor=competitor,
        threshold=threshold,
        confusion=np.array(
            [[int((e < threshold).sum()), int((e >= threshold).sum())] for e in pair], np.int64
        ),
        one_vs_rest_auc=auc_of(own, np.concatenate(list(rest.values()))),
        others=tuple(others),
        errors=pair,
    )


def draw_comparison(found: Comparison) -> Figure:
    """Draw the confusion matrix, and the errors of the two classes with the threshold."""
    figure = new_figure(12.5, 4.0)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
    names = [shown(found.reference, 22), shown(found.competitor, 22)]
    left.imshow(found.confusion, cmap="Blues", vmin=0)
    for row in range(2):
        for column in range(2):
            count = int(found.confusion[row, column])
            dark = count > found.confusion.max() / 2
            left.text(
                *(column, row, str(count)),
                ha="center",
                va="center",
                fontsize=14,
                color="white" if dark else "black",
            )
    left.set_xticks([0, 1], names, parse_math=False, fontsize=9)
    left.set_yticks([0, 1], names, parse_math=False, fontsize=9)
    left.set_xlabel("taken for (by the threshold)")
    left.set_ylabel("true class")
    rng = np.random.default_rng(0)
    for place, (errors, colour) in enumerate(
        zip(found.errors, ("#4477aa", "#ee6677"), strict=True)
    ):
        # Scattered across the line, so that equal errors can be told apart.
        across = place + rng.uniform(-0.25, 0.25, len(errors))
        right.plot(errors, across, "o", color=colour, alpha=0.7, markersize=5, linewidth=0)
    right.axvline(found.threshold, color="black", linewidth=1.3)
    right.set_title(f"line: threshold {found.threshold:.6g}", fontsize=10)
    positive = all((errors > 0).all() for errors in found.errors) and found.threshold > 0
    if positive:
        log_axis(right)
    right.set_xlabel("reconstruction error" + (", logarithmic axis" if positive else ""))
    right.set_yticks([0, 1], names, parse_math=False, fontsize=9)
    right.set_ylim(1.6, -0.6)
    right.grid(axis="x", color="0.9", linewidth=0.8)
    return figure
