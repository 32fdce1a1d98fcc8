"""What the terminal shows of one run, and how the run is stopped.

The progress is a bar, or a line for each epoch where there is no terminal.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from segmamba.errors import Stopped
from segmamba.orchestration.run_observer import RunObserver
from segmamba.screen import Progress, clock, points, print_line, progress_lines

if TYPE_CHECKING:
    import torch
    from rich.console import Console, RenderableType
    from rich.progress import Progress as Bar

    from segmamba.config import Config
    from segmamba.data.splits import Split
    from segmamba.training.fit import Epoch
    from segmamba.training.run_folder import RunFolder

WORKERS_AHEAD_S = 0.5
"""How much sooner than this process its workers may get a signal that was sent to all."""


class RunProgress(RunObserver):
    """Shows a run on a rich Console, and ends it when the user asks. Use as a context manager.

    Args:
        console: Where the progress is shown.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: _Bar | None = None
        self._signal: int | None = None
        """The signal that asked the run to end."""
        self._began_at: float | None = None
        self._epochs = self._steps_per_epoch = self._patches_per_step = 0
        self._validation = self._test = 0
        self._first_step: tuple[int, int, float] | None = None
        """(epoch, steps done, time) of the first step that this process reported of an epoch."""
        self._first_epoch: int | None = None
        self._metrics: dict[str, float] = {}
        self._left_s: float | None = None

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def steps(self, label: str) -> Progress:
        """Make the Progress of a preparation; it stays silent while nothing needs to be done."""
        return progress_lines(self._console, label)

    def say(self, message: str) -> None:
        """Print one line."""
        print_line(self._console, message)

    def on_note(self, text: str) -> None:
        """Print what whoever started the run should know."""
        self.say(f"note     {text}")

    def on_begin(
        self, folder: RunFolder, config: Config, device: torch.device, data: Split, source: str
    ) -> None:
        """Say what is about to happen, now that all is ready and before it takes hours.

        Args:
            folder: Where the run is kept.
            config: The run's configuration.
            device: Where it trains.
            data: Its cases.
            source: What the data set is called.
        """
        train = config.train
        self._epochs, self._steps_per_epoch = train.epochs, train.steps_per_epoch
        self._validation, self._test = len(data.validation), len(data.test)
        self._patches_per_step = train.batch_size * train.accumulation
        self.say(
            f"data     {source}: {len(data.train)} train, {len(data.validation)} validation, "
            f"{len(data.test)} test cases"
        )
        self.say(
            f"run      {folder.root}, {train.epochs} epochs of {train.steps_per_epoch} steps "
            f"on {device}"
        )
        self._began_at = time.monotonic()
        if self._console.is_terminal:
            self._bar = _Bar(self._console, self._steps_per_epoch)

    def on_step(self, epoch: int, done: int) -> None:
        """Show an epoch's optimizer steps, and how fast they are."""
        if self._first_step is None or self._first_step[0] != epoch:
            self._first_step = epoch, done, time.monotonic()
        _, first_done, first_at = self._first_step
        if self._bar and done > first_done:
            patches = (done - first_done) * self._patches_per_step
            rate = patches / max(1e-9, time.monotonic() - first_at)
            self._bar.update(
                f"epoch {epoch}/{self._epochs}, step",
                completed=done,
                total=self._steps_per_epoch,
                words=self._in_words({"time/patches_per_s": rate}),
            )
        self._stop_if_asked()

    def on_pretraining_step(self, epoch: int, done: int) -> None:
        """Show the optimizer steps of an epoch of pretraining."""
        if self._bar:
            self._bar.update(
                f"pretraining, epoch {epoch}, step", completed=done, total=self._steps_per_epoch
            )
        self._stop_if_asked()

    def on_validation_case(self, epoch: int, done: int) -> None:
        """Show how many validation cases are evaluated."""
        if self._bar:
            self._bar.update(
                f"epoch {epoch}/{self._epochs}, validation case",
                completed=done,
                total=self._validation,
            )
        self._stop_if_asked()

    def on_test_case(self, done: int) -> None:
        """Show how many test cases are evaluated."""
        if self._bar:
            # The best checkpoint, then the last: the count begins again.
            self._bar.update(
                "testing, case", completed=(done - 1) % self._test + 1, total=self._test
            )
        self._stop_if_asked()

    def on_epoch(self, epoch: Epoch) -> None:
        """Show what an epoch measured, once it is saved."""
        if self._first_epoch is None:
            self._first_epoch = epoch.number
        if self._began_at is not None:
            spent_s = time.monotonic() - self._began_at
            done = epoch.number - self._first_epoch + 1
            self._left_s = spent_s / done * (self._epochs - epoch.number)
        self._metrics |= epoch.metrics
        if not self._bar:
            self.say(f"epoch {epoch.number}/{self._epochs}: {self._in_words({})}")
        self._stop_if_asked()

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM end the run at the next step or case.

        A second signal ends it at once, and so does a first one before the run began.

        Raises:
            Stopped: A signal came.
        """
        before = {
            number: signal.signal(number, self._asked) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def stop_explains_errors(self) -> Iterator[None]:
        """Take an error of the data loader's workers for the stop, where one was asked for.

        A batch system's SIGTERM reaches the workers too, and they die of it.

        Raises:
            Stopped: A signal came.
        """
        try:
            yield
        except RuntimeError as error:
            if "DataLoader worker" in str(error):
                time.sleep(WORKERS_AHEAD_S)
            self._stop_if_asked()
            raise

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self._signal or self._began_at is None:
            raise Stopped(number)
        self._signal = number

    def _stop_if_asked(self) -> None:
        if self._signal:
            raise Stopped(self._signal)

    def _in_words(self, now: dict[str, float]) -> str:
        """Write the latest epoch's metrics, `now` taking their place where it has them."""
        metrics = self._metrics | now
        parts = [f"loss {metrics['train/loss']:.3f}"] if "train/loss" in metrics else []
        if "val/dice_mean" in metrics:
            dice, best = points(metrics["val/dice_mean"]), points(metrics["val/best_dice_mean"])
            parts.append(f"Dice {dice} (best {best})")
        if "time/patches_per_s" in metrics:
            parts.append(f"{metrics['time/patches_per_s']:.1f} patches/s")
        if "memory/gpu_peak_gib" in metrics:
            parts.append(f"{metrics['memory/gpu_peak_gib']:.1f} GiB")
        if self._left_s is not None:
            parts.append(f"{clock(self._left_s)} left")
        return ", ".join(parts)


class _Bar:
    """The progress of a run: what happens and how far it is; below, the metrics in words."""

    def __init__(self, console: Console, steps_per_epoch: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress
        from rich.text import Text

        class WithWords(RichProgress):
            """A bar with a line below it, which is wrapped between its words alone."""

            def get_renderables(self) -> Iterator[RenderableType]:
                yield self.make_tasks_table(self.tasks)
                for task in self.tasks:
                    if task.fields["words"]:
                        yield Text(task.fields["words"])

        self._bar: Bar = WithWords(
            TextColumn("{task.description}"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("first epoch", total=steps_per_epoch, words="")
        self._bar.start()

    def update(
        self,
        description: str,
        *,
        completed: int | None = None,
        total: int | None = None,
        words: str | None = None,
    ) -> None:
        """Say what happens; None leaves the completed steps, their total or the words as is."""
        fields: dict[str, Any] = {} if words is None else {"words": words}
        self._bar.update(
            self._task, description=description, completed=completed, total=total, **fields
        )

    def stop(self) -> None:
        self._bar.stop()
