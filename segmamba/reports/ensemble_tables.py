"""The tables of an ensemble's report, as text.

Legend: a vote is what the members of a group decide together; a member's mean stands for what to
expect of one of them.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from segmamba.evaluation.ensemble_scores import ENSEMBLE, Group, difference
from segmamba.evaluation.intervals import PairedMean
from segmamba.reports.tables import DASH, duration
from segmamba.studies.ensemble_verdict import Ensemble, gain
from segmamba.studies.group_difference import group_difference
from segmamba.studies.hypothesis import MINUS
from segmamba.studies.results import Study, StudyData
from segmamba.studies.words import points

Row: TypeAlias = dict[str, Any]


def mean_score(group: Group, who: str, score: str, **variant: bool) -> float:
    """The mean over the test patients of a member or of the vote.

    Args:
        group: The group.
        who: Name of the member, or ENSEMBLE.
        score: Column of the group's rows.
        **variant: Test-time options, flips and postprocessed; both are off unless given.

    Returns:
        The mean, in the unit of the column.
    """
    return float(np.mean(list(group.scores(who, score, **variant).values())))


def _dice(data: StudyData) -> list[str]:
    """The columns of Dice, in the order shown."""
    return [f"dice_{region}" for region in data.scores]


def _hd95(data: StudyData) -> list[str]:
    """The columns of HD95."""
    return [f"hd95_mm_{region}" for region in data.regions]


def _members_mean(group: Group, score: str, **variant: bool) -> float:
    """The mean over the test patients and the members."""
    return float(np.mean(list(group.member_mean(score, **variant).values())))


def member_table(group: Group, study: Study) -> Row:
    """Every member of a group, their mean, and the vote.

    Args:
        group: The group.
        study: The study whose trials are the members.

    Returns:
        The group's name, the headers and the rows.
    """
    validation = {trial.arm: trial.metrics.get("val/best_dice_mean") for trial in study.trials}
    rows, data = [], study.data
    for place, member in enumerate(group.members):
        rows.append(
            {
                "name": f"{member} (best on the validation set)" if place == group.best else member,
                "validation": points(validation[member]),
                "cells": _score_cells(group, member, data),
                "strong": False,
            }
        )
    hd95_mm = np.mean([_members_mean(group, score) for score in _hd95(data)])
    rows.append(
        {
            "name": "mean of the members",
            "validation": DASH,
            "cells": [
                *(points(_members_mean(group, score)) for score in _dice(data)),
                f"{hd95_mm:.1f}",
            ],
            "strong": False,
        }
    )
    rows.append(
        {
            "name": f"{group.name} ensemble",
            "validation": DASH,
            "cells": _score_cells(group, ENSEMBLE, data),
            "strong": True,
        }
    )
    headers = ["mean Dice", *data.regions, "HD95 (mm)"]
    return {"group": group.name, "headers": headers, "rows": rows}


def _score_cells(group: Group, who: str, data: StudyData) -> list[str]:
    hd95_mm = np.mean([mean_score(group, who, score) for score in _hd95(data)])
    return [*(points(mean_score(group, who, score)) for score in _dice(data)), f"{hd95_mm:.1f}"]


def pair_rows(ensemble: Ensemble) -> Iterator[Row]:
    """The paired differences: each vote against its members, and the groups against each other.

    Args:
        ensemble: The results.

    Yields:
        The contrast, and the difference with its interval in each column.
    """
    columns = _dice(ensemble.study.data)
    for group in ensemble.groups:
        yield {
            "contrast": f"{group.name} ensemble {MINUS} mean of its members",
            "cells": [_cell(gain(group, score)) for score in columns],
        }
        yield {
            "contrast": f"{group.name} ensemble {MINUS} its best member on the validation set",
            "cells": [_cell(gain_over_best(group, score)) for score in columns],
        }
    if len(ensemble.groups) < 2:
        return
    plain, diverse = ensemble.groups
    names = f"{diverse.name} {{}} {MINUS} {plain.name} {{}}"
    votes = [difference(diverse.scores(ENSEMBLE, s), plain.scores(ENSEMBLE, s)) for s in columns]
    means = [group_difference(diverse.member_table(s), plain.member_table(s)) for s in columns]
    yield {
        "contrast": names.format("ensemble", "ensemble") + " (these two ensembles only)",
        "cells": [_cell(paired) for paired in votes],
    }
    yield {
        "contrast": names.format("members", "members") + " (over runs and patients)",
        "cells": [_cell(paired) for paired in means],
    }


def gain_over_best(group: Group, score: str) -> PairedMean:
    """What the vote gains over the member that the validation set likes best.

    Args:
        group: The group.
        score: Column of the group's rows.

    Returns:
        The mean over patients, and the ends of its interval.
    """
    return difference(group.scores(ENSEMBLE, score), group.scores(group.members[group.best], score))


def variant_row(group: Group, data: StudyData, *, flips: bool, postprocessed: bool) -> Row:
    """The vote and its members with test-time options, and what the options add to the vote.

    Args:
        group: The group.
        data: The data that were tested.
        flips: Whether 8 mirror images are averaged.
        postprocessed: Whether the vote is post-processed.

    Returns:
        What the templates show.
    """
    options = {"flips": flips, "postprocessed": postprocessed}
    parts = (("8 mirror images", flips), ("post-processing", postprocessed))
    hd95_mm = np.mean([mean_score(group, ENSEMBLE, score, **options) for score in _hd95(data)])
    added = difference(
        group.scores(ENSEMBLE, "dice_mean", **options), group.scores(ENSEMBLE, "dice_mean")
    )
    return {
        "name": " + ".join(name for name, on in parts if on) or "as it is",
        "members": points(_members_mean(group, "dice_mean", **options)),
        "dice": [points(mean_score(group, ENSEMBLE, score, **options)) for score in _dice(data)],
        "hd95": f"{hd95_mm:.1f}",
        "added": _cell(added) if flips or postprocessed else (DASH, ""),
        "over_members": _cell(gain(group, "dice_mean", **options)),
    }


def _cell(paired: PairedMean) -> tuple[str, str]:
    """A difference and its interval as text; the second is empty where there is none."""
    mean, low, high = paired
    if low is None:
        return points(mean, signed=True), ""
    return points(mean, signed=True), f"[{points(low, signed=True)}, {points(high, signed=True)}]"


def size_rows(group: Group) -> list[Row]:
    """What each added member gains.

    Args:
        group: The group.

    Returns:
        A row for each number of members that vote, over all subsets of that size.
    """
    before: float | None = None
    rows = []
    for size, means in group.by_size().items():
        mean = float(np.mean(means))
        rows.append(
            {
                "size": size,
                "subsets": len(means),
                "mean": points(mean),
                "range": f"{points(min(means))} to {points(max(means))}",
                "gain": points(mean - before, signed=True) if before is not None else DASH,
            }
        )
        before = mean
    return rows


def cost_row(group: Group, study: Study) -> Row:
    """What a group takes to train and to predict a case.

    Args:
        group: The group.
        study: The study whose trials are the members.

    Returns:
        Times as text; a dash where training was not timed.
    """
    times = [
        trial.metrics.get("time/train_total_s")
        for trial in study.trials
        if trial.arm in group.members
    ]
    known = [seconds for seconds in times if seconds is not None]
    return {
        "group": group.name,
        "train_one": duration(sum(known) / len(known)) if known else DASH,
        "train_all": duration(sum(known)) if known else DASH,
        "seconds": {name: f"{seconds:.2f} s" for name, seconds in group.seconds.items()},
    }
