"""Patients are the unit of every mean and interval: a patient's cases are averaged first.

Several time points of one person are alike. Counted as independent they make an interval too
narrow; docs/explanation/statistics.md has the figures.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from segmamba.data.case import patient_of

NAMES = ("case", "patient")
"""The columns of a per-case table that hold no score."""


def row_patient(row: Mapping[str, Any]) -> str:
    """Return the patient of a row of a per-case table.

    Args:
        row: A row with "case" and, in tables of version 0.3 and later, "patient".

    Returns:
        The patient that the row names, else the one that the case's id tells.
    """
    return row.get("patient") or patient_of(row["case"])


def patient_means(
    values: np.ndarray, patients: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Average the cases of each patient.

    Args:
        values: A number for each case on the last axis, (..., C).
        patients: The patient of each case, C names.

    Returns:
        The means, (..., P), and the names of the P patients in the order of their first case. With
        one case a patient the values are those given.
    """
    names = tuple(dict.fromkeys(patients))
    values = np.asarray(values, float)
    if len(names) == len(patients):
        return values, names
    place = {name: index for index, name in enumerate(names)}
    member = np.zeros((len(patients), len(names)))
    member[np.arange(len(patients)), [place[patient] for patient in patients]] = 1
    return values @ member / member.sum(0), names


def by_patient(values: Mapping[str, float], patients: Mapping[str, str]) -> dict[str, float]:
    """Average the cases of each patient, by name.

    Args:
        values: Case to value.
        patients: Case to patient.

    Returns:
        Patient to the mean of the patient's cases.
    """
    means, names = patient_means(
        np.array(list(values.values()), float), [patients[case] for case in values]
    )
    return dict(zip(names, means.tolist(), strict=True))


def counted(cases: Iterable[Hashable], patients: Iterable[Hashable]) -> str:
    """Say how many cases there are, and of how many patients.

    Args:
        cases: The cases; a case that occurs twice counts once.
        patients: Their patients, likewise.

    Returns:
        "6 cases of 3 patients"; "3 patients" where each has one case.
    """
    several, people = len(set(cases)), len(set(patients))
    who = f"{people} patient{'s' * (people != 1)}"
    return who if several == people else f"{several} cases of {who}"
