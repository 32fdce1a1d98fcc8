"""Finding the cases of a data set, in whichever layout it comes. The layouts themselves are in segmamba.data.layouts."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from segmamba.data.case import ERROR, Finding
from segmamba.data.labels import convention
from segmamba.data.layouts import datalist, dataset_json, names
from segmamba.errors import UserError

AUTO, MIXED = "auto", "mixed"


def find_cases(source, labels=AUTO):
    """Every case of `source`, sorted by id: all of them whole, or a UserError for the first that is not.

    source: a folder of BraTS cases, a Decathlon or nnU-Net raw folder, or a MONAI datalist (.json). labels: a label convention,
    or "auto": the one that naming or dataset.json tells, the same for all; "mixed" lets each case have its own.
    """
    cases = list_cases(source, labels)
    for case in cases:
        for finding in case.findings:
            if finding.severity == ERROR:
                raise UserError(finding.text)
    return cases


def list_cases(source, labels=AUTO):
    """As `find_cases`, with faulty cases among the others, their errors in `findings`."""
    source = Path(source)
    if labels not in (AUTO, MIXED):
        convention(labels)
    mixed, labels = labels == MIXED, AUTO if labels == MIXED else labels
    if source.is_file() and source.suffix == ".json":
        cases = datalist.list_cases(source, labels)
    elif not source.is_dir():
        raise UserError(
            f"{source}: no such folder; give the folder that holds the BraTS cases, or a datalist (.json)"
        )
    elif root := dataset_json.root_of(source):
        cases = dataset_json.list_cases(root, labels)
    else:
        cases = names.list_cases(source, labels)
    if not cases:
        raise UserError(
            f"{source}: no BraTS case found; expected files named like CASE/CASE_t1ce.nii.gz (2018-2021) or CASE/CASE-t1c.nii.gz "
            "(2023 and later), or imagesTr beside a dataset.json"
        )
    cases = _with_errors(cases, _same_ids(cases))
    return cases if mixed else _with_errors(cases, _other_conventions(cases))


def notes_on(cases):
    """What a study must say about its cases: merged labels, misnamed files, stated conventions; each line once."""
    return list(
        dict.fromkeys(
            notes_on_labels(cases) + [finding.text for case in cases for finding in case.findings]
        )
    )


def notes_on_labels(cases):
    """What the label conventions of `cases`, anything with a .convention, merge or leave open; a line each."""
    return [
        note
        for name in sorted({case.convention for case in cases})
        for note in convention(name).notes
    ]


def _same_ids(cases):
    count = Counter(case.id for case in cases)
    return {
        case.id: Finding(
            ERROR,
            "duplicate case",
            f"{case.id}: {count[case.id]} cases have this id, one with {case.files[0]}; rename or remove one",
        )
        for case in cases
        if count[case.id] > 1
    }


def _other_conventions(cases):
    """{case id: Finding} for the cases that have another convention than most."""
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


def _with_errors(cases, found):
    return [
        replace(case, findings=(*case.findings, found[case.id])) if case.id in found else case
        for case in cases
    ]
