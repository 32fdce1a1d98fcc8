"""What the commands share: options, progress, tables, the user's mistakes in one line. Imports nothing slow."""

import gc
import json
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from segmamba.config import PRESETS, field_docs, preset
from segmamba.errors import UserError

COLUMNS = 100
STOPPED = "stopped  the same command with --resume goes on with it"

PresetName = Annotated[
    str, typer.Option("--preset", help=f"Settings to start from: {', '.join(PRESETS)}.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a setting, name=value, e.g. model.norm=instance; may be repeated. "
        "`segmamba settings` shows all.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Source = Annotated[
    Path,
    typer.Argument(
        help="Folder of BraTS cases, Decathlon or nnU-Net raw folder, or a MONAI datalist (.json).",
        metavar="DIR",
    ),
]
LABELS_HELP = (
    "Label convention: brats2018, brats2023, brats2024, brats2024ped, msd; auto takes it from the files' naming or dataset.json, "
    "mixed does so for each case on its own."
)
Labels = Annotated[str, typer.Option(help=LABELS_HELP)]


def run_app(app, arguments=None):
    """Run a typer app and exit: a UserError is one line on stderr and exit code 2, like a wrong option."""
    try:
        app(arguments, standalone_mode=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    finally:
        gc.freeze()  # the process ends: to look through all that torch and MLflow made for what is garbage takes a second or two


def print_settings(preset_name):
    """Every setting of a preset: name, value and, below it, what it means."""
    docs = field_docs()
    for name, value in preset(preset_name).to_flat_dict().items():
        print(f"{name} = {value}\n    {docs[name]}")


@contextmanager
def progress_bar(what):
    """A progress bar on stderr where that is a terminal; gives a function of (done, in all)."""
    from rich.progress import Progress

    shown = console(stderr=True)
    with Progress(console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def console(**options):
    """A rich Console no wider than COLUMNS, and as wide where the output is no terminal."""
    from rich.console import Console

    made = Console(**options)
    made.width = min(made.width, COLUMNS) if made.is_terminal else COLUMNS
    return made


def print_json(value):
    print(json.dumps(value, indent=1))


def shown_uri(uri):
    """The store as one would type it: relative to the working directory where that is possible."""
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and path.is_relative_to(Path.cwd()):
        uri = f"sqlite:///{path.relative_to(Path.cwd())}"
    return shlex.quote(uri)
