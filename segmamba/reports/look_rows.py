"""The looks of a study that adds seeds, as a table."""

from __future__ import annotations

import math
from typing import Any

from segmamba.reports.look_figures import STATE_WORDS
from segmamba.studies.looks import ContrastLook
from segmamba.studies.metrics import Metric, metric_of
from segmamba.studies.results import Study
from segmamba.studies.words import amount, p_text


def look_rows(study: Study) -> list[dict[str, Any]]:
    """What each look saw and what followed.

    Args:
        study: The study.

    Returns:
        For each look "seeds", "reason" and "contrasts"; each of these has its "label", "estimate",
        "interval", "p", "level" and "state" as text. [] where no look was taken.
    """
    metric = metric_of(study.hypothesis.score)
    several = len(study.hypothesis.regions) > 1
    return [
        {
            "seeds": look.seeds,
            "reason": look.reason,
            "contrasts": [
                {
                    "label": f"{c.label}, {c.region}" if several else c.label,
                    "estimate": amount(c.mean, metric, signed=True),
                    "interval": _interval(c, metric),
                    "p": p_text(c.p_value),
                    "level": p_text(c.level),
                    "state": STATE_WORDS[c.state],
                }
                for c in look.contrasts
            ],
        }
        for look in study.looks
    ]


def _interval(contrast: ContrastLook, metric: Metric) -> str:
    """The repeated interval; empty where there is none."""
    if not math.isfinite(contrast.low):
        return ""
    low, high = (amount(end, metric, signed=True) for end in (contrast.low, contrast.high))
    return f"[{low}, {high}]"
