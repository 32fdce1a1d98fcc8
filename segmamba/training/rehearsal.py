"""A few steps of a run before hours are spent on it: how long a step takes, and how much memory and disk the run will need."""

import dataclasses
import itertools
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils._pytree import tree_leaves

from segmamba.device import choose_device
from segmamba.evaluation.cases import evaluate
from segmamba.models import build_model
from segmamba.training.callback import Callback
from segmamba.training.fit import fit

WAIT_S = 600  # for the other processes of a rehearsal: they may still import, or compile
GROUPS = 8  # of timed steps, of which the median counts


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What one trial costs on this device. Seconds and bytes."""

    step_s: float
    """An optimiser step, once warm: the median of groups of steps, since one pause weighs as much in so few steps as in the thousands of
    a trial. The last step always has one, 0.7 s, in which the loader's processes end."""
    warm_up_s: float
    """What the first steps take beyond that: kernels are chosen and, where asked for, compiled or found in the compiler's cache."""
    validate_case_s: float
    test_case_s: float
    peak_bytes: int
    """On a GPU what the process takes of its memory, testing included; on a CPU the process's largest resident memory."""
    weights_bytes: int
    """A checkpoint of the weights alone ..."""
    resume_bytes: int
    """... and one that resuming needs."""
    compile_s: float = 0.0
    """What the compiler takes beyond warm_up_s where its cache does not hold this network yet; 0 where it held it from the start."""
    epoch_s: float = 0.0
    """What an epoch takes beyond its steps where the loader's processes end with it: the last one, or every one with hard cases."""
    start_s: float = 0.0
    """Until the process had started and imported what it needs; 0 where it had done so before."""


def rehearse(config, data, *, steps, threads, meet=None, others=0):
    """The Rehearsal of a Config, whose `train.compile` should not be auto, on a Split of PreparedCases.

    Trains twice `steps` optimiser steps, the second half timed, and evaluates one case of the validation set and one of test. meet: a folder where
    `others` further processes that do the same wait, so that all are timed while all run.
    """
    torch.set_num_threads(threads)
    device = choose_device()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    short, clock = shortened(config, steps), _Clock()
    epochs, began = (
        fit(
            short, dataclasses.replace(data, validation=data.validation[:1]), device, callback=clock
        ),
        time.perf_counter(),
    )
    first = next(epochs).metrics
    warm_up_s = time.perf_counter() - began - first["time/validate_s"]
    if meet:
        _wait_for_others(Path(meet), others)
    clock.start()
    second = next(epochs)
    step_s = clock.step_s()
    model = build_model(short.model).to(device)
    model.load_state_dict(second.checkpoint["model"])
    began = time.perf_counter()
    evaluate(model, data.test[:1], short, device)
    test_case_s = time.perf_counter() - began
    return Rehearsal(
        step_s=step_s,
        warm_up_s=max(0.0, warm_up_s - steps * step_s),
        epoch_s=max(0.0, second.metrics["time/train_s"] - steps * step_s),
        validate_case_s=second.metrics["time/validate_s"],
        test_case_s=test_case_s,
        peak_bytes=_peak_bytes(device),
        weights_bytes=_nbytes(second.checkpoint["model"]),
        resume_bytes=_nbytes(second.checkpoint),
    )


class _Clock(Callback):
    """Notes when each step is done. The loop gets at most two steps ahead of a GPU, so that no wait for it is needed between them."""

    def __init__(self):
        self.start()

    def start(self):
        self._at = [time.perf_counter()]

    def on_step(self, epoch, done):
        self._at.append(time.perf_counter())

    def step_s(self):
        """Seconds of a step since `start`: of GROUPS groups the median."""
        size = max(1, (len(self._at) - 1) // GROUPS)
        ends = self._at[::size]
        return statistics.median(end - begin for begin, end in itertools.pairwise(ends)) / size


def shortened(config, steps):
    """The Config that is rehearsed: two epochs of `steps` steps, whatever schedule the trial will have."""
    schedule = {
        "epochs": 2,
        "steps_per_epoch": steps,
        "validate_every_epochs": 1,
        "early_stop_epochs": 0,
        "keep_every_epochs": 0,
    }
    return config.changed(
        {"optim.warmup_epochs": 0} | {f"train.{name}": value for name, value in schedule.items()}
    )


def _wait_for_others(folder, others):
    """Return once `others` more processes wait in the same folder; RuntimeError where they do not come."""
    (folder / f"{time.time_ns()}_{id(folder)}").touch()
    deadline = time.monotonic() + WAIT_S
    while sum(1 for _ in folder.iterdir()) <= others:
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{others} other processes were to be measured beside this one and did not come within {WAIT_S} s"
            )
        time.sleep(0.01)


def _peak_bytes(device):
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        beside = (
            total - free - torch.cuda.memory_reserved(device)
        )  # the process's CUDA context, and whoever else is there
        return torch.cuda.max_memory_reserved(device) + max(0, beside)
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return next(
        int(line.split()[1]) * 1024
        for line in status.read_text().splitlines()
        if line.startswith("VmHWM")
    )


def _nbytes(state):
    return sum(leaf.nbytes for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor))
