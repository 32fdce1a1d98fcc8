"""Pretraining with a run's folder around it, and the weights that a run starts from."""

import json

from segmamba.files import write_json
from segmamba.models.weights import load_checkpoint, without_heads
from segmamba.training.checkpoint import save_checkpoint
from segmamba.training.pretrain import pretrain


def initial_weights(config, data, folder, device, callback=None):
    """The state that a run starts from, as `start_from` takes it, or {} for the network's own initial weights.

    Pretrains first where `learning.pretrain_epochs` says so, on the images of data.train and data.unlabelled, and goes on with what an
    earlier process left in `folder`. Where `learning.initial_weights` names a file, reads that.
    """
    if config.learning.initial_weights:
        state = load_checkpoint(config.learning.initial_weights, device)
        return state.get("model", state)
    if not config.learning.pretrain_epochs:
        return {}
    for _ in pretrain_run(config, [*data.train, *data.unlabelled], folder, device, callback):
        pass
    return load_checkpoint(folder.pretrained, device)


def pretrain_run(config, cases, folder, device, callback=None):
    """Yield `pretrain`'s epochs, each after it is saved in `folder` (a RunFolder); the last one leaves `folder.pretrained`.

    Goes on from `folder.pretraining` where that exists; a finished pretraining yields nothing.
    """
    if folder.pretrained.exists():
        return
    state = load_checkpoint(folder.pretraining, device) if folder.pretraining.exists() else None
    if not state or state["epoch"] < config.learning.pretrain_epochs:
        history = read_pretraining(folder)[: state["epoch"] if state else 0]
        for epoch in pretrain(config, cases, device, state, callback):
            history.append({"epoch": epoch.number} | epoch.metrics)
            write_json(folder.pretraining_history, history)
            state = epoch.checkpoint
            save_checkpoint(state, folder.pretraining)
            yield epoch
    save_checkpoint(without_heads(state["model"]), folder.pretrained)
    folder.pretraining.unlink()


def read_pretraining(folder):
    """The metrics of all pretraining epochs so far, dicts with "epoch"; [] without pretraining."""
    return (
        json.loads(folder.pretraining_history.read_text())
        if folder.pretraining_history.exists()
        else []
    )
