"""The `segmamba` command: a table of contents. Each entry imports what it needs when it runs, so that --help answers at once."""

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from segmamba.command_line import print_settings, run_app
from segmamba.config import PRESETS, PhantomConfig, parse_assignments, preset

app = typer.Typer(
    help="Mamba U-Nets for brain tumour segmentation.", add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    no_args_is_help=True,
)  # fmt: skip
data = typer.Typer(help="Look at a data set: what is wrong with it, what is in it.", no_args_is_help=True)
app.add_typer(data, name="data")
COLUMNS = 100

PresetName = Annotated[str, typer.Option("--preset", help=f"Settings to start from: {', '.join(PRESETS)}.")]
Changes = Annotated[list[str] | None, typer.Option("--set", help="Change a setting, name=value, e.g. model.norm=instance; may be repeated. "
                                                   "`segmamba settings` shows all.", show_default=False)]  # fmt: skip
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

Source = Annotated[Path, typer.Argument(help="Folder of BraTS cases, Decathlon or nnU-Net raw folder, or a MONAI datalist (.json).", metavar="DIR")]
Labels = Annotated[str, typer.Option(help="Label convention: brats2018, brats2023, brats2024, brats2024ped, msd; auto takes it from the files' "
                                     "naming or dataset.json, mixed does so for each case on its own.")]  # fmt: skip


def main():
    """Exit code 0 done, 1 a problem of ours or of the machine, 2 the user's mistake."""
    run_app(app)


@app.command()
def doctor(
    output: Annotated[Path, typer.Option(help="Folder that results would go to.")] = Path("Results"),
    as_json: AsJson = False,
):
    """Check this machine: what runs, how fast, and the command that mends what is missing."""
    from segmamba.doctor import as_rows, examine, exit_code, render
    from segmamba.environment import describe_environment

    checks, versions = examine(output), describe_environment()
    if as_json:
        _print_json({"checks": as_rows(checks), "versions": versions})
    else:
        render(checks, versions, _console())
    raise typer.Exit(exit_code(checks))


@app.command()
def describe(
    preset_name: PresetName = "paper",
    changes: Changes = None,
    batch: Annotated[int | None, typer.Option(help="Patches in a batch; short for --set train.batch_size=N.", show_default=False)] = None,
    patch: Annotated[str | None, typer.Option(help="Voxels X,Y,Z of a patch; short for --set data.patch_size=X,Y,Z.",
                                              show_default=False)] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Also train two steps here and print their peak memory.")] = False,
    as_json: AsJson = False,
):  # fmt: skip
    """Show a network's shapes, parameters and FLOPs, and the memory that training it takes."""
    assignments = list(changes or [])
    assignments += [] if batch is None else [f"train.batch_size={batch}"]
    assignments += [] if patch is None else [f"data.patch_size={patch}"]
    config = preset(preset_name).changed(parse_assignments(assignments))

    from segmamba.describe_table import describe, render

    described = describe(config, measure=measure)
    if as_json:
        _print_json(described)
    else:
        render(described, _console())


@app.command()
def phantom(
    folder: Annotated[Path, typer.Argument(help="Where the cases go; a folder begun earlier is completed.", metavar="DIR")],
    cases: Annotated[int, typer.Option(help="How many.")] = PhantomConfig.cases,
    size: Annotated[str, typer.Option(help="Voxels X,Y,Z of a case.")] = ",".join(map(str, PhantomConfig.size)),
    seed: Annotated[int, typer.Option(help="Which heads and tumours.")] = PhantomConfig.seed,
):
    """Write the embedded phantom: BraTS-format cases with real anatomy and invented tumours."""
    wanted = preset("paper").changed(parse_assignments([f"phantom.size={size}"]) | {"phantom.cases": cases, "phantom.seed": seed}).phantom

    from segmamba.data.phantom import write_phantom

    with _progress("making cases") as progress:
        write_phantom(folder, cases=wanted.cases, size=wanted.size, seed=wanted.seed, progress=progress)
    print(folder)


@app.command()
def settings(preset_name: PresetName = "paper"):
    """List every setting of a preset with its value and what it means."""
    print_settings(preset_name)


@data.command()
def check(
    source: Source,
    labels: Labels = "auto",
    output: Annotated[Path | None, typer.Option(help="Also write all findings to this CSV file.", metavar="FILE.csv", show_default=False)] = None,
    as_json: AsJson = False,
):
    """Read every header and voxel and say what is wrong, case by case. Exit code 2 if a training run would fail."""
    from segmamba.data.check import as_rows, render, would_fail, write_csv
    from segmamba.data.check import check as check_cases

    with _progress("reading cases") as progress:
        checked = check_cases(source, labels, progress=progress)
    if output:
        write_csv(output, checked)
    if as_json:
        _print_json({"findings": list(as_rows(checked)), "training_would_fail": would_fail(checked)})
    else:
        render(checked, _console())
    raise typer.Exit(2 if would_fail(checked) else 0)


@data.command()
def summary(
    source: Source,
    labels: Labels = "auto",
    output: Annotated[Path, typer.Option(help="Folder for summary.json and the pictures.")] = Path("Results/data_summary"),
    as_json: AsJson = False,
):
    """Measure grids, intensities and tumour volumes, and draw them."""
    from segmamba.data.summary import render, summarise, write_summary

    with _progress("measuring cases") as progress:
        fingerprint, measured = summarise(source, labels, progress=progress)
    written = write_summary(output, fingerprint, measured)
    if as_json:
        _print_json(fingerprint)
        return
    render(fingerprint, _console())
    for path in written:
        print(path)


@data.command()
def splits(
    source: Source,
    labels: Labels = "auto",
    folds: Annotated[int, typer.Option(help="How many.")] = 5,
    seed: Annotated[int, typer.Option(help="Which patients fall into which fold.")] = 0,
    output: Annotated[Path, typer.Option(help="Where the folds go.", metavar="FILE.json")] = Path("splits_final.json"),
):
    """Write stratified folds by patient as nnU-Net's splits_final.json, for nnU-Net or for --set data.splits_file=FILE."""
    preset("paper").changed({"data.folds": folds, "data.split_seed": seed})

    from segmamba.data.cases import find_cases
    from segmamba.data.splits import SourceCase, fold_judges, strata_of, write_splits

    cases = [SourceCase(case) for case in find_cases(source, labels) if case.label]
    write_splits(output, cases, fold_judges(strata_of(cases), folds, seed))
    print(output)


@contextmanager
def _progress(what):
    """A progress bar on stderr where that is a terminal; gives a function of (done, in all)."""
    from rich.progress import Progress

    console = _console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _console(**options):
    """A rich Console no wider than COLUMNS, and as wide where the output is no terminal."""
    from rich.console import Console

    console = Console(**options)
    console.width = min(console.width, COLUMNS) if console.is_terminal else COLUMNS
    return console


def _print_json(value):
    print(json.dumps(value, indent=1))
