"""Which cases are of one patient: by their names, or by what `data.patients` says.

`data.patients` overrules every pattern of `patient_names`. It is a regular expression, or the path
of a CSV file with the header case,patient.
"""

import csv
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from segmamba.config.rules import is_csv
from segmamba.data.case import Case
from segmamba.data.patient_names import patient_of, pattern_of, stem_before_number
from segmamba.data.same_images import NO_SAME_IMAGES, SameImages
from segmamba.errors import UserError

MATCHING_S = 10
"""A sound expression takes milliseconds on thousands of ids. One with nested repeats can take
years, and Python's matcher cannot be stopped from within: it runs in a process of its own."""
_MATCHER = """
import json, re, sys
expression, ids = json.load(sys.stdin)
search = re.compile(expression).search
group = "patient" if "patient" in re.compile(expression).groupindex else 1
json.dump([match and match[group] for match in map(search, ids)], sys.stdout)
"""


class PatientCase(Protocol):
    """What a case must have to be counted as a patient's."""

    @property
    def id(self) -> str: ...

    @property
    def patient(self) -> str: ...


def with_patients(cases: Sequence[Case], rule: str) -> list[Case]:
    """Give every case the patient that `data.patients` says.

    Args:
        cases: All cases of a data set.
        rule: The setting `data.patients`; empty leaves the patients as the layouts name them.

    Returns:
        The cases in their order.

    Raises:
        UserError: The expression names no patient for a case, or the file does not fit the cases.
    """
    if not rule:
        return list(cases)
    patients = patients_by_id([case.id for case in cases], rule)
    if is_csv(rule):
        known = {case.id for case in cases}
        surplus = [name for name in patients if name not in known]
        _refuse_all(rule, surplus, "names no case of the data:", "drop")
    return [replace(case, patient=patients[case.id]) for case in cases]


def patients_by_id(ids: Sequence[str], rule: str) -> dict[str, str]:
    """Read the patient of each id from what `data.patients` says.

    Args:
        ids: The ids of cases.
        rule: The setting `data.patients`, not empty.

    Returns:
        {id: patient}; a file may name further cases.

    Raises:
        UserError: The expression names no patient for an id, or the file is faulty or lacks an id.
    """
    return _of_file(rule, ids) if is_csv(rule) else _of_expression(rule, ids)


def describe_patients(
    cases: Sequence[PatientCase], rule: str, same: SameImages = NO_SAME_IMAGES
) -> str:
    """Say how many patients the cases are of, and by what.

    Args:
        cases: The cases, as `with_patients` returns them.
        rule: The setting `data.patients`.
        same: Which of the cases share an image.

    Returns:
        One line.
    """
    named = Counter(case.patient for case in cases)
    patients = {same.patient(name) for name in named}
    images = ["by images that they share"] if same.joined else []
    counted = f"{len(cases)} cases of {len(patients)} patients"
    if rule:
        by_rule = f"by {rule} (data.patients)" if is_csv(rule) else "by data.patients"
        return f"{counted}, {' and '.join([by_rule, *images])}"
    shared = [case for case in cases if named[case.patient] > 1]
    reasons = [*dict.fromkeys(_reason(case, shared) for case in shared), *images]
    if not reasons:
        return f"{counted}: no two names are known to be of one person{_hint(cases)}"
    return f"{counted}, {' and '.join(reasons)}{_hint(cases)}"


def _reason(case: PatientCase, shared: Sequence[PatientCase]) -> str:
    """Say by what name a case is known to be of the same patient as another."""
    if case.patient != patient_of(case.id):
        return "by what the data set says"
    if pattern := pattern_of(case.id):
        return f"by the pattern of {pattern.dataset}"
    guessed = [other for other in shared if pattern_of(other.id) is None]
    example = [other.id for other in guessed if other.patient == guessed[0].patient][:2]
    return f"by a guess from names such as {' and '.join(example)} (data.patients overrules it)"


def _hint(cases: Sequence[PatientCase]) -> str:
    """Name ids that end in a number, which may be of one person each or not."""
    stems: dict[str, list[str]] = {}
    for case in cases:
        stem = stem_before_number(case.id) if case.patient == case.id else None
        if stem is not None:
            stems.setdefault(stem, []).append(case.id)
    several = [ids for ids in stems.values() if len(ids) > 1]
    if not several or len(stems) < 2:
        return ""
    example = " and ".join(several[0][:2])
    return f"; if {example} are of one person, say so with data.patients"


def _of_expression(rule: str, ids: Sequence[str]) -> dict[str, str]:
    """Search every id for the expression's group, in a process that is ended after MATCHING_S."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _MATCHER],
            input=json.dumps([rule, list(ids)]),
            capture_output=True,
            encoding="utf-8",
            timeout=MATCHING_S,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"data.patients = {rule!r}: not done with {len(ids)} ids after {MATCHING_S} s; write "
            "it without repeats inside repeats such as (a+)+, or give a CSV file"
        ) from error
    found: list[str | None] = json.loads(done.stdout)
    unmatched = [case_id for case_id, patient in zip(ids, found, strict=True) if not patient]
    if unmatched:
        raise UserError(
            f"data.patients = {rule!r}: finds no patient in {unmatched[0]}"
            + (f" and {len(unmatched) - 1} more ids" if len(unmatched) > 1 else "")
            + "; correct the expression, or give a CSV file of case,patient"
        )
    return {case_id: str(patient) for case_id, patient in zip(ids, found, strict=True)}


def _of_file(path: str, ids: Sequence[str]) -> dict[str, str]:
    """Read the patient of every case from a CSV file."""
    patients: dict[str, str] = {}
    for number, row in _rows(path):
        case_id, patient = ((row[name] or "").strip() for name in ("case", "patient"))
        if not (case_id and patient):
            raise UserError(f"{path}: line {number} lacks its case or patient; fill it in")
        if case_id in patients:
            raise UserError(f"{path}: line {number} names {case_id} again; remove one of its rows")
        patients[case_id] = patient
    _refuse_all(path, [name for name in ids if name not in patients], "lacks the case", "add")
    return patients


def _rows(path: str) -> Iterable[tuple[int, dict[str, str | None]]]:
    """Read the rows with the numbers of their lines."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); data.patients needs a CSV file of case,patient, or "
            "a regular expression"
        ) from error
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    try:
        header = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = header
        if header.count("case") != 1 or header.count("patient") != 1:
            raise UserError(
                f"{path}: its first line is {','.join(header)!r}; data.patients needs the header "
                "case,patient, separated by a comma"
            )
        return [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path}: cannot be read as CSV ({error}); repair it") from error


def _refuse_all(path: str, ids: Sequence[str], what: str, fix: str) -> None:
    if ids:
        more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
        rows = "row" if len(ids) == 1 else "rows"
        raise UserError(f"{path}: {what} {ids[0]}{more} (data.patients); {fix} the {rows}")
