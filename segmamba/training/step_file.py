"""How far a run is within its epoch, in a small file that another process reads.

A trial of a study runs in a process of its own, perhaps on another node, and reports whole epochs.
Its folder is what the study's terminal sees of it in between.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from segmamba.leftovers import temporary_beside
from segmamba.training.callback import Callback

EVERY_S = 1.0
"""The least time between two writings."""

Phase = Literal["pretraining", "training", "validating", "testing"]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """How far a run is."""

    phase: Phase
    epoch: int
    """The epoch that is trained or validated, from 1; 0 during the test."""
    done: int
    """Optimiser steps or cases that are finished."""
    total: int
    """All of them."""
    patches_per_s: float | None
    """Since the epoch began; None where nothing is trained or it has just begun."""


class StepFile(Callback):
    """Writes where a run is, once a second at most, and the end of each phase.

    Args:
        file: The file.
        steps: Optimiser steps of an epoch.
        patches: Patches of an optimiser step.
        validation: Cases of the validation set.
        test: Cases of the test set.
    """

    def __init__(self, file: Path, *, steps: int, patches: int, validation: int, test: int) -> None:
        self.file = file
        self.steps, self.patches, self.validation, self.test = steps, patches, validation, test
        self._written_at = float("-inf")
        self._first: tuple[int, int, float] | None = None
        """(epoch, steps done, time) of the first step of an epoch that this process has seen."""

    def on_step(self, epoch: int, done: int) -> None:
        """Write the steps of an epoch."""
        if self._first is None or self._first[0] != epoch:
            self._first = epoch, done, time.monotonic()
        _, first_done, first_at = self._first
        gone_s = time.monotonic() - first_at
        rate = (done - first_done) * self.patches / gone_s if done > first_done else None
        self._write("training", epoch, done, self.steps, rate)

    def on_pretraining_step(self, epoch: int, done: int) -> None:
        """Write the steps of an epoch of pretraining."""
        self._write("pretraining", epoch, done, self.steps)

    def on_validation_case(self, epoch: int, done: int) -> None:
        """Write the cases of a validation."""
        self._write("validating", epoch, done, self.validation)

    def on_test_case(self, done: int) -> None:
        """Write the cases of the test."""
        self._write("testing", 0, done, self.test)

    def _write(
        self, phase: Phase, epoch: int, done: int, total: int, rate: float | None = None
    ) -> None:
        now = time.monotonic()
        if now - self._written_at < EVERY_S and done < total:
            return
        self._written_at = now
        steps = Steps(phase=phase, epoch=epoch, done=done, total=total, patches_per_s=rate)
        temporary = temporary_beside(self.file)
        try:  # not brought to the disk: it is out of date in a second
            temporary.write_text(json.dumps(asdict(steps)), encoding="utf-8")
            os.replace(temporary, self.file)
        except OSError:  # a full disk or a share that is away: the run says so where it must write
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def read_steps(file: Path) -> Steps | None:
    """Read where a run is.

    Args:
        file: The file of its StepFile.

    Returns:
        Its Steps; None where there is no such file or it cannot be read.
    """
    try:
        return Steps(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
