"""The training loop on one device, as a generator of epochs. It knows nothing of who logs, reports or stops.

Legend: B patches in a batch, C = 4 modalities, (D, H, W) the patch = NIfTI (x, y, z).
"""

import time
from dataclasses import dataclass
from typing import Any

import torch

from segmamba.data.augment import augment, plan
from segmamba.data.loader import patches_per_epoch
from segmamba.errors import RunStopped
from segmamba.evaluation.cases import means, validate
from segmamba.models import build_model
from segmamba.models.weights import start_from
from segmamba.training.callback import Callback
from segmamba.training.ema import averaged
from segmamba.training.hard_cases import training_cases
from segmamba.training.mean_teacher import teacher
from segmamba.training.optim import Optimizer, learning_rate
from segmamba.training.randomness import random_state, seed_everything, set_random_state
from segmamba.training.step import forward_loss


class NonFiniteLoss(RunStopped):
    """The loss became NaN or infinite. The last checkpoint is from the epoch before."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave."""

    number: int
    """From 1."""
    metrics: dict
    """train/..., time/... and, where the validation set was evaluated, val/... ."""
    is_best: bool
    """Whether the validation set's mean Dice is the best so far."""
    rows: list
    """The validation set's scores per case; empty where it was not evaluated."""
    checkpoint: dict
    """All that `resume_from` needs, "model" being the weights that were validated. Holds live tensors: save it before the next epoch is
    asked for."""


@dataclass(frozen=True)
class Learner:
    """What an epoch moves. Parts that the configuration has off are null objects, which do nothing."""

    model: torch.nn.Module
    compute: Any
    """(image, label) to (loss, loss of each patch): the model and its loss, perhaps compiled."""
    descent: Optimizer
    average: Any
    """Its `model` is validated, kept and tested: the trained one, or its moving average."""
    cases: Any
    """Gives every epoch its stream of batches."""
    teacher: Any
    """Adds what unlabelled cases teach."""


def fit(config, data, device, resume_from=None, callback=None, initial=None):
    """Train on data.train and choose on data.validation (PreparedCases); yields one Epoch after another.

    Ends after `train.epochs`, or after `train.early_stop_epochs` without a better validation Dice.
    `resume_from` is an Epoch's checkpoint, as loaded from a file; `callback` is a Callback, or somebody; `initial`, weights to start
    from. Raises NonFiniteLoss.
    """
    callback = callback or Callback()
    seed_everything(config.seed, config.train.deterministic)
    model = build_model(config.model).to(device)
    if initial:
        start_from(model, initial, config.learning.initial_weights or "pretrained weights")
    done, best, best_epoch, best_rows = 0, -1.0, 0, []
    if resume_from:
        model.load_state_dict(resume_from["trained"])
        done, best, best_epoch = (
            resume_from["epoch"],
            resume_from["best"],
            resume_from["best_epoch"],
        )
        best_rows = resume_from.get("best_rows", [])  # of a checkpoint of an earlier version: none
    average = averaged(model, config.learning)
    unlabelled = teacher(model, average, data.unlabelled, config, device, first_epoch=done + 1)
    learner = Learner(
        model,
        forward_loss(model, config, device),
        Optimizer(model, config, device),
        average,
        training_cases(data.train, config, device),
        unlabelled,
    )
    if resume_from:
        average.model.load_state_dict(resume_from["model"])
        learner.descent.load_state_dict(resume_from)
        learner.cases.load_state_dict(resume_from["cases"])
        set_random_state(resume_from["random"])

    for number in range(done + 1, config.train.epochs + 1):
        if (
            config.train.early_stop_epochs
            and number - 1 - best_epoch >= config.train.early_stop_epochs
        ):
            return
        started = time.perf_counter()
        metrics, waited_s = _train_epoch(learner, number, config, device, callback)
        trained = time.perf_counter()
        metrics["time/train_s"] = trained - started
        metrics["time/data_wait_share"] = waited_s / (trained - started)
        metrics["time/patches_per_s"] = patches_per_epoch(config.train) / (trained - started)
        rows, is_best = [], False
        if number % config.train.validate_every_epochs == 0 or number == config.train.epochs:
            rows = validate(
                average.model, _watched(data.validation, number, callback), config, device
            )
            metrics |= means(rows, "val")
            metrics["time/validate_s"] = time.perf_counter() - trained
            is_best = metrics["val/dice_mean"] > best
            if is_best:
                best, best_epoch, best_rows = metrics["val/dice_mean"], number, rows
        if best_epoch:
            metrics["val/best_dice_mean"] = best
        if device.type == "cuda":
            metrics["memory/gpu_peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
            torch.cuda.reset_peak_memory_stats(device)
        checkpoint = {
            "model": average.model.state_dict(),
            "trained": model.state_dict(),
            **learner.descent.state_dict(),
            "cases": learner.cases.state_dict(),
            "epoch": number,
            "best": best,
            "best_epoch": best_epoch,
            "best_rows": best_rows,
            "random": random_state(),
        }
        yield Epoch(number, metrics, is_best, rows, checkpoint)


def _watched(cases, number, callback):
    for done, case in enumerate(cases):
        yield case
        callback.on_validation_case(number, done + 1)


def _train_epoch(learner, number, config, device, callback):
    """`steps_per_epoch` optimiser steps: (the epoch's train/ metrics, seconds spent waiting for data)."""
    train, stream = config.train, learner.cases.stream(number)
    losses, patch_losses, names, on_tumour, with_tumour = (
        [],
        [],
        [],
        0,
        torch.zeros((), device=device),
    )
    for i in range(train.steps_per_epoch):
        step = (number - 1) * train.steps_per_epoch + i
        micro_batches = [next(stream) for _ in range(train.accumulation)]
        loss, each, tumour_patches = _train_step(learner, micro_batches, step, config, device)
        losses.append(loss)
        patch_losses.append(each)
        names.append([case for batch in micro_batches for case in batch.cases])
        on_tumour += sum(int(batch.on_tumour.sum()) for batch in micro_batches)
        with_tumour += tumour_patches
        callback.on_step(number, i + 1)
    values = torch.stack(losses).cpu()  # one wait for the device an epoch, not one a step
    if not values.isfinite().all():
        bad = int((~values.isfinite()).nonzero()[0, 0])
        raise NonFiniteLoss(
            f"epoch {number}, step {bad + 1}: the loss is {values[bad]:g}; the batch held {', '.join(names[bad])}"
        )
    learner.cases.remember(
        [case for step_names in names for case in step_names], torch.cat(patch_losses).cpu()
    )
    metrics = {
        "train/loss": float(values.mean()),
        "train/lr": learning_rate(step, config),
        "train/tumour_centre_share": on_tumour / patches_per_epoch(train),
        "train/tumour_patch_share": float(with_tumour) / patches_per_epoch(train),
    }
    return metrics | learner.teacher.metrics(), stream.waited_s()


def _train_step(learner, micro_batches, step, config, device):
    """One optimiser step over the micro-batches: (mean loss, loss of each patch, number of patches that contain tumour), on the device."""
    learner.model.train()
    total, each, with_tumour = torch.zeros((), device=device), [], torch.zeros((), device=device)
    for batch in micro_batches:
        image, label = batch.image, batch.label  # (B, C, D, H, W), (B, D, H, W)
        plans = [
            plan(config.augment, config.seed, int(e), int(i), image.shape[1])
            for e, i in zip(batch.epoch, batch.index, strict=True)
        ]
        image, label = augment(image, label, plans)
        with learner.descent.autocast():
            loss, patch_losses = learner.compute(image, label)
        loss = loss / len(micro_batches)
        learner.descent.backward(loss)
        total += loss.detach()
        each.append(patch_losses.clone())  # a CUDA graph writes the next ones to the same place
        with_tumour += label.flatten(1).any(1).sum()
        learner.teacher.teach(learner.descent, step, 1 / len(micro_batches))
    learner.descent.step(learning_rate(step, config))
    learner.average.update(step)
    return total, torch.cat(each), with_tumour
