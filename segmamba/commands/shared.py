"""What the commands share: options, progress bars, JSON, and the user's mistakes in one line.

Each option that several commands take is declared here once, as an annotated type. A command adds
its default: `output: OutputOption = RESULTS`. Imports nothing slow.
"""

import errno
import gc
import json
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmamba.commands.command_line import (
    App,
    complete_of,
    complete_preset,
    complete_setting,
)
from segmamba.commands.utf8 import speak_utf8
from segmamba.config import PRESETS, DataConfig, field_docs, parse_assignments, preset
from segmamba.disks import disk_line, disk_reason
from segmamba.errors import UserError
from segmamba.redaction import redacted
from segmamba.screen import Progress, print_line

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = 100
RESULTS = Path("Results")
NOT_ALLOWED = (errno.EACCES, errno.EPERM)
STOPPED = "stopped  the same command with --resume goes on with it"

CONVENTIONS = ("brats2018", "brats2023", "brats2024", "brats2024ped", "msd")
CLASSES = ("glioma", "post_treatment", "pediatric", "auto")
CHALLENGES = ("auto", "GLI", "SSA", "PED", "MEN", "MET")
CONVENTIONS_HELP = (
    "brats2018, brats2023, brats2024, brats2024ped or msd. auto reads it from the files' names or "
    "dataset.json; mixed does so for each case on its own."
)
LABELS_HELP = f"Label convention: {CONVENTIONS_HELP}"
CLASSES_HELP = "glioma, post_treatment, pediatric or auto: the classes that the labels have."
PRESET_HELP = f"Settings to start from: {', '.join(PRESETS)}."

DatasetArgument = Annotated[
    Path,
    typer.Argument(
        help="Folder of BraTS cases, Decathlon or nnU-Net raw folder, or MONAI datalist (.json).",
        metavar="DIR",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder of BraTS cases, or another known layout. Default: embedded phantom data.",
        metavar="DIR",
        show_default=False,
    ),
]
TrainingDataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="The data set of the training. Default: the one that config.json names.",
        metavar="DIR",
        show_default=False,
    ),
]
complete_labels = complete_of(("auto", "mixed", *CONVENTIONS))
LabelsOption = Annotated[
    str,
    typer.Option("--labels", help=LABELS_HELP, metavar="NAME", autocompletion=complete_labels),
]
ClassesOption = Annotated[
    str,
    typer.Option(
        "--classes",
        help=f"What is scored: {CLASSES_HELP}",
        metavar="NAME",
        autocompletion=complete_of(CLASSES),
    ),
]
PatientsOption = Annotated[
    str,
    typer.Option(
        "--patients",
        help="Which cases are of one patient, as the setting data.patients says it: a regular "
        "expression with a group, or a CSV file of case,patient. Default: by the names.",
        metavar="RULE",
        show_default=False,
    ),
]
MissingOption = Annotated[
    str,
    typer.Option(
        "--missing",
        help="A case that lacks modalities, as the setting data.missing says: error refuses it, "
        "zeros reads what it lacks as zeros.",
        metavar="NAME",
    ),
]
TrainingLabelsOption = Annotated[
    str | None,
    typer.Option(
        "--labels",
        help=f"{LABELS_HELP} Default: as config.json says.",
        metavar="NAME",
        autocompletion=complete_labels,
        show_default=False,
    ),
]
NamesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--names",
        help="How the files of a case are named, where no known layout fits: a template for each "
        "modality and the segmentation, e.g. {case}_T1GD.nii.gz or T1ce={case}/post.nii.gz, or a "
        ".toml or .json file of templates. May be repeated.",
        metavar="TEMPLATE",
        show_default=False,
    ),
]
PresetOption = Annotated[
    str,
    typer.Option("--preset", help=PRESET_HELP, metavar="NAME", autocompletion=complete_preset),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a setting, e.g. optim.lr=3e-4; may be repeated. `segmamba settings` lists "
        "all of them.",
        metavar="NAME=VALUE",
        autocompletion=complete_setting,
        show_default=False,
    ),
]
CheckpointsOption = Annotated[
    list[Path],
    typer.Option(
        "--checkpoint",
        help="A run's folder, or weights with config.json beside or above them. May be repeated: "
        "the networks then vote.",
        metavar="PATH",
    ),
]
FlipsOption = Annotated[
    bool,
    typer.Option("--flips", "--tta", help="Average over 8 mirror images: 8 times the work."),
]
RuleOption = Annotated[
    str,
    typer.Option(
        "--rule",
        help="brats-legacy, lesionwise-2023 or both.",
        metavar="NAME",
        autocompletion=complete_of(("brats-legacy", "lesionwise-2023", "both")),
    ),
]
ChallengeOption = Annotated[
    str,
    typer.Option(
        "--challenge",
        help="Challenge whose lesion-wise parameters hold: GLI, SSA, PED, MEN or MET. auto goes "
        "by the case ids.",
        metavar="NAME",
        autocompletion=complete_of(CHALLENGES),
    ),
]
ThemeOption = Annotated[
    str,
    typer.Option(
        "--theme",
        help="What surrounds the images of drawn cases: dark for a screen, light for paper.",
        metavar="NAME",
        autocompletion=complete_of(("dark", "light")),
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto, cpu, cuda or cuda:1.",
        metavar="NAME",
        autocompletion=complete_of(("auto", "cpu", "cuda")),
    ),
]
OutputOption = Annotated[
    Path,
    typer.Option(
        "--output", help="Folder for results, the MLflow store and the cache.", metavar="DIR"
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with the newest unfinished run in --output; start one where there is none.",
    ),
]
ViewerOption = Annotated[
    bool,
    typer.Option(
        "--viewer/--no-viewer",
        help="At the end predict the worst, median and best case of each arm again, for "
        "viewer.html beside the report; needs the extra viewer.",
    ),
]
FreshOption = Annotated[
    bool,
    typer.Option(
        "--fresh", help="Train again even what a finished run has trained with the same settings."
    ),
]
CpusOption = Annotated[
    int, typer.Option("--cpus", help="CPU cores for the whole study; 0 takes all.", metavar="N")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
ORIENTATION_HELP = (
    "Directions in which the stored axes run, e.g. LPS, of files whose header names none; short "
    "for --set data.orientation=LPS."
)
OrientationOption = Annotated[
    str | None,
    typer.Option("--orientation", help=ORIENTATION_HELP, metavar="AXES", show_default=False),
]
READING_SETTINGS = ("data.header", "data.max_volume_mib", "data.orientation", "data.spacing_mm")
ReadingSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help=f"Change how files are read: {', '.join(READING_SETTINGS)}; may be repeated. "
        "`segmamba settings` explains them.",
        metavar="NAME=VALUE",
        show_default=False,
    ),
]
ListSettingsOption = Annotated[
    bool,
    typer.Option(
        "--list-settings", help="Show every setting with its value and meaning, and exit."
    ),
]


def new_app(**options: Any) -> App:
    """Make a typer app that prints plain help and leaves exceptions to `run_app`."""
    plain = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}
    return App(**plain | options)


def run_app(app: typer.Typer, arguments: Sequence[str] | None = None) -> None:
    """Run a typer app and exit.

    A UserError is one line on stderr and exit code 2, like a wrong option; so is a file or folder
    that this user may not read or write, or a disk that takes no more.

    Args:
        app: The app.
        arguments: What stands in for the arguments of the process.
    """
    if arguments is None:
        speak_utf8()
    try:
        app(arguments, standalone_mode=True)
    except UserError as error:
        if sys.stderr.isatty():
            print_line(console(stderr=True), f"error: {error}")
        else:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        line = _line_of(error)
        if not line:
            print(redacted(traceback.format_exc()), end="", file=sys.stderr)
            sys.exit(1)
        print(redacted(f"error: {line}"), file=sys.stderr)
        sys.exit(2)
    finally:
        # The process ends: to search all that torch and MLflow made for garbage takes a second.
        gc.freeze()


def _line_of(error: Exception) -> str:
    """What the user must know of an exception that is no fault of ours; empty where it is one."""
    if disk_reason(error):
        return disk_line(error, "give the command again, with --resume where it has that option")
    if isinstance(error, OSError) and error.errno in NOT_ALLOWED and error.filename:
        return f"{error.filename}: {error.strerror}"
    return ""


def with_orientation(changes: Sequence[str] | None, orientation: str | None) -> list[str]:
    """The assignments of --set and, as the last of them, that of --orientation."""
    return [*(changes or []), *([f"data.orientation={orientation}"] if orientation else [])]


def reading_changes(changes: Sequence[str] | None, orientation: str | None) -> dict[str, Any]:
    """Parse --set and --orientation of a command that reads files and trains nothing.

    Args:
        changes: The assignments of --set.
        orientation: What --orientation says.

    Returns:
        Changes by dotted name, all of READING_SETTINGS.

    Raises:
        UserError: A setting is none of these, or wrong.
    """
    parsed = parse_assignments(with_orientation(changes, orientation))
    for name in parsed:
        if name not in READING_SETTINGS:
            raise UserError(
                f"--set {name}: this command only reads files; it takes "
                f"{', '.join(READING_SETTINGS)}"
            )
    return parsed


def reading(changes: Sequence[str] | None, orientation: str | None) -> DataConfig:
    """How files are read, as --set and --orientation say; the rest has its defaults."""
    return preset("paper").changed(reading_changes(changes, orientation)).data


def print_settings(preset_name: str) -> None:
    """Print every setting of a preset: its name and value and, below them, what it means."""
    docs = field_docs()
    for name, value in preset(preset_name).to_flat_dict().items():
        print(f"{name} = {value}\n    {docs[name]}")


@contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """Show a progress bar on stderr, where stderr is a terminal.

    Args:
        what: What stands before the bar.

    Yields:
        The function that moves the bar.
    """
    from rich.progress import Progress as RichProgress

    screen = console(stderr=True)
    with RichProgress(console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def console(**options: Any) -> "Console":
    """Make a rich Console of at most COLUMNS columns, and of so many where there is no terminal.

    It shows text as it is: the name of a case or an arm may look like markup.

    Args:
        options: What rich's Console takes.
    """
    from rich.console import Console

    made = Console(markup=False, emoji=False, **options)
    made.width = min(made.width, COLUMNS) if made.is_terminal else COLUMNS
    return made


def note_on_viewer(page: Path) -> None:
    """Say on stderr how a page gets its viewer, where NiiVue is missing."""
    from segmamba.pictures.niivue import how_to_install

    if install := how_to_install():
        print_line(
            console(stderr=True),
            f"note: {page.name} has no viewer of all slices, which needs NiiVue: {install}",
        )


def print_json(value: object) -> None:
    """Print a value of plain lists and dicts as JSON."""
    print(json.dumps(value, indent=1))


def print_runs(screen: "Console", uri: str, page: str) -> None:
    """Print how MLflow shows the runs: the command that serves a database, and the page's address.

    Args:
        screen: Takes the lines.
        uri: Of the store.
        page: Address of the page that lists the runs; empty where there is none.
    """
    if not uri.startswith(("http://", "https://")):
        serve = f"runs     mlflow ui --backend-store-uri {shown_uri(uri)}"
        print_line(screen, serve, copied=True)
    if page:
        print_line(screen, f"page     {page}", copied=True)


def shown_uri(uri: str) -> str:
    """Write the store as one would type it but for a password: relative to the working directory
    where possible."""
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and path.is_relative_to(Path.cwd()):
        uri = f"sqlite:///{path.relative_to(Path.cwd())}"
    return shlex.quote(redacted(uri))
