"""Learning from unlabelled cases: what the network says of a patch shall agree with what its average says (Tarvainen & Valpola 2017).

Both see the same augmented patch, each with noise, brightness and contrast of its own. The loss is the mean squared difference of their
probabilities over the brain's voxels; no gradient reaches the teacher. Legend: B patches, C modalities, K channels.
"""

import math

import numpy as np
import torch

from segmamba.data.augment import augment, draw_augmentation
from segmamba.data.augment_intensity import add_noise, shift_and_stretch
from segmamba.data.feed import DeviceFeed
from segmamba.data.loader import patches_per_epoch, unlabelled_batches
from segmamba.data.sampling import STUDENT, TEACHER, generator
from segmamba.errors import UserError
from segmamba.models.outputs import output_channels, probabilities


def teacher(student, average, cases, config, device, *, first_epoch):
    """`MeanTeacher` on the unlabelled `cases`, or its null object where `config`, a Config, has it off. UserError without such cases."""
    if not config.learning.consistency_weight:
        return NoTeacher()
    if not cases:
        raise UserError(
            "learning.consistency_weight: no unlabelled cases to learn from; set data.labelled_share below 1, or add cases without a "
            "segmentation to the data"
        )
    return MeanTeacher(student, average.model, cases, config, device, first_epoch)


class NoTeacher:
    """The null object: teaches nothing."""

    def teach(self, descent, step, share):
        pass

    def metrics(self):
        return {}


class MeanTeacher:
    """student, master: the trained network and its average."""

    def __init__(self, student, master, cases, config, device, first_epoch):
        self._student, self._master, self._config, self._device = student, master, config, device
        self._channels, self._per_epoch = (
            output_channels(config.model),
            patches_per_epoch(config.train),
        )
        self._stream = DeviceFeed(
            unlabelled_batches(
                cases, config, first_epoch=first_epoch, pin_memory=device.type == "cuda"
            ),
            device,
        )
        self._losses = []

    def teach(self, descent, step, share):
        """Add `share` of the gradient of one batch's consistency, at its weight in optimiser step `step` (from 0)."""
        batch = next(self._stream)
        image = self._augmented(batch)
        brain = (image != 0).any(1, keepdim=True)
        with descent.autocast():
            with torch.no_grad():
                target = probabilities(
                    self._master(self._view(image, batch, TEACHER)), self._channels
                )
            outputs = self._student(self._view(image, batch, STUDENT))
            own = probabilities(outputs if torch.is_tensor(outputs) else outputs[0], self._channels)
        loss = ((own - target) ** 2 * brain).sum() / (brain.sum() * own.shape[1]).clamp_min(1)
        descent.backward(consistency_weight(step, self._config) * share * loss)
        self._losses.append(loss.detach())

    def metrics(self):
        """Of the epoch that ends."""
        losses, self._losses = self._losses, []
        return {
            "train/consistency": float(torch.stack(losses).mean()),
            "time/unlabelled_wait_s": self._stream.waited_s(),
        }

    def _augmented(self, batch):
        """The batch's image; the random numbers of its patches are those after the labelled ones of the epoch."""
        places = [
            (int(e), int(i) + self._per_epoch)
            for e, i in zip(batch.epoch, batch.index, strict=True)
        ]
        plans = [
            draw_augmentation(self._config.augment, self._config.seed, *place, batch.image.shape[1])
            for place in places
        ]
        return augment(batch.image, batch.label, plans)[0]

    def _view(self, image, batch, stream):
        """`image` with noise, brightness and contrast drawn from the random numbers of `stream`; the background stays 0."""
        size, shape = self._config.learning.consistency_noise, image.shape[:2]
        rngs = [
            generator(self._config.seed, int(e), int(i), stream)
            for e, i in zip(batch.epoch, batch.index, strict=True)
        ]
        std, brightness, contrast = np.array(
            [[r.uniform(low, 1, shape[1]) * size for low in (0, -1, -1)] for r in rngs]
        ).swapaxes(0, 1)
        noisy = add_noise(image, std, [int(r.integers(2**31)) for r in rngs])
        return torch.where(image != 0, shift_and_stretch(noisy, brightness, 1 + contrast), 0)


def consistency_weight(step, config):
    """In the loss of optimiser step `step` (from 0): `consistency_weight` after a rise over `consistency_rampup_epochs`."""
    learning = config.learning
    rise = learning.consistency_rampup_epochs * config.train.steps_per_epoch
    return learning.consistency_weight * (
        math.exp(-5 * (1 - min(1, step / rise)) ** 2) if rise else 1
    )
