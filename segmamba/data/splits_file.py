"""Files that name who belongs to which set: folds as nnU-Net or MONAI store them, lists of ids."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from typing_extensions import TypedDict

from segmamba.data.layouts.datalist import folds_of
from segmamba.data.strata import PatientCase
from segmamba.errors import UserError
from segmamba.files import write_json
from segmamba.json_files import read_json, read_text


class Fold(TypedDict):
    """One fold of nnU-Net's splits_final.json: the ids of its cases."""

    train: list[str]
    val: list[str]


SPLITS = 'give nnU-Net\'s splits_final.json, a list of {"train": [ids], "val": [ids]}'


def write_splits(
    path: Path, cases: Sequence[PatientCase], test_sets: Iterable[Iterable[str]]
) -> Path:
    """Write folds as nnU-Net's splits_final.json: {"train": ids, "val": ids} for each fold.

    The validation set of a study is inside "train".

    Args:
        path: The file to write.
        cases: All cases that the folds divide.
        test_sets: The test patients of each fold.

    Returns:
        `path`.
    """
    folds = [
        {
            "train": [case.id for case in cases if case.patient not in fold],
            "val": [case.id for case in cases if case.patient in fold],
        }
        for fold in map(set, test_sets)
    ]
    return write_json(path, folds)


def read_splits(path: Path | str) -> list[tuple[set[str], set[str]]]:
    """Read nnU-Net's splits_final.json, or a MONAI datalist whose entries have folds.

    Args:
        path: The file.

    Returns:
        For each fold, the ids of the cases to train on and of those to test.

    Raises:
        UserError: The file cannot be read or has another form.
    """
    path = Path(path)
    if read_text(path, fix=SPLITS).lstrip().startswith("{"):
        fold_of = folds_of(path)
        if not fold_of:
            raise UserError(
                f'{path}: no entry has a "fold"; add them or give nnU-Net\'s splits_final.json'
            )
        return [
            (
                {case_id for case_id, fold in fold_of.items() if fold != number},
                {case_id for case_id, fold in fold_of.items() if fold == number},
            )
            for number in sorted(set(fold_of.values()), key=lambda fold: (str(type(fold)), fold))
        ]
    folds = read_json(path, list[Fold], fix=SPLITS)
    if not folds:
        raise UserError(f"{path}: lists no folds; {SPLITS}")
    return [(set(fold["train"]), set(fold["val"])) for fold in folds]


def refuse_divided(
    path: Path | str, folds: Sequence[tuple[set[str], set[str]]], cases: Iterable[PatientCase]
) -> None:
    """Refuse folds of which one trains and tests on the same patient.

    Args:
        path: The file, for the message.
        folds: As `read_splits` returns them.
        cases: All cases, with their patients.

    Raises:
        UserError: It names the first such patient with all cases.
    """
    by_patient: dict[str, list[str]] = {}
    for case in cases:
        by_patient.setdefault(case.patient, []).append(case.id)
    for number, (train, test) in enumerate(folds):
        for patient, ids in sorted(by_patient.items()):
            trained, tested = ([i for i in ids if i in group] for group in (train, test))
            if trained and tested:
                raise UserError(
                    f"{path}: fold {number} trains and tests on patient {patient} (trains on "
                    f"{', '.join(trained)}; tests on {', '.join(tested)}); put all cases of a "
                    "patient on one side (`segmamba data check` says by what they are one patient)"
                )


def read_ids(path: Path | str, known: set[str]) -> set[str]:
    """Read a list of patients or cases: a text file with one a line, or a JSON list.

    Args:
        path: The file; its ending says which of the two it is.
        known: The ids that may be named.

    Returns:
        The ids.

    Raises:
        UserError: The file cannot be read, names nobody, or names an id that is not known.
    """
    path = Path(path)
    if path.suffix == ".json":
        listed = read_json(path, list[str], fix="give a JSON list of patient or case ids")
    else:
        text = read_text(path, fix="give a file of ids")
        listed = [line.strip() for line in text.splitlines() if line.strip()]
    absent = set(listed) - known
    if absent or not listed:
        problem = f"{min(absent)} is no patient or case of the data" if absent else "names nobody"
        raise UserError(f"{path}: {problem}; correct the list")
    return set(listed)
