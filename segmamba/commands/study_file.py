"""The study that a user's Python file declares."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from segmamba.errors import UserError

if TYPE_CHECKING:
    from segmamba.config import Config
    from segmamba.studies import StudySpec

    Study = StudySpec | Callable[[Config], StudySpec]
    """What a study's file defines as STUDY."""

MISTAKES = (
    ImportError,
    SyntaxError,
    NameError,
    TypeError,
    AttributeError,
    LookupError,
    ValueError,
)
"""What a mistake in the user's file raises."""


def load_study(file: Path) -> Study:
    """Read STUDY from a Python file.

    Args:
        file: The file.

    Returns:
        The StudySpec, or the function from a preset's Config to one.

    Raises:
        UserError: There is no such file, it cannot be run, or it defines no STUDY.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; give a Python file that defines STUDY")
    file = file.resolve()
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file}: no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except MISTAKES as error:
        line = error.lineno if isinstance(error, SyntaxError) else _last_line(error, file)
        raise UserError(f"{file}, line {line}: {type(error).__name__}: {error}") from error
    if not hasattr(module, "STUDY"):
        raise UserError(f"{file}: defines no STUDY; see the files in search_spaces/")
    return module.STUDY


def _last_line(error: BaseException, file: Path) -> int:
    """Return the last line of the file that ran before the error."""
    return [
        frame.tb_lineno
        for frame in _frames(error.__traceback__)
        if frame.tb_frame.f_code.co_filename == str(file)
    ][-1]


def _frames(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next
