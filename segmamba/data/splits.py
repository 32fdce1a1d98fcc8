"""Three disjoint sets of patients: train; minival, which chooses; judge, which gives the verdict and chooses nothing."""

import random
from dataclasses import dataclass

from segmamba.errors import UserError

FEWEST_PATIENTS_FOR_THREE_SETS = 5  # with fewer, train would keep only one or two


@dataclass(frozen=True)
class Split:
    """Lists of cases. Where `judge_is_minival`, the last checkpoint must be judged, since minival can choose none."""

    train: list
    minival: list
    judge: list
    judge_is_minival: bool
    notes: tuple


def split_cases(cases, config):
    """Split by patient, the same for every arm and seed. `config` is a DataConfig; cases need .id and .patient."""
    by_patient = {}
    for case in sorted(cases, key=lambda c: c.id):
        by_patient.setdefault(case.patient, []).append(case)
    patients = sorted(by_patient)
    random.Random(config.split_seed).shuffle(patients)
    if len(patients) < 2:
        raise UserError(f"{len(patients)} labelled patient found: a study needs at least 2, one to train on and one to judge")
    notes = []
    judge_is_minival = len(patients) < FEWEST_PATIENTS_FOR_THREE_SETS
    judged = max(1, round(config.judge_share * len(patients)))
    held_out = 0 if judge_is_minival else max(1, round(config.minival_share * len(patients)))
    judge, minival, train = patients[:judged], patients[judged : judged + held_out], patients[judged + held_out :]
    judge = _capped([c for p in judge for c in by_patient[p]], config.judge_cases, "judge", notes)
    minival = _capped([c for p in minival for c in by_patient[p]], config.minival_cases, "minival", notes)
    if judge_is_minival:
        minival = judge
        notes.append(
            f"only {len(patients)} patients: the judge set is also the minival set, so no checkpoint is chosen and the last one is judged"
        )
    return Split([c for p in train for c in by_patient[p]], minival, judge, judge_is_minival, tuple(notes))


def _capped(cases, most, name, notes):
    if most and len(cases) > most:
        notes.append(f"{name} is capped at {most} of its {len(cases)} cases (data.{name}_cases)")
        return cases[:most]
    return cases
