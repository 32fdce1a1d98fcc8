"""Self-supervised pretraining: hide cubes of a patch in all modalities and reconstruct them.

The loss is the mean squared error over the hidden voxels of the brain, of z-scored intensities:
about 1 for a network that always predicts 0. Masks are as in masked autoencoders (He et al. 2022)
and Swin UNETR's pretraining (Tang et al. 2022). A U-Net's decoder is as much of the network as its
encoder, so both are kept and only the head is thrown away, which Models Genesis (Zhou et al. 2019)
found best for segmentation. As the network segments with skips, it reconstructs with them: they
carry nothing of what is hidden. Dense convolutions see the hidden cubes as zeros, which is also the
mean of the brain.

Legend: B patches, C = 4 modalities, (D, H, W) the patch.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from segmamba.config import Config, LearningConfig
from segmamba.data.augment import augment, draw_augmentation
from segmamba.data.feed import DeviceFeed, to_device
from segmamba.data.loader import unlabelled_batches
from segmamba.data.preprocess import PreparedCase
from segmamba.data.sampling import MASK, generator
from segmamba.models import build_model
from segmamba.models.layers import PointwiseConv
from segmamba.models.segmamba import IN_CHANNELS
from segmamba.training.callback import Callback
from segmamba.training.compiling import computing
from segmamba.training.fit import Checkpoint, NonFiniteLoss
from segmamba.training.optim import Optimizer, learning_rate
from segmamba.training.randomness import random_state, seed_everything, set_random_state


@dataclass(frozen=True)
class PretrainingEpoch:
    """The result of one epoch of pretraining."""

    number: int
    """From 1."""
    metrics: dict[str, float]
    """pretrain/loss, pretrain/lr, time/pretrain_s."""
    checkpoint: Checkpoint
    """What `pretrain` needs to go on, "model" being the weights. It holds live tensors."""


class Reconstruction(torch.nn.Module):
    """A network and the loss of its reconstruction, as one module."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error over the hidden voxels of the brain.

        A modality that is missing or dropped is 0 everywhere, and nothing is asked of it.

        Args:
            image: z-scored, (B, C, D, H, W); 0 outside the brain.
            hidden: bool, (B, 1, D, H, W).

        Returns:
            The loss, () in fp32.
        """
        reconstruction = self.model(image.masked_fill(hidden, 0)).float()
        brain = image != 0
        held = brain.flatten(2).any(2)[..., None, None, None]  # (B, C, 1, 1, 1)
        counted = hidden & brain.any(1, keepdim=True) & held
        squared_error = (reconstruction - image) ** 2 * counted
        return squared_error.sum() / counted.sum().clamp_min(1)


def pretrain(
    config: Config,
    cases: Sequence[PreparedCase],
    device: torch.device,
    *,
    resume_from: Checkpoint | None = None,
    callback: Callback | None = None,
) -> Iterator[PretrainingEpoch]:
    """Pretrain a run's network on images for `learning.pretrain_epochs`.

    Optimiser, warm-up and cosine are those of training, over these epochs.

    Args:
        config: The configuration of the run.
        cases: The cases whose images are learnt from; labels are not read.
        device: Where to train.
        resume_from: The checkpoint of a PretrainingEpoch, as loaded from a file, to go on from.
        callback: Watches the run.

    Yields:
        One PretrainingEpoch after another.

    Raises:
        NonFiniteLoss: The loss became NaN or infinite.
    """
    config, callback = pretraining_config(config), callback or Callback()
    seed_everything(config.seed, deterministic=config.train.deterministic)
    model = build_model(config.model)
    head = cast(PointwiseConv, model.head)
    model.head = PointwiseConv(head.in_channels, IN_CHANNELS)
    with computing(Reconstruction(model), config, device, part="pretraining") as (network, loss_of):
        yield from _epochs(network.model, loss_of, config, cases, device, resume_from, callback)


def _epochs(
    model: torch.nn.Module,
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    config: Config,
    cases: Sequence[PreparedCase],
    device: torch.device,
    resume_from: Checkpoint | None,
    callback: Callback,
) -> Iterator[PretrainingEpoch]:
    """Yield the epochs after those of the checkpoint."""
    model.train()
    optimizer, done = Optimizer(model, config, device), 0
    if resume_from:
        model.load_state_dict(resume_from["model"])
        optimizer.load_state_dict(resume_from)
        set_random_state(resume_from["random"])
        done = resume_from["epoch"]
    stream = DeviceFeed(
        unlabelled_batches(
            cases,
            config,
            first_epoch=done + 1,
            pin_memory=device.type == "cuda",
            say=callback.on_note,
        ),
        device,
    )
    for epoch in range(done + 1, config.train.epochs + 1):
        started, losses = time.perf_counter(), []
        for i in range(config.train.steps_per_epoch):
            rate = learning_rate((epoch - 1) * config.train.steps_per_epoch + i, config)
            losses.append(_gather_gradients(loss_of, optimizer, stream, config, device))
            optimizer.step(rate)
            callback.on_pretraining_step(epoch, i + 1)
        loss = float(torch.stack(losses).mean())
        if not math.isfinite(loss):
            raise NonFiniteLoss(f"pretraining, epoch {epoch}: the loss is {loss:g}; lower optim.lr")
        metrics = {
            "pretrain/loss": loss,
            "pretrain/lr": rate,
            "time/pretrain_s": time.perf_counter() - started,
        }
        checkpoint = {
            "model": model.state_dict(),
            **optimizer.state_dict(),
            "epoch": epoch,
            "random": random_state(),
        }
        yield PretrainingEpoch(epoch, metrics, checkpoint)


def pretraining_config(config: Config) -> Config:
    """Return the configuration of pretraining as a training of its own.

    It has pretraining's epochs and a single output at full resolution.

    Args:
        config: The configuration of the run.

    Returns:
        The changed configuration.
    """
    epochs = config.learning.pretrain_epochs
    return config.changed(
        {
            "train.epochs": epochs,
            "optim.warmup_epochs": min(config.optim.warmup_epochs, epochs),
            "model.deep_supervision": 0,
        }
    )


def _gather_gradients(
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    optimizer: Optimizer,
    stream: DeviceFeed,
    config: Config,
    device: torch.device,
) -> torch.Tensor:
    """Gather the gradients of one optimiser step; return its mean loss, (), on the device."""
    total = torch.zeros((), device=device)
    for _ in range(config.train.accumulation):
        batch = next(stream)
        places = [(int(e), int(i)) for e, i in zip(batch.epoch, batch.index, strict=True)]
        plans = [
            draw_augmentation(config.augment, config.seed, *place, batch.image.shape[1])
            for place in places
        ]
        image, _ = augment(batch.image, batch.label, plans)  # (B, C, D, H, W)
        masks = [
            hidden_voxels(image.shape[2:], config.learning, config.seed, *place) for place in places
        ]
        hidden = to_device(np.stack(masks), device)[:, None]  # (B, 1, D, H, W)
        with optimizer.autocast():
            loss = loss_of(image, hidden) / config.train.accumulation
        optimizer.backward(loss)
        total += loss.detach()
    return total


def hidden_voxels(
    shape: Sequence[int], config: LearningConfig, seed: int, epoch: int, index: int
) -> np.ndarray:
    """Choose the voxels of a patch that are hidden: `mask_share` of its cubes.

    Args:
        shape: (D, H, W).
        config: Its `mask_side` is the side of a cube in voxels.
        seed: The run's seed; with `epoch` and `index` it decides what is drawn.
        epoch: The patch's epoch.
        index: The patch's place in the epoch.

    Returns:
        bool (D, H, W).
    """
    cubes = [math.ceil(n / config.mask_side) for n in shape]
    count = math.prod(cubes)
    chosen = generator(seed, epoch, index, MASK).permutation(count) < round(
        config.mask_share * count
    )
    hidden = chosen.reshape(cubes)
    for axis in range(3):
        hidden = hidden.repeat(config.mask_side, axis)
    return hidden[tuple(slice(n) for n in shape)]
