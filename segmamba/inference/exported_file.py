"""A file of another runtime. It appears when it has computed what the network computes."""

import contextlib
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmamba.disks import disk_line, disk_reason
from segmamba.errors import UserError
from segmamba.files import write_json
from segmamba.inference.exported_network import Exporting, Runs, load_for_export
from segmamba.leftovers import folder_beside


@dataclass(frozen=True)
class FileFormat:
    """A kind of file: what its name ends in, what writes it and what runs it."""

    ending: str
    check_tools: Callable[[], None]
    """Raises a UserError where something is missing that writes it."""
    write: Callable[[Exporting, Path], None]
    runs: Callable[[Path], Runs]

    def export(
        self, checkpoint: str | Path, file: str | Path, *, labels: str, dynamic: bool = False
    ) -> Exporting:
        """Write a trained network, with its facts in the file and in FILE.json beside it.

        Args:
            checkpoint: A checkpoint, as `load_member` takes it.
            file: The file to make.
            labels: The label convention of what is written; "auto" is that of the network's
                classes.
            dynamic: Whether the file takes any batch and any window.

        Returns:
            What was written.

        Raises:
            UserError: The file cannot be written there, a tool is missing, the checkpoint is not
                whole, or the file does not compute what the network computes.
        """
        file = Path(file)
        check_file(file, self.ending)
        self.check_tools()
        exporting = load_for_export(checkpoint, labels=labels, dynamic=dynamic)
        with appearing(file, exporting.facts) as building, quiet():
            self.write(exporting, building)
            exporting.check(file, self.runs(building))
        return exporting


def facts_file(file: Path) -> Path:
    """The JSON beside an exported file: FILE.onnx.json beside FILE.onnx."""
    return file.with_name(f"{file.name}.json")


def check_file(file: Path, ending: str) -> None:
    """Refuse a file of another ending, or one that is there already.

    Args:
        file: The file to write.
        ending: Of its name.

    Raises:
        UserError: It cannot be written there.
    """
    if file.suffix != ending:
        raise UserError(f"--{ending[1:]} {file}: name a file that ends in {ending}")
    for path in (file, facts_file(file)):
        if path.exists():
            raise UserError(
                f"--{ending[1:]} {path}: exists already; choose another name or remove it"
            )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise _not_written(file, error) from error


def _not_written(file: Path, error: OSError) -> UserError:
    return UserError(f"--{file.suffix[1:]} {file}: cannot be written ({error.strerror})")


@contextlib.contextmanager
def appearing(file: Path, about: dict[str, Any]) -> Iterator[Path]:
    """Write a file and its facts, which appear when the block ends without an error.

    Args:
        file: The file's place; the JSON lies beside it.
        about: The facts.

    Yields:
        Where to write it: a file of the same name in a folder of its own.

    Raises:
        UserError: There is no space for it.
    """
    try:
        with folder_beside(file) as folder:
            building = folder / file.name
            yield building
            write_json(facts_file(file), about)
            os.replace(building, file)
    except Exception as error:  # the writers' own ones wrap the system's
        if not disk_reason(error):
            raise
        line = disk_line(error, "give the command again", file)
        raise UserError(f"--{file.suffix[1:]} {line}") from error


def as_text(about: dict[str, Any]) -> str:
    """The facts as the text that a file holds."""
    return json.dumps(about)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch's exporters say about their own parts off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
