"""Learning from unlabelled cases: the network shall agree with its own average on each patch.

This is the mean teacher of Tarvainen & Valpola 2017. Student and teacher see the same augmented
patch, each with noise, brightness and contrast of its own. The loss is the mean squared difference
of their probabilities over the brain's voxels; no gradient reaches the teacher.

Legend: B patches, C modalities, K channels, (D, H, W) the patch.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from segmamba.config import Config
from segmamba.data.augment import augment, draw_augmentation
from segmamba.data.augment_intensity import add_noise, shift_and_stretch
from segmamba.data.feed import DeviceFeed
from segmamba.data.loader import Batch, patches_per_epoch, unlabelled_batches
from segmamba.data.prefetch import Say, unsaid
from segmamba.data.preprocess import PreparedCase
from segmamba.data.sampling import STUDENT, TEACHER, generator
from segmamba.errors import UserError
from segmamba.models.outputs import output_channels, probabilities
from segmamba.training.optim import Optimizer


class Teacher(Protocol):
    """What the training loop asks of `MeanTeacher` and `NoTeacher`."""

    def teach(self, optimizer: Optimizer, step: int, *, share: float) -> None:
        """Add what a batch of unlabelled patches teaches to the gradients of a step."""

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the epoch that ends."""


def make_teacher(
    student: torch.nn.Module,
    averaged: torch.nn.Module,
    cases: Sequence[PreparedCase],
    config: Config,
    device: torch.device,
    *,
    first_epoch: int,
    say: Say = unsaid,
) -> Teacher:
    """Return `MeanTeacher`, or `NoTeacher` where the configuration has it off.

    Args:
        student: The network that is trained.
        averaged: The moving average of its weights, which teaches.
        cases: The unlabelled cases.
        config: Its `learning.consistency_weight` decides; 0 is off.
        device: Where the networks are.
        first_epoch: The epoch, from 1, in which the stream of patches begins.
        say: As in `unlabelled_batches`.

    Returns:
        What teaches the student in each micro-batch.

    Raises:
        UserError: There are no unlabelled cases to learn from.
    """
    if not config.learning.consistency_weight:
        return NoTeacher()
    if not cases:
        raise UserError(
            "learning.consistency_weight: no unlabelled cases to learn from; "
            "set data.labelled_share below 1, or add cases without a segmentation to the data"
        )
    return MeanTeacher(student, averaged, cases, config, device, first_epoch=first_epoch, say=say)


class NoTeacher:
    """No teacher: nothing is learnt from unlabelled cases."""

    def teach(self, optimizer: Optimizer, step: int, *, share: float) -> None:
        """Do nothing."""

    def metrics(self) -> dict[str, float]:
        """Return no metrics."""
        return {}


class MeanTeacher:
    """Makes a network agree with its moving average on unlabelled patches."""

    def __init__(
        self,
        student: torch.nn.Module,
        teacher: torch.nn.Module,
        cases: Sequence[PreparedCase],
        config: Config,
        device: torch.device,
        *,
        first_epoch: int,
        say: Say = unsaid,
    ) -> None:
        """Take the trained network, its moving average and the cases; see `make_teacher`."""
        self._student, self._teacher, self._config = student, teacher, config
        self._channels = output_channels(config.model)
        self._labelled_patches = patches_per_epoch(config.train)
        self._stream = DeviceFeed(
            unlabelled_batches(
                cases, config, first_epoch=first_epoch, pin_memory=device.type == "cuda", say=say
            ),
            device,
        )
        self._losses: list[torch.Tensor] = []

    def teach(self, optimizer: Optimizer, step: int, *, share: float) -> None:
        """Add the gradient of one batch's consistency loss.

        Args:
            optimizer: Gathers the gradient.
            step: The optimiser step, from 0, on which the weight of the loss depends.
            share: Factor of the loss, 1 / accumulation.
        """
        batch = next(self._stream)
        image = self._augmented(batch)  # (B, C, D, H, W)
        brain = (image != 0).any(1, keepdim=True)  # (B, 1, D, H, W)
        with optimizer.autocast():
            with torch.no_grad():
                logits = self._teacher(self._view(image, batch, TEACHER))
                target = probabilities(logits, self._channels)  # (B, K, D, H, W)
            outputs = self._student(self._view(image, batch, STUDENT))
            own = probabilities(outputs if torch.is_tensor(outputs) else outputs[0], self._channels)
        loss = ((own - target) ** 2 * brain).sum() / (brain.sum() * own.shape[1]).clamp_min(1)
        optimizer.backward(consistency_weight(step, self._config) * share * loss)
        self._losses.append(loss.detach())

    def metrics(self) -> dict[str, float]:
        """Return train/consistency and time/unlabelled_wait_s of the epoch that ends."""
        losses, self._losses = self._losses, []
        return {
            "train/consistency": float(torch.stack(losses).mean()),
            "time/unlabelled_wait_s": self._stream.waited_s(),
        }

    def _augmented(self, batch: Batch) -> torch.Tensor:
        """Augment a batch's image; its random numbers follow those of the labelled patches."""
        places = [
            (int(e), int(i) + self._labelled_patches)
            for e, i in zip(batch.epoch, batch.index, strict=True)
        ]
        plans = [
            draw_augmentation(self._config.augment, self._config.seed, *place, batch.image.shape[1])
            for place in places
        ]
        return augment(batch.image, batch.label, plans)[0]

    def _view(self, image: torch.Tensor, batch: Batch, stream: int) -> torch.Tensor:
        """Change noise, brightness and contrast of (B, C, D, H, W); the background stays 0.

        The strengths are drawn from the random numbers of `stream`, STUDENT or TEACHER.
        """
        size, shape = self._config.learning.consistency_noise, image.shape[:2]
        rngs = [
            generator(self._config.seed, int(e), int(i), stream)
            for e, i in zip(batch.epoch, batch.index, strict=True)
        ]
        std, brightness, contrast = np.array(
            [[r.uniform(low, 1, shape[1]) * size for low in (0, -1, -1)] for r in rngs]
        ).swapaxes(0, 1)  # each (B, C)
        noisy = add_noise(image, std, [int(r.integers(2**31)) for r in rngs])
        return torch.where(image != 0, shift_and_stretch(noisy, brightness, 1 + contrast), 0)


def consistency_weight(step: int, config: Config) -> float:
    """Return the weight of the consistency loss in one optimiser step.

    It rises as exp(-5 (1 - t)^2), t in [0, 1] (Laine & Aila 2017), over
    `learning.consistency_rampup_epochs` and stays at `learning.consistency_weight`.

    Args:
        step: The optimiser step, from 0.
        config: The run's configuration.

    Returns:
        The factor of the loss.
    """
    learning = config.learning
    rampup_steps = learning.consistency_rampup_epochs * config.train.steps_per_epoch
    return learning.consistency_weight * (
        math.exp(-5 * (1 - min(1, step / rampup_steps)) ** 2) if rampup_steps else 1
    )
