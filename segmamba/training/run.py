"""One run from start to verdict: `fit` with its run folder around it, then its test."""

import contextlib
import errno
import functools
import os
import time

import torch

from segmamba.errors import RunStopped
from segmamba.evaluation.cases import evaluate, means, predict_classes
from segmamba.files import write_json
from segmamba.models import build_model
from segmamba.training.advice import memory_advice
from segmamba.training.checkpoint import (
    load_checkpoint,
    resume_state,
    save_checkpoint,
    weights_digest,
)
from segmamba.training.drawing import NoPictures
from segmamba.training.fit import Callback, fit
from segmamba.training.plots import draw_predictions, draw_training_curves, show, worst_and_median
from segmamba.training.pretrain_run import initial_weights, read_pretraining

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


def evaluate_run(config, data, folder, device, callback=None):
    """Test the finished run in `folder` once: (metrics with test/ names, rows per case). Writes final_metrics.json and pictures.

    The checkpoint is the best on the validation set, or the last where the test set had to serve as validation set too. With `train.test_last` the
    last one is tested as well, as test/last_...; where both are the same epoch it is tested once.
    """
    callback = callback or Callback()
    started = time.perf_counter()
    model = build_model(config.model).to(device)
    last, _ = resume_state([folder.last, folder.previous], device)
    chosen = {
        "checkpoint": "best",
        "epoch": last["best_epoch"],
        "weights": functools.partial(load_checkpoint, folder.best, device),
    }
    final = {"checkpoint": "last", "epoch": last["epoch"], "weights": lambda: last["model"]}
    if data.test_is_validation:
        chosen = final
    verdicts, digests = {}, {"last": weights_digest(last["model"])}
    for verdict in (
        [chosen, final]
        if config.train.test_last and chosen["epoch"] != final["epoch"]
        else [chosen]
    ):
        weights = verdict["weights"]()
        digests[verdict["checkpoint"]] = weights_digest(weights)
        model.load_state_dict(weights)
        verdicts[verdict["epoch"]] = evaluate(model, _watched(data.test, callback), config, device)
        if verdict is chosen:
            validation = (
                (data.test, verdicts[chosen["epoch"]])
                if data.test_is_validation
                else (data.validation, last.get("best_rows", []))
            )
            _draw_validation(
                model, *validation, config, device, folder.val_predictions(chosen["epoch"])
            )
    rows = verdicts[chosen["epoch"]]
    metrics = means(rows, "test")
    if final["epoch"] in verdicts:
        metrics |= {
            name.replace("test/", "test/last_"): value
            for name, value in means(verdicts[final["epoch"]], "test").items()
        }
    metrics |= {
        "time/test_s": time.perf_counter() - started,
        "time/train_total_s": sum(e["time/train_s"] for e in folder.read_history(last["epoch"]))
        + sum(e["time/pretrain_s"] for e in read_pretraining(folder)),
        "model/parameters": float(sum(p.numel() for p in model.parameters())),
    }
    told = {
        "tested_checkpoint": chosen["checkpoint"],
        "tested_epoch": chosen["epoch"],
        "epochs": last["epoch"],
        "weights_sha256": digests,
    }
    told |= {**metrics, "cases": rows} | (
        {"last_cases": verdicts[final["epoch"]]} if final["epoch"] in verdicts else {}
    )
    write_json(folder.final_metrics, told)
    return metrics, rows


def _watched(cases, callback):
    for done, case in enumerate(cases):
        yield case
        callback.tested(done + 1)


def _resumed(config, folder, device, callback):
    """The checkpoint to go on from, or None. What the run was killed before writing out of it is written now."""
    state, damaged = resume_state([folder.last, folder.previous], device)
    for line in damaged:
        callback.note(
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
        _shown(model, data.validation, wanted, config, device), folder.val_predictions(epoch.number)
    )


def _draw_validation(model, cases, rows, config, device, path):
    """The worst and the median of `rows`, unless they were drawn while the run trained; a checkpoint of an earlier version has no rows."""
    if rows and not path.exists():
        draw_predictions(_shown(model, cases, worst_and_median(rows), config, device), path)


def _shown(model, cases, wanted, config, device):
    """What `worst_and_median` named, as the test would see it."""
    by_id = {case.id: case for case in cases}
    return [
        show(by_id[one], predict_classes(model, by_id[one], config, device), name)
        for name, one in wanted.items()
    ]


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
