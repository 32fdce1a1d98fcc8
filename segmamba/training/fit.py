"""The training loop on one device, as a generator of epochs.

The loop knows nothing of MLflow, Ray or files: whoever iterates over it logs, saves and stops.

Legend: B patches in a batch, C = 4 modalities, (D, H, W) the patch = NIfTI (x, y, z).
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from segmamba.config import Config
from segmamba.config.rules import require
from segmamba.data.augment import augment, draw_augmentation
from segmamba.data.label_sets import label_set
from segmamba.data.loader import Batch, patches_per_epoch
from segmamba.data.prefetch import Say
from segmamba.data.splits import Split
from segmamba.errors import RunStopped, UserError
from segmamba.evaluation.cases import CaseScores, Validator, means
from segmamba.models import build_model
from segmamba.training.callback import Callback
from segmamba.training.compiling import computing
from segmamba.training.ema import WeightAverage, weight_average
from segmamba.training.hard_cases import CaseSampling, case_sampling
from segmamba.training.mean_teacher import Teacher, make_teacher
from segmamba.training.optim import Optimizer, learning_rate
from segmamba.training.randomness import random_state, seed_everything, set_random_state
from segmamba.training.step import ForwardLoss, LossFunction

Checkpoint = dict[str, Any]
"""Plain tensors, numbers and strings from which a run goes on."""


class NonFiniteLoss(RunStopped):
    """The loss became NaN or infinite. The last checkpoint is from the epoch before."""


@dataclass(frozen=True)
class Epoch:
    """The result of one epoch."""

    number: int
    """From 1."""
    metrics: dict[str, float]
    """train/..., time/... and, where the validation set was evaluated, val/... ."""
    is_best: bool
    """Whether the validation set's mean Dice is the best so far."""
    rows: list[CaseScores]
    """The validation set's scores per case; empty where it was not evaluated."""
    checkpoint: Checkpoint
    """What `fit` needs to go on, "model" being the weights that were validated. It holds live
    tensors: save it before the next epoch is asked for."""


@dataclass(frozen=True)
class Learner:
    """What an epoch trains. The parts that the configuration switches off do nothing."""

    model: torch.nn.Module
    forward_loss: LossFunction
    """The model and its loss as one function, perhaps compiled."""
    optimizer: Optimizer
    average: WeightAverage
    sampling: CaseSampling
    teacher: Teacher


@dataclass
class Best:
    """The best epoch so far by the validation set's mean Dice."""

    dice: float = -1.0
    """In [0, 1]; -1 before the first validation."""
    epoch: int = 0
    """From 1; 0 before the first validation."""
    rows: list[CaseScores] = field(default_factory=list)
    """The validation set's scores per case in that epoch."""


def fit(
    config: Config,
    data: Split,
    device: torch.device,
    *,
    resume_from: Checkpoint | None = None,
    start: Callable[[torch.nn.Module], None] | None = None,
    callback: Callback | None = None,
) -> Iterator[Epoch]:
    """Train on data.train and choose the best epoch on data.validation.

    Training ends after `train.epochs`, or after `train.early_stop_epochs` without a better
    validation Dice.

    Args:
        config: The configuration of the run.
        data: A Split of PreparedCases.
        device: Where to train.
        resume_from: The checkpoint of an Epoch, as loaded from a file, to go on from.
        start: Gives the network its first weights, in place; None leaves those it is built with.
        callback: Watches the run.

    Yields:
        One Epoch after another.

    Raises:
        NonFiniteLoss: The loss became NaN or infinite.
        UserError: The cases have other classes than the network, or the configuration asks for
            images that are normalised in another way.
    """
    _check_cases(config, data)
    callback = callback or Callback()
    seed_everything(config.seed, deterministic=config.train.deterministic)
    with computing(ForwardLoss(build_model(config.model), config), config, device) as (
        network,
        forward_loss,
    ):
        if start:
            start(network.model)
        learner, done, best = _begin(
            network.model, forward_loss, config, data, device, resume_from, _once(callback.on_note)
        )
        yield from _epochs(learner, done, best, config, data, device, callback)


def _epochs(
    learner: Learner,
    done: int,
    best: Best,
    config: Config,
    data: Split,
    device: torch.device,
    callback: Callback,
) -> Iterator[Epoch]:
    """Yield the epochs after the first `done`."""
    validator = Validator(config, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # of the trial before in this process
    for epoch in range(done + 1, config.train.epochs + 1):
        early_stop = config.train.early_stop_epochs
        if early_stop and epoch - 1 - best.epoch >= early_stop:
            return

        started = time.perf_counter()
        metrics = _train_epoch(learner, epoch, config, device, callback)
        trained = time.perf_counter()
        metrics["time/train_s"] = trained - started
        metrics["time/data_wait_share"] = metrics.pop("time/data_wait_s") / (trained - started)
        metrics["time/patches_per_s"] = patches_per_epoch(config.train) / (trained - started)

        rows: list[CaseScores] = []
        is_best = False
        if epoch % config.train.validate_every_epochs == 0 or epoch == config.train.epochs:
            for row in validator.scores(learner.average.model, data.validation):
                rows.append(row)
                callback.on_validation_case(epoch, len(rows))
            metrics |= means(rows, "val")
            metrics["time/validate_s"] = time.perf_counter() - trained
            is_best = metrics["val/dice_mean"] > best.dice
            if is_best:
                best = Best(metrics["val/dice_mean"], epoch, rows)
        if best.epoch:
            metrics["val/best_dice_mean"] = best.dice
        if device.type == "cuda":
            metrics["memory/gpu_peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
            torch.cuda.reset_peak_memory_stats(device)

        yield Epoch(epoch, metrics, is_best, rows, _checkpoint(learner, epoch, best))


def _check_cases(config: Config, data: Split) -> None:
    """Raise UserError where a case's labels or images are not what the network is to learn."""
    require(
        config.inference.normalise_over == "brain",
        "inference.normalise_over",
        config.inference.normalise_over,
        "a network that is trained here takes images z-scored over the brain",
    )
    wanted = label_set(config.model.classes).name
    for case in (*data.train, *data.validation):
        if case.classes_of != wanted:
            raise UserError(
                f"{case.id}: its labels are of the classes {case.classes_of}, and the network "
                f"predicts {wanted}; set model.classes={case.classes_of}"
            )


def _train_epoch(
    learner: Learner, epoch: int, config: Config, device: torch.device, callback: Callback
) -> dict[str, float]:
    """Take `train.steps_per_epoch` optimiser steps; return the epoch's train/ metrics.

    "time/data_wait_s" among them is the time spent waiting for data.
    """
    train = config.train
    stream = learner.sampling.stream(epoch)
    totals = _EpochTotals(device)
    learner.model.train()
    for i in range(train.steps_per_epoch):
        step = (epoch - 1) * train.steps_per_epoch + i
        batches = [next(stream) for _ in range(train.accumulation)]
        mean_loss = torch.zeros((), device=device)
        for batch in batches:
            image, label = augmented(batch, config)  # (B, C, D, H, W), (B, D, H, W)
            with learner.optimizer.autocast():
                loss, patch_losses = learner.forward_loss(image, label)  # (), (B,)
            loss = loss / train.accumulation
            learner.optimizer.backward(loss)
            mean_loss += loss.detach()
            totals.add_batch(batch, label, patch_losses)
            learner.teacher.teach(learner.optimizer, step, share=1 / train.accumulation)
        learner.optimizer.step(learning_rate(step, config))
        learner.average.update(step)
        totals.add_step(mean_loss, batches)
        callback.on_step(epoch, i + 1)
    losses = totals.finite_losses(epoch)
    learner.sampling.remember(totals.case_ids, torch.cat(totals.patch_losses).cpu())
    metrics = {
        "train/loss": float(losses.mean()),
        "train/lr": learning_rate(step, config),
        "train/tumour_centre_share": totals.tumour_centres / patches_per_epoch(train),
        "train/tumour_patch_share": float(totals.tumour_patches) / patches_per_epoch(train),
    }
    return metrics | learner.teacher.metrics() | {"time/data_wait_s": stream.waited_s()}


class _EpochTotals:
    """What the patches of an epoch showed. Losses stay on the device until the epoch's end."""

    def __init__(self, device: torch.device) -> None:
        self.losses: list[torch.Tensor] = []
        self.step_cases: list[list[str]] = []
        self.patch_losses: list[torch.Tensor] = []
        self.tumour_centres = 0
        self.tumour_patches = torch.zeros((), device=device)

    def add_batch(self, batch: Batch, label: torch.Tensor, patch_losses: torch.Tensor) -> None:
        """Add a micro-batch: its augmented label (B, D, H, W) and the loss of each patch (B,)."""
        self.patch_losses.append(patch_losses.clone())  # a CUDA graph writes the next ones there
        self.tumour_centres += int(batch.on_tumour.sum())
        self.tumour_patches += label.flatten(1).any(1).sum()

    def add_step(self, loss: torch.Tensor, batches: list[Batch]) -> None:
        """Add an optimiser step: its mean loss () and the batches that it was taken on."""
        self.losses.append(loss)
        self.step_cases.append([case for batch in batches for case in batch.cases])

    @property
    def case_ids(self) -> list[str]:
        """The case of every patch, in the order of `patch_losses`."""
        return [case for cases in self.step_cases for case in cases]

    def finite_losses(self, epoch: int) -> torch.Tensor:
        """Return the losses of the steps, (steps,), on the CPU. Raises NonFiniteLoss."""
        losses = torch.stack(self.losses).cpu()  # waits for the device once an epoch, not each step
        if not losses.isfinite().all():
            first = int((~losses.isfinite()).nonzero()[0, 0])
            raise NonFiniteLoss(
                f"epoch {epoch}, step {first + 1}: the loss is {losses[first]:g}; "
                f"the batch held {', '.join(self.step_cases[first])}"
            )
        return losses


def augmented(batch: Batch, config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment each patch by its own plan.

    Args:
        batch: On the device.
        config: The configuration of the run.

    Returns:
        image (B, C, D, H, W) and label (B, D, H, W).
    """
    plans = [
        draw_augmentation(config.augment, config.seed, int(e), int(i), batch.image.shape[1])
        for e, i in zip(batch.epoch, batch.index, strict=True)
    ]
    return augment(batch.image, batch.label, plans)


def _begin(
    model: torch.nn.Module,
    forward_loss: LossFunction,
    config: Config,
    data: Split,
    device: torch.device,
    resume_from: Checkpoint | None,
    say: Say,
) -> tuple[Learner, int, Best]:
    """Return the Learner around a model, the number of epochs it has done, and the best of them."""
    done, best = 0, Best()
    if resume_from:
        model.load_state_dict(resume_from["trained"])
        done = resume_from["epoch"]
        # A checkpoint of an earlier version has no best_rows.
        best = Best(
            resume_from["best"], resume_from["best_epoch"], resume_from.get("best_rows", [])
        )
    average = weight_average(model, config.learning)
    teacher = make_teacher(
        model, average.model, data.unlabelled, config, device, first_epoch=done + 1, say=say
    )
    learner = Learner(
        model,
        forward_loss,
        Optimizer(model, config, device),
        average,
        case_sampling(data.train, config, device, say),
        teacher,
    )
    if resume_from:
        average.model.load_state_dict(resume_from["model"])
        learner.optimizer.load_state_dict(resume_from)
        learner.sampling.load_state_dict(resume_from["cases"])
        set_random_state(resume_from["random"])
    return learner, done, best


def _once(say: Say) -> Say:
    """Say the same line once: some streams begin with every epoch."""
    said: set[str] = set()

    def say_once(line: str) -> None:
        if line not in said:
            said.add(line)
            say(line)

    return say_once


def _checkpoint(learner: Learner, epoch: int, best: Best) -> Checkpoint:
    return {
        "model": learner.average.model.state_dict(),
        "trained": learner.model.state_dict(),
        **learner.optimizer.state_dict(),
        "cases": learner.sampling.state_dict(),
        "epoch": epoch,
        "best": best.dice,
        "best_epoch": best.epoch,
        "best_rows": best.rows,
        "random": random_state(),
    }
