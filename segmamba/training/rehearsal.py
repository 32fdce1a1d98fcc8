"""A rehearsal: a few steps of a run before hours are spent on it.

It measures how long a step takes, and how much memory and disk the run will need.
"""

import dataclasses
import itertools
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from segmamba.config import Config
from segmamba.data.splits import Split
from segmamba.device import choose_device
from segmamba.evaluation.cases import RESIDENT_CASES, evaluate
from segmamba.models import build_model
from segmamba.training.callback import Callback
from segmamba.training.fit import fit

WAIT_S = 600
"""Seconds to wait for the other processes of a rehearsal: they may still import, or compile."""
GROUPS = 8
"""Groups of timed steps, of which the median counts."""


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What one trial costs on this device, in seconds and bytes."""

    step_s: float
    """An optimiser step, once warm: the median of groups of steps, since one pause weighs as much
    in so few steps as in the thousands of a trial. The last step always has one, 0.7 s, in which
    the loader's processes end."""
    warm_up_s: float
    """What the first steps take beyond that: kernels are chosen and, where asked for, found in the
    compiler's cache."""
    validate_case_s: float
    test_case_s: float
    peak_bytes: int
    """On a GPU what the process takes of its memory, testing and all cases of the validation set
    that stay there included; on a CPU the process's largest resident memory."""
    weights_bytes: int
    """The size of a checkpoint of the weights alone."""
    resume_bytes: int
    """The size of a checkpoint that resuming needs."""
    epoch_s: float = 0.0
    """What an epoch takes beyond its steps where the loader's processes end with it: the last one,
    or every one with hard cases."""
    start_s: float = 0.0
    """How long the process took to start and import what it needs; 0 where it had done so
    before."""


def rehearse(
    config: Config,
    data: Split,
    *,
    steps: int,
    threads: int,
    meet: Path | str | None = None,
    others: int = 0,
) -> Rehearsal:
    """Train twice `steps` optimiser steps, and evaluate one validation and one test case.

    The second half of the steps is timed.

    Args:
        config: The configuration of a trial. Its `train.compile` should not be "auto".
        data: A Split of PreparedCases.
        steps: Optimiser steps in each half.
        threads: CPU threads of torch.
        meet: A folder where further processes that do the same wait, so that all are timed while
            all run; None where there are none.
        others: How many further processes there are.

    Returns:
        What a trial costs.
    """
    torch.set_num_threads(threads)
    device = choose_device()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    short, clock = shortened(config, steps), _Clock()
    one_validated = dataclasses.replace(data, validation=data.validation[:1])
    epochs = fit(short, one_validated, device, callback=clock)
    began = time.perf_counter()
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
        peak_bytes=_peak_bytes(device) + _resident_bytes(data, device),
        weights_bytes=_nbytes(second.checkpoint["model"]),
        resume_bytes=_nbytes(second.checkpoint),
    )


class _Clock(Callback):
    """Records when each step is done.

    The loop gets at most two steps ahead of a GPU, so that no wait for the GPU is needed between
    them.
    """

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin to time."""
        self._at = [time.perf_counter()]

    def on_step(self, epoch: int, done: int) -> None:
        self._at.append(time.perf_counter())

    def step_s(self) -> float:
        """Return the seconds of a step since `start`: the median of GROUPS groups."""
        size = max(1, (len(self._at) - 1) // GROUPS)
        ends = self._at[::size]
        return statistics.median(end - begin for begin, end in itertools.pairwise(ends)) / size


def shortened(config: Config, steps: int) -> Config:
    """Return the configuration that is rehearsed, whatever schedule the trial will have.

    Args:
        config: The configuration of a trial.
        steps: Optimiser steps in an epoch.

    Returns:
        Two epochs of `steps` steps, each validated.
    """
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


def _wait_for_others(folder: Path, others: int) -> None:
    """Return once `others` more processes wait in the same folder.

    Raises RuntimeError where they do not come.
    """
    (folder / f"{time.time_ns()}_{id(folder)}").touch()
    deadline = time.monotonic() + WAIT_S
    while sum(1 for _ in folder.iterdir()) <= others:
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{others} other processes were to be measured beside this one "
                f"and did not come within {WAIT_S} s"
            )
        time.sleep(0.01)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        # The process's CUDA context, and other processes.
        beside = total - free - torch.cuda.memory_reserved(device)
        return torch.cuda.max_memory_reserved(device) + max(0, beside)
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return next(
        int(line.split()[1]) * 1024
        for line in status.read_text(encoding="utf-8").splitlines()
        if line.startswith("VmHWM")
    )


def _resident_bytes(data: Split, device: torch.device) -> int:
    """What the cases that validations leave on a GPU take, but the one that was rehearsed."""
    if device.type != "cuda":
        return 0
    others = data.validation[1:RESIDENT_CASES]
    return sum(case.image().nbytes + case.label().nbytes for case in others)


def _nbytes(state: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor))
