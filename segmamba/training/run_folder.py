"""Where a run keeps what it made; never overwritten.

SegMamba_Run01/
  checkpoints/best_metric_model.pth   weights alone, best on the validation set
  checkpoints/last.pth                everything that resuming needs
  checkpoints/previous.pth            the same, of the epoch before: what is gone on from where last.pth is damaged
  checkpoints/epoch_0010.pth          weights alone, every `train.keep_every_epochs`
  checkpoints/pretrained.pth          weights that pretraining made, without heads; pretraining.pth while it runs
  logs/                               TensorBoard events
  plots/training_curves.png, val_predictions_epoch_0010.png
  metrics/history.json                one entry per epoch
  metrics/pretraining.json            one entry per epoch of pretraining
  metrics/final_metrics.json          the test's figures, with a row per case
  config.json                         repeats the run
  environment.json                    code, packages, machine, data and split that it depends on
"""

import json
import re
from pathlib import Path

from segmamba.files import write_text


def next_run_folder(results, name):
    """Create and return results/<name>_RunNN with the next free number; two processes never get the same."""
    results = Path(results)
    results.mkdir(parents=True, exist_ok=True)
    while True:
        taken = [
            int(m[1])
            for p in results.iterdir()
            if (m := re.fullmatch(rf"{re.escape(name)}_Run(\d+)", p.name))
        ]
        folder = results / f"{name}_Run{max(taken, default=0) + 1:02d}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue  # another process took the number between the look and the mkdir
        return folder


class RunFolder:
    """The paths of one run; its folders are made on construction."""

    def __init__(self, root):
        self.root = Path(root)
        self.checkpoints, self.logs = self.root / "checkpoints", self.root / "logs"
        self.plots, self.metrics = self.root / "plots", self.root / "metrics"
        for folder in (self.checkpoints, self.logs, self.plots, self.metrics):
            folder.mkdir(parents=True, exist_ok=True)
        self.best, self.last = (
            self.checkpoints / "best_metric_model.pth",
            self.checkpoints / "last.pth",
        )
        self.previous = self.checkpoints / "previous.pth"
        self.history, self.final_metrics = (
            self.metrics / "history.json",
            self.metrics / "final_metrics.json",
        )
        self.config, self.environment = self.root / "config.json", self.root / "environment.json"

    @property
    def pretraining(self):
        """All that resuming an unfinished pretraining needs."""
        return self.checkpoints / "pretraining.pth"

    @property
    def pretrained(self):
        """Weights that pretraining made, without heads."""
        return self.checkpoints / "pretrained.pth"

    @property
    def pretraining_history(self):
        return self.metrics / "pretraining.json"

    def periodic(self, epoch):
        return self.checkpoints / f"epoch_{epoch:04d}.pth"

    def val_predictions(self, epoch):
        return self.plots / f"val_predictions_epoch_{epoch:04d}.png"

    def write_config(self, config):
        write_text(self.config, config.to_json())

    def read_history(self, until_epoch):
        """The metrics of epochs 1 .. until_epoch, a list of dicts with "epoch"."""
        entries = json.loads(self.history.read_text()) if self.history.exists() else []
        return [e for e in entries if e["epoch"] <= until_epoch]
