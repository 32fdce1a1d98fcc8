"""Who watches one training run from its preparation to its end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from segmamba.screen import Progress, no_progress
from segmamba.training.callback import Callback

if TYPE_CHECKING:
    import torch

    from segmamba.config import Config
    from segmamba.data.splits import Split
    from segmamba.training.fit import Epoch
    from segmamba.training.run_folder import RunFolder


class RunObserver(Callback):
    """Watches a run as a Callback does, and the run as a whole. Its methods do nothing."""

    def say(self, message: str) -> None:
        """Show one line."""

    def steps(self, label: str) -> Progress:
        """Return what shows the progress of one piece of the preparation."""
        return no_progress

    def on_begin(
        self, folder: RunFolder, config: Config, device: torch.device, data: Split, source: str
    ) -> None:
        """Take note that everything is ready.

        Args:
            folder: Of the run.
            config: What is trained.
            device: What trains it.
            data: The cases of its sets.
            source: The data set in words.
        """

    def on_epoch(self, epoch: Epoch) -> None:
        """Take note that an epoch is saved."""

    @contextlib.contextmanager
    def stop_explains_errors(self) -> Iterator[None]:
        """While the block runs, an error that a stop has caused is raised as the stop itself."""
        yield
