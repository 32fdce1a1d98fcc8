"""What the terminal shows while a study runs.

One live table on a terminal, plain lines elsewhere.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.live import Live

from segmamba.orchestration.engine.context import trial_folder
from segmamba.orchestration.engine.live_table import Cells, live_table
from segmamba.screen import Progress, clock, no_progress, points, print_line, progress_lines
from segmamba.studies.trial_plan import TrialPlan
from segmamba.training.run_folder import steps_file
from segmamba.training.step_file import Steps, read_steps

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WAITING, RUNNING, DONE, STOPPED, FAILED = "waiting", "running", "done", "stopped", "failed"
OVER = (DONE, STOPPED, FAILED)
STYLES = {WAITING: "dim", RUNNING: "bold", DONE: "green", STOPPED: "yellow", FAILED: "red"}
FURTHER = ("pretraining", "testing")
"""Phases of a trial that count no epochs of training."""
KEY = re.compile(r"(?s)(.*), seed (\d+)(?:, fold (\d+))?")
"""`TrialPlan.key`, from which the trial's folder follows."""
QUIET_S = 120.0
"""Without a live table, how long a study is silent while its trials end epochs."""
SHOWN_ROWS = 24
"""Rows of the live table. A study of a hundred trials would scroll the terminal otherwise."""


class ProgressDisplay(Protocol):
    """Shows the events of one study. `key` is the key of a TrialPlan."""

    def steps(self, label: str) -> Progress:
        """The Progress of a preparation with this name."""

    def say(self, message: str) -> None:
        """Show one line."""

    def watch(self, folder: Path) -> None:
        """The study has a folder; those of its trials say how far they are within an epoch."""

    def trials(
        self, plans: Sequence[TrialPlan], epochs: int, at_once: int, further: int = 0
    ) -> None:
        """The trials begin.

        Args:
            plans: The trials that are known.
            epochs: Epochs of each trial.
            at_once: How many run at the same time.
            further: How many more a search will add.
        """

    def started(self, key: str) -> None:
        """A trial has started, perhaps again."""

    def reported(self, key: str, metrics: Mapping[str, float]) -> None:
        """A trial has finished an epoch; `metrics` has its number as "epoch"."""

    def completed(self, key: str) -> None:
        """A trial has ended well."""

    def stopped(self, key: str, reason: str) -> None:
        """The scheduler has stopped a trial."""

    def failed(self, key: str, reason: str, log: str | Path) -> None:
        """A trial has failed; `log` is the file that says more."""

    def left_s(self) -> float | None:
        """The seconds that are left of the trials; None where that is not known."""


@dataclass
class _Row:
    """A trial's line of the table."""

    state: str = WAITING
    epoch: int = 0
    earlier: int = 0
    """Epochs that an earlier start has trained."""
    dice: float | None = None
    """The latest Dice on the validation set, from 0 to 1."""
    best: float | None = None
    loss: float | None = None
    """Of the last whole epoch."""
    patches_per_s: float | None = None
    """Of the last whole epoch."""
    began: float = 0.0
    """On the monotonic clock; 0 before the trial started."""
    seconds: float = 0.0
    """From the start to the last event."""


class StudyProgress:
    """A ProgressDisplay on a console. Use as a context manager.

    Args:
        console: Where the events are shown.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.rows: dict[str, _Row] = {}
        self.further, self.epochs, self.at_once, self.began = 0, 0, 1, 0.0
        self.folder: Path | None = None
        self.said = time.monotonic()
        """When the last line was shown."""
        self.live = Live(
            get_renderable=self._table, console=console, refresh_per_second=2, transient=True
        )

    def __enter__(self) -> StudyProgress:
        return self

    def __exit__(self, *error: object) -> None:
        if self.live.is_started:
            self.live.stop()

    def steps(self, label: str) -> Progress:
        """The Progress of a preparation with this name."""
        return progress_lines(self.console, label)

    def say(self, message: str) -> None:
        """Show one line."""
        self.said = time.monotonic()
        print_line(self.console, message)

    def watch(self, folder: Path) -> None:
        """The study has a folder; see ProgressDisplay."""
        self.folder = folder

    def trials(
        self, plans: Sequence[TrialPlan], epochs: int, at_once: int, further: int = 0
    ) -> None:
        """The trials begin; see ProgressDisplay."""
        self.rows, self.further = {plan.key: _Row() for plan in plans}, further
        self.epochs, self.at_once, self.began = epochs, at_once, time.monotonic()
        if self.console.is_terminal:
            self.live.start()

    def started(self, key: str) -> None:
        """A trial has started, perhaps again."""
        if key not in self.rows:
            self.rows[key], self.further = _Row(), max(self.further - 1, 0)
        row = self.rows[key]
        row.state, row.began = RUNNING, row.began or time.monotonic()

    def reported(self, key: str, metrics: Mapping[str, float]) -> None:
        """A trial has finished an epoch; `metrics` has its number as "epoch"."""
        row, epoch = self.rows[key], int(metrics["epoch"])
        if not row.epoch:
            row.earlier = epoch - 1
        row.epoch, row.seconds = epoch, time.monotonic() - row.began
        row.dice = metrics.get("val/dice_mean", row.dice)
        row.best = metrics.get("val/best_dice_mean", row.best)
        row.loss = metrics.get("train/loss", row.loss)
        row.patches_per_s = metrics.get("time/patches_per_s", row.patches_per_s)
        if row.epoch < self.epochs and time.monotonic() - self.said >= QUIET_S:
            self._line(f"{key}: epoch {row.epoch}/{self.epochs}{_measured(row)}")

    def completed(self, key: str) -> None:
        """A trial has ended well."""
        row = self._end(key, DONE)
        best = "" if row.best is None else f", best validation Dice {points(row.best)}"
        self._line(f"{key}: done in {clock(row.seconds)}{best}")

    def stopped(self, key: str, reason: str) -> None:
        """The scheduler has stopped a trial."""
        self._end(key, STOPPED)
        self._line(f"{key}: {reason}")

    def failed(self, key: str, reason: str, log: str | Path) -> None:
        """A trial has failed; `log` is the file that says more."""
        self._end(key, FAILED)
        self.say(f"{key}: failed: {reason}; log: {log}")

    def _end(self, key: str, state: str) -> _Row:
        row = self.rows[key]
        row.state, row.seconds = state, time.monotonic() - row.began
        return row

    def _line(self, text: str) -> None:
        """Without a live table, show an event and what is left."""
        if not self.console.is_terminal:
            self.say(f"[{self._over()}/{self._total()}] {text}, {self._left()} left")

    def _over(self) -> int:
        """How many trials have ended."""
        return sum(row.state in OVER for row in self.rows.values())

    def _total(self) -> int:
        return len(self.rows) + self.further

    def left_s(self) -> float | None:
        """The seconds that are left, from the mean epoch so far; None before the first one."""
        rows = dict(self.rows)  # the live page asks from a thread of its own
        epochs = sum(row.epoch - row.earlier for row in rows.values())
        missing = self.further * self.epochs
        for key, row in rows.items():
            if row.state in (WAITING, RUNNING):
                missing += self.epochs - self._trained(row, self._steps(key, row))
        if rows and not missing:
            return 0.0
        if not epochs:
            return None
        spent = sum(row.seconds for row in rows.values())
        return spent / epochs * missing / self.at_once

    def _left(self) -> str:
        left_s = self.left_s()
        return "?" if left_s is None else clock(left_s)

    def _table(self) -> RenderableType:
        gone = clock(time.monotonic() - self.began)
        title = f"{self._over()} of {self._total()} trials, {gone} gone, about {self._left()} left"
        shown = self._shown()
        return live_table(
            title,
            {key: self._cells(key, row) for key, row in shown},
            more=len(self.rows) - len(shown),
            width=self.console.width,
        )

    def _cells(self, key: str, row: _Row) -> Cells:
        """What the table shows of a trial."""
        steps = self._steps(key, row)
        epoch, rate = self._trained(row, steps), row.patches_per_s
        if steps:
            epoch = steps.epoch or epoch
            rate = steps.patches_per_s or rate
        return Cells(
            state=steps.phase if steps else row.state,
            style=STYLES[row.state],
            epoch=f"{epoch}/{self.epochs}",
            within=f"{100 * steps.done // max(1, steps.total)} %" if steps else "",
            loss="" if row.loss is None else f"{row.loss:.3f}",
            dice=_points(row.dice),
            best=_points(row.best),
            patches_per_s="" if rate is None else f"{rate:.1f}",
            time=_spent(row),
        )

    def _trained(self, row: _Row, steps: Steps | None) -> int:
        """The whole epochs of a trial, also of one that reports none, resumed after the last."""
        if row.epoch or not steps or steps.phase == "pretraining":
            return row.epoch
        return self.epochs if steps.phase == "testing" else max(0, steps.epoch - 1)

    def _steps(self, key: str, row: _Row) -> Steps | None:
        """Where a running trial is within its epoch; None where that is not known."""
        if row.state != RUNNING or self.folder is None:
            return None
        steps = read_steps(steps_file(folder_of(self.folder, key)))
        # What an earlier process has left, and an epoch that is whole, say nothing about this one.
        return steps if steps and (steps.phase in FURTHER or steps.epoch > row.epoch) else None

    def _shown(self) -> list[tuple[str, _Row]]:
        """The rows that fit, in their order: those that run, wait next, or ended last."""
        rows = list(self.rows.items())
        if len(rows) <= SHOWN_ROWS:
            return rows
        order = {RUNNING: 0, WAITING: 1}
        over = self._over()
        ranked = sorted(
            range(len(rows)), key=lambda i: (order.get(rows[i][1].state, 1), abs(i - over))
        )
        return [rows[i] for i in sorted(ranked[:SHOWN_ROWS])]


class SilentProgress:
    """A ProgressDisplay that shows nothing."""

    def steps(self, label: str) -> Progress:
        """A Progress that shows nothing."""
        return no_progress

    def _ignore(self, *event: object, **details: object) -> None:
        """Show nothing."""

    def left_s(self) -> None:
        """The seconds that are left are not known."""

    say = watch = trials = started = reported = completed = stopped = failed = _ignore


def _points(dice: float | None) -> str:
    return "-" if dice is None else points(dice)


def _spent(row: _Row) -> str:
    if not row.began:
        return ""
    return clock(time.monotonic() - row.began if row.state == RUNNING else row.seconds)


def folder_of(study: Path, key: str) -> Path:
    """The folder of the trial with a key.

    Args:
        study: The study's folder.
        key: The key of its TrialPlan.
    """
    match = KEY.fullmatch(key)
    assert match, key
    arm, seed, fold = match.groups()
    return trial_folder(study, TrialPlan(arm=arm, seed=int(seed), fold=int(fold) if fold else None))


def _measured(row: _Row) -> str:
    """The latest measurements of a trial, each after a comma."""
    parts = [f"loss {row.loss:.3f}"] if row.loss is not None else []
    if row.dice is not None and row.best is not None:
        parts.append(f"Dice {points(row.dice)} (best {points(row.best)})")
    if row.patches_per_s is not None:
        parts.append(f"{row.patches_per_s:.1f} patches/s")
    return "".join(f", {part}" for part in parts)
