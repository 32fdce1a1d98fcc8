"""The table of paired differences: rows as text for pages, with the numbers that they show."""

import math
from typing import Any, TypeAlias

from segmamba.config import CONFIDENCE_LEVEL
from segmamba.reports.tables import decisive_first, result_table
from segmamba.studies.comparisons import compare_arms
from segmamba.studies.contrasts import Difference
from segmamba.studies.metrics import METRICS
from segmamba.studies.results import Study
from segmamba.studies.verdict import verdict
from segmamba.studies.words import amount, p_text

Row: TypeAlias = dict[str, Any]


def difference_table(study: Study) -> dict[str, Any]:
    """The table of paired differences.

    Args:
        study: The study.

    Returns:
        What the templates show: "pair_regions", the region that decides in front; "pairs", a row
        for each contrast; "pair_notes" and "pair_unit".
    """
    decides = study.hypothesis.regions[0]
    regions, rows = decisive_first(study, decides), difference_rows(study)
    notes = dict.fromkeys(note for row in rows for note in row["regions"][decides].notes)
    metric = METRICS[study.hypothesis.metric]
    return {
        "pair_regions": regions,
        "pairs": rows,
        "pair_notes": list(notes),
        "pair_unit": f"{metric.words}, {metric.unit}"
        + ("" if metric.higher_is_better else ", positive where it falls"),
    }


def difference_rows(study: Study) -> list[Row]:
    """A row for each contrast.

    Args:
        study: The study.

    Returns:
        The contrast, whether the first claim is about it, and as text the estimate with its
        interval on each region ("cells", the region that decides in front), the p-values of that
        region, and on how many seeds and patients it rests. Beside them are the numbers: "regions",
        the Difference on each region, and "p_adjusted".
    """
    decides = study.hypothesis.regions[0]
    return [
        {
            "contrast": result.label,
            "arm": result.arm,
            "versus": result.versus,
            "decides": result.decides,
            "cells": [
                estimate_and_interval(result.regions[region])
                for region in decisive_first(study, decides)
            ],
            "p": p_text(result.regions[decides].p_value),
            "p_holm": p_text(result.p_holm),
            "p_rank": p_text(result.regions[decides].rank_p),
            "level": _level(result.regions[decides]),
            "seeds": len(result.regions[decides].seeds),
            "patients": len(result.regions[decides].patients),
            "regions": result.regions,
            "p_adjusted": result.p_holm,
        }
        for result in compare_arms(study)
    ]


def estimate_and_interval(difference: Difference) -> tuple[str, str]:
    """An estimate and its interval as text.

    Args:
        difference: The difference.

    Returns:
        Both, the second empty where there is no interval.
    """
    metric = difference.metric
    estimate = amount(difference.mean, metric, signed=True)
    if not math.isfinite(difference.low):
        return estimate, ""
    low, high = (amount(v, metric, signed=True) for v in (difference.low, difference.high))
    return estimate, f"[{low}, {high}]"


def _level(difference: Difference) -> str:
    """The coverage of the interval where it is adjusted; otherwise ""."""
    adjusted = math.isfinite(difference.low) and difference.level != CONFIDENCE_LEVEL
    return f"{100 * difference.level:.4g} %" if adjusted else ""


def comparison_as_dict(study: Study) -> dict[str, Any]:
    """What a comparison of studies shows, for `--json`.

    Args:
        study: The pooled study.

    Returns:
        Plain values; scores and differences are in the unit of the per-case tables.
    """
    result = verdict(study)
    return {
        "comparison": study.name,
        "studies": list(study.pooled_from),
        "claim": study.hypothesis.claim,
        "exploratory": bool(study.hypothesis.exploratory),
        "answer": result.answer,
        "verdict": result.sentence,
        "arms": result_table(study),
        "differences": [
            {
                "arm": row["arm"],
                "versus": row["versus"],
                "decides": row["decides"],
                "region": region,
                "mean": _finite(d.mean),
                "low": _finite(d.low),
                "high": _finite(d.high),
                "level": d.level,
                "p": _finite(d.p_value),
                "p_holm": _finite(row["p_adjusted"]) if place == 0 else None,
                "seeds": len(d.seeds),
                "patients": len(d.patients),
            }
            for row in difference_rows(study)
            for place, region in enumerate(decisive_first(study, study.hypothesis.regions[0]))
            for d in [row["regions"][region]]
        ],
        "notes": list(study.data.notes),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
