"""Pictures of a run while it trains, drawn by a process of their own: no step waits for them."""

import multiprocessing
import os
import pickle
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from segmamba.files import write_bytes
from segmamba.pictures.overlay import draw_cases
from segmamba.pictures.view import CaseView
from segmamba.training.plots import draw_training_curves
from segmamba.training.run_folder import EPOCH_METRICS, RunFolder, read_epochs


class PictureDrawer(Protocol):
    """What a training run asks of `Pictures` and `NoPictures`."""

    draws: bool
    """Whether `order` draws."""

    def order(self, shown: list[CaseView], path: Path) -> None:
        """Have some cases drawn to `path`, and the run's curves."""

    def finished(self) -> list[Path]:
        """Return the pictures that are there since the last call."""

    def close(self) -> list[Path]:
        """Wait until everything that was ordered is drawn; return what `finished` would."""


class NoPictures:
    """Draws nothing while a run trains."""

    draws = False

    def order(self, shown: list[CaseView], path: Path) -> None:
        """Do nothing."""

    def finished(self) -> list[Path]:
        """Return no pictures."""
        return []

    def close(self) -> list[Path]:
        """Return no pictures."""
        return []


class Pictures:
    """Draws one picture after another, each in a short-lived process."""

    draws = True

    def __init__(self, folder: RunFolder) -> None:
        """Draw for the run in `folder`, whose curves are drawn with each picture."""
        self._folder = folder
        self._waiting: list[tuple[Path, Path]] = []  # (file of the cases to show, picture)
        self._drawing: tuple[BaseProcess, Path] | None = None

    def order(self, shown: list[CaseView], path: Path) -> None:
        """Have some cases drawn to `path`, once the pictures before it are done."""
        pending = path.with_suffix(".pending")
        write_bytes(pending, pickle.dumps(shown))
        self._waiting.append((pending, path))
        self._start_next()

    def finished(self) -> list[Path]:
        """Return the pictures that are there since the last call."""
        drawn = []
        if self._drawing is not None and not self._drawing[0].is_alive():
            process, path = self._drawing
            process.join()
            drawn = [path] if path.exists() else []
            self._drawing = None
        self._start_next()
        return drawn

    def close(self) -> list[Path]:
        """Wait until everything that was ordered is drawn; return what `finished` would."""
        drawn = []
        while self._drawing is not None:
            self._drawing[0].join()
            drawn += self.finished()
        return drawn

    def _start_next(self) -> None:
        if self._drawing is None and self._waiting:
            pending, path = self._waiting.pop(0)
            curves = self._folder.plots / "training_curves.png"
            process = multiprocessing.get_context("spawn").Process(
                target=_draw, args=(pending, path, self._folder.history, curves)
            )
            process.start()
            self._drawing = process, path


def _draw(pending: Path, path: Path, history: Path, curves: Path) -> None:
    """Draw a picture and the curves, in a process of their own.

    `pending` was pickled by the run itself, so that unpickling it is safe. The process yields to
    others where cores are few.
    """
    # Ctrl-C is for the run, which waits for its pictures.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(10)
    draw_cases(path, pickle.loads(pending.read_bytes()))
    pending.unlink(missing_ok=True)
    if history.exists():
        draw_training_curves(read_epochs(history, EPOCH_METRICS), curves)
