"""Pictures of a run, drawn by a process of their own: no step waits for them."""

import functools
import os
import signal
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, Protocol

import torch

from segmamba.pictures.overlay import draw_cases
from segmamba.pictures.view import CaseView
from segmamba.processes import end_with_parent
from segmamba.training.plots import draw_training_curves
from segmamba.training.run_folder import EPOCH_METRICS, RunFolder, read_epochs

P = ParamSpec("P")


def draw(
    device: torch.device, function: Callable[P, None], *arguments: P.args, **named: P.kwargs
) -> None:
    """Draw a picture, and wait until it is there.

    Args:
        device: What goes on meanwhile. Beside a GPU another process draws: drawing is Python's
            work, which would keep this process from giving the GPU its work.
        function: Draws; it and its arguments can be pickled.
        *arguments: Of `function`.
        **named: The same.
    """
    if device.type == "cpu":
        function(*arguments, **named)
        return
    try:
        _submitted(function, *arguments, **named).result()
    except BrokenProcessPool:  # it was killed, perhaps for want of memory
        function(*arguments, **named)


def prepare_to_draw(device: torch.device) -> None:
    """Start the process by which `draw` draws, for which nobody has to wait now."""
    if device.type != "cpu":
        _submitted(_nothing)


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
    """Draws one picture after another in a process of its own."""

    draws = True

    def __init__(self, folder: RunFolder) -> None:
        """Draw for the run in `folder`, whose curves are drawn with each picture."""
        self._folder = folder
        self._ordered: deque[tuple[Future[None], Path]] = deque()

    def order(self, shown: list[CaseView], path: Path) -> None:
        """Have some cases drawn to `path`, once the pictures before it are done."""
        curves = self._folder.plots / "training_curves.png"
        drawing = _submitted(_draw, path, shown, self._folder.history, curves)
        self._ordered.append((drawing, path))

    def finished(self) -> list[Path]:
        """Return the pictures that are there since the last call."""
        drawn = []
        while self._ordered and self._ordered[0][0].done():
            path = self._ordered.popleft()[1]
            drawn += [path] if path.exists() else []
        return drawn

    def close(self) -> list[Path]:
        """Wait until everything that was ordered is drawn; return what `finished` would."""
        for drawing, _ in self._ordered:
            drawing.exception()
        return self.finished()


def _submitted(function: Callable[P, None], *arguments: P.args, **named: P.kwargs) -> Future[None]:
    """Give the process that draws something to do."""
    try:
        return _process().submit(function, *arguments, **named)
    except BrokenProcessPool:
        _process.cache_clear()
        return _process().submit(function, *arguments, **named)


@functools.cache
def _process() -> ProcessPoolExecutor:
    """The process that draws for this one: it has imported nothing yet, and starts when asked."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin)


def _begin() -> None:
    """Yield to others where cores are few; Ctrl-C is for the run, which waits for its pictures."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(10)


def _nothing() -> None:
    """What was imported to find this function is all that it is called for."""


def _draw(path: Path, shown: list[CaseView], history: Path, curves: Path) -> None:
    """Draw a picture and the curves."""
    draw_cases(path, shown)
    if history.exists():
        draw_training_curves(read_epochs(history, EPOCH_METRICS), curves)
