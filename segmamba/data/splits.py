"""Three disjoint sets of patients: train; validation, which chooses; test, which gives the verdict.

The test set chooses nothing. There is one split (data.folds = 0), or k folds whose test sets
together are everybody (data.folds), or the folds of a file (data.splits_file). A fourth set,
holdout, is taken out before all of them and belongs to no study (data.holdout_share,
data.holdout_file).
"""

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Generic

from segmamba.config import Config, DataConfig
from segmamba.data.same_images import place
from segmamba.data.splits_file import read_ids, read_splits, refuse_divided
from segmamba.data.strata import (
    AnyCase,
    LabelledCase,
    Stratum,
    strata_of,
    stratified_folds,
    stratified_sample,
)
from segmamba.errors import UserError

SETS = ("train", "validation", "test")
"""The sets of a Split that every study has."""
FEWEST_PATIENTS_FOR_THREE_SETS = 5  # with fewer, train would keep only one or two


@dataclass(frozen=True)
class Split(Generic[AnyCase]):
    """The cases of a study, divided by patient."""

    train: list[AnyCase]
    validation: list[AnyCase]
    """Chooses the checkpoint."""
    test: list[AnyCase]
    """Gives the verdict and chooses nothing."""
    test_is_validation: bool
    """With too few patients for both. The last checkpoint is then tested: none can be chosen."""
    notes: tuple[str, ...]
    """What a study must say about the split, a line each."""
    holdout: tuple[AnyCase, ...] = ()
    """Cases that no study trains on, chooses by or tests on, kept for one final evaluation."""
    unlabelled: tuple[AnyCase, ...] = ()
    """Cases to learn from by their images alone; a label that one of them has is not read."""


def seeded(config: Config, seed: int) -> DataConfig:
    """Say how the cases of a run are divided: with its seed where data.split_by_seed is on.

    Args:
        config: Its section `data` says how.
        seed: The seed of the run.

    Returns:
        The section; `split_seed` has grown by the seed where it counts.
    """
    data = config.data
    return replace(data, split_seed=data.split_seed + seed) if data.split_by_seed else data


def split_cases(
    cases: Iterable[AnyCase],
    config: DataConfig,
    unlabelled: Collection[AnyCase] = (),
    joined: Mapping[str, str] = MappingProxyType({}),
    strata: Mapping[str, Stratum] | None = None,
) -> Split[AnyCase]:
    """Divide cases by patient, the same for every arm.

    Args:
        cases: Labelled cases. Their labels are read to stratify where there are folds, and only
            there.
        config: How patients are divided.
        unlabelled: Cases without a segmentation. Nothing is learnt from a patient who is in the
            validation, test or holdout set: such cases are left out.
        joined: Names of patients who are one person with another, to the name that all of their
            cases have; the holdout file may use any of them.
        strata: The stratum of each patient; None measures them where they are needed.

    Returns:
        The sets.

    Raises:
        UserError: There are too few patients, or a file does not fit the cases.
    """
    cases, holdout, notes = hold_out(sorted(cases, key=lambda case: case.id), config, joined)
    patients = _by_patient(cases)
    if len(patients) < 2:
        raise UserError(
            f"{len(patients)} labelled patient found: a study needs at least 2, "
            "one to train on and one to test"
        )
    test_is_validation = len(patients) < FEWEST_PATIENTS_FOR_THREE_SETS
    held_out = 0 if test_is_validation else max(1, round(config.validation_share * len(patients)))
    if config.splits_file or config.folds:
        known = strata_of(cases) if strata is None else {p: strata[p] for p in patients}
        trained, validated, tested = _divide_by_fold(cases, holdout, config, held_out, known, notes)
    else:
        trained, validated, tested = _divide_once(patients, config, held_out)
    if not trained:
        raise UserError(
            f"no patient is left to train on: {len(tested)} to test, {len(validated)} for the "
            "validation set; lower data.validation_share"
        )
    test = _capped(_cases_of(tested, patients), config.test_cases, "test", notes)
    validation = test if test_is_validation else _cases_of(validated, patients)
    validation = _capped(validation, config.validation_cases, "validation", notes)
    if test_is_validation:
        notes.append(
            f"only {len(patients)} patients: the test set is also the validation set, "
            "so no checkpoint is chosen and the last one is tested"
        )
    trained, without_labels = _use_labels(trained, config, notes)
    closed = patients.keys() - {*trained, *without_labels} | {case.patient for case in holdout}
    open_cases = _open_to_learning(unlabelled, closed, config, notes)
    return Split(
        _cases_of(trained, patients),
        validation,
        test,
        test_is_validation,
        tuple(notes),
        tuple(holdout),
        (*_cases_of(without_labels, patients), *open_cases),
    )


def with_training_share(split: Split[AnyCase], config: Config) -> Split[AnyCase]:
    """Leave out training patients, as `learning.training_share` says.

    Args:
        split: The cases of a run.
        config: Its configuration; its seed draws the patients.

    Returns:
        The split with fewer patients to train on, at least one, and a note on their number. The
        other sets stay.
    """
    share, everyone = config.learning.training_share, {case.patient for case in split.train}
    if share == 1:
        return split
    kept = _some(everyone, share, config.seed)
    note = f"trains on {len(kept)} of {len(everyone)} patients (learning.training_share)"
    return replace(
        split,
        train=[case for case in split.train if case.patient in kept],
        notes=(*split.notes, note),
    )


def hold_out(
    cases: list[AnyCase],
    config: DataConfig,
    joined: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[AnyCase], list[AnyCase], list[str]]:
    """Take out the cases that belong to no study.

    By share, a patient's place depends on nothing but its id: neither a seed nor new cases ever
    move a patient into a study.

    Args:
        cases: All labelled cases.
        config: Says who is held out, by share or by a file.
        joined: As `split_cases` takes it.

    Returns:
        The cases that studies may use, the holdout cases, and notes.

    Raises:
        UserError: The file does not fit the cases, or the share holds out nobody.
    """
    if config.holdout_file:
        known = {name for case in cases for name in (case.id, case.patient)}
        others = {name: patient for name, patient in joined.items() if patient in known}
        named = read_ids(config.holdout_file, known | others.keys())
        named |= {others[name] for name in named & others.keys()}
        patients = {case.patient for case in cases if named & {case.id, case.patient}}
    else:
        patients = {case.patient for case in cases if place(case.patient) < config.holdout_share}
    if not patients:
        if config.holdout_share:
            raise UserError(
                f"data.holdout_share = {config.holdout_share:g} holds out none of "
                f"{len(_by_patient(cases))} patients; raise it or name them in data.holdout_file"
            )
        return cases, [], []
    holdout = [case for case in cases if case.patient in patients]
    note = (
        f"{len(holdout)} cases of {len(patients)} patients are held out (holdout set); "
        "no trial reads them"
    )
    return [case for case in cases if case.patient not in patients], holdout, [note]


def _divide_once(
    patients: Iterable[str], config: DataConfig, held_out: int
) -> tuple[list[str], list[str], list[str]]:
    """Divide patients at random into those to train on, to validate on and to test."""
    shuffled = sorted(patients)
    random.Random(config.split_seed).shuffle(shuffled)
    tested = max(1, round(config.test_share * len(shuffled)))
    return (
        shuffled[tested + held_out :],
        shuffled[tested : tested + held_out],
        shuffled[:tested],
    )


def _divide_by_fold(
    cases: Sequence[LabelledCase],
    holdout: Sequence[LabelledCase],
    config: DataConfig,
    held_out: int,
    strata: Mapping[str, Stratum],
    notes: list[str],
) -> tuple[list[str], list[str], list[str]]:
    """Divide patients by a fold into those to train on, to validate on and to test."""
    rest, tested = (
        _fold_of_file(cases, holdout, config, notes)
        if config.splits_file
        else _fold(strata, config, notes)
    )
    validated = stratified_sample(rest, strata, held_out, config.split_seed)
    return [patient for patient in rest if patient not in set(validated)], validated, tested


def _fold(
    strata: Mapping[str, Stratum], config: DataConfig, notes: list[str]
) -> tuple[list[str], list[str]]:
    """Name the patients outside and inside the test set of fold `data.fold`."""
    notes.append(
        f"fold {config.fold} of {config.folds}, stratified by tumour volume and presence of ET"
    )
    test = stratified_folds(strata, config.folds, config.split_seed)[config.fold]
    return sorted(strata.keys() - set(test)), test


def _fold_of_file(
    cases: Sequence[LabelledCase],
    holdout: Sequence[LabelledCase],
    config: DataConfig,
    notes: list[str],
) -> tuple[list[str], list[str]]:
    """Name the patients to train on and to test in the fold that the file and data.fold name.

    A patient of the holdout set stays there, whatever the file says.
    """
    path, folds = config.splits_file, read_splits(config.splits_file)
    if config.fold >= len(folds):
        raise UserError(
            f"data.fold = {config.fold}: {path} has {len(folds)} folds, numbered from 0"
        )
    train, test = (ids - {case.id for case in holdout} for ids in folds[config.fold])
    if absent := (train | test) - {case.id for case in cases}:
        raise UserError(
            f"{path}: {len(absent)} of its cases are not in the data, {min(absent)} for one; "
            "give the data it was made for"
        )
    refuse_divided(path, folds, [*cases, *holdout])
    trained, tested = ({case.patient for case in cases if case.id in ids} for ids in (train, test))
    if not (trained and tested):
        raise UserError(
            f"{path}: fold {config.fold} has nobody to {'test' if trained else 'train on'}; "
            "correct it or choose another data.fold"
        )
    unused = {case.id: case.patient for case in cases if case.id not in train | test}
    if partly := [case_id for case_id in sorted(unused) if unused[case_id] in trained | tested]:
        raise UserError(
            f"{path}: names some cases of a patient but not {partly[0]}; "
            "name all time points of a patient"
        )
    notes.append(
        f"fold {config.fold} of {len(folds)} from {Path(path).name}"
        + (f"; {len(unused)} cases are in none of its sets" if unused else "")
    )
    return sorted(trained), sorted(tested)


def _use_labels(
    patients: list[str], config: DataConfig, notes: list[str]
) -> tuple[list[str], list[str]]:
    """Divide patients into those whose labels are used and the others.

    A larger `data.labelled_share` uses the same labels and some more.
    """
    if config.labelled_share == 1:
        return patients, []
    kept = _some(patients, config.labelled_share, config.split_seed)
    notes.append(
        f"labels of {len(kept)} of {len(patients)} patients are used, "
        "the others serve as unlabelled (data.labelled_share)"
    )
    return [p for p in patients if p in kept], [p for p in patients if p not in kept]


def _some(patients: Collection[str], share: float, seed: int) -> set[str]:
    """Draw a share of patients; of the same seed, a larger share holds a smaller one's."""
    shuffled = random.Random(seed).sample(sorted(patients), len(patients))
    return set(shuffled[: max(1, round(share * len(patients)))])


def _open_to_learning(
    unlabelled: Collection[AnyCase], closed: set[str], config: DataConfig, notes: list[str]
) -> list[AnyCase]:
    """Leave out the cases of the patients `closed`, and of those whom the holdout share takes."""
    kept = [
        case
        for case in sorted(unlabelled, key=lambda case: case.id)
        if case.patient not in closed and place(case.patient) >= config.holdout_share
    ]
    if kept:
        notes.append(f"{len(kept)} cases without a segmentation serve as unlabelled")
    if len(kept) < len(unlabelled):
        notes.append(
            f"{len(unlabelled) - len(kept)} cases without a segmentation are left out: "
            "their patients are tested, chosen by or held out"
        )
    return kept


def _by_patient(cases: Iterable[AnyCase]) -> dict[str, list[AnyCase]]:
    """Group cases by patient, in the order in which the patients first appear."""
    groups: dict[str, list[AnyCase]] = {}
    for case in cases:
        groups.setdefault(case.patient, []).append(case)
    return groups


def _cases_of(
    patients: Iterable[str], cases_by_patient: Mapping[str, list[AnyCase]]
) -> list[AnyCase]:
    return [case for patient in patients for case in cases_by_patient[patient]]


def _capped(cases: list[AnyCase], most: int, name: str, notes: list[str]) -> list[AnyCase]:
    """Keep at most `most` cases, of as many patients as can be, in their order."""
    if not most or len(cases) <= most:
        return cases
    notes.append(f"{name} is capped at {most} of its {len(cases)} cases (data.{name}_cases)")
    groups = _by_patient(cases).values()
    rounds = [(turn, case) for group in groups for turn, case in enumerate(group)]
    kept = {case.id for _, case in sorted(rounds, key=lambda entry: entry[0])[:most]}
    return [case for case in cases if case.id in kept]
