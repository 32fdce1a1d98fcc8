"""Which studies can be compared: those that tested the same cases, patient by patient."""

import itertools
from collections.abc import Sequence

from segmamba.errors import UserError
from segmamba.studies.arm_setup import CASES, setup_of, shared_settings
from segmamba.studies.results import Study, StudyData
from segmamba.studies.words import count


def check_comparable(studies: Sequence[Study]) -> None:
    """Refuse studies whose arms cannot be paired patient by patient.

    Args:
        studies: The studies.

    Raises:
        UserError: It names both studies and what differs.
    """
    if not studies:
        raise UserError("no study to compare; name at least one")
    first = studies[0]
    for one, two in itertools.combinations(studies, 2):
        if one.parent_run_id == two.parent_run_id:
            raise UserError(f"{one.name} is named twice; name each study once")
    for other in studies[1:]:
        if reason := _why_not(first, other):
            raise UserError(
                f"{first.name} and {other.name} cannot be compared: {reason}; compare studies "
                "that tested the same cases"
            )


def _why_not(one: Study, two: Study) -> str:
    """Why two studies cannot be compared; empty where they can."""
    if one.data.phantom != two.data.phantom:
        return "one of them was run on phantoms"
    if one.test_sets_vary != two.test_sets_vary:
        return "the test set varies with the seed in one of them (data.split_by_seed)"
    if one.data.regions != two.data.regions:
        mine, theirs = (", ".join(data.regions) for data in (one.data, two.data))
        return f"they score {mine} and {theirs}"
    if len(one.folds) != len(two.folds):
        return f"they have {len(one.folds) or 'no'} and {len(two.folds) or 'no'} folds"
    if one.test_sets_vary:
        if _all_cases(one) != _all_cases(two):
            return "their cases differ"
    elif reason := _other_tests(one.data, two.data):
        return reason
    return _other_contents(one, two)


def _other_tests(one: StudyData, two: StudyData) -> str:
    """How the test sets differ; with folds, each fold's."""
    pairs = list(zip(one.folds, two.folds, strict=True)) or [(one, two)]
    for number, (mine, theirs) in enumerate(pairs):
        fold = f" of fold {number}" if one.folds else ""
        a, b = set(mine.test), set(theirs.test)
        if a != b:
            example = min(a ^ b)
            return (
                f"their test sets{fold} differ: {count(len(a & b), 'case')} shared, "
                f"{len(a - b)} and {len(b - a)} not, for example {example}"
            )
    return ""


def _other_contents(one: Study, two: Study) -> str:
    """Whether cases of the same names have other contents: then no patient can be paired."""
    mine, theirs = (setup_of(study, study.baseline) for study in (one, two))
    shared, other = shared_settings(mine), shared_settings(theirs)
    phantom = [n for n in shared if n.startswith("phantom.") and shared[n] != other.get(n)]
    if one.data.phantom and phantom:
        name = phantom[0]
        return f"their phantoms differ ({name} is {shared[name]} and {other.get(name)})"
    known = mine.made_with[CASES] and theirs.made_with[CASES]
    same_preparation = shared == other and mine.made_with["code"] == theirs.made_with["code"]
    if known and same_preparation and mine.made_with[CASES] != theirs.made_with[CASES]:
        return "the files of cases with the same names differ"
    return ""


def _all_cases(study: Study) -> set[str]:
    return {case for ids in study.data.by_name.values() for case in ids}
