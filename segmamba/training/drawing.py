"""Pictures of a run, drawn by a process of their own: no step waits for them."""

import functools
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, Protocol

import torch

from segmamba.processes import end_with_parent
from segmamba.training.plots import PredictedCase, draw_predicted, draw_training_curves
from segmamba.training.run_folder import EPOCH_METRICS, RunFolder, read_epochs

P = ParamSpec("P")
_LOCK = threading.Lock()
"""Held while the process that draws is given something: a run's threads share it."""


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
    if not _drawn(_submitted(function, *arguments, **named)):
        function(*arguments, **named)


def prepare_to_draw(device: torch.device) -> None:
    """Start the process by which `draw` draws, so that the first picture need not wait for it."""
    if device.type != "cpu":
        _submitted(_nothing)


class PictureDrawer(Protocol):
    """What a training run asks of `Pictures` and `NoPictures`."""

    draws: bool
    """Whether `order` draws."""

    def order(self, predicted: list[PredictedCase], path: Path) -> None:
        """Have predicted cases drawn to `path`, and the run's curves."""

    def finished(self) -> list[Path]:
        """Return the pictures that are there since the last call."""

    def close(self) -> list[Path]:
        """Wait until everything that was ordered is drawn; return what `finished` would."""


class NoPictures:
    """Draws nothing while a run trains."""

    draws = False

    def order(self, predicted: list[PredictedCase], path: Path) -> None:
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
        self._ordered: deque[tuple[Future[None] | None, list[PredictedCase], Path]] = deque()

    def order(self, predicted: list[PredictedCase], path: Path) -> None:
        """Have predicted cases drawn to `path`, once the pictures before it are done."""
        self._ordered.append((_submitted(_draw, path, predicted, *self._curves()), predicted, path))

    def finished(self) -> list[Path]:
        """Return the pictures that are there since the last call.

        A picture that cannot be drawn is a warning: it stops no run.

        Raises:
            OSError: The disk takes no more.
        """
        there = []
        while self._ordered and (self._ordered[0][0] is None or self._ordered[0][0].done()):
            drawing, predicted, path = self._ordered.popleft()
            try:
                if not _drawn(drawing):
                    _draw(path, predicted, *self._curves())
            except OSError:
                raise
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                warnings.warn(f"{path.name} is not drawn ({reason})", stacklevel=2)
            else:
                there.append(path)
        return there

    def close(self) -> list[Path]:
        """Wait until everything that was ordered is drawn; return what `finished` would."""
        wait([drawing for drawing, _, _ in self._ordered if drawing])
        return self.finished()

    def _curves(self) -> tuple[Path, Path]:
        return self._folder.history, self._folder.plots / "training_curves.png"


def _submitted(
    function: Callable[P, None], *arguments: P.args, **named: P.kwargs
) -> Future[None] | None:
    """Give the process that draws something to do; None where there can be none."""
    with _LOCK:
        for _ in range(2):
            try:
                return _process().submit(function, *arguments, **named)
            except BrokenProcessPool:
                _process.cache_clear()
            except OSError:  # no further process is allowed
                return None
    return None


def _drawn(drawing: Future[None] | None) -> bool:
    """Wait for the process that draws; whether it has drawn and not died. Raise what it raised."""
    if drawing is None:
        return False
    try:
        drawing.result()
    except BrokenProcessPool:  # it was killed, perhaps for want of memory
        return False
    return True


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
    """Do nothing: to start the process and its imports is the purpose."""


def _draw(path: Path, predicted: list[PredictedCase], history: Path, curves: Path) -> None:
    """Draw a picture and the curves."""
    draw_predicted(path, predicted)
    if history.exists():
        draw_training_curves(read_epochs(history, EPOCH_METRICS), curves)
