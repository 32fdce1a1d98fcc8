"""What the person at the terminal sees while a study runs: one live table, or plain lines where there is no terminal."""

import time
from dataclasses import dataclass

from rich.live import Live
from rich.table import Table

from segmamba.screen import points, print_line

WAITING, RUNNING, DONE, STOPPED, FAILED = "waiting", "running", "done", "stopped", "failed"
OVER = (DONE, STOPPED, FAILED)
STYLES = {WAITING: "dim", RUNNING: "bold", DONE: "green", STOPPED: "yellow", FAILED: "red"}
SHOWN_ROWS = 24  # of the live table: what runs, then what ended last; a study of a hundred trials would scroll it away


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
        self.rows, self.further, self.epochs, self.at_once, self.began = {}, 0, 0, 1, 0.0
        self.live = Live(
            get_renderable=self._table, console=console, refresh_per_second=2, transient=True
        )

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
        print_line(self.console, message)

    def trials(self, plans, epochs, at_once, further=0):
        """The trials begin: those planned, and as many `further` ones as a search will think of."""
        self.rows, self.further = {plan.key: _Row() for plan in plans}, further
        self.epochs, self.at_once, self.began = epochs, at_once, time.monotonic()
        if self.console.is_terminal:
            self.live.start()

    @property
    def finished(self):
        """How many trials ended well."""
        return sum(row.state == DONE for row in self.rows.values())

    def started(self, key):
        if key not in self.rows:
            self.rows[key], self.further = _Row(), max(self.further - 1, 0)
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
        self._line(
            f"{key}: done in {_clock(row.seconds)}, best validation Dice {_number(row.best)}"
        )

    def stopped(self, key, reason):
        row = self.rows[key]
        row.state, row.seconds = STOPPED, time.monotonic() - row.began
        self._line(f"{key}: {reason}")

    def failed(self, key, reason, log):
        row = self.rows[key]
        row.state, row.seconds = FAILED, time.monotonic() - row.began
        self.say(f"{key}: failed: {reason}; log: {log}")

    def _line(self, text):
        """Where there is no live table, a line for each event and what is left."""
        if not self.console.is_terminal:
            self.say(
                f"[{self._over()}/{len(self.rows) + self.further}] {text}, {self._left()} left"
            )

    def _over(self):
        return sum(row.state in OVER for row in self.rows.values())

    def _left(self):
        """Time left, from the mean epoch so far."""
        epochs = sum(row.epoch for row in self.rows.values())
        missing = (
            sum(
                self.epochs - row.epoch
                for row in self.rows.values()
                if row.state in (WAITING, RUNNING)
            )
            + self.further * self.epochs
        )
        if not epochs:
            return "?"
        spent = sum(row.seconds for row in self.rows.values())
        return _clock(spent / epochs * missing / self.at_once)

    def _table(self):
        title = f"{self._over()} of {len(self.rows) + self.further} trials, {_clock(time.monotonic() - self.began)} gone, about {self._left()} left"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for name, side in (
            ("trial", "left"),
            ("state", "left"),
            ("epoch", "right"),
            ("Dice", "right"),
            ("best", "right"),
            ("time", "right"),
        ):
            table.add_column(name, justify=side)
        shown = self._shown()
        for key, row in shown:
            epoch = f"{row.epoch}/{self.epochs}"
            spent = (
                _clock(time.monotonic() - row.began if row.state == RUNNING else row.seconds)
                if row.began
                else ""
            )
            table.add_row(
                key,
                row.state,
                epoch,
                _number(row.dice),
                _number(row.best),
                spent,
                style=STYLES[row.state],
            )
        if len(shown) < len(self.rows):
            table.add_row(f"and {len(self.rows) - len(shown)} more", style="dim")
        return table

    def _shown(self):
        """The rows to show, in their order: what runs, then what waits next, then what ended last."""
        rows = list(self.rows.items())
        if len(rows) <= SHOWN_ROWS:
            return rows
        order = {RUNNING: 0, WAITING: 1}
        ranked = sorted(
            range(len(rows)), key=lambda i: (order.get(rows[i][1].state, 1), abs(i - self._over()))
        )
        return [rows[i] for i in sorted(ranked[:SHOWN_ROWS])]


class SilentProgress:
    """Takes the same events and shows nothing."""

    finished = 0

    def steps(self, label):
        return lambda done, total: None

    def _ignore(self, *event, **details):
        """Callback watches."""

    say = trials = started = reported = completed = stopped = failed = _ignore


def _number(value):
    return "-" if value is None else points(value)


def _clock(seconds):
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60}:{rest % 60:02d} min"
