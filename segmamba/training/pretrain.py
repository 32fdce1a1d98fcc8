"""Self-supervised pretraining: cubes of a patch are hidden in all modalities and the network fills them in.

The loss is the mean squared error over the hidden voxels of the brain, of z-scored intensities: about 1 for a network that always says 0.
Masks as in masked autoencoders (He et al. 2022) and Swin UNETR's pretraining (Tang et al. 2022). A U-Net's decoder is as much of the network
as its encoder, so both are kept and only the head is thrown away, which Models Genesis (Zhou et al. 2019) found best for segmentation; and
as the network segments with skips, it reconstructs with them: they carry nothing of what is hidden. Dense convolutions see the hidden cubes
as zeros, which is also the mean of the brain.

Legend: B patches, C = 4 modalities, (D, H, W) the patch.
"""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from segmamba.data.augment import augment, plan
from segmamba.data.feed import DeviceFeed, sent
from segmamba.data.loader import unlabelled_batches
from segmamba.data.sampling import MASK, generator
from segmamba.models import build_model
from segmamba.models.blocks import PointwiseConv
from segmamba.models.segmamba import MODALITIES
from segmamba.training.callback import Callback
from segmamba.training.fit import NonFiniteLoss
from segmamba.training.optim import Optimizer, learning_rate
from segmamba.training.randomness import random_state, seed_everything, set_random_state
from segmamba.training.step import compiled


@dataclass(frozen=True)
class PretrainingEpoch:
    """What one epoch gave."""

    number: int
    """From 1."""
    metrics: dict
    """pretrain/loss, pretrain/lr, time/pretrain_s."""
    checkpoint: dict
    """All that `resume_from` needs, "model" being the weights. Holds live tensors."""


class Reconstruction(torch.nn.Module):
    """(image (B, C, D, H, W), hidden bool (B, 1, D, H, W)) -> scalar fp32 loss."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image, hidden):
        told = self.model(image.masked_fill(hidden, 0)).float()
        counted = hidden & (image != 0).any(1, keepdim=True)
        return ((told - image) ** 2 * counted).sum() / (counted.sum() * image.shape[1]).clamp_min(1)


def pretrain(config, cases, device, resume_from=None, callback=None):
    """Pretrain the network of a Config on the images of PreparedCases for `learning.pretrain_epochs`; yields one PretrainingEpoch after another.

    `resume_from` is an epoch's checkpoint, as loaded from a file; `callback` is a Callback, or somebody. Optimiser, warm-up and cosine are those
    of training, over these epochs. Raises NonFiniteLoss.
    """
    config, callback = stage(config), callback or Callback()
    seed_everything(config.seed, config.train.deterministic)
    model = build_model(config.model)
    model.head = PointwiseConv(model.head.in_channels, MODALITIES)
    model = model.to(device).train()
    descent, done = Optimizer(model, config, device), 0
    if resume_from:
        model.load_state_dict(resume_from["model"])
        descent.load_state_dict(resume_from)
        set_random_state(resume_from["random"])
        done = resume_from["epoch"]
    compute = compiled(Reconstruction(model), config, device)
    stream = DeviceFeed(
        unlabelled_batches(cases, config, first_epoch=done + 1, pin_memory=device.type == "cuda"),
        device,
    )
    for number in range(done + 1, config.train.epochs + 1):
        started, losses = time.perf_counter(), []
        for i in range(config.train.steps_per_epoch):
            rate = learning_rate((number - 1) * config.train.steps_per_epoch + i, config)
            losses.append(_step(compute, descent, stream, rate, config, device))
            callback.on_pretraining_step(number, i + 1)
        loss = float(torch.stack(losses).mean())
        if not math.isfinite(loss):
            raise NonFiniteLoss(
                f"pretraining, epoch {number}: the loss is {loss:g}; lower optim.lr"
            )
        metrics = {
            "pretrain/loss": loss,
            "pretrain/lr": rate,
            "time/pretrain_s": time.perf_counter() - started,
        }
        yield PretrainingEpoch(
            number,
            metrics,
            {
                "model": model.state_dict(),
                **descent.state_dict(),
                "epoch": number,
                "random": random_state(),
            },
        )


def stage(config):
    """The Config of pretraining as a training of its own: its epochs, one output, at full resolution."""
    epochs = config.learning.pretrain_epochs
    return config.changed(
        {
            "train.epochs": epochs,
            "optim.warmup_epochs": min(config.optim.warmup_epochs, epochs),
            "model.deep_supervision": 0,
        }
    )


def _step(compute, descent, stream, rate, config, device):
    """One optimiser step; its mean loss, on the device."""
    total = torch.zeros((), device=device)
    for _ in range(config.train.accumulation):
        batch = next(stream)
        places = [(int(e), int(i)) for e, i in zip(batch.epoch, batch.index, strict=True)]
        plans = [
            plan(config.augment, config.seed, *place, batch.image.shape[1]) for place in places
        ]
        image, _ = augment(batch.image, batch.label, plans)
        hidden = np.stack(
            [
                hidden_voxels(image.shape[2:], config.learning, config.seed, *place)
                for place in places
            ]
        )
        with descent.autocast():
            loss = compute(image, sent(hidden, device)[:, None]) / config.train.accumulation
        descent.backward(loss)
        total += loss.detach()
    descent.step(rate)
    return total


def hidden_voxels(shape, config, seed, epoch, index):
    """bool (D, H, W): `mask_share` of the cubes of side `mask_side` that fill the shape. `config` is a LearningConfig."""
    cubes = [math.ceil(n / config.mask_side) for n in shape]
    count = math.prod(cubes)
    chosen = generator(seed, epoch, index, MASK).permutation(count) < round(
        config.mask_share * count
    )
    hidden = chosen.reshape(cubes)
    for axis in range(3):
        hidden = hidden.repeat(config.mask_side, axis)
    return hidden[tuple(slice(n) for n in shape)]
