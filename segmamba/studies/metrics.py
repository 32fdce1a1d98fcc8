"""What a claim can be about: the metrics of the per-case tables, their units and their margins."""

import math
from dataclasses import dataclass

from segmamba.config import DICE_MARGIN, HD95_MARGIN_MM


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score of the per-case tables that can decide a claim."""

    column: str
    """How its columns begin: `column`_mean, `column`_WT, ..."""
    words: str
    """Its name in a sentence."""
    unit: str
    """The unit that a reader sees."""
    scale: float
    """The unit that a reader sees, in that of the table: 100 makes Dice points of Dice."""
    higher_is_better: bool
    highest: float
    """The largest possible value, in the table's unit; the smallest is 0."""
    margin: float
    """The smallest difference that matters where a claim names none, in the table's unit."""


METRICS = {
    "dice": Metric(
        column="dice",
        words="Dice",
        unit="Dice points",
        scale=100,
        higher_is_better=True,
        highest=1.0,
        margin=DICE_MARGIN,
    ),
    "nsd_1mm": Metric(
        column="nsd_1mm",
        words="NSD at 1 mm",
        unit="NSD points",
        scale=100,
        higher_is_better=True,
        highest=1.0,
        margin=DICE_MARGIN,
    ),
    "hd95": Metric(
        column="hd95_mm",
        words="HD95",
        unit="mm",
        scale=1,
        higher_is_better=False,
        highest=math.inf,
        margin=HD95_MARGIN_MM,
    ),
    "dice_one_missing": Metric(
        column="one_missing_dice",
        words="Dice with one modality missing",
        unit="Dice points",
        scale=100,
        higher_is_better=True,
        highest=1.0,
        margin=DICE_MARGIN,
    ),
}
"""The metrics by the name that a Hypothesis gives."""


def metric_of(score: str) -> Metric:
    """The metric whose columns begin with `score`.

    Args:
        score: "dice", "nsd_1mm", "hd95_mm"; or with something before it, as in "last_dice" of the
            last checkpoint and "only_T1-T2_dice" of a subset of the modalities.

    Returns:
        The metric.
    """
    fitting = [metric for metric in METRICS.values() if f"_{score}".endswith(f"_{metric.column}")]
    return max(fitting, key=lambda metric: len(metric.column))
