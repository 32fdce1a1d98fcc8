"""What the person at the terminal sees while a study runs: one live table, or plain lines where there is no terminal."""

import time
from dataclasses import dataclass

from rich.live import Live
from rich.table import Table

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
STYLES = {WAITING: "dim", RUNNING: "bold", DONE: "green", FAILED: "red"}


@dataclass
class _Row:
    state: str = WAITING
    epoch: int = 0
    dice: float | None = None
    best: float | None = None
    began: float = 0.0
    seconds: float = 0.0


class StudyProgress:
    """Collects events of one study and shows them on a rich Console. Use as a context manager."""

    def __init__(self, console):
        self.console = console
        self.rows, self.epochs, self.at_once, self.began = {}, 0, 1, 0.0
        self.live = Live(get_renderable=self._table, console=console, refresh_per_second=2, transient=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.live.is_started:
            self.live.stop()

    def steps(self, label):
        """A function (done, total) that shows the progress of a preparation; silent when nothing needs to be done."""
        began = time.monotonic()

        def show(done, total):
            if self.console.is_terminal:
                self.console.print(f"{label}: {done}/{total}", end="\n" if done == total else "\r")
            elif done == total:
                self.console.print(f"{label}: {total} in {time.monotonic() - began:.0f} s")

        return show

    def say(self, message):
        """One line."""
        self.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def trials(self, plans, epochs, at_once):
        """The trials begin."""
        self.rows = {plan.key: _Row() for plan in plans}
        self.epochs, self.at_once, self.began = epochs, at_once, time.monotonic()
        if self.console.is_terminal:
            self.live.start()

    @property
    def finished(self):
        """How many trials ended well."""
        return sum(row.state == DONE for row in self.rows.values())

    def started(self, key):
        row = self.rows[key]
        row.state, row.began = RUNNING, row.began or time.monotonic()

    def reported(self, key, metrics):
        row = self.rows[key]
        row.epoch, row.seconds = metrics["epoch"], time.monotonic() - row.began
        row.dice = metrics.get("val/dice_mean", row.dice)
        row.best = metrics.get("val/best_dice_mean", row.best)

    def completed(self, key):
        row = self.rows[key]
        row.state, row.seconds = DONE, time.monotonic() - row.began
        self._line(f"{key}: done in {_clock(row.seconds)}, best minival Dice {_number(row.best)}")

    def failed(self, key, reason, log):
        row = self.rows[key]
        row.state, row.seconds = FAILED, time.monotonic() - row.began
        self.say(f"{key}: failed: {reason}; log: {log}")

    def _line(self, text):
        """Where there is no live table, a line for each event and what is left."""
        if not self.console.is_terminal:
            over = sum(row.state in (DONE, FAILED) for row in self.rows.values())
            self.say(f"[{over}/{len(self.rows)}] {text}, {self._left()} left")

    def _left(self):
        """Time left, from the mean epoch so far."""
        epochs = sum(row.epoch for row in self.rows.values())
        missing = sum(self.epochs - row.epoch for row in self.rows.values() if row.state in (WAITING, RUNNING))
        if not epochs:
            return "?"
        spent = sum(row.seconds for row in self.rows.values())
        return _clock(spent / epochs * missing / self.at_once)

    def _table(self):
        over = sum(row.state in (DONE, FAILED) for row in self.rows.values())
        title = f"{over} of {len(self.rows)} trials, {_clock(time.monotonic() - self.began)} gone, about {self._left()} left"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for name, side in (("trial", "left"), ("state", "left"), ("epoch", "right"), ("Dice", "right"), ("best", "right"), ("time", "right")):
            table.add_column(name, justify=side)
        for key, row in self.rows.items():
            epoch = f"{row.epoch}/{self.epochs}"
            spent = _clock(time.monotonic() - row.began if row.state == RUNNING else row.seconds) if row.began else ""
            table.add_row(key, row.state, epoch, _number(row.dice), _number(row.best), spent, style=STYLES[row.state])
        return table


class SilentProgress:
    """Takes the same events and shows nothing."""

    finished = 0

    def steps(self, label):
        return lambda done, total: None

    def _ignore(self, *event):
        """Nobody watches."""

    say = trials = started = reported = completed = failed = _ignore


def _number(value):
    return "-" if value is None else f"{value:.3f}"


def _clock(seconds):
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60}:{rest % 60:02d} min"
