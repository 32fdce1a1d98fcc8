"""The result table of a study: plain for JSON, and as text for pages and the terminal.

Means are over patients, with folds over those of all folds (segmamba.studies.scores), so that the
table agrees with the paired differences.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from segmamba.data.label_sets import MEAN
from segmamba.screen import clock
from segmamba.studies.arm_means import mean_interval
from segmamba.studies.results import Study
from segmamba.studies.scores import finished_trials, seed_scores
from segmamba.studies.standing import not_shown_worse
from segmamba.studies.words import DASH

if TYPE_CHECKING:
    pass

PHANTOM_NOTICE = "phantom data: no evidence about BraTS"
EXPLORATORY = "Exploratory"
"""What stands before every claim but the first: errors are controlled for the first alone."""


Score: TypeAlias = dict[str, Any]
"""The "mean" and "sd" over the "seeds" (their number), and the ends "low" and "high" of the mean's
interval; None where nothing was measured."""
Cell: TypeAlias = tuple[str, bool]
"""Text, and whether the arm is not shown worse than the best of the column."""


class Column(NamedTuple):
    """A column of scores in the table of the arms."""

    title: str
    name: str
    """Name of the score in the result table."""
    column: str
    """Its column in the per-case tables."""
    scale: float
    """What the score is multiplied by: 100 makes Dice points of Dice."""


FURTHER_COLUMNS = (
    Column("last checkpoint", "last_dice_mean", "last_dice_mean", 100),
    Column("NSD at 1 mm", "nsd_1mm", "nsd_1mm_mean", 100),
    Column("HD95 (mm)", "hd95_mm", "hd95_mm_mean", 1),
)
"""Columns that are shown where they were measured."""


def dice_columns(study: Study) -> tuple[Column, ...]:
    """The columns of Dice: the mean, then each region of the study's data."""
    return tuple(
        Column("mean Dice" if region == MEAN else region, f"dice_{region}", f"dice_{region}", 100)
        for region in study.data.scores
    )


def decisive_first(study: Study, region: str) -> list[str]:
    """The regions in the order shown, with the one that decides in front.

    Args:
        study: The study.
        region: The region that decides.

    Returns:
        All regions and the mean.
    """
    return [region, *(other for other in study.data.scores if other != region)]


def result_table(study: Study) -> list[dict[str, Any]]:
    """The results of every arm, ready for JSON.

    Args:
        study: The study.

    Returns:
        One dict per arm. The scores dice_mean and dice_ET and so on, nsd_1mm (0 to 1), hd95_mm
        (means of the regions) and last_dice_mean (of the last checkpoint, where it was tested too)
        are each {"mean", "sd", "seeds", "low", "high"} over the finished seeds; low and high are
        the ends of the mean's 95 % interval over seeds and patients. Beside them are "parameters"
        and "train_s". What was not measured is None.
    """
    rows, columns = [], dice_columns(study)
    for arm in study.arms:
        finished = finished_trials(study, arm)
        scores = {
            c.name: _over_seeds(seed_scores(study, arm, c.column).values())
            | dict(zip(("low", "high"), _ends(study, arm, c.column), strict=True))
            for c in (*columns, *FURTHER_COLUMNS)
        }
        rows.append(
            {
                "arm": arm,
                "baseline": arm == study.baseline,
                "seeds_finished": len({trial.seed for trial in finished}),
                "seeds_planned": len(study.seeds_of(arm)),
                **scores,
                "parameters": _mean([t.metrics.get("model/parameters") for t in finished]),
                "train_s": _mean([t.metrics.get("time/train_total_s") for t in finished]),
            }
        )
    return rows


def _over_seeds(scores: Iterable[float]) -> Score:
    values = list(scores)
    return {
        "mean": _mean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "seeds": len(values),
    }


def _ends(study: Study, arm: str, column: str) -> tuple[float | None, float | None]:
    return mean_interval(study, arm, column) or (None, None)


def _mean(values: Iterable[float | None]) -> float | None:
    finite = _finite(values)
    return statistics.fmean(finite) if finite else None


def _finite(values: Iterable[float | None]) -> list[float]:
    return [v for v in values if v is not None and math.isfinite(v)]


def arm_table(
    study: Study, table: Sequence[Mapping[str, Any]] | None = None
) -> tuple[list[str], list[list[Cell]]]:
    """The result table as text.

    Args:
        study: The study.
        table: Its `result_table`; None makes it.

    Returns:
        The headers and the rows.
    """
    table = result_table(study) if table is None else table
    further = [c for c in FURTHER_COLUMNS if any(row[c.name]["seeds"] for row in table)]
    columns = [*dice_columns(study), *further]
    scores = zip(*(_score_cells(study, table, column) for column in columns), strict=True)
    rows = [
        [_name_cell(row), *cells, *_cost_cells(row)]
        for row, cells in zip(table, scores, strict=True)
    ]
    return ["arm", *(c.title for c in columns), "parameters", "training", "seeds"], rows


def _name_cell(row: Mapping[str, Any]) -> Cell:
    mark = " (baseline)" if row["baseline"] and row["arm"] != "baseline" else ""
    return row["arm"] + mark, False


def _score_cells(study: Study, table: Sequence[Mapping[str, Any]], column: Column) -> list[Cell]:
    """One column; the arms that are not shown worse than the best are marked."""
    marked = not_shown_worse(study, column.column)
    return [(_plus_minus(row[column.name], column.scale), row["arm"] in marked) for row in table]


def _cost_cells(row: Mapping[str, Any]) -> list[Cell]:
    parameters = DASH if row["parameters"] is None else f"{row['parameters'] / 1e6:.2f} M"
    return [
        (parameters, False),
        (duration(row["train_s"]), False),
        (f"{row['seeds_finished']} of {row['seeds_planned']}", False),
    ]


def dropped_rows(study: Study) -> list[dict[str, str]]:
    """The arms that a sequential study dropped before it stopped, with the reason.

    Args:
        study: The study.

    Returns:
        "arm" and "reason" of each, in the order in which they were dropped.
    """
    return [
        {"arm": arm, "reason": reason}
        for look in study.looks
        for arm, reason in look.dropped.items()
    ]


def _plus_minus(score: Score, scale: float) -> str:
    if score["mean"] is None:
        return DASH
    spread = f" ± {scale * score['sd']:.1f}" if score["sd"] is not None else ""
    return f"{scale * score['mean']:.1f}{spread}"


def duration(seconds: float | None) -> str:
    """A time as text, as `clock` writes it.

    Args:
        seconds: The time; None where it is not known.

    Returns:
        The text; a dash where it is not known.
    """
    return DASH if seconds is None or not math.isfinite(seconds) else clock(seconds)
