"""Finding the cases of a data set, in whichever layout it comes.

The layouts themselves are in segmamba.data.layouts.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from segmamba.config.header import HeaderRules
from segmamba.data.case import ERROR, Case, Finding
from segmamba.data.labels import convention
from segmamba.data.layouts import datalist, dataset_json, names
from segmamba.errors import UserError

AUTO, MIXED = "auto", "mixed"


class HasConvention(Protocol):
    """What a case must have for notes on its labels."""

    @property
    def convention(self) -> str: ...


def find_cases(
    source: Path | str, labels: str = AUTO, header: HeaderRules | None = None
) -> list[Case]:
    """Find every case of a data set, all of them whole.

    Args:
        source: A folder of BraTS cases, a Decathlon or nnU-Net raw folder, or a MONAI datalist
            (.json).
        labels: A label convention. "auto" takes the one that naming or dataset.json gives, which
            must be the same for all cases; "mixed" lets each case have its own.
        header: How the headers of the files are read; None takes the defaults.

    Returns:
        The cases, sorted by id.

    Raises:
        UserError: No case is found, or one is faulty; the message is that of the first.
    """
    cases = list_cases(source, labels, header)
    for case in cases:
        for finding in case.findings:
            if finding.severity == ERROR:
                raise UserError(finding.text)
    return cases


def list_cases(
    source: Path | str, labels: str = AUTO, header: HeaderRules | None = None
) -> list[Case]:
    """Find every case of a data set, the faulty ones among the others.

    Args:
        source: As `find_cases` takes it.
        labels: As `find_cases` takes it.
        header: As `find_cases` takes it.

    Returns:
        The cases, sorted by id, with their errors among their findings.

    Raises:
        UserError: No case is found.
    """
    source = Path(source)
    if labels not in (AUTO, MIXED):
        convention(labels)
    mixed, labels = labels == MIXED, AUTO if labels == MIXED else labels
    if source.is_file() and source.suffix == ".json":
        cases = datalist.list_cases(source, labels)
    elif not source.is_dir():
        raise UserError(
            f"{source}: no such folder; give the folder that holds the BraTS cases, "
            "or a datalist (.json)"
        )
    elif root := dataset_json.root_of(source):
        cases = dataset_json.list_cases(root, labels)
    else:
        cases = names.list_cases(source, labels)
    if not cases:
        raise UserError(
            f"{source}: no BraTS case found; expected files named like CASE/CASE_t1ce.nii.gz "
            "(2018-2021) or CASE/CASE-t1c.nii.gz (2023 and later), or imagesTr beside a "
            "dataset.json"
        )
    if header is not None:
        cases = [replace(case, header=header) for case in cases]
    cases = _with_errors(cases, _same_ids(cases))
    return cases if mixed else _with_errors(cases, _other_conventions(cases))


def notes_on(cases: Sequence[Case]) -> list[str]:
    """Collect what a study must say about its cases.

    Args:
        cases: The cases of the study.

    Returns:
        Merged labels, misnamed files and stated conventions, each line once.
    """
    findings = [finding.text for case in cases for finding in case.findings]
    return list(dict.fromkeys(notes_on_labels(cases) + findings))


def notes_on_labels(cases: Iterable[HasConvention]) -> list[str]:
    """Collect what the label conventions of cases merge or leave open.

    Args:
        cases: Anything with a convention.

    Returns:
        A line for each thing to say.
    """
    return [
        note
        for name in sorted({case.convention for case in cases})
        for note in convention(name).notes
    ]


def _same_ids(cases: Sequence[Case]) -> dict[str, Finding]:
    """Map each id that several cases have to the error."""
    count = Counter(case.id for case in cases)
    return {
        case.id: Finding(
            ERROR,
            "duplicate case",
            f"{case.id}: {count[case.id]} cases have this id, one with {case.files[0]}; "
            "rename or remove one",
        )
        for case in cases
        if count[case.id] > 1
    }


def _other_conventions(cases: Sequence[Case]) -> dict[str, Finding]:
    """Map the id of each case with another convention than most to the error."""
    first = {case.convention: case.id for case in reversed(cases)}
    if len(first) == 1:
        return {}
    usual = Counter(case.convention for case in cases).most_common(1)[0][0]
    examples = ", ".join(
        f"{case_id} is {name}" for name, case_id in sorted(first.items(), key=lambda item: item[1])
    )
    fix = (
        f"keep them in separate folders, state one with --labels, or mix them with --labels {MIXED}"
    )
    text = f"cases of more than one label convention ({examples}); {fix}"
    return {
        case.id: Finding(ERROR, "mixed conventions", f"{case.id}: {text}")
        for case in cases
        if case.convention != usual
    }


def _with_errors(cases: Sequence[Case], errors: Mapping[str, Finding]) -> list[Case]:
    return [
        replace(case, findings=(*case.findings, errors[case.id])) if case.id in errors else case
        for case in cases
    ]
