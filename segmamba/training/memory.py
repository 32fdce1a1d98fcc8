"""How much memory a training step takes: an estimate without a device, and a measurement.

The estimate follows every storage of a step on fake tensors (segmamba.models.describe) from its
allocation to its release. It cannot see what happens inside kernels and allocators; an allowance
stands for that.
"""

import multiprocessing
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segmamba.config import Config, OptimConfig
from segmamba.device import autocast, mixed_dtype
from segmamba.errors import UserError
from segmamba.models import build_model, side_multiples
from segmamba.models.describe import fake_autocast, fake_network
from segmamba.models.outputs import output_channels
from segmamba.models.segmamba import IN_CHANNELS
from segmamba.training.losses import training_loss
from segmamba.training.optim import torch_optimizer

ALLOWANCE = {"cuda": (128 * 2**20, 0.01), "cpu": (0, 0.3)}
"""Device type to the allowance: (bytes, share of the live storages).

Measured with `segmamba describe --measure`. On an H100 with torch 2.11, six settings of 0.4 to 10
GiB in both precisions took 80 to 250 MiB beyond their storages. On a CPU with torch 2.13, five of
0.2 to 0.5 GiB took 15 to 38 % more, as oneDNN reorders weights and volumes and the heap does not
give everything back.
"""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak of an eager training step. The parts add up to `total`."""

    weights: int
    """Parameters and the norms' statistics, fp32 in every precision."""
    optimizer: int
    """The optimizer's moments: two of AdamW, one of SGD with momentum."""
    kept: int
    """What the forward pass and the loss keep for the backward pass, the batch included."""
    passing: int
    """Gradients and intermediate values that are alive at the same moment."""
    workspace: int
    """Allowance for kernels and allocator."""

    @property
    def total(self) -> int:
        """The bytes of all parts."""
        return self.weights + self.optimizer + self.kept + self.passing + self.workspace

    def as_dict(self) -> dict[str, int]:
        """Return the parts and "total"."""
        return asdict(self) | {"total": self.total}


def estimate_training_memory(
    config: Config, *, device_type: str, dtype: torch.dtype | None = None
) -> MemoryEstimate:
    """Estimate the memory of an eager training step; a compiled network takes less.

    Args:
        config: The configuration of the run.
        device_type: "cuda" or "cpu". The device need not be there.
        dtype: The autocast type of the forward passes; None is fp32.

    Returns:
        The bytes at the peak, by what holds them.
    """
    fixed, share = ALLOWANCE[device_type]
    with fake_network(config.model) as model:
        persistent = [*model.parameters(), *model.buffers()]
        with _LiveStorages(persistent) as live:
            for _ in range(_passes(config)):
                kept = _KeptStorages(persistent)
                with kept.hooks():
                    loss = _loss(model, config, fake_autocast(dtype), torch.device("cpu"))
                kept_bytes = kept.release()
                loss.backward()
                del loss
        return MemoryEstimate(
            weights=_nbytes(persistent),
            optimizer=_moments(config.optim) * _nbytes(model.parameters()),
            kept=kept_bytes,
            passing=live.peak - kept_bytes,
            workspace=fixed + int(share * live.peak),
        )


def measure_training_memory(config: Config, device: torch.device) -> int:
    """Measure the peak memory of true training steps, beyond what the libraries take.

    On a GPU this is what torch allocates. On a CPU it is the growth of the resident memory of a
    fresh process, read from Linux's /proc.

    Args:
        config: The configuration of the run.
        device: Where to train.

    Returns:
        Bytes.

    Raises:
        UserError: The device is a CPU, and there is no /proc or its memory does not suffice.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        _train(config, device)
        return torch.cuda.max_memory_allocated(device) - before
    if not Path("/proc/self/status").exists():
        raise UserError(
            "--measure: on a CPU it needs Linux's /proc; run it on Linux or on a machine with a GPU"
        )
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        measured = fresh.submit(_resident_growth, config, torch.get_num_threads())
        try:
            return measured.result()
        except BrokenProcessPool as error:
            raise UserError(
                "--measure: the process that trained was killed (memory?); free some memory, or "
                "choose a smaller data.patch_size or train.batch_size"
            ) from error


def _resident_growth(config: Config, threads: int) -> int:
    """Return the bytes by which training makes this process grow."""
    torch.set_num_threads(threads)
    # this loads what torch loads late; twice the least sides leave more than a voxel to every norm
    sides = tuple(2 * multiple for multiple in side_multiples(config.model))
    small = {"data.patch_size": sides, "model.planned_for": (), "train.batch_size": 2}
    _train(config.changed(small), torch.device("cpu"))
    before = _proc_bytes("VmRSS")
    _train(config, torch.device("cpu"))
    return _proc_bytes("VmHWM") - before


def _train(config: Config, device: torch.device) -> None:
    """Take two optimiser steps on noise.

    In the second one the optimizer's moments are there during the backward pass.
    """
    model = build_model(config.model).to(device).train()
    optimizer = torch_optimizer(model, config.optim)
    dtype = mixed_dtype(device, config.train.precision)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    for _ in range(2):
        for _ in range(_passes(config)):
            loss = _loss(model, config, autocast(device, dtype), device)
            scaler.scale(loss).backward()
            del loss
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)


def _moments(config: OptimConfig) -> int:
    """Return how many numbers the optimizer keeps of each weight."""
    return 2 if config.name == "adamw" else int(config.momentum > 0)


def _passes(config: Config) -> int:
    """Return how many accumulated passes the peak needs.

    In the second one all gradients exist from the start; a third one adds nothing.
    """
    return min(config.train.accumulation, 2)


def _loss(
    model: torch.nn.Module,
    config: Config,
    precision: AbstractContextManager[Any],
    device: torch.device,
) -> torch.Tensor:
    """Return the loss of one batch of noise; `precision` is the autocast context of training."""
    shape = (config.train.batch_size, *config.data.patch_size)
    image = torch.rand(shape[0], IN_CHANNELS, *shape[1:], device=device)
    label = torch.zeros(shape, dtype=torch.uint8, device=device)
    with precision:
        logits = model(image)
    return training_loss(logits, label, output_channels(config.model), config.loss)


def _nbytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.untyped_storage().nbytes() for t in tensors)


def _proc_bytes(field: str) -> int:
    """Return the resident memory of this process: VmRSS now, or VmHWM at its peak."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        if line.startswith(field)
    )
    return int(line.split()[1]) * 1024


class _KeptStorages:
    """The storages that autograd saves while `hooks()` is entered, without those of `ignored`."""

    def __init__(self, ignored: Iterable[torch.Tensor]) -> None:
        self._ignored = {tensor.untyped_storage()._cdata for tensor in ignored}
        self._storages: dict[int, torch.UntypedStorage] = {}

    def hooks(self) -> saved_tensors_hooks:
        return saved_tensors_hooks(self._keep, lambda tensor: tensor)

    def release(self) -> int:
        """Return their bytes and let go of them, so that the backward pass can free them."""
        total = sum(storage.nbytes() for storage in self._storages.values())
        self._storages.clear()
        return total

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._ignored:
            self._storages[storage._cdata] = storage
        return tensor


class _LiveStorages(TorchDispatchMode):
    """Counts, while entered, the bytes of all storages that are alive.

    Those of the `ignored` tensors do not count. `peak` is the most there were.
    """

    def __init__(self, ignored: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self._known = {tensor.untyped_storage()._cdata for tensor in ignored}
        self._live = self.peak = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self._live)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._live += storage.nbytes()
            weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes()).atexit = False

    def _freed(self, address: int, nbytes: int) -> None:
        self._known.discard(address)
        self._live -= nbytes
