"""A training run that a tracker sees: trained, tested, and everything of it logged.

`segmamba train` and every trial of a study are this one run. Whoever owns it opens its log, decides
what an epoch is told to besides, and gives the run its final status.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from segmamba.config import Config
from segmamba.data.splits import Split, with_training_share
from segmamba.evaluation.behind import Aside
from segmamba.leftovers import remove_leftovers
from segmamba.orchestration.tracking.log import WEIGHTS_TAG, Log
from segmamba.training.callback import Callback
from segmamba.training.drawing import NoPictures, PictureDrawer
from segmamba.training.final_metrics import FinalMetrics, read_final_metrics
from segmamba.training.fit import Checkpoint, Epoch
from segmamba.training.run import train_run
from segmamba.training.run_evaluation import evaluate_run
from segmamba.training.run_folder import RunFolder
from segmamba.training.saving import Saver
from segmamba.training.step_file import StepFile

OF_EPOCH = re.compile(r"(.+)_epoch_(\d+)\.png")
"""How the pictures of epochs are called: series, epoch."""


@dataclass
class TrackedRun:
    """A run in its folder, on a device, with its log."""

    data: Split
    folder: RunFolder
    device: torch.device
    log: Log
    callback: Callback | None = None
    """Watches the run; None writes where it is to `RunFolder.steps`."""
    _shown: set[tuple[Path, int]] = field(default_factory=set)
    """Pictures that the log has."""
    _looking: threading.Lock = field(default_factory=threading.Lock)
    _aside: Aside = field(init=False)
    _trained: Checkpoint | None = None
    """That of the last epoch, from there to the end of the test."""
    _wait: Callable[[], None] | None = None
    """Waits for the saver, once the last epoch is trained."""

    def __post_init__(self) -> None:
        self._aside = Aside(self.device, after=self._log_pictures)

    def begin(self, config: Config) -> None:
        """Log the cases that the run learns from, and the files that the folder holds already."""
        remove_leftovers(self.folder.root, *self.folder.root.glob("*/"))
        self.log.log_data(with_training_share(self.data, config))
        self.log.log_files([self.folder.config, self.folder.environment], None)

    def train(
        self,
        config: Config,
        pictures: PictureDrawer | None = None,
        saver: Saver | None = None,
    ) -> Iterator[Epoch]:
        """Train to the end of `config`, from the folder's checkpoint where there is one.

        Args:
            config: What to train.
            pictures: Draws validation cases beside the training; None draws none.
            saver: When checkpoints are written; None writes them at once.

        Yields:
            Every epoch, once it is logged and, as `train_run` says, saved. When the iterator ends,
            the last checkpoint may still be written and the curves drawn: `test` or `settle`
            follows.
        """
        sent = 0
        for epoch in train_run(
            config,
            self.data,
            self.folder,
            self.device,
            self._callback(config),
            pictures or NoPictures(),
            saver,
            self._aside,
            self._put_off,
        ):
            self._trained = epoch.checkpoint
            # With what was saved before, should the process have died before the log had it.
            history = self.folder.read_history(epoch.number)
            self.log.log_history(history[sent:])
            sent = len(history)
            self._log_pictures()
            yield epoch
        if self.folder.initial_weights.exists():
            self.log.log_files([self.folder.initial_weights], None)
        self.log.log_history(self.folder.read_history(config.train.epochs))
        self._log_pictures()

    def test(self, config: Config) -> FinalMetrics:
        """Test the trained run, unless its folder has the result already, and log what came of it.

        Returns:
            What final_metrics.json holds.
        """
        try:
            final = read_final_metrics(self.folder.final_metrics) or evaluate_run(
                config,
                self.data,
                self.folder,
                self.device,
                self._callback(config),
                self._aside,
                self._trained,
                self._saved,
            )
        except BaseException:
            with contextlib.suppress(Exception):  # the test's failure is the reason that counts
                self.settle()
            raise
        self._trained = None
        self.log.log_metrics(final.metrics, final.epochs)
        self.log.log_tags(
            {f"{WEIGHTS_TAG}{which}": digest for which, digest in final.weights_sha256.items()}
        )
        self.log.log_test_cases(final.cases_with_last())
        self.log.log_files([self.folder.final_metrics], None)
        self.settle()
        return final

    def settle(self) -> None:
        """Wait until all is saved, and all pictures are drawn and logged."""
        try:
            self._saved()
        finally:
            self._aside.settle()
            self._log_pictures()

    def _put_off(self, wait: Callable[[], None]) -> None:
        """Leave the last checkpoint to its saver while the test begins."""
        self._wait = wait

    def _saved(self) -> None:
        """Wait until the checkpoints are on the disk."""
        wait, self._wait = self._wait, None
        if wait:
            wait()

    def _callback(self, config: Config) -> Callback:
        return self.callback or StepFile(
            self.folder.steps,
            steps=config.train.steps_per_epoch,
            patches=config.train.batch_size * config.train.accumulation,
            validation=len(self.data.validation),
            test=len(self.data.test),
        )

    def _log_pictures(self) -> None:
        """Log the pictures that are new or were drawn again; those of epochs as a series."""
        with self._looking:  # the thread that draws looks, too
            pictures = {(path, path.stat().st_mtime_ns) for path in self.folder.plots.glob("*.png")}
            for path in sorted(path for path, _ in pictures - self._shown):
                if of_epoch := OF_EPOCH.fullmatch(path.name):
                    self.log.log_picture(path, of_epoch[1], int(of_epoch[2]))
                else:
                    self.log.log_files([path], "plots")
            self._shown = pictures
