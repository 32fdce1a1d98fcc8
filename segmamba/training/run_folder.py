"""Where a run keeps its results; nothing in it is overwritten by another run.

SegMamba_Run01/
  checkpoints/best_metric_model.pth   weights alone, best on the validation set
  checkpoints/last.pth                everything that resuming needs
  checkpoints/previous.pth            the same, of the epoch before, used where last.pth is damaged
  checkpoints/epoch_0010.pth          weights alone, every `train.keep_every_epochs`
  checkpoints/pretrained.pth          weights from pretraining, without heads; pretraining.pth
                                      while it runs
  logs/                               TensorBoard events; steps.json of a study's trial: how far its
                                      epoch is
  plots/training_curves.png, val_predictions_epoch_0010.png
  metrics/history.json                one entry per epoch
  metrics/pretraining.json            one entry per epoch of pretraining
  metrics/final_metrics.json          the test's figures, with a row per case
  config.json                         repeats the run
  execution.json                      whether a GPU trains it compiled, where that was left open
  initial_weights.json                what was taken of `learning.initial_weights`
  environment.json                    code, packages, machine, data and split that it depends on
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segmamba.config import Config
from segmamba.errors import UserError
from segmamba.files import write_text
from segmamba.json_files import read_json

EPOCH_METRICS = ("epoch", "train/loss", "train/lr", "time/train_s")
"""What every entry of history.json has, whichever version wrote it."""
PRETRAINING_METRICS = ("epoch", "time/pretrain_s")
"""The same of pretraining.json."""
GO_ON = "restore it from a copy, or start a new run without --resume"
"""What to do about a damaged file of a run."""


def next_run_folder(results: str | Path, name: str) -> Path:
    """Create results/<name>_RunNN with the next free number.

    Two processes never get the same folder.

    Args:
        results: The folder of all runs; it is created where it is missing.
        name: The name of the run.

    Returns:
        The new folder.
    """
    results = Path(results)
    results.mkdir(parents=True, exist_ok=True)
    while True:
        taken = [
            int(match[1])
            for path in results.iterdir()
            if (match := re.fullmatch(rf"{re.escape(name)}_Run(\d+)", path.name))
        ]
        folder = results / f"{name}_Run{max(taken, default=0) + 1:02d}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue  # another process took the number between the look and the mkdir
        return folder


def steps_file(root: str | Path) -> Path:
    """Return `RunFolder.steps` of the run at `root`, of which no folder is made."""
    return Path(root) / "logs" / "steps.json"


class RunFolder:
    """The paths of one run. Its folders are made on construction."""

    def __init__(self, root: str | Path) -> None:
        """Make the folders below `root`, as the head of this file lists them."""
        self.root = Path(root)
        self.checkpoints, self.logs = self.root / "checkpoints", self.root / "logs"
        self.plots, self.metrics = self.root / "plots", self.root / "metrics"
        for folder in (self.checkpoints, self.logs, self.plots, self.metrics):
            folder.mkdir(parents=True, exist_ok=True)
        self.best = self.checkpoints / "best_metric_model.pth"
        self.last = self.checkpoints / "last.pth"
        self.previous = self.checkpoints / "previous.pth"
        self.history = self.metrics / "history.json"
        self.final_metrics = self.metrics / "final_metrics.json"
        self.config = self.root / "config.json"
        self.environment = self.root / "environment.json"

    @property
    def initial_weights(self) -> Path:
        """What was taken of `learning.initial_weights`."""
        return self.root / "initial_weights.json"

    @property
    def steps(self) -> Path:
        """How far the epoch is that runs, for who watches from another process."""
        return steps_file(self.root)

    @property
    def pretraining(self) -> Path:
        """What an unfinished pretraining goes on from."""
        return self.checkpoints / "pretraining.pth"

    @property
    def pretrained(self) -> Path:
        """Weights from pretraining, without heads."""
        return self.checkpoints / "pretrained.pth"

    @property
    def pretraining_history(self) -> Path:
        """The metrics of each epoch of pretraining."""
        return self.metrics / "pretraining.json"

    def periodic(self, epoch: int) -> Path:
        """Return the path of the weights that are kept of an epoch."""
        return self.checkpoints / f"epoch_{epoch:04d}.pth"

    def val_predictions(self, epoch: int) -> Path:
        """Return the path of the picture of an epoch's worst and median validation case."""
        return self.plots / f"val_predictions_epoch_{epoch:04d}.png"

    def write_config(self, config: Config) -> None:
        """Write config.json."""
        write_text(self.config, config.to_json())

    def read_history(self, until_epoch: int) -> list[dict[str, Any]]:
        """Return the metrics of epochs 1 to `until_epoch`, each with "epoch".

        Raises:
            UserError: history.json is damaged.
        """
        entries = read_epochs(self.history, EPOCH_METRICS)
        return [entry for entry in entries if entry["epoch"] <= until_epoch]


def read_epochs(path: Path, needed: Sequence[str]) -> list[dict[str, Any]]:
    """Read a file with the metrics of each epoch.

    Args:
        path: history.json or pretraining.json.
        needed: The names that every entry must have.

    Returns:
        The entries; [] where there is no file.

    Raises:
        UserError: The file is damaged.
    """
    if not path.exists():
        return []
    entries = read_json(path, list[dict[str, int | float]], fix=GO_ON)
    for number, entry in enumerate(entries):
        if missing := [name for name in needed if name not in entry]:
            raise UserError(f'{path}: $[{number}]: "{missing[0]}" is missing; {GO_ON}')
        if not isinstance(entry["epoch"], int):
            raise UserError(f"{path}: $[{number}].epoch: expected an integer; {GO_ON}")
    return entries
