"""Pages of the site that are made from the code: settings, command line, figures, changes.

mkdocs calls `on_files` (mkdocs.yml, `hooks`). The pages are never stored, so they cannot be out of
date.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import runpy
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    import typer
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[1]
# A script of experiments/ hands its typer app to `run_app` of one of these modules.
COMMAND_MODULES = ("study", "ensemble", "ablate_inference")
SCRIPTS = {
    "experiments/ablate_depth.py": "A study. The other scripts of `experiments/` and `segmamba "
    "study FILE` take the same options, with arms of their own.",
    "experiments/tune_hyperparameters.py": "A search, which also takes `--trials`.",
    "experiments/ensemble.py": "An ensemble, as `segmamba ensemble` trains it.",
    "experiments/ablate_inference.py": "An ablation of inference, on networks that are trained; "
    "also `segmamba ablate-inference`.",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    pages = {
        "reference/settings.md": settings_page(),
        "reference/command-line.md": command_line_page(),
        "reference/figures.md": (ROOT / "benchmarks" / "README.md").read_text(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(),
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def settings_page() -> str:
    """Every setting with its type, its value in each preset and its docstring."""
    from segmamba.config import PRESETS, field_docs, preset

    docs, values = field_docs(), {name: preset(name).to_flat_dict() for name in PRESETS}
    lines = [
        "# Settings",
        "",
        "Every setting of a run, with its type, its value in each preset and its meaning. "
        "`--set NAME=VALUE` changes one, `segmamba settings --preset NAME` prints them all, and a "
        "run's `config.json` holds them. The value in bold is the default, which is the `paper` "
        "preset's; the other presets are named where they differ.",
    ]
    for section, title, about, fields in _sections():
        lines += [
            "",
            f"## {title}",
            "",
            about,
            "",
            "| setting | values | meaning |",
            "|---|---|---|",
        ]
        for field, hint in fields:
            name = f"{section}.{field}" if section else field
            default = values["paper"][name]
            shown = [f"**{_code(default)}**"]
            shown += [
                f"{which}: {_code(flat[name])}"
                for which, flat in values.items()
                if flat[name] != default
            ]
            cells = [f"`{name}`", f"{_type(hint)}<br>{', '.join(shown)}", _escaped(docs[name])]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _sections() -> Iterator[tuple[str, str, str, list[tuple[str, Any]]]]:
    """Name, title, text and typed fields of every section of the configuration."""
    from segmamba.config import Config

    hints = typing.get_type_hints(Config)
    top = [(name, hint) for name, hint in hints.items() if not dataclasses.is_dataclass(hint)]
    yield "", "Run", "What belongs to no section.", top
    for name, hint in hints.items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            fields = typing.get_type_hints(hint)
            names = [field.name for field in dataclasses.fields(hint)]
            yield name, name, _about(hint), [(field, fields[field]) for field in names]


def _about(section: type) -> str:
    """The docstring of a section's class, or else of the file that holds it alone."""
    written = section.__doc__ or ""
    generated = written.startswith(f"{section.__name__}(")  # dataclass writes the signature
    module = sys.modules[section.__module__]
    text = inspect.cleandoc(written if written and not generated else module.__doc__ or "")
    return text.partition("\n\n")[0]


def _type(hint: Any) -> str:
    """A type as one reads it: `float`, `int, int, int`, or the permitted words."""
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(f"`{word}`" for word in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        items = typing.get_args(hint)
        if items[-1] is Ellipsis:
            return f"{items[0].__name__}, …"
        return ", ".join(getattr(item, "__name__", str(item)) for item in items)
    return getattr(hint, "__name__", str(hint))


def _code(value: object) -> str:
    if isinstance(value, tuple):
        text = ",".join(map(str, value))
        return f"`{text}`" if text else "none"
    return f"`{value}`" if str(value) else "none"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def command_line_page() -> str:
    """Every command and every script with its arguments and options."""
    import typer

    from segmamba.cli import app

    lines = [
        "# Command line",
        "",
        "Exit codes: 0 done; 1 a problem of ours or of the machine; 2 the user's mistake, in one "
        "line that names it; 130 stopped by Ctrl-C, 143 by SIGTERM.",
        "",
        "`segmamba --install-completion` lets Tab complete commands, options, presets, settings.",
    ]
    for name, command in _commands("segmamba", typer.main.get_command(app)):
        lines += ["", f"## {name}", "", *_described(name, command)]
    lines += ["", "## Scripts", "", "Each script of `experiments/` is a command of its own."]
    for script, about in SCRIPTS.items():
        command = typer.main.get_command(script_app(ROOT / script))
        lines += [
            "",
            f"### python {script}",
            "",
            about,
            "",
            *_described(f"python {script}", command),
        ]
    return "\n".join(lines) + "\n"


def script_app(script: Path) -> typer.Typer:
    """The typer app of a script of experiments/, which is not run."""
    sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]
    modules = [importlib.import_module(f"segmamba.commands.{name}") for name in COMMAND_MODULES]
    apps: list[typer.Typer] = []
    with contextlib.ExitStack() as stack:
        for module in modules:
            keep = mock.patch.object(module, "run_app", lambda app, *_: apps.append(app))
            stack.enter_context(keep)
        runpy.run_path(str(script), run_name="__main__")
    (app,) = apps
    return app


# typer brings a click of its own, whose classes have no public name: hence Any.
def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Every command below a group, with the words that call it."""
    subcommands: dict[str, Any] = getattr(command, "commands", {})
    if not subcommands:
        yield name, command
    for word, subcommand in subcommands.items():
        yield from _commands(f"{name} {word}", subcommand)


def _described(name: str, command: Any) -> list[str]:
    """Usage, help text and a table of arguments and options."""
    context = command.context_class(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    lines = ["```", usage, "```", "", inspect.cleandoc(command.help or "")]
    rows = [row for p in command.get_params(context) if (row := _row(p, context)) is not None]
    if rows:
        lines += ["", "| | |", "|---|---|", *(f"| `{left}` | {right} |" for left, right in rows)]
    return lines


def _row(parameter: Any, context: Any) -> tuple[str, str] | None:
    """Name and help of an argument or option; None where it is hidden or --help."""
    record = parameter.get_help_record(context)
    if record is None or "--help" in parameter.opts:
        return None
    left, right = (" ".join(text.split()) for text in record)
    return left.replace("|", "\\|"), _escaped(right)
