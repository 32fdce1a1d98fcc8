"""Finding the cases of a data set, in whichever layout it comes.

The layouts themselves are in segmamba.data.layouts.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from segmamba.config.header import HeaderRules
from segmamba.data.case import ERROR, Case, Finding
from segmamba.data.case_ids import with_checked_ids
from segmamba.data.image_files import FolderContent, content_of, shown_files
from segmamba.data.label_sets import LabelSet
from segmamba.data.labels import convention
from segmamba.data.layouts import datalist, dataset_json, templates
from segmamba.data.layouts import names as file_names
from segmamba.data.missing import REFUSED, ZEROS, allow_missing, check_choice, refuse_missing
from segmamba.errors import UserError

AUTO, MIXED = "auto", "mixed"


class HasConvention(Protocol):
    """What a case must have for notes on its labels."""

    @property
    def convention(self) -> str: ...

    @property
    def label_set(self) -> LabelSet: ...


def find_cases(
    source: Path | str,
    labels: str = AUTO,
    names: Sequence[str] = (),
    header: HeaderRules | None = None,
    *,
    missing: str = REFUSED,
) -> list[Case]:
    """Find every case of a data set, all of them whole.

    Args:
        source: A folder of cases that are named as BraTS or a known data set names them, a
            Decathlon or nnU-Net raw folder, several of these together, or a MONAI datalist (.json).
        labels: A label convention. "auto" takes the one that naming or dataset.json gives, which
            must be the same for all cases; "mixed" lets each case have its own.
        names: Templates of the files' names, as the setting `data.names` has them; then these
            alone tell what is a case.
        header: How the headers of the files are read; None takes the defaults.
        missing: What is done with a case that lacks modalities, as the setting `data.missing` says.

    Returns:
        The cases, sorted by id.

    Raises:
        UserError: No case is found, or one is faulty; the message is that of the first.
    """
    cases = list_cases(source, labels, names, header, missing=missing)
    for case in cases:
        for finding in case.findings:
            if finding.severity == ERROR:
                raise UserError(finding.text)
    return cases


def list_cases(
    source: Path | str,
    labels: str = AUTO,
    names: Sequence[str] = (),
    header: HeaderRules | None = None,
    *,
    missing: str = REFUSED,
) -> list[Case]:
    """Find every case of a data set, the faulty ones among the others.

    Args:
        source: As `find_cases` takes it.
        labels: As `find_cases` takes it.
        names: As `find_cases` takes it.
        header: As `find_cases` takes it.
        missing: As `find_cases` takes it.

    Returns:
        The cases, sorted by id, with their errors among their findings.

    Raises:
        UserError: No case is found.
    """
    source = Path(source)
    check_choice(missing)
    if labels not in (AUTO, MIXED):
        convention(labels)
    mixed, labels = labels == MIXED, AUTO if labels == MIXED else labels
    if source.is_file() and source.suffix == ".json":
        if names:
            raise UserError(f"{source}: a datalist names its files; leave out --names")
        cases = datalist.list_cases(source, labels, missing=missing)
    elif source.is_dir():
        cases = _cases_of_folder(source, labels, names, missing)
    else:
        raise UserError(
            f"{source}: no such folder; give the folder that holds the BraTS cases, "
            "or a datalist (.json)"
        )
    cases = allow_missing(cases) if missing == ZEROS else refuse_missing(cases)
    if header is not None:
        cases = [replace(case, header=header) for case in cases]
    cases = with_checked_ids(cases, str(source))
    cases = _with_errors(cases, _shared_files(cases))
    return cases if mixed else _with_errors(cases, _other_conventions(cases))


def unused_files(
    source: Path | str, labels: str = AUTO, names: Sequence[str] = (), *, missing: str = REFUSED
) -> tuple[list[Path], list[Path]]:
    """Find the image files of a data set that no case uses.

    Args:
        source: As `find_cases` takes it; a datalist leaves nothing out.
        labels: As `find_cases` takes it.
        names: As `find_cases` takes it.
        missing: As `find_cases` takes it.

    Returns:
        The files, sorted, and the folders of embedded phantoms, which are left out whole.

    Raises:
        UserError: No case is found.
    """
    source = Path(source)
    if not source.is_dir():
        return [], []
    used = {
        path for case in list_cases(source, labels, names, missing=missing) for path in case.files
    }
    content = content_of(source)
    return [path for path in content.images if path not in used], content.phantoms


def notes_on_unused(
    source: Path | str, labels: str = AUTO, names: Sequence[str] = (), *, missing: str = REFUSED
) -> list[str]:
    """Say which image files of a data set no case uses.

    Args:
        source: As `find_cases` takes it; empty is the embedded phantom, which leaves nothing out.
        labels: As `find_cases` takes it.
        names: As `find_cases` takes it.
        missing: As `find_cases` takes it.

    Returns:
        A line for the files and one for the folders of phantoms, where there are any.
    """
    if not str(source):
        return []
    folder = Path(source)
    files, phantoms = unused_files(folder, labels, names, missing=missing)
    notes = []
    if files:
        notes.append(
            f"image files below {folder} that no case uses: {len(files)} "
            f"({shown_files(files, folder)})"
        )
    if phantoms:
        notes.append(
            f"folders of phantoms below {folder}, left out: {len(phantoms)} "
            f"({shown_files(phantoms, folder)})"
        )
    return notes


def notes_on(cases: Sequence[Case]) -> list[str]:
    """Collect what a study must say about its cases.

    Args:
        cases: The cases of the study.

    Returns:
        Merged labels, misnamed files and stated conventions, each line once.
    """
    findings = [finding.text for case in cases for finding in case.findings]
    return list(dict.fromkeys(notes_on_labels(cases) + findings))


def notes_on_convention(cases: Sequence[Case]) -> list[str]:
    """Collect what a prediction must say about label conventions that no name tells.

    Args:
        cases: The cases that are predicted.

    Returns:
        Each line once.
    """
    told = [f.text for case in cases for f in case.findings if f.kind == "label convention"]
    return list(dict.fromkeys(told))


def notes_on_labels(cases: Iterable[HasConvention]) -> list[str]:
    """Collect what the label conventions of cases merge or leave open.

    Args:
        cases: Anything with a convention.

    Returns:
        A line for each thing to say.
    """
    return [
        note
        for name, labels in sorted(
            {(case.convention, case.label_set) for case in cases},
            key=lambda pair: (pair[0], pair[1].name),
        )
        for note in convention(name).notes(labels)
    ]


def _cases_of_folder(folder: Path, labels: str, names: Sequence[str], missing: str) -> list[Case]:
    """List the cases of every layout that the folder holds; raise UserError where it holds none."""
    content = content_of(folder)
    if names:
        cases = templates.list_cases(folder, content.images, names, labels)
    else:
        roots = dataset_json.roots_of(content.images)
        declared = {root / name for root in roots for name in dataset_json.FOLDERS}
        others = [path for path in content.images if path.parent not in declared]
        cases = file_names.list_cases(others, labels)
        for root in roots:
            alone = len(roots) == 1 and not cases
            cases += _cases_of_root(root, folder, labels, missing, alone=alone)
    if not cases:
        raise UserError(_no_cases(folder, content, names))
    return sorted(cases, key=lambda case: case.id)


def _cases_of_root(
    root: Path, folder: Path, labels: str, missing: str, *, alone: bool
) -> list[Case]:
    """List the cases of a folder with a dataset.json, which may lie beside other cases."""
    try:
        return dataset_json.list_cases(root, labels, missing=missing)
    except UserError as error:
        if alone:
            raise
        raise UserError(
            f"{error}; {folder} holds more than this data set: give the folder of the one you mean"
        ) from error


def _no_cases(folder: Path, content: FolderContent, names: Sequence[str]) -> str:
    """Say what a folder without cases holds instead."""
    held = [
        f"{len(paths)} {kind if len(paths) == 1 else f'{kind}s'} "
        f"({shown_files(paths, folder)}{advice})"
        for paths, kind, advice in (
            (content.images, "image file", ""),
            (content.phantoms, "folder", "; embedded phantoms are data where they are --data"),
            (content.dicom, "DICOM file", "; convert to NIfTI with dcm2niix"),
        )
        if paths
    ]
    holds = f"it holds {' and '.join(held)}; " if held else "it holds no image; "
    if names:
        return f"{folder}: no file fits --names ({', '.join(names)}); {holds}correct the templates"
    return (
        f"{folder}: no BraTS case found; {holds}expected files named like CASE/CASE_t1ce.nii.gz "
        "(2018-2021) or CASE/CASE-t1c.nii.gz (2023 and later), imagesTr beside a dataset.json, "
        "or templates of other names in --names"
    )


def _shared_files(cases: Sequence[Case]) -> dict[str, Finding]:
    """Map the id of each case with a file of several uses, its own or others', to the error."""
    real, uses = _resolver(), dict[Path, list[tuple[str, str]]]()
    for case in cases:
        images = {"images": case.files[0]} if case.channels else case.images
        label = {"label": case.label} if case.label else {}
        for part, path in {**images, **label}.items():
            uses.setdefault(real(path), []).append((case.id, part))
    errors: dict[str, Finding] = {}
    for path, users in uses.items():
        who = " and ".join(f"{part} of {case_id}" for case_id, part in users[:3])
        for case_id, _ in users if len(users) > 1 else ():
            text = f"{case_id}: {path} is used as {who}; give each its own file"
            errors.setdefault(case_id, Finding(ERROR, "file used twice", text))
    return errors


def _resolver() -> Callable[[Path], Path]:
    """Make a function that follows links and asks the disk once for each folder."""
    folder = functools.cache(Path.resolve)

    def real(path: Path) -> Path:
        place = folder(path.parent) / path.name
        return place.resolve() if place.is_symlink() else place

    return real


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
