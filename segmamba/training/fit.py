"""The training loop on one device, as a generator of epochs. It knows nothing of who logs, reports or stops.

Legend: B patches in a batch, C = 4 modalities, (D, H, W) the patch = NIfTI (x, y, z).
"""

import time
from dataclasses import dataclass
from functools import partial

import torch

from segmamba.data.augment import augment, plan
from segmamba.data.feed import DeviceFeed
from segmamba.data.loader import batches
from segmamba.device import autocast, mixed_dtype
from segmamba.evaluation.cases import means, validate
from segmamba.models import build_model, decay_groups
from segmamba.training.randomness import random_state, seed_everything, set_random_state
from segmamba.training.schedule import learning_rate
from segmamba.training.step import forward_loss


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite. The last checkpoint is from the epoch before."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave."""

    number: int
    """From 1."""
    metrics: dict
    """train/..., time/... and, where minival was evaluated, val/... ."""
    is_best: bool
    """Whether minival's mean Dice is the best so far."""
    rows: list
    """minival's scores per case; empty where it was not evaluated."""
    checkpoint: dict
    """All that `resume_from` needs, "model" being the weights. Holds live tensors: save it before the next epoch is asked for."""


class Nobody:
    """Who watches a run gets these calls, and may raise in any of them to end it there."""

    def step(self, epoch, done):
        """`done` optimiser steps of the epoch are behind us."""

    def case(self, epoch, done):
        """`done` minival cases are evaluated."""


def fit(config, data, device, resume_from=None, watch=None):
    """Train on data.train and choose on data.minival (PreparedCases); yields one Epoch after another.

    Ends after `train.epochs`, or after `train.early_stop_epochs` without a better minival Dice.
    `resume_from` is an Epoch's checkpoint, as loaded from a file; `watch` is a Nobody, or somebody. Raises NonFiniteLoss.
    """
    watch = watch or Nobody()
    seed_everything(config.seed, config.train.deterministic)
    model = build_model(config.model).to(device)
    decayed, undecayed = decay_groups(model)
    groups = [{"params": decayed, "weight_decay": config.optim.weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.optim.lr, betas=config.optim.betas, fused=device.type == "cuda")
    dtype = mixed_dtype(device, config.train.precision)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    done, best, best_epoch = 0, -1.0, 0
    if resume_from:
        model.load_state_dict(resume_from["model"])
        optimizer.load_state_dict(resume_from["optimizer"])
        scaler.load_state_dict(resume_from["scaler"])
        done, best, best_epoch = resume_from["epoch"], resume_from["best"], resume_from["best_epoch"]
        set_random_state(resume_from["random"])

    stream = DeviceFeed(batches(data.train, config, first_epoch=done + 1, pin_memory=device.type == "cuda"), device)
    step = partial(_train_step, model, forward_loss(model, config, device), optimizer, scaler, config, device, dtype)
    for number in range(done + 1, config.train.epochs + 1):
        if config.train.early_stop_epochs and number - 1 - best_epoch >= config.train.early_stop_epochs:
            return
        started = time.perf_counter()
        metrics = _train_epoch(step, stream, number, config, device, watch)
        trained = time.perf_counter()
        metrics["time/train_s"] = trained - started
        metrics["time/data_wait_share"] = stream.waited_s() / (trained - started)
        metrics["time/patches_per_s"] = config.train.steps_per_epoch * config.train.accumulation * config.train.batch_size / (trained - started)
        rows, is_best = [], False
        if number % config.train.validate_every_epochs == 0 or number == config.train.epochs:
            rows = validate(model, _watched(data.minival, number, watch), config, device)
            metrics |= means(rows, "val")
            metrics["time/validate_s"] = time.perf_counter() - trained
            is_best = metrics["val/dice_mean"] > best
            if is_best:
                best, best_epoch = metrics["val/dice_mean"], number
        if best_epoch:
            metrics["val/best_dice_mean"] = best
        if device.type == "cuda":
            metrics["memory/gpu_peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
            torch.cuda.reset_peak_memory_stats(device)
        checkpoint = {
            "model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(),
            "epoch": number, "best": best, "best_epoch": best_epoch, "random": random_state(),
        }  # fmt: skip
        yield Epoch(number, metrics, is_best, rows, checkpoint)


def _watched(cases, number, watch):
    for done, case in enumerate(cases):
        yield case
        watch.case(number, done + 1)


def _train_epoch(step, stream, number, config, device, watch):
    """`steps_per_epoch` optimiser steps; the epoch's train/ metrics."""
    train = config.train
    losses, names, on_tumour, with_tumour = [], [], 0, torch.zeros((), device=device)
    for i in range(train.steps_per_epoch):
        rate = learning_rate((number - 1) * train.steps_per_epoch + i, config)
        micro_batches = [next(stream) for _ in range(train.accumulation)]
        loss, tumour_patches = step(micro_batches, rate)
        losses.append(loss)
        names.append([case for batch in micro_batches for case in batch.cases])
        on_tumour += sum(int(batch.on_tumour.sum()) for batch in micro_batches)
        with_tumour += tumour_patches
        watch.step(number, i + 1)
    values = torch.stack(losses).cpu()  # one wait for the device an epoch, not one a step
    if not values.isfinite().all():
        bad = int((~values.isfinite()).nonzero()[0, 0])
        raise NonFiniteLoss(f"epoch {number}, step {bad + 1}: the loss is {values[bad]:g}; the batch held {', '.join(names[bad])}")
    patches = train.steps_per_epoch * train.accumulation * train.batch_size
    return {
        "train/loss": float(values.mean()),
        "train/lr": rate,
        "train/tumour_centre_share": on_tumour / patches,
        "train/tumour_patch_share": float(with_tumour) / patches,
    }


def _train_step(model, compute, optimizer, scaler, config, device, dtype, micro_batches, rate):
    """One optimiser step over the micro-batches: (mean loss, number of patches that contain tumour), both on the device."""
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = rate
    total, with_tumour = torch.zeros((), device=device), torch.zeros((), device=device)
    for batch in micro_batches:
        image, label = batch.image, batch.label  # (B, C, D, H, W), (B, D, H, W)
        plans = [plan(config.augment, config.seed, int(e), int(i), image.shape[1]) for e, i in zip(batch.epoch, batch.index, strict=True)]
        image, label = augment(image, label, plans)
        with autocast(device, dtype):
            loss = compute(image, label) / len(micro_batches)
        scaler.scale(loss).backward()
        total += loss.detach()
        with_tumour += label.flatten(1).any(1).sum()
    if config.optim.clip_norm:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return total, with_tumour
