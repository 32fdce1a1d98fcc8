"""Pretraining with a run's folder around it."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from segmamba.config import Config
from segmamba.data.preprocess import PreparedCase
from segmamba.files import write_json
from segmamba.leftovers import remove_leftovers
from segmamba.models.transfer import without_heads
from segmamba.models.weights import load_checkpoint
from segmamba.training.callback import Callback
from segmamba.training.checkpoint import (
    PRETRAINING_NEEDED,
    check_resumable,
    save_checkpoint,
)
from segmamba.training.pretrain import PretrainingEpoch, pretrain
from segmamba.training.run_folder import PRETRAINING_METRICS, RunFolder, read_epochs


def pretrain_run(
    config: Config,
    cases: Sequence[PreparedCase],
    folder: RunFolder,
    device: torch.device,
    *,
    callback: Callback | None = None,
) -> Iterator[PretrainingEpoch]:
    """Pretrain in a run's folder, from `folder.pretraining` on where that exists.

    The last epoch leaves `folder.pretrained`. A finished pretraining yields nothing.

    Args:
        config: The configuration of the run.
        cases: The cases whose images are learnt from.
        folder: The folder of the run.
        device: Where to train.
        callback: Watches the run.

    Yields:
        The epochs of `pretrain`, each after it is saved.
    """
    if folder.pretrained.exists():
        return
    remove_leftovers(folder.root, *folder.root.glob("*/"))
    state = None
    if folder.pretraining.exists():
        state = load_checkpoint(folder.pretraining, device)
        check_resumable(state, folder.pretraining, PRETRAINING_NEEDED)
    if not state or state["epoch"] < config.learning.pretrain_epochs:
        history = read_pretraining(folder)[: state["epoch"] if state else 0]
        for epoch in pretrain(config, cases, device, resume_from=state, callback=callback):
            history.append({"epoch": epoch.number} | epoch.metrics)
            write_json(folder.pretraining_history, history)
            state = epoch.checkpoint
            save_checkpoint(state, folder.pretraining)
            yield epoch
    assert state is not None
    save_checkpoint(without_heads(state["model"]), folder.pretrained)
    folder.pretraining.unlink()


def read_pretraining(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the metrics of all pretraining epochs so far, each with "epoch"; [] without any."""
    return read_epochs(folder.pretraining_history, PRETRAINING_METRICS)
