"""How all commands stand on the command line: their help, old names of options, completion.

Imports nothing slow.
"""

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import typer
from typer.core import TyperArgument, TyperCommand

from segmamba.config import PRESETS, field_docs
from segmamba.errors import UserError
from segmamba.files import check_may_be_made

Function = TypeVar("Function", bound=Callable[..., Any])


class Command(TyperCommand):
    """A command whose help calls an argument by its name alone, and that knows `old_names`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument):  # typer adds the type, as <list[str]>
                vars(parameter)["display_type_rich"] = lambda ctx: ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command; an old name stands for the new one, and a note says so.

        Args:
            ctx: The context.
            args: The words.

        Returns:
            The words that are left.
        """
        renamed: Mapping[str, str] = getattr(self.callback, "old_names", {})
        words = []
        for word in args:
            old, equals, value = word.partition("=")
            if old in renamed:
                print(f"note: {old} is now {renamed[old]}", file=sys.stderr)
                word = f"{renamed[old]}{equals}{value}"
            words.append(word)
        return super().parse_args(ctx, words)


def old_names(renamed: Mapping[str, str]) -> Callable[[Function], Function]:
    """Let a command take options by the names that they had before.

    Args:
        renamed: Each old name to the new one, both with their hyphens.
    """

    def remember(function: Function) -> Function:
        vars(function)["old_names"] = renamed
        return function

    return remember


class App(typer.Typer):
    """A typer app of `Command`s. A list of them shows the first sentence of each, never cut."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Function], Function]:
        """Add a command, as typer does.

        Args:
            name: The command's name; None takes the function's.
            options: What typer takes.
        """
        options.setdefault("cls", Command)

        def add(function: Function) -> Function:
            text = inspect.cleandoc(options.get("help") or function.__doc__ or "")
            first = " ".join(text.partition("\n\n")[0].split())
            return super(App, self).command(name, **{"short_help": first} | options)(function)

        return add


def may_be_made(context: typer.Context, parameter: Any, value: Any) -> Any:
    """The callback of an option that names what a command writes: that this will be possible.

    Args:
        context: The command's.
        parameter: The option.
        value: Its value; None is not checked.

    Returns:
        The value.

    Raises:
        UserError: The file or folder cannot be written or made.
    """
    if value is not None and not context.resilient_parsing:
        check_may_be_made(value, parameter.opts[0])
    return value


def may_become_folder(context: typer.Context, parameter: Any, value: Any) -> Any:
    """As `may_be_made`, of what becomes a folder."""
    if value is not None and Path(value).is_file():
        raise UserError(f"{parameter.opts[0]} {value}: is a file; give a folder")
    return may_be_made(context, parameter, value)


def may_become_file(context: typer.Context, parameter: Any, value: Any) -> Any:
    """As `may_be_made`, of what becomes a file."""
    if value is not None and Path(value).is_dir():
        raise UserError(f"{parameter.opts[0]} {value}: is a folder; give a file")
    return may_be_made(context, parameter, value)


def complete_preset(incomplete: str) -> list[str]:
    """The presets that begin with what is typed."""
    return [name for name in PRESETS if name.startswith(incomplete)]


def complete_setting(incomplete: str) -> list[tuple[str, str]]:
    """The settings, as NAME=, that begin with what is typed, each with what it means."""
    return [
        (f"{name}=", " ".join(text.split()))
        for name, text in field_docs().items()
        if name.startswith(incomplete)
    ]


def complete_of(words: Iterable[str]) -> Callable[[str], list[str]]:
    """Make the completion of an option that takes one of some words.

    Args:
        words: The words.
    """
    known = tuple(words)

    def complete(incomplete: str) -> list[str]:
        return [word for word in known if word.startswith(incomplete)]

    return complete
