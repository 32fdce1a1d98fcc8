"""segmamba data: check, summary, splits."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from segmamba.commands.command_line import may_become_file, may_become_folder
from segmamba.commands.shared import (
    RESULTS,
    DatasetArgument,
    JsonOption,
    LabelsOption,
    MissingOption,
    NamesOption,
    OrientationOption,
    PatientsOption,
    ReadingSetOption,
    console,
    new_app,
    print_json,
    progress_bar,
    reading,
)
from segmamba.config import preset
from segmamba.errors import UserError
from segmamba.screen import print_line

app = new_app(help="Check, measure or split a data set.", no_args_is_help=True)


@app.command()
def check(
    source: DatasetArgument,
    labels: LabelsOption = "auto",
    orientation: OrientationOption = None,
    changes: ReadingSetOption = None,
    names: NamesOption = None,
    patients: PatientsOption = "",
    missing: MissingOption = "error",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Also write all findings to this CSV file.",
            metavar="FILE.csv",
            show_default=False,
            callback=may_become_file,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read every header and voxel, and list what is wrong.

    Exit code 2 if a training run would fail.
    """
    config = reading(changes, orientation)
    preset("paper").changed({"data.patients": patients})

    from segmamba.data.cases import notes_on_labels, notes_on_unused
    from segmamba.data.check import as_rows, notes_on_classes, render, would_fail, write_csv
    from segmamba.data.check import check as check_cases
    from segmamba.data.layouts.templates import resolve_names
    from segmamba.data.patients import describe_patients
    from segmamba.data.same_images import find_same_images

    templates = resolve_names(names or ())
    unused = notes_on_unused(source, labels, templates, missing=missing)
    with progress_bar("reading cases") as progress:
        checked = check_cases(
            source,
            labels,
            templates,
            patients=patients,
            missing=missing,
            config=config,
            progress=progress,
        )
    if output:
        write_csv(output, checked)
    if as_json:
        same = find_same_images(checked)
        print_json(
            {
                "findings": list(as_rows(checked)),
                "notes": [
                    describe_patients(checked, patients, same),
                    *same.notes,
                    *notes_on_labels(checked),
                    *notes_on_classes(checked),
                    *unused,
                ],
                "training_would_fail": would_fail(checked),
            }
        )
    else:
        for note in unused:
            print_line(console(), f"note     {note}")
        render(checked, console(), patients)
    raise typer.Exit(2 if would_fail(checked) else 0)


@app.command()
def summary(
    source: DatasetArgument,
    labels: LabelsOption = "auto",
    orientation: OrientationOption = None,
    changes: ReadingSetOption = None,
    names: NamesOption = None,
    patients: PatientsOption = "",
    missing: MissingOption = "error",
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for summary.json and the pictures.",
            metavar="DIR",
            callback=may_become_folder,
        ),
    ] = RESULTS / "data_summary",
    as_json: JsonOption = False,
) -> None:
    """Measure and draw grids, intensities and tumour volumes."""
    header = reading(changes, orientation).header_rules
    preset("paper").changed({"data.patients": patients})

    from segmamba.data.layouts.templates import resolve_names
    from segmamba.data.summary import summarise
    from segmamba.data.summary_report import render
    from segmamba.pictures.data_summary import write_summary

    with progress_bar("measuring cases") as progress:
        fingerprint, measured = summarise(
            source,
            labels,
            resolve_names(names or ()),
            patients=patients,
            missing=missing,
            header=header,
            progress=progress,
        )
    written = write_summary(output, fingerprint, measured)
    if as_json:
        print_json(fingerprint)
        return
    render(fingerprint, console())
    for path in written:
        print(path)


@app.command()
def splits(
    source: DatasetArgument,
    labels: LabelsOption = "auto",
    orientation: OrientationOption = None,
    changes: ReadingSetOption = None,
    names: NamesOption = None,
    patients: PatientsOption = "",
    missing: MissingOption = "error",
    folds: Annotated[int, typer.Option(help="How many folds.", metavar="N")] = 5,
    seed: Annotated[
        int, typer.Option(help="Chooses which patients fall into which fold.", metavar="N")
    ] = 0,
    output: Annotated[
        Path,
        typer.Option(help="File for the folds.", metavar="FILE.json", callback=may_become_file),
    ] = Path("splits_final.json"),
    as_json: JsonOption = False,
) -> None:
    """Write stratified folds by patient as splits_final.json.

    nnU-Net reads this file, and so does a run with --set data.splits_file=FILE.
    """
    header = reading(changes, orientation).header_rules
    preset("paper").changed(
        {"data.folds": folds, "data.split_seed": seed, "data.patients": patients}
    )

    from segmamba.data.cases import find_cases
    from segmamba.data.layouts.templates import resolve_names
    from segmamba.data.patients import describe_patients, with_patients
    from segmamba.data.same_images import digest_files, find_same_images
    from segmamba.data.splits_file import write_splits
    from segmamba.data.strata import describe_folds, strata_of_files, stratified_folds

    every = find_cases(source, labels, resolve_names(names or ()), header, missing=missing)
    found = with_patients(every, patients)
    cases = [case for case in found if case.label]
    if not cases:
        raise UserError(f"{source}: no case has a segmentation; folds are for labelled cases")
    with progress_bar("comparing images") as progress:
        same = find_same_images(digest_files(cases, progress=progress))
    notes = [describe_patients(cases, patients, same), *same.notes]
    cases = [replace(case, patient=same.patient(case.patient)) for case in cases]
    with progress_bar("reading segmentations") as progress:
        strata = strata_of_files(cases, progress=progress)
    test_sets = stratified_folds(strata, folds, seed)
    write_splits(output, cases, test_sets)
    rows = list(describe_folds(cases, strata, test_sets))
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*map(str, row.values()))
    console().print(table)
    for note in notes:
        print_line(console(), f"note     {note}")
    print(output)
