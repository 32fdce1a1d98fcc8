"""The patients of the contrast that the answer leads with, by name and with their pictures."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from segmamba.evaluation.patients import by_patient
from segmamba.reports.pages import VIEWER
from segmamba.reports.patient_figures import region_words
from segmamba.studies.contrasts import Difference
from segmamba.studies.results import Study
from segmamba.studies.scores import case_patients, case_scores
from segmamba.studies.verdict import verdict
from segmamba.studies.words import amount

CASES = re.compile(r'class="viewer-case" data-id="([^"]*)"')
"""Where the viewer's page holds a case."""


def patient_table(study: Study, folder: Path) -> dict[str, Any]:
    """The leading contrast patient by patient, as text.

    Args:
        study: The study.
        folder: The report's, where the viewer's page may lie.

    Returns:
        "arms", the two that are compared; "linked", whether
        any row has links; "rows", from the largest difference: the patient, its
        scores with both arms, the difference, and the links to those of its cases that the viewer
        holds. {} for a trend and where nothing was paired.
    """
    difference = verdict(study).difference
    if not difference.versus or not difference.patients:
        return {}
    patients, metric = case_patients(study), difference.metric
    scores = [_means(study, difference, arm) for arm in (difference.arm, difference.versus)]
    links = viewer_links(folder)
    linked: dict[str, list[dict[str, str]]] = {}
    for case in difference.cases:
        if case in links:
            linked.setdefault(patients[case], []).append({"case": case, "href": links[case]})
    gaps = dict(zip(difference.patients, difference.patient_differences, strict=True))
    return {
        "arms": [difference.arm, difference.versus],
        "region": region_words(difference),
        "unit": metric.unit,
        "linked": bool(linked),
        "rows": [
            {
                "patient": patient,
                "scores": [amount(of.get(patient), metric) for of in scores],
                "difference": amount(gaps[patient], metric, signed=True),
                "views": linked.get(patient, []),
            }
            for patient in sorted(gaps, key=lambda patient: (-gaps[patient], patient))
        ],
    }


def _means(study: Study, difference: Difference, arm: str) -> dict[str, float]:
    """Patient to the mean score of an arm over the seeds and cases of a difference."""
    column = f"{difference.score}_{difference.region}"
    of_seed = case_scores(study, arm, column)
    means = {
        case: float(np.mean([of_seed[seed][case] for seed in difference.seeds]))
        for case in difference.cases
        if all(case in of_seed.get(seed, {}) for seed in difference.seeds)
    }
    return by_patient(means, case_patients(study))


def viewer_links(folder: Path) -> dict[str, str]:
    """Find the cases that the viewer's page in a folder holds.

    Args:
        folder: The folder of a report.

    Returns:
        Case id to the link that opens it; {} without a viewer.
    """
    page = folder / VIEWER
    if not page.is_file():
        return {}
    cases = map(html.unescape, CASES.findall(page.read_text(encoding="utf-8")))
    return {case: f"{VIEWER}#case={quote(case, safe='')}" for case in cases}
