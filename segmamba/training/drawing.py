"""Pictures of a run while it trains, drawn by a process of their own: the step waits for none of them."""

import json
import multiprocessing
import os
import pickle
import signal
from pathlib import Path

from segmamba.files import write_bytes
from segmamba.training.plots import draw_predictions, draw_training_curves


class NoPictures:
    """Draws nothing while a run trains."""

    def order(self, shown, path):
        """Have `shown` (a list of Shown) drawn to `path`, and the run's curves."""

    def finished(self):
        """Paths of the pictures that are there since the last call."""
        return []

    def close(self):
        """As `finished`, once everything ordered is drawn."""
        return []

    wanted = False
    """Whether `order` draws."""


class Pictures(NoPictures):
    """Draws one picture after another, each in a short-lived process, with the curves of `folder` (a RunFolder)."""

    wanted = True

    def __init__(self, folder):
        self._folder, self._waiting, self._process, self._drawing = folder, [], None, None

    def order(self, shown, path):
        pending = Path(path).with_suffix(".pending")
        write_bytes(pending, pickle.dumps(shown))
        self._waiting.append((pending, Path(path)))
        self._next()

    def finished(self):
        done = []
        if self._process is not None and not self._process.is_alive():
            self._process.join()
            done = [self._drawing] if self._drawing.exists() else []
            self._process = None
        self._next()
        return done

    def close(self):
        done = []
        while self._process is not None or self._waiting:
            self._process.join()
            done += self.finished()
        return done

    def _next(self):
        if self._process is None and self._waiting:
            pending, self._drawing = self._waiting.pop(0)
            curves = self._folder.plots / "training_curves.png"
            arguments = (pending, self._drawing, self._folder.history, curves)
            self._process = multiprocessing.get_context("spawn").Process(
                target=_draw, args=arguments
            )
            self._process.start()


def _draw(pending, path, history, curves):
    """Of a run's own making, so that unpickling it is safe; it takes second place where cores are few."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the run, which waits for its pictures
    if hasattr(os, "nice"):
        os.nice(10)
    draw_predictions(pickle.loads(pending.read_bytes()), path)
    pending.unlink(missing_ok=True)
    if history.exists():
        draw_training_curves(json.loads(history.read_text()), curves)
