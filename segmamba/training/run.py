"""One training run: `fit` with its run folder around it."""

import contextlib
import errno
import functools
import os

import torch

from segmamba.errors import RunStopped
from segmamba.files import write_json
from segmamba.models import build_model
from segmamba.training.advice import memory_advice
from segmamba.training.callback import Callback
from segmamba.training.checkpoint import resume_state, save_checkpoint
from segmamba.training.drawing import NoPictures
from segmamba.training.fit import fit
from segmamba.training.plots import draw_training_curves, worst_and_median
from segmamba.training.pretrain_run import initial_weights
from segmamba.training.run_evaluation import shown_cases

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def train_run(config, data, folder, device, callback=None, pictures=None):
    """Yield `fit`'s epochs, each after it is saved in `folder` (a RunFolder); goes on from the last good checkpoint where there is one.

    data: a Split of PreparedCases. callback: a Callback, or somebody who is told of every step. pictures: who draws while the run trains.
    Raises RunStopped where the device's memory or the disk does not suffice, and NonFiniteLoss; what was saved before stays.
    """
    callback, pictures = callback or Callback(), pictures or NoPictures()
    with _named_faults(config, folder, device):
        folder.write_config(config)
        resume_from = _resumed(config, folder, device, callback)
        done = resume_from["epoch"] if resume_from else 0
        history = folder.read_history(done)
        picture = functools.partial(_picture, config, data, folder, device, pictures)
        with _tensorboard(folder.logs, purge_step=done + 1) as events:
            initial = (
                None if resume_from else initial_weights(config, data, folder, device, callback)
            )
            for epoch in fit(config, data, device, resume_from, callback, initial):
                history.append({"epoch": epoch.number} | epoch.metrics)
                write_json(folder.history, history)
                for name, value in epoch.metrics.items():
                    events.add_scalar(name, value, epoch.number)
                _save(epoch.checkpoint, folder, config, is_best=epoch.is_best)
                picture(epoch)
                _show_pictures(events, pictures.finished(), epoch.number)
                yield epoch
            _show_pictures(events, pictures.close(), len(history))
        if history:
            draw_training_curves(history, folder.plots / "training_curves.png")


def _resumed(config, folder, device, callback):
    """The checkpoint to go on from, or None. What the run was killed before writing out of it is written now."""
    state, damaged = resume_state([folder.last, folder.previous], device)
    for line in damaged:
        callback.on_note(
            f"{line}; going on {'from the epoch before' if state else 'from the start, since there is no other'}"
        )
    if state:
        _save_copies(state, folder, config, is_best=state["best_epoch"] == state["epoch"])
    return state


def _save(checkpoint, folder, config, *, is_best):
    """last.pth first: all else follows from it, so that a run killed in between can write it again."""
    save_checkpoint(checkpoint, folder.last, previous=folder.previous)
    _save_copies(checkpoint, folder, config, is_best=is_best)


def _save_copies(checkpoint, folder, config, *, is_best):
    keep = config.train.keep_every_epochs
    if is_best:
        save_checkpoint(checkpoint["model"], folder.best)
    if keep and checkpoint["epoch"] % keep == 0:
        save_checkpoint(checkpoint["model"], folder.periodic(checkpoint["epoch"]))


@contextlib.contextmanager
def _named_faults(config, folder, device):
    """What the machine lacks, as a RunStopped that says what to do about it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunStopped(memory_advice(config, device)) from error
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise RunStopped(
            f"{folder.root}: the disk is full ({error.strerror}); the last checkpoint is whole: free space, then --resume"
        ) from error


def _picture(config, data, folder, device, pictures, epoch):
    """Order the worst and the median validation case of an epoch that is kept, the best so far or the last."""
    keep = config.train.keep_every_epochs
    if not (
        pictures.wanted
        and epoch.rows
        and (
            epoch.is_best
            or epoch.number == config.train.epochs
            or (keep and epoch.number % keep == 0)
        )
    ):
        return
    model = build_model(config.model).to(device)
    model.load_state_dict(epoch.checkpoint["model"])
    wanted = worst_and_median(epoch.rows)
    pictures.order(
        shown_cases(model, data.validation, wanted, config, device),
        folder.val_predictions(epoch.number),
    )


def _show_pictures(events, paths, epoch):
    """PNG files as they are, in TensorBoard."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    for path in paths:
        image = Summary.Image(encoded_image_string=path.read_bytes(), colorspace=4)
        events.file_writer.add_summary(
            Summary(value=[Summary.Value(tag="val/predictions", image=image)]), epoch
        )


def _tensorboard(folder, purge_step):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=purge_step)
