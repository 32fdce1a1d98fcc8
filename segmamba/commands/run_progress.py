"""What the person at the terminal sees of one run: a bar, or a line an epoch where there is no terminal; and how the run is stopped."""

import contextlib
import signal
import time

from segmamba.errors import Stopped
from segmamba.screen import clock, print_line, progress_lines

WORKERS_AHEAD_S = (
    0.5  # how much sooner than this process its workers may get a signal that was sent to all
)


class RunProgress:
    """Watches a run as `segmamba.training.fit.Callback` says, and shows it on a rich Console. Use as a context manager."""

    def __init__(self, console):
        self._console, self._bar, self._task = console, None, None
        self._stopping, self._begun_at, self._first = None, None, None
        self._latest = {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._bar:
            self._bar.stop()

    def steps(self, label):
        """A function (done, total) that shows the progress of a preparation; silent when nothing needs to be done."""
        return progress_lines(self._console, label)

    def say(self, message):
        """One line."""
        print_line(self._console, message)

    def note(self, text):
        self.say(f"note     {text}")

    def begin(self, folder, config, device, data, source, notes):
        """All is ready; what is about to happen, before it takes hours."""
        self._config, self._per_step = (
            config.train,
            config.train.batch_size * config.train.accumulation,
        )
        self.say(
            f"data     {source}: {len(data.train)} train, {len(data.validation)} validation, {len(data.test)} test cases"
        )
        for note in notes:
            self.note(note)
        self.say(
            f"run      {folder.root}, {config.train.epochs} epochs of {config.train.steps_per_epoch} steps on {device}"
        )
        self._begun_at = time.monotonic()
        if self._console.is_terminal:
            self._bar = _bar(self._console)
            self._task = self._bar.add_task(
                "first epoch", total=config.train.steps_per_epoch, told=""
            )
            self._bar.start()

    def step(self, epoch, done):
        if self._first is None or self._first[0] != epoch:
            self._first = epoch, done, time.monotonic()
        if self._bar and done > self._first[1]:
            rate = (
                (done - self._first[1])
                * self._per_step
                / max(1e-9, time.monotonic() - self._first[2])
            )
            self._bar.update(
                self._task,
                description=f"epoch {epoch}/{self._config.epochs}",
                completed=done,
                total=self._config.steps_per_epoch,
                told=self._told({"time/patches_per_s": rate}),
            )
        self._stop_if_asked()

    def pretraining(self, epoch, done):
        if self._bar:
            self._bar.update(
                self._task,
                description=f"pretraining, epoch {epoch}",
                completed=done,
                total=self._config.steps_per_epoch,
            )
        self._stop_if_asked()

    def case(self, epoch, done):
        if self._bar:
            self._bar.update(
                self._task,
                description=f"epoch {epoch}/{self._config.epochs}, validation case {done}",
            )
        self._stop_if_asked()

    def tested(self, done):
        if self._bar:
            self._bar.update(self._task, description=f"testing, case {done}", total=None)
        self._stop_if_asked()

    def epoch(self, epoch):
        """An epoch is saved."""
        first = epoch.number if not self._latest else self._latest["first"]
        left = (
            (time.monotonic() - self._begun_at)
            / (epoch.number - first + 1)
            * (self._config.epochs - epoch.number)
        )
        self._latest = self._latest | epoch.metrics | {"first": first, "left": left}
        if not self._bar:
            self.say(f"epoch {epoch.number}/{self._config.epochs}: {self._told({})}")
        self._stop_if_asked()

    @contextlib.contextmanager
    def stoppable(self):
        """Within it Ctrl-C and SIGTERM end the run at the next step or case; a second one, or one before the run began, at once."""
        before = {
            number: signal.signal(number, self._asked) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def stop_explains_errors(self):
        """A batch system's SIGTERM reaches the loader's workers too: that they died is then no error, but the stop."""
        try:
            yield
        except RuntimeError as error:
            if "DataLoader worker" in str(error):
                time.sleep(WORKERS_AHEAD_S)
            self._stop_if_asked()
            raise

    def _asked(self, number, frame):
        if self._stopping or self._begun_at is None:
            raise Stopped(number)
        self._stopping = number

    def _stop_if_asked(self):
        if self._stopping:
            raise Stopped(self._stopping)

    def _told(self, now):
        """What is known, in words: `now` over the latest epoch's metrics."""
        m = self._latest | now
        parts = [f"loss {m['train/loss']:.3f}"] if "train/loss" in m else []
        if "val/dice_mean" in m:
            parts.append(f"Dice {m['val/dice_mean']:.3f} (best {m['val/best_dice_mean']:.3f})")
        parts += [f"{m['time/patches_per_s']:.1f} patches/s"] if "time/patches_per_s" in m else []
        parts += [f"{m['memory/gpu_peak_gib']:.1f} GiB"] if "memory/gpu_peak_gib" in m else []
        parts += [f"{clock(m['left'])} left"] if "left" in m else []
        return ", ".join(parts)


def _bar(console):
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[told]}"),
        console=console,
        transient=True,
    )
