"""What a Dice point costs, as a table and as metrics."""

from __future__ import annotations

import math
import re
from typing import Any

from segmamba.reports.difference_rows import estimate_and_interval
from segmamba.reports.units import in_unit, unit_of
from segmamba.studies.pareto import ArmCost, fronts
from segmamba.studies.results import Study
from segmamba.studies.words import DASH, points

LONGEST_PART = 120
"""Characters of an arm's name in a metric's: MLflow takes 250 for all."""


def pareto_table(study: Study) -> dict[str, Any]:
    """The arms against every cost, as text.

    Args:
        study: The study.

    Returns:
        "headers"; "rows", each the arm's name, its Dice with its interval, and for each cost the
        value, what to know of it, and whether the arm is on the front; "notes", what is left out.
        {} where nothing was tested.
    """
    found = fronts(study)
    if not found:
        return {}
    shown = [front for front in found if front.arms]
    notes = dict.fromkeys(note for front in found for note in front.notes)
    if not shown:
        return {"headers": [], "rows": [], "notes": list(notes)}
    units = [unit_of(front.cost, [arm.high for arm in front.arms]) for front in shown]
    places = [{arm.arm: arm for arm in front.arms} for front in shown]
    rows = []
    for arm in study.arms:
        known = next((of[arm] for of in places if arm in of), None)
        if known is None:
            continue
        cells = [_cell(of.get(arm), per) for of, (_, per) in zip(places, units, strict=True)]
        rows.append({"arm": arm, "dice": _dice(known), "cells": cells})
    headers = [
        f"{front.cost.title} ({unit})" for front, (unit, _) in zip(shown, units, strict=True)
    ]
    return {"headers": headers, "rows": rows, "notes": list(notes)}


def _dice(arm: ArmCost) -> tuple[str, str]:
    if not math.isfinite(arm.dice_low):
        return points(arm.dice), ""
    return points(arm.dice), f"[{points(arm.dice_low)}, {points(arm.dice_high)}]"


def _cell(arm: ArmCost | None, per: float) -> tuple[str, str, bool]:
    """The cost, where the arm stands, and whether that is on the front."""
    if arm is None:
        return DASH, "", False
    share = f" in {100 * arm.share:.0f} %" if math.isfinite(arm.share) else ""
    if arm.behind:
        paired = estimate_and_interval(arm.gap) if arm.gap and arm.gap.seeds else ()
        gap = " ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in paired)
        return in_unit(arm.cost, per), f"behind {arm.behind} {gap}".strip(), False
    return in_unit(arm.cost, per), f"front{share}", True


def pareto_metrics(study: Study) -> dict[str, float]:
    """The fronts as metrics of the study's run.

    Args:
        study: The study.

    Returns:
        For each cost and arm pareto/COST/ARM: 1 on the front, 0 behind it; MLflow's charts then
        tell them apart. What an arm's name has and a metric's must not is replaced.
    """
    metrics: dict[str, float] = {}
    for front in fronts(study):
        for arm in front.arms:
            name = f"pareto/{front.cost.key}/{_part(arm.arm)}"
            while name in metrics:  # two names became one
                name += "_"
            metrics[name] = 0.0 if arm.behind else 1.0
    return metrics


def _part(arm: str) -> str:
    """An arm's name as the last part of a metric's, which must be a plain path."""
    plain = re.sub(r"[^\w\-. ]+", "_", arm, flags=re.ASCII).strip(" .")[:LONGEST_PART]
    return plain or "_"
