"""Modules whose activations the backward pass computes again, which costs time and saves memory."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpointed(module: nn.Module, *inputs: Tensor) -> Tensor:
    """Run a module whose activations the backward pass computes again.

    The results are the same, bit for bit. Batch norms do not count the second pass in their
    running statistics; a compiled network's second pass writes none by itself.

    Args:
        module: The module.
        *inputs: What it takes.

    Returns:
        module(*inputs).
    """
    if torch.compiler.is_compiling():
        return checkpoint(module, *inputs, use_reentrant=False)

    def passes() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return contextlib.nullcontext(), _unchanged_statistics(module)

    return checkpoint(module, *inputs, use_reentrant=False, context_fn=passes)


@contextlib.contextmanager
def _unchanged_statistics(module: nn.Module) -> Iterator[None]:
    """Let batch norms normalise as in training without updating their running statistics."""
    norms = [
        (m, m.momentum, m.num_batches_tracked)
        for m in module.modules()
        if isinstance(m, nn.BatchNorm3d)
    ]
    for norm, _, _ in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, batches in norms:
            norm.momentum, norm.num_batches_tracked = momentum, batches
