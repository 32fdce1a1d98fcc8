"""The page of a study while it runs: its report, written again after every trial.

A thread writes it, so that neither Ray's loop nor a trial waits for MLflow or for a picture.
Nothing that goes wrong with the page touches the study.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segmamba.allocator import return_freed_memory
from segmamba.files import seen_from
from segmamba.redaction import redacted
from segmamba.screen import Progress, clock
from segmamba.studies.results import ENDED

if TYPE_CHECKING:
    from segmamba.orchestration.engine.progress import ProgressDisplay
    from segmamba.orchestration.tracking.study_run import StudyRun
    from segmamba.reports.report import Live
    from segmamba.studies.results import Study
    from segmamba.studies.trial_plan import TrialPlan

EVERY_S = 120.0
"""How long a page stays as it is while no trial ends."""
SETTLE_S = 2.0
"""From the end of a trial until MLflow knows of it."""
SHARE = 20.0
"""The pause after a page, in multiples of the processor's time that it took: a twentieth of a core
at most, however long a study's page takes."""
REFRESH_S = 30
"""How often a browser loads the page again."""
JOIN_S = 60.0
"""How long the end of a study waits for a page that is being written."""


class LivePage:
    """A ProgressDisplay that passes all on to another one, and has the page written.

    Use as a context manager around a study, and close it before the report is written.

    Args:
        run: The study's run, from which the page is read.
        folder: The study's folder.
        display: Shows the events.
    """

    def __init__(self, run: StudyRun, folder: Path, display: ProgressDisplay) -> None:
        self._run, self._folder, self._display = run, folder, display
        self._wake, self._over = threading.Event(), threading.Event()
        self._warned = False
        self._study: Study | None = None
        """As it was read last."""
        self._thread = threading.Thread(target=self._write_again, name="live page", daemon=True)

    def __enter__(self) -> LivePage:
        self.say(f"page     {self._folder / 'report.html'} (written again while the study runs)")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, *trace: object
    ) -> None:
        self.close()
        if error is not None and not self._thread.is_alive():
            stopped = isinstance(error, KeyboardInterrupt)
            reason = redacted(" ".join(str(error).split())) or type(error).__name__
            shown = seen_from(self._folder, reason)
            self._write(ended="Stopped" if stopped else f"Ended by an error: {shown}")

    def close(self) -> None:
        """Write no further page; wait for one that is being written."""
        self._over.set()
        self._wake.set()
        self._thread.join(JOIN_S)

    def _write_again(self) -> None:
        self._wake.wait(EVERY_S)  # a study with nothing left to run has its report at once
        self._wake.clear()
        while not self._over.is_set():
            began_s = time.thread_time()  # a busy machine makes a page late, not rare
            self._write()
            return_freed_memory()  # of thousands of trials a page takes 50 MiB and more for seconds
            rest_s = pause_s(time.thread_time() - began_s)
            self._over.wait(rest_s)
            self._wake.wait(max(0.0, EVERY_S - rest_s))
            self._wake.clear()
            self._over.wait(SETTLE_S)

    def _write(self, ended: str = "") -> None:
        """Write the page; what goes wrong is said once and stops nothing.

        Args:
            ended: Why the study does not go on; then the page is not loaded again.
        """
        from segmamba.orchestration.tracking.study_reader import read_study
        from segmamba.reports.report import write_live_page

        try:
            if not ended or self._study is None:
                self._study = read_study(self._run)
            if self._study is not None and (ended or not self._over.is_set()):
                live = live_state(self._study, self._display.left_s(), ended=ended)
                write_live_page(self._study, self._folder, live)
                self._study.known.clear()  # until the next page it would only take memory
        except Exception as error:  # whatever it is, the study is worth more than its page
            if not ended:
                self._warn(error)

    def _warn(self, error: Exception) -> None:
        """Say once why there is no page, and what that means for the study."""
        from mlflow.exceptions import MlflowException

        from segmamba.orchestration.tracking.outbox import is_away, reason_of

        if self._warned or not self._folder.is_dir():
            return
        self._warned = True
        if isinstance(error, MlflowException) and is_away(error):
            self.say(
                f"mlflow   does not answer ({reason_of(error)}); training goes on, and what MLflow "
                "misses is sent when it is back"
            )
            return
        reason = " ".join(str(error).split()) or type(error).__name__
        self.say(f"page     cannot be written ({reason}); the study goes on without it")

    def steps(self, label: str) -> Progress:
        """The Progress of a preparation with this name."""
        return self._display.steps(label)

    def say(self, message: str) -> None:
        """Show one line."""
        self._display.say(message)

    def watch(self, folder: Path) -> None:
        """The study has a folder; see ProgressDisplay."""
        self._display.watch(folder)

    def trials(
        self, plans: Sequence[TrialPlan], epochs: int, at_once: int, further: int = 0
    ) -> None:
        """The trials begin; see ProgressDisplay."""
        self._display.trials(plans, epochs, at_once, further)
        if plans or further:
            self._wake.set()

    def started(self, key: str) -> None:
        """A trial has started, perhaps again."""
        self._display.started(key)

    def reported(self, key: str, metrics: Mapping[str, float]) -> None:
        """A trial has finished an epoch."""
        self._display.reported(key, metrics)

    def completed(self, key: str) -> None:
        """A trial has ended well."""
        self._display.completed(key)
        self._wake.set()

    def stopped(self, key: str, reason: str) -> None:
        """The scheduler has stopped a trial."""
        self._display.stopped(key, reason)
        self._wake.set()

    def failed(self, key: str, reason: str, log: str | Path) -> None:
        """A trial has failed."""
        self._display.failed(key, reason, log)
        self._wake.set()

    def left_s(self) -> float | None:
        """The seconds that are left; None where that is not known."""
        return self._display.left_s()


def pause_s(took_s: float) -> float:
    """The seconds after a page in which none is written, though trials end.

    Args:
        took_s: The processor's seconds that the page took.
    """
    return max(SETTLE_S, SHARE * took_s)


def live_state(study: Study, left_s: float | None, *, ended: str = "") -> Live:
    """Say how far a study is.

    Args:
        study: As it stands.
        left_s: The seconds that are left; None where that is not known.
        ended: Why it does not go on; empty while it runs.
    """
    from segmamba.reports.report import Live

    trials = (*study.searched, *study.trials)
    over = sum(trial.status in ENDED for trial in trials)
    running = [trial.key for trial in trials if trial.status == "RUNNING"]
    now = f"Written at {time.strftime('%Y-%m-%d %H:%M:%S')}"
    counted = f"{over} of {len(trials)} trials have ended"
    if study.max_seeds and study.awaits_look:
        counted += "; further seeds follow until the claim is decided"
    if ended:
        return Live(
            state=ended,
            sentence=f"{counted}. With --resume the study goes on.",
            written=f"{now}.",
            ended=over,
            total=len(trials),
        )
    left = f"about {clock(left_s)} left" if left_s is not None else "the time left is not known yet"
    runs = f" Running: {', '.join(running)}." if running else ""
    return Live(
        state="Running",
        sentence=f"{counted}, {left}.{runs}",
        written=f"{now}. It is written again after every trial and at least every "
        f"{clock(EVERY_S)}; where the time above is much older, the study's process is gone, and "
        "--resume goes on with it. This page loads itself again until the study ends.",
        ended=over,
        total=len(trials),
        refresh_s=REFRESH_S,
    )
