"""Compiling a run's graph before the run, so that many runs find it in the compiler's cache."""

import numpy as np
import torch

from segmamba.config import Config
from segmamba.data.feed import DeviceFeed
from segmamba.data.label_sets import label_set
from segmamba.data.labels import MODALITIES
from segmamba.data.loader import Batch
from segmamba.models import build_model
from segmamba.training.compiling import computing
from segmamba.training.fit import augmented
from segmamba.training.optim import Optimizer
from segmamba.training.randomness import seed_everything
from segmamba.training.step import ForwardLoss


def compile_ahead(config: Config, device: torch.device) -> None:
    """Take one optimiser step on noise, by the loop's own functions.

    The compiler's cache of this process then holds the graph.

    Args:
        config: The configuration of the run; its `train.compile` should be "always".
        device: Where the run will train.
    """
    seed_everything(config.seed, deterministic=config.train.deterministic)
    loss = ForwardLoss(build_model(config.model), config)
    with computing(loss, config, device) as (network, forward_loss):
        network.train()
        optimizer = Optimizer(network.model, config, device)
        image, label = augmented(next(DeviceFeed(iter([noise(config)]), device)), config)
        with optimizer.autocast():
            value, _ = forward_loss(image, label)
        optimizer.backward(value / config.train.accumulation)
        optimizer.step(0.0)


def noise(config: Config) -> Batch:
    """A batch of noise, as the loader yields batches.

    Args:
        config: Gives the patch, the batch size and the classes.
    """
    rng, size = np.random.default_rng(0), config.train.batch_size
    classes = len(label_set(config.model.classes).classes)
    image = rng.normal(size=(size, len(MODALITIES), *config.data.patch_size))
    label = rng.integers(0, classes, (size, *config.data.patch_size))
    return Batch(
        torch.from_numpy(image).half(),
        torch.from_numpy(label.astype(np.uint8)),
        epoch=np.ones(size, int),
        index=np.arange(size),
        on_tumour=np.zeros(size, bool),
        cases=["noise"] * size,
    )
