"""Three disjoint sets of patients: train; validation, which chooses; test, which gives the verdict and chooses nothing.

One split (data.folds = 0), k folds whose test sets together are everybody (data.folds), or the folds of a file (data.splits_file).
A fourth set, holdout, is taken out before all of them and belongs to no study (data.holdout_share, data.holdout_file).
"""

import hashlib
import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segmamba.data.case import Case
from segmamba.data.labels import ET, to_classes
from segmamba.data.layouts.datalist import folds_of
from segmamba.data.parallel import map_cases
from segmamba.data.volumes import read_volume
from segmamba.errors import UserError
from segmamba.files import write_json

FEWEST_PATIENTS_FOR_THREE_SETS = 5  # with fewer, train would keep only one or two


@dataclass(frozen=True)
class Split:
    """Lists of cases. Where `test_is_validation`, the last checkpoint must be tested, since validation can choose none.

    holdout: what no study may train on, choose by or be tested on; for one final evaluation. unlabelled: cases to learn from by their images
    alone; a label that one of them happens to have is not read.
    """

    train: list
    validation: list
    test: list
    test_is_validation: bool
    notes: tuple
    holdout: tuple = ()
    unlabelled: tuple = ()


def split_cases(cases, config, unlabelled=()):
    """Split by patient, the same for every arm and seed. `config` is a DataConfig; cases need .id and .patient.

    With folds, cases also need label(), which gives the internal classes (x, y, z): it is read to stratify. `unlabelled`: cases without a
    segmentation; those of a patient who is tested, chosen by or held out are left out, for nothing of such a patient is learnt from.
    """
    cases, holdout, notes = hold_out(sorted(cases, key=lambda c: c.id), config)
    by_patient = _by_patient(cases)
    if len(by_patient) < 2:
        raise UserError(
            f"{len(by_patient)} labelled patient found: a study needs at least 2, one to train on and one to test"
        )
    test_is_validation = len(by_patient) < FEWEST_PATIENTS_FOR_THREE_SETS
    held_out = 0 if test_is_validation else max(1, round(config.validation_share * len(by_patient)))
    if config.splits_file or config.folds:
        strata = strata_of(cases)
        rest, test = (
            _fold_of_file(cases, holdout, config, notes)
            if config.splits_file
            else _fold(strata, config, notes)
        )
        validation = _alike(rest, strata, held_out, config.split_seed)
        train = [patient for patient in rest if patient not in set(validation)]
    else:
        patients = sorted(by_patient)
        random.Random(config.split_seed).shuffle(patients)
        tested = max(1, round(config.test_share * len(patients)))
        test, validation, train = (
            patients[:tested],
            patients[tested : tested + held_out],
            patients[tested + held_out :],
        )
    if not train:
        raise UserError(
            f"no patient is left to train on: {len(test)} to test, {len(validation)} for the validation set; lower data.validation_share"
        )
    test = _capped([c for p in test for c in by_patient[p]], config.test_cases, "test", notes)
    validation = test if test_is_validation else [c for p in validation for c in by_patient[p]]
    validation = _capped(validation, config.validation_cases, "validation", notes)
    if test_is_validation:
        notes.append(
            f"only {len(by_patient)} patients: the test set is also the validation set, so no checkpoint is chosen and the last one is tested"
        )
    train, withheld = _labelled(train, config, notes)
    train, withheld = (
        [c for p in patients for c in by_patient[p]] for patients in (train, withheld)
    )
    unlabelled = [
        *withheld,
        *_open(
            unlabelled, by_patient, {c.patient for c in [*train, *withheld]}, holdout, config, notes
        ),
    ]
    return Split(
        train, validation, test, test_is_validation, tuple(notes), tuple(holdout), tuple(unlabelled)
    )


def _labelled(patients, config, notes):
    """(patients whose labels are used, the others). More labels are always the same ones and some more."""
    if config.labelled_share == 1:
        return patients, []
    shuffled = random.Random(config.split_seed).sample(sorted(patients), len(patients))
    kept = set(shuffled[: max(1, round(config.labelled_share * len(patients)))])
    notes.append(
        f"labels of {len(kept)} of {len(patients)} patients are used, the others serve as unlabelled (data.labelled_share)"
    )
    return [p for p in patients if p in kept], [p for p in patients if p not in kept]


def _open(unlabelled, by_patient, trained, holdout, config, notes):
    """The unlabelled cases but for those of patients who are tested, chosen by or held out."""
    closed = (by_patient.keys() - trained) | {case.patient for case in holdout}
    kept = [
        c
        for c in sorted(unlabelled, key=lambda c: c.id)
        if c.patient not in closed and _place(c.patient) >= config.holdout_share
    ]
    if kept:
        notes.append(f"{len(kept)} cases without a segmentation serve as unlabelled")
    if len(kept) < len(unlabelled):
        notes.append(
            f"{len(unlabelled) - len(kept)} cases without a segmentation are left out: their patients are tested, chosen by or held out"
        )
    return kept


def hold_out(cases, config):
    """(cases that studies may use, holdout cases, notes). `config` is a DataConfig.

    By share, a patient's place depends on nothing but its id: neither a seed nor new cases ever move anyone into a study.
    """
    if config.holdout_file:
        named = _listed(
            config.holdout_file, {name for case in cases for name in (case.id, case.patient)}
        )
        patients = {case.patient for case in cases if named & {case.id, case.patient}}
    else:
        patients = {case.patient for case in cases if _place(case.patient) < config.holdout_share}
    if not patients:
        if config.holdout_share:
            count = len(_by_patient(cases))
            raise UserError(
                f"data.holdout_share = {config.holdout_share:g} holds out none of {count} patients; raise it or name them in data.holdout_file"
            )
        return cases, [], []
    holdout = [case for case in cases if case.patient in patients]
    note = f"{len(holdout)} cases of {len(patients)} patients are held out (holdout set); no trial reads them"
    return [case for case in cases if case.patient not in patients], holdout, [note]


@dataclass(frozen=True)
class SourceCase:
    """A Case with its segmentation read from the source, for splitting what is not preprocessed."""

    case: Case

    @property
    def id(self):
        return self.case.id

    @property
    def patient(self):
        return self.case.patient

    def label(self):
        """uint8 (x, y, z), internal classes."""
        values, _, _ = read_volume(self.case.label)
        return to_classes(values, self.case.convention, self.case.label)


def strata_of(cases):
    """{patient: (has ET, tumour voxels)}: ET in any of the patient's cases, the voxels of the largest tumour."""
    return _strata(cases, [_measure(case) for case in cases])


def strata_of_files(cases, *, progress=lambda done, total: None):
    """As `strata_of`, of Cases, whose segmentations are read on all cores."""
    return _strata(cases, map_cases(_measure_file, cases, lost=_lost, progress=progress))


def describe_folds(cases, strata, test_sets):
    """A dict for each fold: what its test patients are like."""
    for number, test in enumerate(test_sets):
        voxels = [strata[patient][1] for patient in test]
        yield {
            "fold": number,
            "patients": len(test),
            "cases": sum(case.patient in test for case in cases),
            "without ET": sum(not strata[patient][0] for patient in test),
            "tumour voxels, median": int(np.median(voxels)),
        }


def stratified_folds(strata, folds, seed):
    """`folds` disjoint lists of patients that together are all of them, alike in tumour volume and presence of ET.

    Patients without ET and then those with it, sorted by volume, are dealt in runs of `folds`, in random order within a run.
    """
    if len(strata) < folds:
        raise UserError(
            f"data.folds = {folds}: more than the {len(strata)} patients; choose fewer folds"
        )
    rng, dealt = random.Random(seed), [[] for _ in range(folds)]
    ordered = sorted(strata, key=lambda patient: (strata[patient], patient))
    for start in range(0, len(ordered), folds):
        places = rng.sample(range(folds), folds)
        for patient, place in zip(ordered[start : start + folds], places, strict=False):
            dealt[place].append(patient)
    return [sorted(fold) for fold in dealt]


def write_splits(path, cases, test_sets):
    """nnU-Net's splits_final.json: {"train": ids, "val": ids} for each fold; `test_sets` are lists of patients. The validation set is inside train."""
    folds = [
        {
            "train": [c.id for c in cases if c.patient not in fold],
            "val": [c.id for c in cases if c.patient in fold],
        }
        for fold in map(set, test_sets)
    ]
    return write_json(path, folds)


def read_splits(path):
    """[(ids to train on, ids to test), ...] of nnU-Net's splits_final.json, or of a MONAI datalist whose entries have folds."""
    path = Path(path)
    told = _json(path)
    if isinstance(told, dict):
        fold_of = folds_of(path)
        if not fold_of:
            raise UserError(
                f'{path}: no entry has a "fold"; add them or give nnU-Net\'s splits_final.json'
            )
        numbers = sorted(set(fold_of.values()))
        return [
            ({c for c, f in fold_of.items() if f != n}, {c for c, f in fold_of.items() if f == n})
            for n in numbers
        ]
    if not (
        isinstance(told, list)
        and told
        and all(isinstance(f, dict) and {"train", "val"} <= f.keys() for f in told)
    ):
        raise UserError(
            f'{path}: expected nnU-Net\'s splits_final.json, a list of {{"train": [ids], "val": [ids]}}'
        )
    return [(set(fold["train"]), set(fold["val"])) for fold in told]


def _fold(strata, config, notes):
    """(patients to train on, patients to test) of fold `data.fold`."""
    notes.append(
        f"fold {config.fold} of {config.folds}, stratified by tumour volume and presence of ET"
    )
    test = stratified_folds(strata, config.folds, config.split_seed)[config.fold]
    return sorted(strata.keys() - set(test)), test


def _alike(patients, strata, wanted, seed):
    """`wanted` of the patients, one from each of as many equal runs of their order by stratum; in random order, so that a cap is fair."""
    rng, ordered = (
        random.Random(seed),
        sorted(patients, key=lambda patient: (strata[patient], patient)),
    )
    bounds = [round(place * len(ordered) / wanted) for place in range(wanted + 1)] if wanted else []
    chosen = [
        rng.choice(ordered[low:high]) for low, high in itertools.pairwise(bounds) if high > low
    ]
    return rng.sample(chosen, len(chosen))


def _fold_of_file(cases, holdout, config, notes):
    """(patients to train on, patients to test) of the fold that the file and data.fold name; who is held out stays so."""
    path, folds = config.splits_file, read_splits(config.splits_file)
    if config.fold >= len(folds):
        raise UserError(
            f"data.fold = {config.fold}: {path} has {len(folds)} folds, numbered from 0"
        )
    train, test = (ids - {case.id for case in holdout} for ids in folds[config.fold])
    absent = (train | test) - {case.id for case in cases}
    if absent:
        raise UserError(
            f"{path}: {len(absent)} of its cases are not in the data, {sorted(absent)[0]} for one; give the data it was made for"
        )
    patients = [{case.patient for case in cases if case.id in ids} for ids in (train, test)]
    if both := patients[0] & patients[1]:
        raise UserError(
            f"{path}: fold {config.fold} trains and tests on patient {min(both)}; put all time points of a patient on one side"
        )
    if not all(patients):
        raise UserError(
            f"{path}: fold {config.fold} has nobody to {'test' if patients[0] else 'train on'}; correct it or choose another data.fold"
        )
    unused = sorted(case.id for case in cases if case.id not in train | test)
    partly = [
        case_id
        for case_id in unused
        if next(c.patient for c in cases if c.id == case_id) in patients[0] | patients[1]
    ]
    if partly:
        raise UserError(
            f"{path}: names some cases of a patient but not {partly[0]}; name all time points of a patient"
        )
    notes.append(
        f"fold {config.fold} of {len(folds)} from {Path(path).name}"
        + (f"; {len(unused)} cases are in none of its sets" if unused else "")
    )
    return sorted(patients[0]), sorted(patients[1])


def _strata(cases, measures):
    by_patient = {}
    for case, measure in zip(cases, measures, strict=True):
        by_patient.setdefault(case.patient, []).append(measure)
    return {
        patient: tuple(map(max, zip(*found, strict=True))) for patient, found in by_patient.items()
    }


def _measure(case):
    """(whether there is ET, tumour voxels)."""
    label = np.asarray(case.label())
    return bool((label == ET).any()), int(np.count_nonzero(label))


def _measure_file(case):
    return _measure(SourceCase(case))


def _lost(case):
    raise UserError(
        f"{case.id}: not read, the process that read it or a case beside it was killed (memory?); free some memory and try again"
    )


def _place(patient):
    """A number in [0, 1) that belongs to this patient for good."""
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") / 2**64


def _listed(path, known):
    """The ids in a text file, one a line, or in a JSON list; an id outside `known` is an error."""
    path = Path(path)
    if path.suffix == ".json":
        listed = _json(path)
        if not (isinstance(listed, list) and all(isinstance(name, str) for name in listed)):
            raise UserError(f"{path}: expected a JSON list of patient or case ids")
    else:
        listed = [line.strip() for line in _text(path).splitlines() if line.strip()]
    absent = set(listed) - known
    if absent or not listed:
        raise UserError(
            f"{path}: {f'{min(absent)} is no patient or case of the data' if absent else 'names nobody'}; correct the list"
        )
    return set(listed)


def _json(path):
    try:
        return json.loads(_text(path))
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); repair it") from error


def _text(path):
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a file of ids") from error


def _by_patient(cases):
    by_patient = {}
    for case in cases:
        by_patient.setdefault(case.patient, []).append(case)
    return by_patient


def _capped(cases, most, name, notes):
    if most and len(cases) > most:
        notes.append(f"{name} is capped at {most} of its {len(cases)} cases (data.{name}_cases)")
        return cases[:most]
    return cases
