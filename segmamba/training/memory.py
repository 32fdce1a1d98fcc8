"""How much memory a training step takes: an estimate that needs no device, and a measurement on this one.

The estimate follows every storage of a step on fake tensors (segmamba.models.describe) from birth to death. What happens
inside kernels and allocators it cannot see; an allowance stands for that.
"""

import multiprocessing
import weakref
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segmamba.device import autocast, mixed_dtype
from segmamba.errors import UserError
from segmamba.models import build_model, decay_groups
from segmamba.models.describe import fake_autocast, fake_network
from segmamba.models.outputs import output_channels
from segmamba.models.segmamba import IN_CHANNELS
from segmamba.training.losses import training_loss

# Allowance of a device type: (bytes, share of the live storages). Measured with `segmamba describe --measure`: on an H100 with
# torch 2.11, six settings of 0.4 to 10 GiB in both precisions took 80 to 250 MiB beyond their storages; on a CPU with torch 2.13,
# five of 0.2 to 0.5 GiB took 15 to 38 % more, as oneDNN reorders weights and volumes and the heap does not give everything back.
ALLOWANCE = {"cuda": (128 * 2**20, 0.01), "cpu": (0, 0.3)}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak of an eager training step; they add up to `total`."""

    weights: int
    """Parameters and the norms' statistics, fp32 in every precision."""
    optimizer: int
    """AdamW's two moments."""
    kept: int
    """What the forward pass and the loss keep for the backward pass, the batch included."""
    passing: int
    """Gradients, and values on their way, alive at the same moment."""
    workspace: int
    """Allowance for kernels and allocator."""

    @property
    def total(self):
        return self.weights + self.optimizer + self.kept + self.passing + self.workspace

    def as_dict(self):
        return asdict(self) | {"total": self.total}


def estimate_training_memory(config, *, device_type, dtype=None):
    """The MemoryEstimate of a Config on "cuda" or "cpu", which need not be there; dtype is the autocast type, None for fp32.

    Of the eager step: a compiled network takes less.
    """
    fixed, share = ALLOWANCE[device_type]
    with fake_network(config.model) as model:
        persistent = [*model.parameters(), *model.buffers()]
        with _LiveStorages(persistent) as live:
            for _ in range(_passes(config)):
                kept = _KeptStorages(persistent)
                with kept.hooks():
                    loss = _loss(model, config, fake_autocast(dtype), torch.device("cpu"))
                kept_bytes = kept.forget()
                loss.backward()
                del loss
        return MemoryEstimate(
            weights=_nbytes(persistent),
            optimizer=2 * _nbytes(model.parameters()),
            kept=kept_bytes,
            passing=live.peak - kept_bytes,
            workspace=fixed + int(share * live.peak),
        )


def measure_training_memory(config, device):
    """Peak bytes of true training steps of a Config on a torch.device, beyond what its libraries take.

    On a GPU: what torch allocates. On a CPU: growth of the resident memory of a fresh process, read from Linux's /proc.
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
        return fresh.submit(_resident_growth, config, torch.get_num_threads()).result()


def _resident_growth(config, threads):
    torch.set_num_threads(threads)
    _train(
        config.changed({"data.patch_size": (16, 16, 16), "train.batch_size": 2}),
        torch.device("cpu"),
    )  # load what torch loads late
    before = _proc_bytes("VmRSS")
    _train(config, torch.device("cpu"))
    return _proc_bytes("VmHWM") - before


def _train(config, device):
    """Two optimiser steps on noise: from the second one on, AdamW's moments are there during the backward pass."""
    model = build_model(config.model).to(device).train()
    optimizer = torch.optim.AdamW(
        [{"params": group} for group in decay_groups(model)], lr=config.optim.lr
    )
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


def _passes(config):
    """From the second accumulated pass on, all gradients exist from the start; a third one adds nothing."""
    return min(config.train.accumulation, 2)


def _loss(model, config, precision, device):
    """The loss of one batch of noise, as training computes it; `precision` is its autocast context."""
    shape = (config.train.batch_size, *config.data.patch_size)
    image = torch.rand(shape[0], IN_CHANNELS, *shape[1:], device=device)
    label = torch.zeros(shape, dtype=torch.uint8, device=device)
    with precision:
        logits = model(image)
    return training_loss(logits, label, output_channels(config.model), config.loss)


def _nbytes(tensors):
    return sum(t.untyped_storage().nbytes() for t in tensors)


def _proc_bytes(field):
    """VmRSS (resident now) or VmHWM (its peak) of this process."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(field)
    )
    return int(line.split()[1]) * 1024


class _KeptStorages:
    """The storages that autograd saves while `hooks()` is entered, but for the `ignored` tensors'."""

    def __init__(self, ignored):
        self._ignored, self._storages = {t.untyped_storage()._cdata for t in ignored}, {}

    def hooks(self):
        return saved_tensors_hooks(self._keep, lambda tensor: tensor)

    def forget(self):
        """Their bytes. Lets go of them: the backward pass must be able to free them."""
        total = sum(storage.nbytes() for storage in self._storages.values())
        self._storages.clear()
        return total

    def _keep(self, tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in self._ignored:
            self._storages[storage._cdata] = storage
        return tensor


class _LiveStorages(TorchDispatchMode):
    """While entered, counts the bytes of all storages that are alive, but for the `ignored` tensors'; `peak` is the most there were."""

    def __init__(self, ignored):
        super().__init__()
        self._known = {t.untyped_storage()._cdata for t in ignored}
        self._live = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self._live)
        return result

    def _count(self, storage):
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._live += storage.nbytes()
            weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes()).atexit = False

    def _freed(self, address, nbytes):
        self._known.discard(address)
        self._live -= nbytes
